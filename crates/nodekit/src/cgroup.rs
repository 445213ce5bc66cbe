//! Where the calling process finds cgroups of the second version (cgroups(7)). It makes none, and moves
//! nobody.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// What this process sees mounted (proc(5), `/proc/pid/mounts`).
pub const MOUNTS: &str = "/proc/self/mounts";

/// The folder of the first cgroup2 that is mounted; `None`: none is.
///
/// # Errors
/// [`MOUNTS`] cannot be read.
pub fn root() -> io::Result<Option<PathBuf>> {
    Ok(first_root(&fs::read(MOUNTS)?))
}

/// The folder of this process's own cgroup below that.
///
/// # Errors
/// [`MOUNTS`] or `/proc/self/cgroup` cannot be read.
pub fn own() -> io::Result<Option<PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    Ok(root()?.and_then(|root| Some(root.join(path(&own)?))))
}

fn first_root(mounts: &[u8]) -> Option<PathBuf> {
    let lines = mounts.split(|byte| *byte == b'\n');
    let mut lines = lines.map(|line| line.split(|byte| *byte == b' '));
    let point = lines.find_map(|mut fields| {
        let point = fields.nth(1)?;
        (fields.next()? == b"cgroup2").then_some(point)
    })?;
    Some(OsString::from_vec(unescaped(point)).into())
}

/// The kernel writes white space and backslashes of a path as `\040` and so on (`mangle`,
/// fs/proc_namespace.c).
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after_it @ ..] = rest {
        if let [
            b'\\',
            a @ b'0'..=b'3',
            b @ b'0'..=b'7',
            c @ b'0'..=b'7',
            after @ ..,
        ] = rest
        {
            plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            plain.push(*first);
            rest = after_it;
        }
    }
    plain
}

/// Below the root, by the text of `/proc/pid/cgroup`.
fn path(own: &str) -> Option<&str> {
    own.lines().find_map(|line| line.strip_prefix("0::/"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// As the kernel writes a path.
    fn escaped(path: &[u8]) -> Vec<u8> {
        let written = path.iter().flat_map(|byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
            plain => vec![*plain],
        });
        written.collect()
    }

    proptest! {
        #[test]
        fn any_folder_is_found_as_it_is(folder in proptest::collection::vec(1..=u8::MAX, 0..40)) {
            let line = [b"none /", &escaped(&folder)[..], b" cgroup2 rw 0 0\n"].concat();
            let found = first_root(&line).unwrap();
            prop_assert_eq!(found.as_os_str().as_bytes(), [b"/", &folder[..]].concat());
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (first_root(&bytes), path(&String::from_utf8_lossy(&bytes)));
        }
    }

    #[test]
    fn the_first_cgroup2_counts_beside_cgroups_of_the_first_version() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n\
                      cgroup2 /other cgroup2 rw,relatime 0 0\n";
        let found = first_root(mounts.as_bytes()).unwrap();
        assert_eq!(found, Path::new("/sys/fs/cgroup/unified"));
        let of_the_first_version = mounts.replace("cgroup2 rw", "cgroup rw");
        assert_eq!(first_root(of_the_first_version.as_bytes()), None);
        assert_eq!(first_root(b""), None);
    }

    #[test]
    fn what_the_kernel_escapes_in_a_folder_is_read_as_it_was() {
        let root = |point: &str| first_root(format!("none {point} cgroup2 rw 0 0\n").as_bytes());
        for (written, meant) in [
            (r"/a\040folder", "/a folder"),
            (r"/tab\011and\012line", "/tab\tand\nline"),
            (r"/back\134slash", "/back\\slash"),
            (r"/\134040", r"/\040"),
            (r"/not\08\4", r"/not\08\4"),
            ("/größer", "/größer"),
        ] {
            assert_eq!(root(written).unwrap(), Path::new(meant));
        }
    }

    #[test]
    fn the_own_one_stands_in_the_line_without_controllers() {
        assert_eq!(
            path("4:memory:/api/a1\n0::/user.slice/one\n"),
            Some("user.slice/one")
        );
        assert_eq!(path("0::/\n"), Some(""));
        assert_eq!(path("4:memory:/api/a1\n"), None);
        let own = own().unwrap();
        assert_eq!(own.is_some(), root().unwrap().is_some());
        assert!(own.is_none_or(|own| own.join("cgroup.procs").exists()));
    }
}
