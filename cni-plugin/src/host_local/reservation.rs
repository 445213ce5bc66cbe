//! What stands in the file of one reserved address.

use std::net::IpAddr;

use cni_types::Attachment;

/// The separator between container id and interface name, as the reference writes it.
const LINE_BREAK: &str = "\r\n";

/// More than this is no reservation, in bytes.
pub(crate) const LONGEST_RESERVATION: usize = 4096;

/// An address and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The address, which is the file's name.
    pub address: IpAddr,
    /// The holder.
    pub container_id: String,
    /// Absent in files of old versions of the reference, which then count for any interface.
    pub ifname: Option<String>,
}

impl Reservation {
    /// Reads a file's content.
    ///
    /// # Errors
    /// Why it is none, in words that follow "is no reservation:".
    pub fn parse(address: IpAddr, content: &[u8]) -> Result<Self, String> {
        if content.len() > LONGEST_RESERVATION {
            return Err(format!("longer than {LONGEST_RESERVATION} bytes"));
        }
        let text = std::str::from_utf8(content).map_err(|_| "not text".to_owned())?;
        let mut lines = text.trim().lines();
        let container_id = lines.next().ok_or("empty")?.trim_end().to_owned();
        let ifname = lines.next().map(str::to_owned);
        if lines.next().is_some() {
            return Err("more than two lines".to_owned());
        }
        // An old file has an id only; the name of an interface that could be one stands in for it.
        Attachment::new(&container_id, ifname.as_deref().unwrap_or("eth0"))?;
        Ok(Self {
            address,
            container_id,
            ifname,
        })
    }

    /// The content for a holder.
    #[must_use]
    pub fn content(by: &Attachment) -> String {
        format!("{}{LINE_BREAK}{}", by.container_id, by.ifname)
    }

    pub(crate) fn is_of(&self, attachment: &Attachment) -> bool {
        self.container_id == attachment.container_id
            && self
                .ifname
                .as_ref()
                .is_none_or(|ifname| *ifname == attachment.ifname)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn both_forms_of_the_reference_are_read() {
        let new = Reservation::parse(ADDRESS, b"a1\r\neth0").unwrap();
        assert_eq!(
            (new.container_id.as_str(), new.ifname.as_deref()),
            ("a1", Some("eth0"))
        );
        let old = Reservation::parse(ADDRESS, b" a1\n").unwrap();
        assert_eq!((old.container_id.as_str(), old.ifname), ("a1", None));
    }

    #[test]
    fn what_is_none_is_said() {
        let long = vec![b'a'; LONGEST_RESERVATION + 1];
        for (content, why) in [
            (&b""[..], "empty"),
            (b"\r\n", "empty"),
            (b"\xff\xfe", "not text"),
            (b"a\r\neth0\r\nmore", "more than two lines"),
            (b"../etc\r\neth0", "../etc"),
            (b"a\r\neth 0", "eth 0"),
            (b"a\0\r\neth0", "container id"),
            (&long, "longer than 4096"),
        ] {
            let error = Reservation::parse(ADDRESS, content).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(id in "[A-Za-z0-9][A-Za-z0-9_.-]{0,80}", ifname in "[a-z0-9]{1,15}") {
            let by = Attachment::new(&id, &ifname).unwrap();
            let read = Reservation::parse(ADDRESS, Reservation::content(&by).as_bytes()).unwrap();
            prop_assert!(read.is_of(&by));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(read) = Reservation::parse(ADDRESS, &bytes) {
                let ifname = read.ifname.clone().unwrap_or_else(|| "eth0".to_owned());
                prop_assert!(Attachment::new(&read.container_id, &ifname).is_ok());
            }
        }
    }
}
