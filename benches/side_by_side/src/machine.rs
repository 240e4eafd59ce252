//! The machine and the versions that were measured.

use std::fs;
use std::process::Command;

/// Describes the machine and the versions in a sentence.
pub fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let processor = value_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory = value_of("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes / 1024 / 1024);
    let versions = [
        first_line("uname", &["-sr"]),
        first_line("rustc", &["--version"]),
        first_line("/usr/sbin/mosquitto", &["-h"]),
        first_line("sh", &["-c", "/usr/lib/postgresql/*/bin/postgres --version"]),
    ];
    let versions: Vec<_> = versions.into_iter().flatten().collect();
    format!("{cores} cores ({processor}) with {memory} GB of memory; {}", versions.join(", "))
}

fn value_of(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let out = Command::new(program).args(arguments).output().ok()?;
    Some(String::from_utf8_lossy(&out.stdout).lines().next()?.trim().to_owned())
}
