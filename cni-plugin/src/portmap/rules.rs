//! Host ports in iptables, for nodes where others look for them there: the reference's chains and
//! rules, so that each plugin ends what the other began.
//!
//! As there, a port that two pods want goes to the first, and ::1 leads nowhere.

use std::collections::{BTreeMap, BTreeSet};

use cni_types::{Attachment, Cidr, Error, PortMapping};
use nodekit::nft;
use nodekit::xtables::{Family, Table};

use super::config::{Config, first_of_each, specific};
use crate::failure;
use crate::iptables::{
    self, Listing, change, comment_of, pod_chain, pod_comment, take_away, words,
};
use crate::masquerade::subnet;
use crate::tables::family_of;

/// What the names of pods' chains begin with.
pub(super) const CHAIN: &str = "CNI-DN-";

/// The chain of all pods' ports, and the chains that mark and masquerade.
const PORTS: &str = "CNI-HOSTPORT-DNAT";
const SET_MARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQUERADE: &str = "CNI-HOSTPORT-MASQ";

/// The mark unless `markMasqBit` says otherwise.
const DEFAULT_MARK: u32 = 1 << 13;

/// The most ports of one rule (XT_MULTI_PORTS, linux/netfilter/xt_multiport.h).
const MOST_PORTS: usize = 15;

/// What is said about this backend alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// Somebody else's chain that marks what is to be masqueraded, and sees to it.
    pub(super) set_mark: Option<String>,
    /// Word by word.
    pub(super) conditions_v4: Vec<String>,
    pub(super) conditions_v6: Vec<String>,
}

/// One pod's rules.
pub(super) struct Rules<'a> {
    network: &'a str,
    container_id: &'a str,
}

impl<'a> Rules<'a> {
    pub(super) fn new(network: &'a str, attachment: &'a Attachment) -> Self {
        let container_id = &attachment.container_id;
        Self {
            network,
            container_id,
        }
    }

    /// Has the ports lead to the pod, in place of what is left of an earlier try.
    ///
    /// # Errors
    /// Code 100 with what iptables said; then no rule of the pod's is there.
    pub(super) fn add(
        &self,
        config: &Config,
        options: &Options,
        addresses: &[Cidr],
    ) -> Result<(), Error> {
        for cidr in first_of_each(addresses) {
            let done = change(family(cidr), Table::Nat, |listing| {
                let mut commands = shared(listing, config, options);
                commands.extend(deletion(listing, &self.chain()));
                commands.push(vec!["-N".to_owned(), self.chain()]);
                let own = self.own(config, options, cidr);
                commands.extend(own.into_iter().map(|rule| words("-A", rule)));
                let entries = self.entries(config, options, cidr);
                commands.extend(entries.into_iter().map(|rule| words("-A", rule)));
                commands
            });
            if let Err(error) = done {
                return match self.remove() {
                    Ok(()) => Err(error),
                    Err(left) => Err(error.with_details(format!("undoing failed: {left}"))),
                };
            }
        }
        Ok(())
    }

    /// Takes the pod's rules and chain away.
    ///
    /// # Errors
    /// Code 100 with what iptables said.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let removed = [Family::Ip, Family::Ip6].map(|family| {
            take_away(family, Table::Nat, |listing| {
                deletion(listing, &self.chain())
            })
        });
        failure::joined(removed.into_iter().filter_map(Result::err).collect())
    }

    /// Sees whether all of it is there.
    ///
    /// # Errors
    /// Code 102 naming what isn't.
    pub(super) fn check(
        &self,
        config: &Config,
        options: &Options,
        addresses: &[Cidr],
    ) -> Result<(), Error> {
        for cidr in first_of_each(addresses) {
            let listing = iptables::read(family(cidr), Table::Nat)?;
            let chain = self.chain();
            let mut missing = shared(&listing, config, options);
            let own = self.own(config, options, cidr).into_iter();
            let lost = own.filter(|rule| !listing.rules.contains(rule));
            missing.extend(lost.map(|rule| words("-A", rule)));
            if leading_to(&listing, &chain).len() < self.entries(config, options, cidr).len() {
                missing.push(words("-j", vec![chain]));
            }
            if let Some(rule) = missing.first() {
                let message = format!("iptables have no rule {:?} any more", rule.join(" "));
                return Err(Error::new(failure::CHANGED, message));
            }
        }
        Ok(())
    }

    pub(super) fn chain(&self) -> String {
        pod_chain(CHAIN, self.network, self.container_id)
    }

    /// Which connections the pod's chain sees.
    fn entries(&self, config: &Config, options: &Options, cidr: Cidr) -> Vec<Vec<String>> {
        let conditions = if cidr.address().is_ipv4() {
            &options.conditions_v4
        } else {
            &options.conditions_v6
        };
        let mut ports: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for mapping in &config.mappings {
            let of_protocol = ports.entry(mapping.protocol.as_str()).or_default();
            of_protocol.push(mapping.host_port.to_string());
        }
        let comment = self.comment();
        let rule = |protocol: &str, ports: &[String]| {
            let mut rule = vec![PORTS.to_owned()];
            rule.extend(conditions.iter().cloned());
            let matched = ["-p", protocol, "-m", "comment", "--comment", &comment];
            rule.extend(matched.map(str::to_owned));
            let ports = ports.join(",");
            let chain = self.chain();
            let sent = ["-m", "multiport", "--dports", &ports, "-j", &chain];
            rule.extend(sent.map(str::to_owned));
            rule
        };
        ports
            .iter()
            .flat_map(|(protocol, all)| all.chunks(MOST_PORTS).map(|some| rule(protocol, some)))
            .collect()
    }

    fn comment(&self) -> String {
        pod_comment("dnat ", self.network, self.container_id)
    }

    /// What becomes of them, as iptables list it.
    fn own(&self, config: &Config, options: &Options, cidr: Cidr) -> Vec<Vec<String>> {
        let settings = &config.settings;
        let set_mark = options.set_mark.as_deref().unwrap_or(SET_MARK);
        let mut rules = Vec::new();
        for mapping in config.of_family(family_of(cidr.address())) {
            let rule = |source: Option<String>, target: &[&str]| {
                let mut rule = vec![self.chain()];
                if let Some(source) = source {
                    rule.extend(["-s".to_owned(), source]);
                }
                if let Some(ip) = specific(mapping) {
                    let host = format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
                    rule.extend(["-d".to_owned(), host]);
                }
                let (protocol, port) = (mapping.protocol.as_str(), mapping.host_port.to_string());
                let matched = ["-p", protocol, "-m", protocol, "--dport", &port];
                rule.extend(matched.map(str::to_owned));
                rule.extend(target.iter().map(|word| (*word).to_owned()));
                rule
            };
            let mark = ["-j", set_mark];
            if settings.snat && settings.masquerade_all {
                rules.push(rule(None, &mark));
            } else if settings.snat {
                rules.push(rule(Some(subnet(cidr).to_string()), &mark));
                if cidr.address().is_ipv4() {
                    rules.push(rule(Some("127.0.0.1/32".to_owned()), &mark));
                }
            }
            let target = destination(cidr, mapping);
            rules.push(rule(None, &["-j", "DNAT", "--to-destination", &target]));
        }
        rules
    }
}

fn family(cidr: Cidr) -> Family {
    match family_of(cidr.address()) {
        nft::Family::Ip => Family::Ip,
        _ => Family::Ip6,
    }
}

fn destination(cidr: Cidr, mapping: &PortMapping) -> String {
    std::net::SocketAddr::new(cidr.address(), mapping.container_port).to_string()
}

/// The rules of all pods' ports that lead to a chain.
fn leading_to<'a>(listing: &'a Listing, chain: &str) -> Vec<&'a Vec<String>> {
    let leads = |rule: &&Vec<String>| {
        rule.first().is_some_and(|first| first == PORTS)
            && rule.last().is_some_and(|last| last == chain)
    };
    listing.rules.iter().filter(leads).collect()
}

/// The commands that take a pod's chain away.
fn deletion(listing: &Listing, chain: &str) -> Vec<Vec<String>> {
    let leading = leading_to(listing, chain).into_iter();
    let mut commands: Vec<_> = leading.map(|rule| words("-D", rule.clone())).collect();
    if listing.chains.contains(chain) {
        commands.extend(["-F", "-X"].map(|command| words(command, vec![chain.to_owned()])));
    }
    commands
}

/// The commands that make what all pods share, where it is missing.
fn shared(listing: &Listing, config: &Config, options: &Options) -> Vec<Vec<String>> {
    let mark = config.settings.mark.unwrap_or(DEFAULT_MARK);
    let mark = format!("{mark:#x}/{mark:#x}");
    let rule = |text: &[&str]| text.iter().map(|word| (*word).to_owned()).collect();
    let comment = |from, text, to: &[&str]| {
        let mut words = vec![from, "-m", "comment", "--comment", text];
        words.extend(to);
        rule(&words)
    };
    let mut chains = vec![PORTS];
    let local = ["-m", "addrtype", "--dst-type", "LOCAL", "-j", PORTS];
    let mut rules: Vec<(&str, Vec<String>)> = ["PREROUTING", "OUTPUT"]
        .map(|from| ("-A", rule(&[&[from][..], &local].concat())))
        .into();
    if config.settings.snat && options.set_mark.is_none() {
        chains.extend([SET_MARK, MASQUERADE]);
        let set = ["-j", "MARK", "--set-xmark", &mark];
        rules.push(("-A", comment(SET_MARK, "CNI portfwd masquerade mark", &set)));
        let masquerade = [
            MASQUERADE,
            "-m",
            "mark",
            "--mark",
            &mark,
            "-j",
            "MASQUERADE",
        ];
        rules.push(("-A", rule(&masquerade)));
        let jump = ["-j", MASQUERADE];
        let why = "CNI portfwd requiring masquerade";
        // Before others masquerade for their own reasons.
        rules.push(("-I", comment("POSTROUTING", why, &jump)));
    }
    let missing = chains
        .into_iter()
        .filter(|chain| !listing.chains.contains(*chain));
    let mut commands: Vec<_> = missing
        .map(|chain| vec!["-N".to_owned(), chain.to_owned()])
        .collect();
    let missing = rules
        .into_iter()
        .filter(|(_, rule)| !listing.rules.contains(rule));
    commands.extend(missing.map(|(command, rule)| words(command, rule)));
    commands
}

/// Takes the chains of this network's pods away whose containers are not among the kept.
///
/// # Errors
/// Code 100 with what iptables said.
pub(super) fn keep_only(network: &str, kept: &BTreeSet<Attachment>) -> Result<(), Error> {
    let start = format!("dnat name: \"{network}\" id: \"");
    let goes = |rule: &Vec<String>| {
        let comment = comment_of(rule).and_then(|text| text.strip_prefix(&start));
        let id = comment.and_then(|rest| rest.strip_suffix('"'));
        id.is_some_and(|id| kept.iter().all(|one| one.container_id != id))
    };
    let removed = [Family::Ip, Family::Ip6].map(|family| {
        take_away(family, Table::Nat, |listing| {
            let ports = |rule: &&Vec<String>| rule.first().is_some_and(|first| first == PORTS);
            let stale = listing.rules.iter().filter(ports).filter(|rule| goes(rule));
            let chains: BTreeSet<_> = stale.filter_map(|rule| rule.last()).collect();
            let deletions = chains
                .into_iter()
                .flat_map(|chain| deletion(listing, chain));
            deletions.collect()
        })
    });
    failure::joined(removed.into_iter().filter_map(Result::err).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_references() {
        let attachment = Attachment::new("abc", "eth0").unwrap();
        let rules = Rules::new("net", &attachment);
        // printf netabc | sha512sum
        assert_eq!(rules.chain(), "CNI-DN-3ce8a0924fdef86d56ad1");
        assert_eq!(rules.comment(), r#"dnat name: "net" id: "abc""#);
        let long = Attachment::new(&"a".repeat(200), "eth0").unwrap();
        let network = "n".repeat(100);
        assert_eq!(Rules::new(&network, &long).comment().len(), 255);
    }
}
