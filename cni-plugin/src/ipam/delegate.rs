//! Another IPAM plugin, executed with the same environment and the whole configuration (spec
//! 1.1.0, section 4 "Plugin Delegation").

use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use cni_types::{Code, Error, MAX_CONFIG_BYTES, Object, Success};
use serde_json::Value;

use super::OWN;
use crate::call::Call;

/// How often a program is tried that somebody is just writing, and the pause between. The Go
/// library does the same.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// How much of an unexpected output an error shows, in characters.
const SHOWN: usize = 200;

/// An external plugin, found.
///
/// It may take its time: an address may come from another machine, and only the runtime knows how
/// long it wants to wait.
#[derive(Debug)]
pub(crate) struct Delegate {
    name: String,
    program: PathBuf,
}

impl Delegate {
    /// Looks for the plugin in the folders of CNI_PATH, in their order.
    pub(super) fn find(call: &Call, ipam: &Object<'_>) -> Result<Self, Error> {
        let name = ipam.filled_text("type")?.unwrap_or_default();
        let folders = &call.plugin_path;
        let mut programs = folders.iter().map(|folder| folder.join(name));
        match programs.find(|program| program.is_file()) {
            Some(program) => Ok(Self {
                name: name.to_owned(),
                program,
            }),
            None => {
                let shown: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
                let expected = format!("{OWN}, or a plugin in CNI_PATH ({})", shown.join(":"));
                Err(ipam.unsupported("type", &expected))
            }
        }
    }

    /// Gets addresses. A failure of the plugin, or a result that is none, is undone by its DEL, as
    /// the specification demands.
    pub(super) fn add(&self, call: &Call) -> Result<Success, Error> {
        let result = self.run(call, "ADD").and_then(|output| {
            let read = self.decode(&output)?;
            let success = Success::from_json(&read, call.version);
            match success.map_err(|error| error.at(&self.name))? {
                Success { ips, .. } if ips.is_empty() => {
                    let message = format!("IPAM plugin {} gave no address", self.name);
                    Err(Error::new(Code::INVALID_CONFIG, message))
                }
                success => Ok(success),
            }
        });
        result.map_err(|reason| match self.tell(call, "DEL") {
            Ok(()) => reason,
            Err(error) => reason.with_details(format!("its DEL failed: {error}")),
        })
    }

    /// Has the plugin do what has no result.
    pub(super) fn tell(&self, call: &Call, command: &str) -> Result<(), Error> {
        self.run(call, command).map(drop)
    }

    /// What the plugin printed, when it succeeded.
    fn run(&self, call: &Call, command: &str) -> Result<Vec<u8>, Error> {
        let input = call.config.to_string();
        let (status, output) = self
            .execute(command, input.as_bytes())
            .map_err(|error| self.failed(&format!("cannot be run: {error}")))?;
        if output.len() > MAX_CONFIG_BYTES {
            return Err(self.failed(&format!("printed more than {MAX_CONFIG_BYTES} bytes")));
        }
        if status.success() {
            return Ok(output);
        }
        let said = self.decode(&output);
        Err(said
            .and_then(|object| Error::from_json(&object))
            .unwrap_or_else(|_| {
                let text = String::from_utf8_lossy(&output);
                let shown: String = text.trim().chars().take(SHOWN).collect();
                self.failed(&format!(
                    "failed ({status}) without an error object: {shown:?}"
                ))
            }))
    }

    fn execute(&self, command: &str, input: &[u8]) -> io::Result<(ExitStatus, Vec<u8>)> {
        let mut process = Command::new(&self.program);
        // What it says on standard error is the runtime's to see.
        process
            .env("CNI_COMMAND", command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut tried = 1;
        let mut child = loop {
            match process.spawn() {
                Err(error)
                    if error.kind() == ErrorKind::ExecutableFileBusy && tried < BUSY_TRIES =>
                {
                    tried += 1;
                    thread::sleep(BUSY_PAUSE);
                }
                spawned => break spawned?,
            }
        };
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        // One byte more than is taken shows that there is too much.
        let most = u64::try_from(MAX_CONFIG_BYTES).map_or(u64::MAX, |most| most + 1);
        let mut output = Vec::new();
        let read = thread::scope(|scope| {
            // At once with the reading: neither side waits for the other's full pipe.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            let read = stdout.map_or(Ok(0), |stdout| stdout.take(most).read_to_end(&mut output));
            if output.len() > MAX_CONFIG_BYTES {
                // It would never end by itself with nobody reading on.
                let _ = child.kill();
            }
            read
        });
        let status = child.wait()?;
        read?;
        Ok((status, output))
    }

    fn decode(&self, output: &[u8]) -> Result<Value, Error> {
        serde_json::from_slice(output).map_err(|error| {
            let message = format!("IPAM plugin {} printed no JSON: {error}", self.name);
            Error::new(Code::DECODE, message)
        })
    }

    fn failed(&self, why: &str) -> Error {
        let program = self.program.display();
        Error::new(Code::IO, format!("IPAM plugin {program} {why}"))
    }
}
