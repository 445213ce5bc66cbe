//! The machine's first and only file system, as the kernel unpacks it into memory: a cpio archive
//! in the format "newc" (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// `S_IFDIR | 0755`.
const FOLDER: u32 = 0o040_755;
/// `S_IFREG`.
const FILE: u32 = 0o100_000;

/// An archive that grows.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    /// What it has, so that nothing comes twice.
    present: BTreeSet<PathBuf>,
}

impl Archive {
    /// A file with this content, and the folders above it.
    pub(crate) fn add(&mut self, path: &Path, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        if !self.present.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.add_folder(above)?;
        }
        self.entry(path, FILE | mode, content)
    }

    /// A folder, and those above it.
    pub(crate) fn add_folder(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut above: Vec<_> = path.ancestors().collect();
        // The root is there.
        above.pop();
        for folder in above.into_iter().rev() {
            if self.present.insert(folder.to_owned()) {
                self.entry(folder, FOLDER, &[])?;
            }
        }
        Ok(())
    }

    /// A file of this machine at the same place, and the libraries it is linked to.
    pub(crate) fn copy(&mut self, path: &Path) -> anyhow::Result<()> {
        ensure!(path.is_absolute(), "{}: not absolute", path.display());
        let reading = || format!("{}: cannot read it", path.display());
        let content = fs::read(path).with_context(reading)?;
        let mode = fs::metadata(path)
            .with_context(reading)?
            .permissions()
            .mode();
        self.add(path, mode & 0o777, &content)?;
        if content.starts_with(b"\x7fELF") {
            for library in libraries(path)? {
                let content = fs::read(&library).with_context(|| library.display().to_string())?;
                self.add(&library, 0o755, &content)?;
            }
        }
        Ok(())
    }

    /// The whole, with its trailer.
    pub(crate) fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        self.entry(Path::new("/TRAILER!!!"), 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        let name = path.strip_prefix("/").unwrap_or(path);
        let name = name.to_str().context("a name that is no text")?;
        let number = self.present.len();
        let (length, name_length) = (content.len(), name.len() + 1);
        // Inode, mode, owner, group, links, time, length, device twice, name's length, checksum.
        let fields = [
            number,
            usize::try_from(mode)?,
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The shared libraries of a program, and its loader, as ldd(1) finds them.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("ldd does not run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(!text.contains("not found"), "{}: {text}", program.display());
    let words = text.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}
