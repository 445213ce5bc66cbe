//! Service ports by number: the programs count and tell by number, and people read names.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lb_model::ServiceName;

/// Which number is which Service port's, as long as there is one of that name.
#[derive(Debug, Default)]
pub struct Ports {
    numbers: HashMap<String, u32>,
    owned: HashMap<ServiceName, BTreeSet<String>>,
    /// What the map shall have.
    wanted: BTreeMap<u32, String>,
    /// What it has.
    applied: BTreeMap<u32, String>,
    /// Where the two may differ.
    touched: BTreeSet<u32>,
    last: u32,
}

/// A Service port's name, as Kubernetes writes it (`ServicePortName`): `namespace/name:port`,
/// without the colon where the port has no name.
fn named(service: &ServiceName, port: &str) -> String {
    if port.is_empty() {
        service.to_string()
    } else {
        format!("{service}:{port}")
    }
}

impl Ports {
    /// The map's entries when the daemon started: what bears the same name keeps its number, and
    /// the rest goes once everything was said.
    pub fn adopt(found: impl IntoIterator<Item = (u32, String)>) -> Self {
        let applied: BTreeMap<u32, String> = found.into_iter().collect();
        let numbers = applied.iter().map(|(number, name)| (name.clone(), *number));
        Self {
            numbers: numbers.collect(),
            touched: applied.keys().copied().collect(),
            last: applied.keys().next_back().copied().unwrap_or(0),
            applied,
            ..Self::default()
        }
    }

    /// `service` has ports of these names now.
    pub fn set<'a>(&mut self, service: &ServiceName, ports: impl Iterator<Item = &'a str>) {
        let new: BTreeSet<String> = ports.map(|port| named(service, port)).collect();
        let old = self.owned.remove(service).unwrap_or_default();
        for name in new.difference(&old) {
            let last = &mut self.last;
            let number = *self.numbers.entry(name.clone()).or_insert_with(|| {
                *last += 1;
                *last
            });
            self.wanted.insert(number, name.clone());
            self.touched.insert(number);
        }
        for name in old.difference(&new) {
            if let Some(number) = self.numbers.remove(name) {
                self.wanted.remove(&number);
                if self.applied.contains_key(&number) {
                    self.touched.insert(number);
                } else {
                    self.touched.remove(&number);
                }
            }
        }
        if !new.is_empty() {
            self.owned.insert(service.clone(), new);
        }
    }

    /// The number of one; 0: it was not said that there is one.
    pub fn number(&self, service: &ServiceName, port: &str) -> u32 {
        let number = self.numbers.get(&named(service, port));
        number.copied().unwrap_or(0)
    }

    /// What is to be written before anybody uses the number.
    pub fn new_names(&self) -> Vec<(u32, String)> {
        let touched = self.touched.iter();
        touched
            .filter(|number| !self.applied.contains_key(number))
            .filter_map(|number| Some((*number, self.wanted.get(number)?.clone())))
            .collect()
    }

    /// What is to be taken away when nobody uses the number any more.
    pub fn gone(&self) -> Vec<u32> {
        let touched = self.touched.iter().copied();
        touched
            .filter(|number| !self.wanted.contains_key(number))
            .collect()
    }

    /// The map has for this number what it shall.
    pub fn done(&mut self, number: u32) {
        self.touched.remove(&number);
        match self.wanted.get(&number) {
            Some(name) => {
                self.applied.insert(number, name.clone());
            }
            None => {
                if let Some(name) = self.applied.remove(&number) {
                    // Nobody claimed it since the daemon started.
                    if self.numbers.get(&name) == Some(&number) {
                        self.numbers.remove(&name);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceName {
        ServiceName::new("default", name)
    }

    /// Brings the map to what it shall have: names that came, and numbers that went.
    fn apply(ports: &mut Ports) -> (Vec<(u32, String)>, Vec<u32>) {
        let (new, gone) = (ports.new_names(), ports.gone());
        for number in new.iter().map(|one| one.0).chain(gone.iter().copied()) {
            ports.done(number);
        }
        (new, gone)
    }

    #[test]
    fn a_number_is_a_names_as_long_as_it_is_there() {
        let mut ports = Ports::default();
        ports.set(&service("web"), ["http", "dns"].into_iter());
        ports.set(&service("db"), [""].into_iter());
        let (new, gone) = apply(&mut ports);
        let names: Vec<_> = new.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["default/web:dns", "default/web:http", "default/db"]);
        assert_eq!(gone, []);
        let http = ports.number(&service("web"), "http");
        ports.set(&service("web"), ["http"].into_iter());
        assert_eq!(ports.number(&service("web"), "http"), http);
        assert_eq!(ports.number(&service("web"), "dns"), 0);
        let (new, gone) = apply(&mut ports);
        assert_eq!((new.len(), gone.len()), (0, 1));
        assert_eq!(apply(&mut ports), (vec![], vec![]));
        // A number is never another name's.
        ports.set(&service("web"), ["dns", "http"].into_iter());
        assert!(!gone.contains(&ports.number(&service("web"), "dns")));
        ports.set(&service("web"), std::iter::empty());
        assert_eq!(ports.number(&service("web"), "http"), 0);
        assert_eq!(apply(&mut ports).1, [http]);
    }

    #[test]
    fn a_restart_keeps_numbers_and_forgets_what_is_gone() {
        let found = [
            (7, "default/web:http".to_owned()),
            (9, "default/old".to_owned()),
        ];
        let mut ports = Ports::adopt(found);
        ports.set(&service("web"), ["http", "new"].into_iter());
        assert_eq!(ports.number(&service("web"), "http"), 7);
        let new = (10, "default/web:new".to_owned());
        assert_eq!(apply(&mut ports), (vec![new], vec![9]));
        ports.set(&service("old"), [""].into_iter());
        assert_eq!(ports.number(&service("old"), ""), 11);
    }
}
