//! The cluster's DNS over UDP and TCP on loopback.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{Name, RecordType};
use netns_lab::apiserver::{Deletion, Resource, Store};
use netns_lab::dns::{CLUSTER_DOMAIN, ClusterDns};
use serde_json::{Value, json};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

struct Cluster {
    store: Store,
    address: SocketAddr,
    _dns: ClusterDns,
}

impl Cluster {
    fn start() -> Self {
        // An address of its own: where the UDP port was free, the TCP port is free, too.
        Self::start_at("127.53.0.1:0")
    }

    fn start_at(address: &str) -> Self {
        let store = Store::default();
        let mut dns = ClusterDns::start(store.clone(), CLUSTER_DOMAIN).unwrap();
        let udp = UdpSocket::bind(address).unwrap();
        let address = udp.local_addr().unwrap();
        dns.serve(udp, TcpListener::bind(address).unwrap()).unwrap();
        Self {
            store,
            address,
            _dns: dns,
        }
    }

    fn service(&self, name: &str, spec: Value) {
        let mut service = json!({"metadata": {"name": name}});
        service["spec"] = spec;
        self.store.create(Resource::Service, service).unwrap();
    }

    fn slice(&self, service: &str, endpoints: &Value) {
        let slice = json!({
            "metadata": {"generateName": "s-", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "redis", "port": 6380, "protocol": "TCP"}],
        });
        self.store.create(Resource::EndpointSlice, slice).unwrap();
    }

    fn exchange(&self, message: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(PATIENCE).unwrap();
        socket
            .send_to(&message.to_vec().unwrap(), self.address)
            .unwrap();
        let mut buffer = [0; 65_535];
        let length = socket.recv(&mut buffer).unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    /// The answer's code and, sorted, its records' data.
    fn ask(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let answer = self.exchange(&question(name, kind));
        assert_eq!(answer.metadata.id, 7);
        assert!(answer.metadata.authoritative);
        let mut data: Vec<String> = answer
            .answers
            .iter()
            .map(|record| record.data.to_string())
            .collect();
        data.sort();
        (answer.metadata.response_code, data)
    }

    fn assert_answers(&self, name: &str, kind: RecordType, expected: &[&str]) {
        let (code, data) = self.ask(name, kind);
        assert_eq!(
            (code, data),
            (ResponseCode::NoError, strings(expected)),
            "{name} {kind}"
        );
    }

    fn assert_no_name(&self, name: &str) {
        assert_eq!(
            self.ask(name, RecordType::A).0,
            ResponseCode::NXDomain,
            "{name}"
        );
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

#[test]
fn a_service_has_its_cluster_addresses() {
    let cluster = Cluster::start();
    let spec = json!({"ports": [{"port": 6379, "name": "redis"}],
                      "ipFamilyPolicy": "PreferDualStack"});
    cluster.service("redis", spec);
    let name = "redis.default.svc.cluster.local.";
    cluster.assert_answers(name, RecordType::A, &["10.96.1.0"]);
    cluster.assert_answers(
        "Redis.Default.svc.CLUSTER.local.",
        RecordType::A,
        &["10.96.1.0"],
    );
    cluster.assert_answers(name, RecordType::AAAA, &["fd00:10:96::100"]);
    cluster.assert_answers(name, RecordType::TXT, &[]);
    let port = "_redis._tcp.redis.default.svc.cluster.local.";
    let target = "0 100 6379 redis.default.svc.cluster.local.";
    cluster.assert_answers(port, RecordType::SRV, &[target]);
    cluster.assert_answers("0.1.96.10.in-addr.arpa.", RecordType::PTR, &[name]);

    cluster
        .store
        .delete(Resource::Service, "default", "redis", &Deletion::default())
        .unwrap();
    cluster.assert_no_name(name);
}

#[test]
fn what_does_not_exist_is_nxdomain_with_an_authority() {
    let cluster = Cluster::start();
    for name in [
        "redis.default.svc.cluster.local.",
        "redis.none.svc.cluster.local.",
        "none.svc.cluster.local.",
        "odd.cluster.local.",
        "_x._tcp.redis.default.svc.cluster.local.",
    ] {
        let answer = cluster.exchange(&question(name, RecordType::A));
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::NXDomain,
            "{name}"
        );
        assert_eq!(
            answer.authorities[0].record_type(),
            RecordType::SOA,
            "{name}"
        );
    }
    cluster.assert_no_name("example.org.");
    cluster.assert_no_name("1.0.0.10.in-addr.arpa.");
    for empty in [
        "cluster.local.",
        "svc.cluster.local.",
        "default.svc.cluster.local.",
    ] {
        cluster.assert_answers(empty, RecordType::A, &[]);
    }
}

#[test]
fn a_headless_service_has_the_addresses_of_its_ready_endpoints() {
    let cluster = Cluster::start();
    cluster.service(
        "redis",
        json!({"clusterIP": "None", "ports": [{"port": 6379}]}),
    );
    let name = "redis.default.svc.cluster.local.";
    cluster.assert_no_name(name);
    cluster.slice(
        "redis",
        &json!([
            {"addresses": ["10.1.0.4"], "conditions": {"ready": true}, "hostname": "redis-0"},
            {"addresses": ["10.1.0.5"]},
            {"addresses": ["10.1.0.6"], "conditions": {"ready": false}},
        ]),
    );
    cluster.assert_answers(name, RecordType::A, &["10.1.0.4", "10.1.0.5"]);
    cluster.assert_answers(name, RecordType::AAAA, &[]);
    cluster.assert_answers(&format!("redis-0.{name}"), RecordType::A, &["10.1.0.4"]);
    cluster.assert_answers(&format!("10-1-0-5.{name}"), RecordType::A, &["10.1.0.5"]);
    cluster.assert_no_name(&format!("10-1-0-6.{name}"));
    let targets = [
        "0 100 6380 10-1-0-5.redis.default.svc.cluster.local.",
        "0 100 6380 redis-0.redis.default.svc.cluster.local.",
    ];
    cluster.assert_answers(&format!("_redis._tcp.{name}"), RecordType::SRV, &targets);
}

#[test]
fn external_names_and_pod_addresses() {
    let cluster = Cluster::start();
    cluster.service(
        "db",
        json!({"type": "ExternalName", "externalName": "db.example.org"}),
    );
    let name = "db.default.svc.cluster.local.";
    cluster.assert_answers(name, RecordType::A, &["db.example.org."]);
    let pod = "10-1-0-4.default.pod.cluster.local.";
    cluster.assert_answers(pod, RecordType::A, &["10.1.0.4"]);
    cluster.assert_no_name("10-1-0-4.none.pod.cluster.local.");
}

#[test]
fn a_long_answer_is_cut_over_udp_and_whole_over_tcp() {
    let cluster = Cluster::start();
    cluster.service("many", json!({"clusterIP": "None", "ports": [{"port": 1}]}));
    let endpoints: Vec<Value> = (1..=60)
        .map(|host| json!({"addresses": [format!("10.1.0.{host}")]}))
        .collect();
    cluster.slice("many", &json!(endpoints));
    let mut asked = question("many.default.svc.cluster.local.", RecordType::A);
    assert!(
        cluster.exchange(&asked).metadata.truncation,
        "512 bytes hold no 60 addresses"
    );

    let mut stream = TcpStream::connect(cluster.address).unwrap();
    stream.set_read_timeout(PATIENCE).unwrap();
    let bytes = asked.to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap();
    stream
        .write_all(&[&length.to_be_bytes()[..], &bytes].concat())
        .unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 60);

    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    let answer = cluster.exchange(&asked);
    assert_eq!(
        (answer.answers.len(), answer.metadata.truncation),
        (60, false)
    );
}

#[test]
fn other_operations_and_odd_objects_are_no_server_failure() {
    let cluster = Cluster::start();
    let mut update = question("redis.default.svc.cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(
        cluster.exchange(&update).metadata.response_code,
        ResponseCode::NotImp
    );
    let odd = json!({"metadata": {"name": "odd"}, "spec": {"clusterIPs": 7}});
    cluster.store.seed(Resource::Service, [odd]).unwrap();
    cluster.assert_no_name("odd.default.svc.cluster.local.");
}

#[test]
fn a_stopped_server_frees_its_sockets() {
    let Cluster {
        address, _dns: dns, ..
    } = Cluster::start_at("127.53.0.2:0");
    drop(dns);
    UdpSocket::bind(address).unwrap();
    TcpListener::bind(address).unwrap();
    assert!(ClusterDns::start(Store::default(), "bad..name").is_err());
}
