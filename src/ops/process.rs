//! `process_*`: what the kernel knows of this process, under the names every Prometheus client
//! library uses. Read from `/proc` at each scrape by `metrics`; where there is no `/proc`, there are
//! none.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Ticks of `/proc` in a second: Linux shows 100 to programs on every machine Herald is built for,
/// whatever the kernel counts in (`USER_HZ`).
const TICKS: f64 = 100.0;

/// See the module.
#[derive(Debug)]
pub struct Process;

/// What is read.
#[derive(Debug, Default, PartialEq)]
struct Reading {
    cpu_seconds: f64,
    /// Since 1970.
    start_seconds: f64,
    virtual_bytes: i64,
    resident_bytes: i64,
    /// `None` when it could not be counted.
    open_fds: Option<i64>,
    /// `None` when there is no limit.
    max_fds: Option<i64>,
}

impl Reading {
    fn now() -> Option<Self> {
        let text = |path| fs::read_to_string(path).ok();
        let mut reading = Self::parse(
            &text("/proc/self/stat")?,
            &text("/proc/self/status")?,
            &text("/proc/stat")?,
            &text("/proc/self/limits")?,
        )?;
        // The listing itself holds one.
        reading.open_fds =
            fs::read_dir("/proc/self/fd").ok().map(|fds| i64::try_from(fds.count()).unwrap_or(i64::MAX) - 1);
        Some(reading)
    }

    /// From the files of proc(5) of those names.
    fn parse(stat: &str, status: &str, system: &str, limits: &str) -> Option<Self> {
        // The second field is the program's name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Counted from 1 in proc(5), and two are cut off.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let line = |text: &str, start: &str| -> Option<String> {
            let line = text.lines().find_map(|line| line.strip_prefix(start))?;
            Some(line.split_whitespace().next()?.to_owned())
        };
        let booted: f64 = line(system, "btime")?.parse().ok()?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS,
            start_seconds: booted + field(22)? / TICKS,
            virtual_bytes: field(23)? as i64,
            resident_bytes: line(status, "VmRSS:")?.parse::<i64>().ok()? * 1024,
            open_fds: None,
            max_fds: line(limits, "Max open files")?.parse().ok(),
        })
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(reading) = Reading::now() else { return Ok(()) };
        let mut metric = |name, help, metric: &dyn ObjectSafe| metric.put(&mut encoder, name, help);
        metric(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds.",
            &ConstCounter::new(reading.cpu_seconds),
        )?;
        metric(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            &ConstGauge::new(reading.start_seconds),
        )?;
        for (name, help, value) in [
            ("process_virtual_memory_bytes", "Virtual memory size in bytes.", Some(reading.virtual_bytes)),
            ("process_resident_memory_bytes", "Resident memory size in bytes.", Some(reading.resident_bytes)),
            ("process_open_fds", "Number of open file descriptors.", reading.open_fds),
            ("process_max_fds", "Maximum number of open file descriptors.", reading.max_fds),
        ] {
            if let Some(value) = value {
                metric(name, help, &ConstGauge::new(value))?;
            }
        }
        Ok(())
    }
}

/// A metric of any type.
trait ObjectSafe {
    fn put(&self, encoder: &mut DescriptorEncoder, name: &str, help: &str) -> fmt::Result;
}

impl<M: EncodeMetric> ObjectSafe for M {
    fn put(&self, encoder: &mut DescriptorEncoder, name: &str, help: &str) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    #[test]
    fn files_of_proc() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 1000 4096000 500 18446744073709551615";
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 4096                 files\n";
        let read = |limits: &str| Reading::parse(stat, "Name:\ta\nVmRSS:\t     12 kB\n", "cpu 1\nbtime 100\n", limits);
        let expected = Reading {
            cpu_seconds: 3.0,
            start_seconds: 110.0,
            virtual_bytes: 4_096_000,
            resident_bytes: 12 * 1024,
            open_fds: None,
            max_fds: Some(1024),
        };
        assert_eq!(read(limits), Some(expected));
        assert_eq!(read(&limits.replace("1024", "unlimited")).expect("read").max_fds, None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process() {
        let reading = Reading::now().expect("/proc is there");
        let now = SystemClock.wall().as_second() as f64;
        // The kernel's idea of when it booted is some seconds old or new.
        assert!((-5.0..3600.0).contains(&(now - reading.start_seconds)), "{reading:?}");
        assert!(reading.resident_bytes > 1 << 20 && reading.virtual_bytes >= reading.resident_bytes, "{reading:?}");
        assert!(reading.open_fds.is_some_and(|open| open > 0), "{reading:?}");
    }
}
