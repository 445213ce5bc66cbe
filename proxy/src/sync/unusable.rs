//! Objects of which something cannot be used, by name: in the log, in two metrics, on /statusz.

use std::collections::BTreeMap;

use lb_model::said::Event;
use lb_model::{Complaint, ServiceName};

use super::Told;
use crate::health::MOST_NAMED;
use crate::metrics::by_object;

const SERVICE: &str = "Service";
const SLICE: &str = "EndpointSlice";
const SERVICE_CIDR: &str = "ServiceCIDR";

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Unusable {
    /// By object, as `Service default/redis`; nothing is kept of those that are fine.
    objects: BTreeMap<String, Object>,
    /// Those of `objects` that have a series of their own.
    named: usize,
    /// Lists so far, of any kind.
    lists: u64,
    /// The list of each kind that is under way.
    listing: BTreeMap<&'static str, u64>,
}

/// What cannot be used of an object.
#[derive(Debug, Default)]
struct Object {
    /// What the last event about it said that cannot be used.
    fields: Vec<Complaint>,
    /// The list that last named it with such fields.
    listed: u64,
    /// What it claims and another one has, whoever said so last.
    in_vain: Vec<Complaint>,
}

impl Unusable {
    /// What `event` is about may have been mended, and gone is gone. `None`: an event of which not
    /// even the object can be used.
    pub(super) fn heard(&mut self, event: Option<&Event>, told: &Told) {
        let object = match event {
            Some(Event::Service(said)) => format!("{SERVICE} {}/{}", said.namespace, said.name),
            Some(Event::Slice(said)) => format!("{SLICE} {}/{}", said.namespace, said.name),
            Some(Event::ServiceGone { namespace, name }) => format!("{SERVICE} {namespace}/{name}"),
            Some(Event::SliceGone { namespace, name }) => format!("{SLICE} {namespace}/{name}"),
            Some(Event::Node(said)) => format!("Node {}", said.name),
            Some(Event::ServiceListBegins) => return self.list_begins(SERVICE),
            Some(Event::SliceListBegins) => return self.list_begins(SLICE),
            Some(Event::ServiceListEnds) => return self.list_ends(SERVICE, told),
            Some(Event::SliceListEnds) => return self.list_ends(SLICE, told),
            Some(Event::ServiceCidr(said)) => format!("{SERVICE_CIDR} {}", said.name),
            Some(Event::ServiceCidrGone { name }) => format!("{SERVICE_CIDR} {name}"),
            Some(Event::ServiceCidrListBegins) => return self.list_begins(SERVICE_CIDR),
            Some(Event::ServiceCidrListEnds) => return self.list_ends(SERVICE_CIDR, told),
            Some(Event::NodeGone) | None => return,
        };
        self.mended(&object, told);
    }

    /// What cannot be used after that event.
    pub(super) fn complain(&mut self, complaints: &[Complaint], told: &Told) {
        let mut objects: BTreeMap<&str, Vec<Complaint>> = BTreeMap::new();
        for complaint in complaints {
            warn(complaint, told);
            let of_object = objects.entry(&complaint.object).or_default();
            of_object.push(complaint.clone());
        }
        for (name, fields) in objects {
            let kind = kind_of(name);
            let listed = self.listing.get(kind).copied().unwrap_or(0);
            let object = self.objects.entry(name.to_owned()).or_default();
            (object.fields, object.listed) = (fields, listed);
            self.show(name, told);
        }
    }

    /// What `service` claims in vain now.
    pub(super) fn dispute(&mut self, service: &ServiceName, in_vain: Vec<Complaint>, told: &Told) {
        let name = format!("{SERVICE} {service}");
        if in_vain.is_empty() && !self.objects.contains_key(&name) {
            return;
        }
        let object = self.objects.entry(name.clone()).or_default();
        for complaint in in_vain.iter().filter(|new| !object.in_vain.contains(new)) {
            warn(complaint, told);
        }
        object.in_vain = in_vain;
        self.show(&name, told);
    }

    /// All fields of an object can be used.
    fn mended(&mut self, name: &str, told: &Told) {
        if let Some(object) = self.objects.get_mut(name) {
            object.fields.clear();
            self.show(name, told);
        }
    }

    /// Shows an object as it is now, and forgets it if it is fine.
    fn show(&mut self, name: &str, told: &Told) {
        let object = self.objects.get(name).into_iter();
        let complaints: Vec<_> = object
            .flat_map(|object| object.fields.iter().chain(&object.in_vain))
            .collect();
        told.status.set_unusable(name, &complaints);
        let series = &told.metrics.unusable_object;
        let label = by_object(name);
        let has_series = series.get(&label).is_some();
        if complaints.is_empty() {
            self.objects.remove(name);
            if has_series {
                series.remove(&label);
                self.named -= 1;
            }
        } else if has_series || self.named < MOST_NAMED {
            let fields = i64::try_from(complaints.len()).unwrap_or(i64::MAX);
            series.get_or_create(&label).set(fields);
            self.named += usize::from(!has_series);
        }
        let count = i64::try_from(self.objects.len()).unwrap_or(i64::MAX);
        told.metrics.unusable_objects.set(count);
    }

    fn list_begins(&mut self, kind: &'static str) {
        self.lists += 1;
        self.listing.insert(kind, self.lists);
    }

    /// What the list did not name is gone.
    fn list_ends(&mut self, kind: &'static str, told: &Told) {
        let Some(list) = self.listing.remove(kind) else {
            return;
        };
        let gone: Vec<String> = self
            .objects
            .iter()
            .filter(|(name, object)| object.listed != list && kind_of(name) == kind)
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.mended(&name, told);
        }
    }
}

fn kind_of(object: &str) -> &str {
    object.split(' ').next().unwrap_or_default()
}

fn warn(complaint: &Complaint, told: &Told) {
    told.metrics.unusable_fields.inc();
    tracing::warn!(
        object = complaint.object,
        field = complaint.field,
        value = complaint.value,
        accepted = complaint.accepted,
        "a field that cannot be used is left out"
    );
}
