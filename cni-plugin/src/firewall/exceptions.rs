//! Pods as exceptions in iptables, for nodes where these drop what they don't know: the
//! reference's chains and rules, each with its owner in its comment.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_types::{Attachment, Error};
use nodekit::xtables::{Family, Table};

use crate::failure;
use crate::iptables::{self, Listing, change, comment_of, take_away, words};
use crate::tables::{Owner, network_tag};

/// The chain of all pods' rules.
pub(super) const CHAIN: &str = "CNI-FORWARD";

/// The comments of the jumps, word by word as the reference has them, which looks for them.
const JUMP: &str = "CNI firewall plugin rules";
const ADMIN_JUMP: &str = "CNI firewall plugin admin overrides";

/// What comments begin with. No word of an owner has the separator in it.
const PREFIX: &str = "causeway-cni";
const SEPARATOR: char = '/';

/// One attachment's rules.
#[derive(Debug)]
pub(super) struct Exceptions {
    comment: String,
}

impl Exceptions {
    pub(super) fn of(owner: &Owner) -> Self {
        let Attachment {
            container_id,
            ifname,
        } = owner.attachment();
        let words = [PREFIX, container_id, ifname, owner.network()];
        Self {
            comment: words.join(&SEPARATOR.to_string()),
        }
    }

    /// Lets connections of these addresses through, and what belongs to those that they have.
    /// Chains and jumps are made where they are missing.
    ///
    /// # Errors
    /// Code 100 with what iptables said; then no rule of the attachment's is there.
    pub(super) fn add(&self, admin_chain: &str, addresses: &[IpAddr]) -> Result<(), Error> {
        for (family, addresses) in by_family(addresses) {
            let done = change(family, Table::Filter, |listing| {
                let mut rules = missing_jumps(listing, admin_chain);
                let wanted = addresses.iter().flat_map(|address| self.rules(*address));
                rules.extend(
                    wanted
                        .filter(|rule| !listing.rules.contains(rule))
                        .map(|rule| words("-A", rule)),
                );
                rules
            });
            if let Err(error) = done {
                return match self.remove(&[]) {
                    Ok(()) => Err(error),
                    Err(left) => Err(error.with_details(format!("undoing failed: {left}"))),
                };
            }
        }
        Ok(())
    }

    /// Takes the attachment's rules away, and those that the reference made for its addresses.
    ///
    /// # Errors
    /// Code 100 with what iptables said.
    pub(super) fn remove(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        let references: Vec<_> = addresses.iter().flat_map(|a| reference_rules(*a)).collect();
        remove_where(&|rule| {
            comment_of(rule) == Some(&self.comment) || references.iter().any(|known| known == rule)
        })
    }

    /// Sees whether all of it is there.
    ///
    /// # Errors
    /// Code 102 naming the rule that isn't.
    pub(super) fn check(&self, admin_chain: &str, addresses: &[IpAddr]) -> Result<(), Error> {
        for (family, addresses) in by_family(addresses) {
            let listing = iptables::read(family, Table::Filter)?;
            let mut missing = missing_jumps(&listing, admin_chain);
            let wanted = addresses.iter().flat_map(|address| self.rules(*address));
            missing.extend(
                wanted
                    .filter(|rule| !listing.rules.contains(rule))
                    .map(|rule| words("-A", rule)),
            );
            if let Some(rule) = missing.first() {
                let message = format!("iptables have no rule {:?} any more", rule.join(" "));
                return Err(Error::new(failure::CHANGED, message));
            }
        }
        Ok(())
    }

    /// As iptables list them.
    fn rules(&self, address: IpAddr) -> [Vec<String>; 2] {
        reference_rules(address).map(|mut rule| {
            let target = rule.len() - 2;
            let comment = ["-m", "comment", "--comment", &self.comment].map(str::to_owned);
            rule.splice(target..target, comment);
            rule
        })
    }
}

/// The reference's rules for a pod, less the command.
fn reference_rules(address: IpAddr) -> [Vec<String>; 2] {
    let host = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
    let established = "-m conntrack --ctstate RELATED,ESTABLISHED";
    let rule = |text: String| text.split(' ').map(str::to_owned).collect();
    [
        rule(format!("{CHAIN} -d {host} {established} -j ACCEPT")),
        rule(format!("{CHAIN} -s {host} -j ACCEPT")),
    ]
}

/// Takes the rules of this network's attachments away that are not among the kept.
///
/// # Errors
/// Code 100 with what iptables said.
pub(super) fn keep_only(network: &str, kept: &BTreeSet<Attachment>) -> Result<(), Error> {
    let tag = network_tag(network);
    remove_where(&|rule| {
        let comment = comment_of(rule).map(String::as_str).unwrap_or_default();
        let mut parts = comment.split(SEPARATOR);
        let mut part = || parts.next().unwrap_or_default();
        let (prefix, container_id, ifname, network) = (part(), part(), part(), part());
        prefix == PREFIX
            && network == tag
            && !Attachment::new(container_id, ifname).is_ok_and(|a| kept.contains(&a))
    })
}

fn remove_where(goes: &dyn Fn(&[String]) -> bool) -> Result<(), Error> {
    let mut errors = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        let done = take_away(family, Table::Filter, |listing| {
            let going = listing.rules.iter().filter(|rule| goes(rule));
            going.map(|rule| words("-D", rule.clone())).collect()
        });
        errors.extend(done.err());
    }
    failure::joined(errors)
}

fn by_family(addresses: &[IpAddr]) -> Vec<(Family, Vec<IpAddr>)> {
    let (ipv4, ipv6): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
    let both = [(Family::Ip, ipv4), (Family::Ip6, ipv6)];
    both.into_iter()
        .filter(|(_, addresses)| !addresses.is_empty())
        .collect()
}

/// The commands that make chains and the jumps to them, first of all rules there.
fn missing_jumps(listing: &Listing, admin_chain: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for chain in [CHAIN, admin_chain] {
        if !listing.chains.contains(chain) {
            commands.push(vec!["-N".to_owned(), chain.to_owned()]);
        }
    }
    for (from, comment, to) in [("FORWARD", JUMP, CHAIN), (CHAIN, ADMIN_JUMP, admin_chain)] {
        let jump = [from, "-m", "comment", "--comment", comment, "-j", to].map(str::to_owned);
        if !listing.rules.iter().any(|rule| *rule == jump) {
            commands.push(words("-I", jump.to_vec()));
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_the_references_rules_are_told_apart() {
        let owner = Owner::new("net", &Attachment::new("a", "eth0").unwrap());
        let address: IpAddr = "10.1.0.5".parse().unwrap();
        let [to, from] = Exceptions::of(&owner).rules(address);
        assert_eq!(
            to.join(" "),
            "CNI-FORWARD -d 10.1.0.5/32 -m conntrack --ctstate RELATED,ESTABLISHED -m comment \
             --comment causeway-cni/a/eth0/net -j ACCEPT"
        );
        assert_eq!(comment_of(&from).unwrap(), "causeway-cni/a/eth0/net");
        assert!(
            reference_rules(address)
                .iter()
                .all(|rule| comment_of(rule).is_none())
        );
    }
}
