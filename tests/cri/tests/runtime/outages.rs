//! What fails, and what is tried again.

use std::fs;
use std::path::Path;

use anyhow::ensure;
use causeway_cri_tests::bed::{Bed, HANDLER};
use causeway_cri_tests::containerd::BROKEN_HANDLER;
use causeway_cri_tests::network::{self, Network};
use causeway_cri_tests::node::wait_for;

#[test]
fn a_full_range_refuses_until_a_pod_goes() {
    // Room for the gateway and one pod.
    let bed = Bed::new(Network::Installed("10.1.0.0/30")).unwrap();
    let first = bed.cri.run_pod(&bed.wanted("first"), HANDLER).unwrap();
    let refusal = bed.cri.run_pod(&bed.wanted("second"), HANDLER).unwrap_err();
    let message = refusal.message();
    assert!(message.contains("10.1.0.0/30"), "{message}");
    assert_eq!(network::reserved(&bed.node), ["10.1.0.2"]);
    let full = network::status(&bed.node).unwrap_err().to_string();
    assert!(full.contains("\"code\": 50"), "{full}");

    bed.cri.stop_pod(&first).unwrap();
    network::status(&bed.node).unwrap();
    let second = bed.pod(&bed.wanted("second")).unwrap();
    assert_eq!(second.addresses, ["10.1.0.2"]);
    bed.empty().unwrap();
    network::nothing_left(&bed.node).unwrap();
}

#[test]
fn a_sandbox_that_fails_after_its_network_leaves_nothing_and_is_retried() {
    let bed = Bed::new(Network::Installed("10.1.0.0/24")).unwrap();
    let wanted = bed.wanted("pod");
    for _ in 0..2 {
        bed.cri.run_pod(&wanted, BROKEN_HANDLER).unwrap_err();
        network::nothing_left(&bed.node).unwrap();
    }
    bed.pod(&wanted).unwrap();
    bed.empty().unwrap();
    network::nothing_left(&bed.node).unwrap();
}

#[test]
fn pods_outlive_a_containerd_that_is_killed() {
    let mut bed = Bed::new(Network::Installed("10.1.0.0/24")).unwrap();
    let names = ["a", "b", "c"].map(str::to_owned);
    let pods = bed.pods(&names).unwrap();
    bed.kill_containerd().unwrap();
    for pod in &pods {
        let ping = ["-c1", "-W10", &pod.addresses[0]];
        bed.node.run("ping", &ping).unwrap();
    }
    bed.restart_containerd().unwrap();
    for [from, to] in [[0, 1], [1, 2], [2, 0]] {
        let page = bed.fetch(&pods[from], &pods[to].addresses[0]);
        assert_eq!(page.unwrap(), names[to]);
    }
    // It knows them still, and what they have isn't given to others.
    let late = bed.pod(&bed.wanted("late")).unwrap();
    assert!(pods.iter().all(|pod| pod.addresses != late.addresses));
    bed.empty().unwrap();
    network::nothing_left(&bed.node).unwrap();
}

#[test]
fn what_a_killed_containerd_lost_sight_of_is_collected() {
    let mut bed = Bed::new(Network::Installed("10.1.0.0/24")).unwrap();
    let survivor = bed.pod(&bed.wanted("survivor")).unwrap();
    let kept = [(survivor.id.as_str(), "eth0")];
    // Some of these are cut off while the plugin works for them, or just after.
    let containerd = bed.containerd.take().unwrap();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let bed = &bed;
            let wanted = bed.wanted(&format!("pod-{number}"));
            scope.spawn(move || bed.cri.run_pod(&wanted, HANDLER));
        }
        wait_for("the first reservation", || {
            ensure!(network::reserved(&bed.node).len() > 1);
            Ok(())
        })
        .unwrap();
        containerd.kill().unwrap();
    });
    network::wait_for_calls(&bed.node).unwrap();
    bed.restart_containerd().unwrap();
    for pod in bed.cri.pods().unwrap() {
        if pod != survivor.id {
            bed.cri.stop_pod(&pod).unwrap();
            bed.cri.remove_pod(&pod).unwrap();
        }
    }
    network::collect_garbage(&bed.node, &kept).unwrap();
    assert_eq!(network::reserved(&bed.node), survivor.addresses);
    let late = bed.pod(&bed.wanted("late")).unwrap();
    assert_eq!(
        bed.fetch(&late, &survivor.addresses[0]).unwrap(),
        "survivor"
    );
    bed.empty().unwrap();
    network::nothing_held(&bed.node).unwrap();
}

#[test]
fn a_test_that_ends_with_pods_alive_leaves_nothing_on_the_machine() {
    let bed = Bed::new(Network::Installed("10.1.0.0/24")).unwrap();
    bed.pod(&bed.wanted("pod")).unwrap();
    let hierarchies: Vec<_> = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().collect();
    let cgroup = bed.node.cgroup().split_off(1);
    let cgroups = || {
        let paths = hierarchies.iter().map(|entry| entry.path().join(&cgroup));
        let unified = Path::new("/sys/fs/cgroup").join(&cgroup);
        paths.chain([unified]).filter(|path| path.exists()).count()
    };
    assert_ne!(cgroups(), 0);
    let root = bed.node.file("/");
    assert!(root.exists());
    drop(bed);
    assert_eq!(cgroups(), 0);
    assert!(!root.exists());
}
