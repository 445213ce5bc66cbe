//! `spec.healthCheckNodePort`: on it every node says whether it has endpoints of the Service, so
//! that a load balancer sends nothing to those without
//! (`pkg/proxy/healthcheck/service_health.go` of Kubernetes 1.36).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hyper::header::HeaderValue;
use lb_model::{Family, HealthCheck, ServiceName};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::pages::{Pages, page, status};
use super::server::{BIND_AGAIN, accept, listen_in_one_family};
use super::state::Health;
use super::status::Status;
use crate::metrics::Metrics;

/// What is to be answered, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckPorts {
    /// The health checks by Service and family.
    pub checks: BTreeMap<(ServiceName, Family), HealthCheck>,
    /// Where to listen.
    pub addresses: BTreeSet<IpAddr>,
}

impl CheckPorts {
    /// A server for each check on each address of its family.
    fn servers(&self) -> BTreeSet<Server> {
        let servers = self.checks.iter().flat_map(|((service, family), check)| {
            let own = self
                .addresses
                .iter()
                .filter(|ip| Family::of(**ip) == *family);
            own.map(|ip| Server {
                service: service.clone(),
                address: SocketAddr::new(*ip, check.port.get()),
            })
        });
        servers.collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Server {
    service: ServiceName,
    address: SocketAddr,
}

/// Who is told how the servers are doing.
#[derive(Clone, Debug)]
pub struct Told {
    /// Whether the proxy is healthy is part of the answer.
    pub health: Arc<Health>,
    /// Learns what cannot be bound.
    pub status: Arc<Status>,
    /// Counts it.
    pub metrics: Metrics,
}

/// Opens and closes servers as `wanted` changes, until its sender is gone.
pub async fn serve_check_ports(mut wanted: watch::Receiver<CheckPorts>, told: Told) {
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<Server, AbortHandle> = BTreeMap::new();
    loop {
        let servers = wanted.borrow_and_update().servers();
        running.retain(|server, task| {
            let stays = servers.contains(server);
            if !stays {
                task.abort();
                told.not_served(server, None);
            }
            stays
        });
        // What was aborted has let go of its port before anybody else asks for it.
        while tasks.len() > running.len() {
            drop(tasks.join_next().await);
        }
        for server in servers {
            running.entry(server).or_insert_with_key(|server| {
                tasks.spawn(run(server.clone(), wanted.clone(), told.clone()))
            });
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

async fn run(server: Server, wanted: watch::Receiver<CheckPorts>, told: Told) {
    let listener = bind(&server, &told).await;
    told.not_served(&server, None);
    let Server { service, address } = server;
    let name = service.to_string();
    let key = (service, Family::of(address.ip()));
    let pages: Pages = Arc::new(move |_path, _headers| {
        let endpoints = wanted.borrow().checks.get(&key)?.local_endpoints;
        let healthy = told.health.livez().1;
        let (namespace, name) = name.split_once('/').unwrap_or_default();
        let service = json!({ "namespace": namespace, "name": name });
        let body = json!({
            "service": service,
            "localEndpoints": endpoints,
            "serviceProxyHealthy": healthy,
        });
        let mut response = page("application/json", body.to_string());
        *response.status_mut() = status(endpoints > 0 && healthy);
        let weight = HeaderValue::from(endpoints);
        response
            .headers_mut()
            .insert("x-load-balancing-endpoint-weight", weight);
        Some(response)
    });
    match accept(&listener, &pages).await {}
}

async fn bind(server: &Server, told: &Told) -> TcpListener {
    let mut said = false;
    loop {
        match listen_in_one_family(server.address) {
            Ok(listener) => return listener,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        service = %server.service,
                        address = %server.address,
                        %error,
                        "the Service's health-check node port cannot be served; trying again"
                    );
                }
                told.not_served(server, Some(error.to_string()));
                tokio::time::sleep(BIND_AGAIN).await;
            }
        }
    }
}

impl Told {
    fn not_served(&self, server: &Server, why: Option<String>) {
        let count = self.status.set_deaf(&server.service, server.address, why);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.check_ports_not_served.set(count);
    }
}
