//! Map entries as bytes.

use causeway_ebpf_abi::Plain;

/// An entry's key or value, as aya takes it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Entry<T: Plain>(pub(super) T);

// SAFETY: `Plain` promises integers without padding, which is what `Pod` asks for.
#[expect(unsafe_code, reason = "the one place where the two promises meet")]
unsafe impl<T: Plain> aya::Pod for Entry<T> {}
