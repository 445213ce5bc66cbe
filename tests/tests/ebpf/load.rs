//! Clients that connect all the time while daemons change, pods at the socket and a client outside by
//! its packets: an open loop, in which the next connection is begun however those before it fare.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use causeway_tests::packet_bed::{self, Bed, ask};
use causeway_tests::proxy_bed::wait_until;

use crate::node::Node;

/// For what takes milliseconds: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections that are begun in a second, by each of both kinds: a thousand in all.
const RATE: u32 = 500;
/// So many of one kind are under way at once; a machine that is slower makes them later.
const WORKERS: usize = 8;

/// Who connects.
#[derive(Clone, Copy, Debug)]
enum Who {
    /// A pod's sockets.
    Pod,
    /// The client outside.
    Outside,
}

/// Clients of one kind.
struct Clients {
    who: Who,
    targets: Vec<SocketAddr>,
    begun: Instant,
    end: OnceLock<Instant>,
    /// The number of the next connection.
    next: AtomicU32,
    made: AtomicU32,
    failures: Mutex<Vec<String>>,
}

impl Clients {
    fn new(who: Who, targets: &[SocketAddr]) -> Self {
        Self {
            who,
            targets: targets.to_vec(),
            begun: Instant::now(),
            end: OnceLock::new(),
            next: AtomicU32::new(0),
            made: AtomicU32::new(0),
            failures: Mutex::default(),
        }
    }

    /// When a connection is to be begun.
    fn due(&self, number: u32) -> Instant {
        self.begun + Duration::from_secs(number.into()) / RATE
    }

    /// Makes those that nobody else makes, each when it is due, until the end.
    fn work(&self) {
        while self.failures.lock().unwrap().is_empty() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = self.due(number);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.end.get().is_some_and(|end| due > *end) {
                return;
            }
            let to = self.targets[number as usize % self.targets.len()];
            match packet_bed::tcp(to, PATIENCE) {
                Ok(_) => drop(self.made.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    let mut failures = self.failures.lock().unwrap();
                    failures.push(format!("{to}: {error}"));
                }
            }
        }
    }

    fn none_failed(&self) {
        assert_eq!(*self.failures.lock().unwrap(), [""; 0]);
    }

    /// Some more connections are made, and none failed.
    fn go_on(&self) {
        let before = self.made.load(Ordering::Relaxed);
        wait_until("more connections", PATIENCE, || {
            self.none_failed();
            self.made.load(Ordering::Relaxed) >= before + 20
        })
        .unwrap();
    }

    /// All that were due until the end were made.
    fn count(&self) {
        self.none_failed();
        let lasted = *self.end.get().unwrap() - self.begun;
        let due = 1 + lasted.as_nanos() * u128::from(RATE) / 1_000_000_000;
        let (who, made) = (self.who, self.made.load(Ordering::Relaxed));
        println!("{who:?}: {made} connections, of {due} that were due in {lasted:?}");
        assert!(u128::from(made) >= due, "{who:?}: {made} of {due}");
    }
}

/// No connection is begun any more, also when the test fails.
struct EndOf<'a>(&'a [Clients]);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        for clients in self.0 {
            let _ = clients.end.set(Instant::now());
        }
    }
}

/// Those who connect, and what they aim at.
pub(crate) struct Traffic<'a> {
    pub(crate) node: &'a Node<'a>,
    /// What a pod's sockets do.
    pub(crate) inside: Vec<SocketAddr>,
    /// What the client's do.
    pub(crate) outside: Vec<SocketAddr>,
}

impl Traffic<'_> {
    /// Connections of a pod that stay open.
    pub(crate) fn kept_inside(&self) -> Kept {
        let Node { bed, .. } = self.node;
        let inside = self.inside.iter().map(|to| {
            let connect = || TcpStream::connect_timeout(to, PATIENCE).unwrap();
            self.node.inside(bed.pod(3), connect)
        });
        Kept::of(inside)
    }

    /// Connections of the client that stay open.
    pub(crate) fn kept_outside(&self) -> Kept {
        let Bed { client, .. } = self.node.bed;
        Kept::of(self.outside.iter().map(|to| client.connect(*to).unwrap()))
    }

    /// Has everybody connect while `act` goes on, which is told how to wait for some more
    /// connections; then nobody's connection failed, and those that were there before are with the
    /// same pods.
    pub(crate) fn during<T>(&self, act: impl FnOnce(&dyn Fn()) -> T) -> T {
        let mut kept = [self.kept_inside(), self.kept_outside()];
        let all = [(Who::Pod, &self.inside), (Who::Outside, &self.outside)];
        let all = all.into_iter().filter(|(_, targets)| !targets.is_empty());
        let all: Vec<Clients> = all.map(|(who, to)| Clients::new(who, to)).collect();
        let go_on = || all.iter().for_each(Clients::go_on);
        let done = thread::scope(|scope| {
            let running = EndOf(&all);
            for clients in &all {
                for _ in 0..WORKERS {
                    scope.spawn(|| self.work(clients));
                }
            }
            go_on();
            let done = act(&go_on);
            go_on();
            drop(running);
            done
        });
        kept.iter_mut().for_each(Kept::stay);
        all.iter().for_each(Clients::count);
        done
    }

    /// Where they are.
    fn work(&self, clients: &Clients) {
        let Node { bed, .. } = self.node;
        match clients.who {
            Who::Pod => self.node.inside(bed.pod(3), || clients.work()),
            Who::Outside => bed.client.netns.run(|| clients.work()).unwrap(),
        }
    }
}

/// Open connections, each with the pod that it is with.
pub(crate) struct Kept(Vec<(TcpStream, usize)>);

impl Kept {
    fn of(streams: impl Iterator<Item = TcpStream>) -> Self {
        let with_its_pod = |mut stream: TcpStream| {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let pod = ask(&mut stream).unwrap().pod;
            (stream, pod)
        };
        Self(streams.map(with_its_pod).collect())
    }

    /// They are as they were.
    pub(crate) fn stay(&mut self) {
        for (stream, pod) in &mut self.0 {
            assert_eq!(ask(stream).unwrap().pod, *pod);
        }
    }

    /// What asking over each of them leads to.
    pub(crate) fn errors(&mut self) -> Vec<std::io::ErrorKind> {
        let streams = self.0.iter_mut();
        let asked = streams.map(|(stream, _)| ask(stream).unwrap_err().kind());
        asked.collect()
    }
}
