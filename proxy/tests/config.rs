//! Golden files: each `config/NAME.yaml` and what it means, in `config/NAME.meaning`. With
//! `UPDATE=1` in the environment they are written anew.

#![expect(
    clippy::unwrap_used,
    reason = "what these helpers cannot do fails the test"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use causeway_proxy::cli::Flags;
use causeway_proxy::config::said::KubeProxyConfiguration;
use causeway_proxy::config::{Settings, overlay, read_file};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

/// Settings, warnings and errors of a file, as text.
fn meaning(file: &Path) -> String {
    let mut text = String::new();
    match read_file(file) {
        Err(error) => writeln!(text, "unusable: {error}").unwrap(),
        Ok((said, warnings)) => {
            for warning in warnings {
                writeln!(text, "warning: {warning}").unwrap();
            }
            match Settings::understand(&said, None, "Host-Name") {
                Ok(settings) => writeln!(text, "{settings:#?}").unwrap(),
                Err(invalid) => {
                    for field in invalid.0 {
                        writeln!(text, "refused: {field}").unwrap();
                    }
                }
            }
        }
    }
    text
}

#[test]
fn files_mean_what_they_meant() {
    let mut files = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        files += 1;
        let golden = file.with_extension("meaning");
        let now = meaning(&file);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&golden, &now).unwrap();
        }
        let known = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(known, now, "{}", file.display());
    }
    assert_eq!(files, 7);
}

fn understood(arguments: &[&str], mut said: KubeProxyConfiguration) -> Settings {
    let flags = Flags::read([&["causeway-proxy"], arguments].concat()).unwrap();
    overlay(&mut said, &flags);
    Settings::understand(&said, flags.master, "host").unwrap()
}

#[test]
fn flags_win_over_the_file() {
    let (said, _) = read_file(&folder().join("everything.yaml")).unwrap();
    let settings = understood(
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
            "--detect-local-mode=BridgeInterface",
            "--pod-bridge-interface=cni0",
            "--nodeport-addresses=primary",
            "-v=6",
        ],
        said,
    );
    let expected = r#"Settings { node_name: "other", api: Api { kubeconfig: Some("/other"), master: Some("https://10.0.0.1:6443") }, mode: Nftables, timing: Timing { min_period: 1s, sync_period: 20s }, masquerade_bit: 14, masquerade_all: false, detect_local: Bridge("cni0"), node_ip: Some(10.0.0.7), node_port_addresses: Primary, healthz: None, metrics: Some(127.0.0.2:99), bind_hard_fail: false, logging: Logging { verbosity: 6, format: Json } }"#;
    assert_eq!(format!("{settings:?}"), expected);
}

#[test]
fn without_a_file_the_defaults_hold() {
    let nothing = KubeProxyConfiguration::nothing();
    let bare = understood(&[], nothing.clone());
    let kubeadm = read_file(&folder().join("kubeadm.yaml")).unwrap().0;
    let mut spelled_out = understood(&["--kubeconfig="], kubeadm);
    spelled_out.detect_local = bare.detect_local.clone();
    assert_eq!(bare, spelled_out);
    let json = nothing.to_json().unwrap().to_string();
    assert_eq!(
        json,
        r#"{"apiVersion":"kubeproxy.config.k8s.io/v1alpha1","kind":"KubeProxyConfiguration"}"#
    );
}
