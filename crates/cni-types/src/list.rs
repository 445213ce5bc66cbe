use serde_json::{Map, Value};

use crate::{Code, Error, Object, Supported, Version, check_network_name};

/// A network configuration list as it is stored on a node (`*.conflist`).
#[derive(Debug, Clone)]
pub struct NetworkList {
    /// The newest version that the list offers and that is known here.
    pub version: Version,
    /// The network's name.
    pub name: String,
    /// `disableCheck`: a runtime must not call CHECK.
    pub disable_check: bool,
    /// `disableGC`: a runtime must not call GC.
    pub disable_gc: bool,
    /// The chain, in the order of ADD.
    pub plugins: Vec<ListedPlugin>,
}

/// One plugin of a list.
#[derive(Debug, Clone)]
pub struct ListedPlugin {
    /// The executable's name.
    pub plugin_type: String,
    /// The capabilities it declares: they decide which arguments it gets as `runtimeConfig`.
    pub capabilities: Vec<String>,
    config: Map<String, Value>,
}

impl NetworkList {
    /// Reads a list.
    ///
    /// # Errors
    /// Code 1 when no offered version is known, 6 for what is no list, 7 for a wrong value.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let document: Value = serde_json::from_slice(bytes).map_err(|error| {
            Error::new(
                Code::DECODE,
                format!("the network configuration list is not JSON: {error}"),
            )
        })?;
        let object = Object::new("", &document)?;
        let name = object.text("name")?.unwrap_or_default();
        check_network_name(name)?;
        let plugins = object.objects("plugins")?;
        if plugins.is_empty() {
            return Err(object.invalid("plugins", "at least one plugin"));
        }
        Ok(Self {
            version: newest_version(&object)?,
            name: name.to_owned(),
            disable_check: object.boolean("disableCheck")?.unwrap_or_default(),
            disable_gc: object.boolean("disableGC")?.unwrap_or_default(),
            plugins: plugins
                .iter()
                .map(ListedPlugin::from_object)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The configuration to send to a plugin of the list: its own keys with the list's name and
    /// version, `prevResult` and the runtime's arguments for the capabilities it declares.
    #[must_use]
    pub fn request(
        &self,
        plugin: &ListedPlugin,
        prev_result: Option<Value>,
        arguments: &Map<String, Value>,
    ) -> Value {
        let mut config = plugin.config.clone();
        config.remove("capabilities");
        config.insert("name".to_owned(), self.name.as_str().into());
        config.insert("cniVersion".to_owned(), self.version.as_str().into());
        if let Some(prev_result) = prev_result {
            config.insert("prevResult".to_owned(), prev_result);
        }
        let wanted = arguments
            .iter()
            .filter(|(key, _)| plugin.capabilities.contains(key));
        let runtime: Map<_, _> = wanted
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !runtime.is_empty() {
            config.insert("runtimeConfig".to_owned(), runtime.into());
        }
        Value::Object(config)
    }
}

fn newest_version(object: &Object<'_>) -> Result<Version, Error> {
    let mut offered = object.texts("cniVersions")?;
    match object.filled_text("cniVersion")? {
        Some(version) => offered.push(version.to_owned()),
        None if offered.is_empty() => offered.push(Version::V0_1_0.as_str().to_owned()),
        None => {}
    }
    Supported::ALL.newest_of(&offered).ok_or_else(|| {
        let message = format!("no version of {} is known here", offered.join(", "));
        Error::new(Code::INCOMPATIBLE_VERSION, message)
            .with_details(format!("known are {}", Supported::ALL))
    })
}

impl ListedPlugin {
    fn from_object(object: &Object<'_>) -> Result<Self, Error> {
        let plugin_type = object.text("type")?.unwrap_or_default();
        if plugin_type.is_empty() || plugin_type.contains('/') {
            return Err(object.invalid("type", "the name of an executable, without a folder"));
        }
        let capabilities = match object.object("capabilities")? {
            None => Vec::new(),
            Some(capabilities) => capabilities.switched_on()?,
        };
        Ok(Self {
            plugin_type: plugin_type.to_owned(),
            capabilities,
            config: object.keys().clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(value: &Value) -> Result<NetworkList, Error> {
        NetworkList::decode(value.to_string().as_bytes())
    }

    #[test]
    fn a_runtime_makes_its_request_from_the_list() {
        let list = list(&json!({
            "cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0", "2.0.0"],
            "name": "net", "disableCheck": true, "disableGC": "true",
            "plugins": [
                {"type": "bridge", "mtu": 1450},
                {"type": "portmap", "capabilities": {"portMappings": true, "dns": false}},
            ],
        }))
        .unwrap();
        assert_eq!(list.version, Version::V1_1_0);
        assert!(list.disable_check && list.disable_gc);
        let arguments = json!({"portMappings": [], "dns": {}, "bandwidth": {}});
        let arguments = arguments.as_object().unwrap();
        assert_eq!(
            list.request(&list.plugins[0], None, arguments),
            json!({"type": "bridge", "mtu": 1450, "name": "net", "cniVersion": "1.1.0"})
        );
        assert_eq!(
            list.request(&list.plugins[1], Some(json!({"ips": []})), arguments),
            json!({
                "type": "portmap", "name": "net", "cniVersion": "1.1.0",
                "prevResult": {"ips": []}, "runtimeConfig": {"portMappings": []},
            })
        );
    }

    #[test]
    fn a_list_without_versions_is_of_the_oldest() {
        let value = json!({"name": "n", "plugins": [{"type": "bridge"}]});
        assert_eq!(list(&value).unwrap().version, Version::V0_1_0);
    }

    #[test]
    fn wrong_lists_are_refused() {
        for (value, code) in [
            (json!({"name": "n", "plugins": []}), Code::INVALID_CONFIG),
            (json!({"name": "n"}), Code::INVALID_CONFIG),
            (
                json!({"name": "n", "plugins": [{"type": "../sh"}]}),
                Code::INVALID_CONFIG,
            ),
            (json!({"name": "n", "plugins": [{}]}), Code::INVALID_CONFIG),
            (
                json!({"name": "", "plugins": [{"type": "x"}]}),
                Code::INVALID_CONFIG,
            ),
            (json!({"name": "n", "plugins": ["x"]}), Code::DECODE),
            (
                json!({"name": "n", "cniVersion": "9.0.0", "plugins": [{"type": "x"}]}),
                Code::INCOMPATIBLE_VERSION,
            ),
        ] {
            assert_eq!(list(&value).unwrap_err().code, code, "{value}");
        }
    }
}
