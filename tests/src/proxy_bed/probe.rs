//! Real packets: is a Service reachable, and which endpoint port answers?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use nodekit::netns::NetNs;

use crate::attempt;

/// A connection to an endpoint on the same machine takes microseconds; a Service that is not
/// programmed yet swallows the packet. Who asks again and again need not wait longer.
const GLANCE: Duration = Duration::from_millis(3);
/// What who asks again and again gives a try; a packet that was lost is sent again later than that.
const ANSWER: Duration = Duration::from_millis(500);
/// What a busy machine may need, and more.
const PATIENCE: Duration = Duration::from_secs(60);

/// The port number that answers at `target` now; to be called inside the namespace. A busy machine
/// may take longer, so that `None` says something only to who expects it.
pub fn answer(target: SocketAddr) -> Option<u16> {
    answer_within(ANSWER, target)
}

/// The same where an answer must come.
pub fn sure_answer(target: SocketAddr) -> Option<u16> {
    answer_within(PATIENCE, target)
}

fn answer_within(patience: Duration, target: SocketAddr) -> Option<u16> {
    read(
        TcpStream::connect_timeout(&target, patience).ok()?,
        patience,
    )
}

fn read(mut stream: TcpStream, patience: Duration) -> Option<u16> {
    stream.set_read_timeout(Some(patience)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// Waits inside `netns` until `target` answers with `port`; gives the moment.
///
/// # Errors
/// It did not within `patience`.
pub fn wait_for(
    netns: &NetNs,
    target: SocketAddr,
    port: u16,
    patience: Duration,
) -> anyhow::Result<Instant> {
    netns
        .run(|| {
            let start = Instant::now();
            while start.elapsed() < patience {
                let stream = attempt(target, GLANCE).ok();
                let answer = stream.and_then(|stream| read(stream, ANSWER));
                if answer == Some(port) {
                    return Some(Instant::now());
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            None
        })?
        .with_context(|| format!("{target} did not answer with {port} within {patience:?}"))
}

/// Waits until `done` holds.
///
/// # Errors
/// It did not within `patience`; `what` says what was waited for.
pub fn wait_until(
    what: &str,
    patience: Duration,
    mut done: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while !done() {
        anyhow::ensure!(start.elapsed() < patience, "no {what} within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// An HTTP GET inside `netns`: the status line, the headers and the body.
///
/// # Errors
/// Nobody listens, or what answers speaks no HTTP.
pub fn get(
    netns: &NetNs,
    server: SocketAddr,
    path: &str,
) -> anyhow::Result<(String, String, String)> {
    get_as(netns, server, path, "*/*")
}

/// As [`get`], for who accepts these media types.
///
/// # Errors
/// As [`get`].
pub fn get_as(
    netns: &NetNs,
    server: SocketAddr,
    path: &str,
    accept: &str,
) -> anyhow::Result<(String, String, String)> {
    let text = netns.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("no end of the headers")?;
    let (status, headers) = head.split_once("\r\n").context("no headers")?;
    Ok((status.to_owned(), headers.to_lowercase(), body.to_owned()))
}
