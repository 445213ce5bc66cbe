//! What is asked of the API server, under the names that Kubernetes' own clients have for it
//! (`component-base/metrics/prometheus/restclient` of Kubernetes 1.36).

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Labels `code`, `host` and `method`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAnswer {
    code: String,
    host: String,
    method: String,
}

/// Labels `host` and `verb`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVerb {
    host: String,
    verb: String,
}

/// The bounds of the durations, in seconds.
const BOUNDS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];

/// `rest_client_requests_total` and `rest_client_request_duration_seconds`.
#[derive(Clone, Debug)]
pub struct ApiRequests {
    answers: Family<ByAnswer, Counter>,
    durations: Family<ByVerb, Histogram, fn() -> Histogram>,
}

impl Default for ApiRequests {
    fn default() -> Self {
        Self {
            answers: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
        }
    }
}

impl ApiRequests {
    /// Counts a request of `method` to `host` (with its port). `status`: of the answer, if there is
    /// one; `took`: until its headers.
    pub fn count(&self, host: &str, method: &str, status: Option<u16>, took: Duration) {
        let code = status.map_or_else(|| "<error>".to_owned(), |status| status.to_string());
        let answer = ByAnswer {
            code,
            host: host.to_owned(),
            method: method.to_owned(),
        };
        self.answers.get_or_create(&answer).inc();
        let verb = ByVerb {
            host: host.to_owned(),
            verb: method.to_owned(),
        };
        self.durations
            .get_or_create(&verb)
            .observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "rest_client_requests",
            "Requests to the API server by status, or <error> without an answer",
            self.answers.clone(),
        );
        r.register(
            "rest_client_request_duration_seconds",
            "From a request to the API server to the beginning of its answer, in seconds",
            self.durations.clone(),
        );
    }
}
