//! The hook at an interface's ingress (`BPF_PROG_TYPE_SCHED_CLS`, linux/bpf.h), by TCX or clsact.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// The next program has its turn, and then the stack.
const GO_ON: i32 = TC_ACT_UNSPEC;

#[classifier]
pub fn packets(_context: TcContext) -> i32 {
    GO_ON
}
