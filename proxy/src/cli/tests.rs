use super::*;

fn said(flags: &Flags) -> Vec<(&str, String)> {
    let fields = flags.fields.iter();
    fields
        .map(|(flag, value)| (flag.name, value.to_string()))
        .collect()
}

#[test]
fn flags_are_read_as_kube_proxy_writes_them() {
    let flags = Flags::read([
        "causeway-proxy",
        "--config=/etc/kube-proxy.yaml",
        "--hostname-override",
        "worker-1",
        "--masquerade-all",
        "--bind-address-hard-fail=false",
        "--nodeport-addresses=10.0.0.0/8,192.168.0.0/16",
        "--nodeport-addresses=primary",
        "--feature-gates=A=true,B=false",
        "--feature-gates=B=1",
        "--oom-score-adj",
        "-999",
        "-v=4",
        "--v=5",
    ])
    .unwrap();
    assert_eq!(
        flags.config.as_ref().unwrap().to_str(),
        Some("/etc/kube-proxy.yaml")
    );
    assert_eq!(
        said(&flags),
        [
            ("bind-address-hard-fail", "false".to_owned()),
            ("feature-gates", r#"{"A":true,"B":true}"#.to_owned()),
            ("hostname-override", r#""worker-1""#.to_owned()),
            ("masquerade-all", "true".to_owned()),
            (
                "nodeport-addresses",
                r#"["10.0.0.0/8","192.168.0.0/16","primary"]"#.to_owned()
            ),
            ("oom-score-adj", "-999".to_owned()),
            ("v", "5".to_owned()),
        ]
    );
}

#[test]
fn every_flag_is_shown_as_kube_proxy_shows_it() {
    let flags = Flags::read([
        "causeway-proxy",
        "--config=/etc/kube-proxy.yaml",
        "--nodeport-addresses=10.0.0.0/8,primary",
        "--feature-gates=B=true,A=false",
        "--cleanup",
        "-v=4",
    ])
    .unwrap();
    for (name, value) in [
        ("config", "/etc/kube-proxy.yaml"),
        ("nodeport-addresses", "[10.0.0.0/8,primary]"),
        ("feature-gates", "A=false,B=true"),
        ("cleanup", "true"),
        ("v", "4"),
        // Nobody said these.
        ("init-only", "false"),
        ("master", ""),
        ("cluster-cidr", ""),
        ("bind-address", "0.0.0.0"),
        ("conntrack-max-per-core", "32768"),
        ("config-sync-period", "15m0s"),
        ("iptables-sync-period", "30s"),
        ("ipvs-exclude-cidrs", "[]"),
        ("kube-api-qps", "5"),
        ("healthz-port", "10256"),
        ("metrics-port", "10249"),
        ("ebpf-connect-udp", "true"),
    ] {
        assert_eq!(flags.shown[name], value, "{name}");
    }
    let known = FLAGS.iter().map(|flag| flag.name);
    assert!(known.into_iter().all(|name| flags.shown.contains_key(name)));
}

#[test]
fn a_task_stands_beside_the_flags() {
    for (arguments, json) in [
        ("--ebpf-pin-dir=/x ebpf dump", false),
        ("ebpf dump --json --ebpf-pin-dir /x", true),
    ] {
        let words = ["causeway-proxy"].into_iter().chain(arguments.split(' '));
        let flags = Flags::read(words).unwrap();
        assert_eq!(flags.command, Some(Task::Ebpf(EbpfTask::Dump { json })));
        assert_eq!(flags.ebpf_pin_dir.to_str(), Some("/x"));
    }
    let plain = Flags::read(["causeway-proxy", "--config", "ebpf"]).unwrap();
    assert_eq!(plain.command, None);
    assert_eq!(plain.ebpf_pin_dir.to_str(), Some(ebpf::DEFAULT_PINS));
    for incomplete in ["ebpf", "dump"] {
        assert!(Flags::read(["causeway-proxy", incomplete]).is_err());
    }
}

#[test]
fn what_sockets_are_asked_of_is_said_by_flags() {
    let said = |flags: &[&str]| {
        let words = ["causeway-proxy"].iter().chain(flags);
        let ebpf = Flags::read(words).unwrap().ebpf();
        [ebpf.connect_udp, ebpf.end_tcp, ebpf.guard_node_ports]
    };
    assert_eq!(said(&[]), [true, false, true]);
    let flags = ["--ebpf-connect-udp=false", "--ebpf-end-tcp"];
    assert_eq!(said(&flags), [false, true, true]);
    let flags = ["--ebpf-connect-udp", "--ebpf-guard-node-ports=false"];
    assert_eq!(said(&flags), [true, false, false]);
}

#[test]
fn how_packets_are_seen_is_said_by_a_flag() {
    let said = |flags: &[&str]| {
        let words = ["causeway-proxy"].iter().chain(flags);
        Flags::read(words).unwrap().ebpf().packets_hook
    };
    use ebpf::PacketsHook::{Auto, Clsact, Tcx};
    assert_eq!(said(&[]), Auto);
    for (value, hook) in [("auto", Auto), ("tcx", Tcx), ("clsact", Clsact)] {
        assert_eq!(said(&[&format!("--ebpf-packets-hook={value}")]), hook);
    }
}

#[test]
fn for_whom_cluster_ips_are_is_said_by_a_flag() {
    let said = |flags: &[&str]| {
        let words = ["causeway-proxy"].iter().chain(flags);
        Flags::read(words).unwrap().ebpf().external_cluster_ips
    };
    assert!(said(&[]));
    assert!(!said(&["--ebpf-external-cluster-ips=false"]));
}

#[test]
fn whether_packets_are_given_to_pods_at_once_is_said_by_a_flag() {
    let said = |flags: &[&str]| {
        let words = ["causeway-proxy"].iter().chain(flags);
        let options = Flags::read(words).unwrap().ebpf();
        (options.peers, options.host_routing)
    };
    assert_eq!(said(&[]), (true, true));
    assert_eq!(said(&["--ebpf-redirect-peer=false"]), (false, true));
    assert_eq!(said(&["--ebpf-host-routing=false"]), (true, false));
}

#[test]
fn how_large_maps_are_is_said_by_flags() {
    let said = |flags: &[&str]| {
        let words = ["causeway-proxy"].iter().chain(flags);
        let options = Flags::read(words).unwrap().ebpf();
        [options.frontends, options.backends, options.tracks]
    };
    assert_eq!(said(&[]), [65_536, 1_048_576, 262_144]);
    let flags = [
        "--ebpf-frontends=2000",
        "--ebpf-backends=3000",
        "--ebpf-tracks=4000",
    ];
    assert_eq!(said(&flags), [2_000, 3_000, 4_000]);
}

#[test]
fn how_backends_are_chosen_is_said_by_flags() {
    let said = |flags: &[&str]| {
        let words = ["causeway-proxy"].iter().chain(flags);
        Flags::read(words).unwrap().ebpf().maglev
    };
    let seed = "--ebpf-maglev-seed=7";
    assert_eq!(said(&[]), None);
    assert_eq!(said(&[seed]), None);
    let choice = "--ebpf-backend-choice=maglev";
    assert_eq!(said(&[choice]), Some(Maglev::default()));
    let flags = [
        "--ebpf-maglev-table-size=251",
        "--ebpf-maglev-tables=3",
        seed,
    ];
    let maglev = Maglev {
        size: 251,
        seed: 7,
        limit: 3,
    };
    assert_eq!(said(&[&flags[..], &[choice]].concat()), Some(maglev));
}

#[test]
fn answers_go_directly_where_all_nodes_choose_alike() {
    let said = |flags: &[&str]| {
        let words = ["causeway-proxy"].iter().chain(flags);
        Flags::read(words).map(|flags| flags.ebpf().direct)
    };
    assert!(!said(&[]).unwrap());
    let [on, maglev] = ["--ebpf-dsr=on", "--ebpf-backend-choice=maglev"];
    assert!(said(&[on, maglev]).unwrap());
    assert!(!said(&["--ebpf-dsr=off", maglev]).unwrap());
    let error = said(&[on]).unwrap_err().to_string();
    assert!(error.contains(on) && error.contains(maglev), "{error}");
}

#[test]
fn drivers_are_left_alone_unless_that_is_said() {
    let said = |flags: &[&str]| {
        let words = ["causeway-proxy"].iter().chain(flags);
        Flags::read(words).unwrap().ebpf().frames
    };
    assert_eq!(said(&[]), ebpf::Frames::Off);
    assert_eq!(said(&["--ebpf-xdp=native"]), ebpf::Frames::Native);
    assert_eq!(said(&["--ebpf-xdp=generic"]), ebpf::Frames::Generic);
}

#[test]
fn an_unknown_flag_or_value_is_refused_by_name() {
    let refused = |flag: &str| {
        Flags::read(["causeway-proxy", flag])
            .unwrap_err()
            .to_string()
    };
    for (flag, named) in [
        ("--no-such-flag", "--no-such-flag"),
        ("--ebpf-snat-ports=65535-61000", "the lower one first"),
        ("--ebpf-frontends=10", "1024"),
        ("--ebpf-backends=10", "1024"),
        ("--ebpf-tracks=10", "1024"),
        ("--ebpf-maglev-table-size=16384", "16381"),
        ("--ebpf-backend-choice=best", "maglev"),
        ("--ebpf-packets-hook=xdp", "clsact"),
        ("--ebpf-xdp=on", "off, auto, native, generic"),
        ("--ebpf-dsr=auto", "off, on"),
        ("--conntrack-min=many", "a whole number"),
        ("--profiling=maybe", "true or false"),
        ("--feature-gates=A", "Name=true"),
    ] {
        let error = refused(flag);
        assert!(error.contains(named), "{error}");
    }
}
