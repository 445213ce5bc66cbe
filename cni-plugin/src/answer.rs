//! From a call to its answer.

use cni_types::{Code, Command, Environment, Error, PluginConfig, Supported, Version};
use serde_json::Value;

use crate::call::Call;
use crate::role::Role;

/// Does what the environment and the configuration ask for. `asked_in` is set to the version to
/// answer in as soon as it is known.
///
/// # Errors
/// The error to print.
pub(crate) fn answer(
    role: Option<Role>,
    environment: Environment,
    input: &[u8],
    asked_in: &mut Version,
) -> Result<Option<Value>, Error> {
    let Environment {
        command,
        args,
        path,
        netns_override,
    } = environment;
    if command == Command::Version {
        return Ok(Some(version(input)));
    }
    let config = PluginConfig::decode(input)?;
    *asked_in = config.version(Supported::ALL)?;
    config.check_name()?;
    let call = Call {
        config,
        version: *asked_in,
        args,
        plugin_path: path,
        netns_override,
    };
    let role = role.map_or_else(|| Role::of(&call), Ok)?;
    match command {
        Command::Add { attachment, netns } => role
            .add(&call, &attachment, &netns)?
            .to_json(call.version)
            .map(Some),
        Command::Del { attachment, netns } => role
            .del(&call, &attachment, netns.as_deref())
            .map(|()| None),
        Command::Check { attachment, netns } => {
            needs(call.version.has_check(), "CHECK", Version::V0_4_0, &call)?;
            role.check(&call, &attachment, &netns).map(|()| None)
        }
        Command::Gc => {
            needs(
                call.version.has_gc_and_status(),
                "GC",
                Version::V1_1_0,
                &call,
            )?;
            role.gc(&call).map(|()| None)
        }
        Command::Status => {
            needs(
                call.version.has_gc_and_status(),
                "STATUS",
                Version::V1_1_0,
                &call,
            )?;
            role.status(&call).map(|()| None)
        }
        Command::Version => Ok(None),
    }
}

fn needs(has: bool, operation: &str, since: Version, call: &Call) -> Result<(), Error> {
    if has {
        return Ok(());
    }
    let message = format!(
        "{operation} came with {since}; the configuration is {}",
        call.version
    );
    Err(Error::new(Code::INCOMPATIBLE_VERSION, message))
}

/// VERSION answers whatever stands on standard input, in its version where that is one.
fn version(input: &[u8]) -> Value {
    let config = PluginConfig::decode(input).ok();
    let asked_in = config.and_then(|config| {
        config
            .object()
            .filled_text("cniVersion")
            .ok()
            .flatten()
            .and_then(|text| text.parse().ok())
    });
    Supported::ALL.to_json(asked_in.unwrap_or(Version::NEWEST))
}
