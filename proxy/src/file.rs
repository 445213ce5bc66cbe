//! Files that others write, up to a size.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The longest file that is taken in, in bytes: what a ConfigMap or a Secret can hold
/// (`MaxSecretSize` in `pkg/apis/core/types.go` of Kubernetes 1.36).
pub(crate) const LONGEST: usize = 1 << 20;

/// The text of a file.
///
/// # Errors
/// Those of opening and reading it; [`ErrorKind::FileTooLarge`] above [`LONGEST`],
/// [`ErrorKind::InvalidData`] where it is no UTF-8.
pub(crate) fn text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let mut file = File::open(path)?.take(LONGEST as u64 + 1);
    file.read_to_end(&mut bytes)?;
    if bytes.len() > LONGEST {
        let said = format!("longer than {LONGEST} bytes");
        return Err(Error::new(ErrorKind::FileTooLarge, said));
    }
    String::from_utf8(bytes).map_err(|error| Error::new(ErrorKind::InvalidData, error.utf8_error()))
}

/// What is wrong with YAML, in a line: without the lines of the file around it that the parser shows,
/// since there may be credentials in them.
pub(crate) fn trouble(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_not_taken_in() {
        let error = text(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.to_string(), "longer than 1048576 bytes");
        assert_eq!(text(Path::new("/dev/null")).unwrap(), "");
    }

    #[test]
    fn what_is_no_text_is_said() {
        let program = std::env::current_exe().unwrap();
        let error = text(Path::new("/proc/self/auxv")).unwrap_err();
        assert!(error.to_string().contains("utf-8"), "{error}");
        assert_eq!(text(&program).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
