//! Packets that nobody thought of. The same is tried by `fuzz/`.

#[path = "reading/check.rs"]
mod check;

use proptest::prelude::*;

proptest! {
    #[test]
    fn every_packet_can_be_read(
        mut bytes in prop::collection::vec(any::<u8>(), 0..160),
        v6: bool,
        protocol in prop::sample::select(&[1, 6, 17, 58][..]),
        kind in 1_u8..5,
        fragment: bool,
        place: [u8; 2],
    ) {
        // Most bytes are no packet at all: these are nearly one, which may quote another.
        let (version, next, header) = if v6 { (0x60, 6, 40) } else { (0x45, 9, 20) };
        let quoted = header + 8;
        for (place, byte) in [
            (0, version),
            (next, protocol),
            (header, kind),
            (quoted, version),
            (quoted + next, 17),
        ] {
            if let Some(place) = bytes.get_mut(place) {
                *place = byte;
            }
        }
        if !v6 && bytes.len() > quoted + 8 {
            bytes[6..8].copy_from_slice(if fragment { &place } else { &[0; 2] });
            bytes[quoted + 6..quoted + 8].fill(0);
        }
        if v6 && fragment && bytes.len() > header + 4 {
            bytes[next] = 44;
            bytes[header] = protocol;
            bytes[header + 2..header + 4].copy_from_slice(&place);
        }
        check::packet(&bytes);
    }
}
