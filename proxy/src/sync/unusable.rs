//! Objects of which something cannot be used, by name: in the log, in two metrics, on /statusz.

use std::collections::BTreeMap;

use lb_model::Complaint;
use lb_model::said::Event;

use super::Told;
use crate::health::MOST_NAMED;
use crate::metrics::by_object;

const SERVICE: &str = "Service";
const SLICE: &str = "EndpointSlice";
const SERVICE_CIDR: &str = "ServiceCIDR";

/// What is known of them: what the last event said.
#[derive(Debug, Default)]
pub(super) struct Unusable {
    /// By object, as `Service default/redis`: the list that last named it.
    objects: BTreeMap<String, u64>,
    /// Those of `objects` that have a series of their own.
    named: usize,
    /// Lists so far, of any kind.
    lists: u64,
    /// The list of each kind that is under way.
    listing: BTreeMap<&'static str, u64>,
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
        if self.objects.contains_key(&object) {
            self.set(&object, &[], told);
        }
    }

    /// What cannot be used after that event.
    pub(super) fn complain(&mut self, complaints: &[Complaint], told: &Told) {
        let mut objects: BTreeMap<&str, Vec<Complaint>> = BTreeMap::new();
        for complaint in complaints {
            told.metrics.unusable_fields.inc();
            tracing::warn!(
                object = complaint.object,
                field = complaint.field,
                value = complaint.value,
                accepted = complaint.accepted,
                "a field that cannot be used is left out"
            );
            let of_object = objects.entry(&complaint.object).or_default();
            of_object.push(complaint.clone());
        }
        for (object, complaints) in objects {
            self.set(object, &complaints, told);
        }
    }

    fn set(&mut self, object: &str, complaints: &[Complaint], told: &Told) {
        told.status.set_unusable(object, complaints);
        let series = &told.metrics.unusable_object;
        let label = by_object(object);
        let has_series = series.get(&label).is_some();
        if complaints.is_empty() {
            self.objects.remove(object);
            if has_series {
                series.remove(&label);
                self.named -= 1;
            }
        } else {
            let kind = object.split(' ').next().unwrap_or_default();
            let list = self.listing.get(kind).copied().unwrap_or(0);
            self.objects.insert(object.to_owned(), list);
            if has_series || self.named < MOST_NAMED {
                let fields = i64::try_from(complaints.len()).unwrap_or(i64::MAX);
                series.get_or_create(&label).set(fields);
                self.named += usize::from(!has_series);
            }
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
            .filter(|(object, of)| **of != list && object.split(' ').next() == Some(kind))
            .map(|(object, _)| object.clone())
            .collect();
        for object in gone {
            self.set(&object, &[], told);
        }
    }
}
