//! Taking one address out of every range set.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_types::{Attachment, Cidr, Code, Error, IpConfig, PluginConfig, Success};

use super::claim::Claim;
use super::config::{self, Config};
use super::range::{Range, RangeSet};
use super::reservation::Reservation;
use super::store::Store;

/// Reserves an address of every set for an attachment, in the order of the sets; all of them or
/// none.
///
/// # Errors
/// Code 11 when a set is full, 7 for a wish that cannot be met, 5 when the disk fails.
pub(crate) fn reserve(
    config: &Config,
    network: &str,
    attachment: &Attachment,
) -> Result<Vec<IpConfig>, Error> {
    let store = Store::create(&config.folder(network))?;
    let held = store.indexed(attachment)?;
    if let Some(address) = held
        .iter()
        .find(|a| config.sets.iter().any(|s| s.range_of(**a).is_some()))
    {
        let Attachment {
            container_id,
            ifname,
        } = attachment;
        return Err(Error::new(
            Code::INVALID_CONFIG,
            format!("{address} is already reserved for {container_id} {ifname}: a second ADD"),
        ));
    }
    let wishes = wishes(config)?;
    let mut claim = Claim::new(&store, attachment)?;
    let mut ips = Vec::new();
    for (index, (set, wish)) in config.sets.iter().zip(wishes).enumerate() {
        let (address, range) = match wish {
            Some(address) => (address, take_wished(&mut claim, set, address)?),
            None => take_next(&store, &mut claim, index, set)?,
        };
        ips.push(ip_config(address, range));
    }
    claim.keep()?;
    Ok(ips)
}

/// As [`reserve`], with everything else that ADD answers.
///
/// # Errors
/// As [`reserve`].
pub(crate) fn add(
    config: &Config,
    network: &str,
    attachment: &Attachment,
) -> Result<Success, Error> {
    Ok(Success {
        interfaces: Vec::new(),
        ips: reserve(config, network, attachment)?,
        routes: config.routes.clone(),
        dns: config.dns.clone(),
    })
}

/// Whether an attachment holds an address.
///
/// # Errors
/// Code 3 when it doesn't, 5 when the disk fails.
pub(crate) fn check(plugin: &PluginConfig, attachment: &Attachment) -> Result<(), Error> {
    let store = Store::open(&config::folder(plugin)?)?;
    let held = store
        .map(|store| store.held_by(attachment))
        .transpose()?
        .unwrap_or_default();
    if held.is_empty() {
        let Attachment {
            container_id,
            ifname,
        } = attachment;
        let message = format!("no address is reserved for {container_id} {ifname}");
        return Err(Error::new(Code::UNKNOWN_CONTAINER, message));
    }
    Ok(())
}

/// Sees whether ADD could get addresses.
///
/// # Errors
/// Code 50 when a set is full or the disk fails.
pub(crate) fn status(config: &Config, network: &str) -> Result<(), Error> {
    let unavailable = |message| Err(Error::new(Code::NOT_AVAILABLE, message));
    let store = match Store::open(&config.folder(network)) {
        Ok(Some(store)) => store,
        Ok(None) => return Ok(()),
        Err(error) => return unavailable(error.message),
    };
    let taken = store.taken()?;
    for set in &config.sets {
        if set.after(None).all(|(address, _)| taken.contains(&address)) {
            return unavailable(format!("no address is free in {set}"));
        }
    }
    Ok(())
}

/// The addresses an attachment holds.
///
/// # Errors
/// Code 5 when the disk fails.
pub(crate) fn held_by(
    plugin: &PluginConfig,
    attachment: &Attachment,
) -> Result<Vec<IpAddr>, Error> {
    let store = Store::open(&config::folder(plugin)?)?;
    Ok(store
        .map(|store| store.held_by(attachment))
        .transpose()?
        .unwrap_or_default())
}

/// Gives back everything an attachment holds, and says what that was.
///
/// # Errors
/// Code 5 when the disk fails.
pub(crate) fn release(
    plugin: &PluginConfig,
    attachment: &Attachment,
) -> Result<Vec<IpAddr>, Error> {
    let store = Store::open(&config::folder(plugin)?)?;
    Ok(store
        .map(|store| store.release(attachment))
        .transpose()?
        .unwrap_or_default())
}

/// The attachments that have a reservation; of old files, which name no interface, none.
///
/// # Errors
/// Code 5 when the disk fails.
pub(crate) fn holders(plugin: &PluginConfig) -> Result<BTreeSet<Attachment>, Error> {
    let Some(store) = Store::open(&config::folder(plugin)?)? else {
        return Ok(BTreeSet::new());
    };
    let named = |held: Reservation| Attachment::new(&held.container_id, &held.ifname?).ok();
    Ok(store.all()?.into_iter().filter_map(named).collect())
}

/// Gives back what no kept attachment holds.
///
/// # Errors
/// Code 5 when the disk fails.
pub(crate) fn keep_only(plugin: &PluginConfig, kept: &BTreeSet<Attachment>) -> Result<(), Error> {
    let Some(store) = Store::open(&config::folder(plugin)?)? else {
        return Ok(());
    };
    store.keep_only(|reservation| kept.iter().any(|a| reservation.is_of(a)))
}

/// For each set the address that is wished for; every wish must find its set.
fn wishes(config: &Config) -> Result<Vec<Option<IpAddr>>, Error> {
    let mut left = config.requested.clone();
    let mut wishes = Vec::new();
    for set in &config.sets {
        let at = left
            .iter()
            .position(|address| set.range_of(*address).is_some());
        wishes.push(at.map(|at| left.remove(at)));
    }
    if left.is_empty() {
        return Ok(wishes);
    }
    let left: Vec<_> = left.iter().map(IpAddr::to_string).collect();
    let message = format!(
        "requested addresses fit no free range set: {}",
        left.join(", ")
    );
    Err(Error::new(Code::INVALID_CONFIG, message))
}

fn take_next<'a>(
    store: &Store,
    claim: &mut Claim<'_>,
    index: usize,
    set: &'a RangeSet,
) -> Result<(IpAddr, &'a Range), Error> {
    for (address, range) in set.after(store.last_reserved(index)) {
        if claim.take(address)? {
            store.set_last_reserved(index, address)?;
            return Ok((address, range));
        }
    }
    Err(Error::new(
        Code::TRY_AGAIN,
        format!("no address is free in {set}"),
    ))
}

fn take_wished<'a>(
    claim: &mut Claim<'_>,
    set: &'a RangeSet,
    address: IpAddr,
) -> Result<&'a Range, Error> {
    let refused = |why| {
        Err(Error::new(
            Code::INVALID_CONFIG,
            format!("requested {address} {why}"),
        ))
    };
    match set.range_of(address) {
        None => refused("is in no range"),
        Some(range) if range.gateway == address => refused("is the gateway"),
        Some(range) if claim.take(address)? => Ok(range),
        Some(_) => refused("is taken"),
    }
}

fn ip_config(address: IpAddr, range: &Range) -> IpConfig {
    // The range was read from a valid prefix of the same family.
    let address = Cidr::new(address, range.subnet.prefix()).unwrap_or(range.subnet);
    IpConfig {
        address,
        gateway: Some(range.gateway),
        interface: None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cni_types::Args;
    use serde_json::{Value, json};

    use super::*;

    fn config(dir: &Path, mut ipam: Value, ips: &[&str]) -> Config {
        ipam["dataDir"] = dir.to_str().unwrap().into();
        let document = json!({"name": "n", "ipam": ipam, "runtimeConfig": {"ips": ips}});
        let plugin = PluginConfig::decode(document.to_string().as_bytes()).unwrap();
        Config::read(&plugin, &Args::default()).unwrap()
    }

    fn dual(dir: &Path, ips: &[&str]) -> Config {
        let ranges = json!({"ranges": [[{"subnet": "10.0.0.0/29"}], [{"subnet": "fd00::/64"}]]});
        config(dir, ranges, ips)
    }

    fn get(config: &Config, id: &str) -> Result<Vec<String>, Error> {
        let ips = reserve(config, "n", &Attachment::new(id, "eth0").unwrap())?;
        Ok(ips.iter().map(|ip| ip.address.to_string()).collect())
    }

    fn release(dir: &Path, id: &str) {
        let store = Store::open(&dir.join("n")).unwrap().unwrap();
        store
            .release(&Attachment::new(id, "eth0").unwrap())
            .unwrap();
    }

    #[test]
    fn addresses_go_round_and_are_not_given_twice() {
        let dir = tempfile::tempdir().unwrap();
        let config = dual(dir.path(), &[]);
        assert_eq!(get(&config, "a").unwrap(), ["10.0.0.2/29", "fd00::2/64"]);
        assert_eq!(get(&config, "b").unwrap(), ["10.0.0.3/29", "fd00::3/64"]);
        release(dir.path(), "a");
        assert_eq!(get(&config, "c").unwrap(), ["10.0.0.4/29", "fd00::4/64"]);
        let error = get(&config, "c").unwrap_err();
        assert!(
            error.message.contains("10.0.0.4 is already reserved"),
            "{error}"
        );
        // The refused second ADD must not have taken anything from the first.
        release(dir.path(), "c");
        assert!(!dir.path().join("n/10.0.0.4").exists());
    }

    #[test]
    fn a_full_set_takes_nothing_from_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = json!({"ranges": [[{"subnet": "fd00::/64"}], [{"subnet": "10.0.0.0/29"}]]});
        let config = config(dir.path(), ranges, &[]);
        for id in ["a", "b", "c", "d", "e"] {
            get(&config, id).unwrap();
        }
        let error = get(&config, "f").unwrap_err();
        assert_eq!(error.code, Code::TRY_AGAIN);
        assert!(
            error.message.contains("10.0.0.1-10.0.0.6 in 10.0.0.0/29"),
            "{error}"
        );
        assert!(!dir.path().join("n/fd00::7").exists());
        release(dir.path(), "b");
        assert_eq!(get(&config, "f").unwrap()[1], "10.0.0.3/29");
    }

    #[test]
    fn wishes_are_met_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let wished = dual(dir.path(), &["10.0.0.5", "fd00::99/64"]);
        assert_eq!(get(&wished, "a").unwrap(), ["10.0.0.5/29", "fd00::99/64"]);
        let error = get(&wished, "b").unwrap_err();
        assert_eq!(error.message, "requested 10.0.0.5 is taken");
        assert_eq!(
            get(&dual(dir.path(), &["10.0.0.1"]), "b")
                .unwrap_err()
                .message,
            "requested 10.0.0.1 is the gateway"
        );
        assert!(get(&dual(dir.path(), &["192.0.2.1"]), "b").is_err());
        // Wishes do not move the round.
        assert_eq!(get(&dual(dir.path(), &[]), "b").unwrap()[0], "10.0.0.2/29");
    }
}
