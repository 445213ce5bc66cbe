//! The one image of these tests, made here: nothing is pulled.

use std::process::Command;

use crate::node::said;

/// The image's name.
pub const NAME: &str = "localhost/pod:1";

/// Writes the image as an OCI archive.
///
/// # Errors
/// When busybox or a program that packs is missing.
pub fn write(path: &std::path::Path) -> anyhow::Result<()> {
    let file = std::fs::File::create(path)?;
    let mut command = Command::new("sh");
    command
        .args(["-c", include_str!("image.sh"), "image", NAME])
        .stdout(file);
    said(&command.output()?).map(drop)
}
