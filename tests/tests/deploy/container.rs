//! The image under a container runtime, with the privileges that the manifest gives it and no more.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use causeway_tests::cell::Cell;
use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, PORTS, get, wait_for, wait_until};
use netns_lab::apiserver::Resource;
use nodekit::sysctl;
use serde_json::{Value, json};

use super::{arguments, daemon_set, of_kind, repository};

const PATIENCE: Duration = Duration::from_secs(60);
const NODE_PORT: u16 = 30_080;
/// What the kubelet gives a container of priority system-node-critical.
const OOM_SCORE: &str = "oomScoreAdj: -997";
/// The usual default profile, as podman brings it: which system calls are allowed, some of them
/// only together with a capability.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";

/// The node of a bed with the image on it.
struct Node<'a> {
    bed: &'a Bed,
    cell: Cell,
    host_pid: bool,
    folder: tempfile::TempDir,
}

impl<'a> Node<'a> {
    fn new(bed: &'a Bed, pod: &Value) -> Self {
        let node = Self {
            bed,
            cell: Cell::new(),
            host_pid: pod["hostPID"] == true,
            folder: tempfile::tempdir().unwrap(),
        };
        let made = Command::new(repository().join("deploy/rootfs"))
            .arg(causeway_tests::binary("causeway-proxy"))
            .arg(node.path("image"))
            .status();
        assert!(made.unwrap().success());
        // What the ConfigMap brings, for this API server.
        let config = node.path("config");
        fs::create_dir(&config).unwrap();
        let said = of_kind("ConfigMap")["data"]["config.conf"].clone();
        let said = said.as_str().unwrap();
        assert!(said.contains(OOM_SCORE), "{said}");
        // What this process has, and gives to all that it starts: who runs tests may not lower it.
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let said = said.replace(OOM_SCORE, &format!("oomScoreAdj: {}", own.trim()));
        fs::write(config.join("config.conf"), said).unwrap();
        let kubeconfig = bed.folder().join("kubeconfig");
        fs::copy(kubeconfig, config.join("kubeconfig.conf")).unwrap();
        fs::write(node.path("xtables.lock"), "").unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A container of the manifest's Pod as the kubelet has it made: runc's bundle.
    fn bundle(&self, container: &Value) -> PathBuf {
        let bundle = self.path(container["name"].as_str().unwrap());
        fs::create_dir(&bundle).unwrap();
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true);
        let capabilities = capabilities(context);
        let program = "/usr/local/bin/causeway-proxy".to_owned();
        let command: Vec<String> = [program].into_iter().chain(arguments(container)).collect();
        let mut config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": self.path("image"), "readonly": true},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "cwd": "/",
                "args": command,
                "env": ["PATH=/usr/local/bin:/usr/sbin"],
                "capabilities": {
                    "bounding": capabilities,
                    "effective": capabilities,
                    "permitted": capabilities,
                },
                "noNewPrivileges": context["allowPrivilegeEscalation"] == false,
            },
            "mounts": self.mounts(container),
            "linux": {"namespaces": [
                {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network", "path": self.netns()},
            ]},
        });
        if !self.host_pid {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({"type": "pid"}));
        }
        if !is_privileged(context) {
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
            config["linux"]["seccomp"] = seccomp(&capabilities);
            config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/sysrq-trigger"]);
            config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/sys/firmware"]);
        }
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    }

    fn mounts(&self, container: &Value) -> Vec<Value> {
        let writable = is_privileged(&container["securityContext"]);
        let sys = if writable { "rw" } else { "ro" };
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [sys]}),
        ];
        for mount in container["volumeMounts"].as_array().unwrap() {
            let volume = match mount["name"].as_str().unwrap() {
                "config" => self.path("config"),
                "xtables-lock" => self.path("xtables.lock"),
                "cgroup" => self.cell.options().cgroup_root.unwrap(),
                "bpf" => self.cell.options().pins.parent().unwrap().to_owned(),
                other => panic!("no volume {other}"),
            };
            let how = if mount["readOnly"] == true {
                "ro"
            } else {
                "rw"
            };
            mounts.push(json!({
                "destination": mount["mountPath"],
                "type": "bind",
                "source": volume,
                "options": ["bind", how],
            }));
        }
        mounts
    }

    fn netns(&self) -> String {
        let descriptor = self.bed.netns.as_fd().as_raw_fd();
        format!("/proc/{}/fd/{descriptor}", std::process::id())
    }

    fn runc(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.path("state"));
        command.stdin(Stdio::null());
        command
    }

    /// A name that no other container on this machine has.
    fn id(&self, bundle: &Path) -> String {
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let folder = name(self.folder.path());
        format!("{}-{}", name(bundle), folder.trim_start_matches('.'))
    }

    /// Runs a container to its end.
    fn run(&self, container: &Value) {
        let bundle = self.bundle(container);
        let mut command = self.runc();
        command.arg("run").arg("--bundle").arg(&bundle);
        let output = command.arg(self.id(&bundle)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }

    /// Starts a container.
    fn start(&self, container: &Value) -> Running<'_> {
        let bundle = self.bundle(container);
        let (id, log) = (self.id(&bundle), bundle.join("log"));
        let file = fs::File::create(&log).unwrap();
        let mut command = self.runc();
        command.args(["run", "--detach", "--bundle"]).arg(&bundle);
        command.arg(&id).stdout(file.try_clone().unwrap());
        let started = command.stderr(file).status().unwrap();
        let running = Running {
            node: self,
            id,
            log,
        };
        assert!(started.success(), "{}", running.said());
        running
    }
}

/// A container that runs; ended and removed when dropped, as far as that goes.
struct Running<'a> {
    node: &'a Node<'a>,
    id: String,
    log: PathBuf,
}

impl Running<'_> {
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Ends it and removes it, its cgroup included: which goes only after its last process.
    fn end(self) {
        let runc = |words: &[&str]| self.node.runc().args(words).output().unwrap();
        assert!(runc(&["kill", &self.id, "KILL"]).status.success());
        wait_until("end of the container", PATIENCE, || {
            let state = runc(&["state", &self.id]).stdout;
            let state: Value = serde_json::from_slice(&state).unwrap();
            state["status"] == "stopped"
        })
        .unwrap();
        let removed = runc(&["delete", &self.id]);
        assert!(removed.status.success(), "{removed:?}");
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut command = self.node.runc();
        // It may not have been made.
        drop(command.args(["delete", "--force", &self.id]).output());
    }
}

fn is_privileged(context: &Value) -> bool {
    context["privileged"] == true
}

/// All capabilities, by number (`linux/capability.h`).
const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID \
    SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER \
    SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE \
    SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN \
    SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// What a container of this security context may do. Privileged, it is what this process may.
fn capabilities(context: &Value) -> Vec<String> {
    let named = |name: &str| format!("CAP_{name}");
    if is_privileged(context) {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let own = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let own = u64::from_str_radix(own.unwrap().trim(), 16).unwrap();
        let all = CAPABILITIES.split_whitespace().enumerate();
        let own = all.filter(|(number, _)| own & 1 << number != 0);
        return own.map(|(_, name)| named(name)).collect();
    }
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    let added = context["capabilities"]["add"].as_array().unwrap().iter();
    added.map(|name| named(name.as_str().unwrap())).collect()
}

/// The profile for who has these capabilities, in runc's words.
fn seccomp(capabilities: &[String]) -> Value {
    let profile: Value = serde_json::from_str(&fs::read_to_string(SECCOMP).unwrap()).unwrap();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let lists = |list: &Value, test: &dyn Fn(&str) -> bool| {
        let mut listed = list.as_array().unwrap().iter();
        listed.any(|one| test(one.as_str().unwrap()))
    };
    let capable = |name: &str| capabilities.iter().any(|one| one == name);
    let applies = |rule: &&Value| {
        let (only, not) = (&rule["includes"], &rule["excludes"]);
        (only["arches"].is_null() || lists(&only["arches"], &|one| one == arch))
            && (only["caps"].is_null() || lists(&only["caps"], &capable))
            && (not["caps"].is_null() || !lists(&not["caps"], &capable))
    };
    let rules = profile["syscalls"].as_array().unwrap().iter();
    let rules = rules.filter(applies).map(|rule| {
        let mut own = json!({"names": rule["names"], "action": rule["action"]});
        for field in ["args", "errnoRet"] {
            if !rule[field].is_null() {
                own[field] = rule[field].clone();
            }
        }
        own
    });
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "syscalls": rules.collect::<Vec<_>>(),
    })
}

/// The containers of the Pod: the one that ends before the daemon starts, and the daemon.
fn containers(pod: &Value) -> (Value, Value) {
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    let one = |name: &str| {
        let list = pod[name].as_array().unwrap();
        assert_eq!(list.len(), 1);
        list[0].clone()
    };
    (one("initContainers"), one("containers"))
}

/// A Service with a node port whose endpoint answers with `port`.
fn serve(bed: &Bed, port: u16) -> SocketAddr {
    let mut web = service("web", cluster_ip(0));
    web["spec"]["type"] = json!("NodePort");
    web["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    bed.store.seed(Resource::Service, [web]).unwrap();
    let slice = slice("web", [endpoint_ip(0, 0, 1)], port);
    bed.store.seed(Resource::EndpointSlice, [slice]).unwrap();
    (cluster_ip(0), 80).into()
}

fn parameter(bed: &Bed, name: &str) -> String {
    let key: sysctl::Key = name.parse().unwrap();
    bed.netns.run(|| sysctl::read(&key)).unwrap().unwrap()
}

/// Before the daemon: sysctls. Then all that it does, with a few capabilities, the usual system calls
/// and nothing to write to.
fn runs_with_what_it_is_given(mode: &str) {
    let bed = Bed::new().unwrap();
    let web = serve(&bed, PORTS[0]);
    let pod = daemon_set(mode)["spec"]["template"]["spec"].clone();
    let (mut setup, mut daemon) = containers(&pod);
    if mode == "iptables" {
        for container in [&mut setup, &mut daemon] {
            let words = container["args"].as_array_mut().unwrap();
            words.push("--proxy-mode=iptables".into());
        }
    }
    let node = Node::new(&bed, &pod);
    let wait_for = |to, port| {
        node.cell
            .inside(|| wait_for(&bed.netns, to, port, PATIENCE))
    };
    node.run(&setup);
    let established = "net/netfilter/nf_conntrack_tcp_timeout_established";
    assert_eq!(parameter(&bed, established), "86400");
    let running = node.start(&daemon);
    wait_for(web, PORTS[0]).unwrap_or_else(|error| panic!("{error}: {}", running.said()));
    serve(&bed, PORTS[1]);
    wait_for(web, PORTS[1]).unwrap();
    let probe = &daemon["livenessProbe"]["httpGet"];
    let port = u16::try_from(probe["port"].as_u64().unwrap()).unwrap();
    let path = probe["path"].as_str().unwrap();
    wait_until("an answer to the probe", PATIENCE, || {
        let answer = get(&bed.netns, ([127, 0, 0, 1], port).into(), path);
        answer.is_ok_and(|(status, ..)| status.contains("200"))
    })
    .unwrap();
    if mode == "iptables" {
        let localhost = ([127, 0, 0, 1], NODE_PORT).into();
        wait_for(localhost, PORTS[1]).unwrap();
    }
    let said = running.said();
    let mut complaints = said
        .lines()
        .filter(|line| line.contains("ERROR") || line.contains("WARN"));
    // It is the machine's, and not to be written in any other network namespace.
    let of_the_machine = |line: &str| {
        line.contains("nf_conntrack_max") && !line.contains("oom") && !line.contains("tcp")
    };
    assert!(complaints.all(of_the_machine), "{said}");
    // What it programmed outlives it.
    running.end();
    wait_for(web, PORTS[1]).unwrap();
}

#[test]
fn mode_nftables_needs_no_more_than_the_manifest_gives() {
    runs_with_what_it_is_given("nftables");
}

#[test]
fn mode_iptables_needs_no_more_than_the_manifest_gives() {
    runs_with_what_it_is_given("iptables");
}

#[test]
fn mode_ebpf_needs_no_more_than_the_manifest_gives() {
    runs_with_what_it_is_given("ebpf");
}
