//! The cost of a process, as the kernel counts it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The kernel's clock ticks per second, on every architecture of today's Linux.
const TICKS: u64 = 100;

/// A process and all of its descendants.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    pub root: u32,
}

/// The resources that processes have used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// The processor time, including that of ended processes.
    pub cpu: Duration,
    /// The sum of each process's memory, in bytes.
    pub memory: u64,
    /// The sum of each process's peak memory, in bytes.
    pub peak_memory: u64,
}

impl Tree {
    /// The memory of the root alone, in bytes, which is quickly read.
    pub fn memory_of_root(self) -> u64 {
        memory(self.root, "VmRSS:").unwrap_or_default()
    }

    /// The resources that the tree has used until now.
    pub fn used(self) -> Used {
        let mut used = Used::default();
        for process in self.processes() {
            used.cpu += cpu(process).unwrap_or_default();
            used.memory += memory(process, "VmRSS:").unwrap_or_default();
            used.peak_memory += memory(process, "VmHWM:").unwrap_or_default();
        }
        used
    }

    fn processes(self) -> Vec<u32> {
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for process in numbers {
            if let Some(parent) = stat(process).and_then(|stat| stat.get(1)?.parse().ok()) {
                children.entry(parent).or_default().push(process);
            }
        }
        let mut tree = vec![self.root];
        let mut next = 0;
        while let Some(process) = tree.get(next) {
            tree.extend(children.remove(process).unwrap_or_default());
            next += 1;
        }
        tree
    }
}

/// The fields of `/proc/PID/stat` after the name, from the state on.
fn stat(process: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// Its own user and system time, and that of its ended children.
fn cpu(process: u32) -> Option<Duration> {
    let stat = stat(process)?;
    let ticks = stat.get(11..15)?.iter().map(|field| field.parse::<u64>().unwrap_or_default());
    Some(Duration::from_millis(ticks.sum::<u64>() * 1000 / TICKS))
}

/// The bytes in a line of `/proc/PID/status`.
fn memory(process: u32, line: &str) -> Option<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"));
    let status = status.ok()?;
    let line = status.lines().find(|found| found.starts_with(line))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
