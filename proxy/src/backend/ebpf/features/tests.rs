use super::*;

fn names(hook: PacketsHook, absent: &[Question]) -> Vec<&'static str> {
    let lacking = lacking_by(hook, |question| {
        if absent.contains(question) {
            Answer::No(None)
        } else {
            Answer::Yes
        }
    });
    lacking.into_iter().map(|one| one.name).collect()
}

#[test]
fn every_lacking_feature_is_named() {
    assert_eq!(names(PacketsHook::Auto, &[]), [""; 0]);
    let alone = [NET_ADMIN, NFTABLES];
    let all = alone
        .iter()
        .chain(&CAPABILITIES)
        .chain(&KERNEL)
        .chain(&NODE);
    for feature in all {
        let absent = [feature.question];
        assert_eq!(names(PacketsHook::Auto, &absent), [feature.name]);
    }
    let several = [
        Question::Bpffs,
        Question::Map(MapType::RingBuf),
        Question::Helper(CgroupSockAddr, Helper::BPF_FUNC_set_retval),
    ];
    let named = names(PacketsHook::Auto, &several);
    let first = "maps of type ringbuf";
    let second = "bpf_set_retval in programs of type cgroup_sock_addr";
    assert_eq!(named, [first, second, "a bpffs"]);
}

#[test]
fn packets_are_seen_by_either_hook_unless_one_is_asked_for() {
    let (tcx, clsact, filter) = (Question::Tcx, Question::Clsact, Question::Filter);
    let [qdisc, bpf] = ["queueing discipline clsact", "filters of type bpf"];
    assert_eq!(names(PacketsHook::Auto, &[tcx]), [""; 0]);
    assert_eq!(names(PacketsHook::Auto, &[clsact, filter]), [""; 0]);
    assert_eq!(names(PacketsHook::Auto, &[tcx, filter]), [bpf]);
    assert_eq!(
        names(PacketsHook::Auto, &[tcx, clsact, filter]),
        [qdisc, bpf]
    );
    assert_eq!(names(PacketsHook::Tcx, &[tcx, filter]), ["TCX"]);
    assert_eq!(names(PacketsHook::Clsact, &[tcx, filter]), [bpf]);
}

#[test]
fn what_has_no_ground_to_stand_on_is_not_named() {
    let helper = Question::Helper(CgroupSockAddr, Helper::BPF_FUNC_set_retval);
    let program = Question::Program(CgroupSockAddr);
    assert_eq!(
        names(PacketsHook::Auto, &[program, helper]),
        ["programs of type cgroup_sock_addr"]
    );
    let ring = Question::Map(MapType::RingBuf);
    let absent = [Question::SystemCall, ring, Question::Cgroup];
    assert_eq!(names(PacketsHook::Auto, &absent), ["bpf(2)", "a cgroup2"]);
    // Whoever may not ask hears of no kernel that lacks something.
    let bpf = Question::Capability(Capability::CAP_BPF);
    let absent = [bpf, Question::SystemCall, ring, Question::Cgroup];
    assert_eq!(names(PacketsHook::Auto, &absent), ["CAP_BPF", "a cgroup2"]);
    let network = Question::Capability(Capability::CAP_NET_ADMIN);
    let absent = [network, Question::SystemCall, Question::Nftables];
    assert_eq!(names(PacketsHook::Auto, &absent), ["CAP_NET_ADMIN"]);
}

#[test]
fn what_cannot_be_found_out_is_left_to_the_attempt() {
    assert_eq!(lacking_by(PacketsHook::Auto, |_| Answer::Unknown), []);
}

#[test]
fn one_line_says_what_it_is_for_and_where_it_comes_from() {
    let lacking = lacking_by(PacketsHook::Auto, |question| match question {
        Question::Cgroup => Answer::No(Some("none is mounted".to_owned())),
        Question::Map(MapType::RingBuf) => Answer::No(None),
        _ => Answer::Yes,
    });
    let lines: Vec<String> = lacking.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "maps of type ringbuf, for causeway-proxy monitor (Linux 5.8)",
            "a cgroup2, for hooks on the sockets of this node (--ebpf-cgroup-root names a folder \
             of one; in a container mount the host's /sys/fs/cgroup): none is mounted",
        ]
    );
}

#[test]
fn an_older_privilege_stands_for_those_that_were_split_off_while_it_is_kept() {
    let only = |one| one == Capability::CAP_SYS_ADMIN;
    let kept = Options::default();
    assert!(stands_in(&kept, Capability::CAP_BPF, only));
    assert!(!stands_in(&kept, Capability::CAP_NET_ADMIN, only));
    let given_up = Options {
        connect_udp: false,
        ..kept
    };
    assert!(!stands_in(&given_up, Capability::CAP_BPF, only));
}
