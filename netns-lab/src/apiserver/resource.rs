//! The resources this server knows: names, groups, verbs' shape.

/// One of the served resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `v1` Endpoints; stored as given, nothing keeps them in step.
    Endpoints,
    /// `v1` ConfigMap.
    ConfigMap,
    /// `v1` Event.
    Event,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidr,
}

/// What discovery says of a resource.
#[derive(Debug)]
pub(crate) struct Description {
    /// API group; empty for the core group.
    pub(crate) group: &'static str,
    /// The name in URLs.
    pub(crate) plural: &'static str,
    /// The name `kubectl` also accepts.
    pub(crate) singular: &'static str,
    /// The `kind` of its objects.
    pub(crate) kind: &'static str,
    /// Whether its objects live in a namespace.
    pub(crate) namespaced: bool,
    /// Whether it has a `/status` subresource.
    pub(crate) has_status: bool,
    /// Abbreviations for `kubectl`.
    pub(crate) short: &'static [&'static str],
    /// Field paths a `fieldSelector` may name, besides `metadata.name` and `metadata.namespace`.
    pub(crate) fields: &'static [&'static str],
}

const fn core(
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
) -> Description {
    Description {
        group: "",
        plural,
        singular,
        kind,
        namespaced: true,
        has_status: false,
        short,
        fields: &[],
    }
}

static NAMESPACE: Description = Description {
    namespaced: false,
    has_status: true,
    fields: &["status.phase"],
    ..core("namespaces", "namespace", "Namespace", &["ns"])
};
static NODE: Description = Description {
    namespaced: false,
    has_status: true,
    fields: &["spec.unschedulable"],
    ..core("nodes", "node", "Node", &["no"])
};
static POD: Description = Description {
    has_status: true,
    fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "status.phase",
        "status.podIP",
    ],
    ..core("pods", "pod", "Pod", &["po"])
};
static SERVICE: Description = Description {
    has_status: true,
    fields: &["spec.clusterIP", "spec.type"],
    ..core("services", "service", "Service", &["svc"])
};
static ENDPOINTS: Description = core("endpoints", "endpoints", "Endpoints", &["ep"]);
static CONFIG_MAP: Description = core("configmaps", "configmap", "ConfigMap", &["cm"]);
static EVENT: Description = Description {
    fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.fieldPath",
        "reason",
        "type",
    ],
    ..core("events", "event", "Event", &["ev"])
};
static ENDPOINT_SLICE: Description = Description {
    group: "discovery.k8s.io",
    ..core("endpointslices", "endpointslice", "EndpointSlice", &[])
};
static SERVICE_CIDR: Description = Description {
    group: "networking.k8s.io",
    namespaced: false,
    has_status: true,
    ..core("servicecidrs", "servicecidr", "ServiceCIDR", &[])
};

impl Resource {
    /// Every resource, in discovery's order.
    pub const ALL: [Self; 9] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::Endpoints,
        Self::ConfigMap,
        Self::Event,
        Self::EndpointSlice,
        Self::ServiceCidr,
    ];

    pub(crate) fn description(self) -> &'static Description {
        match self {
            Self::Namespace => &NAMESPACE,
            Self::Node => &NODE,
            Self::Pod => &POD,
            Self::Service => &SERVICE,
            Self::Endpoints => &ENDPOINTS,
            Self::ConfigMap => &CONFIG_MAP,
            Self::Event => &EVENT,
            Self::EndpointSlice => &ENDPOINT_SLICE,
            Self::ServiceCidr => &SERVICE_CIDR,
        }
    }

    /// The name in URLs, such as `endpointslices`.
    #[must_use]
    pub fn plural(self) -> &'static str {
        self.description().plural
    }

    /// The `kind` of its objects, such as `EndpointSlice`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        self.description().kind
    }

    /// Whether its objects live in a namespace.
    #[must_use]
    pub fn namespaced(self) -> bool {
        self.description().namespaced
    }

    /// The `apiVersion` of its objects, such as `discovery.k8s.io/v1`.
    #[must_use]
    pub fn api_version(self) -> String {
        match self.description().group {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        }
    }

    /// The resource of a URL's group and plural name.
    pub(crate) fn find(group: &str, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| {
            let description = resource.description();
            description.group == group && description.plural == plural
        })
    }

    /// `endpointslices.discovery.k8s.io`, as messages name it.
    pub(crate) fn qualified(self) -> String {
        let description = self.description();
        match description.group {
            "" => description.plural.to_owned(),
            group => format!("{}.{group}", description.plural),
        }
    }
}
