//! Programs at interfaces by TCX (Linux 6.6).

use std::io;

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use nodekit::Errno;

/// How many programs see what comes in by an interface of the calling thread's namespace. A kernel
/// that is older than TCX has none so.
///
/// # Errors
/// There is no such interface, or the kernel does not tell.
pub fn programs_at(interface: &str) -> io::Result<usize> {
    match SchedClassifier::query_tcx(interface, TcAttachType::Ingress) {
        Ok((_, programs)) => Ok(programs.len()),
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(Errno::EINVAL as i32) =>
        {
            Ok(0)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}
