//! What is in the kernel.

use std::collections::HashSet;
use std::time::Duration;

use super::error::Error;
use super::kernel::{
    CHAIN_HANDLE, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_USE, CHAIN_USERDATA, ELEMENTS_LIST,
    ELEMENTS_SET, GET_CHAIN, GET_ELEMENT, GET_RULE, GET_SET, GET_TABLE, HOOK_NUMBER, IN_TABLE,
    LIST_ELEMENT, RULE_CHAIN, RULE_EXPRESSIONS, RULE_HANDLE, RULE_USERDATA, SET_DATA_LEN,
    SET_DATA_TYPE, SET_FLAGS, SET_HANDLE, SET_KEY_LEN, SET_KEY_TYPE, SET_NAME, SET_USERDATA,
    TABLE_HANDLE, TABLE_NAME, TABLE_USERDATA, generic_header,
};
use super::object::Family;
use super::set::Element;
use super::socket::NftSocket;
use super::userdata::{COMMENT, SET_COMMENT, read_comment};
use crate::netlink::{self, Attr, AttrWriter, Attrs, DUMP_ATTEMPTS, Message, attrs};

/// Bytes of `struct nfgenmsg`.
const GENERIC_HEADER: usize = 4;

/// How long to wait before elements are read again that a resize came into.
const RESIZE_PAUSE: Duration = Duration::from_millis(20);

/// A table as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
}

/// A chain as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainInfo {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub handle: u64,
    /// Whether packets enter it from a hook.
    pub is_base: bool,
    /// How many rules and elements it has or that lead to it.
    pub uses: u32,
    /// Its comment.
    pub comment: Option<String>,
}

/// A chain that packets enter from a hook, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookedChain {
    /// Where it is: the kernel's number of the family's hook (`NF_INET_*`, linux/netfilter.h).
    pub hook: u32,
    /// What no rule decides goes on.
    pub accepts: bool,
    /// How many rules it has.
    pub rules: u32,
}

impl HookedChain {
    /// Whether packets for another machine come by (of the families of IP).
    #[must_use]
    pub const fn sees_forwarded(&self) -> bool {
        !matches!(self.hook, LOCAL_IN | LOCAL_OUT)
    }
}

/// `NF_INET_LOCAL_IN` and `NF_INET_LOCAL_OUT`.
const LOCAL_IN: u32 = 1;
const LOCAL_OUT: u32 = 3;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// The chain it is in.
    pub chain: String,
    /// The kernel's number for it ([`super::Batch::delete_rule`]).
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// Its expressions as the kernel writes them: two rules that do the same have the same, except
    /// that expressions with a state (counters, limits) write that, too.
    pub expressions: Vec<u8>,
}

/// A set or map as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetInfo {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub handle: u64,
    /// `NFT_SET_*`.
    pub flags: u32,
    /// nft's number of the key's type.
    pub key_type: u32,
    /// The key's length in bytes.
    pub key_len: u32,
    /// nft's number of the data's type; 0 for a plain set.
    pub data_type: u32,
    /// The data's length in bytes.
    pub data_len: u32,
    /// Its comment.
    pub comment: Option<String>,
}

impl NftSocket {
    /// All tables of a family, of every family where `None`.
    ///
    /// # Errors
    /// [`Error::Netlink`]; [`netlink::Error::Interrupted`] when changes kept interrupting.
    pub fn tables(&mut self, family: Option<Family>) -> Result<Vec<TableInfo>, Error> {
        let number = family.map_or(0, Family::number);
        self.dump(
            "list the nf_tables tables",
            GET_TABLE,
            &generic_header(number, 0),
            |m, out| {
                out.extend(read_table(m));
            },
        )
    }

    /// All chains of a table; none where there is no such table.
    ///
    /// # Errors
    /// As [`NftSocket::tables`].
    pub fn chains(&mut self, family: Family, table: &str) -> Result<Vec<ChainInfo>, Error> {
        let what = format!("list the chains of {} {table}", family.word());
        // The kernel dumps the chains of all the family's tables.
        self.dump(
            &what,
            GET_CHAIN,
            &generic_header(family.number(), 0),
            |message, out| {
                if table_is(message, table) {
                    out.extend(read_chain(message));
                }
            },
        )
    }

    /// The chains of all tables of a family that packets enter from a hook.
    ///
    /// # Errors
    /// As [`NftSocket::tables`].
    pub fn hooked_chains(&mut self, family: Family) -> Result<Vec<HookedChain>, Error> {
        let what = format!("list the hooks of {}", family.word());
        let header = generic_header(family.number(), 0);
        self.dump(&what, GET_CHAIN, &header, |message, out| {
            out.extend(read_hooked_chain(message));
        })
    }

    /// All rules of a table in order, chain by chain.
    ///
    /// # Errors
    /// As [`NftSocket::tables`].
    pub fn rules(&mut self, family: Family, table: &str) -> Result<Vec<RuleInfo>, Error> {
        let what = format!("list the rules of {} {table}", family.word());
        self.dump(
            &what,
            GET_RULE,
            &table_request(family, table),
            |message, out| {
                if table_is(message, table) {
                    out.extend(read_rule(message));
                }
            },
        )
    }

    /// All sets and maps of a table. A missing table is an error (`ENOENT`).
    ///
    /// # Errors
    /// As [`NftSocket::tables`].
    pub fn sets(&mut self, family: Family, table: &str) -> Result<Vec<SetInfo>, Error> {
        let what = format!("list the sets of {} {table}", family.word());
        self.dump(
            &what,
            GET_SET,
            &table_request(family, table),
            |message, out| {
                if table_is(message, table) {
                    out.extend(read_set(message));
                }
            },
        )
    }

    /// All elements of a set or map. A missing set is an error (`ENOENT`).
    ///
    /// Elements that rules add ([`super::Expr::Dynset`]) or that time out meanwhile may be missing.
    ///
    /// # Errors
    /// As [`NftSocket::tables`].
    pub fn elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
    ) -> Result<Vec<Element>, Error> {
        let what = format!("list the elements of {} {table} {set}", family.word());
        let mut writer = AttrWriter::onto(table_request(family, table));
        writer.string(ELEMENTS_SET, set);
        let request = encoded(writer, &what)?;
        self.may_read(&what)?;
        for _ in 0..DUMP_ATTEMPTS {
            let found = self.dump_generation(&what, GET_ELEMENT, &request, |message, out| {
                out.extend(read_elements(message));
            })?;
            if all_differ(&found) {
                return Ok(found);
            }
            // The kernel's worker that resizes the hash table needs the time.
            std::thread::sleep(RESIZE_PAUSE);
        }
        Err(interrupted(&what))
    }

    fn dump<T>(
        &mut self,
        what: &str,
        kind: u16,
        request: &[u8],
        read: impl FnMut(&Message<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        self.may_read(what)?;
        self.dump_generation(what, kind, request, read)
    }

    /// The kernel doesn't mark a dump of elements that a commit came into
    /// (`nf_tables_dump_set` checks nothing), nor one that fits a single message: the generation
    /// before and after tells. A commit raises it before it takes out what it removes
    /// (`nf_tables_commit`), so one that is at that must be done before the dump begins.
    fn dump_generation<T>(
        &mut self,
        what: &str,
        kind: u16,
        request: &[u8],
        mut read: impl FnMut(&Message<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let before = self.current_generation()?;
            self.wait_for_commit(what)?;
            let found = self.socket.dump(&what, kind, request, |message, out| {
                read(message, out);
                Ok(())
            })?;
            if self.current_generation()? == before {
                return Ok(found);
            }
        }
        Err(interrupted(what))
    }
}

fn interrupted(what: &str) -> Error {
    let (operation, attempts) = (what.to_owned(), DUMP_ATTEMPTS);
    netlink::Error::Interrupted {
        operation,
        attempts,
    }
    .into()
}

/// Whether no element was read twice.
///
/// The kernel goes on where it was by counting, so that a hash table which is resized in between
/// (by a worker, some time after a commit that grew it) gives some elements twice and as many
/// others never.
fn all_differ(elements: &[Element]) -> bool {
    let mut seen = HashSet::with_capacity(elements.len());
    elements
        .iter()
        .all(|element| seen.insert((&element.key, element.interval_end)))
}

/// A request about a table's contents.
pub(super) fn table_request(family: Family, table: &str) -> Vec<u8> {
    let mut writer = AttrWriter::onto(generic_header(family.number(), 0).to_vec());
    writer.string(IN_TABLE, table);
    // A name too long to be said leaves the table out; what is answered then is filtered by name.
    writer
        .finish()
        .unwrap_or_else(|_| generic_header(family.number(), 0).to_vec())
}

pub(super) fn encoded(writer: AttrWriter, what: &str) -> Result<Vec<u8>, netlink::Error> {
    writer
        .finish()
        .map_err(|e| netlink::Error::malformed(&what, &e.to_string()))
}

fn body<'a>(message: &Message<'a>) -> Attrs<'a> {
    attrs(message.payload.get(GENERIC_HEADER..).unwrap_or_default())
}

fn table_is(message: &Message<'_>, table: &str) -> bool {
    body(message).find(IN_TABLE).and_then(|attr| attr.text()) == Some(table)
}

fn owned(attr: &Attr<'_>) -> Option<String> {
    attr.text().map(str::to_owned)
}

pub(super) fn read_elements<'a>(message: &Message<'a>) -> impl Iterator<Item = Element> + use<'a> {
    let lists = body(message).filter(|attr| attr.kind == ELEMENTS_LIST);
    let elements = lists
        .flat_map(|attr| attr.nested())
        .filter(|attr| attr.kind == LIST_ELEMENT);
    elements.filter_map(|attr| Element::read(&attr))
}

fn read_table(message: &Message<'_>) -> Option<TableInfo> {
    let number = *message.payload.first()?;
    let family = Family::ALL
        .into_iter()
        .find(|family| family.number() == number)?;
    let mut table = TableInfo {
        family,
        name: String::new(),
        handle: 0,
        comment: None,
    };
    for attr in body(message) {
        match attr.kind {
            TABLE_NAME => table.name = owned(&attr)?,
            TABLE_HANDLE => table.handle = attr.u64_be()?,
            TABLE_USERDATA => table.comment = read_comment(attr.payload, COMMENT),
            _ => {}
        }
    }
    Some(table)
}

fn read_chain(message: &Message<'_>) -> Option<ChainInfo> {
    let mut chain = ChainInfo {
        name: String::new(),
        handle: 0,
        is_base: false,
        uses: 0,
        comment: None,
    };
    for attr in body(message) {
        match attr.kind {
            CHAIN_NAME => chain.name = owned(&attr)?,
            CHAIN_HANDLE => chain.handle = attr.u64_be()?,
            CHAIN_HOOK => chain.is_base = true,
            CHAIN_USE => chain.uses = attr.u32_be()?,
            CHAIN_USERDATA => chain.comment = read_comment(attr.payload, COMMENT),
            _ => {}
        }
    }
    Some(chain)
}

fn read_hooked_chain(message: &Message<'_>) -> Option<HookedChain> {
    let number = |kind| body(message).find(kind)?.u32_be();
    let hook = body(message).find(CHAIN_HOOK)?;
    let hook = hook.nested().find(HOOK_NUMBER)?;
    Some(HookedChain {
        hook: hook.u32_be()?,
        accepts: number(CHAIN_POLICY).is_none_or(|policy| policy == ACCEPT),
        rules: number(CHAIN_USE)?,
    })
}

fn read_rule(message: &Message<'_>) -> Option<RuleInfo> {
    let mut rule = RuleInfo {
        chain: String::new(),
        handle: 0,
        comment: None,
        expressions: Vec::new(),
    };
    for attr in body(message) {
        match attr.kind {
            RULE_EXPRESSIONS => rule.expressions = attr.payload.to_vec(),
            RULE_CHAIN => rule.chain = owned(&attr)?,
            RULE_HANDLE => rule.handle = attr.u64_be()?,
            RULE_USERDATA => rule.comment = read_comment(attr.payload, COMMENT),
            _ => {}
        }
    }
    Some(rule)
}

fn read_set(message: &Message<'_>) -> Option<SetInfo> {
    let mut set = SetInfo::default();
    for attr in body(message) {
        match attr.kind {
            SET_NAME => set.name = owned(&attr)?,
            SET_HANDLE => set.handle = attr.u64_be()?,
            SET_FLAGS => set.flags = attr.u32_be()?,
            SET_KEY_TYPE => set.key_type = attr.u32_be()?,
            SET_KEY_LEN => set.key_len = attr.u32_be()?,
            SET_DATA_TYPE => set.data_type = attr.u32_be()?,
            SET_DATA_LEN => set.data_len = attr.u32_be()?,
            SET_USERDATA => set.comment = read_comment(attr.payload, SET_COMMENT),
            _ => {}
        }
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::anything;
    use crate::netlink::messages;
    use crate::netlink::push_message;
    use proptest::prelude::*;

    /// Each reader ends, with no more objects than bytes.
    fn is_read(payload: &[u8]) {
        let mut datagram = Vec::new();
        push_message(&mut datagram, GET_SET, 0, 1, payload);
        for message in messages(&datagram) {
            let _ = (
                read_table(&message),
                read_chain(&message),
                read_rule(&message),
            );
            let _ = (read_set(&message), table_is(&message, "t"));
            let _ = read_hooked_chain(&message);
            assert!(read_elements(&message).count() <= payload.len());
        }
    }

    proptest! {
        #[test]
        fn random_messages_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..400)) {
            is_read(&payload);
        }

        #[test]
        fn messages_of_random_attributes_never_panic(attributes in anything::attributes()) {
            is_read(&[&[0; 4], &attributes[..]].concat());
        }
    }
}
