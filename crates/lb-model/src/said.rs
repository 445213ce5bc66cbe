//! What the API said, field by field, before it means anything. Strings stay strings here:
//! [`crate::Model::apply`] is the one place that parses them, and it complains by field name.

/// A Service (core/v1), the fields that a service proxy uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.creationTimestamp` (RFC 3339, UTC, whole seconds); empty: unknown. Of two Services
    /// that claim one frontend the older keeps it, and an unknown age counts as the youngest.
    pub created: String,
    /// Label `service.kubernetes.io/service-proxy-name` is there (with any value): not for us.
    pub other_proxy: bool,
    /// Label `service.kubernetes.io/headless` is there.
    pub headless_label: bool,
    /// `spec.type`; empty means ClusterIP.
    pub kind: String,
    /// `spec.clusterIPs`, or the one `spec.clusterIP` where the list is absent.
    pub cluster_ips: Vec<String>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<String>,
    /// `status.loadBalancer.ingress[]`.
    pub ingress: Vec<Ingress>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<String>,
    /// `spec.sessionAffinity` is `ClientIP`.
    pub client_ip_affinity: bool,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`; absent means 10,800 s.
    pub affinity_seconds: Option<i32>,
    /// `spec.internalTrafficPolicy`; empty means Cluster.
    pub internal_traffic_policy: String,
    /// `spec.externalTrafficPolicy`; empty means Cluster.
    pub external_traffic_policy: String,
    /// `spec.healthCheckNodePort`; 0 means none.
    pub health_check_node_port: i32,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}

/// One of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingress {
    /// `ip`; empty where the balancer has only a host name.
    pub ip: String,
    /// `ipMode`; empty means VIP.
    pub ip_mode: String,
}

/// One of `spec.ports` of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; empty for the only port.
    pub name: String,
    /// `protocol`; empty means TCP.
    pub protocol: String,
    /// `port`.
    pub port: i32,
    /// `nodePort`; 0 means none.
    pub node_port: i32,
}

/// An EndpointSlice (discovery.k8s.io/v1), the fields that a service proxy uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Label `kubernetes.io/service-name`; empty: belongs to no Service.
    pub service: String,
    /// Label `service.kubernetes.io/headless` is there.
    pub headless_label: bool,
    /// `addressType`: IPv4, IPv6 or FQDN (ignored).
    pub address_type: String,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`, RFC 3339, opaque here.
    pub trigger_time: Option<String>,
    /// `endpoints`.
    pub endpoints: Vec<SliceEndpoint>,
    /// `ports`.
    pub ports: Vec<SlicePort>,
}

/// One of `endpoints` of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// `addresses`: only the first counts, as for kube-proxy.
    pub addresses: Vec<String>,
    /// `conditions.ready`; absent means true.
    pub ready: Option<bool>,
    /// `conditions.serving`; absent means true (discovery/v1 `EndpointConditions`).
    pub serving: Option<bool>,
    /// `conditions.terminating`; absent means false.
    pub terminating: Option<bool>,
    /// `nodeName`; empty: unknown.
    pub node_name: String,
    /// `hints.forZones[].name`.
    pub zone_hints: Vec<String>,
    /// `hints.forNodes[].name`.
    pub node_hints: Vec<String>,
}

/// One of `ports` of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlicePort {
    /// `name`; empty for the only port.
    pub name: String,
    /// `protocol`; empty means TCP.
    pub protocol: String,
    /// `port`; absent: all ports (ignored, as by kube-proxy).
    pub port: Option<i32>,
}

/// The own Node (core/v1), the fields that a service proxy uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`; empty: none.
    pub zone: String,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<String>,
    /// `status.addresses[]` of type InternalIP, then ExternalIP.
    pub addresses: Vec<String>,
    /// `metadata.deletionTimestamp` is there.
    pub deleting: bool,
    /// Taint `ToBeDeletedByClusterAutoscaler` is there.
    pub to_be_deleted: bool,
}

/// A ServiceCIDR (networking.k8s.io/v1): a range that ClusterIPs are taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCidr {
    /// `metadata.name`.
    pub name: String,
    /// `spec.cidrs`.
    pub cidrs: Vec<String>,
}

/// One thing that happened, in the order in which the API told it.
///
/// A relist is `…ListBegins`, then one event per object, then `…ListEnds`: what was not named in
/// between is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A full list of Services follows.
    ServiceListBegins,
    /// A Service is there, or changed.
    Service(Service),
    /// A Service is gone.
    ServiceGone {
        /// `metadata.namespace`.
        namespace: String,
        /// `metadata.name`.
        name: String,
    },
    /// The full list of Services is in.
    ServiceListEnds,
    /// A full list of EndpointSlices follows.
    SliceListBegins,
    /// An EndpointSlice is there, or changed.
    Slice(EndpointSlice),
    /// An EndpointSlice is gone.
    SliceGone {
        /// `metadata.namespace`.
        namespace: String,
        /// `metadata.name`.
        name: String,
    },
    /// The full list of EndpointSlices is in.
    SliceListEnds,
    /// The own Node is there, or changed.
    Node(Node),
    /// The own Node is gone.
    NodeGone,
    /// A full list of ServiceCIDRs follows.
    ServiceCidrListBegins,
    /// A ServiceCIDR is there, or changed.
    ServiceCidr(ServiceCidr),
    /// A ServiceCIDR is gone.
    ServiceCidrGone {
        /// `metadata.name`.
        name: String,
    },
    /// The full list of ServiceCIDRs is in.
    ServiceCidrListEnds,
}
