//! Ranges of addresses and the order in which they are given out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_types::{Cidr, Code, Error, IpRange};

/// A range of one subnet, both ends included, with its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: Cidr,
    pub(crate) gateway: IpAddr,
    first: u128,
    last: u128,
}

/// Ranges of one family, out of which a pod gets one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<Range>);

/// An address as a number of its family's width.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::INVALID_CONFIG, message)
}

/// The first and the last address of a subnet that has room for a gateway and a pod.
fn ends(subnet: Cidr) -> Result<(u128, u128), Error> {
    let ipv4 = subnet.address().is_ipv4();
    let host_bits = (if ipv4 { 32 } else { 128 }) - u32::from(subnet.prefix());
    if host_bits < 2 {
        let least = if ipv4 { "/30" } else { "/126" };
        let message = format!("subnet {subnet} is too small; accepted is {least} or larger");
        return Err(invalid(message));
    }
    let base = number(subnet.address());
    let hosts = 1_u128
        .checked_shl(host_bits)
        .map_or(u128::MAX, |size| size - 1);
    if base & hosts != 0 {
        return Err(invalid(format!("subnet {subnet} has host bits set")));
    }
    Ok((base, base | hosts))
}

impl Range {
    /// Fills in what was left out: the first address as gateway, the first and the last usable
    /// address as ends.
    pub(crate) fn new(said: &IpRange) -> Result<Self, Error> {
        let IpRange {
            subnet,
            range_start,
            range_end,
            gateway,
        } = said;
        let ipv4 = subnet.address().is_ipv4();
        let (base, end_of_subnet) = ends(*subnet)?;
        let inside = |name: &str, address: IpAddr| {
            let number = number(address);
            if address.is_ipv4() == ipv4 && (base..=end_of_subnet).contains(&number) {
                Ok(number)
            } else {
                Err(invalid(format!(
                    "{name} {address} is not in subnet {subnet}"
                )))
            }
        };
        let first = range_start.map_or(Ok(base + 1), |start| inside("rangeStart", start))?;
        // The last IPv4 address of a subnet is its broadcast address.
        let usable = if ipv4 {
            end_of_subnet - 1
        } else {
            end_of_subnet
        };
        let last = range_end.map_or(Ok(usable), |end| inside("rangeEnd", end))?;
        if first > last {
            return Err(invalid(format!(
                "the range in subnet {subnet} ends before it starts"
            )));
        }
        let gateway = gateway.unwrap_or_else(|| address_like(subnet.address(), base + 1));
        if gateway.is_ipv4() != ipv4 {
            return Err(invalid(format!(
                "gateway {gateway} is not of the family of {subnet}"
            )));
        }
        Ok(Self {
            subnet: *subnet,
            gateway,
            first,
            last,
        })
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && (self.first..=self.last).contains(&number(address))
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.subnet.address().is_ipv4()
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.is_ipv4() == other.is_ipv4() && self.first <= other.last && other.first <= self.last
    }

    fn addresses(&self, from: u128) -> impl Iterator<Item = IpAddr> {
        let like = self.subnet.address();
        let addresses = (from..=self.last).map(move |number| address_like(like, number));
        addresses.filter(|address| *address != self.gateway)
    }
}

/// The address with this number, in the family of another one.
fn address_like(family: IpAddr, number: u128) -> IpAddr {
    match (family, u32::try_from(number)) {
        (IpAddr::V4(_), Ok(number)) => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |number| address_like(self.subnet.address(), number);
        write!(
            f,
            "{}-{} in {}",
            end(self.first),
            end(self.last),
            self.subnet
        )
    }
}

impl RangeSet {
    /// Checks that the ranges are of one family and apart.
    pub(crate) fn new(ranges: Vec<Range>) -> Result<Self, Error> {
        let Some(first) = ranges.first() else {
            return Err(invalid("a range set without ranges".to_owned()));
        };
        if let Some(other) = ranges
            .iter()
            .find(|range| range.is_ipv4() != first.is_ipv4())
        {
            return Err(invalid(format!(
                "ranges {first} and {other} of one set differ in family"
            )));
        }
        for (index, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[index + 1..]
                .iter()
                .find(|other| range.overlaps(other))
            {
                return Err(invalid(format!("ranges {range} and {other} overlap")));
            }
        }
        Ok(Self(ranges))
    }

    pub(crate) fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    /// Whether any range of one set overlaps one of the other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0
            .iter()
            .any(|range| other.0.iter().any(|theirs| range.overlaps(theirs)))
    }

    /// Every address of the set once, the one after `last` first; gateways are left out.
    pub(crate) fn after(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        let at = last.and_then(|last| self.0.iter().position(|range| range.contains(last)));
        let start = at.unwrap_or(0);
        let resumed = last
            .filter(|_| at.is_some())
            .map(|last| number(last).saturating_add(1));
        let (before, from) = self.0.split_at(start);
        let rest = from.iter().enumerate().flat_map(move |(index, range)| {
            let first = resumed.filter(|_| index == 0).unwrap_or(range.first);
            range.addresses(first).map(move |address| (address, range))
        });
        let wrapped = before
            .iter()
            .flat_map(|range| range.addresses(range.first).map(move |a| (a, range)));
        // At last the part of the starting range that lies before the start.
        let head = from
            .first()
            .zip(resumed)
            .into_iter()
            .flat_map(|(range, resumed)| {
                let addresses = range.addresses(range.first);
                addresses
                    .take_while(move |a| number(*a) < resumed)
                    .map(move |a| (a, range))
            });
        rest.chain(wrapped).chain(head)
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(subnet: &str, start: &str, end: &str, gateway: &str) -> IpRange {
        let address = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        IpRange {
            subnet: subnet.parse().unwrap(),
            range_start: address(start),
            range_end: address(end),
            gateway: address(gateway),
        }
    }

    fn range(subnet: &str, start: &str, end: &str, gateway: &str) -> Range {
        Range::new(&said(subnet, start, end, gateway)).unwrap()
    }

    fn order(set: &RangeSet, last: Option<&str>) -> Vec<String> {
        let last = last.map(|last| last.parse().unwrap());
        set.after(last)
            .map(|(address, _)| address.to_string())
            .collect()
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let small = RangeSet::new(vec![range("10.0.0.0/29", "", "", "")]).unwrap();
        let all = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        assert_eq!(order(&small, None), all);
        let six = RangeSet::new(vec![range("fd00::/126", "", "", "fd00::3")]).unwrap();
        assert_eq!(order(&six, None), ["fd00::1", "fd00::2"]);
        assert_eq!(range("::/0", "", "", "").gateway.to_string(), "::1");
    }

    #[test]
    fn the_round_goes_on_after_the_last_one() {
        let set = RangeSet::new(vec![
            range("10.0.0.0/24", "10.0.0.5", "10.0.0.6", ""),
            range("10.0.1.0/24", "10.0.1.8", "10.0.1.9", "10.0.1.9"),
        ])
        .unwrap();
        assert_eq!(order(&set, None), ["10.0.0.5", "10.0.0.6", "10.0.1.8"]);
        assert_eq!(
            order(&set, Some("10.0.0.5")),
            ["10.0.0.6", "10.0.1.8", "10.0.0.5"]
        );
        assert_eq!(
            order(&set, Some("10.0.0.6")),
            ["10.0.1.8", "10.0.0.5", "10.0.0.6"]
        );
        assert_eq!(
            order(&set, Some("10.0.1.8")),
            ["10.0.0.5", "10.0.0.6", "10.0.1.8"]
        );
        assert_eq!(order(&set, Some("192.0.2.1")), order(&set, None));
    }

    #[test]
    fn wrong_ranges_are_refused() {
        for (subnet, start, end, gateway, why) in [
            ("10.0.0.0/31", "", "", "", "too small"),
            ("fd00::/127", "", "", "", "too small"),
            ("10.0.0.1/24", "", "", "", "host bits"),
            ("10.0.0.0/24", "10.0.1.1", "", "", "rangeStart"),
            ("10.0.0.0/24", "", "fd00::1", "", "rangeEnd"),
            ("10.0.0.0/24", "10.0.0.9", "10.0.0.8", "", "ends before"),
            ("10.0.0.0/24", "", "", "fd00::1", "family"),
        ] {
            let error = Range::new(&said(subnet, start, end, gateway)).unwrap_err();
            assert!(error.message.contains(why), "{error}");
        }
        let a = range("10.0.0.0/24", "", "", "");
        let overlap = RangeSet::new(vec![a.clone(), range("10.0.0.0/16", "", "", "")]);
        assert!(overlap.unwrap_err().message.contains("overlap"));
        let mixed = RangeSet::new(vec![a, range("fd00::/64", "", "", "")]);
        assert!(mixed.unwrap_err().message.contains("family"));
        assert!(RangeSet::new(vec![]).is_err());
    }

    proptest! {
        #[test]
        fn every_address_comes_once_wherever_the_round_starts(
            last in 0_u32..300, start in 1_u32..100, length in 0_u32..100, second in 0_u32..50,
        ) {
            let at = |n: u32| Ipv4Addr::from(0x0a00_0000 + n).to_string();
            let set = RangeSet::new(vec![
                range("10.0.0.0/24", &at(start), &at(start + length), ""),
                range("10.0.1.0/24", "10.0.1.2", &at(256 + 2 + second), ""),
            ])
            .unwrap();
            let mut found = order(&set, Some(&at(last)));
            let mut all = order(&set, None);
            prop_assert_eq!(found.len(), all.len());
            found.sort();
            all.sort();
            prop_assert_eq!(found, all);
        }
    }
}
