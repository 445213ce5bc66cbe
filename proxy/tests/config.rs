//! Golden files: each `config/NAME.yaml`, what it means in `config/NAME.meaning`, and the whole
//! configuration that `--write-config-to` makes of it in `config/NAME.written`. With
//! `UPDATE_GOLDEN=1` in the environment they are written anew.

#![expect(
    clippy::unwrap_used,
    reason = "what these helpers cannot do fails the test"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_proxy::cli::Flags;
use causeway_proxy::config::{FLAGS, Loaded, Mode, Settings, Takes, load, read};
use clap::CommandFactory;
use lb_plan::bpf::Lifetimes;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn text_of(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// The configuration of `text` (none: no file) with flags over it.
fn loaded(text: Option<&str>, arguments: &[&str]) -> Loaded {
    let flags = Flags::read([&["causeway-proxy"], arguments].concat()).unwrap();
    load(text, &flags, "Host-Name").unwrap()
}

/// Settings, warnings and errors of a file, as text, and the file written out where it is usable.
fn meaning(text: &str) -> (String, Option<String>) {
    let flags = Flags::read(["causeway-proxy"]).unwrap();
    let mut out = String::new();
    match load(Some(text), &flags, "Host-Name") {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                writeln!(out, "warning: {warning}").unwrap();
            }
            writeln!(out, "{:#?}", loaded.settings).unwrap();
            (out, Some(serde_saphyr::to_string(&loaded.config).unwrap()))
        }
        Err(error) => {
            writeln!(out, "unusable: {error}").unwrap();
            (out, None)
        }
    }
}

fn is_golden(file: &Path, now: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, now).unwrap();
    }
    let known = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(known, now, "{}", file.display());
}

#[test]
fn files_mean_what_they_meant_and_so_does_what_is_written_of_them() {
    let mut files = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        files += 1;
        let (now, written) = meaning(&std::fs::read_to_string(&file).unwrap());
        is_golden(&file.with_extension("meaning"), &now);
        let Some(written) = written else { continue };
        is_golden(&file.with_extension("written"), &written);
        let (again, twice) = meaning(&written);
        let settings = now.lines().filter(|line| !line.starts_with("warning: "));
        let known_again = again.lines().filter(|line| !line.starts_with("warning: "));
        assert!(settings.eq(known_again), "{}: {again}", file.display());
        assert_eq!(twice, Some(written), "{}", file.display());
    }
    assert_eq!(files, 11);
}

#[test]
fn flags_win_over_the_file() {
    let file = text_of("everything.yaml");
    let Loaded { settings, .. } = loaded(
        Some(&file),
        &[
            "--kubeconfig=/other",
            "--master=https://10.0.0.1:6443",
            "--hostname-override=other",
            "--healthz-bind-address=",
            "--metrics-bind-address=127.0.0.2:99",
            "--bind-address-hard-fail=false",
            "--masquerade-all=false",
            "--iptables-masquerade-bit=14",
            "--iptables-sync-period=20s",
            "--iptables-min-sync-period=1s",
            "--iptables-localhost-nodeports",
            "--detect-local-mode=BridgeInterface",
            "--pod-bridge-interface=cni0",
            "--nodeport-addresses=primary",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-udp-timeout=40s",
            "--conntrack-tcp-be-liberal=false",
            "--oom-score-adj=-1000",
            "--proxy-mode=iptables",
            "-v=6",
        ],
    );
    is_golden(&folder().join("flags.meaning"), &format!("{settings:#?}\n"));
}

#[test]
fn every_flag_is_read_and_shows_in_the_configuration() {
    let mut arguments = vec!["causeway-proxy".to_owned()];
    for flag in FLAGS {
        let value = match flag.takes {
            Takes::Bool => "true",
            Takes::Number => "7",
            Takes::Fraction => "7.5",
            Takes::Gates => "Some=true",
            Takes::List => "10.0.0.0/8",
            Takes::Text => "7s",
        };
        let value = match flag.name {
            "proxy-mode" => "nftables",
            "detect-local-mode" => "NodeCIDR",
            "cluster-cidr" => "10.0.0.0/8",
            "logging-format" => "json",
            "ipvs-scheduler" => "wlc",
            "bind-address" => "10.0.0.7",
            "healthz-bind-address" | "metrics-bind-address" => "10.0.0.7",
            _ => value,
        };
        arguments.push(format!("--{}={value}", flag.name));
    }
    let flags = Flags::read(&arguments).unwrap();
    assert_eq!(flags.fields.len(), FLAGS.len());
    let Loaded { config, .. } = load(None, &flags, "host").unwrap();
    for (flag, value) in &flags.fields {
        for path in flag.fields.iter().filter(|path| !path.contains(' ')) {
            let found = path.split('.').fold(&config, |at, key| &at[key]);
            if path.ends_with("BindAddress") {
                assert_eq!(found, "10.0.0.7:7", "the deprecated port completes it");
            } else {
                assert_eq!(found, value, "--{}", flag.name);
            }
        }
    }
}

#[test]
fn the_deprecated_ports_count_only_without_an_address() {
    let server = |arguments: &[&str]| {
        let settings = loaded(None, arguments).settings;
        settings.healthz.map(|address| address.to_string())
    };
    assert_eq!(server(&["--healthz-port=99"]).unwrap(), "0.0.0.0:99");
    assert_eq!(server(&["--healthz-port=0"]), None);
    let both = ["--healthz-port=99", "--healthz-bind-address=[::1]:98"];
    assert_eq!(server(&both).unwrap(), "[::1]:98");
    let bare = ["--healthz-port=99", "--healthz-bind-address=::1"];
    assert_eq!(server(&bare).unwrap(), "[::1]:99");
}

#[test]
fn without_a_file_the_defaults_hold() {
    let bare = loaded(None, &[]);
    let kubeadm = loaded(Some(&text_of("kubeadm.yaml")), &["--kubeconfig="]);
    let mut spelled_out = kubeadm.settings;
    spelled_out.detect_local = bare.settings.detect_local.clone();
    assert_eq!(bare.settings, spelled_out);
    assert_eq!(bare.settings.modes, [Mode::Nftables, Mode::Iptables]);
}

#[test]
fn node_ports_are_served_where_the_data_plane_can() {
    let settings = |arguments: &[&str]| loaded(None, arguments).settings;
    let bare = settings(&[]);
    assert!(bare.node_ports(Mode::Nftables).primary);
    let everywhere = bare.node_ports(Mode::Iptables);
    assert!(!everywhere.primary && everywhere.loopback);
    assert!(everywhere.is_everywhere([192, 0, 2, 1].into()));
    let flags = ["--nodeport-addresses=localhost,10.0.0.0/8"];
    let said = loaded(None, &flags);
    let named = |text: &String| text.contains("nodePortAddresses: nftables cannot serve");
    assert!(said.warnings.iter().any(named), "{:?}", said.warnings);
    let without = settings(&[flags[0], "--iptables-localhost-nodeports=false"]);
    assert!(!without.node_ports(Mode::Iptables).loopback);
    assert!(!without.node_ports(Mode::Nftables).loopback);
}

#[test]
fn what_cannot_change_live_is_named() {
    let settings = |yaml: &str| -> Settings {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let (said, _) = read(&format!("{head}{yaml}")).unwrap();
        Settings::understand(&said, None, "host").unwrap()
    };
    let before = settings("mode: nftables");
    let fields = |yaml: &str| before.restart_fields(&settings(yaml), Mode::Nftables);
    let live = "mode: iptables\nnftables: {masqueradeBit: 9, syncPeriod: 1m}\nbindAddress: 10.0.0.7\n\
                nodePortAddresses: [10.0.0.0/8]\nconntrack: {min: 1}\noomScoreAdj: 0\nlogging: {verbosity: 4}";
    assert_eq!(fields(live), [""; 0]);
    assert_eq!(
        fields("mode: nftables\nmetricsBindAddress: 127.0.0.1:1\nclusterCIDR: 10.0.0.0/8"),
        [
            "detectLocalMode, detectLocal, clusterCIDR",
            "metricsBindAddress"
        ]
    );
    assert_eq!(
        fields("mode: iptables\niptables: {masqueradeAll: true}"),
        ["masqueradeAll"]
    );
    let only_of_the_other = "mode: auto\nnftables: {masqueradeAll: false}\n\
                             iptables: {masqueradeAll: true}";
    assert_eq!(fields(only_of_the_other), [""; 0]);
    // Its own tracking goes by them.
    let timeouts = settings("conntrack: {udpTimeout: 5s}");
    let in_mode = |mode| before.restart_fields(&timeouts, mode);
    assert_eq!(in_mode(Mode::Nftables), [""; 0]);
    assert_eq!(in_mode(Mode::Ebpf).len(), 1);
}

#[test]
fn mode_ebpf_remembers_connections_as_long_as_the_section_says() {
    let lifetimes = |flags: &[&str]| loaded(None, flags).settings.planes.ebpf.lifetimes;
    assert_eq!(lifetimes(&[]), Lifetimes::default());
    let said = [
        "--conntrack-tcp-timeout-established=1h",
        "--conntrack-udp-timeout=7s",
        "--conntrack-udp-timeout-stream=90s",
    ];
    let seconds = Duration::from_secs;
    let wanted = Lifetimes {
        established: seconds(3600),
        udp_unanswered: seconds(7),
        udp: seconds(90),
        ..Lifetimes::default()
    };
    assert_eq!(lifetimes(&said), wanted);
    let left = [
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-udp-timeout=0",
        "--conntrack-tcp-timeout-close-wait=2h",
    ];
    assert_eq!(lifetimes(&left), Lifetimes::default());
}

/// No mode means what it did before there was mode ebpf.
#[test]
fn auto_may_mean_ebpf_and_no_mode_never_does() {
    let modes = |said: &[&str]| {
        let flags = Flags::read(["causeway-proxy"].iter().chain(said)).unwrap();
        load(None, &flags, "host").unwrap().settings.modes
    };
    let nothing = [Mode::Nftables, Mode::Iptables];
    assert_eq!(modes(&[]), nothing);
    assert_eq!(modes(&["--proxy-mode="]), nothing);
    let auto = [&[Mode::Ebpf], &nothing[..]].concat();
    assert_eq!(modes(&["--proxy-mode=auto"]), auto);
}

/// Those that `kube-proxy --help` of Kubernetes 1.36 names.
const KUBE_PROXY_FLAGS: &[&str] = &[
    "bind-address",
    "bind-address-hard-fail",
    "boot-id-file",
    "cleanup",
    "cluster-cidr",
    "config",
    "config-sync-period",
    "conntrack-max-per-core",
    "conntrack-min",
    "conntrack-tcp-be-liberal",
    "conntrack-tcp-timeout-close-wait",
    "conntrack-tcp-timeout-established",
    "conntrack-udp-timeout",
    "conntrack-udp-timeout-stream",
    "detect-local-mode",
    "feature-gates",
    "healthz-bind-address",
    "help",
    "hostname-override",
    "init-only",
    "iptables-localhost-nodeports",
    "iptables-masquerade-bit",
    "iptables-min-sync-period",
    "iptables-sync-period",
    "ipvs-exclude-cidrs",
    "ipvs-min-sync-period",
    "ipvs-scheduler",
    "ipvs-strict-arp",
    "ipvs-sync-period",
    "ipvs-tcp-timeout",
    "ipvs-tcpfin-timeout",
    "ipvs-udp-timeout",
    "kube-api-burst",
    "kube-api-content-type",
    "kube-api-qps",
    "kubeconfig",
    "log-flush-frequency",
    "log-json-info-buffer-size",
    "log-json-split-stream",
    "log-text-info-buffer-size",
    "log-text-split-stream",
    "logging-format",
    "machine-id-file",
    "masquerade-all",
    "master",
    "metrics-bind-address",
    "nodeport-addresses",
    "oom-score-adj",
    "pod-bridge-interface",
    "pod-interface-name-prefix",
    "profiling",
    "proxy-mode",
    "show-hidden-metrics-for-version",
    "v",
    "version",
    "vmodule",
    "write-config-to",
];

#[test]
fn every_flag_of_kube_proxy_is_known() {
    let command = Flags::command();
    let known: Vec<&str> = command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .chain(FLAGS.iter().map(|flag| flag.name))
        // The parser's own.
        .chain(["help", "version"])
        .collect();
    for name in KUBE_PROXY_FLAGS {
        assert!(known.contains(name), "--{name}");
    }
}
