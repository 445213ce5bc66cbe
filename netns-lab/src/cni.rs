//! Running CNI plugins as containerd does: the configuration list, the environment, the plugin's
//! standard input and output, the cached result (CNI specification 1.1.0, sections 2 to 4; the
//! behaviour of containerd's go-cni and libcni).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use nodekit::netns::{Entry, NetNs};
use serde_json::{Map, Value, json};

/// One interface of one container, as the plugins are told.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    /// `CNI_CONTAINERID`.
    pub(crate) container_id: String,
    /// `CNI_NETNS`; empty for a deletion after the namespace is gone.
    pub(crate) netns: String,
    /// `CNI_IFNAME`.
    pub(crate) interface: &'static str,
    /// `CNI_ARGS`.
    pub(crate) args: String,
}

/// A network: a configuration list and where its plugins are.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    name: String,
    version: String,
    plugins: Vec<Map<String, Value>>,
    bin: PathBuf,
    results: PathBuf,
}

impl Network {
    /// Reads a configuration list.
    ///
    /// # Errors
    /// When it isn't one.
    pub(crate) fn read(conflist: &Path, bin: PathBuf, results: PathBuf) -> anyhow::Result<Self> {
        let text = fs::read(conflist)
            .with_context(|| format!("reading the CNI network {}", conflist.display()))?;
        let list: Value = serde_json::from_slice(&text)
            .with_context(|| format!("reading the CNI network {}", conflist.display()))?;
        Self::parse(&list, bin, results)
            .with_context(|| format!("the CNI network {}", conflist.display()))
    }

    /// containerd's own network for the loopback device, whose version it has never raised.
    ///
    /// # Errors
    /// Never.
    pub(crate) fn loopback(bin: PathBuf, results: PathBuf) -> anyhow::Result<Self> {
        let list = json!({
            "cniVersion": "0.3.1",
            "name": "cni-loopback",
            "plugins": [{"type": "loopback"}],
        });
        Self::parse(&list, bin, results)
    }

    fn parse(list: &Value, bin: PathBuf, results: PathBuf) -> anyhow::Result<Self> {
        let text = |key: &str| {
            list[key]
                .as_str()
                .with_context(|| format!("{key} is missing"))
        };
        let plugins = list["plugins"].as_array().context("plugins is missing")?;
        let object = |plugin: &Value| plugin.as_object().cloned().context("a plugin is no object");
        Ok(Self {
            name: text("name")?.to_owned(),
            version: text("cniVersion")?.to_owned(),
            plugins: plugins.iter().map(object).collect::<anyhow::Result<_>>()?,
            bin,
            results,
        })
    }

    /// ADD: runs the plugins in order, each with the result of the one before; gives and keeps
    /// the last one's result.
    ///
    /// # Errors
    /// The first plugin's that failed, with its code and message. As containerd does, the caller
    /// then deletes.
    pub(crate) fn add(&self, node: &NetNs, attachment: &Attachment) -> anyhow::Result<Value> {
        let mut result = None;
        for plugin in &self.plugins {
            let input = self.input(plugin, result.as_ref());
            let output = self.run("ADD", node, attachment, plugin, &input)?;
            result = Some(output.context("a plugin answered ADD with nothing")?);
        }
        let result = result.context("the network has no plugins")?;
        let kept = self.kept(attachment);
        fs::create_dir_all(&self.results)?;
        fs::write(&kept, serde_json::to_vec(&result)?)
            .with_context(|| format!("keeping the result in {}", kept.display()))?;
        Ok(result)
    }

    /// DEL: runs the plugins in the reverse order, with the kept result; can be repeated.
    ///
    /// # Errors
    /// The first plugin's that failed.
    pub(crate) fn del(&self, node: &NetNs, attachment: &Attachment) -> anyhow::Result<()> {
        let kept = self.kept(attachment);
        let result = fs::read(&kept)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        // Results are given to DEL since 0.4.0.
        let result: Option<Value> = result.filter(|_| self.version != "0.3.1");
        for plugin in self.plugins.iter().rev() {
            let input = self.input(plugin, result.as_ref());
            self.run("DEL", node, attachment, plugin, &input)?;
        }
        // Absent after an ADD that failed.
        let _ = fs::remove_file(kept);
        Ok(())
    }

    fn kept(&self, attachment: &Attachment) -> PathBuf {
        let (id, interface) = (&attachment.container_id, attachment.interface);
        self.results.join(format!("{}-{id}-{interface}", self.name))
    }

    fn input(&self, plugin: &Map<String, Value>, result: Option<&Value>) -> Value {
        let mut input = plugin.clone();
        input.insert("name".to_owned(), self.name.clone().into());
        input.insert("cniVersion".to_owned(), self.version.clone().into());
        if let Some(result) = result {
            input.insert("prevResult".to_owned(), result.clone());
        }
        Value::Object(input)
    }

    fn run(
        &self,
        verb: &str,
        node: &NetNs,
        attachment: &Attachment,
        plugin: &Map<String, Value>,
        input: &Value,
    ) -> anyhow::Result<Option<Value>> {
        let kind = plugin
            .get("type")
            .and_then(Value::as_str)
            .context("a plugin has no type")?;
        ensure!(
            !kind.contains('/'),
            "plugin type {kind:?} must be a file name"
        );
        let path = self.bin.join(kind);
        let mut command = Command::new(&path);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &attachment.container_id)
            .env("CNI_NETNS", &attachment.netns)
            .env("CNI_IFNAME", attachment.interface)
            .env("CNI_ARGS", &attachment.args)
            .env("CNI_PATH", &self.bin)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Entry::default().prepare(&mut command, node)?;
        let what = format!("{} {verb} {}", path.display(), attachment.interface);
        let mut child = command.spawn().with_context(|| format!("running {what}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that ends without reading says why in its answer.
            let _ = stdin.write_all(input.to_string().as_bytes());
        }
        let output = child.wait_with_output()?;
        let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        if output.status.success() {
            return Ok(answer);
        }
        let said = |key: &str| {
            answer
                .as_ref()
                .and_then(|a| a[key].as_str())
                .unwrap_or_default()
        };
        let code = answer.as_ref().and_then(|answer| answer["code"].as_u64());
        let (message, details) = (said("msg"), said("details"));
        let other = String::from_utf8_lossy(&output.stderr);
        match code {
            Some(code) => bail!("{what}: code {code}: {message} {details}"),
            None => bail!(
                "{what}: {}, without a CNI error: {}",
                output.status,
                other.trim()
            ),
        }
    }
}
