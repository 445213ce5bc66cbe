//! What must hold for any bytes. Nothing may panic; and what was accepted must be what it says.

use std::collections::BTreeMap;

use cni_types::{
    Attachment, Command, Environment, NetworkList, Object, PluginConfig, RuntimeConfig, Success,
    Supported, Version, check_network_name,
};
use serde_json::{Map, Value};

/// A configuration on standard input, or a list on disk.
pub(crate) fn configuration(bytes: &[u8]) {
    if let Ok(config) = PluginConfig::decode(bytes) {
        // A plugin that is delegated to gets the same.
        let text = config.to_string();
        let again = PluginConfig::decode(text.as_bytes()).map(|config| config.to_string());
        assert_eq!(again, Ok(text));
        if config.check_name().is_ok() {
            assert!(!config.name().contains('/') && !config.name().starts_with('.'));
        }
        let _ = (config.version(Supported::ALL), config.plugin_type());
        let _ = (config.dns(), config.runtime(), config.args());
        if let Ok(kept) = config.valid_attachments() {
            kept.iter().for_each(is_attachment);
        }
    }
    if let Ok(list) = NetworkList::decode(bytes) {
        assert!(check_network_name(&list.name).is_ok());
        for plugin in &list.plugins {
            assert!(!plugin.plugin_type.contains('/'));
            let request = list.request(plugin, None, &Map::new());
            let config = PluginConfig::decode(request.to_string().as_bytes());
            assert!(config.is_ok_and(|config| config.version(Supported::ALL) == Ok(list.version)));
        }
    }
}

/// The environment: lines of `NAME=value`.
pub(crate) fn environment(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let variables: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.split_once('=')).collect();
    let read = Environment::read(|name| variables.get(name).map(|&value| value.to_owned()));
    let Ok(Some(environment)) = read else { return };
    assert!(
        environment
            .path
            .iter()
            .all(|dir| !dir.as_os_str().is_empty())
    );
    match environment.command {
        Command::Add { attachment, netns } | Command::Check { attachment, netns } => {
            is_attachment(&attachment);
            assert!(!netns.as_os_str().is_empty());
        }
        Command::Del { attachment, netns } => {
            is_attachment(&attachment);
            assert!(netns.is_none_or(|netns| !netns.as_os_str().is_empty()));
        }
        Command::Gc | Command::Status | Command::Version => {}
    }
}

/// `prevResult`, or the result of a plugin that was delegated to.
pub(crate) fn prev_result(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    for or_version in Version::ALL {
        let Ok(success) = Success::from_json(&value, or_version) else {
            continue;
        };
        for version in Version::ALL {
            // What was written is read as the same by whoever comes next in the chain.
            if let Ok(written) = success.to_json(version) {
                let read = Success::from_json(&written, Version::NEWEST);
                let again = read.and_then(|success| success.to_json(version));
                assert_eq!(again, Ok(written));
            }
        }
    }
}

/// `runtimeConfig`.
pub(crate) fn runtime_config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let read = Object::new("runtimeConfig", &value).and_then(|o| RuntimeConfig::from_object(&o));
    let Ok(runtime) = read else { return };
    assert!(runtime.mac.is_none_or(|mac| mac.to_string().len() == 17));
}

fn is_attachment(attachment: &Attachment) {
    let Attachment {
        container_id,
        ifname,
    } = attachment;
    assert!(Attachment::new(container_id, ifname).is_ok());
    // They become names of files and words of comments.
    assert!(!container_id.contains(['/', ' ', ':']) && !ifname.contains(['/', ' ', ':']));
}
