//! What is measured of requests and pushes. Handles are fetched once: the registry of metrics is
//! no place to visit twenty thousand times a second.

use std::sync::OnceLock;
use std::time::Duration;

use axum::http::Method;
use clarion_actors::Failure;
use clarion_protocol::Code;
use clarion_protocol::http::{Audience, PushAccepted};
use metrics::{Counter, Histogram};

use super::routes::ROUTES;

/// Answers that no code stands for.
const SUCCESSES: [u16; 5] = [101, 200, 201, 202, 204];
/// The label of requests that fit no route.
const UNMATCHED: &str = "unmatched";
/// Modes of a push as labels.
const MODES: [&str; 3] = ["broadcast", "unicast", "multicast"];

/// See the module.
pub(super) struct Measures {
    /// In the order of [`ROUTES`].
    routes: Vec<RouteMeasures>,
    /// For each mode: accepted, replayed, partial, then every code.
    pushes: [Vec<OnceLock<Counter>>; MODES.len()],
}

struct RouteMeasures {
    duration: OnceLock<Histogram>,
    /// In the order of [`statuses`].
    answers: Vec<OnceLock<Counter>>,
}

/// Outcomes of a push besides the codes.
const OUTCOMES: [&str; 3] = ["accepted", "replayed", "partial"];

/// Every status the API answers with.
fn statuses() -> &'static [u16] {
    static STATUSES: OnceLock<Vec<u16>> = OnceLock::new();
    STATUSES.get_or_init(|| {
        let codes = Code::ALL.iter().map(|code| code.http_status());
        let mut statuses: Vec<u16> = SUCCESSES.into_iter().chain(codes).collect();
        statuses.sort_unstable();
        statuses.dedup();
        statuses
    })
}

impl Measures {
    pub(super) fn new() -> Self {
        let route = |_| RouteMeasures {
            duration: OnceLock::new(),
            answers: statuses().iter().map(|_| OnceLock::new()).collect(),
        };
        let outcomes = || (0..OUTCOMES.len() + Code::ALL.len()).map(|_| OnceLock::new()).collect();
        Self { routes: ROUTES.iter().map(route).collect(), pushes: [(); 3].map(|()| outcomes()) }
    }

    /// A request was answered. `route` is its place in [`ROUTES`].
    pub(super) fn answered(&self, route: usize, status: u16, took: Duration) {
        let (Some(measures), Some(route)) = (self.routes.get(route), ROUTES.get(route)) else {
            return;
        };
        let duration = measures.duration.get_or_init(
            || metrics::histogram!("clarion_http_request_duration_seconds", "route" => route.path),
        );
        duration.record(took.as_secs_f64());
        if let Ok(at) = statuses().binary_search(&status) {
            let counter = || requests(route.path, route.method.as_str(), status);
            measures.answers[at].get_or_init(counter).increment(1);
        }
    }

    /// A request fitted no route, or not its methods.
    pub(super) fn unrouted(path: Option<&'static str>, method: &Method, status: u16) {
        // Methods are free text: only the usual ones become labels.
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            Method::PATCH => "PATCH",
            Method::OPTIONS => "OPTIONS",
            _ => "other",
        };
        requests(path.unwrap_or(UNMATCHED), method, status).increment(1);
    }

    /// A push was carried out, or not.
    pub(super) fn pushed(&self, mode: Mode, outcome: &Result<PushAccepted, Failure>) {
        let (at, label) = match outcome {
            Ok(accepted) if accepted.replayed => (1, OUTCOMES[1]),
            Ok(accepted) if accepted.targets.iter().any(|target| target.error.is_some()) => {
                (2, OUTCOMES[2])
            }
            Ok(_) => (0, OUTCOMES[0]),
            Err(failure) => {
                let code = Code::ALL.iter().position(|code| *code == failure.code);
                (OUTCOMES.len() + code.unwrap_or_default(), failure.code.as_str())
            }
        };
        let mode = mode as usize;
        let counter = || {
            let mode = MODES[mode];
            metrics::counter!("clarion_push_requests_total", "mode" => mode, "outcome" => label)
        };
        self.pushes[mode][at].get_or_init(counter).increment(1);
    }
}

fn requests(route: &'static str, method: &'static str, status: u16) -> Counter {
    metrics::counter!(
        "clarion_http_requests_total",
        "route" => route,
        "method" => method,
        "status" => status.to_string()
    )
}

/// How many a push is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// All.
    Broadcast,
    /// Terminals or users, by name.
    Unicast,
    /// A topic.
    Multicast,
}

impl From<&Audience> for Mode {
    fn from(audience: &Audience) -> Self {
        match audience {
            Audience::All => Self::Broadcast,
            Audience::Terminals(_) | Audience::Users(_) => Self::Unicast,
            Audience::Topic(_) => Self::Multicast,
        }
    }
}

/// Says what the metrics of this module mean.
pub(super) fn describe() {
    metrics::describe_counter!("clarion_http_requests_total", "Requests answered.");
    metrics::describe_histogram!(
        "clarion_http_request_duration_seconds",
        metrics::Unit::Seconds,
        "From the head of a request to its answer."
    );
    metrics::describe_counter!(
        "clarion_http_connection_panics_total",
        "Connections that ended with a panic of their task."
    );
    metrics::describe_counter!(
        "clarion_http_handler_panics_total",
        "Requests that were answered with `internal` because their handler panicked."
    );
    metrics::describe_counter!(
        "clarion_http_abandoned_dropped_total",
        "Requests whose client went away and that could not be finished without it."
    );
    metrics::describe_gauge!("clarion_push_links", "Push connections (WebSocket) of back-ends.");
    metrics::describe_counter!(
        "clarion_push_requests_total",
        "Pushes by mode and outcome, over HTTP and push connections: accepted, replayed, partial \
         (some targets failed), or the code of the refusal."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_every_code_has_its_counter() {
        for code in Code::ALL {
            assert!(statuses().binary_search(&code.http_status()).is_ok(), "{code}");
        }
        for status in SUCCESSES {
            assert!(statuses().binary_search(&status).is_ok(), "{status}");
        }
    }

    #[test]
    fn every_outcome_can_be_counted() {
        let measures = Measures::new();
        for &code in Code::ALL {
            let failed = Err(Failure::new(code));
            measures.pushed(Mode::Unicast, &failed);
        }
        for route in 0..=ROUTES.len() {
            measures.answered(route, 202, Duration::from_millis(1));
            measures.answered(route, 999, Duration::from_millis(1));
        }
        let used = measures.pushes[1].iter().filter(|counter| counter.get().is_some()).count();
        assert_eq!(used, Code::ALL.len(), "each code has a place of its own");
    }
}
