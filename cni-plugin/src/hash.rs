//! A hash that is the same for all time, which the standard library's is not.

/// FNV-1a of 64 bits (draft-eastlake-fnv) over the parts, folded to 32.
pub(crate) fn fold(parts: &[&[u8]]) -> [u8; 4] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // A byte that no text has separates them.
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    [a ^ e, b ^ f, c ^ g, d ^ h]
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn parts_are_told_apart_and_values_stay() {
        assert_eq!(fold(&[b"ab", b"c"]), fold(&[b"ab", b"c"]));
        assert_ne!(fold(&[b"ab", b"c"]), fold(&[b"a", b"bc"]));
        assert_ne!(fold(&[b"abc"]), fold(&[b"abc", b""]));
    }
}
