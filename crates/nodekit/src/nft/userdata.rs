//! The user data that nft keeps with objects: type, length and value in bytes
//! (`libnftnl/udata.h`). The kernel stores it unread.

/// Where a table's, a chain's, a rule's and an element's comment stands.
pub(super) const COMMENT: u8 = 0;
/// Byte order of a set's key.
pub(super) const SET_KEY_BYTEORDER: u8 = 0;
/// Byte order of a map's data.
pub(super) const SET_DATA_BYTEORDER: u8 = 1;
/// Where a set's comment stands.
pub(super) const SET_COMMENT: u8 = 7;

/// The longest comment in bytes: a length byte that counts the closing NUL
/// (nft itself writes up to 128).
pub(super) const COMMENT_MAX: usize = 254;

/// Appends one entry. A value above 255 bytes isn't written.
pub(super) fn push(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if let Ok(length) = u8::try_from(value.len()) {
        out.extend_from_slice(&[kind, length]);
        out.extend_from_slice(value);
    }
}

/// User data that is a comment alone.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    push_comment(&mut out, COMMENT, text);
    out
}

/// Appends a comment with its closing NUL.
pub(super) fn push_comment(out: &mut Vec<u8>, kind: u8, text: &str) {
    let value: Vec<u8> = text.bytes().chain([0]).collect();
    push(out, kind, &value);
}

/// The comment in user data, without its NUL.
pub(super) fn read_comment(mut data: &[u8], kind: u8) -> Option<String> {
    while let [this, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *this == kind {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return String::from_utf8(text.to_vec()).ok();
        }
        data = rest.get(usize::from(*length)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_comment_is_found_behind_other_entries() {
        let mut data = Vec::new();
        push(&mut data, SET_KEY_BYTEORDER, &2u32.to_ne_bytes());
        push_comment(&mut data, SET_COMMENT, "layout 1");
        assert_eq!(
            read_comment(&data, SET_COMMENT).as_deref(),
            Some("layout 1")
        );
        assert_eq!(read_comment(&comment(""), COMMENT).as_deref(), Some(""));
        assert_eq!(read_comment(&data, 5), None);
    }

    proptest! {
        #[test]
        fn random_user_data_never_panics(data in proptest::collection::vec(any::<u8>(), 0..300), kind: u8) {
            let _ = read_comment(&data, kind);
        }
    }
}
