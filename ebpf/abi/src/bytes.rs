//! Types whose every bit pattern is a value.

/// A type that the kernel may read and write as bytes: integers only, no padding, `repr(C)`.
///
/// # Safety
/// The implementor promises exactly that.
#[expect(
    unsafe_code,
    reason = "the promise is what the kernel's map interface needs"
)]
pub unsafe trait Plain: Copy + 'static {}

/// Implements [`Plain`], and refuses to compile where a type has padding: its size must be that of
/// its fields.
macro_rules! plain {
    ($($name:ty: $size:expr;)*) => {$(
        const _: () = assert!(core::mem::size_of::<$name>() == $size);
        // SAFETY: `repr(C)`, integers only, and as long as they are together.
        #[expect(unsafe_code, reason = "see above")]
        unsafe impl Plain for $name {}
    )*};
}

plain! {
    crate::FrontendKey: 16 + 2 + 1 + 1;
    crate::Frontend: 8 * 4;
    crate::RowKey: 4 + 4;
    crate::Row: 2 * 1_024;
    crate::SlotKey: 4 + 4;
    crate::Backend: 16 + 2 + 2;
    crate::MemberKey: 4 + 20;
    crate::AffinityKey: 8 + 4 + 4;
    crate::Affinity: 8 + 20 + 4;
    crate::FlowKey: 8 + 20 + 4;
    crate::ReverseKey: 8 + 20 + 4;
    crate::Original: 16 + 2 + 2;
    crate::Interface: 16 + 16 + 4;
    crate::HardwareAddress: 6 + 2;
    crate::PeerKey: 4 + 6 + 2;
    crate::PodNetwork: 4 + 16;
    crate::Source: 4 + 16;
    crate::Tuple: 16 + 16 + 2 + 2 + 1 + 3;
    crate::ClientKey: 16 + 4;
    crate::Datagram: 16 + 16 + 4 + 1 + 3;
    crate::Ports: 2 + 2;
    crate::Connected: 8 + 20 + 20;
    crate::SocketRules: 16 + 16 + 4;
    crate::Settings: 2 + 2 + 4 + 4 + 8 + 8;
    crate::TrafficKey: 4 + 20;
    crate::Traffic: 6 * 8;
    crate::PortName: 192;
    crate::Event: 8 + 8 + 4 + 20 + 20 + 20;
    crate::Track: 5 * 8 + 40 + 4 + 4 + 28 + 4;
    crate::Hop: 4 + 4 + 16 + 4;
}
