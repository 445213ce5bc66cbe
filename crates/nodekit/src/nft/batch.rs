//! A transaction on one table, or on several one after the other.

mod elements;

use super::error::Error;
use super::kernel::{
    BATCH_BEGIN, BATCH_END, BATCH_GENERATION, CHAIN_NAME, DEL_CHAIN, DEL_RULE, DEL_SET, DEL_TABLE,
    IN_TABLE, NEW_CHAIN, NEW_RULE, NEW_SET, NEW_TABLE, RULE_CHAIN, RULE_HANDLE, SET_NAME,
    TABLE_NAME, generic_header,
};
use super::object::{Chain, Family, Rule, Table};
use super::set::Set;
use super::userdata::COMMENT_MAX;
use crate::netlink::{
    AttrTooLong, AttrWriter, HEADER_LEN, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL,
    NLM_F_REQUEST, push_message,
};

/// The longest name the kernel takes for tables, chains and sets, in bytes
/// (`NFT_NAME_MAXLEN` and, for chains, nft's own limit).
const NAME_MAX: usize = 127;

/// `NFNL_SUBSYS_NFTABLES`, as the resource of a transaction.
const SUBSYSTEM: u16 = 10;

/// Sequence numbers of a transaction's messages; single requests count from 1 up.
const FIRST_SEQUENCE: u32 = 0x8000_0000;

/// A transaction: the kernel does all of it, in order, or nothing.
///
/// It begins on one table and may go on in others ([`Batch::go_on_in`]), of any family.
///
/// Every operation takes the caller's `tag`, which an error gives back. A name or value that can't
/// be said to the kernel makes the commit fail with [`Error::Invalid`] before anything is sent.
///
/// ```
/// use nodekit::nft::{Batch, Chain, Family, Table};
/// let mut batch = Batch::new(Family::Ip, "example");
/// batch.add_table(0, &Table::default());
/// batch.add_chain(1, &Chain::regular("services"));
/// assert_eq!(batch.len(), 2);
/// ```
#[derive(Debug)]
pub struct Batch {
    /// The table of the next operation.
    family: Family,
    table: String,
    /// BATCH_BEGIN and the messages so far.
    bytes: Vec<u8>,
    /// What each message does; a message's sequence number is its index here.
    operations: Vec<Operation>,
    invalid: Option<Invalid>,
    generation: Option<u32>,
}

/// What one message does.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) tag: usize,
    pub(super) words: Box<str>,
}

#[derive(Debug)]
struct Invalid {
    tag: usize,
    operation: String,
    detail: String,
}

impl Batch {
    /// An empty transaction on the table of that family and name. Nothing else is touched by it
    /// unless [`Batch::go_on_in`] says so.
    #[must_use]
    pub fn new(family: Family, table: &str) -> Self {
        let table = table.to_owned();
        let mut batch = Self {
            family,
            bytes: Self::begin(),
            operations: Vec::new(),
            invalid: None,
            generation: None,
            table,
        };
        batch.check_name(0, "table", &batch.table.clone());
        batch
    }

    /// Has the operations that follow be on another table, in the same transaction.
    ///
    /// ```
    /// use nodekit::nft::{Batch, Family, Table};
    /// let mut batch = Batch::new(Family::Ip, "example");
    /// batch.add_table(0, &Table::default());
    /// batch.go_on_in(Family::Ip6, "example");
    /// batch.add_table(0, &Table::default());
    /// assert_eq!((batch.family(), batch.len()), (Family::Ip6, 2));
    /// ```
    pub fn go_on_in(&mut self, family: Family, table: &str) {
        self.family = family;
        if self.table != table {
            table.clone_into(&mut self.table);
            self.check_name(0, "table", table);
        }
    }

    /// The table's name: the one of the next operation.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The family of the next operation's table.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// How many messages it has; an operation of many elements has several.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Its size in bytes as sent. See [`super::TRANSACTION_LIMIT`].
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len() + Self::end().len()
    }

    /// Has the commit refused with [`Error::GenerationChanged`] unless the rule set still is of
    /// `generation` ([`super::NftSocket::generation`]).
    pub fn only_at(&mut self, generation: u32) {
        if self.generation.is_some() || !self.is_empty() {
            self.refuse(
                0,
                "set the generation",
                "only once, before the first operation",
            );
            return;
        }
        let mut writer = AttrWriter::onto(generic_header(0, SUBSYSTEM).to_vec());
        writer.u32_be(BATCH_GENERATION, generation);
        self.bytes.clear();
        let payload = writer.finish().unwrap_or_default();
        push_message(
            &mut self.bytes,
            BATCH_BEGIN,
            NLM_F_REQUEST,
            FIRST_SEQUENCE,
            &payload,
        );
        self.generation = Some(generation);
    }

    /// Makes the table unless it is there.
    pub fn add_table(&mut self, tag: usize, table: &Table) {
        self.new_table(tag, "add", 0, table);
    }

    /// Makes the table; one that is there is an error (`EEXIST`).
    pub fn create_table(&mut self, tag: usize, table: &Table) {
        self.new_table(tag, "create", NLM_F_EXCL, table);
    }

    fn new_table(&mut self, tag: usize, verb: &str, flags: u16, table: &Table) {
        self.check_comment(tag, table.comment.as_deref());
        let words = format!("{verb} table {}", self.place());
        let name = self.table.clone();
        self.message(tag, words, NEW_TABLE, NLM_F_CREATE | flags, |w| {
            w.string(TABLE_NAME, &name);
            table.write(w);
        });
    }

    /// Takes the table away with all it has; one that isn't there is an error (`ENOENT`).
    pub fn delete_table(&mut self, tag: usize) {
        let words = format!("delete table {}", self.place());
        let name = self.table.clone();
        self.message(tag, words, DEL_TABLE, 0, |w| {
            w.string(TABLE_NAME, &name);
        });
    }

    /// Takes the table away with all it has, if it is there.
    pub fn destroy_table(&mut self, tag: usize) {
        // NFT_MSG_DESTROYTABLE is of Linux 6.3: adding first does the same everywhere.
        self.add_table(tag, &Table::default());
        self.delete_table(tag);
    }

    /// Makes a chain unless it is there. A base chain that is there must be the same.
    pub fn add_chain(&mut self, tag: usize, chain: &Chain) {
        self.new_chain(tag, "add", 0, chain);
    }

    /// Makes a chain; one that is there is an error (`EEXIST`).
    pub fn create_chain(&mut self, tag: usize, chain: &Chain) {
        self.new_chain(tag, "create", NLM_F_EXCL, chain);
    }

    fn new_chain(&mut self, tag: usize, verb: &str, flags: u16, chain: &Chain) {
        self.check_name(tag, "chain", &chain.name);
        self.check_comment(tag, chain.comment.as_deref());
        let words = format!("{verb} chain {} {}", self.place(), chain.name);
        let family = self.family;
        self.in_table(tag, words, NEW_CHAIN, NLM_F_CREATE | flags, |w| {
            chain.write(w, family);
        });
    }

    /// Takes a chain away; one that isn't there (`ENOENT`) or that rules or elements still lead to
    /// (`EBUSY`) is an error.
    pub fn delete_chain(&mut self, tag: usize, name: &str) {
        self.check_name(tag, "chain", name);
        let words = format!("delete chain {} {name}", self.place());
        self.in_table(tag, words, DEL_CHAIN, 0, |w| {
            w.string(CHAIN_NAME, name);
        });
    }

    /// Takes a regular chain away, with its rules, if it is there.
    pub fn destroy_chain(&mut self, tag: usize, name: &str) {
        self.add_chain(tag, &Chain::regular(name));
        self.flush_chain(tag, name);
        self.delete_chain(tag, name);
    }

    /// Takes away all rules of a chain.
    pub fn flush_chain(&mut self, tag: usize, name: &str) {
        // A missing chain name would flush the whole table.
        self.check_name(tag, "chain", name);
        let words = format!("flush chain {} {name}", self.place());
        self.in_table(tag, words, DEL_RULE, 0, |w| {
            w.string(RULE_CHAIN, name);
        });
    }

    /// Appends a rule to its chain.
    pub fn add_rule(&mut self, tag: usize, rule: &Rule) {
        self.check_name(tag, "chain", &rule.chain);
        self.check_comment(tag, rule.comment.as_deref());
        let words = format!("add rule {} {}", self.place(), rule.chain);
        // Without NLM_F_APPEND the kernel puts it before the others.
        self.in_table(tag, words, NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, |w| {
            rule.write(w);
        });
    }

    /// Takes a rule away by its handle ([`super::RuleInfo`]).
    pub fn delete_rule(&mut self, tag: usize, chain: &str, handle: u64) {
        self.check_name(tag, "chain", chain);
        let words = format!("delete rule {} {chain} handle {handle}", self.place());
        self.in_table(tag, words, DEL_RULE, 0, |w| {
            w.string(RULE_CHAIN, chain).u64_be(RULE_HANDLE, handle);
        });
    }

    /// Makes a set or map unless it is there. One that is there must be the same.
    pub fn add_set(&mut self, tag: usize, set: &Set) {
        self.new_set(tag, "add", 0, set);
    }

    /// Makes a set or map; one that is there is an error (`EEXIST`).
    pub fn create_set(&mut self, tag: usize, set: &Set) {
        self.new_set(tag, "create", NLM_F_EXCL, set);
    }

    fn new_set(&mut self, tag: usize, verb: &str, flags: u16, set: &Set) {
        self.check_name(tag, "set", &set.name);
        self.check_comment(tag, set.comment.as_deref());
        let words = format!("{verb} set {} {}", self.place(), set.name);
        let id = u32::try_from(self.operations.len() + 1).unwrap_or(u32::MAX);
        self.in_table(tag, words, NEW_SET, NLM_F_CREATE | flags, |w| {
            set.write(w, id);
        });
    }

    /// Takes a set or map away; one that isn't there (`ENOENT`) or that rules still use (`EBUSY`)
    /// is an error.
    pub fn delete_set(&mut self, tag: usize, name: &str) {
        self.check_name(tag, "set", name);
        let words = format!("delete set {} {name}", self.place());
        self.in_table(tag, words, DEL_SET, 0, |w| {
            w.string(SET_NAME, name);
        });
    }

    /// A message about something in the table.
    fn in_table(
        &mut self,
        tag: usize,
        words: String,
        kind: u16,
        flags: u16,
        write: impl FnOnce(&mut AttrWriter),
    ) {
        let name = std::mem::take(&mut self.table);
        self.message(tag, words, kind, flags, |w| {
            w.string(IN_TABLE, &name);
            write(w);
        });
        self.table = name;
    }

    fn message(
        &mut self,
        tag: usize,
        words: String,
        kind: u16,
        flags: u16,
        write: impl FnOnce(&mut AttrWriter),
    ) {
        let start = self.bytes.len();
        let index = u32::try_from(self.operations.len()).unwrap_or(u32::MAX);
        let sequence = FIRST_SEQUENCE.saturating_add(index).saturating_add(1);
        // Acknowledgements are sent after the commit, with every error: one shows its success.
        let ack = if self.is_empty() { NLM_F_ACK } else { 0 };
        let header = generic_header(self.family.number(), 0);
        push_message(
            &mut self.bytes,
            kind,
            NLM_F_REQUEST | ack | flags,
            sequence,
            &header,
        );
        let mut writer = AttrWriter::onto(std::mem::take(&mut self.bytes));
        write(&mut writer);
        match closed(writer, start) {
            Ok(bytes) => {
                self.bytes = bytes;
                self.operations.push(Operation {
                    tag,
                    words: words.into(),
                });
            }
            Err(too_long) => self.refuse(tag, &words, &too_long.to_string()),
        }
    }

    /// What message of the transaction `sequence` names.
    pub(super) fn operation(&self, sequence: u32) -> Option<&Operation> {
        let index = sequence.checked_sub(FIRST_SEQUENCE)?.checked_sub(1)?;
        self.operations.get(usize::try_from(index).ok()?)
    }

    /// The tag and words of the operation in the middle, for an injected fault.
    #[cfg(feature = "faulty")]
    pub(crate) fn middle_operation(&self) -> (Option<usize>, String) {
        let middle = self.operations.get(self.operations.len() / 2);
        (
            middle.map(|known| known.tag),
            middle.map_or_else(String::new, |known| known.words.to_string()),
        )
    }

    /// The sequence number of the message that asks for an acknowledgement.
    pub(super) const ACKNOWLEDGED: u32 = FIRST_SEQUENCE + 1;

    /// Whether `sequence` is of a transaction at all.
    pub(super) fn owns(sequence: u32) -> bool {
        sequence >= FIRST_SEQUENCE
    }

    /// The generation [`Batch::only_at`] asked for.
    pub(super) fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// All but [`Batch::end`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for the first operation that couldn't be said.
    pub(super) fn encoded(&self) -> Result<&[u8], Error> {
        match &self.invalid {
            None => Ok(&self.bytes),
            Some(Invalid {
                tag,
                operation,
                detail,
            }) => Err(Error::Invalid {
                tag: *tag,
                operation: operation.clone(),
                detail: detail.clone(),
            }),
        }
    }

    /// BATCH_BEGIN.
    pub(super) fn begin() -> Vec<u8> {
        Self::edge(BATCH_BEGIN)
    }

    /// BATCH_END.
    pub(super) fn end() -> Vec<u8> {
        Self::edge(BATCH_END)
    }

    fn edge(kind: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = generic_header(0, SUBSYSTEM);
        push_message(&mut bytes, kind, NLM_F_REQUEST, FIRST_SEQUENCE, &header);
        bytes
    }

    fn place(&self) -> String {
        format!("{} {}", self.family.word(), self.table)
    }

    fn check_name(&mut self, tag: usize, field: &str, name: &str) {
        if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
            let detail = format!("{name:?} isn't a name: 1 to {NAME_MAX} bytes without NUL");
            self.refuse(tag, &format!("{field} name"), &detail);
        }
    }

    fn check_comment(&mut self, tag: usize, comment: Option<&str>) {
        if comment.is_some_and(|text| text.len() > COMMENT_MAX || text.contains('\0')) {
            let detail = format!("accepted are at most {COMMENT_MAX} bytes without NUL");
            self.refuse(tag, "comment", &detail);
        }
    }

    fn refuse(&mut self, tag: usize, operation: &str, detail: &str) {
        self.invalid.get_or_insert_with(|| Invalid {
            tag,
            operation: operation.to_owned(),
            detail: detail.to_owned(),
        });
    }
}

/// Puts the length into the header of the message that begins at `start`.
fn closed(writer: AttrWriter, start: usize) -> Result<Vec<u8>, AttrTooLong> {
    let mut bytes = writer.finish()?;
    let length = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    if let Some(header) = bytes.get_mut(start..start + HEADER_LEN) {
        header[..4].copy_from_slice(&length.to_ne_bytes());
    }
    Ok(bytes)
}
