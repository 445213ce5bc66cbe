//! One run of a program: fed, listened to, and ended in any case.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::Error;

/// How much of what a program complains about is kept, in bytes.
const MOST_SAID: u64 = 4096;
/// How long a program may take: a restore of some 100,000 rules on a busy node takes seconds.
const PATIENCE: Duration = Duration::from_secs(300);
/// The longest line that is listened to, in bytes; longer ones are left out. (A rule is at most
/// 65,535 bytes in the kernel, a comment in it 256.)
const LONGEST_LINE: usize = 1 << 16;

/// A program that ended.
pub(super) struct Finished {
    program: String,
    status: ExitStatus,
    said: String,
}

impl Finished {
    pub(super) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(super) fn success(self) -> Result<(), Error> {
        if self.status.success() {
            return Ok(());
        }
        Err(Error::Refused {
            program: self.program,
            code: self.status.code(),
            line: line(&self.said),
            said: self.said.trim().replace('\n', "; "),
        })
    }
}

/// Runs `program` in the network namespace of the calling thread, with `input` at its standard input
/// and nothing of this process's environment, and hands what it writes line by line to `each`.
///
/// # Errors
/// [`Error::NotRun`], [`Error::TooLong`]; what the program thinks is in [`Finished`].
pub(super) fn run(
    program: &Path,
    arguments: &[&str],
    input: &str,
    limit: usize,
    each: &mut dyn FnMut(&str),
) -> Result<Finished, Error> {
    let name = program.display().to_string();
    let not_run = |detail: &dyn std::fmt::Display| Error::NotRun {
        program: name.clone(),
        detail: detail.to_string(),
    };
    if input.len() > limit {
        return Err(Error::TooLong { program: name });
    }
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| not_run(&error))?;
    let listened = thread::scope(|scope| {
        let (done, ended) = channel();
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let stdout = child.stdout.take();
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // A program that ends early closes it; its status says why.
                let _ = stdin.write_all(input.as_bytes());
            }
        });
        let said = scope.spawn(move || {
            let said = stderr.map(heard).unwrap_or_default();
            let _ = done.send(());
            said
        });
        let watched = scope.spawn(move || watch(child, &ended));
        let within = stdout.is_none_or(|stdout| listen(stdout, limit, each));
        (said.join(), watched.join(), within)
    });
    let (Ok(said), Ok(status), within) = listened else {
        return Err(not_run(&"a thread that listens to it panicked"));
    };
    let status = status.map_err(|detail| not_run(&detail))?;
    if !within {
        return Err(Error::TooLong { program: name });
    }
    Ok(Finished {
        program: name,
        status,
        said,
    })
}

/// Waits until the program closes its standard error, which is when it ends; kills it when that
/// takes too long.
fn watch(mut child: Child, ended: &Receiver<()>) -> Result<ExitStatus, String> {
    let since = Instant::now();
    if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
        // Gone already is fine, too.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("did not end within {:?}", since.elapsed()));
    }
    child.wait().map_err(|error| error.to_string())
}

/// The beginning of what it complains about; the rest is read, so that it can go on.
fn heard(mut from: impl Read) -> String {
    let mut said = Vec::new();
    let _ = from.by_ref().take(MOST_SAID).read_to_end(&mut said);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    String::from_utf8_lossy(&said).into_owned()
}

/// Whether all it wrote is within `limit` bytes.
fn listen(from: impl Read, limit: usize, each: &mut dyn FnMut(&str)) -> bool {
    let mut from = BufReader::with_capacity(1 << 16, from);
    let mut line = Vec::new();
    let mut left = limit;
    let mut too_long = false;
    loop {
        line.clear();
        let read = from
            .by_ref()
            .take(LONGEST_LINE as u64)
            .read_until(b'\n', &mut line);
        match read {
            Ok(0) | Err(_) => return true,
            Ok(length) if length > left => {
                let _ = std::io::copy(&mut from, &mut std::io::sink());
                return false;
            }
            Ok(length) => left -= length,
        }
        let ends = line.len() < LONGEST_LINE || line.ends_with(b"\n");
        if ends && !too_long {
            each(String::from_utf8_lossy(&line).trim_end());
        }
        too_long = !ends;
    }
}

/// The first line of the input that the program complains about.
///
/// Seen are `Error occurred at line: 3` (bad input, both variants), `iptables-restore: line 3
/// failed` (both) and `line 3: RULE_APPEND failed (…)` (nft, the kernel's refusal).
fn line(said: &str) -> Option<usize> {
    said.lines().find_map(|text| {
        let (_, rest) = text.split_once("line")?;
        let rest = rest.strip_prefix(':').unwrap_or(rest).trim_start();
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_read_out_of_every_complaint() {
        for (said, number) in [
            ("iptables-restore: line 57 failed\n", Some(57)),
            (
                "iptables-restore v1.8.9 (legacy): Couldn't load target `X':No such file\n\nError \
                 occurred at line: 3\nTry `iptables-restore -h'\n",
                Some(3),
            ),
            (
                "iptables-nft-restore v1.8.9 (nf_tables): \nline 5: CHAIN_DEL failed (Device or \
                 resource busy): chain B\nline 6: x\n",
                Some(5),
            ),
            (
                "iptables-nft-restore: line 2 failed: Bad rule (does a matching rule exist in that \
                 chain?).\n",
                Some(2),
            ),
            ("Another app is currently holding the xtables lock", None),
            ("", None),
        ] {
            assert_eq!(line(said), number, "{said}");
        }
    }

    #[test]
    fn a_program_is_fed_and_heard() {
        let mut lines = Vec::new();
        let input = "one\ntwo\n".repeat(50_000);
        let finished = run(Path::new("/bin/cat"), &[], &input, 1 << 20, &mut |line| {
            lines.push(line.to_owned());
        });
        finished.ok().unwrap().success().unwrap();
        assert_eq!(lines.len(), 100_000);
        assert_eq!(lines[99_999], "two");
    }

    /// Its end would be taken for a line.
    #[test]
    fn a_line_that_is_too_long_is_left_out() {
        let longest = "x".repeat(LONGEST_LINE - 1);
        let text = format!("one\n{longest}\n{longest}x*nat\n{longest}xx{longest}-A y\ntwo");
        let mut lines = Vec::new();
        assert!(listen(text.as_bytes(), text.len(), &mut |line| lines
            .push(line.to_owned())));
        assert_eq!(lines, ["one", &longest, "two"]);
    }

    #[test]
    fn what_is_too_long_is_not_taken() {
        let told = |input: &str| run(Path::new("/bin/cat"), &[], input, 8, &mut |_| {}).map(|_| ());
        assert_eq!(told("12345678"), Ok(()));
        let error = told("123456789").unwrap_err();
        assert!(matches!(error, Error::TooLong { .. }), "{error}");
        let much = run(
            Path::new("/bin/cat"),
            &["/proc/self/maps"],
            "",
            8,
            &mut |_| {},
        );
        assert!(matches!(much, Err(Error::TooLong { .. })));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(Path::new("/nowhere/x"), &[], "", 8, &mut |_| {}).err();
        let error = error.unwrap().to_string();
        assert!(error.contains("/nowhere/x") && error.contains("No such file"));
    }
}
