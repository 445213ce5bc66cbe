//! What is known under each Service's name: now, and before the last look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::frontend::{Family, ServiceName};
use crate::model::service::Service;
use crate::model::slice::Slice;

/// A Service and its EndpointSlices; either may come first. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) service: Option<Arc<Service>>,
    /// Sorted by name.
    slices: Vec<Arc<Slice>>,
}

impl Known {
    pub(super) fn slices(&self, family: Family) -> impl Iterator<Item = &Slice> {
        self.slices
            .iter()
            .map(AsRef::as_ref)
            .filter(move |slice| slice.family == family)
    }

    /// Whether decisions about it depend on this node's zone.
    fn has_zone_hints(&self) -> bool {
        self.slices.iter().any(|slice| slice.has_zone_hints())
    }

    fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty()
    }
}

#[derive(Debug, Default)]
struct Tracker {
    known: Known,
    /// The last list of Services that named it.
    listed: u32,
}

/// Where an EndpointSlice is kept.
#[derive(Debug)]
struct Place {
    service: ServiceName,
    /// The last list of EndpointSlices that named it.
    listed: u32,
}

/// What a Service was when it was first touched since the last look.
#[derive(Debug)]
enum Before {
    /// Compared with what it is when somebody looks: an undone change is none.
    Known(Known),
    /// Something else that decisions about it depend on changed.
    Unknown,
}

/// All Services and EndpointSlices. Nothing is kept of what is gone (kubernetes#128928: trackers
/// that were never dropped grew to 8 GB).
#[derive(Debug, Default)]
pub(super) struct Trackers {
    all: BTreeMap<ServiceName, Tracker>,
    places: BTreeMap<Arc<str>, Place>,
    pending: BTreeMap<ServiceName, Before>,
    /// What Services and EndpointSlices take by themselves, in bytes.
    held: usize,
}

impl Trackers {
    pub(super) fn known(&self, service: &ServiceName) -> Option<&Known> {
        self.all.get(service).map(|tracker| &tracker.known)
    }

    /// Names under which something is known, and EndpointSlices.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.all.len(), self.places.len())
    }

    /// Bytes that all of it takes, without what the allocator and the maps' nodes add.
    pub(super) fn bytes(&self) -> usize {
        let names = self.all.len() * size_of::<(ServiceName, Tracker)>();
        let places = self.places.len() * size_of::<(Arc<str>, Place)>();
        self.held + names + places
    }

    /// All Services, by name.
    pub(super) fn services(&self) -> impl Iterator<Item = (&ServiceName, &Known, &Service)> {
        self.all.iter().filter_map(|(name, tracker)| {
            let service = tracker.known.service.as_deref()?;
            Some((name, &tracker.known, service))
        })
    }

    /// Services whose decisions depend on `what`.
    pub(super) fn touch_where(&mut self, what: impl Fn(&Service, Dependence) -> bool) {
        let touched: Vec<ServiceName> = self
            .services()
            .filter(|(_, known, service)| {
                what(
                    service,
                    Dependence {
                        zone_hints: known.has_zone_hints(),
                    },
                )
            })
            .map(|(name, ..)| name.clone())
            .collect();
        for name in &touched {
            self.touch(name);
        }
    }

    /// Something that decisions about `service` depend on changed.
    pub(super) fn touch(&mut self, service: &ServiceName) {
        self.pending.insert(service.clone(), Before::Unknown);
    }

    /// Puts a Service in, or away; gives what was there, if that was something else.
    pub(super) fn set_service(
        &mut self,
        name: &ServiceName,
        service: Option<Service>,
        listed: u32,
    ) -> Option<Exchanged> {
        let tracker = self.all.get_mut(name);
        let before = tracker
            .as_ref()
            .and_then(|tracker| tracker.known.service.clone());
        if before.as_deref() == service.as_ref() {
            tracker
                .into_iter()
                .for_each(|tracker| tracker.listed = listed);
            return None;
        }
        let now = service.map(Arc::new);
        let taken = |service: &Option<Arc<Service>>| {
            let service = service.as_ref();
            service.map_or(0, |service| name.as_str().len() + service.bytes())
        };
        self.held = self.held + taken(&now) - taken(&before);
        let tracker = self.remember(name);
        tracker.known.service.clone_from(&now);
        tracker.listed = listed;
        self.drop_if_empty(name);
        Some(Exchanged { before, now })
    }

    /// Puts an EndpointSlice in, or away; gives whether that changed anything for a Service.
    pub(super) fn set_slice(
        &mut self,
        name: &str,
        slice: Option<(&ServiceName, Slice)>,
        listed: u32,
    ) -> bool {
        let place = self.places.get_mut(name);
        let moved = match (&place, &slice) {
            (Some(place), Some((service, _))) => place.service != **service,
            _ => true,
        };
        if let Some(place) = place {
            place.listed = listed;
            if moved {
                self.remove_slice(name);
            }
        } else if slice.is_none() {
            return false;
        }
        match slice {
            Some((service, slice)) => self.put_slice(service, slice, listed),
            None => true,
        }
    }

    fn put_slice(&mut self, service: &ServiceName, slice: Slice, listed: u32) -> bool {
        let found = |known: &Known| {
            known
                .slices
                .binary_search_by(|held| held.name.cmp(&slice.name))
        };
        let held = self.known(service).map(found);
        if let (Some(known), Some(Ok(i))) = (self.known(service), &held)
            && *known.slices[*i] == slice
        {
            return false;
        }
        self.places.insert(
            slice.name.clone(),
            Place {
                service: service.clone(),
                listed,
            },
        );
        let after = self.held + slice.bytes();
        let slices = &mut self.remember(service).known.slices;
        let mut replaced = 0;
        match held.unwrap_or(Err(0)) {
            Ok(i) => {
                replaced = slices[i].bytes();
                slices[i] = Arc::new(slice);
            }
            Err(i) => {
                // Most Services have one slice for ever: no spare room.
                slices.reserve_exact(1);
                slices.insert(i, Arc::new(slice));
            }
        }
        self.held = after - replaced;
        true
    }

    fn remove_slice(&mut self, name: &str) {
        let Some(Place { service, .. }) = self.places.remove(name) else {
            return;
        };
        let mut removed = 0;
        self.remember(&service).known.slices.retain(|slice| {
            let goes = *slice.name == *name;
            removed += if goes { slice.bytes() } else { 0 };
            !goes
        });
        self.held -= removed;
        self.drop_if_empty(&service);
    }

    /// Services that `list` did not name.
    pub(super) fn services_not_in(&self, list: u32) -> Vec<ServiceName> {
        let unnamed = |(name, tracker): (&ServiceName, &Tracker)| {
            (tracker.known.service.is_some() && tracker.listed != list).then(|| name.clone())
        };
        self.all.iter().filter_map(unnamed).collect()
    }

    /// EndpointSlices that `list` did not name.
    pub(super) fn slices_not_in(&self, list: u32) -> Vec<Arc<str>> {
        let unnamed =
            |(name, place): (&Arc<str>, &Place)| (place.listed != list).then(|| name.clone());
        self.places.iter().filter_map(unnamed).collect()
    }

    /// The Services that were touched and are not again what they were.
    pub(super) fn take_changed(&mut self) -> BTreeSet<ServiceName> {
        let nothing = Known::default();
        let all = &self.all;
        let changed = |(name, before): (ServiceName, Before)| {
            let now = all.get(&name).map_or(&nothing, |tracker| &tracker.known);
            let differs = match before {
                Before::Unknown => true,
                Before::Known(before) => {
                    before != *now && (before.service.is_some() || now.service.is_some())
                }
            };
            differs.then_some(name)
        };
        std::mem::take(&mut self.pending)
            .into_iter()
            .filter_map(changed)
            .collect()
    }

    /// The tracker of `name`, after writing down what it is before the change.
    fn remember(&mut self, name: &ServiceName) -> &mut Tracker {
        let tracker = self.all.entry(name.clone()).or_default();
        if !self.pending.contains_key(name) {
            self.pending
                .insert(name.clone(), Before::Known(tracker.known.clone()));
        }
        tracker
    }

    fn drop_if_empty(&mut self, name: &ServiceName) {
        if self.known(name).is_some_and(Known::is_empty) {
            self.all.remove(name);
        }
    }
}

/// A Service that changed.
pub(super) struct Exchanged {
    pub(super) before: Option<Arc<Service>>,
    pub(super) now: Option<Arc<Service>>,
}

/// What decisions about a Service depend on besides itself.
pub(super) struct Dependence {
    pub(super) zone_hints: bool,
}
