//! What goes wrong again and again, said once.

use super::Error;

/// What went wrong at the last attempt.
#[derive(Debug, Default)]
pub(super) struct Trouble(Option<String>);

impl Trouble {
    /// Says what became of an attempt, if it is something else than of the one before: `lost` is so because
    /// of it, or `found` is so again.
    pub(super) fn note(&mut self, result: Result<(), Error>, lost: &str, found: &str) {
        let trouble = result.err().map(|error| error.to_string());
        if trouble != self.0 {
            match &trouble {
                Some(trouble) => tracing::warn!(trouble, "{lost}"),
                None => tracing::info!("{found}"),
            }
        }
        self.0 = trouble;
    }
}
