//! Rules of the plan as expressions of the kernel's virtual machine.

use std::time::Duration;

use ipnetwork::IpNetwork;
use lb_model::{Family, LocalDetector};
use lb_plan::nftables::{Addressing, Choice, Match, Rule, Set, Statement};
use nodekit::nft::{
    self, CmpOp, CtKey, DynsetOp, Expr, FibResult, MetaKey, NatFlags, NatKind, Register, Reject,
    Value, Verdict,
};

/// `IPS_DST_NAT` (`linux/netfilter/nf_conntrack_common.h`).
const DESTINATION_TRANSLATED: u32 = 0x20;
/// `ICMP_PORT_UNREACH` (`linux/icmp.h`).
const PORT_UNREACHABLE: u8 = 3;
/// `ICMPV6_PORT_UNREACH` (`linux/icmpv6.h`).
const PORT_UNREACHABLE_V6: u8 = 4;

const FIRST: Register = Register::word(0);

/// The expressions of `rule`.
pub(super) fn expressions(family: Family, rule: &Rule) -> Vec<Expr> {
    let mut program = Program {
        family,
        exprs: Vec::new(),
    };
    for matching in &rule.matches {
        program.matching(matching);
    }
    for statement in &rule.statements {
        program.statement(statement);
    }
    program.exprs
}

/// A part of a packet or of its connection.
#[derive(Clone, Copy)]
enum Field {
    Source,
    Destination,
    Protocol,
    Port,
    OriginalSource,
    OriginalDestination,
    OriginalPort,
}

const VIP: &[Field] = &[Field::Destination, Field::Protocol, Field::Port];
const NODE_PORT: &[Field] = &[Field::Protocol, Field::Port];

struct Program {
    family: Family,
    exprs: Vec<Expr>,
}

impl Program {
    const fn table_family(&self) -> nft::Family {
        match self.family {
            Family::V4 => nft::Family::Ip,
            Family::V6 => nft::Family::Ip6,
        }
    }

    /// Bytes of an address.
    const fn address(&self) -> u8 {
        match self.family {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    /// Loads `fields` one after the other; gives the register behind them.
    fn load(&mut self, fields: &[Field], mut to: Register) -> Register {
        let family = self.table_family();
        for field in fields {
            let (bytes, expr) = match field {
                Field::Source => (self.address(), Expr::source_address(family, to)),
                Field::Destination => (self.address(), Expr::destination_address(family, to)),
                Field::Protocol => (1, Expr::l4proto(to)),
                Field::Port => (2, Expr::destination_port(to)),
                Field::OriginalSource => (self.address(), self.original(CtKey::SrcIp, to)),
                Field::OriginalDestination => (self.address(), self.original(CtKey::DstIp, to)),
                Field::OriginalPort => (2, Expr::ct_original(CtKey::ProtoDst, to)),
            };
            self.exprs.push(expr);
            to = to.after(bytes.into());
        }
        to
    }

    fn original(&self, address: CtKey, to: Register) -> Expr {
        let key = match (self.family, address) {
            (Family::V6, CtKey::SrcIp) => CtKey::SrcIp6,
            (Family::V6, CtKey::DstIp) => CtKey::DstIp6,
            (_, key) => key,
        };
        Expr::ct_original(key, to)
    }

    fn matching(&mut self, matching: &Match) {
        match matching {
            Match::DestinationIn(set) => {
                self.load(&[Field::Destination], FIRST);
                self.exprs.push(Expr::in_set(set.name(), FIRST));
            }
            Match::UnallocatedClusterIp => {
                self.load(&[Field::Destination, Field::Protocol], FIRST);
                let set = Set::ServiceCidrs.name();
                self.exprs.push(Expr::in_set(set, FIRST));
            }
            Match::AimedAt(set) => {
                self.load(&[Field::OriginalDestination], FIRST);
                self.exprs.push(Expr::in_set(set.name(), FIRST));
            }
            Match::SourceNotAllowed => {
                let next = self.load(VIP, FIRST);
                self.load(&[Field::Source], next);
                let set = Set::SourceRanges.name();
                self.exprs.push(Expr::not_in_set(set, FIRST));
            }
            Match::SourceIsPod(detector, is) => self.source_is_pod(detector, *is),
            Match::SourceIn(set) => {
                self.load(&[Field::Source], FIRST);
                self.exprs.push(Expr::in_set(set.name(), FIRST));
            }
            Match::SourceIsNode => {
                self.exprs.push(Expr::source_address_type(FIRST));
                let local = Value::host_u32(FibResult::LOCAL);
                self.exprs.push(Expr::equal(FIRST, local));
            }
            Match::Translated => self.connection_has(DESTINATION_TRANSLATED),
            Match::Hairpin => {
                self.load(&[Field::Source, Field::Destination], FIRST);
                self.exprs.push(Expr::in_set(Set::Hairpin.name(), FIRST));
            }
            Match::MarkClear(mask) => {
                self.load_mark();
                let keep = Expr::mask_xor(FIRST, *mask, 0);
                let none = Expr::equal(FIRST, Value::host_u32(0));
                self.exprs.extend([keep, none]);
            }
        }
    }

    /// Some of these bits are set in the connection's status.
    fn connection_has(&mut self, bits: u32) {
        self.exprs.push(Expr::Ct {
            key: CtKey::Status,
            direction: None,
            to: FIRST,
        });
        let keep = Expr::mask_xor(FIRST, bits, 0);
        let some = Expr::differs(FIRST, Value::host_u32(0));
        self.exprs.extend([keep, some]);
    }

    fn source_is_pod(&mut self, detector: &LocalDetector, is: bool) {
        let value = match detector {
            // Never planned: it would match anything.
            LocalDetector::None => return,
            LocalDetector::Cidr(network) => {
                self.load(&[Field::Source], FIRST);
                let len = self.address();
                if network.prefix() < len * 8 {
                    let mask = Expr::mask_prefix(FIRST, network.prefix(), len);
                    self.exprs.push(mask);
                }
                network_address(network)
            }
            LocalDetector::Interface(name) => {
                self.load_interface();
                Value::interface(name)
            }
            LocalDetector::InterfacePrefix(prefix) => {
                self.load_interface();
                Value::new(prefix.as_bytes())
            }
        };
        self.exprs.push(Expr::Cmp {
            op: if is { CmpOp::Eq } else { CmpOp::Ne },
            from: FIRST,
            value,
        });
    }

    fn load_interface(&mut self) {
        self.exprs.push(Expr::Meta {
            key: MetaKey::Iifname,
            to: FIRST,
        });
    }

    fn load_mark(&mut self) {
        self.exprs.push(Expr::Meta {
            key: MetaKey::Mark,
            to: FIRST,
        });
    }

    fn change_mark(&mut self, mask: u32, xor: u32) {
        self.load_mark();
        self.exprs.push(Expr::mask_xor(FIRST, mask, xor));
        self.exprs.push(Expr::MetaSet {
            key: MetaKey::Mark,
            from: FIRST,
        });
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Dispatch(addressing) => {
                let (fields, map) = match addressing {
                    Addressing::Vip => (VIP, Set::Frontends),
                    Addressing::NodePort => (NODE_PORT, Set::NodePorts),
                };
                self.load(fields, FIRST);
                self.exprs.push(Expr::vmap(map.name(), FIRST));
            }
            Statement::DispatchLearn(addressing) => self.dispatch_learn(*addressing),
            Statement::Jump(chain) => self.verdict(Verdict::Jump(chain.to_string())),
            Statement::Goto(chain) => self.verdict(Verdict::Goto(chain.to_string())),
            Statement::Return => self.verdict(Verdict::Return),
            Statement::Drop => self.verdict(Verdict::Drop),
            Statement::Balance => self.verdict(Verdict::Accept),
            Statement::SetMark(mask) => self.change_mark(!mask, *mask),
            Statement::FlipMark(mask) => self.change_mark(!0, *mask),
            Statement::Choose(choice) => self.choose(choice),
            Statement::Remember(seconds) => self.remember(seconds.get()),
            Statement::Follow => {
                let next = self.load(&[Field::Source], FIRST);
                self.load(VIP, next);
                self.translate(Set::Affinity);
            }
            Statement::Masquerade => self.exprs.push(Expr::Masquerade {
                flags: NatFlags {
                    fully_random: true,
                    ..NatFlags::default()
                },
            }),
            Statement::Reject => self
                .exprs
                .push(Expr::Reject(Reject::Icmp(match self.family {
                    Family::V4 => PORT_UNREACHABLE,
                    Family::V6 => PORT_UNREACHABLE_V6,
                }))),
        }
    }

    fn verdict(&mut self, verdict: Verdict) {
        self.exprs.push(Expr::Verdict(verdict));
    }

    fn dispatch_learn(&mut self, addressing: Addressing) {
        let mut next = FIRST;
        let map = match addressing {
            Addressing::Vip => {
                next = self.load(&[Field::OriginalDestination], next);
                Set::AffinityLearn
            }
            Addressing::NodePort => Set::AffinityLearnPorts,
        };
        self.load(&[Field::Protocol, Field::OriginalPort], next);
        self.exprs.push(Expr::vmap(map.name(), FIRST));
    }

    fn choose(&mut self, choice: &Choice) {
        let (fields, map) = match choice.addressing {
            Addressing::Vip => (VIP, Set::Endpoints),
            Addressing::NodePort => (NODE_PORT, Set::NodePortEndpoints),
        };
        let next = self.load(fields, FIRST);
        self.exprs.push(Expr::Numgen {
            kind: nft::NumgenKind::Random,
            modulus: choice.count.into(),
            offset: choice.offset.into(),
            to: next,
        });
        self.translate(map);
    }

    /// Translates the destination to what `map` says for the key that was loaded.
    fn translate(&mut self, map: Set) {
        self.exprs.push(Expr::map(map.name(), FIRST, FIRST));
        self.exprs.push(Expr::Nat {
            kind: NatKind::Destination,
            family: self.table_family(),
            address: Some(FIRST),
            port: Some(FIRST.after(self.address().into())),
            flags: NatFlags::default(),
        });
    }

    fn remember(&mut self, seconds: u32) {
        let key = [
            Field::OriginalSource,
            Field::OriginalDestination,
            Field::Protocol,
            Field::OriginalPort,
        ];
        let data = self.load(&key, FIRST);
        self.load(&[Field::Destination, Field::Port], data);
        self.exprs.push(Expr::Dynset {
            op: DynsetOp::Update,
            set: Set::Affinity.name().to_owned(),
            key: FIRST,
            data: Some(data),
            timeout: Some(Duration::from_secs(seconds.into())),
        });
    }
}

fn network_address(network: &IpNetwork) -> Value {
    match network {
        IpNetwork::V4(network) => Value::new(&network.network().octets()),
        IpNetwork::V6(network) => Value::new(&network.network().octets()),
    }
}
