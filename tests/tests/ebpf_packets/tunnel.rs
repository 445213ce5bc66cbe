//! An interface whose packets begin with the IP header: a tunnel, with a client behind it that this
//! test is.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use causeway_ebpf_abi::{Counter, Frontend};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nodekit::route::{Address, Handle};

use crate::bed::Bed;
use crate::frames::{Packet, Read, SYN};
use crate::maps::{Plane, TCP, UDP};
use crate::traffic::{NODE_PORTS, on_a_bed};

/// The node's own addresses there, and the client's.
const HERE: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];
const CLIENTS: [&str; 2] = ["203.0.113.5:40000", "[2001:db8:113::5]:40000"];
/// For a packet that must come: the machine may be busy.
const PATIENCE: u16 = 10_000;

/// The client's end.
struct Tunnel(File);

impl Tunnel {
    /// One of the calling thread's network namespace (linux/if_tun.h).
    #[expect(unsafe_code, reason = "nothing else makes such a link")]
    fn open(name: &str) -> Self {
        let mut asked = [0_u8; size_of::<libc::ifreq>()];
        asked[..name.len()].copy_from_slice(name.as_bytes());
        let flags = u16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
        asked[libc::IFNAMSIZ..][..2].copy_from_slice(&flags.to_ne_bytes());
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true);
        let file = options.open("/dev/net/tun").unwrap();
        // SAFETY: the kernel reads and writes one `ifreq`, which the bytes have room for.
        let status = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, asked.as_mut_ptr()) };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
        Self(file)
    }

    /// Sends one in, and says what comes out of the same protocol.
    fn exchange(&mut self, sent: &Packet<'_>) -> Read {
        self.0.write_all(&sent.packet()).unwrap();
        loop {
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut polled, PollTimeout::from(PATIENCE)).unwrap();
            assert_eq!(ready, 1, "nothing came for {:?}", sent.to);
            let mut packet = [0; 2_048];
            let length = self.0.read(&mut packet).unwrap();
            let read = Read::quoted(&packet[..length]);
            // The kernel has things of its own to say, as to routers.
            if read.protocol == sent.protocol {
                return read;
            }
        }
    }
}

fn tunnel(bed: &Bed, plane: &mut Plane) -> Tunnel {
    let tunnel = bed.node.run(|| Tunnel::open("tun0")).unwrap();
    let mut links = Handle::open_in(&bed.node).unwrap();
    let index = bed.link("tun0");
    links.set_up(index).unwrap();
    for (address, length) in HERE.iter().zip([24, 64]) {
        let network = format!("{address}/{length}").parse().unwrap();
        links.add_address(&Address::new(index, network)).unwrap();
    }
    plane.attach_without_ethernet(bed, "tun0", HERE[0], HERE[1]);
    tunnel
}

#[test]
fn a_client_behind_a_tunnel_reaches_a_pod_and_is_refused_without_one() {
    on_a_bed(|bed, plane| {
        let mut tunnel = tunnel(bed, plane);
        for (family, protocol) in [(0, UDP), (0, TCP), (1, UDP), (1, TCP)] {
            let front: SocketAddr = NODE_PORTS[family].parse().unwrap();
            let sent = Packet {
                from: CLIENTS[family].parse().unwrap(),
                to: front,
                protocol,
                flags: SYN,
                payload: b"",
            };
            let pod = (bed.pods[0].beside(front.ip()), 8080).into();
            for flags in [0, Frontend::MASQUERADE_OTHERS] {
                plane.serve(front, 1, flags, &[pod]);
                let mut sent = sent;
                sent.from.set_port(40_000 + u16::try_from(flags).unwrap());
                let got = tunnel.exchange(&sent);
                assert_eq!(got.sockets(), (sent.to, sent.from), "{protocol}");
            }
            if protocol == TCP {
                let other = SocketAddr::new(front.ip(), 30_081);
                plane.serve(other, 2, 0, &[]);
                let got = tunnel.exchange(&Packet { to: other, ..sent });
                assert_eq!(got.sockets(), (other, sent.from));
                assert_eq!(got.transport[13] & 4, 4, "a reset");
            }
        }
        assert_eq!(plane.counted(Counter::Translated), 8);
        assert_eq!(plane.counted(Counter::PacketsRefused), 2);
    });
}
