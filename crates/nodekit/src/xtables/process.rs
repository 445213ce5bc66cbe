//! One run of a program: fed, listened to, and ended in any case.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
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

/// A program that ended, or that was heard out before it did.
pub(super) struct Finished {
    program: String,
    /// `None`: it has done what was asked of it, and is about to end.
    end: Option<End>,
}

/// How a program ended.
struct End {
    status: ExitStatus,
    said: String,
}

impl Finished {
    pub(super) fn code(&self) -> Option<i32> {
        self.end.as_ref().and_then(|end| end.status.code())
    }

    pub(super) fn success(self) -> Result<(), Error> {
        match self.end {
            Some(End { status, said }) if !status.success() => Err(Error::Refused {
                program: self.program,
                code: status.code(),
                line: line(&said),
                said: said.trim().replace('\n', "; "),
            }),
            _ => Ok(()),
        }
    }
}

/// As [`feed`], with nothing to read, and heard to its end.
pub(super) fn ask(
    program: &Path,
    arguments: &[&str],
    limit: usize,
    each: &mut dyn FnMut(&str),
) -> Result<Finished, Error> {
    feed(program, arguments, &[], limit, &mut |line| {
        each(line);
        ControlFlow::Continue(())
    })
}

/// Runs `program` in the network namespace of the calling thread, with `input`, piece by piece, at its
/// standard input and nothing of this process's environment, and hands what it writes line by line to
/// `each`, until that has heard enough: then its end is not waited for.
///
/// # Errors
/// [`Error::NotRun`], [`Error::TooLong`]; what the program thinks is in [`Finished`].
pub(super) fn feed(
    program: &Path,
    arguments: &[&str],
    input: &[&str],
    limit: usize,
    each: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Finished, Error> {
    let name = program.display().to_string();
    let not_run = |detail: &dyn std::fmt::Display| Error::NotRun {
        program: name.clone(),
        detail: detail.to_string(),
    };
    if input.iter().map(|piece| piece.len()).sum::<usize>() > limit {
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
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let watched = thread::spawn(move || watch(child));
    let listened = thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // A program that ends early closes it; its status says why.
                let _ = input
                    .iter()
                    .try_for_each(|piece| stdin.write_all(piece.as_bytes()));
            }
        });
        stdout.map_or(Listened::ToTheEnd, |stdout| listen(stdout, limit, each))
    });
    let end = match listened {
        Listened::Enough => None,
        Listened::ToTheEnd | Listened::TooLong => {
            let watched = watched.join();
            let watched = watched.map_err(|_| not_run(&"a thread that listens to it panicked"))?;
            Some(watched.map_err(|detail| not_run(&detail))?)
        }
    };
    if matches!(listened, Listened::TooLong) {
        return Err(Error::TooLong { program: name });
    }
    Ok(Finished { program: name, end })
}

/// Waits until the program closes its standard error, which is when it ends; kills it when that
/// takes too long.
fn watch(mut child: Child) -> Result<End, String> {
    let stderr = child.stderr.take();
    let (done, ended) = channel();
    // Told and not joined: who inherited it from the program may keep it open.
    thread::spawn(move || done.send(stderr.map(heard).unwrap_or_default()));
    let since = Instant::now();
    match ended.recv_timeout(PATIENCE) {
        Ok(said) => {
            let status = child.wait().map_err(|error| error.to_string())?;
            Ok(End { status, said })
        }
        Err(_) => {
            // Gone already is fine, too.
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("did not end within {:?}", since.elapsed()))
        }
    }
}

/// The beginning of what it complains about; the rest is read, so that it can go on.
fn heard(mut from: impl Read) -> String {
    let mut said = Vec::new();
    let _ = from.by_ref().take(MOST_SAID).read_to_end(&mut said);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    String::from_utf8_lossy(&said).into_owned()
}

/// How far a program was listened to.
enum Listened {
    ToTheEnd,
    /// `each` had heard enough.
    Enough,
    TooLong,
}

fn listen(
    from: impl Read,
    limit: usize,
    each: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Listened {
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
            Ok(0) | Err(_) => return Listened::ToTheEnd,
            Ok(length) if length > left => {
                let _ = std::io::copy(&mut from, &mut std::io::sink());
                return Listened::TooLong;
            }
            Ok(length) => left -= length,
        }
        let ends = line.len() < LONGEST_LINE || line.ends_with(b"\n");
        if ends && !too_long && each(String::from_utf8_lossy(&line).trim_end()).is_break() {
            return Listened::Enough;
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
        let finished = feed(
            Path::new("/bin/cat"),
            &[],
            &[&input],
            1 << 20,
            &mut |line| {
                lines.push(line.to_owned());
                ControlFlow::Continue(())
            },
        );
        finished.ok().unwrap().success().unwrap();
        assert_eq!(lines.len(), 100_000);
        assert_eq!(lines[99_999], "two");
    }

    #[test]
    fn how_a_program_ends_that_was_heard_out_is_of_no_interest() {
        let after = |then: ControlFlow<()>| {
            let arguments = ["-c", "read line; echo $line; exit 3"];
            let shell = Path::new("/bin/sh");
            let finished = feed(shell, &arguments, &["do", "ne\n"], 64, &mut |line| {
                assert_eq!(line, "done");
                then
            });
            let finished = finished.ok().unwrap();
            (finished.code(), finished.success().is_ok())
        };
        assert_eq!(after(ControlFlow::Continue(())), (Some(3), false));
        assert_eq!(after(ControlFlow::Break(())), (None, true));
    }

    /// Its end would be taken for a line.
    #[test]
    fn a_line_that_is_too_long_is_left_out() {
        let longest = "x".repeat(LONGEST_LINE - 1);
        let text = format!("one\n{longest}\n{longest}x*nat\n{longest}xx{longest}-A y\ntwo");
        let mut lines = Vec::new();
        let listened = listen(text.as_bytes(), text.len(), &mut |line| {
            lines.push(line.to_owned());
            ControlFlow::Continue(())
        });
        assert!(matches!(listened, Listened::ToTheEnd));
        assert_eq!(lines, ["one", &longest, "two"]);
    }

    #[test]
    fn what_is_too_long_is_not_taken() {
        let on = &mut |_: &str| ControlFlow::Continue(());
        let mut told = |input: &str| feed(Path::new("/bin/cat"), &[], &[input], 8, on).map(|_| ());
        assert_eq!(told("12345678"), Ok(()));
        let error = told("123456789").unwrap_err();
        assert!(matches!(error, Error::TooLong { .. }), "{error}");
        let program = Path::new("/bin/cat");
        let much = ask(program, &["/proc/self/maps"], 8, &mut |_| {});
        assert!(matches!(much, Err(Error::TooLong { .. })));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = ask(Path::new("/nowhere/x"), &[], 8, &mut |_| {}).err();
        let error = error.unwrap().to_string();
        assert!(error.contains("/nowhere/x") && error.contains("No such file"));
    }
}
