//! The file of a reserved address.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use causeway_cni::Reservation;
use cni_types::Attachment;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Ok(read) = Reservation::parse(address, bytes) else {
        return;
    };
    let ifname = read.ifname.as_deref().unwrap_or("eth0");
    let holder = Attachment::new(&read.container_id, ifname).expect("a holder is an attachment");
    let again = Reservation::parse(address, Reservation::content(&holder).as_bytes());
    assert_eq!(
        again.expect("what is written is read").container_id,
        read.container_id
    );
});
