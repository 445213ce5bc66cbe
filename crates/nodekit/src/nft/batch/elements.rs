//! A transaction's operations on elements, in messages below netlink's limits.

use std::borrow::Borrow;

use super::Batch;
use crate::netlink::{AttrWriter, NLM_F_CREATE, NLM_F_EXCL};
use crate::nft::kernel::{DEL_ELEMENT, DESTROY_ELEMENT, ELEMENTS_LIST, ELEMENTS_SET, NEW_ELEMENT};
use crate::nft::set::Element;

/// Bytes of encoded elements in one message, well below the `u16` of their list's length.
const LIST_MAX: usize = 60_000;

/// How elements are sent.
struct Elements {
    verb: &'static str,
    kind: u16,
    flags: u16,
}

impl Batch {
    /// Takes away all elements of a set or map.
    pub fn flush_set(&mut self, tag: usize, name: &str) {
        self.check_name(tag, "set", name);
        let words = format!("flush set {} {name}", self.place());
        self.in_table(tag, words, DEL_ELEMENT, 0, |w| {
            w.string(ELEMENTS_SET, name);
        });
    }

    /// Adds elements. One that is there with the same data stays as it is; with other data it is an
    /// error (`EEXIST`): delete it first, in the same transaction.
    pub fn add_elements<E: Borrow<Element>>(
        &mut self,
        tag: usize,
        set: &str,
        elements: impl IntoIterator<Item = E>,
    ) {
        let verb = Elements {
            verb: "add",
            kind: NEW_ELEMENT,
            flags: NLM_F_CREATE,
        };
        self.elements(tag, &verb, set, elements, Element::write);
    }

    /// Adds elements; one that is there is an error (`EEXIST`).
    pub fn create_elements<E: Borrow<Element>>(
        &mut self,
        tag: usize,
        set: &str,
        elements: impl IntoIterator<Item = E>,
    ) {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let verb = Elements {
            verb: "create",
            kind: NEW_ELEMENT,
            flags,
        };
        self.elements(tag, &verb, set, elements, Element::write);
    }

    /// Takes elements away by their keys; one that isn't there is an error (`ENOENT`).
    pub fn delete_elements<E: Borrow<Element>>(
        &mut self,
        tag: usize,
        set: &str,
        elements: impl IntoIterator<Item = E>,
    ) {
        let verb = Elements {
            verb: "delete",
            kind: DEL_ELEMENT,
            flags: 0,
        };
        self.elements(tag, &verb, set, elements, Element::write_named);
    }

    /// Takes elements away by their keys, if they are there. Linux 6.3 and later; older kernels
    /// answer `EINVAL`.
    pub fn destroy_elements<E: Borrow<Element>>(
        &mut self,
        tag: usize,
        set: &str,
        elements: impl IntoIterator<Item = E>,
    ) {
        let verb = Elements {
            verb: "destroy",
            kind: DESTROY_ELEMENT,
            flags: 0,
        };
        self.elements(tag, &verb, set, elements, Element::write_named);
    }

    fn elements<E: Borrow<Element>>(
        &mut self,
        tag: usize,
        what: &Elements,
        set: &str,
        elements: impl IntoIterator<Item = E>,
        write: fn(&Element, &mut AttrWriter),
    ) {
        self.check_name(tag, "set", set);
        let mut list = AttrWriter::default();
        let mut count = 0usize;
        for element in elements {
            self.check_comment(tag, element.borrow().comment.as_deref());
            write(element.borrow(), &mut list);
            count += 1;
            if list.len() > LIST_MAX {
                self.element_list(tag, what, set, std::mem::take(&mut list), count);
                count = 0;
            }
        }
        // An element message without elements would be a flush.
        if count > 0 {
            self.element_list(tag, what, set, list, count);
        }
    }

    fn element_list(
        &mut self,
        tag: usize,
        what: &Elements,
        set: &str,
        list: AttrWriter,
        count: usize,
    ) {
        let words = format!("{} {count} element(s) of {} {set}", what.verb, self.place());
        match list.finish() {
            Ok(list) => self.in_table(tag, words, what.kind, what.flags, |w| {
                w.string(ELEMENTS_SET, set)
                    .nested_bytes(ELEMENTS_LIST, &list);
            }),
            Err(too_long) => self.refuse(tag, &words, &too_long.to_string()),
        }
    }
}
