//! One call of the plugin, with what every role needs of it.

use std::path::{Path, PathBuf};

use cni_types::{Args, Code, Error, PluginConfig, Success, Version};
use nodekit::Errno;
use nodekit::netns::{self, NetNs};

use crate::failure;

/// A configuration with the version it is answered in.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) config: PluginConfig,
    pub(crate) version: Version,
    pub(crate) args: Args,
    /// The folders in which an external IPAM plugin is looked for.
    pub(crate) plugin_path: Vec<PathBuf>,
    /// The pod's namespace may be the plugin's own.
    pub(crate) netns_override: bool,
}

impl Call {
    /// Opens the pod's namespace.
    ///
    /// # Errors
    /// Code 3 when it is gone, 8 when it is no network namespace or the plugin's own.
    pub(crate) fn open_netns(&self, path: &Path) -> Result<NetNs, Error> {
        let netns = NetNs::open(path).map_err(|error| match error.errno() {
            Some(Errno::ENOENT) => Error::new(Code::UNKNOWN_CONTAINER, error.to_string()),
            _ => failure::namespace(error),
        })?;
        let own = NetNs::current_identity().map_err(failure::namespace)?;
        if !self.netns_override && own == netns.identity() {
            let message = format!("CNI_NETNS {} is the plugin's own namespace", path.display());
            return Err(Error::new(Code::INVALID_NETNS, message));
        }
        Ok(netns)
    }

    /// Whether one call does everything: the bridge with ports, filters and limits. Under the name
    /// `bridge` those are other plugins', chained behind.
    pub(crate) fn is_combined(&self) -> bool {
        self.config.plugin_type() == Ok("causeway-cni")
    }

    /// The result of the plugin before, without which a chained plugin has nothing to work on.
    ///
    /// # Errors
    /// Code 7 when there is none; 1, 6 or 7 for one that can't be read.
    pub(crate) fn chained_result(&self) -> Result<Success, Error> {
        let result = self.config.prev_result(self.version)?;
        result.ok_or_else(|| {
            let expected = "the result of a plugin before, as this one is chained";
            self.config.object().invalid("prevResult", expected)
        })
    }

    /// Opens the pod's namespace for DEL: `None` when there is none any more.
    ///
    /// # Errors
    /// Code 8 when it cannot be opened for another reason, or is the plugin's own.
    pub(crate) fn open_netns_if_any(&self, path: Option<&Path>) -> Result<Option<NetNs>, Error> {
        let Some(path) = path else { return Ok(None) };
        match self.open_netns(path) {
            Ok(netns) => Ok(Some(netns)),
            Err(error) if error.code == Code::UNKNOWN_CONTAINER => Ok(None),
            // The file of an unmounted namespace stays behind as a plain one.
            Err(error) => match NetNs::open(path) {
                Err(netns::Error::NotANetNs(_)) => Ok(None),
                _ => Err(error),
            },
        }
    }
}
