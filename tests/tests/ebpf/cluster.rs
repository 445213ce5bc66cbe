//! What the real daemon watches, on a node with pods and clients.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use causeway_tests::packet_bed::Bed;
use causeway_tests::proxy_bed::Proxy;
use lb_model::Family;
use netns_lab::apiserver::{ApiServer, Resource, Store, StoreOptions, kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::Node;

/// An API server, and a folder with the files of a daemon.
pub(crate) struct Cluster {
    pub(crate) store: Store,
    _server: ApiServer,
    folder: TempDir,
}

impl Cluster {
    /// Knows the node.
    pub(crate) fn new(bed: &Bed) -> Self {
        let store = Store::new(StoreOptions::default());
        let address = |family| -> Value {
            let address = bed.node.ip(family).to_string();
            json!({"type": "InternalIP", "address": address})
        };
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-0"}, "spec": {},
            "status": {"addresses": Family::ALL.map(address)},
        });
        store.seed(Resource::Node, [node]).unwrap();
        let server = ApiServer::start(store.clone()).unwrap();
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listener = bed.node.netns.run(listen).unwrap();
        let api = server.serve(listener).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = kubeconfig(&format!("http://{api}"));
        fs::write(folder.path().join("kubeconfig"), config).unwrap();
        Self {
            store,
            _server: server,
            folder,
        }
    }

    /// Writes the configuration's file, in one go; gives the flag that names it.
    pub(crate) fn configure(&self, mode: &str) -> String {
        let file = self.folder.path().join("config.conf");
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: {mode}\n"
        );
        let fresh = self.folder.path().join("config.new");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, &file).unwrap();
        format!("--config={}", file.display())
    }

    /// The daemon with these flags besides, born with the mounts of this thread.
    pub(crate) fn start(&self, node: &Node<'_>, flags: &[&str]) -> Proxy {
        let mut command = Command::new(causeway_tests::binary("causeway-proxy"));
        command
            .arg("--kubeconfig")
            .arg(self.folder.path().join("kubeconfig"))
            .arg("--hostname-override=node-0")
            .arg("--cluster-cidr=10.244.0.0/16,fd00:244::/32")
            .args(node.cell.flags())
            .args(flags);
        Proxy::spawn(&node.bed.node.netns, command, self.folder.path()).unwrap()
    }
}
