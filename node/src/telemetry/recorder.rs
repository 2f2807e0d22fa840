//! The recorder behind the `metrics` facade, and how it is read.

use std::fmt::Write;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::ProcessUsage;

/// Histograms keep what they were given until somebody sorts it into buckets: this often.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// From 50 microseconds (an append to memory) to 30 seconds (the longest time-outs).
const SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0,
];
const BYTES: [f64; 10] = [
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];
const ITEMS: [f64; 13] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];

/// Why metrics cannot be recorded.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be recorded: {0}")]
pub struct MetricsError(String);

/// The metrics of this process. Cheap to clone; one recorder serves the whole process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Starts to record, unless this process does already.
    ///
    /// # Errors
    /// When another recorder is in place.
    pub fn install() -> Result<Self, MetricsError> {
        static INSTALLED: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
        let installed = INSTALLED.get_or_init(|| {
            let handle = builder()
                .map_err(|error| error.to_string())?
                .install_recorder()
                .map_err(|error| error.to_string())?;
            describe();
            Ok(handle)
        });
        match installed {
            Ok(handle) => Ok(Self { handle: handle.clone() }),
            Err(error) => Err(MetricsError(error.clone())),
        }
    }

    /// Everything recorded, and what the process uses now, as Prometheus reads it.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        if let Ok(usage) = ProcessUsage::of_self() {
            render_process(&mut text, &usage);
        }
        text
    }

    /// Sorts what histograms were given into their buckets, for ever. Without it their memory
    /// grows between two scrapes.
    pub async fn keep_up(self) {
        let mut ticks = tokio::time::interval(UPKEEP_EVERY);
        loop {
            ticks.tick().await;
            self.handle.run_upkeep();
        }
    }
}

fn builder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    let suffix = |text: &str| Matcher::Suffix(text.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(suffix("_seconds"), &SECONDS)?
        .set_buckets_for_metric(suffix("_bytes"), &BYTES)?
        .set_buckets_for_metric(suffix("_items"), &ITEMS)
}

fn describe() {
    let features = if cfg!(feature = "fault-hooks") { "fault-hooks" } else { "" };
    metrics::describe_gauge!("clarion_build_info", "Version and features of this build, always 1.");
    metrics::gauge!(
        "clarion_build_info",
        "version" => env!("CARGO_PKG_VERSION"),
        "features" => features
    )
    .set(1.0);
}

/// By hand: the facade has no counter of fractions, and none of these is worth a timer.
fn render_process(text: &mut String, usage: &ProcessUsage) {
    let rows: [(&str, &str, &str, f64); 4] = [
        (
            "clarion_process_cpu_seconds_total",
            "counter",
            "User and system time of this process.",
            usage.cpu_s,
        ),
        (
            "clarion_process_resident_bytes",
            "gauge",
            "Resident memory of this process.",
            lossy(usage.resident_bytes),
        ),
        (
            "clarion_process_open_fds",
            "gauge",
            "Open file descriptors of this process.",
            lossy(usage.open_fds),
        ),
        ("clarion_process_threads", "gauge", "Threads of this process.", lossy(usage.threads)),
    ];
    for (name, kind, help, value) in rows {
        // Writing to a String cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n");
    }
}

#[allow(clippy::cast_precision_loss)] // a gauge is a double; these stay far below 2^53
fn lossy(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_have_buckets_and_the_process_is_shown() {
        let metrics = Metrics::install().unwrap();
        metrics::histogram!("clarion_telemetry_test_seconds").record(0.003);
        metrics::histogram!("clarion_telemetry_test_items").record(3.0);
        let text = Metrics::install().unwrap().render();
        for line in [
            "clarion_telemetry_test_seconds_bucket{le=\"0.0025\"} 0",
            "clarion_telemetry_test_seconds_bucket{le=\"0.005\"} 1",
            "clarion_telemetry_test_items_bucket{le=\"4\"} 1",
            "# TYPE clarion_process_cpu_seconds_total counter",
            "clarion_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(metrics.render().contains("clarion_process_resident_bytes"));
    }
}
