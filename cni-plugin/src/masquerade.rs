//! Traffic of pods that leaves their network gets the node's address.
//!
//! One map of each family leads from a pod's address to its network's chain, so that a pod costs
//! one element, in time and in rules.

mod rules;

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_types::{Attachment, Cidr, Code, Error, Object};
use nodekit::nft::{
    BaseChain, Chain, ChainType, CmpOp, Data, Datatype, Expr, Family, Hook, MapData, NatFlags,
    Register, Set, Verdict,
};

use nodekit::xtables::Table;

use crate::call::Call;
use crate::rollback::{Rollback, Step};
use crate::tables::{Entries, Key, Scaffold, Tables, address_key, family_of, network_tag};
use crate::{iptables, keys as common};
use rules::Rules;

/// The map from a pod's address to its network's chain.
const MAP: &str = "masquerade-pods";

/// The chain that every packet on its way out passes.
const POSTROUTING: &str = "postrouting";

/// `srcnat`, NF_IP_PRI_NAT_SRC (linux/netfilter_ipv4.h).
const SRCNAT: i32 = 100;

const REGISTER: Register = Register::word(0);

/// What the configuration says of masquerading, where it asks for it.
#[derive(Debug)]
pub(crate) struct Config {
    /// Destinations beside the pod's own subnet that see the pod's own address.
    pub(crate) not_masqueraded: Vec<Cidr>,
    /// By rules of iptables, in place of nf_tables' own.
    iptables: bool,
}

impl Config {
    /// Reads `ipMasq`, `ipMasqBackend` and `nonMasqueradeCIDRs`; `None` without `ipMasq`.
    ///
    /// # Errors
    /// Code 2 for a backend that there isn't, 6 or 7 for what is wrong otherwise.
    pub(crate) fn read(object: &Object<'_>) -> Result<Option<Self>, Error> {
        let iptables = match object.filled_text("ipMasqBackend")? {
            None | Some("nftables") => false,
            Some("iptables") => true,
            Some(_) => return Err(object.unsupported("ipMasqBackend", "nftables or iptables")),
        };
        let not_masqueraded = common::cidrs(object, "nonMasqueradeCIDRs")?;
        let wanted = object.boolean("ipMasq")?.unwrap_or_default();
        Ok(wanted.then_some(Self {
            not_masqueraded,
            iptables,
        }))
    }

    /// The attachment's elements, unless the backend is another.
    pub(crate) fn enter(&self, entries: &mut Entries, network: &str, addresses: &[Cidr]) {
        if !self.iptables {
            enter(entries, network, addresses, &self.not_masqueraded);
        }
    }

    /// The attachment's rules of iptables, if that is the backend.
    pub(crate) fn rules(&self, network: &str, attachment: &Attachment) -> Option<Rules<'_>> {
        let rules = || Rules::new(network, attachment, &self.not_masqueraded);
        self.iptables.then(rules)
    }

    /// The step of ADD that makes these rules, if any.
    ///
    /// # Errors
    /// Code 100 with what iptables said; then none is there.
    pub(crate) fn add_rules<'a>(
        &'a self,
        rollback: &mut Rollback<'a>,
        call: &Call,
        attachment: &Attachment,
        addresses: &[Cidr],
    ) -> Result<(), Error> {
        let Some(rules) = self.rules(call.config.name(), attachment) else {
            return Ok(());
        };
        let rules = rollback.step(Step::Iptables, || rules.add(addresses).map(|()| rules))?;
        let addresses: Vec<_> = addresses.iter().map(|cidr| cidr.address()).collect();
        rollback.undo_by(Step::Iptables, move || rules.remove(&addresses));
        Ok(())
    }

    /// Sees whether the attachment's rules of iptables are all there.
    ///
    /// # Errors
    /// Code 102 naming what isn't.
    pub(crate) fn check_rules(
        &self,
        call: &Call,
        attachment: &Attachment,
        addresses: &[Cidr],
    ) -> Result<(), Error> {
        match self.rules(call.config.name(), attachment) {
            Some(rules) => rules.check(addresses),
            None => Ok(()),
        }
    }

    /// Sees whether the backend answers.
    ///
    /// # Errors
    /// Code 50 where it doesn't.
    pub(crate) fn probe(&self) -> Result<(), Error> {
        let probed = match self.iptables {
            true => iptables::probe(),
            false => Tables::open().and_then(|mut tables| tables.probe()),
        };
        probed.map_err(|error| Error {
            code: Code::NOT_AVAILABLE,
            ..error
        })
    }
}

/// Whether a call's configuration, readable or not, asks for masquerading by nf_tables.
pub(crate) fn needs_tables(call: &Call) -> bool {
    matches!(Config::read(&call.config.object()), Ok(Some(config)) if !config.iptables)
}

/// Takes an attachment's rules of iptables away, where the configuration asks for them: those of
/// these addresses, or all where none is known.
///
/// # Errors
/// Code 100 with what iptables said.
pub(crate) fn remove_rules(
    call: &Call,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    // A configuration that can't be read asks for nothing.
    let config = Config::read(&call.config.object()).ok().flatten();
    match config.and_then(|c| Some(c.rules(call.config.name(), attachment)?.remove(addresses))) {
        Some(done) => done,
        None => Ok(()),
    }
}

/// Takes away the rules of iptables that an attachment has although the configuration asks for
/// none: it was changed meanwhile, or the reference made them.
///
/// # Errors
/// Code 100 with what iptables said.
pub(crate) fn remove_unasked(
    tables: &mut Tables,
    call: &Call,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    if is_by_iptables(call) {
        return Ok(());
    }
    let rules = Rules::new(call.config.name(), attachment, &[]);
    match tables.iptables_have(Table::Nat, rules.chain()) {
        true => rules.remove(addresses),
        false => Ok(()),
    }
}

/// Takes away the rules of iptables that attachments to this network have which are not kept.
///
/// # Errors
/// Code 100 with what iptables said.
pub(crate) fn collect_rules(call: &Call, kept: &BTreeSet<Attachment>) -> Result<(), Error> {
    let seen = || Tables::open().is_ok_and(|mut t| t.iptables_have_any(Table::Nat, rules::CHAIN));
    match is_by_iptables(call) || seen() {
        true => rules::keep_only(call.config.name(), kept),
        false => Ok(()),
    }
}

/// Whether a call's configuration, which can be read, asks for masquerading by iptables.
fn is_by_iptables(call: &Call) -> bool {
    matches!(Config::read(&call.config.object()), Ok(Some(config)) if config.iptables)
}

/// Has the addresses of an attachment masqueraded, except towards their own subnets, multicast
/// groups and `not_masqueraded`.
fn enter(entries: &mut Entries, network: &str, addresses: &[Cidr], not_masqueraded: &[Cidr]) {
    for cidr in addresses {
        let address = cidr.address();
        let chain = NetworkChain::new(network, *cidr, not_masqueraded);
        let data = Data::Verdict(Verdict::Goto(chain.name.clone()));
        entries.needs(family_of(address), chain.scaffold());
        entries.put(
            Key::of_address(MAP, address),
            Some(data),
            format!("masquerading of {address}"),
        );
    }
}

/// Where an attachment's elements are.
pub(crate) fn keys(addresses: &[IpAddr]) -> impl Iterator<Item = Key> {
    addresses
        .iter()
        .map(|address| Key::of_address(MAP, *address))
}

/// The chain of a network. Its name follows from its rules, so that a chain never changes: a
/// changed configuration makes another one for the pods to come.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NetworkChain {
    name: String,
    network: String,
    ipv4: bool,
    /// Destinations that see the pod's own address.
    exempt: Vec<Cidr>,
}

impl NetworkChain {
    /// The chain for a pod with this address, whose prefix is its subnet's.
    fn new(network: &str, address: Cidr, not_masqueraded: &[Cidr]) -> Self {
        let ipv4 = address.address().is_ipv4();
        let of_family = |cidr: &&Cidr| cidr.address().is_ipv4() == ipv4;
        let mut exempt = vec![subnet(address)];
        exempt.extend(
            not_masqueraded
                .iter()
                .filter(of_family)
                .map(|cidr| subnet(*cidr)),
        );
        exempt.extend(multicast(ipv4));
        exempt.sort();
        exempt.dedup();
        let mut said = vec![network.to_owned()];
        said.extend(exempt.iter().map(Cidr::to_string));
        let hash = crate::hash::fold(&said.iter().map(String::as_bytes).collect::<Vec<_>>());
        // The kernel takes 127 bytes; the hash tells apart what is cut.
        let short: String = network.chars().take(80).collect();
        let name = format!("{short}-{:08x}", u32::from_be_bytes(hash));
        Self {
            name,
            network: network.to_owned(),
            ipv4,
            exempt,
        }
    }

    /// Everything that an element for this chain needs.
    fn scaffold(&self) -> Scaffold {
        let (family, key) = if self.ipv4 {
            (Family::Ip, Datatype::Ipv4Addr)
        } else {
            (Family::Ip6, Datatype::Ipv6Addr)
        };
        let base = BaseChain::new(ChainType::Nat, Hook::Postrouting, SRCNAT);
        let source = Expr::source_address(family, REGISTER);
        let look_up = vec![source, Expr::vmap(MAP, REGISTER)];

        let chain = Chain {
            comment: Some(network_tag(&self.network)),
            ..Chain::regular(&self.name)
        };
        let mut rules = Vec::new();
        for destination in &self.exempt {
            let mut exprs = vec![Expr::destination_address(family, REGISTER)];
            exprs.extend(is_in(*destination));
            exprs.push(Expr::Verdict(Verdict::Return));
            rules.push(exprs);
        }
        // Random source ports keep parallel connections to one service from colliding.
        let flags = NatFlags {
            fully_random: true,
            ..NatFlags::default()
        };
        rules.push(vec![Expr::Masquerade { flags }]);
        Scaffold {
            sets: vec![Set::map(MAP, key, MapData::Verdict)],
            chains: vec![
                (Chain::base(POSTROUTING, base), vec![look_up]),
                (chain, rules),
            ],
        }
    }
}

/// The register holds an address of the subnet.
pub(crate) fn is_in(subnet: Cidr) -> Vec<Expr> {
    let bytes = if subnet.address().is_ipv4() { 4 } else { 16 };
    let value = address_key(subnet.address());
    vec![
        Expr::mask_prefix(REGISTER, subnet.prefix(), bytes),
        Expr::Cmp {
            op: CmpOp::Eq,
            from: REGISTER,
            value,
        },
    ]
}

/// The subnet of an address: the bits behind the prefix are zero.
pub(crate) fn subnet(cidr: Cidr) -> Cidr {
    let prefix = cidr.prefix();
    let network: IpAddr = match cidr.address() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            std::net::Ipv4Addr::from(u32::from(address) & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            std::net::Ipv6Addr::from(u128::from(address) & mask).into()
        }
    };
    // The same prefix fits the same family.
    Cidr::new(network, prefix).unwrap_or(cidr)
}

/// Where all groups' traffic goes: 224.0.0.0/4 (RFC 5771), ff00::/8 (RFC 4291).
fn multicast(ipv4: bool) -> Option<Cidr> {
    let groups = if ipv4 { "224.0.0.0/4" } else { "ff00::/8" };
    groups.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn pods_of_one_network_share_a_chain_until_its_rules_change() {
        let chain = |address, more: &[Cidr]| NetworkChain::new("net", cidr(address), more);
        let cluster = [cidr("10.0.0.0/8"), cidr("fd00::/8")];
        assert_eq!(chain("10.1.0.5/16", &[]), chain("10.1.7.9/16", &[]));
        assert_ne!(
            chain("10.1.0.5/16", &[]).name,
            chain("10.1.0.5/24", &[]).name
        );
        assert_ne!(
            chain("10.1.0.5/16", &[]).name,
            chain("10.1.0.5/16", &cluster).name
        );
        assert_ne!(
            NetworkChain::new("other", cidr("10.1.0.5/16"), &[]).name,
            chain("10.1.0.5/16", &[]).name
        );
        let exempt: Vec<_> = chain("10.1.0.5/16", &cluster)
            .exempt
            .iter()
            .map(Cidr::to_string)
            .collect();
        assert_eq!(exempt, ["10.0.0.0/8", "10.1.0.0/16", "224.0.0.0/4"]);
        let exempt: Vec<_> = chain("fd01::5/64", &cluster)
            .exempt
            .iter()
            .map(Cidr::to_string)
            .collect();
        assert_eq!(exempt, ["fd00::/8", "fd01::/64", "ff00::/8"]);
    }

    #[test]
    fn names_fit_the_kernel() {
        let long = "n".repeat(200);
        let chain = NetworkChain::new(&long, cidr("0.0.0.0/0"), &[]);
        assert!(chain.name.len() <= 127);
        let other = NetworkChain::new(&long[1..], cidr("0.0.0.0/0"), &[]);
        assert_ne!(chain.name, other.name);
    }

    #[test]
    fn a_subnet_has_no_host_bits() {
        assert_eq!(subnet(cidr("10.1.2.3/0")).to_string(), "0.0.0.0/0");
        assert_eq!(subnet(cidr("10.1.2.3/20")).to_string(), "10.1.0.0/20");
        assert_eq!(subnet(cidr("10.1.2.3/32")).to_string(), "10.1.2.3/32");
        assert_eq!(subnet(cidr("fd00:1::5/0")).to_string(), "::/0");
        assert_eq!(subnet(cidr("fd00:1::5/32")).to_string(), "fd00:1::/32");
    }
}
