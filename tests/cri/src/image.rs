//! The one image of these tests, made here: nothing is pulled.

use std::process::Command;

use crate::node::said;

/// The image's name.
pub const NAME: &str = "localhost/pod:1";

/// A command that serves the host's name by HTTP on port 80.
pub const SERVE: [&str; 3] = [
    "sh",
    "-c",
    "hostname >/www/index.html; exec httpd -f -p [::]:80 -h /www",
];

/// A command that ends, in the same container, once it does.
pub const WAIT: [&str; 3] = [
    "sh",
    "-c",
    "until wget -q -O- http://127.0.0.1/index.html; do sleep 0.05; done",
];

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
