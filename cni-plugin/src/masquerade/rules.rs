//! Masquerading by iptables, for nodes where others look for it there: the reference's chains and
//! rules, so that each plugin ends what the other began.
//!
//! As there, a container has one chain in a network, whatever its interfaces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_types::{Attachment, Cidr, Error};
use nodekit::xtables::{Family, Table};

use super::{multicast, subnet};
use crate::failure;
use crate::iptables::{self, Listing, change, comment_of, pod_chain, pod_comment, words};

/// What the names of pods' chains begin with.
pub(super) const CHAIN: &str = "CNI-";

/// The chain that every packet on its way out passes.
const POSTROUTING: &str = "POSTROUTING";

/// One pod's rules.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    chain: String,
    comment: String,
    /// Destinations beside the pod's own subnet that see the pod's own address.
    not_masqueraded: &'a [Cidr],
}

impl<'a> Rules<'a> {
    pub(super) fn new(network: &str, attachment: &Attachment, not_masqueraded: &'a [Cidr]) -> Self {
        Self {
            chain: pod_chain(CHAIN, network, &attachment.container_id),
            comment: pod_comment("", network, &attachment.container_id),
            not_masqueraded,
        }
    }

    /// The pod's chain.
    pub(super) fn chain(&self) -> &str {
        &self.chain
    }

    /// Has the addresses masqueraded; both families' rules, or none.
    ///
    /// # Errors
    /// Code 100 with what iptables said.
    pub(crate) fn add(&self, addresses: &[Cidr]) -> Result<(), Error> {
        for (family, cidrs) in by_family(addresses) {
            let done = change(family, Table::Nat, |listing| self.missing(listing, &cidrs));
            if let Err(error) = done {
                let addresses: Vec<_> = addresses.iter().map(|cidr| cidr.address()).collect();
                return match self.remove(&addresses) {
                    Ok(()) => Err(error),
                    Err(left) => Err(error.with_details(format!("undoing failed: {left}"))),
                };
            }
        }
        Ok(())
    }

    /// Sees whether all of it is there.
    ///
    /// # Errors
    /// Code 102 naming what isn't.
    pub(crate) fn check(&self, addresses: &[Cidr]) -> Result<(), Error> {
        for (family, cidrs) in by_family(addresses) {
            let listing = iptables::read(family, Table::Nat)?;
            if let Some(rule) = self.missing(&listing, &cidrs).first() {
                let message = format!("iptables have no rule {:?} any more", rule.join(" "));
                return Err(Error::new(failure::CHANGED, message));
            }
        }
        Ok(())
    }

    /// Takes these addresses' rules away, and the chain once nothing leads there; all of it where
    /// no address is known.
    ///
    /// # Errors
    /// Code 100 with what iptables said.
    pub(crate) fn remove(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        let sources: Vec<_> = addresses.iter().map(|address| host(*address)).collect();
        let goes = |jump: &[String]| sources.is_empty() || jump.iter().any(|w| sources.contains(w));
        take_away(&|listing| deletion(listing, &self.chain, &goes))
    }

    /// The commands that make what isn't there, for addresses of one family.
    fn missing(&self, listing: &Listing, cidrs: &[Cidr]) -> Vec<Vec<String>> {
        let rule = |chain: &str, matched: &[&str], target: &str| {
            let said = ["-m", "comment", "--comment", &self.comment, "-j", target];
            let all = [&[chain], matched, &said].concat();
            all.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let ipv4 = cidrs.iter().any(|cidr| cidr.address().is_ipv4());
        let own = cidrs.iter().chain(self.not_masqueraded);
        let own = own.filter(|cidr| cidr.address().is_ipv4() == ipv4);
        let mut exempt: Vec<String> = Vec::new();
        for cidr in own.map(|cidr| subnet(*cidr)) {
            let text = cidr.to_string();
            if !exempt.contains(&text) {
                exempt.push(text);
            }
        }
        let chain = &self.chain;
        let mut commands = Vec::new();
        if !listing.chains.contains(chain) {
            commands.push(vec!["-N".to_owned(), chain.clone()]);
        }
        let groups = multicast(ipv4).map(|groups| groups.to_string());
        let groups = groups.unwrap_or_default();
        let masquerade = rule(chain, &["!", "-d", &groups], "MASQUERADE");
        let is_there = |rule: &Vec<String>| listing.rules.contains(rule);
        // Before the last rule where that is there already.
        let command = if is_there(&masquerade) { "-I" } else { "-A" };
        let accepted = exempt.iter().map(|to| match to.ends_with("/0") {
            // What is everywhere, iptables don't list.
            true => rule(chain, &[], "ACCEPT"),
            false => rule(chain, &["-d", to], "ACCEPT"),
        });
        let accepted = accepted.filter(|rule| !is_there(rule));
        commands.extend(accepted.map(|rule| words(command, rule)));
        let sources = cidrs.iter().map(|cidr| host(cidr.address()));
        let jumps = sources.map(|source| rule(POSTROUTING, &["-s", &source], chain));
        let rest = [masquerade].into_iter().chain(jumps);
        commands.extend(
            rest.filter(|rule| !is_there(rule))
                .map(|rule| words("-A", rule)),
        );
        commands
    }
}

/// Takes the chains of this network's pods away whose containers are not among the kept.
///
/// # Errors
/// Code 100 with what iptables said.
pub(super) fn keep_only(network: &str, kept: &BTreeSet<Attachment>) -> Result<(), Error> {
    let start = format!("name: \"{network}\" id: \"");
    let kept = kept
        .iter()
        .map(|kept| pod_chain(CHAIN, network, &kept.container_id));
    let kept: BTreeSet<_> = kept.collect();
    take_away(&|listing| {
        let of_network = listing.rules.iter().filter(|rule| {
            rule.first().is_some_and(|first| first == POSTROUTING)
                && comment_of(rule).is_some_and(|comment| comment.starts_with(&start))
        });
        let chains: BTreeSet<_> = of_network.filter_map(|rule| rule.last()).collect();
        let stale = chains.into_iter().filter(|chain| !kept.contains(*chain));
        stale
            .flat_map(|chain| deletion(listing, chain, &|_| true))
            .collect()
    })
}

fn take_away(commands: &dyn Fn(&Listing) -> Vec<Vec<String>>) -> Result<(), Error> {
    let done =
        [Family::Ip, Family::Ip6].map(|family| iptables::take_away(family, Table::Nat, commands));
    failure::joined(done.into_iter().filter_map(Result::err).collect())
}

/// The commands that take those jumps to a chain away, and the chain after the last one.
fn deletion(listing: &Listing, chain: &str, goes: &dyn Fn(&[String]) -> bool) -> Vec<Vec<String>> {
    let leading = listing.rules.iter().filter(|rule| {
        rule.first().is_some_and(|first| first == POSTROUTING)
            && rule.last().is_some_and(|last| last == chain)
    });
    let (going, left): (Vec<_>, Vec<_>) = leading.partition(|rule| goes(rule));
    let going = going.into_iter().cloned();
    let mut commands: Vec<_> = going.map(|rule| words("-D", rule)).collect();
    if left.is_empty() && listing.chains.contains(chain) {
        commands.extend(["-F", "-X"].map(|command| words(command, vec![chain.to_owned()])));
    }
    commands
}

/// An address alone, as iptables list it.
fn host(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn by_family(addresses: &[Cidr]) -> Vec<(Family, Vec<Cidr>)> {
    let (ipv4, ipv6): (Vec<Cidr>, Vec<Cidr>) =
        addresses.iter().partition(|cidr| cidr.address().is_ipv4());
    let both = [(Family::Ip, ipv4), (Family::Ip6, ipv6)];
    both.into_iter()
        .filter(|(_, cidrs)| !cidrs.is_empty())
        .collect()
}
