//! Sockets that are connected, and such that want a port.

use core::cell::Cell;

use super::*;

const UDP_AIM: Aim = FrontendKey {
    protocol: 17,
    ..AIM
};
const TRANSLATES_UDP: SocketRules = SocketRules {
    v4: [0; 16],
    v6: [0; 16],
    flags: SocketRules::UDP_CONNECT,
};

/// One frontend of TCP and UDP with so many backends.
fn both(count: u8) -> Maps {
    let mut maps = maps(1, count, 0);
    let frontend = maps.frontends[&AIM];
    maps.frontends.insert(UDP_AIM, frontend);
    maps.rules = Some(TRANSLATES_UDP);
    maps
}

#[test]
fn connect_of_udp_is_translated_where_it_is_said_and_remembered() {
    let mut maps = both(2);
    let to = |maps: &Maps| connect(maps, &at(0, 0), &CLIENT, &UDP_AIM);
    assert_eq!(to(&maps), Answer::To(backend(0)));
    assert_eq!(*maps.counted.borrow(), [Counter::ConnectedUdp]);
    let remembered = maps.connected(17, CLIENT.cookie).unwrap();
    assert_eq!(remembered.netns, CLIENT.netns);
    assert_eq!(remembered.frontend, UDP_AIM);
    assert_eq!(remembered.backend, backend(0));
    let original = believed(&maps, &CLIENT, backend(0), 17).unwrap();
    assert_eq!((original.address, original.port), (AIM.address, AIM.port));

    maps.rules = Some(SocketRules {
        flags: 0,
        ..TRANSLATES_UDP
    });
    assert_eq!(to(&maps), Answer::NotOurs);
    assert_eq!(maps.connected(17, CLIENT.cookie), None);
    maps.rules = None;
    assert_eq!(to(&maps), Answer::NotOurs);
}

#[test]
fn a_socket_that_connects_elsewhere_or_closes_is_forgotten() {
    let maps = both(1);
    for aim in [AIM, UDP_AIM] {
        let connected = || maps.connected(aim.protocol, CLIENT.cookie);
        connect(&maps, &at(0, 0), &CLIENT, &aim);
        assert!(connected().is_some());
        let other = FrontendKey { port: 80, ..aim };
        connect(&maps, &at(0, 0), &CLIENT, &other);
        assert_eq!(connected(), None);
        connect(&maps, &at(0, 0), &CLIENT, &aim);
        let another = Socket {
            cookie: CLIENT.cookie + 1,
            ..CLIENT
        };
        close(&maps, aim.protocol, another.cookie);
        assert!(connected().is_some());
        close(&maps, aim.protocol, CLIENT.cookie);
        assert_eq!(connected(), None);
    }
}

#[test]
fn nothing_is_looked_for_where_a_bit_or_a_cell_says_that_there_is_nothing() {
    let mut maps = both(1);
    for aim in [AIM, UDP_AIM] {
        connect(&maps, &at(0, 0), &CLIENT, &aim);
        assert!(believed(&maps, &CLIENT, backend(0), aim.protocol).is_some());
    }
    maps.shared = Some(false);
    for aim in [AIM, UDP_AIM] {
        close(&maps, aim.protocol, CLIENT.cookie);
        assert!(maps.connected(aim.protocol, CLIENT.cookie).is_some());
        assert_eq!(believed(&maps, &CLIENT, backend(0), aim.protocol), None);
    }
    // What a socket that is not connected believes is in another map.
    send(&maps, &at(0, 0), &CLIENT, &UDP_AIM);
    assert!(believed(&maps, &CLIENT, backend(0), 17).is_some());

    // What is aimed at has its bit before it is there.
    maps.aimed = Some(0);
    assert_eq!(connect(&maps, &at(0, 0), &CLIENT, &AIM), Answer::NotOurs);
    assert_eq!(send(&maps, &at(0, 0), &CLIENT, &UDP_AIM), Answer::NotOurs);
}

#[test]
fn a_socket_that_was_ended_is_forgotten_in_silence() {
    let maps = both(1);
    connect(&maps, &at(0, 0), &CLIENT, &UDP_AIM);
    maps.set_connected(17, CLIENT.cookie, &Connected::ENDED);
    assert_eq!(believed(&maps, &CLIENT, backend(0), 17), None);
    told(&maps);
    close(&maps, 17, CLIENT.cookie);
    assert_eq!(maps.connected(17, CLIENT.cookie), None);
    assert_eq!(told(&maps), []);
}

#[test]
fn without_backends_connect_is_refused_and_what_was_is_forgotten() {
    let mut maps = both(1);
    connect(&maps, &at(0, 0), &CLIENT, &UDP_AIM);
    for frontend in maps.frontends.values_mut() {
        frontend.count = 0;
    }
    let answer = connect(&maps, &at(0, 0), &CLIENT, &UDP_AIM);
    assert_eq!(answer, Answer::Refuse);
    assert_eq!(maps.connected(17, CLIENT.cookie), None);
}

/// A machine on which the first backend leaves while somebody chooses it.
struct Leaving<'a> {
    maps: &'a Maps,
    tries: Cell<u32>,
}

impl Kernel for Leaving<'_> {
    fn random(&self) -> u32 {
        let tries = self.tries.get();
        self.tries.set(tries + 1);
        if tries == 0 { 0 } else { u32::MAX }
    }
    fn now(&self) -> u64 {
        0
    }
    fn node(&self) -> u64 {
        NODE
    }
}

#[test]
fn a_backend_that_leaves_while_it_is_chosen_is_chosen_in_vain() {
    let mut maps = both(2);
    maps.members.retain(|member| member.backend != backend(0));
    let machine = Leaving {
        maps: &maps,
        tries: Cell::new(0),
    };
    let answer = connect(machine.maps, &machine, &CLIENT, &UDP_AIM);
    assert_eq!(answer, Answer::To(backend(1)));
    assert_eq!(machine.tries.get(), 2);
    let remembered = maps.connected(17, CLIENT.cookie).unwrap();
    assert_eq!(remembered.backend, backend(1));
    assert_eq!(*maps.counted.borrow(), [Counter::ConnectedUdp]);
}

/// A node with the addresses 192.0.2.1 and fd00::1, where AIM's port is a node port of IPv4.
fn guarded() -> Maps {
    let mut maps = maps(1, 1, 0);
    let v4 = mapped([192, 0, 2, 1]);
    let mut v6 = [0; 16];
    v6[0] = 0xfd;
    v6[15] = 1;
    let frontend = Frontend {
        flags: Frontend::SOCKETS | Frontend::NODE_PORT,
        ..maps.frontends[&AIM]
    };
    let key = FrontendKey { address: v4, ..AIM };
    maps.frontends.insert(key, frontend);
    maps.rules = Some(SocketRules {
        v4,
        v6,
        flags: SocketRules::GUARD_PORTS,
    });
    maps
}

const ON_THE_NODE: Socket = Socket {
    cookie: 7,
    netns: NODE,
};

fn binds(maps: &Maps, socket: Socket, address: Address, port: u16) -> bool {
    let aim = FrontendKey {
        address,
        port,
        ..AIM
    };
    may_bind(maps, &at(0, 0), socket, &aim)
}

#[test]
fn a_node_port_is_nobodys_on_the_node() {
    let maps = guarded();
    let (own, other) = (mapped([192, 0, 2, 1]), mapped([192, 0, 2, 9]));
    for taken in [own, [0; 16], mapped([0; 4])] {
        assert!(!binds(&maps, ON_THE_NODE, taken, AIM.port), "{taken:?}");
        assert!(binds(&maps, ON_THE_NODE, taken, AIM.port + 1));
        assert!(binds(&maps, ON_THE_NODE, taken, 0));
        assert!(binds(&maps, CLIENT, taken, AIM.port));
    }
    assert!(binds(&maps, ON_THE_NODE, other, AIM.port));
    // A ClusterIP that is an address of the node is no node port.
    assert!(binds(&maps, ON_THE_NODE, AIM.address, AIM.port));
    let counted = maps.counted.borrow();
    assert_eq!(*counted, [Counter::BindRefused; 3]);
}

#[test]
fn the_other_family_and_protocol_are_free() {
    let maps = guarded();
    let udp = FrontendKey {
        address: [0; 16],
        protocol: 17,
        ..AIM
    };
    assert!(may_bind(&maps, &at(0, 0), ON_THE_NODE, &udp));
    let v6 = maps.rules.unwrap().v6;
    assert!(binds(&maps, ON_THE_NODE, v6, AIM.port));
}

#[test]
fn nothing_is_guarded_unless_said() {
    let mut maps = guarded();
    maps.rules = maps.rules.map(|rules| SocketRules { flags: 0, ..rules });
    assert!(binds(&maps, ON_THE_NODE, [0; 16], AIM.port));
    maps.rules = None;
    assert!(binds(&maps, ON_THE_NODE, [0; 16], AIM.port));
}

/// What whoever watches heard, by namespace, and whom it went to.
fn told(maps: &Maps) -> Vec<(u32, u64, FrontendKey, Backend)> {
    let told = maps.told.borrow_mut().split_off(0);
    let told = told.into_iter();
    told.map(|event| (event.what, event.netns, event.frontend, event.backend))
        .collect()
}

#[test]
fn whoever_watches_hears_of_sockets_that_connect_and_close() {
    let mut maps = both(1);
    for (aim, what) in [(AIM, Counter::Connected), (UDP_AIM, Counter::ConnectedUdp)] {
        connect(&maps, &at(0, 0), &CLIENT, &aim);
        close(&maps, aim.protocol, CLIENT.cookie);
        close(&maps, aim.protocol, CLIENT.cookie);
        let by = CLIENT.netns;
        let heard = [
            (what as u32, by, aim, backend(0)),
            (Event::CLOSED, by, aim, backend(0)),
        ];
        assert_eq!(told(&maps), heard);
    }
    for _ in 0..2 {
        send(&maps, &at(0, 0), &CLIENT, &UDP_AIM);
    }
    let sent = (Counter::Sent as u32, CLIENT.netns, UDP_AIM, backend(0));
    assert_eq!(told(&maps), [sent], "one datagram after the other");
    for frontend in maps.frontends.values_mut() {
        frontend.count = 0;
    }
    connect(&maps, &at(0, 0), &CLIENT, &AIM);
    send(&maps, &at(0, 0), &CLIENT, &UDP_AIM);
    let refused = |aim| (Counter::Refused as u32, CLIENT.netns, aim, Backend::NONE);
    assert_eq!(told(&maps), [refused(AIM), refused(UDP_AIM)]);
    // Nobody's.
    let other = FrontendKey { port: 80, ..AIM };
    connect(&maps, &at(0, 0), &CLIENT, &other);
    assert_eq!(told(&maps), []);
}

#[test]
fn connections_and_refusals_are_counted_for_the_service_port_and_its_backend() {
    let mut maps = both(1);
    for aim in [AIM, UDP_AIM] {
        connect(&maps, &at(0, 0), &CLIENT, &aim);
    }
    // A flow, however many datagrams it has.
    for _ in 0..3 {
        send(&maps, &at(0, 0), &CLIENT, &UDP_AIM);
    }
    for frontend in maps.frontends.values_mut() {
        frontend.count = 0;
    }
    connect(&maps, &at(0, 0), &CLIENT, &AIM);
    send(&maps, &at(0, 0), &CLIENT, &UDP_AIM);
    let connections = Traffic {
        connections: 3,
        ..Traffic::NONE
    };
    // The map adds the backend's to the Service port's.
    let counted = [
        (
            (SERVICE, Backend::NONE),
            Traffic {
                refused: 2,
                ..Traffic::NONE
            },
        ),
        ((SERVICE, backend(0)), connections),
    ];
    assert_eq!(*maps.traffic.borrow(), counted.into());
}
