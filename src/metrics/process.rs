//! The system's figures for this process, under the names that every exporter uses. Read from
//! `/proc` when the page is made.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};

/// Reads and shows it.
#[derive(Debug)]
pub(super) struct Process;

/// The part of `/proc/self/stat` that is shown.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: i64,
    /// Seconds from the start of the machine to that of the process.
    started: f64,
    virtual_bytes: i64,
    resident_bytes: i64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let Some(stat) = stat.as_deref().and_then(Stat::parse) else { return Ok(()) };
        let mut show =
            |name, help, metric: &dyn EncodeMetricOfAnyKind| metric.show(name, help, &mut encoder);
        let cpu = ConstCounter::new(stat.cpu_seconds);
        show("process_cpu_seconds", "Processor time of all threads", &cpu)?;
        show("process_threads", "Threads", &ConstGauge::new(stat.threads))?;
        let resident = ConstGauge::new(stat.resident_bytes);
        show("process_resident_memory_bytes", "Memory that is present in RAM", &resident)?;
        let virtual_ = ConstGauge::new(stat.virtual_bytes);
        show("process_virtual_memory_bytes", "Address space", &virtual_)?;
        if let Some(boot) = boot_time() {
            let started = ConstGauge::new(boot + stat.started);
            show("process_start_time_seconds", "Unix time of the start", &started)?;
        }
        Ok(())
    }
}

/// A metric, whatever its value's type is.
trait EncodeMetricOfAnyKind {
    fn show(&self, name: &str, help: &str, encoder: &mut DescriptorEncoder) -> fmt::Result;
}

impl<M: EncodeMetric> EncodeMetricOfAnyKind for M {
    fn show(&self, name: &str, help: &str, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let encoder = encoder.encode_descriptor(name, help, None, self.metric_type())?;
        self.encode(encoder)
    }
}

impl Stat {
    /// Reads the line, whose second field may contain blanks and brackets.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of these is the third field of proc(5).
        let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
        let seconds = |ticks: i64| ticks as f64 / clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: seconds(number(14)? + number(15)?),
            threads: number(20)?,
            started: seconds(number(22)?),
            virtual_bytes: number(23)?,
            resident_bytes: number(24)?.saturating_mul(i64::try_from(page_size()).ok()?),
        })
    }
}

/// The Unix time at which the machine was started.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_changes_nothing() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 7 0 300 8192 2 18446744073709551615";
        let stat = Stat::parse(&format!("1234 (a) b ( c) {rest}")).expect("it is whole");
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!((stat.cpu_seconds, stat.started), (200.0 / ticks, 300.0 / ticks));
        assert_eq!((stat.threads, stat.virtual_bytes), (7, 8192));
        assert_eq!(stat.resident_bytes, 2 * page_size() as i64);
        assert_eq!(Stat::parse("1234 (a) S 1 2"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
