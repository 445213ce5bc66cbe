//! A node with a real control plane, and a proxy that is who the manifests say.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use causeway_tests::binary;
use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, node, service, slice};
use causeway_tests::proxy_bed::{Bed, NODE_IP, Proxy, answer, sure_answer, wait_for, wait_until};
use netns_lab::apiserver::Resource;
use netns_lab::client::{Access, Client, Method};
use netns_lab::control_plane::{ControlPlane, PORT, Place, Programs, VARIABLE, account};
use serde_json::Value;

/// For what takes milliseconds on a machine of one's own; the control plane needs most of this one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Every pass and every list is logged.
const VERBOSE: [&str; 1] = ["-v=4"];

/// The folder that the variable names.
pub(crate) fn assets() -> PathBuf {
    let folder = std::env::var_os(VARIABLE);
    folder.map(PathBuf::from).unwrap()
}

/// The node and its control plane; all gone when dropped.
pub(crate) struct Site {
    pub(crate) plane: ControlPlane,
    pub(crate) client: Client,
    pub(crate) bed: Bed,
}

impl Site {
    /// With one API server on the node's address, which is given these flags as well.
    pub(crate) fn new(flags: &[&str]) -> Self {
        Self::listening((NODE_IP, PORT).into(), flags)
    }

    /// With the first API server on this address.
    pub(crate) fn listening(address: SocketAddr, flags: &[&str]) -> Self {
        let mut bed = Bed::new().unwrap();
        bed.stop_server();
        let place = Place {
            netns: &bed.netns,
            address: NODE_IP.into(),
            folder: bed.folder().join("control-plane"),
        };
        let programs = Programs::of_folder(&assets()).unwrap();
        let plane = ControlPlane::start(&programs, &place, address, flags).unwrap();
        let access = plane.access(0).unwrap();
        let site = Self {
            client: Client::to(access.clone()).unwrap(),
            plane,
            bed,
        };
        site.apply(&node());
        site.on_node(account::create).unwrap();
        site.write_token(None);
        site.write_kubeconfig(&access);
        site
    }

    /// Asks the API server, from inside the namespace.
    pub(crate) fn on_node<T: Send>(&self, ask: impl FnOnce(&Client) -> T + Send) -> T {
        self.bed.netns.run(|| ask(&self.client)).unwrap()
    }

    pub(crate) fn apply(&self, object: &Value) {
        self.on_node(|client| client.apply(object)).unwrap();
    }

    /// After its storage was away, it takes a moment until the API server has it again.
    pub(crate) fn wait_until_it_takes_changes(&self) {
        wait_until("a change taken", PATIENCE, || {
            self.on_node(|client| client.apply(&node())).is_ok()
        })
        .unwrap();
    }

    /// As [`Self::apply`], for a Service that isn't there yet: one question less.
    pub(crate) fn create(&self, service: &Value) {
        let all = "/api/v1/namespaces/default/services";
        let asked = self.on_node(|client| client.request(Method::POST, all, Some(service)));
        let (status, answer) = asked.unwrap();
        assert!(status.is_success(), "{answer}");
    }

    /// From now on the objects go through this API server.
    pub(crate) fn speak_to(&mut self, number: usize) {
        self.client = Client::to(self.plane.access(number).unwrap()).unwrap();
    }

    /// A new token for the proxy, where it looks for one.
    pub(crate) fn write_token(&self, bound: Option<&Value>) {
        let hour = Duration::from_secs(3600);
        let token = self.on_node(|client| account::token(client, hour, bound));
        std::fs::write(self.token_file(), token.unwrap()).unwrap();
    }

    fn token_file(&self) -> PathBuf {
        self.bed.folder().join("token")
    }

    fn write_kubeconfig(&self, access: &Access) {
        let kubeconfig = access.kubeconfig_with_token_file(&self.token_file());
        std::fs::write(self.kubeconfig(), kubeconfig).unwrap();
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.bed.folder().join("kubeconfig")
    }

    /// The proxy with its account's token, saying all it may.
    pub(crate) fn proxy(&self) -> Proxy {
        self.bed.proxy(&VERBOSE).unwrap()
    }

    /// The same, to which names are what this `/etc/hosts` says.
    pub(crate) fn proxy_with_hosts(&self, hosts: &str) -> Proxy {
        let folder = self.bed.folder();
        std::fs::write(folder.join("hosts"), hosts).unwrap();
        symlink(binary("causeway-proxy"), folder.join("causeway-proxy")).unwrap();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = here.join("tests/control_plane/with-hosts.sh");
        self.bed.program(&program, &VERBOSE).unwrap()
    }

    /// Stores Service number `index`, called `name`, with `endpoints` endpoints that answer with
    /// `port`; gives where it is reached.
    pub(crate) fn put(&self, name: &str, index: usize, endpoints: usize, port: u16) -> SocketAddr {
        let ip = cluster_ip(index);
        let ips = (0..endpoints).map(|number| endpoint_ip(index, number, 10));
        self.apply(&service(name, ip));
        self.apply(&slice(name, ips, port));
        (IpAddr::from(ip), 80).into()
    }

    pub(crate) fn delete_service(&self, name: &str) {
        self.on_node(|client| client.delete(Resource::Service, "default", name))
            .unwrap();
    }

    /// Waits until `target` answers with `port`; what the proxy said is told if it does not.
    pub(crate) fn wait_for(&self, proxy: &Proxy, target: SocketAddr, port: u16) {
        let answered = wait_for(&self.bed.netns, target, port, PATIENCE);
        answered.unwrap_or_else(|error| panic!("{error:#}; the proxy: {}", proxy.log().unwrap()));
    }

    /// Whether nothing answers at `target`.
    pub(crate) fn is_silent(&self, target: SocketAddr) -> bool {
        self.bed.netns.run(|| answer(target)).unwrap().is_none()
    }

    /// Every failed try of these targets within `time`.
    pub(crate) fn failures(&self, targets: &[SocketAddr], time: Duration) -> usize {
        let tries = || {
            let start = Instant::now();
            let mut failed = 0;
            while start.elapsed() < time {
                let silent = targets
                    .iter()
                    .filter(|target| sure_answer(**target).is_none());
                failed += silent.count();
                std::thread::sleep(Duration::from_millis(5));
            }
            failed
        };
        self.bed.netns.run(tries).unwrap()
    }
}
