//! Memory that a burst of work left behind.

/// Gives the pages of freed memory back to the kernel, which glibc does not do by itself for what
/// is not at the end of its heap: after the first full lists that is most of what was ever used.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(
            unsafe_code,
            reason = "malloc_trim(3) has no safe wrapper; it is this module's only call"
        )]
        // SAFETY: malloc_trim takes no pointer and may be called from any thread at any time; it
        // touches free memory only.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

/// Resident memory of this process, bytes (`/proc/self/status`, proc(5)); `None`: it is not told.
pub fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
