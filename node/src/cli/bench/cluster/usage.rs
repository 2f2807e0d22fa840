//! What processes use.

use crate::telemetry::ProcessUsage;

/// CPU seconds up to a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Used {
    /// Of all nodes together.
    pub(super) nodes: f64,
    /// Of the Redis master.
    pub(super) master: f64,
    /// Of its replicas together.
    pub(super) replicas: f64,
}

impl Used {
    /// Since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            nodes: self.nodes - before.nodes,
            master: self.master - before.master,
            replicas: self.replicas - before.replicas,
        }
    }
}

/// CPU seconds of the threads that a process has now. The sum for the whole process comes in ticks
/// of 10 ms, too coarse for thousands of sessions that hardly do anything; threads that end are
/// missing here, but those of a node stay.
pub(super) fn cpu_s(pid: u32) -> Option<f64> {
    precise(pid).or_else(|| ProcessUsage::of(pid).ok().map(|usage| usage.cpu_s))
}

/// `/proc/PID/task/TID/schedstat` begins with nanoseconds on a CPU; not every kernel has it.
fn precise(pid: u32) -> Option<f64> {
    let mut ns = 0_u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may have ended since.
        let Ok(text) = std::fs::read_to_string(task.ok()?.path().join("schedstat")) else {
            continue;
        };
        ns += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (ns > 0).then(|| super::super::stage::float(ns) / 1e9)
}

/// Resident memory of a process, in bytes.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    ProcessUsage::of(pid).ok().map(|usage| usage.resident_bytes)
}

/// The slope of the line through these points (least squares), in units of y for one of x.
pub(super) fn slope(points: &[(f64, f64)]) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // some hundred
    let count = points.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(&|point| point.0), mean(&|point| point.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - x_mean).powi(2)).sum();
    let together: f64 = points.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    Some(together / spread).filter(|slope| slope.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cpu_time_is_seen_and_grows() {
        let before = cpu_s(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while cpu_s(std::process::id()).unwrap() <= before {
            sum = (0..10_000_u64).fold(sum, u64::wrapping_add);
        }
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
        assert_eq!(cpu_s(u32::MAX), None, "no such process");
        assert_ne!(sum, 1);
    }

    #[test]
    fn a_line_has_its_slope_and_a_point_has_none() {
        assert_eq!(slope(&[(0.0, 5.0), (1.0, 8.0), (2.0, 11.0)]), Some(3.0));
        assert_eq!(slope(&[(0.0, 5.0), (10.0, 5.0)]), Some(0.0));
        assert_eq!(slope(&[(1.0, 5.0)]), None);
        assert_eq!(slope(&[]), None);
    }
}
