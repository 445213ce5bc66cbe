use std::fmt;
use std::str::FromStr;

/// An Ethernet address of six bytes, written `0a:58:0a:f4:00:05`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether an interface may carry it: neither a group address nor all zeroes.
    #[must_use]
    pub fn is_assignable(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl FromStr for MacAddress {
    type Err = String;

    /// Reads six pairs of hexadecimal digits separated by `:` or by `-`.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is not an Ethernet address, as 0a:58:0a:f4:00:05");
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0; 6];
        let mut pairs = text.split(separator);
        for byte in &mut bytes {
            let pair = pairs.next().ok_or_else(refused)?;
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(refused());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
        }
        if pairs.next().is_some() {
            return Err(refused());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators_are_read_and_colons_written() {
        let mac: MacAddress = "0A-58-0a-f4-00-05".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:58:0a:f4:00:05");
        assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "0a:58:0a:f4:00",
            "0a:58:0a:f4:00:05:06",
            "0a:58:0a:f4:00:5",
            "+a:0:0:0:0:0",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn group_and_zero_addresses_are_not_assignable() {
        assert!(
            !"01:00:5e:00:00:01"
                .parse::<MacAddress>()
                .unwrap()
                .is_assignable()
        );
        assert!(!MacAddress([0; 6]).is_assignable());
        assert!(
            "0a:58:0a:f4:00:05"
                .parse::<MacAddress>()
                .unwrap()
                .is_assignable()
        );
    }
}
