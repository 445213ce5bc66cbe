//! What must hold for any bytes of a file. Nothing may panic; and what was accepted must be what it
//! says.

use std::path::Path;

use causeway_proxy::cli::Flags;
use causeway_proxy::config::{LoadError, Loaded, Mode, load};
use causeway_proxy::watch::kubeconfig::{KubeconfigError, said};

/// Where the kubeconfig seems to be.
pub(crate) const FOLDER: &str = "/none/kubernetes";

/// A kubeconfig.
pub(crate) fn kubeconfig(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    match said(text, Path::new(FOLDER)) {
        Ok(config) => {
            assert!(matches!(
                config.cluster_url.scheme_str(),
                Some("http" | "https")
            ));
            assert!(config.cluster_url.authority().is_some());
            let user = config.auth_info;
            let files = [user.client_certificate, user.client_key, user.token_file];
            assert!(files.iter().flatten().all(|file| file.starts_with('/')));
            let command = user.exec.and_then(|exec| exec.command);
            assert!(command.is_none_or(|name| name.starts_with('/') || !name.contains('/')));
        }
        Err(KubeconfigError::Yaml(reason)) => {
            // The lines around it, in which credentials may be, begin behind the first one.
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
        }
        Err(_) => {}
    }
}

/// A `KubeProxyConfiguration`.
pub(crate) fn configuration(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let flags = Flags::read(["causeway-proxy"]).expect("no flag is a command line");
    let loaded = match load(Some(text), &flags, "host") {
        Ok(loaded) => loaded,
        Err(LoadError::Invalid(invalid)) => {
            assert!(!invalid.0.is_empty());
            for wrong in invalid.0 {
                assert!(!wrong.field.is_empty() && !wrong.accepted.is_empty());
            }
            return;
        }
        Err(error) => {
            assert!(
                error.to_string().starts_with("configuration file: "),
                "{error}"
            );
            return;
        }
    };
    is_usable(&loaded);
    let written = serde_saphyr::to_string(&loaded.config).expect("JSON can be written as YAML");
    let again = load(Some(&written), &flags, "host");
    let again = again.unwrap_or_else(|error| panic!("{error}: {written}"));
    assert_eq!(again.settings, loaded.settings, "{written}");
    assert_eq!(again.config, loaded.config, "{written}");
    let about_the_text = |warning: &&String| warning.starts_with("configuration file: ");
    assert_eq!(
        again.warnings.iter().find(about_the_text),
        None,
        "{written}"
    );
}

fn is_usable(loaded: &Loaded) {
    let settings = &loaded.settings;
    assert!(!settings.node_name.is_empty() && !settings.modes.is_empty());
    assert!((-1000..=1000).contains(&settings.oom_score_adj));
    for mode in Mode::ALL {
        let section = settings.section(mode);
        assert!(section.masquerade_bit <= 31);
        let timing = section.timing;
        assert!(timing.min_period <= timing.sync_period && !timing.sync_period.is_zero());
        // As the daemon does.
        let _ = std::time::Instant::now() + timing.sync_period * 2;
        let _ = settings.node_ports(mode);
    }
    let lifetimes = settings.conntrack.lifetimes();
    assert!(lifetimes.established.as_nanos() <= i64::MAX as u128);
}
