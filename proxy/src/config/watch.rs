//! The configuration's file, watched.
//!
//! Its content is looked at, not its inode: a ConfigMap volume is changed by swapping the symlink
//! of a folder above the file, which leaves no event on the file itself.

use std::time::Duration;

use super::load::{Loaded, file_text, load};
use crate::cli::Flags;

/// How often the file is read: it has a few KiB.
const LOOK: Duration = Duration::from_secs(1);

/// The file behind `--config`, as it was last understood.
#[derive(Debug)]
pub struct ConfigFile {
    flags: Flags,
    host_name: String,
    text: Option<String>,
    /// What is wrong with it now, so that it is said once.
    trouble: Option<String>,
}

impl ConfigFile {
    /// The file that `flags` name, which had `text` when the daemon started.
    pub const fn new(flags: Flags, host_name: String, text: Option<String>) -> Self {
        Self {
            flags,
            host_name,
            text,
            trouble: None,
        }
    }

    /// The command line that goes with it.
    pub const fn flags(&self) -> &Flags {
        &self.flags
    }

    /// Waits until the file says something else that can be used. What cannot be used is logged
    /// once, and what was in force stays in force. Without a file it waits for ever.
    pub async fn changed(&mut self) -> Loaded {
        if self.text.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            match self.look() {
                Ok(Some(loaded)) => {
                    self.trouble = None;
                    return loaded;
                }
                Ok(None) => {}
                Err(trouble) => {
                    if self.trouble.as_ref() != Some(&trouble) {
                        tracing::error!(
                            trouble,
                            "the changed configuration cannot be used; the one before stays"
                        );
                    }
                    self.trouble = Some(trouble);
                }
            }
        }
    }

    fn look(&mut self) -> Result<Option<Loaded>, String> {
        let text = file_text(&self.flags).map_err(|error| error.to_string())?;
        if text == self.text {
            self.trouble = None;
            return Ok(None);
        }
        let loaded = load(text.as_deref(), &self.flags, &self.host_name)
            .map_err(|error| error.to_string())?;
        self.text = text;
        Ok(Some(loaded))
    }
}
