use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// An address with the length of its prefix in bits, written `10.1.0.5/24` or `fd00::5/64`.
///
/// The bits behind the prefix are kept: an interface's address and its subnet are one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Joins an address and a prefix length.
    ///
    /// # Errors
    /// A prefix longer than the address (32 or 128 bits).
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, String> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err(format!(
                "prefix length {prefix} of {address} is above {longest}"
            ));
        }
        Ok(Self { address, prefix })
    }

    /// The address as written, with the bits behind the prefix.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address is in the subnet.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = u32::from(own) ^ u32::from(other);
                differ.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = u128::from(own) ^ u128::from(other);
                differ.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }

    /// Whether this is the route to everywhere of its family (`0.0.0.0/0` or `::/0`).
    #[must_use]
    pub fn is_default(self) -> bool {
        self.prefix == 0 && self.address.is_unspecified()
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = || format!("{text:?} is not an address with a prefix, as 10.0.0.1/24");
        let (address, prefix) = text.split_once('/').ok_or_else(accepted)?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(accepted());
        }
        let address = address.parse().map_err(|_| accepted())?;
        let prefix = prefix.parse().map_err(|_| accepted())?;
        Self::new(address, prefix)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_was_read() {
        for text in [
            "10.1.2.3/24",
            "0.0.0.0/0",
            "fd00::5/64",
            "::/0",
            "10.0.0.1/32",
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "/",
            "10.0.0.1",
            "10.0.0.1/",
            "10.0.0.1/33",
            "::1/129",
            "10.0.0.1/+4",
        ] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert!(!error.is_empty(), "{text} was taken");
        }
        assert!("fd00::1/200".parse::<Cidr>().unwrap_err().contains("128"));
    }

    #[test]
    fn a_subnet_has_the_addresses_of_its_prefix() {
        let holds = |subnet: &str, address: &str| {
            let subnet: Cidr = subnet.parse().unwrap();
            subnet.contains(address.parse().unwrap())
        };
        assert!(holds("10.0.0.5/24", "10.0.0.255") && !holds("10.0.0.5/24", "10.0.1.5"));
        assert!(holds("0.0.0.0/0", "192.0.2.1") && !holds("0.0.0.0/0", "::"));
        assert!(holds("10.0.0.5/32", "10.0.0.5") && !holds("10.0.0.5/32", "10.0.0.4"));
        assert!(holds("fd00::/64", "fd00::1:2") && !holds("fd00::/64", "fd00:0:0:1::"));
        assert!(!holds("::ffff:10.0.0.0/104", "10.0.0.1"));
    }

    #[test]
    fn only_the_whole_family_is_the_default_route() {
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().is_default());
        assert!("::/0".parse::<Cidr>().unwrap().is_default());
        assert!(!"0.0.0.0/1".parse::<Cidr>().unwrap().is_default());
    }
}
