//! The nftables data plane: tables `ip causeway` and `ip6 causeway`, and no others.

mod affinity;
mod ahead;
mod elements;
mod encode;
mod read;
mod rules;
mod run;
mod table;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use lb_model::{Family, Model, ServiceName};
use lb_plan::nftables::{Settings, TABLE, probe, skeleton};
use nodekit::nft::{Batch, Error, NftSocket};

use super::conntrack::Flows;
use super::{BackendError, PassReport};
use ahead::Ahead;
use table::{FamilyTable, Part};
use watch::Watch;

/// The name of the table that is made and removed within one transaction to see what the kernel can
/// do.
const PROBE: &str = "causeway-probe";

/// The tables of one or both families. Blocks; belongs to one thread, whose network namespace it
/// programs.
#[derive(Debug)]
pub struct NftablesBackend {
    socket: Connection,
    tables: Vec<FamilyTable>,
    flows: Flows,
    watch: Watch,
}

impl NftablesBackend {
    /// Looks whether the kernel can do what is needed, and begins to read the tables that are there.
    /// Changes nothing: the tables are made, adopted or replaced by the first
    /// [`NftablesBackend::sync`].
    ///
    /// `settings`: one for each family to be served; a family not named has its table left alone.
    ///
    /// # Errors
    /// [`BackendError::NoNftables`]; [`BackendError::Nft`] and [`BackendError::Conntrack`] if no
    /// socket can be opened.
    pub fn open(settings: Vec<Settings>) -> Result<Self, BackendError> {
        Self::over(Connection::default(), settings)
    }

    /// As [`NftablesBackend::open`], with operations that fail as `faults` says.
    ///
    /// # Errors
    /// As [`NftablesBackend::open`].
    #[cfg(feature = "faulty")]
    pub fn with_faults(
        settings: Vec<Settings>,
        faults: nodekit::faulty::Faults,
    ) -> Result<Self, BackendError> {
        let connection = Connection {
            faults: Some(faults),
            ..Connection::default()
        };
        Self::over(connection, settings)
    }

    fn over(mut socket: Connection, settings: Vec<Settings>) -> Result<Self, BackendError> {
        for settings in &settings {
            try_out(socket.get()?, settings).map_err(|source| BackendError::NoNftables {
                family: settings.family,
                source: Arc::new(source),
            })?;
        }
        let ahead = |family| match &socket {
            // A test says by number what fails, so nobody else may ask meanwhile.
            #[cfg(feature = "faulty")]
            Connection {
                faults: Some(_), ..
            } => Ahead::never(),
            _ => Ahead::start(family),
        };
        let tables = settings.into_iter();
        let tables = tables.map(|settings| {
            let ahead = ahead(settings.family);
            FamilyTable::new(settings, ahead)
        });
        Ok(Self {
            tables: tables.collect(),
            socket,
            flows: Flows::open()?,
            watch: Watch::default(),
        })
    }

    /// Brings the kernel to what `model` says about `services`, those of [`lb_model::Changes`] and
    /// those that failed before. Only to be called when [`Model::ready`] holds: the first pass takes
    /// every Service of the model, whatever `services` says, and removes everything else that was
    /// left in our tables by a run before.
    ///
    /// Never fails as a whole: see [`PassReport::complete`].
    pub fn sync(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> PassReport {
        self.sync_only(model, services, &|_| true)
    }

    /// As [`NftablesBackend::sync`], as if the model had no other Services than those that `ours`
    /// says.
    pub fn sync_only(
        &mut self,
        model: &Model,
        services: &BTreeSet<ServiceName>,
        ours: &dyn Fn(&ServiceName) -> bool,
    ) -> PassReport {
        let mut report = PassReport::default();
        let before = self.generation();
        let mut commits = 0;
        for table in &mut self.tables {
            let family = table.settings.family;
            let outcome = match self.socket.get() {
                Ok(socket) => table.sync(socket, Part { model, ours }, services),
                Err(error) => table.lost(services, error.into()),
            };
            if outcome.broken {
                self.socket.close();
            }
            commits += outcome.commits;
            self.flows.touch(family, outcome.report.full, outcome.udp);
            report.families.insert(family, outcome.report);
        }
        let after = self.generation();
        self.watch.passed(before, commits, after);
        let tables = self.tables.iter();
        let node_ports = tables.filter_map(|table| {
            let addresses = table.applied()?.node_port_addresses();
            Some((table.settings.family, addresses))
        });
        report.flows = self.flows.reconcile(model, node_ports);
        report
    }

    /// Takes new settings for the family that they name; they come into force with the next
    /// [`NftablesBackend::sync`], which may be given no Services. Changed node-port addresses cost a
    /// few operations; anything else replaces the table in one transaction.
    pub fn set_settings(&mut self, settings: Settings) {
        let family = settings.family;
        match self
            .tables
            .iter_mut()
            .find(|table| table.settings.family == family)
        {
            Some(table) => table.settings = settings,
            None => {
                let ahead = Ahead::start(family);
                self.tables.push(FamilyTable::new(settings, ahead));
            }
        }
    }

    /// Looks whether our tables still hold what they should; if not, the next
    /// [`NftablesBackend::sync`] looks at everything. To be called from time to time: costs next to
    /// nothing unless somebody else changed something in this network namespace, and then, at most
    /// [`watch::SHARE`]th of the time, a full reading. Gives whether a sync is needed.
    ///
    /// # Errors
    /// [`BackendError::Nft`].
    pub fn check(&mut self) -> Result<bool, BackendError> {
        let generation = self.socket.get()?.generation()?;
        if self.watch.knows(generation) {
            return Ok(false);
        }
        let elements = self.watch.may_read();
        let started = Instant::now();
        let mut intact = true;
        for table in &mut self.tables {
            intact &= table.check(self.socket.get()?, elements)?;
        }
        if elements {
            self.watch.read(started, generation, intact);
        }
        Ok(!intact)
    }

    /// Looks at every UDP flow with the next [`NftablesBackend::sync`].
    pub fn recheck_flows(&mut self) {
        let families = self.tables.iter().map(|table| table.settings.family);
        self.flows.touch_all(families);
    }

    /// The rule set's generation; `None` where the kernel does not tell.
    fn generation(&mut self) -> Option<u32> {
        self.socket.get().ok()?.generation().ok()
    }

    /// Removes the tables of both families, if they are there (`--cleanup`).
    ///
    /// # Errors
    /// [`BackendError::Nft`]; one family's failure does not keep the other's table.
    pub fn cleanup() -> Result<(), BackendError> {
        let mut socket = NftSocket::open()?;
        let mut result = Ok(());
        for family in Family::ALL {
            if let Err(error) = remove(&mut socket, family) {
                result = Err(error.into());
            }
        }
        result
    }
}

/// A socket that is opened anew after it failed, in the calling thread's network namespace.
#[derive(Debug, Default)]
struct Connection {
    socket: Option<NftSocket>,
    #[cfg(feature = "faulty")]
    faults: Option<nodekit::faulty::Faults>,
}

impl Connection {
    fn get(&mut self) -> Result<&mut NftSocket, Error> {
        match self.socket {
            Some(ref mut socket) => Ok(socket),
            ref mut none => {
                #[cfg(feature = "faulty")]
                if let Some(faults) = &self.faults {
                    return Ok(none.insert(NftSocket::with_faults(faults.clone())?));
                }
                Ok(none.insert(NftSocket::open()?))
            }
        }
    }

    fn close(&mut self) {
        self.socket = None;
    }
}

/// Makes a table with everything that is ever used, and removes it within the same transaction.
fn try_out(socket: &mut NftSocket, settings: &Settings) -> Result<(), Error> {
    let family = encode::nft_family(settings.family);
    let mut batch = Batch::new(family, PROBE);
    encode::append(&mut batch, settings.family, 0, &skeleton(settings));
    encode::append(&mut batch, settings.family, 1, &probe(settings));
    batch.delete_table(2);
    socket.commit(&batch)
}

fn remove(socket: &mut NftSocket, family: Family) -> Result<(), Error> {
    let tables = match socket.tables(Some(encode::nft_family(family))) {
        // No nftables, so no table.
        Err(error) if matches!(error.errno(), Some(nodekit::Errno::EPROTONOSUPPORT)) => {
            return Ok(());
        }
        tables => tables?,
    };
    if tables.iter().any(|table| table.name == TABLE) {
        let mut batch = encode::batch(family);
        batch.destroy_table(0);
        socket.commit(&batch)?;
    }
    Ok(())
}
