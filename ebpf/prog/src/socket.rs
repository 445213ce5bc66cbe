//! The hooks on a cgroup's sockets (`BPF_PROG_TYPE_CGROUP_SOCK_ADDR` and
//! `BPF_PROG_TYPE_CGROUP_SOCK`, linux/bpf.h).

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_ktime_get_coarse_ns,
    bpf_set_retval,
};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use causeway_ebpf_abi::{Address, Backend, FrontendKey, MAPPED, mapped};
use causeway_ebpf_core::{Aim, Answer, Caller, Kernel, believed, close, connect, may_bind, send};

use crate::maps::{self, Maps};

/// The system call goes on.
const GO_ON: i32 = 1;
/// The system call fails, with EPERM unless `bpf_set_retval` said otherwise.
const FAIL: i32 = 0;
/// ECONNREFUSED (asm-generic/errno.h).
const REFUSED: i32 = -111;
/// EADDRINUSE (asm-generic/errno.h).
const IN_USE: i32 = -98;

/// The state of a UDP socket that is connected (`TCP_ESTABLISHED`, net/tcp_states.h).
const ESTABLISHED: u32 = 1;

const TCP: u32 = 6;
const UDP: u32 = 17;

#[cgroup_sock_addr(connect4)]
pub fn connect4(context: SockAddrContext) -> i32 {
    Call(context).connect::<V4>()
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(context: SockAddrContext) -> i32 {
    Call(context).connect::<V6>()
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(context: SockAddrContext) -> i32 {
    Call(context).send::<V4>()
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(context: SockAddrContext) -> i32 {
    Call(context).send::<V6>()
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(context: SockAddrContext) -> i32 {
    Call(context).hear::<V4>()
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(context: SockAddrContext) -> i32 {
    Call(context).hear::<V6>()
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(context: SockAddrContext) -> i32 {
    Call(context).hear::<V4>()
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(context: SockAddrContext) -> i32 {
    Call(context).hear::<V6>()
}

#[cgroup_sock_addr(bind4)]
pub fn bind4(context: SockAddrContext) -> i32 {
    Call(context).bind::<V4>()
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(context: SockAddrContext) -> i32 {
    Call(context).bind::<V6>()
}

#[cgroup_sock(sock_release)]
pub fn sock_release(context: SockContext) -> i32 {
    // SAFETY: the verifier checks every access to the context.
    let protocol = unsafe { (*context.sock).protocol };
    if protocol == TCP || protocol == UDP {
        // SAFETY: the helper takes the context of this program type.
        let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
        close(&Maps, protocol as u8, cookie);
    }
    GO_ON
}

struct Call(SockAddrContext);

/// How a family's address stands in the context.
trait Family {
    fn address(call: &Call) -> Address;
    fn set_address(call: &Call, address: &Address);
    /// Whether an address can be said in this family.
    fn has(address: &Address) -> bool;
}

struct V4;
struct V6;

impl Family for V4 {
    #[inline(always)]
    fn address(call: &Call) -> Address {
        // SAFETY: the verifier checks every access to the context.
        mapped(unsafe { (*call.raw()).user_ip4 }.to_ne_bytes())
    }
    #[inline(always)]
    fn set_address(call: &Call, address: &Address) {
        let [.., a, b, c, d] = *address;
        // SAFETY: as above.
        unsafe { (*call.raw()).user_ip4 = u32::from_ne_bytes([a, b, c, d]) };
    }
    #[inline(always)]
    fn has(address: &Address) -> bool {
        let [prefix @ .., _, _, _, _] = address;
        *prefix == MAPPED
    }
}

impl Family for V6 {
    #[inline(always)]
    fn address(call: &Call) -> Address {
        // SAFETY: as above; word by word, as the kernel allows it.
        let words = unsafe { (*call.raw()).user_ip6 };
        let mut address = [0; 16];
        for (bytes, word) in address.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_ne_bytes();
        }
        address
    }
    #[inline(always)]
    fn set_address(call: &Call, address: &Address) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
        // SAFETY: as above.
        unsafe {
            let context = call.raw();
            (*context).user_ip6[0] = u32::from_ne_bytes([a, b, c, d]);
            (*context).user_ip6[1] = u32::from_ne_bytes([e, f, g, h]);
            (*context).user_ip6[2] = u32::from_ne_bytes([i, j, k, l]);
            (*context).user_ip6[3] = u32::from_ne_bytes([m, n, o, p]);
        }
    }
    #[inline(always)]
    fn has(_: &Address) -> bool {
        true
    }
}

pub(crate) struct ThisMachine;

impl Kernel for ThisMachine {
    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }
    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: takes nothing.
        unsafe { bpf_ktime_get_coarse_ns() }
    }
    #[inline(always)]
    fn node(&self) -> u64 {
        maps::node()
    }
}

impl Caller for Call {
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the helper takes the context of this program type.
        unsafe { bpf_get_socket_cookie(self.0.as_ptr()) }
    }
    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: as above.
        unsafe { bpf_get_netns_cookie(self.0.as_ptr()) }
    }
}

impl Call {
    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.0.sock_addr
    }

    #[inline(always)]
    fn protocol(&self) -> u32 {
        // SAFETY: the verifier checks every access to the context.
        unsafe { (*self.raw()).protocol }
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        // The two bytes on the wire, in a word of the machine's order.
        // SAFETY: as above.
        u16::from_be(unsafe { (*self.raw()).user_port } as u16)
    }

    #[inline(always)]
    fn set<F: Family>(&self, address: &Address, port: u16) {
        F::set_address(self, address);
        // SAFETY: as above.
        unsafe { (*self.raw()).user_port = u32::from(port.to_be()) };
    }

    #[inline(always)]
    fn aim<F: Family>(&self) -> Aim {
        Aim {
            address: F::address(self),
            port: self.port(),
            protocol: self.protocol() as u8,
            view: FrontendKey::INSIDE,
        }
    }

    #[inline(always)]
    fn is_other(&self) -> bool {
        let protocol = self.protocol();
        protocol != TCP && protocol != UDP
    }

    #[inline(always)]
    fn bind<F: Family>(&self) -> i32 {
        let (socket, aim) = (self.socket(), self.aim::<F>());
        if self.is_other() || may_bind(&Maps, &ThisMachine, socket, &aim) {
            return GO_ON;
        }
        // SAFETY: takes a number.
        unsafe { bpf_set_retval(IN_USE) };
        FAIL
    }

    #[inline(always)]
    fn connect<F: Family>(&self) -> i32 {
        if self.is_other() {
            return GO_ON;
        }
        let answer = connect(&Maps, &ThisMachine, self, &self.aim::<F>());
        self.act::<F>(answer)
    }

    #[inline(always)]
    fn send<F: Family>(&self) -> i32 {
        if self.protocol() != UDP || self.is_connected() {
            return GO_ON;
        }
        let answer = send(&Maps, &ThisMachine, self, &self.aim::<F>());
        self.act::<F>(answer)
    }

    /// A connected socket hears its peer only. (The kernel makes a `send` on an IPv6 socket that is
    /// connected to an IPv4 address a `sendto` that address.)
    #[inline(always)]
    fn is_connected(&self) -> bool {
        // SAFETY: the verifier checks every access to the context.
        let state = unsafe { (*(*self.raw()).__bindgen_anon_1.sk).state };
        state == ESTABLISHED
    }

    #[inline(always)]
    fn act<F: Family>(&self, answer: Answer) -> i32 {
        match answer {
            Answer::NotOurs => GO_ON,
            Answer::Refuse => {
                // SAFETY: takes a number.
                unsafe { bpf_set_retval(REFUSED) };
                FAIL
            }
            Answer::To(backend) => {
                if F::has(&backend.address) {
                    self.set::<F>(&backend.address, backend.port);
                }
                GO_ON
            }
        }
    }

    /// The socket hears of a backend, and is told of the frontend that it believes in.
    #[inline(always)]
    fn hear<F: Family>(&self) -> i32 {
        let backend = Backend {
            address: F::address(self),
            port: self.port(),
            place: 0,
        };
        let original = believed(&Maps, self, backend, self.protocol() as u8);
        if let Some(original) = original
            && F::has(&original.address)
        {
            self.set::<F>(&original.address, original.port);
        }
        GO_ON
    }
}
