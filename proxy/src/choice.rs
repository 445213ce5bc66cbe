//! Which data planes are tried, of those that the configuration allows: mode ebpf only where it lacks
//! nothing, which is found out while the process still has the privileges to ask.

use std::fmt;

use crate::backend::ebpf::{self, Lacking};
use crate::config::{Mode, Settings, warning_of_mode};
use crate::privileges::GivenUp;
use crate::sync::{HostKernel, Kernel as _, before_the_node};

/// Data planes to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What the configuration allows.
    allowed: Vec<Mode>,
    /// Those of them that are tried, in this order.
    tried: Vec<Mode>,
    /// Why mode ebpf is not among them, though allowed.
    lacking: Vec<Lacking>,
}

/// Mode ebpf is the only one allowed, and this node can't do it.
#[derive(Debug, thiserror::Error)]
pub struct NoEbpf {
    lacking: Vec<Lacking>,
    /// What works here.
    instead: Option<Mode>,
}

impl fmt::Display for NoEbpf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "mode ebpf: this node lacks")?;
        for one in &self.lacking {
            writeln!(f, "  {one}")?;
        }
        match self.instead {
            Some(mode) => write!(f, "--proxy-mode {mode} works here"),
            None => f.write_str("neither --proxy-mode nftables nor iptables works here"),
        }
    }
}

impl Choice {
    /// Asks this node, and leaves in `settings` those modes that are to be tried. What is among
    /// `given_up` counts as a capability that the next start has again; what bpf(2) answers without
    /// it is left to that start.
    ///
    /// # Errors
    /// None is left.
    pub fn make(settings: &mut Settings, given_up: &GivenUp) -> Result<Self, NoEbpf> {
        let lacking = || {
            let families = before_the_node(settings, Mode::Ebpf);
            ebpf::lacking(&settings.planes.ebpf, &families, |one| given_up.has(one))
        };
        let choice = Self::by(&settings.modes, lacking, || works_here(settings))?;
        for lacks in &choice.lacking {
            tracing::info!(%lacks, "mode ebpf is not to be had");
        }
        settings.modes.clone_from(&choice.tried);
        if choice.tried != choice.allowed
            && let Some(warning) = warning_of_mode(settings)
        {
            tracing::warn!("{warning}");
        }
        Ok(choice)
    }

    /// The choice for a changed configuration: the same as long as it allows the same modes.
    ///
    /// # Errors
    /// As [`Choice::make`].
    pub fn again(&self, settings: &mut Settings, given_up: &GivenUp) -> Result<Self, NoEbpf> {
        if settings.modes != self.allowed {
            return Self::make(settings, given_up);
        }
        settings.modes.clone_from(&self.tried);
        Ok(self.clone())
    }

    fn by(
        allowed: &[Mode],
        lacking: impl FnOnce() -> Vec<Lacking>,
        works: impl FnOnce() -> Option<Mode>,
    ) -> Result<Self, NoEbpf> {
        let lacking = if allowed.contains(&Mode::Ebpf) {
            lacking()
        } else {
            Vec::new()
        };
        let mut tried = allowed.to_vec();
        if !lacking.is_empty() {
            tried.retain(|mode| *mode != Mode::Ebpf);
        }
        if tried.is_empty() {
            let instead = works();
            return Err(NoEbpf { lacking, instead });
        }
        Ok(Self {
            allowed: allowed.to_vec(),
            tried,
            lacking,
        })
    }

    /// Why mode ebpf is not tried, though allowed: a line for each feature that is lacking.
    pub fn lacking(&self) -> Vec<String> {
        self.lacking.iter().map(ToString::to_string).collect()
    }
}

/// The first one, of those that mode ebpf stands above, that works here. Found out by opening it,
/// which changes nothing.
pub fn works_here(settings: &Settings) -> Option<Mode> {
    let modes = [Mode::Nftables, Mode::Iptables];
    let opened = HostKernel::default().open(&modes, settings);
    opened.ok().map(|opened| opened.mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: [Mode; 3] = [Mode::Ebpf, Mode::Nftables, Mode::Iptables];

    fn by(allowed: &[Mode], lacking: &[Lacking], works: Option<Mode>) -> Result<Vec<Mode>, String> {
        let choice = Choice::by(allowed, || lacking.to_vec(), || works);
        choice
            .map(|choice| choice.tried)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn auto_takes_ebpf_where_nothing_is_lacking() {
        assert_eq!(by(&AUTO, &[], None).unwrap(), AUTO);
        let lacking = [Lacking::example()];
        assert_eq!(by(&AUTO, &lacking, None).unwrap(), AUTO[1..]);
        assert_eq!(by(&[Mode::Ebpf], &[], None).unwrap(), [Mode::Ebpf]);
    }

    #[test]
    fn without_ebpf_nobody_is_asked_for_it() {
        let asked = || -> Vec<Lacking> { panic!("asked") };
        let choice = Choice::by(&AUTO[1..], asked, || panic!("asked")).unwrap();
        assert_eq!(choice.tried, AUTO[1..]);
    }

    #[test]
    fn an_error_names_every_feature_and_what_works() {
        let one = Lacking::example();
        let lacking = [one.clone(), one.clone()];
        let told = |works| by(&[Mode::Ebpf], &lacking, works).unwrap_err();
        let lines = format!("mode ebpf: this node lacks\n  {one}\n  {one}\n");
        for mode in [Mode::Nftables, Mode::Iptables] {
            let works = format!("{lines}--proxy-mode {mode} works here");
            assert_eq!(told(Some(mode)), works);
        }
        let nothing = format!("{lines}neither --proxy-mode nftables nor iptables works here");
        assert_eq!(told(None), nothing);
    }

    #[test]
    fn what_was_chosen_stays_chosen_until_the_mode_changes() {
        let flags = crate::cli::Flags::read(["causeway-proxy", "--proxy-mode=auto"]).unwrap();
        let loaded = crate::config::load(None, &flags, "node-1").unwrap();
        let lacking = || vec![Lacking::example()];
        let chosen = Choice::by(&loaded.settings.modes, lacking, || None).unwrap();
        let mut settings = loaded.settings;
        let again = chosen.again(&mut settings, &GivenUp::default()).unwrap();
        assert_eq!(again, chosen);
        assert_eq!(settings.modes, AUTO[1..]);
        settings.modes = vec![Mode::Iptables];
        let other = chosen.again(&mut settings, &GivenUp::default()).unwrap();
        assert_eq!(other.tried, [Mode::Iptables]);
        assert_eq!(other.lacking(), [""; 0]);
    }
}
