//! The container runtime interface, as a kubelet uses it.

use std::fmt::Debug;
use std::future::Future;
use std::path::Path;

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    ListPodSandboxRequest, PodSandboxConfig, PodSandboxStatusRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StatusRequest, StopPodSandboxRequest,
};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::image;
use crate::node::{PATIENCE, wait_for};

/// A client of a CRI socket. It connects anew when the runtime comes back; calls may come from
/// several threads.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
}

/// Why a runtime refused something.
pub type Refusal = tonic::Status;

impl Cri {
    /// A client of the socket at a path, which need not be there yet.
    ///
    /// # Errors
    /// When threads can't be started.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The authority has no meaning on a unix socket.
        let endpoint = Endpoint::from_static("http://cri").timeout(PATIENCE);
        let channel = {
            let _inside = runtime.enter();
            endpoint.connect_with_connector_lazy(connector)
        };
        Ok(Self { runtime, channel })
    }

    fn call<T, F>(
        &self,
        request: impl FnOnce(RuntimeServiceClient<Channel>) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<tonic::Response<T>, Refusal>>,
        T: Debug,
    {
        let client = RuntimeServiceClient::new(self.channel.clone());
        self.runtime
            .block_on(request(client))
            .map(tonic::Response::into_inner)
    }

    /// Waits until the runtime answers.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn wait_until_ready(&self) -> anyhow::Result<()> {
        wait_for("the runtime", || self.status().map(drop))
    }

    /// Whether the runtime has a network to put pods in.
    ///
    /// # Errors
    /// Its reason, when it has not.
    pub fn network_ready(&self) -> anyhow::Result<()> {
        let conditions = self.status()?;
        let network = conditions.iter().find(|(kind, ..)| kind == "NetworkReady");
        match network.context("no such condition")? {
            (_, true, _) => Ok(()),
            (_, false, message) => bail!("{message}"),
        }
    }

    /// The runtime's conditions: kind, whether met, and why not.
    fn status(&self) -> anyhow::Result<Vec<(String, bool, String)>> {
        let answer =
            self.call(|mut client| async move { client.status(StatusRequest::default()).await })?;
        let conditions = answer.status.context("no status")?.conditions;
        Ok(conditions
            .into_iter()
            .map(|condition| (condition.r#type, condition.status, condition.message))
            .collect())
    }

    /// Makes a pod: its namespaces, its network, its pause container. Gives its identifier.
    ///
    /// # Errors
    /// The runtime's refusal. Like a kubelet, the caller may try again.
    pub fn run_pod(&self, config: &PodSandboxConfig, handler: &str) -> Result<String, Refusal> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let answer =
            self.call(|mut client| async move { client.run_pod_sandbox(request).await })?;
        Ok(answer.pod_sandbox_id)
    }

    /// The pod's addresses, as the runtime read them out of the plugin's result.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn addresses(&self, pod: &str) -> anyhow::Result<Vec<String>> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: pod.to_owned(),
            verbose: false,
        };
        let answer =
            self.call(|mut client| async move { client.pod_sandbox_status(request).await })?;
        let network = answer.status.and_then(|status| status.network);
        let network = network.context("a status without a network")?;
        let more = network.additional_ips.into_iter().map(|more| more.ip);
        Ok([network.ip].into_iter().chain(more).collect())
    }

    /// The identifiers of all pods.
    ///
    /// # Errors
    /// When the runtime doesn't answer.
    pub fn pods(&self) -> anyhow::Result<Vec<String>> {
        let request = ListPodSandboxRequest::default();
        let answer =
            self.call(|mut client| async move { client.list_pod_sandbox(request).await })?;
        Ok(answer.items.into_iter().map(|pod| pod.id).collect())
    }

    /// Stops what runs in a pod and takes its network down. May be repeated.
    ///
    /// # Errors
    /// When the plugin's DEL failed, too.
    pub fn stop_pod(&self, pod: &str) -> anyhow::Result<()> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.call(|mut client| async move { client.stop_pod_sandbox(request).await })?;
        Ok(())
    }

    /// Forgets a pod, stopping it first where that wasn't done.
    ///
    /// # Errors
    /// As those of stopping.
    pub fn remove_pod(&self, pod: &str) -> anyhow::Result<()> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.call(|mut client| async move { client.remove_pod_sandbox(request).await })?;
        Ok(())
    }

    /// Starts a command as a container of a pod and gives the container's identifier.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn start(
        &self,
        pod: &str,
        config: &PodSandboxConfig,
        command: &[&str],
    ) -> anyhow::Result<String> {
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "main".to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: image::NAME.to_owned(),
                ..ImageSpec::default()
            }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            ..ContainerConfig::default()
        };
        let create = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(container),
            sandbox_config: Some(config.clone()),
        };
        let made = self.call(|mut client| async move { client.create_container(create).await })?;
        let container_id = made.container_id;
        let start = StartContainerRequest {
            container_id: container_id.clone(),
        };
        self.call(|mut client| async move { client.start_container(start).await })?;
        Ok(container_id)
    }

    /// Runs a command in a container to its end and gives what it printed.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub fn exec(&self, container: &str, command: &[&str]) -> anyhow::Result<String> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: i64::try_from(PATIENCE.as_secs())?,
        };
        let answer = self.call(|mut client| async move { client.exec_sync(request).await })?;
        let [text, complaints] = [answer.stdout, answer.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if answer.exit_code != 0 {
            bail!(
                "{} gave {}: {text}{complaints}",
                command.join(" "),
                answer.exit_code
            );
        }
        Ok(text)
    }
}
