//! The configuration of the role `firewall`.

use cni_types::{Error, PluginConfig};

use super::Policy;

/// The chain for administrators' own rules unless `iptablesAdminChainName` says otherwise.
const ADMIN_CHAIN: &str = "CNI-ADMIN";

/// The longest name of a chain of iptables, in bytes (XT_EXTENSION_MAXNAMELEN less the NUL,
/// linux/netfilter/x_tables.h).
const LONGEST_CHAIN: usize = 28;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) backend: Backend,
    pub(super) policy: Policy,
}

/// What pods are made known to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Backend {
    Nftables,
    Iptables { admin_chain: String },
}

impl Config {
    /// Reads `backend`, `ingressPolicy` and `iptablesAdminChainName`, which asks for iptables.
    ///
    /// # Errors
    /// Code 2, 6 or 7 naming the key.
    pub(super) fn read(config: &PluginConfig) -> Result<Self, Error> {
        let object = config.object();
        let policy = Policy::read(&object)?.unwrap_or(Policy::Open);
        let key = "iptablesAdminChainName";
        let admin_chain = object.filled_text(key)?;
        if let Some(name) = admin_chain {
            let fits = name.len() <= LONGEST_CHAIN
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
                && !name.starts_with('-');
            if !fits {
                let expected = "a chain's name of at most 28 letters, digits, - and _";
                return Err(object.invalid(key, expected));
            }
        }
        let backend = match (object.filled_text("backend")?, admin_chain) {
            (Some("nftables"), _) | (None, None) => Backend::Nftables,
            (Some("iptables"), name) | (None, name) => Backend::Iptables {
                admin_chain: name.unwrap_or(ADMIN_CHAIN).to_owned(),
            },
            (Some(_), _) => return Err(object.unsupported("backend", "nftables, iptables")),
        };
        Ok(Self { backend, policy })
    }
}

#[cfg(test)]
mod tests {
    use cni_types::Code;
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Result<Config, Error> {
        Config::read(&PluginConfig::decode(value.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn iptables_are_used_when_asked_for() {
        let iptables = |name: &str| Backend::Iptables {
            admin_chain: name.to_owned(),
        };
        for (value, backend) in [
            (json!({}), Backend::Nftables),
            (
                json!({"backend": "", "firewalldZone": "trusted"}),
                Backend::Nftables,
            ),
            (json!({"backend": "nftables"}), Backend::Nftables),
            (json!({"backend": "iptables"}), iptables("CNI-ADMIN")),
            (json!({"iptablesAdminChainName": "MINE"}), iptables("MINE")),
            (
                json!({"backend": "iptables", "iptablesAdminChainName": "A_1"}),
                iptables("A_1"),
            ),
        ] {
            assert_eq!(read(&value).unwrap().backend, backend, "{value}");
        }
        assert_eq!(read(&json!({})).unwrap().policy, Policy::Open);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for (value, code) in [
            (json!({"backend": "firewalld"}), Code::UNSUPPORTED_FIELD),
            (json!({"backend": "ipfw"}), Code::UNSUPPORTED_FIELD),
            (json!({"ingressPolicy": "closed"}), Code::INVALID_CONFIG),
            (
                json!({"iptablesAdminChainName": "a b"}),
                Code::INVALID_CONFIG,
            ),
            (
                json!({"iptablesAdminChainName": "-A"}),
                Code::INVALID_CONFIG,
            ),
            (
                json!({"iptablesAdminChainName": "A".repeat(29)}),
                Code::INVALID_CONFIG,
            ),
            (json!({"backend": 1}), Code::DECODE),
        ] {
            assert_eq!(read(&value).unwrap_err().code, code, "{value}");
        }
    }
}
