//! Files that say what a rendering must be.

use std::path::PathBuf;

/// Whether the golden file says the same; `UPDATE_GOLDEN=1` makes it so.
pub(crate) fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text,
        golden,
        "{} (UPDATE_GOLDEN=1 rewrites it)",
        path.display()
    );
}
