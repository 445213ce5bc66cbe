//! Steps into transactions, and what becomes of those that the kernel refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_model::{Frontend, FrontendAddress, Protocol, ServiceName};
use lb_plan::nftables::{Operation, Pass, Settings, Step};
use nodekit::Errno;
use nodekit::nft::{self, Batch, NftSocket};

use super::affinity::{self, Due};
use super::encode;
use crate::backend::{BackendError, FamilyReport};

/// How many bytes of steps go into one transaction. A change fits many times; a first full program
/// takes a few, so that neither side holds it all at once.
pub(super) const CHUNK: usize = 1 << 20;

/// The tag of what comes before all steps.
const OPENING: usize = usize::MAX;

/// One pass on its way into the kernel.
pub(super) struct Run<'a> {
    socket: &'a mut NftSocket,
    settings: &'a Settings,
    pass: Pass<'a>,
    /// What must stand before the first step, in the same transaction; taken when it does.
    opening: Option<Vec<Operation>>,
    /// When a transaction is sent.
    limit: usize,
    steps: Vec<Step>,
    batch: Batch,
    pub(super) report: FamilyReport,
    pub(super) touched: Touched,
    /// What the kernel holds may not be what we think.
    pub(super) doubtful: bool,
    /// The socket is of no more use.
    pub(super) broken: bool,
    /// Transactions that the kernel took.
    pub(super) commits: u32,
    /// Why something that several Services lean on is missing.
    missing: Option<BackendError>,
}

/// What must be looked at when the steps are in the kernel.
#[derive(Default)]
pub(super) struct Touched {
    /// See [`Step::affinity`].
    pub(super) affinity: BTreeMap<FrontendAddress, bool>,
    /// See [`Step::udp`].
    pub(super) udp: Vec<FrontendAddress>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        socket: &'a mut NftSocket,
        settings: &'a Settings,
        pass: Pass<'a>,
        opening: Option<Vec<Operation>>,
        limit: usize,
    ) -> Self {
        let mut run = Self {
            socket,
            settings,
            pass,
            opening,
            limit,
            steps: Vec::new(),
            batch: encode::batch(settings.family),
            report: FamilyReport::default(),
            touched: Touched::default(),
            doubtful: false,
            broken: false,
            commits: 0,
            missing: None,
        };
        run.batch = run.opened();
        run
    }

    /// A transaction with what must stand first.
    fn opened(&self) -> Batch {
        let mut batch = encode::batch(self.settings.family);
        if let Some(opening) = &self.opening {
            encode::append(&mut batch, self.settings.family, OPENING, opening);
        }
        batch
    }

    /// Appends `operations` to what makes the table, or commits them by themselves where the table
    /// is there. Gives whether they will be, or are, in the kernel.
    pub(super) fn begin(&mut self, operations: &[Operation]) -> bool {
        if let Some(opening) = &mut self.opening {
            opening.extend_from_slice(operations);
            self.batch = self.opened();
            return true;
        }
        if operations.is_empty() {
            return true;
        }
        let mut batch = encode::batch(self.settings.family);
        encode::append(&mut batch, self.settings.family, OPENING, operations);
        self.report.transactions += 1;
        match self.socket.commit(&batch) {
            Ok(()) => {
                self.commits += 1;
                self.report.operations += operations.len();
            }
            Err(error) => self.refused(Vec::new(), error),
        }
        self.report.leftovers.is_none()
    }

    /// See [`Pass::claim`].
    pub(super) fn claim(&mut self, service: &ServiceName, frontends: &[Frontend]) {
        self.pass.claim(service, frontends);
    }

    /// Plans a Service and sends what is due.
    pub(super) fn plan(&mut self, service: &ServiceName, frontends: &[Frontend]) {
        // Its flows may have to go even if nothing changes for new ones: an endpoint that drained
        // is no candidate before it ends, either.
        let addresses = frontends.iter().map(|frontend| frontend.address);
        let udp = addresses.filter(|address| address.protocol() == Protocol::Udp);
        self.touched.udp.extend(udp);
        for step in self.pass.plan(service, frontends) {
            self.push(step);
        }
    }

    /// Sends what is left, and then, if everything wanted was planned, what removes the rest.
    pub(super) fn finish(&mut self, everything: bool) {
        self.flush();
        if everything {
            for step in self.pass.prune() {
                self.push(step);
            }
            self.flush();
        }
    }

    /// Has clients forgotten that are due; `due` keeps them if that fails.
    pub(super) fn forget(&mut self, due: &mut Due) {
        if due.is_empty() || self.doubtful {
            return;
        }
        let applied = self.pass.applied();
        match affinity::forget(self.socket, self.settings.family, applied, due) {
            Ok(count) => {
                self.commits += u32::from(count > 0);
                self.report.operations += count;
                *due = Due::default();
            }
            Err(error) => {
                self.broken |= matches!(error, nft::Error::Netlink(_));
                self.report.leftovers = Some(error.into());
            }
        }
    }

    /// Removes what nobody leans on any more.
    pub(super) fn sweep(&mut self) {
        if let Some(step) = self.pass.sweep() {
            self.push(step);
            self.flush();
        }
    }

    fn push(&mut self, step: Step) {
        let tag = self.steps.len();
        encode::append(&mut self.batch, self.settings.family, tag, &step.operations);
        self.steps.push(step);
        if self.batch.size() >= self.limit {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let steps = std::mem::take(&mut self.steps);
        let batch = std::mem::replace(&mut self.batch, encode::batch(self.settings.family));
        if !batch.is_empty() {
            self.send(steps, &batch);
        } else {
            self.committed(steps);
        }
        self.batch = self.opened();
    }

    /// Sends `steps` again that were in a transaction which was refused.
    fn resend(&mut self, steps: Vec<Step>) {
        let (lacking, steps): (Vec<Step>, Vec<Step>) =
            steps.into_iter().partition(|step| self.pass.lacks(step));
        for step in &lacking {
            let error = BackendError::Lacks(self.missing.clone().map(Box::new));
            self.failed(step, error);
        }
        let mut batch = self.opened();
        for (tag, step) in steps.iter().enumerate() {
            encode::append(&mut batch, self.settings.family, tag, &step.operations);
        }
        if batch.is_empty() {
            self.committed(steps);
        } else {
            self.send(steps, &batch);
        }
    }

    fn send(&mut self, steps: Vec<Step>, batch: &Batch) {
        self.report.transactions += 1;
        match self.socket.commit(batch) {
            Ok(()) => {
                self.commits += 1;
                if let Some(opening) = self.opening.take() {
                    self.report.operations += opening.len();
                }
                self.committed(steps);
            }
            Err(error) => self.refused(steps, error),
        }
    }

    fn committed(&mut self, steps: Vec<Step>) {
        for mut step in steps {
            self.report.operations += step.operations.len();
            for (address, all) in step.affinity.drain(..) {
                *self.touched.affinity.entry(address).or_default() |= all;
            }
            self.touched.udp.append(&mut step.udp);
            self.pass.commit(step);
        }
    }

    fn failed(&mut self, step: &Step, error: BackendError) {
        self.pass.fail(step);
        match &step.service {
            Some(service) => {
                self.report.failed.insert(service.clone(), error);
            }
            None => {
                self.missing = Some(error.clone());
                self.report.leftovers = Some(error);
            }
        }
    }

    /// Finds out whose fault it was, and goes on with the others.
    fn refused(&mut self, steps: Vec<Step>, error: nft::Error) {
        let blamed = blamed(&error);
        if matches!(error, nft::Error::Netlink(_)) || blamed.contains_key(&OPENING) {
            // The outcome is unknown, or there is no table to work in.
            self.doubtful = true;
            self.broken |= matches!(error, nft::Error::Netlink(_));
            let error = BackendError::from(error);
            self.report.leftovers = Some(error.clone());
            for step in &steps {
                self.failed(step, error.clone());
            }
        } else if !blamed.is_empty() {
            self.blame(steps, blamed);
        } else if self.opening.is_some() && !steps.is_empty() {
            // Not in one transaction, then: the table first.
            self.resend(Vec::new());
            self.resend(steps);
        } else if steps.len() > 1 {
            let mut first = steps;
            let second = first.split_off(first.len() / 2);
            self.resend(first);
            self.resend(second);
        } else {
            let error = BackendError::from(error);
            self.report.leftovers = Some(error.clone());
            for step in &steps {
                self.failed(step, error.clone());
            }
        }
    }

    fn blame(&mut self, steps: Vec<Step>, mut blamed: BTreeMap<usize, nft::Error>) {
        let mut others = Vec::with_capacity(steps.len());
        for (tag, step) in steps.into_iter().enumerate() {
            match blamed.remove(&tag) {
                Some(error) => {
                    // It is there, or not there, or in use, against all we know.
                    self.doubtful |= matches!(
                        error.errno(),
                        Some(Errno::ENOENT | Errno::EEXIST | Errno::EBUSY)
                    );
                    self.failed(&step, BackendError::from(error));
                }
                None => others.push(step),
            }
        }
        if !others.is_empty() || self.opening.is_some() {
            self.resend(others);
        }
    }
}

/// The failures by the tag of their step.
fn blamed(error: &nft::Error) -> BTreeMap<usize, nft::Error> {
    let mut blamed = BTreeMap::new();
    if let nft::Error::Invalid {
        tag,
        operation,
        detail,
    } = error
    {
        let error = nft::Error::Invalid {
            tag: *tag,
            operation: operation.clone(),
            detail: detail.clone(),
        };
        blamed.insert(*tag, error);
    }
    for failure in error.failures() {
        // The first is the cause; what follows it in the same step is often its consequence.
        if let Some(tag) = failure.tag {
            blamed.entry(tag).or_insert_with(|| nft::Error::Refused {
                failures: vec![failure.clone()],
                incomplete: false,
            });
        }
    }
    blamed
}

impl From<nft::Error> for BackendError {
    fn from(error: nft::Error) -> Self {
        Self::Nft(Arc::new(error))
    }
}
