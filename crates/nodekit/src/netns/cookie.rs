//! The number by which eBPF programs tell namespaces apart.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Error, NetNs};

/// `SO_NETNS_COOKIE` (asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

impl NetNs {
    /// What `bpf_get_netns_cookie` says of the calling thread's namespace; never used again for
    /// another one. Linux 5.14.
    ///
    /// # Errors
    /// [`Error::Call`], with `ENOPROTOOPT` on an older kernel.
    pub fn cookie() -> Result<u64, Error> {
        let failed = |step| move |errno| Error::Call { step, errno };
        let (family, kind) = (AddressFamily::Unix, SockType::Datagram);
        let any =
            socket(family, kind, SockFlag::SOCK_CLOEXEC, None).map_err(failed("open a socket"))?;
        let mut cookie = 0_u64;
        let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).unwrap_or_default();
        // SAFETY: the kernel writes at most `length` bytes, which is the size of `cookie`.
        #[expect(unsafe_code, reason = "nix does not have this option")]
        let result = unsafe {
            libc::getsockopt(
                any.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        Errno::result(result).map_err(failed("ask for a namespace's cookie"))?;
        Ok(cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_has_its_own() {
        let one = NetNs::anonymous().unwrap();
        let other = NetNs::anonymous().unwrap();
        let cookie = |netns: &NetNs| netns.run(|| NetNs::cookie().unwrap()).unwrap();
        assert_eq!(cookie(&one), cookie(&one));
        assert_ne!(cookie(&one), cookie(&other));
        assert_ne!(cookie(&one), NetNs::cookie().unwrap());
    }
}
