//! What a process uses, as the kernel counts it.

use std::io;

/// What a process used up to now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessUsage {
    /// User and system time of all its threads, dead ones included, in seconds.
    pub cpu_s: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Threads.
    pub threads: u64,
}

impl ProcessUsage {
    /// Of this process.
    ///
    /// # Errors
    /// Where the kernel has no `/proc`.
    pub fn of_self() -> io::Result<Self> {
        Self::read("self")
    }

    /// Of another process.
    ///
    /// # Errors
    /// When there is none of that id, or it may not be looked at.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::read(&pid.to_string())
    }

    fn read(process: &str) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let statm = std::fs::read_to_string(format!("/proc/{process}/statm"))?;
        let open_fds = std::fs::read_dir(format!("/proc/{process}/fd"))?.count();
        parse(&stat, &statm, u64::try_from(open_fds).unwrap_or(u64::MAX))
            .ok_or_else(|| io::Error::other(format!("/proc/{process}/stat is of another form")))
    }
}

/// `proc(5)`: fields 14 and 15 of `stat` are user and system ticks, 20 the threads; the second
/// field (the name, in parentheses) may hold anything, so counting starts behind the last `)`.
fn parse(stat: &str, statm: &str, open_fds: u64) -> Option<ProcessUsage> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)?.checked_add(number(15)?)?;
    let resident_pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
    #[allow(clippy::cast_precision_loss)] // 2^53 ticks are three million years
    let cpu_s = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some(ProcessUsage {
        cpu_s,
        resident_bytes: resident_pages.checked_mul(page_bytes)?,
        open_fds,
        threads: number(20)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_its_own_use() {
        let usage = ProcessUsage::of_self().unwrap();
        assert!(usage.resident_bytes > 1 << 20, "{usage:?}");
        assert!(usage.open_fds >= 3 && usage.threads >= 1, "{usage:?}");
        assert_eq!(ProcessUsage::of(std::process::id()).unwrap().threads, usage.threads);
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 0 0 0 0 0 100 50 0 0 20 0 3 0 1 2 3";
        let usage = parse(stat, "10 4 1", 5).unwrap();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(usage.cpu_s, 150.0 / ticks);
        assert_eq!((usage.threads, usage.open_fds), (3, 5));
        assert_eq!(usage.resident_bytes, 4 * rustix::param::page_size() as u64);
        assert!(parse("nothing", "10 4", 0).is_none());
    }
}
