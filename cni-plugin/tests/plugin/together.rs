//! DELs that come at the same time, and are done by one of them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nodekit::route::{Handle, LinkChange, Mac};
use serde_json::{Value, json};

use crate::node::{Node, Pod, link};
use crate::tracer;

/// Where processes take turns.
fn notes(node: &Node) -> PathBuf {
    node.folder.path().join("net/.causeway")
}

/// Every slot taken, as if by DELs that wait for the kernel.
fn take_slots(node: &Node) -> Vec<File> {
    let slots = (0..2).map(|number| {
        let path = notes(node).join(format!("turn.{number}"));
        let mut options = OpenOptions::new();
        let slot = options.create(true).append(true).open(path).unwrap();
        slot.lock().unwrap();
        slot
    });
    slots.collect()
}

/// The file of those who wait together, if there is one.
fn round(node: &Node) -> Option<PathBuf> {
    let entries = fs::read_dir(notes(node)).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find(|path| path.to_string_lossy().contains("turn.round"))
}

/// How many wait for somebody else to do it; none where nobody waits.
fn waiting(node: &Node) -> Option<usize> {
    let text = fs::read_to_string(round(node)?).ok()?;
    Some(text.lines().count())
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A DEL that goes on by itself.
fn start(node: &Node, pod: &Pod, config: &Value) -> Child {
    let mut process = node.process("DEL", &pod.id, &pod.path(), &[]);
    let pipes = process.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(config.to_string().as_bytes()).unwrap();
    child
}

/// What a DEL says that must succeed, or that must not.
fn end(child: Child, succeeds: bool) -> String {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.success(), succeeds, "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn attach(node: &Node, config: &Value, count: usize) -> Vec<Pod> {
    let pods: Vec<_> = (0..count).map(|n| Pod::new(&format!("pod-{n}"))).collect();
    for pod in &pods {
        node.call("ADD", pod, config).result();
    }
    pods
}

/// A DEL that will do what others ask for, and those others, with all slots taken.
fn gather(node: &Node, pods: &[Pod], config: &Value) -> (Child, Vec<Child>) {
    let first = start(node, &pods[0], config);
    wait_for("a round", || waiting(node) == Some(0));
    let others = pods[1..].iter().map(|pod| start(node, pod, config));
    let others = others.collect();
    wait_for("all ask", || waiting(node) == Some(pods.len() - 1));
    (first, others)
}

fn masquerading(node: &Node) -> Value {
    node.config(&["10.1.0.0/24", "fd01::/64"], &json!({"ipMasq": true}))
}

#[test]
fn one_takes_away_what_all_ask_for() {
    let node = Node::new();
    let config = masquerading(&node);
    let pods = attach(&node, &config, 6);
    let slots = take_slots(&node);
    let (first, others) = gather(&node, &pods, &config);
    assert_eq!((node.ports().len(), node.masqueraded().len()), (6, 12));
    drop(slots);
    for child in others.into_iter().chain([first]) {
        end(child, true);
    }
    node.assert_empty();
    assert_eq!(round(&node), None);
    for pod in &pods {
        assert!(pod.link("eth0").is_none());
    }
}

#[test]
fn what_stands_in_the_way_of_one_is_its_own_trouble() {
    let node = Node::new();
    let config = masquerading(&node);
    let pods = attach(&node, &config, 4);
    // A link that isn't ours any more, another of a group, and words that are no request.
    let foreign = node.port_of(&pods[2]);
    node.netns
        .run(|| {
            let mut route = Handle::open().unwrap();
            let change = LinkChange {
                mac: Some(Mac([2, 0, 0, 0, 0, 1])),
                ..LinkChange::default()
            };
            route.change_link(foreign.index, &change).unwrap();
        })
        .unwrap();
    let slots = take_slots(&node);
    let first = start(&node, &pods[0], &config);
    wait_for("a round", || waiting(&node) == Some(0));
    let mut file = OpenOptions::new().append(true).open(round(&node).unwrap());
    let torn = "{\"containerID\": \"pod-1\", \"ifn";
    writeln!(file.as_mut().unwrap(), "{torn}").unwrap();
    // Without a namespace it is found by its host's end alone.
    let mut process = node.process("DEL", &pods[2].id, "", &[]);
    let process = process.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut third = process.spawn().unwrap();
    let mut input = third.stdin.take().unwrap();
    write!(input, "{config}").unwrap();
    drop(input);
    wait_for("it asks", || waiting(&node) == Some(2));
    let fourth = start(&node, &pods[3], &config);
    wait_for("all ask", || waiting(&node) == Some(3));
    drop(slots);
    end(first, true);
    end(fourth, true);
    let text = end(third, false);
    assert!(text.contains("not of this plugin's making"), "{text}");
    assert_eq!(node.ports().len(), 2, "the foreign one and pod-1's");
    assert!(link(&node.netns, &foreign.name).is_some());
    node.call("DEL", &pods[1], &config).result();
    // By the pod's end it goes all the same.
    node.call("DEL", &pods[2], &config).result();
    node.assert_empty();
}

#[test]
fn who_waited_for_one_that_is_killed_does_it_itself() {
    let node = Node::new();
    let config = masquerading(&node);
    let pods = attach(&node, &config, 4);
    let slots = take_slots(&node);
    let (mut first, others) = gather(&node, &pods, &config);
    first.kill().unwrap();
    first.wait().unwrap();
    for child in others {
        end(child, true);
    }
    assert_eq!((node.ports().len(), node.reserved().len()), (1, 2));
    drop(slots);
    // What it left is in nobody's way.
    assert!(round(&node).is_some());
    node.call("DEL", &pods[0], &config).result();
    assert_eq!(round(&node), None);
    node.assert_empty();
}

#[test]
fn who_is_killed_while_it_waits_leaves_its_address_alone() {
    let node = Node::new();
    let config = masquerading(&node);
    let pods = attach(&node, &config, 3);
    let slots = take_slots(&node);
    let (first, mut others) = gather(&node, &pods, &config);
    let mut killed = others.remove(0);
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(slots);
    end(first, true);
    end(others.remove(0), true);
    assert_eq!((node.ports().len(), node.masqueraded().len()), (0, 0));
    assert_eq!(node.reserved().len(), 2);
    node.call("DEL", &pods[1], &config).result();
    node.assert_empty();
}

#[test]
fn one_that_is_killed_at_any_moment_loses_nothing_of_the_others() {
    for kill_after in 1.. {
        let node = Node::new();
        let config = node.config(&["10.1.0.0/24"], &json!({"ipMasq": true}));
        let pods = attach(&node, &config, 2);
        let slots = take_slots(&node);
        let traced = thread::scope(|scope| {
            let first =
                scope.spawn(|| tracer::run(&node, "DEL", &pods[0], &config, Some(kill_after)));
            wait_for("a round", || {
                first.is_finished() || waiting(&node) == Some(0)
            });
            let second = start(&node, &pods[1], &config);
            let asks = || waiting(&node) == Some(1) || first.is_finished();
            wait_for("it asks", asks);
            drop(slots);
            end(second, true);
            first.join().unwrap()
        });
        let left: Vec<_> = node.ports();
        assert!(
            pods[1].link("eth0").is_none() && left.len() <= 1,
            "{left:?}"
        );
        node.call("DEL", &pods[0], &config).result();
        node.assert_empty();
        if !traced.killed {
            assert!(kill_after > 8, "it changed next to nothing");
            return;
        }
    }
}

#[test]
fn without_a_place_to_meet_everybody_is_alone() {
    let node = Node::new();
    let config = masquerading(&node);
    let pods = attach(&node, &config, 3);
    let slots = take_slots(&node);
    // A door that is none, and then no folder.
    for (number, pod) in pods[..2].iter().enumerate() {
        let door = notes(&node).join("turn.door");
        let _ = fs::remove_file(&door);
        if number == 0 {
            fs::create_dir(&door).unwrap();
        } else {
            fs::remove_dir_all(notes(&node)).unwrap();
        }
        node.call("DEL", pod, &config).result();
        assert!(pod.link("eth0").is_none());
    }
    drop(slots);
    node.call("DEL", &pods[2], &config).result();
    node.assert_empty();
}
