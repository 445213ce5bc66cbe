//! The shape of the service proxy's tables: every form its rules use, in both families.

use std::time::Duration;

use nodekit::nft::{
    BaseChain, Batch, Chain, ChainType, CtKey, Data, Datatype, DynsetOp, Element, Expr, Family,
    Hook, MapData, MetaKey, NatFlags, NatKind, NumgenKind, Register, Reject, Rule, Set, SetFlags,
    Table, Type, Value, Verdict,
};

use super::{Listing, check};

const MARK: u32 = 0x4000;

/// What differs between the families.
struct Shape {
    family: Family,
    address: Datatype,
    vip: Vec<u8>,
    pod: Vec<u8>,
}

impl Shape {
    fn ip() -> Self {
        let (vip, pod) = (vec![10, 96, 0, 1], vec![10, 244, 1, 2]);
        Self {
            family: Family::Ip,
            address: Datatype::Ipv4Addr,
            vip,
            pod,
        }
    }

    fn ip6() -> Self {
        let (mut vip, mut pod) = (vec![0xfd; 16], vec![0xfc; 16]);
        vip[15] = 1;
        pod[15] = 2;
        Self {
            family: Family::Ip6,
            address: Datatype::Ipv6Addr,
            vip,
            pod,
        }
    }

    /// Loads daddr, protocol and dport from `register` on; gives the register behind.
    fn load_frontend(&self, exprs: &mut Vec<Expr>, register: Register) -> Register {
        let proto = register.after(self.address.bytes());
        exprs.push(Expr::destination_address(self.family, register));
        exprs.push(Expr::l4proto(proto));
        exprs.push(Expr::destination_port(proto.after(1)));
        proto.after(1).after(2)
    }

    fn frontend_type(&self) -> Type {
        Type::from([self.address, Datatype::InetProto, Datatype::InetService])
    }

    fn batch(&self) -> Batch {
        let mut batch = Batch::new(self.family, "causeway");
        batch.add_table(
            0,
            &Table {
                comment: Some("layout 1".into()),
                ..Table::default()
            },
        );
        self.sets(&mut batch);
        let base = |kind, hook, priority| BaseChain::new(kind, hook, priority);
        for (name, hook, priority) in [
            ("nat-prerouting", Hook::Prerouting, -100),
            ("nat-output", Hook::Output, -100),
            ("nat-postrouting", Hook::Postrouting, 100),
            ("nat-input", Hook::Input, 100),
        ] {
            batch.add_chain(0, &Chain::base(name, base(ChainType::Nat, hook, priority)));
        }
        for name in [
            "services",
            "no-endpoints",
            "vip-2",
            "vip-2-affinity-60",
            "learn",
            "learn-60",
        ] {
            batch.add_chain(0, &Chain::regular(name));
        }
        self.rules(&mut batch);
        self.elements(&mut batch);
        batch
    }

    fn sets(&self, batch: &mut Batch) {
        let endpoint = || MapData::Value(Type::from([self.address, Datatype::InetService]));
        let slot = [
            self.address,
            Datatype::InetProto,
            Datatype::InetService,
            Datatype::Mark,
        ];
        let client = [
            self.address,
            self.address,
            Datatype::InetProto,
            Datatype::InetService,
        ];
        let flags = SetFlags {
            dynamic: true,
            timeout: true,
            ..SetFlags::default()
        };
        batch.add_set(
            0,
            &Set::map("frontends", self.frontend_type(), MapData::Verdict),
        );
        batch.add_set(0, &Set::map("endpoints", slot, endpoint()));
        batch.add_set(
            0,
            &Set {
                flags,
                size: Some(65_536),
                ..Set::map("affinity", client, endpoint())
            },
        );
        batch.add_set(
            0,
            &Set::map("affinity-learn", self.frontend_type(), MapData::Verdict),
        );
        batch.add_set(0, &Set::new("cluster-ips", self.address));
        batch.add_set(0, &Set::new("hairpin", [self.address, self.address]));
    }

    fn rules(&self, batch: &mut Batch) {
        let r = Register::word;
        let jump = |to: &str| Expr::Verdict(Verdict::Jump(to.into()));
        let translated = [
            Expr::Ct {
                key: CtKey::Status,
                direction: None,
                to: r(0),
            },
            Expr::mask_xor(r(0), 0x20, 0),
            Expr::differs(r(0), Value::host_u32(0)),
        ];
        let mut rule = |chain: &str, exprs: &[Expr]| {
            batch.add_rule(0, &Rule::new(chain, exprs.to_vec()));
        };
        rule("nat-prerouting", &[jump("services")]);
        rule("nat-output", &[jump("services")]);
        rule("nat-input", &[&translated[..], &[jump("learn")]].concat());
        rule(
            "nat-postrouting",
            &[&translated[..], &[jump("learn")]].concat(),
        );
        for exprs in masquerade() {
            rule("nat-postrouting", &exprs);
        }
        let mut lookup = Vec::new();
        self.load_frontend(&mut lookup, r(0));
        lookup.push(Expr::vmap("frontends", r(0)));
        rule("services", &lookup);
        let daddr = Expr::destination_address(self.family, r(0));
        let code = if self.family == Family::Ip { 3 } else { 4 };
        let reject = Expr::Reject(Reject::Icmp(code));
        rule(
            "services",
            &[daddr, Expr::in_set("cluster-ips", r(0)), reject],
        );
        rule("vip-2", &self.pick());
        rule("vip-2-affinity-60", &self.remembered());
        rule("vip-2-affinity-60", &self.pick());
        rule("learn", &self.learner());
        rule("learn-60", &self.learn());
    }

    fn dnat(&self, register: Register) -> Expr {
        Expr::Nat {
            kind: NatKind::Destination,
            family: self.family,
            address: Some(register),
            port: Some(register.after(self.address.bytes())),
            flags: NatFlags::default(),
        }
    }

    fn pick(&self) -> Vec<Expr> {
        let r = Register::word(0);
        let mut exprs = Vec::new();
        let slot = self.load_frontend(&mut exprs, r);
        exprs.push(Expr::Numgen {
            kind: NumgenKind::Random,
            modulus: 2,
            offset: 0,
            to: slot,
        });
        exprs.push(Expr::map("endpoints", r, r));
        exprs.push(self.dnat(r));
        exprs
    }

    fn remembered(&self) -> Vec<Expr> {
        let r = Register::word(0);
        let mut exprs = vec![Expr::source_address(self.family, r)];
        self.load_frontend(&mut exprs, r.after(self.address.bytes()));
        exprs.push(Expr::map("affinity", r, r));
        exprs.push(self.dnat(r));
        exprs
    }

    fn ct_addresses(&self) -> (CtKey, CtKey) {
        match self.family {
            Family::Ip6 => (CtKey::SrcIp6, CtKey::DstIp6),
            _ => (CtKey::SrcIp, CtKey::DstIp),
        }
    }

    fn learner(&self) -> Vec<Expr> {
        let address = Register::word(0);
        let proto = address.after(self.address.bytes());
        vec![
            Expr::ct_original(self.ct_addresses().1, address),
            Expr::l4proto(proto),
            Expr::ct_original(CtKey::ProtoDst, proto.after(1)),
            Expr::vmap("affinity-learn", address),
        ]
    }

    fn learn(&self) -> Vec<Expr> {
        let (source, destination) = self.ct_addresses();
        let client = Register::word(0);
        let vip = client.after(self.address.bytes());
        let proto = vip.after(self.address.bytes());
        let port = proto.after(1);
        let data = port.after(2);
        vec![
            Expr::ct_original(source, client),
            Expr::ct_original(destination, vip),
            Expr::l4proto(proto),
            Expr::ct_original(CtKey::ProtoDst, port),
            Expr::destination_address(self.family, data),
            Expr::destination_port(data.after(self.address.bytes())),
            Expr::Dynset {
                op: DynsetOp::Update,
                set: "affinity".into(),
                key: client,
                data: Some(data),
                timeout: Some(Duration::from_secs(60)),
            },
        ]
    }

    fn elements(&self, batch: &mut Batch) {
        let port = 443u16.to_be_bytes();
        let frontend = Value::concat(&[&self.vip, &[6], &port]);
        let goto = Data::Verdict(Verdict::Goto("vip-2-affinity-60".into()));
        batch.add_elements(0, "frontends", [Element::to(frontend.clone(), goto)]);
        let learn = Data::Verdict(Verdict::Jump("learn-60".into()));
        batch.add_elements(0, "affinity-learn", [Element::to(frontend, learn)]);
        for slot in 0u32..2 {
            let key = Value::concat(&[&self.vip, &[6], &port, &slot.to_ne_bytes()]);
            let endpoint = Value::concat(&[&self.pod, &8443u16.to_be_bytes()]);
            batch.add_elements(0, "endpoints", [Element::to(key, Data::Value(endpoint))]);
        }
        batch.add_elements(0, "cluster-ips", [Element::new(Value::new(&self.vip))]);
        let both = Value::concat(&[&self.pod, &self.pod]);
        batch.add_elements(0, "hairpin", [Element::new(both)]);
    }
}

/// Marked packets lose their mark and get this node's address.
fn masquerade() -> [Vec<Expr>; 3] {
    let (key, r) = (MetaKey::Mark, Register::word(0));
    let mark = || Expr::Meta { key, to: r };
    let unmarked = [
        Expr::mask_xor(r, MARK, 0),
        Expr::equal(r, Value::host_u32(0)),
    ];
    let leave = [&[mark()][..], &unmarked, &[Expr::Verdict(Verdict::Return)]].concat();
    let unmark = vec![
        mark(),
        Expr::mask_xor(r, !0, MARK),
        Expr::MetaSet { key, from: r },
    ];
    let flags = NatFlags {
        fully_random: true,
        ..NatFlags::default()
    };
    [leave, unmark, vec![Expr::Masquerade { flags }]]
}

/// nft lists all of it but reads neither `ct original proto-dst` in a concatenation nor slots of
/// type mark beside `numgen`.
#[test]
fn both_families_are_listed_as_meant() {
    check("service-table-ip", Listing::ShownOnly, || {
        vec![Shape::ip().batch()]
    });
    check("service-table-ip6", Listing::ShownOnly, || {
        vec![Shape::ip6().batch()]
    });
}
