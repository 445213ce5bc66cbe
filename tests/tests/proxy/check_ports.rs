//! What a load balancer is told on `healthCheckNodePort`.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, NODE_IP, NODE_NAME, PORTS, get, wait_until};
use netns_lab::apiserver::{Deletion, Resource};
use serde_json::{Value, json};

use super::PATIENCE;

fn balanced(name: &str, index: usize, port: u16) -> Value {
    let mut service = service(name, cluster_ip(index));
    service["spec"]["type"] = json!("LoadBalancer");
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    service["spec"]["healthCheckNodePort"] = json!(port);
    service["spec"]["ports"][0]["nodePort"] = json!(30_000 + index);
    service
}

/// Endpoints of Service `web`, of which `local` are on this node.
fn endpoints(bed: &Bed, local: usize) {
    let mut slice = slice("web", (0..3).map(|n| endpoint_ip(0, n, 10)), PORTS[0]);
    for endpoint in slice["endpoints"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .take(local)
    {
        endpoint["nodeName"] = json!(NODE_NAME);
    }
    bed.store.seed(Resource::EndpointSlice, [slice]).unwrap();
}

fn at(port: u16) -> SocketAddr {
    (NODE_IP, port).into()
}

#[test]
fn it_is_told_how_many_endpoints_are_here_for_as_long_as_the_service_wants() {
    let bed = Bed::new().unwrap();
    bed.store
        .seed(Resource::Service, [balanced("web", 0, 32_000)])
        .unwrap();
    endpoints(&bed, 2);
    let _proxy = bed.proxy(&[]).unwrap();
    let answers = |port: u16, status: &str| {
        get(&bed.netns, at(port), "/any/path").is_ok_and(|answer| answer.0.contains(status))
    };
    wait_until("200", PATIENCE, || answers(32_000, "200")).unwrap();
    let (_, headers, body) = get(&bed.netns, at(32_000), "/").unwrap();
    assert!(
        headers.contains("x-load-balancing-endpoint-weight: 2"),
        "{headers}"
    );
    assert!(
        headers.contains("content-type: application/json"),
        "{headers}"
    );
    let body: Value = serde_json::from_str(&body).unwrap();
    let expected = json!({
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": true,
    });
    assert_eq!(body, expected);

    endpoints(&bed, 0);
    wait_until("503 without local endpoints", PATIENCE, || {
        answers(32_000, "503")
    })
    .unwrap();
    bed.store
        .seed(Resource::Service, [balanced("web", 0, 32_001)])
        .unwrap();
    wait_until("the other port", PATIENCE, || answers(32_001, "503")).unwrap();
    wait_until("end of the port before", PATIENCE, || {
        get(&bed.netns, at(32_000), "/").is_err()
    })
    .unwrap();
    let gone = Deletion::now();
    bed.store
        .delete(Resource::Service, "default", "web", &gone)
        .unwrap();
    wait_until("end of the server", PATIENCE, || {
        get(&bed.netns, at(32_001), "/").is_err()
    })
    .unwrap();
}

#[test]
fn a_port_that_is_taken_is_named_and_tried_again() {
    let bed = Bed::new().unwrap();
    let taken = bed
        .netns
        .run(|| TcpListener::bind(at(32_000)))
        .unwrap()
        .unwrap();
    let services = [balanced("web", 0, 32_000), balanced("other", 1, 32_001)];
    bed.store.seed(Resource::Service, services).unwrap();
    endpoints(&bed, 1);
    let proxy = bed.proxy(&[]).unwrap();
    let metrics = ([127, 0, 0, 1], 10249).into();
    let shows = |path: &str, text: &str| {
        get(&bed.netns, metrics, path).is_ok_and(|answer| answer.2.contains(text))
    };
    let line = "  Service default/web 172.30.0.1:32000: Address already in use";
    wait_until("line in /statusz", PATIENCE, || shows("/statusz", line)).unwrap();
    assert!(shows("/metrics", "causeway_check_ports_not_served 1"));
    let log = proxy.log().unwrap();
    assert!(
        log.contains("cannot be served") && log.contains("default/web"),
        "{log}"
    );
    wait_until("the other Service", PATIENCE, || {
        get(&bed.netns, at(32_001), "/").is_ok()
    })
    .unwrap();
    drop(taken);
    wait_until("another try", PATIENCE, || {
        get(&bed.netns, at(32_000), "/").is_ok_and(|answer| answer.0.contains("200"))
    })
    .unwrap();
    assert!(shows("/metrics", "causeway_check_ports_not_served 0"));
}

#[test]
fn a_port_below_1024_is_served_or_what_it_lacks_is_named() {
    let program = causeway_tests::binary("causeway-proxy");
    let mut bounded = Command::new("setpriv");
    bounded
        .args(["--bounding-set=-all,+net_admin,+net_raw"])
        .arg(&program);
    for (command, served) in [(Command::new(&program), true), (bounded, false)] {
        let bed = Bed::new().unwrap();
        let service = balanced("web", 0, 880);
        bed.store.seed(Resource::Service, [service]).unwrap();
        endpoints(&bed, 1);
        let proxy = bed
            .command(command, &["--healthz-bind-address=127.0.0.1:881"])
            .unwrap();
        if served {
            for address in [at(880), ([127, 0, 0, 1], 881).into()] {
                wait_until("an answer", PATIENCE, || {
                    get(&bed.netns, address, "/livez").is_ok_and(|answer| answer.0.contains("200"))
                })
                .unwrap();
            }
            continue;
        }
        let statusz = || get(&bed.netns, ([127, 0, 0, 1], 10249).into(), "/statusz");
        let line = "  Service default/web 172.30.0.1:880: Permission denied (os error 13): a port \
                    below 1024 needs the capability CAP_NET_BIND_SERVICE";
        wait_until("line in /statusz", PATIENCE, || {
            statusz().is_ok_and(|answer| answer.2.contains(line))
        })
        .unwrap();
        let log = proxy.log().unwrap();
        assert_eq!(log.matches("CAP_NET_BIND_SERVICE").count(), 2, "{log}");
    }
}

#[test]
fn there_may_be_more_of_them_than_files_at_first() {
    const FILES: usize = 100;
    let bed = Bed::new().unwrap();
    let ports = 32_000..32_000 + u16::try_from(2 * FILES).unwrap();
    let services = ports.clone().enumerate();
    let services = services.map(|(index, port)| balanced(&format!("s{index}"), index, port));
    bed.store.seed(Resource::Service, services).unwrap();
    let program = causeway_tests::binary("causeway-proxy");
    let limited = bed.folder().join("limited");
    let script = format!(
        "#!/bin/sh\nulimit -S -n {FILES}\nexec {} \"$@\"\n",
        program.display()
    );
    std::fs::write(&limited, script).unwrap();
    std::fs::set_permissions(&limited, PermissionsExt::from_mode(0o700)).unwrap();
    let proxy = bed.program(&limited, &[]).unwrap();
    for port in ports {
        // Nobody is behind any of them.
        wait_until("an answer", PATIENCE, || {
            get(&bed.netns, at(port), "/").is_ok_and(|answer| answer.0.contains("503"))
        })
        .unwrap();
    }
    let log = proxy.log().unwrap();
    assert_eq!(log.matches("open files allowed").count(), 1, "{log}");
}
