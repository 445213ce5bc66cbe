//! What must hold for any bytes of a packet. Nothing may panic; and what was read must stand there.

use causeway_ebpf_core::packet::{Family, Flow, Found, Packet, Part, TCP, UDP, parse, quoted};

/// A packet from its IP header on.
struct Bytes<'a>(&'a [u8]);

impl Packet for Bytes<'_> {
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let bytes = self.0.get(offset as usize..)?.get(..4 * N)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Some(words)
    }

    fn read_to<const N: usize>(&self, offset: u32, place: &mut [u8; N]) -> bool {
        let rest = self.0.get(offset as usize..);
        let bytes = rest.and_then(|rest| rest.get(..N));
        bytes.map(|bytes| place.copy_from_slice(bytes)).is_some()
    }
}

/// The bytes of a packet, as either version.
pub(crate) fn packet(bytes: &[u8]) {
    for family in [Family::V4, Family::V6] {
        let (mut flow, mut about) = (Flow::EMPTY, Flow::EMPTY);
        match parse(&Bytes(bytes), family, &mut flow) {
            Found::Flow => stands(bytes, &flow, 0),
            Found::Fragment => {
                assert_eq!(flow.part, Part::Later);
                assert_addresses(bytes, &flow, 0);
            }
            Found::Icmp if quoted(&Bytes(bytes), &flow, &mut about) => {
                stands(bytes, &about, flow.transport as usize + 8);
            }
            _ => {}
        }
    }
}

/// What was read of the header at `at` is what is there.
fn stands(bytes: &[u8], flow: &Flow, at: usize) {
    assert_ne!(flow.part, Part::Later);
    let transport = flow.transport as usize;
    let port = [bytes[transport], bytes[transport + 1]];
    assert_eq!(flow.tuple.source_port, u16::from_be_bytes(port));
    assert_addresses(bytes, flow, at);
}

fn assert_addresses(bytes: &[u8], flow: &Flow, at: usize) {
    assert!(matches!(flow.tuple.protocol, TCP | UDP));
    let (version, source) = match flow.family {
        Family::V4 => (
            4,
            [&[0; 10][..], &[0xff; 2], &bytes[at + 12..at + 16]].concat(),
        ),
        Family::V6 => (6, bytes[at + 8..at + 24].to_vec()),
    };
    assert_eq!(bytes[at] >> 4, version);
    assert_eq!(flow.tuple.source[..], source);
}
