//! ADD: steps, each with its undo.

#[cfg(test)]
mod tests;

use std::path::Path;

use cni_types::{Attachment, Cidr, Code, Dns, Error, Interface, IpConfig, Route, Success};
use nodekit::route::{Handle, Link, Mac};

use super::config::Network;
use super::device;
use super::wanted::entries;
use crate::bandwidth;
use crate::call::Call;
use crate::failure;
use crate::identity::{HostEnd, pod_mac};
use crate::ipam;
use crate::pod::{self, Inside, Pair};
use crate::portmap;
use crate::rollback::{Rollback, Step};
use crate::tables;

/// Attaches a container. On failure nothing of it is left; the bridge, which is everybody's, may
/// be.
///
/// # Errors
/// Code 2, 6 or 7 before anything is made; else the failed step's.
pub(crate) fn add(
    call: &Call,
    attachment: &Attachment,
    netns: &Path,
    before: &dyn Fn(Step) -> Result<(), Error>,
) -> Result<Success, Error> {
    let network = Network::read(call)?;
    let pod = call.open_netns(netns)?;
    let mut rollback = Rollback::new(before);
    let target = Target {
        call,
        network: &network,
        attachment,
        pod: &pod,
        path: netns,
    };
    target
        .attach(&mut rollback)
        .map_err(|reason| rollback.roll_back(reason))
}

struct Target<'a> {
    call: &'a Call,
    network: &'a Network,
    attachment: &'a Attachment,
    pod: &'a nodekit::netns::NetNs,
    path: &'a Path,
}

impl<'a> Target<'a> {
    fn attach(&self, rollback: &mut Rollback<'a>) -> Result<Success, Error> {
        let Target {
            network,
            attachment,
            pod,
            ..
        } = *self;
        let mut route = Handle::open().map_err(failure::kernel)?;
        device::demand(&mut route, network)?;
        let end = HostEnd::of(attachment);
        let plan = self.reserve(rollback)?;
        let bridge = rollback.step(Step::Bridge, || device::ensure(&mut route, network))?;
        let pair = Pair {
            bridge: Some(bridge.index),
            mtu: network.mtu,
            mac: network
                .mac
                .map_or_else(|| pod_mac(&plan.ips), |mac| Some(Mac(mac.0))),
        };
        let undo_end = end.clone();
        rollback.step_with_undo(
            Step::Veth,
            || pod::make_veth(&mut route, pod, attachment, pair),
            // A socket of its own: the steps hold the other one.
            move || {
                let mut route = Handle::open().map_err(failure::kernel)?;
                pod::delete_host_end(&mut route, &undo_end)
            },
        )?;
        let made = rollback.step(Step::Pod, || {
            self.connect(&mut route, &end, &plan, pair.mac)
        })?;
        let mut above = None;
        if network.gateway {
            above = rollback.step(Step::Gateway, || {
                self.be_gateway(&mut route, &bridge, &plan, made.mac)
            })?;
        }
        self.program(rollback, &mut route, &plan, made.mac)?;
        let limiter = self.limit(rollback, &mut route, &made.port)?;
        let mut result = self.result(&bridge, &end, &made, above.as_ref(), plan);
        result.interfaces.extend(limiter);
        Ok(result)
    }

    /// The pod's end and the bridge's port, as they shall be, announced to the network.
    fn connect(
        &self,
        route: &mut Handle,
        end: &HostEnd,
        plan: &Plan,
        mac: Option<Mac>,
    ) -> Result<Made, Error> {
        let network = self.network;
        // The routes of a node's own links are ours to make.
        pod::switch_off(&end.name, "accept_ra")?;
        device::set_port(route, end, network, &pod::alias_of(self.call))?;
        let routes = plan.routes.iter().map(|said| pod::meant(said, &plan.ips));
        let wanted = Inside {
            ips: &plan.ips,
            mac,
            subnet_routes: true,
            routes: routes.collect::<Result<_, _>>()?,
            dad: network.dad,
            up: !network.pod_down,
        };
        let mut inside = pod::configure(self.pod, &self.attachment.ifname, &wanted)?;
        let port = if plan.ips.is_empty() {
            route.link_by_name(&end.name).map_err(failure::kernel)?
        } else {
            let port = pod::await_port(route, end)?;
            inside.announce()?;
            port
        };
        Ok(Made {
            port,
            mac: inside.mac,
        })
    }

    /// The node as the pods' gateway; gives the interface above the bridge that it is by, if any.
    fn be_gateway(
        &self,
        route: &mut Handle,
        bridge: &Link,
        plan: &Plan,
        mac: Option<Mac>,
    ) -> Result<Option<Link>, Error> {
        let above = device::gateway(route, bridge, self.network)?;
        let link = above.as_ref().unwrap_or(bridge);
        device::be_gateway(route, link, &plan.gateways()?, self.network)?;
        device::know(route, link, &plan.ips, mac)?;
        Ok(above)
    }

    /// Everything that the attachment has in nf_tables, at once.
    fn program(
        &self,
        rollback: &mut Rollback<'a>,
        route: &mut Handle,
        plan: &Plan,
        mac: Option<Mac>,
    ) -> Result<(), Error> {
        let network = self.network;
        let addresses: Vec<_> = plan.ips.iter().map(|ip| ip.address).collect();
        if let Some(masquerade) = &network.masquerade {
            masquerade.add_rules(rollback, self.call, self.attachment, &addresses)?;
        }
        let mut guarded = None;
        if let Some(ports) = &network.ports {
            guarded = rollback.step(Step::Localhost, || {
                portmap::prepare(route, ports, &addresses)
            })?;
        }
        let link = guarded.as_deref();
        let entries = entries(self.call, network, self.attachment, &addresses, link, mac);
        if entries.is_empty() {
            return Ok(());
        }
        tables::step(rollback, &entries)?;
        match &network.ports {
            None => Ok(()),
            Some(ports) => rollback.step(Step::StaleConnections, || {
                portmap::forget_before(route, ports, &addresses)
            }),
        }
    }

    /// The pod's limits; gives the device that was made for them, if any.
    fn limit(
        &self,
        rollback: &mut Rollback<'a>,
        route: &mut Handle,
        port: &Link,
    ) -> Result<Option<Interface>, Error> {
        let Some(limits) = &self.network.limits else {
            return Ok(None);
        };
        let network = self.call.config.name();
        bandwidth::shape(rollback, route, port, limits, network, self.attachment)
    }

    fn reserve(&self, rollback: &mut Rollback<'a>) -> Result<Plan, Error> {
        let Target {
            call,
            network,
            attachment,
            ..
        } = *self;
        let Some(ipam) = &network.ipam else {
            return Ok(Plan::default());
        };
        let Success {
            ips, routes, dns, ..
        } = rollback.step_with_undo(
            Step::Reserve,
            || ipam.add(call, attachment),
            || ipam::del(call, attachment),
        )?;
        let dns = if network.dns.is_empty() {
            dns
        } else {
            network.dns.clone()
        };
        let mut plan = Plan { ips, routes, dns };
        plan.add_default_routes(network.default_gateway)?;
        Ok(plan)
    }

    fn result(
        &self,
        bridge: &Link,
        end: &HostEnd,
        made: &Made,
        above: Option<&Link>,
        plan: Plan,
    ) -> Success {
        let interface = |name: &str, mac: Option<Mac>, mtu: u32, sandbox: String| Interface {
            name: name.to_owned(),
            mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
            mtu: Some(mtu),
            sandbox,
            ..Interface::default()
        };
        let sandbox = self.path.to_string_lossy().into_owned();
        let Plan { ips, routes, dns } = plan;
        let dns = if dns.is_empty() {
            self.network.dns.clone()
        } else {
            dns
        };
        let mut interfaces = vec![
            interface(&bridge.name, bridge.mac, bridge.mtu, String::new()),
            interface(&end.name, Some(end.mac), made.port.mtu, String::new()),
            interface(&self.attachment.ifname, made.mac, made.port.mtu, sandbox),
        ];
        interfaces
            .extend(above.map(|link| interface(&link.name, link.mac, link.mtu, String::new())));
        Success {
            interfaces,
            ips: ips
                .into_iter()
                .map(|ip| IpConfig {
                    interface: Some(2),
                    ..ip
                })
                .collect(),
            routes,
            dns,
        }
    }
}

/// What the pair turned out to be.
struct Made {
    /// The host's end.
    port: Link,
    /// The pod's end's Ethernet address.
    mac: Option<Mac>,
}

/// What the pod shall have.
#[derive(Debug, Default)]
struct Plan {
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
}

impl Plan {
    /// For `isDefaultGateway`: a default route by each family's first gateway, unless there is
    /// one with a next hop already.
    fn add_default_routes(&mut self, wanted: bool) -> Result<(), Error> {
        if !wanted {
            return Ok(());
        }
        for (ipv4, everywhere) in [(true, "0.0.0.0/0"), (false, "::/0")] {
            let first = self
                .ips
                .iter()
                .find(|ip| ip.address.address().is_ipv4() == ipv4);
            let Some(gateway) = first.and_then(|ip| ip.gateway) else {
                continue;
            };
            let dst: Cidr = everywhere
                .parse()
                .map_err(|why: String| Error::new(Code::INTERNAL, why))?;
            if !self
                .routes
                .iter()
                .any(|route| route.dst == dst && route.gw.is_some())
            {
                self.routes.retain(|route| route.dst != dst);
                self.routes.push(Route::new(dst, Some(gateway)));
            }
        }
        Ok(())
    }

    /// The gateways as addresses of the bridge.
    fn gateways(&self) -> Result<Vec<Cidr>, Error> {
        let with_gateway = self
            .ips
            .iter()
            .filter_map(|ip| Some((ip.gateway?, ip.address.prefix())));
        with_gateway
            .map(|(gateway, prefix)| {
                Cidr::new(gateway, prefix).map_err(|why| Error::new(Code::INVALID_CONFIG, why))
            })
            .collect()
    }
}
