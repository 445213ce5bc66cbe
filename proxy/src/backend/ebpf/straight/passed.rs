//! Who would be passed by: whoever has anything at the node's hooks for packets that it sends on. What can't
//! be told apart counts.

use std::fs;
use std::io::ErrorKind;

use aya::programs::links::{LinkError, LinkType};
use aya::programs::{SchedClassifier, TcAttachType, loaded_links};
use nix::errno::Errno;
use nodekit::nft::{Family, NftSocket};
use nodekit::route::{Handle, Side};
use nodekit::sysctl::{self, Key};
use nodekit::xfrm::XfrmSocket;

use super::Way;
use crate::backend::ebpf::peers::are_bridges_filtered;
use crate::backend::ebpf::probe::knows_no_tcx;
use crate::backend::ebpf::{Error, pins};

/// The strict filter of sources (`rp_filter`, ip-sysctl.rst): what comes by another link than an answer would
/// take ends there.
const STRICT: &str = "1";
/// The lines above IPVS's first service (`ip_vs_info_seq_show`, net/netfilter/ipvs/ip_vs_ctl.c).
const HEAD_OF_IPVS: usize = 3;

/// How to look.
pub(super) struct Passed {
    tables: NftSocket,
    links: Handle,
    /// `None`: the kernel has no IPsec.
    policies: Option<XfrmSocket>,
    /// The number of our program on packets.
    program: u32,
}

impl Passed {
    /// In the calling thread's network namespace.
    pub(super) fn open(program: u32) -> Result<Self, Error> {
        let policies = match XfrmSocket::open() {
            Ok(policies) => Some(policies),
            Err(error) if error.errno() == Some(Errno::EPROTONOSUPPORT) => None,
            Err(error) => return Err(Error::Policies(error)),
        };
        Ok(Self {
            tables: NftSocket::open().map_err(Error::Tables)?,
            links: Handle::open().map_err(Error::Interfaces)?,
            policies,
            program,
        })
    }

    /// Who may want to see packets, by whatever interface they come.
    pub(super) fn somebody(&mut self) -> Result<Option<&'static str>, Error> {
        if self.are_forwarded_filtered()? {
            return Ok(Some("rules of nftables"));
        }
        if are_bridges_filtered(&mut self.tables)? {
            return Ok(Some("tables of bridges or interfaces"));
        }
        for names in ["ip_tables_names", "ip6_tables_names"] {
            if !read(&of_this_namespace(names))?.is_empty() {
                return Ok(Some("tables of iptables-legacy"));
            }
        }
        if let Some(policies) = &mut self.policies
            && !policies.look().map_err(Error::Policies)?.is_idle()
        {
            return Ok(Some("policies or associations of IPsec"));
        }
        // By PF_KEY, which the kernel may have alone; its list has a head.
        if self.policies.is_none() && !read(&of_this_namespace("pfkey"))?.is_empty() {
            return Ok(Some("IPsec"));
        }
        if has_services(&read(&of_this_namespace("ip_vs"))?) {
            return Ok(Some("services of IPVS"));
        }
        if is_any_foreign(&read("/proc/modules")?) {
            return Ok(Some("a module from outside of the kernel's tree"));
        }
        of_programs()
    }

    fn are_forwarded_filtered(&mut self) -> Result<bool, Error> {
        for family in [Family::Ip, Family::Ip6, Family::Inet] {
            let chains = self.tables.hooked_chains(family).map_err(Error::Tables)?;
            let mut chains = chains.iter().filter(|chain| chain.sees_forwarded());
            if chains.any(|chain| chain.rules > 0 || !chain.accepts) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether nobody sees what comes by this one after our program.
    pub(super) fn is_free(&mut self, way: &Way) -> Result<bool, Error> {
        Ok(!is_strict(&way.name) && !self.follow_programs(&way.name) && !self.has_filters(way)?)
    }

    /// Whether programs see packets after ours (TCX), or ours is not there yet; so it may be where the kernel
    /// does not say.
    fn follow_programs(&self, name: &str) -> bool {
        match SchedClassifier::query_tcx(name, TcAttachType::Ingress) {
            Ok((_, programs)) => programs
                .last()
                .is_some_and(|last| last.id() != self.program),
            Err(error) => !knows_no_tcx(&error),
        }
    }

    /// Whether there are filters besides our program.
    fn has_filters(&mut self, way: &Way) -> Result<bool, Error> {
        let ours = self.program;
        match self.links.filters(way.index, Side::Incoming) {
            // It is gone.
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(true),
            other => Ok(other.map_err(Error::Interfaces)?.iter().any(|filter| {
                let program = filter.classifier.as_ref().map(|(_, program)| *program);
                program != Some(ours)
            })),
        }
    }
}

fn is_strict(link: &str) -> bool {
    // The larger value of the two holds, and 2 is not strict.
    let said = ["all", link].map(|of| {
        let key = Key::ipv4_conf(of, "rp_filter").ok()?;
        sysctl::read(&key).ok()
    });
    let [Some(all), Some(own)] = said else {
        return true;
    };
    all.max(own) == STRICT
}

/// Whether a program is attached as those of netfilter are (Linux 6.4), in whatever network namespace: the
/// kernel does not say in which.
fn of_programs() -> Result<Option<&'static str>, Error> {
    for link in loaded_links() {
        let error = match link.and_then(|link| link.link_type()) {
            Ok(LinkType::Netfilter) => return Ok(Some("a BPF program of netfilter")),
            // Those of a kind that came later are not netfilter's.
            Ok(_) | Err(LinkError::UnknownLinkType(_)) => continue,
            Err(error) => error,
        };
        match errno(&error) {
            // It went meanwhile.
            Some(Errno::ENOENT) => {}
            Some(Errno::EPERM) => {
                return Ok(Some("BPF programs, to list which takes CAP_SYS_ADMIN"));
            }
            _ => return Err(Error::Links(error)),
        }
    }
    Ok(None)
}

fn errno(error: &LinkError) -> Option<Errno> {
    match error {
        LinkError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

fn has_services(ipvs: &str) -> bool {
    ipvs.lines().count() > HEAD_OF_IPVS
}

/// Whether one of these modules was built elsewhere (`O`, tainted-kernels.rst): it may have hooks.
fn is_any_foreign(modules: &str) -> bool {
    let mut taints = modules.lines().filter_map(|module| {
        let (_, taints) = module.trim_end().rsplit_once(" (")?;
        taints.strip_suffix(')')
    });
    taints.any(|taints| taints.contains('O'))
}

fn of_this_namespace(name: &str) -> String {
    format!("/proc/thread-self/net/{name}")
}

/// Empty where the kernel doesn't have it, or nobody has used it.
fn read(file: &str) -> Result<String, Error> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(pins::failed("file", file.as_ref())(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_ipvs_stand_below_its_head() {
        let head = "IP Virtual Server version 1.2.1 (size=4096)\n\
                    Prot LocalAddress:Port Scheduler Flags\n  \
                    -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";
        assert!(!has_services(""));
        assert!(!has_services(head));
        assert!(has_services(&format!("{head}TCP  0A600001:0050 rr \n")));
    }

    #[test]
    fn modules_from_elsewhere_have_their_mark() {
        let own = "veth 45056 0 - Live 0xffffffffc0a5d000\n\
                   bridge 421888 1 br_netfilter, Live 0x0000000000000000\n";
        assert!(!is_any_foreign(""));
        assert!(!is_any_foreign(own));
        // Without a signature.
        assert!(!is_any_foreign(&format!("{own}x 1 0 - Live 0x0 (E)\n")));
        assert!(is_any_foreign(&format!("{own}x 1 0 - Live 0x0 (POE)\n")));
    }
}
