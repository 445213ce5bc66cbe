//! Cluster DNS: names of Services and pods, answered from the store.
//!
//! It never asks another server: a name outside the cluster's domain does not exist (NXDOMAIN),
//! and no answer is a server failure. The names are those of Kubernetes' DNS specification
//! (kubernetes/dns, docs/specification.md), version 1.1.0.

mod name;
mod records;

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{
    Edns, Header, HeaderCounts, LowerQuery, Metadata, OpCode, ResponseCode,
};
use hickory_server::proto::rr::{DNSClass, Name, Record};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::apiserver::Store;
use crate::background::{Alive, Background};
use name::Asked;
use records::{Answer, Zone};

/// The domain of a cluster that says nothing else.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// How long answers may be remembered, in seconds (CoreDNS: 5).
const TTL: u32 = 5;

/// How long a TCP connection may say nothing.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// How many answers may wait on a TCP connection.
const TCP_ANSWERS: usize = 16;

/// The largest UDP answer to those who say what they can take (DNS flag day 2020), in bytes.
const UDP_BYTES: u16 = 1232;

/// The running DNS server, on a thread of its own; dropping it stops it.
pub struct ClusterDns {
    // Dropped first: its tasks are what the background waits for.
    server: Server<Answers>,
    background: Background,
}

impl ClusterDns {
    /// Starts a server for `domain` (see [`CLUSTER_DOMAIN`]) that listens nowhere yet.
    ///
    /// # Errors
    /// When `domain` is no domain name, or the thread cannot be made.
    pub fn start(store: Store, domain: &str) -> anyhow::Result<Self> {
        let zone = Zone::new(domain).with_context(|| format!("{domain:?} is no domain name"))?;
        let background = Background::start("cluster-dns")?;
        let (entered, alive) = background.enter().context("the thread has ended")?;
        let server = Server::new(Answers {
            store,
            zone,
            _alive: alive,
        });
        drop(entered);
        Ok(Self { server, background })
    }

    /// Answers on these sockets too, whichever namespace they were bound in.
    ///
    /// # Errors
    /// When a socket cannot be used.
    pub fn serve(&mut self, udp: UdpSocket, tcp: TcpListener) -> anyhow::Result<()> {
        let _entered = self
            .background
            .enter()
            .context("the DNS server has stopped")?;
        udp.set_nonblocking(true)
            .context("making the DNS socket non-blocking")?;
        tcp.set_nonblocking(true)
            .context("making the DNS listener non-blocking")?;
        let udp = tokio::net::UdpSocket::from_std(udp).context("registering the DNS socket")?;
        let tcp = tokio::net::TcpListener::from_std(tcp).context("registering the DNS listener")?;
        self.server.register_socket(udp);
        self.server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
        Ok(())
    }
}

/// Answers requests from the store.
struct Answers {
    store: Store,
    zone: Zone,
    _alive: Alive,
}

impl Answers {
    /// The answer's code and records; the last are for the authority section.
    fn answer(&self, request: &Request) -> (ResponseCode, Vec<Record>, Vec<Record>) {
        let failed = |code| (code, Vec::new(), Vec::new());
        if request.metadata.op_code != OpCode::Query {
            return failed(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else {
            return failed(ResponseCode::FormErr);
        };
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return failed(ResponseCode::Refused);
        }
        let asked = Asked::parse(&Name::from(query.name()), self.zone.name());
        let (code, found) = match self.zone.look_up(&self.store, &asked, query.query_type()) {
            Answer::Records(found) => (ResponseCode::NoError, found),
            Answer::NoData => (ResponseCode::NoError, Vec::new()),
            Answer::NoName => (ResponseCode::NXDomain, Vec::new()),
        };
        let authority = if found.is_empty() && asked != Asked::Elsewhere {
            vec![self.zone.start_of_authority(&self.store)]
        } else {
            Vec::new()
        };
        (code, as_answers(query, found), authority)
    }
}

fn as_answers(query: &LowerQuery, found: Vec<hickory_server::proto::rr::RData>) -> Vec<Record> {
    // The name as it was asked, in its own upper and lower case.
    let name = query.original().name();
    found
        .into_iter()
        .map(|data| Record::from_rdata(name.clone(), TTL, data))
        .collect()
}

#[async_trait::async_trait]
impl RequestHandler for Answers {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut responses: R,
    ) -> ResponseInfo {
        let (code, answers, authority) = self.answer(request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = code;
        metadata.authoritative = true;
        let mut edns = Edns::new();
        edns.set_max_payload(request.max_payload().clamp(512, UDP_BYTES));
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if request.edns.is_some() {
            builder.edns(&edns);
        }
        let response = builder.build(metadata, &answers, [], &authority, []);
        responses
            .send_response(response)
            .await
            .unwrap_or_else(|error| {
                tracing::debug!(%error, client = %request.src(), "a DNS answer was not sent");
                ResponseInfo::from(Header {
                    metadata,
                    counts: HeaderCounts::default(),
                })
            })
    }
}
