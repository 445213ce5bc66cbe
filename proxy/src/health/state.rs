//! What /healthz and /livez say (`pkg/proxy/healthcheck/proxy_health.go` of Kubernetes 1.36,
//! KEP-3836).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use lb_model::Family;
use serde::Serialize;

use crate::metrics::family_name;

/// The state behind the answers. Healthy: no change has been waiting for the kernel longer than
/// the timeout.
#[derive(Debug)]
pub struct Health {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// A change that waits longer than this is a fault: 2 × syncPeriod.
    timeout: Duration,
    families: BTreeMap<Family, Programmed>,
    /// Until the Node is known, it counts as eligible: a starting proxy takes no node away.
    node_eligible: bool,
}

#[derive(Debug, Default)]
struct Programmed {
    last_updated: Option<Timestamp>,
    oldest_pending: Option<Instant>,
}

/// The JSON of an answer; fields and their order are kube-proxy's.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyHealth {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyHealth>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: String,
    healthy: bool,
}

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Health {
    /// Healthy until a change waits longer than `timeout`.
    pub fn new(timeout: Duration) -> Self {
        let inner = Inner {
            timeout,
            families: BTreeMap::new(),
            node_eligible: true,
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// Healthy until a change waits longer than `timeout`, from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.lock().timeout = timeout;
    }

    /// A change waits for `family`.
    pub fn queued(&self, family: Family) {
        let mut inner = self.lock();
        let pending = &mut inner.families.entry(family).or_default().oldest_pending;
        pending.get_or_insert_with(Instant::now);
    }

    /// Everything about `family` is in the kernel.
    pub fn updated(&self, family: Family) {
        let now = Programmed {
            last_updated: Some(Timestamp::now()),
            oldest_pending: None,
        };
        self.lock().families.insert(family, now);
    }

    /// When everything about each family was last in the kernel.
    pub fn last_updated(&self) -> BTreeMap<Family, Timestamp> {
        let inner = self.lock();
        let programmed = inner.families.iter();
        programmed
            .filter_map(|(family, state)| Some((*family, state.last_updated?)))
            .collect()
    }

    /// Whether load balancers should use this node: it exists, and nobody is deleting it.
    pub fn set_node_eligible(&self, eligible: bool) {
        self.lock().node_eligible = eligible;
    }

    /// The answer of /healthz, and whether it is 200.
    pub fn healthz(&self) -> (ProxyHealth, bool) {
        let eligible = self.lock().node_eligible;
        let mut answer = self.proxy_health();
        answer.node_eligible = Some(eligible);
        let good = answer.healthy && eligible;
        (answer.recent_if(good), good)
    }

    /// The answer of /livez, and whether it is 200.
    pub fn livez(&self) -> (ProxyHealth, bool) {
        let answer = self.proxy_health();
        let good = answer.healthy;
        (answer.recent_if(good), good)
    }

    fn proxy_health(&self) -> ProxyHealth {
        let inner = self.lock();
        // A family counts from its first success on, as in kube-proxy.
        let programmed = || {
            inner
                .families
                .iter()
                .filter_map(|(family, state)| Some((family, state, state.last_updated?)))
        };
        let status: BTreeMap<_, _> = programmed()
            .map(|(family, state, last_updated)| {
                let late = state
                    .oldest_pending
                    .is_some_and(|at| at.elapsed() >= inner.timeout);
                let health = FamilyHealth {
                    last_updated: last_updated.to_string(),
                    healthy: !late,
                };
                (family_name(*family), health)
            })
            .collect();
        let latest = programmed().map(|(_, _, at)| at).max();
        ProxyHealth {
            last_updated: latest.map_or_else(|| NEVER.to_owned(), |at| at.to_string()),
            current_time: Timestamp::now().to_string(),
            node_eligible: None,
            healthy: status.values().all(|family| family.healthy),
            status,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProxyHealth {
    /// Health checkers of old read `lastUpdated` as "alive": a good answer says now.
    fn recent_if(mut self, good: bool) -> Self {
        if good {
            self.last_updated.clone_from(&self.current_time);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(answer: &ProxyHealth) -> serde_json::Value {
        serde_json::to_value(answer).unwrap()
    }

    #[test]
    fn good_before_the_first_pass() {
        let (answer, good) = Health::new(Duration::from_secs(60)).healthz();
        assert!(good);
        let text = serde_json::to_string(&answer).unwrap();
        assert!(text.starts_with("{\"lastUpdated\":\""), "{text}");
        assert!(
            text.ends_with("\"nodeEligible\":true,\"healthy\":true}"),
            "{text}"
        );
        assert_eq!(json(&answer)["lastUpdated"], json(&answer)["currentTime"]);
    }

    #[test]
    fn a_change_that_waits_too_long_is_a_fault_of_its_family() {
        let health = Health::new(Duration::ZERO);
        health.updated(Family::V4);
        health.updated(Family::V6);
        assert!(health.livez().1);
        health.queued(Family::V4);
        let (answer, good) = health.livez();
        assert!(!good);
        let answer = json(&answer);
        assert_eq!(answer["healthy"], false);
        assert_eq!(answer["status"]["IPv4"]["healthy"], false);
        assert_eq!(answer["status"]["IPv6"]["healthy"], true);
        assert_eq!(answer.get("nodeEligible"), None);
        health.updated(Family::V4);
        assert!(health.livez().1);
    }

    #[test]
    fn a_node_that_leaves_fails_healthz_and_not_livez() {
        let health = Health::new(Duration::from_secs(60));
        health.updated(Family::V4);
        health.set_node_eligible(false);
        let (answer, good) = health.healthz();
        assert!(!good);
        assert_eq!(json(&answer)["nodeEligible"], false);
        assert_eq!(json(&answer)["healthy"], true);
        assert!(health.livez().1);
    }
}
