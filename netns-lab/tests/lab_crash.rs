//! Labs that end badly: killed daemons, interrupted commands, half of a lab. `down` leaves
//! nothing behind each time.
#![expect(
    clippy::unwrap_used,
    reason = "what these helpers can't do fails the test"
)]

#[path = "lab/bed.rs"]
#[expect(dead_code, reason = "tests/lab.rs uses the rest")]
mod bed;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bed::{Bed, PROGRAM, pod};
use netns_lab::process::ProcessId;
use netns_lab::{Folder, Lab};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn command(bed: &Bed, words: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(words).arg("--run-dir").arg(bed.run_dir());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn down(bed: &Bed) {
    let output = command(bed, &["down"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    bed.nothing_left();
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[test]
fn the_commands_of_a_session_work_from_separate_processes() {
    let bed = Bed::new();
    let up = command(&bed, &["up"]).output().unwrap();
    assert!(up.status.success(), "{}", text(&up));
    let lab = Lab::open(Folder::new(&bed.run_dir(), "lab").unwrap()).unwrap();
    lab.apply(&pod("busy", &["sleep", "1000"])).unwrap();
    lab.wait_ready("busy", LIMIT).unwrap();

    let status = text(&command(&bed, &["status"]).output().unwrap());
    for word in [
        "control",
        "worker-2",
        "10.89.0.4",
        "default/busy",
        "10.96.0.1",
        "pid ",
    ] {
        assert!(status.contains(word), "{word} in:\n{status}");
    }
    let run = |words: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .arg("exec")
            .arg("--run-dir")
            .arg(bed.run_dir())
            .args(words);
        command.output().unwrap()
    };
    assert_eq!(run(&["busy", "hostname"]).status.code(), Some(0));
    assert_eq!(run(&["busy", "sh", "-c", "exit 7"]).status.code(), Some(7));
    let address = text(&run(&["client", "ip", "-o", "-4", "address"]));
    assert!(address.contains("10.89.0.250"), "{address}");
    let missing = text(&run(&["nobody", "true"]));
    assert!(
        missing.contains("nobody") && missing.contains("default/busy"),
        "{missing}"
    );
    down(&bed);
    let again = command(&bed, &["down"]).output().unwrap();
    assert!(
        !again.status.success() && text(&again).contains("no lab"),
        "{}",
        text(&again)
    );
}

#[test]
fn a_killed_daemon_takes_its_children_along_and_down_the_rest() {
    let bed = Bed::new();
    let up = command(&bed, &["up"]).output().unwrap();
    assert!(up.status.success(), "{}", text(&up));
    let lab = Lab::open(Folder::new(&bed.run_dir(), "lab").unwrap()).unwrap();
    lab.apply(&pod("busy", &["sleep", "1000"])).unwrap();
    lab.wait_ready("busy", LIMIT).unwrap();
    let state = lab.state().unwrap();
    let mut children: Vec<ProcessId> = state.proxies.iter().map(|p| p.process.unwrap()).collect();
    children.push(state.sandbox("busy").unwrap().process.unwrap());
    assert_eq!(children.len(), 4);
    state.daemon.signal(Signal::SIGKILL).unwrap();
    for child in children {
        assert!(child.wait_end(LIMIT), "{child:?} outlived the daemon");
    }
    let dead = command(&bed, &["status"]).output().unwrap();
    assert!(
        text(&dead).contains("has ended: take it down"),
        "{}",
        text(&dead)
    );
    assert!(bed.run_dir().exists(), "namespaces and files wait for down");
    down(&bed);
}

/// Kills everything at many points of a lab's beginning.
#[test]
fn down_ends_what_a_kill_left_half_made() {
    for pause in [0, 5, 10, 20, 40, 80, 160, 320] {
        let bed = Bed::new();
        let mut up = command(&bed, &["up"]).spawn().unwrap();
        bed.eventually(|| bed.run_dir().join("lab").exists());
        std::thread::sleep(Duration::from_millis(pause));
        up.kill().unwrap();
        up.wait().unwrap();
        kill_daemons(&bed.run_dir());
        down(&bed);
    }
}

/// SIGKILL for whoever was started with `serve` for this folder, known to the state or not.
fn kill_daemons(run_dir: &Path) {
    let folder = run_dir.to_str().unwrap();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(" serve ") && line.contains(folder) {
            let pid: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
            if let Some(process) = ProcessId::of(pid) {
                process.signal(Signal::SIGKILL).unwrap();
                assert!(process.wait_end(LIMIT));
            }
        }
    }
}

#[test]
fn an_interrupted_up_cleans_up_after_itself() {
    for pause in [0, 30, 100, 200] {
        let bed = Bed::new();
        let mut up = command(&bed, &["up"]).spawn().unwrap();
        bed.eventually(|| bed.run_dir().join("lab").exists());
        std::thread::sleep(Duration::from_millis(pause));
        signal(&up, Signal::SIGINT);
        let status = up.wait().unwrap();
        if status.success() {
            // It was up already: then the signal came too late, and the lab stays.
            down(&bed);
        } else {
            assert_eq!(status.code(), Some(130));
            bed.nothing_left();
        }
    }
}

#[test]
fn a_tied_lab_goes_with_the_process_that_holds_it() {
    let bed = Bed::new();
    let options = bed.options("lab");
    fs::create_dir_all(bed.run_dir().join("lab")).unwrap();
    let mut serve = command(&bed, &["serve", "--name", "lab", "--tied"]);
    let mut daemon = serve.stdin(Stdio::piped()).spawn().unwrap();
    let folder = Folder::new(&options.run_dir, "lab").unwrap();
    bed.eventually(|| {
        netns_lab::state::State::read(&folder.state()).is_ok_and(|state| state.ready)
    });
    drop(daemon.stdin.take());
    assert!(daemon.wait().unwrap().success());
    bed.nothing_left();
}

#[test]
fn a_folder_with_nothing_but_rubbish_goes_too() {
    let bed = Bed::new();
    let folder = bed.run_dir().join("lab");
    fs::create_dir_all(folder.join("netns")).unwrap();
    fs::write(folder.join("state.json"), "{ half a").unwrap();
    fs::write(folder.join("netns/worker-1"), "").unwrap();
    down(&bed);
}
