//! Numbers of the kernel's interface (`linux/netfilter/nfnetlink.h`, `nf_tables.h`).

/// `NFNL_SUBSYS_NFTABLES` in a message type's upper byte.
const SUBSYSTEM: u16 = 10 << 8;

pub(super) const BATCH_BEGIN: u16 = 0x10;
pub(super) const BATCH_END: u16 = 0x11;
/// `NFNL_BATCH_GENID`: commit only if the rule set still is of this generation.
pub(super) const BATCH_GENERATION: u16 = 1;

pub(super) const NEW_TABLE: u16 = SUBSYSTEM;
pub(super) const GET_TABLE: u16 = SUBSYSTEM | 1;
pub(super) const DEL_TABLE: u16 = SUBSYSTEM | 2;
pub(super) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
pub(super) const GET_CHAIN: u16 = SUBSYSTEM | 4;
pub(super) const DEL_CHAIN: u16 = SUBSYSTEM | 5;
pub(super) const NEW_RULE: u16 = SUBSYSTEM | 6;
pub(super) const GET_RULE: u16 = SUBSYSTEM | 7;
pub(super) const DEL_RULE: u16 = SUBSYSTEM | 8;
pub(super) const NEW_SET: u16 = SUBSYSTEM | 9;
pub(super) const GET_SET: u16 = SUBSYSTEM | 10;
pub(super) const DEL_SET: u16 = SUBSYSTEM | 11;
pub(super) const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
pub(super) const GET_ELEMENT: u16 = SUBSYSTEM | 13;
pub(super) const DEL_ELEMENT: u16 = SUBSYSTEM | 14;
pub(super) const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// `NFT_MSG_DESTROYSETELEM`, Linux 6.3 and later.
pub(super) const DESTROY_ELEMENT: u16 = SUBSYSTEM | 30;

/// `NFTA_*_TABLE`: in chains, rules, sets and element lists alike.
pub(super) const IN_TABLE: u16 = 1;

pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_HANDLE: u16 = 4;
pub(super) const TABLE_FLAGS: u16 = 2;
pub(super) const TABLE_USERDATA: u16 = 6;

/// `NFT_TABLE_F_OWNER`
pub(super) const TABLE_OWNED: u32 = 2;

pub(super) const CHAIN_HANDLE: u16 = 2;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_USE: u16 = 6;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const CHAIN_USERDATA: u16 = 12;

pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
pub(super) const HOOK_DEVICE: u16 = 3;

pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;

pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LEN: u16 = 5;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LEN: u16 = 7;
pub(super) const SET_DESC: u16 = 9;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_TIMEOUT: u16 = 11;
pub(super) const SET_USERDATA: u16 = 13;
pub(super) const SET_HANDLE: u16 = 16;
pub(super) const SET_DESC_SIZE: u16 = 1;
pub(super) const SET_DESC_CONCAT: u16 = 2;
pub(super) const SET_FIELD_LEN: u16 = 1;

/// `NFT_SET_*`.
pub(super) const SET_CONSTANT: u32 = 0x2;
pub(super) const SET_INTERVAL: u32 = 0x4;
pub(super) const SET_MAP: u32 = 0x8;
pub(super) const SET_TIMEOUTS: u32 = 0x10;
pub(super) const SET_DYNAMIC: u32 = 0x20;
pub(super) const SET_CONCAT: u32 = 0x80;

/// `NFT_DATA_VERDICT`, the data type of verdict maps.
pub(super) const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;

pub(super) const LIST_ELEMENT: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS_LIST: u16 = 3;

pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_DATA: u16 = 2;
pub(super) const ELEMENT_FLAGS: u16 = 3;
pub(super) const ELEMENT_TIMEOUT: u16 = 4;
pub(super) const ELEMENT_EXPIRATION: u16 = 5;
pub(super) const ELEMENT_USERDATA: u16 = 6;
pub(super) const ELEMENT_KEY_END: u16 = 10;
/// `NFT_SET_ELEM_INTERVAL_END`.
pub(super) const ELEMENT_INTERVAL_END: u32 = 1;

pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;

pub(super) const GENERATION_ID: u16 = 1;

/// `struct nfgenmsg`: family, version, resource.
pub(super) fn generic_header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}
