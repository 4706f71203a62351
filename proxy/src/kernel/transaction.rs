//! Messages to nftables, made by libnftnl: all of the unsafe code that the kernel's part has.
//!
//! The rest of the kernel part speaks in plain data ([`object`](super::object), [`expr`](super::expr)); here it becomes libnftnl
//! objects, each freed where it was made, and these become bytes. The crate `nftnl` gives tables, chains, rules and the two
//! traits ([`Expression`], [`NlMsg`]) by which the expressions and messages that it lacks (tproxy, fib, flags and time-outs of
//! sets, maps with verdicts) are added: one impl for all expressions, one for sets, one for elements.
//!
//! nftnl's own `Batch` isn't used: it asks for an acknowledgement of each message, which overflows the receive buffer of a large
//! transaction, and hands out pages that mnl sends one by one, as if they were several transactions. Here the messages are one
//! byte string, which [`channel`](super::channel) sends whole.

#![expect(unsafe_code, reason = "libnftnl is a C library, and this is the one file that calls it")]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;

use nftnl::expr::Expression;
use nftnl::nftnl_sys as sys;
use nftnl::{Hook, MsgType, NlMsg, ProtoFamily};

use super::denied::KEPT_FOR;
use super::expr::{Expr, Value};
use super::netlink::Message;
use super::object::{Element, Rule, Set, SetKind};

/// What each table is called, in whatever family.
pub(super) const TABLE: &str = "sluice";

/// Elements per message: a message's attributes end at 64 KiB, and an element with a chain's name stays below 128 bytes.
const ELEMENTS_PER_MESSAGE: usize = 400;

const NLM_F_CREATE: u16 = 0x400;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_DELSET: u16 = 11;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
/// `NFNL_SUBSYS_NFTABLES` is 10 and stands in the upper byte.
const NFT_MSG_NEWOBJ: u16 = 10 << 8 | 18;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;

/// How a base chain hangs in the network stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BaseHook {
    pub(super) hook: Hook,
    pub(super) priority: i32,
    pub(super) kind: nftnl::ChainType,
}

thread_local! {
    /// The scratch of the thread's former transaction: to zero that much again costs more than a small transaction does.
    static SCRATCH: Cell<Option<Box<[u64]>>> = const { Cell::new(None) };
}

/// A list of changes to the table, in order. What one [`channel`](super::channel) call sends of it takes effect as a whole or not
/// at all.
pub(super) struct Transaction {
    family: ProtoFamily,
    table: nftnl::Table,
    messages: Vec<u8>,
    /// Where libnftnl writes a message; of words, because a message begins at a multiple of 4.
    scratch: Box<[u64]>,
    sets: u32,
}

impl Transaction {
    /// For the table of family inet.
    pub(super) fn new() -> Self {
        Self::of(ProtoFamily::Inet)
    }

    /// For the table of another family.
    pub(super) fn of(family: ProtoFamily) -> Self {
        let fresh = || vec![0; nftnl::nft_nlmsg_maxsize() as usize / 8 + 1].into_boxed_slice();
        Self {
            family,
            table: nftnl::Table::new(text(TABLE), family),
            messages: Vec::new(),
            scratch: SCRATCH.take().unwrap_or_else(fresh),
            sets: 0,
        }
    }

    /// The messages, each a whole number of words, without sequence numbers.
    pub(super) fn into_messages(self) -> Vec<u8> {
        SCRATCH.set(Some(self.scratch));
        self.messages
    }

    pub(super) fn add_table(&mut self) {
        write(&mut self.messages, &mut self.scratch, &self.table, MsgType::Add);
    }

    pub(super) fn delete_table(&mut self) {
        write(&mut self.messages, &mut self.scratch, &self.table, MsgType::Del);
    }

    /// Adds a chain, or changes nothing if it is there.
    pub(super) fn add_chain(&mut self, name: &str, hook: Option<BaseHook>) {
        let mut chain = nftnl::Chain::new(text(name), &self.table);
        if let Some(BaseHook { hook, priority, kind }) = hook {
            chain.set_hook(hook, priority);
            chain.set_type(kind);
            chain.set_policy(nftnl::Policy::Accept);
        }
        write(&mut self.messages, &mut self.scratch, &chain, MsgType::Add);
    }

    /// Adds a base chain that drops what none of its rules accepts, or changes nothing if it is there.
    pub(super) fn add_closed_chain(&mut self, name: &str, hook: BaseHook) {
        let mut chain = nftnl::Chain::new(text(name), &self.table);
        chain.set_hook(hook.hook, hook.priority);
        chain.set_type(hook.kind);
        chain.set_policy(nftnl::Policy::Drop);
        write(&mut self.messages, &mut self.scratch, &chain, MsgType::Add);
    }

    /// Adds a base chain for what comes in by one interface: in a table of family netdev.
    pub(super) fn add_ingress_chain(&mut self, name: &str, device: &str, priority: i32) {
        let mut chain = nftnl::Chain::new(text(name), &self.table);
        // That family's only hook has the number that ingress has there, not that of the others.
        chain.set_hook(Hook::PreRouting, priority);
        chain.set_type(nftnl::ChainType::Filter);
        chain.set_policy(nftnl::Policy::Accept);
        chain.set_device(text(device));
        write(&mut self.messages, &mut self.scratch, &chain, MsgType::Add);
    }

    /// Nothing may lead to the chain any more.
    pub(super) fn delete_chain(&mut self, name: &str) {
        let chain = nftnl::Chain::new(text(name), &self.table);
        write(&mut self.messages, &mut self.scratch, &chain, MsgType::Del);
    }

    /// Removes all rules of a chain: the message that deletes a rule, without naming one.
    pub(super) fn flush_chain(&mut self, name: &str) {
        let chain = nftnl::Chain::new(text(name), &self.table);
        write(&mut self.messages, &mut self.scratch, &nftnl::Rule::new(&chain), MsgType::Del);
    }

    /// Appends rules to a chain.
    pub(super) fn add_rules(&mut self, chain: &str, rules: &[Rule]) {
        let chain = nftnl::Chain::new(text(chain), &self.table);
        for rule in rules {
            let mut message = nftnl::Rule::new(&chain);
            for word in &rule.words {
                message.add_expr(word);
            }
            if let Some(comment) = &rule.comment {
                message.set_comment(text(comment)).expect("comments are cut to fit");
            }
            write(&mut self.messages, &mut self.scratch, &message, MsgType::Add);
        }
    }

    /// Adds a set or map, or changes nothing if it is there with the same key.
    pub(super) fn add_set(&mut self, set: &Set) {
        self.sets += 1;
        let message = SetObject::described(set, self.sets, self.family);
        write(&mut self.messages, &mut self.scratch, &message, MsgType::Add);
    }

    /// Adds a counter that rules name, or leaves it as it is if it is there.
    pub(super) fn add_counter(&mut self, name: &str) {
        const COUNTER: u32 = 1;
        // NFTA_OBJ_TABLE, _NAME, _TYPE and _DATA. A message without any part that only libnftnl knows how to write.
        let mut message = Message::new(NFT_MSG_NEWOBJ, NLM_F_CREATE, &[ProtoFamily::Inet as u8, 0, 0, 0]);
        message.put(1, text(TABLE).as_bytes_with_nul()).put(2, text(name).as_bytes_with_nul());
        message.put(3, &COUNTER.to_be_bytes()).nest(4, |_| {});
        self.messages.extend_from_slice(message.seal(0));
    }

    /// No rule may use the set any more.
    pub(super) fn delete_set(&mut self, name: &str) {
        write(&mut self.messages, &mut self.scratch, &SetObject::named(name, self.family), MsgType::Del);
    }

    pub(super) fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(set, elements, MsgType::Add);
    }

    /// An element that isn't there fails the whole transaction.
    pub(super) fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(set, elements, MsgType::Del);
    }

    /// Deletes all elements.
    pub(super) fn flush_set(&mut self, set: &str) {
        write(&mut self.messages, &mut self.scratch, &Elements(SetObject::named(set, self.family)), MsgType::Del);
    }

    fn elements(&mut self, set: &str, elements: &[Element], kind: MsgType) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut object = SetObject::named(set, self.family);
            for element in chunk {
                object.add(element);
            }
            write(&mut self.messages, &mut self.scratch, &Elements(object), kind);
        }
    }
}

/// A C string. No name of ours contains a zero byte; if one did, it would be left out.
fn text(s: &str) -> CString {
    CString::new(s).unwrap_or_else(|_| CString::new(s.replace('\0', "")).unwrap_or_default())
}

/// Appends the message to `messages`.
fn write(messages: &mut Vec<u8>, scratch: &mut [u64], message: &impl NlMsg, kind: MsgType) {
    let start = scratch.as_mut_ptr();
    // SAFETY: `scratch` has at least nft_nlmsg_maxsize() bytes, the room that the trait asks for, and is aligned for a header. It
    // was zeroed when it was made, so the bytes that are read below are initialised whatever libnftnl left out.
    let written = unsafe {
        message.write(start.cast::<c_void>(), 0, kind);
        std::slice::from_raw_parts(start.cast::<u8>(), scratch.len() * 8)
    };
    let length = written.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b)) as usize;
    messages.extend_from_slice(&written[..length.next_multiple_of(4).min(written.len())]);
}

impl Expression for Expr {
    fn to_expr(&self, _: &nftnl::Rule<'_>) -> NonNull<sys::nftnl_expr> {
        expression(self)
    }
}

/// A new libnftnl object, which whoever gets it owns.
fn expression(expr: &Expr) -> NonNull<sys::nftnl_expr> {
    let name = text(expr.name);
    // SAFETY: the name is a C string that outlives the call; libnftnl copies it.
    let object = NonNull::new(unsafe { sys::nftnl_expr_alloc(name.as_ptr()) })
        .expect("libnftnl knows every expression of ours, and memory is left");
    for (number, value) in &expr.attributes {
        let attribute = attribute(*number);
        // SAFETY: the object is live and not shared; strings and bytes outlive the calls, which copy them; the width of each
        // value is that of the attribute's definition in libnftnl's expr/*.c, as the constructors in `expr` say. An inner
        // expression is given away to this one, which frees it.
        unsafe {
            match value {
                Value::U8(value) => sys::nftnl_expr_set_u8(object.as_ptr(), attribute, *value),
                Value::U16(value) => sys::nftnl_expr_set_u16(object.as_ptr(), attribute, *value),
                Value::U32(value) => sys::nftnl_expr_set_u32(object.as_ptr(), attribute, *value),
                Value::U64(value) => sys::nftnl_expr_set_u64(object.as_ptr(), attribute, *value),
                Value::Text(value) => {
                    let _ = sys::nftnl_expr_set_str(object.as_ptr(), attribute, text(value).as_ptr());
                }
                Value::Bytes(value) => {
                    let _ = sys::nftnl_expr_set(object.as_ptr(), attribute, value.as_ptr().cast(), length(value));
                }
                Value::Inner(list) => {
                    for inner in list {
                        sys::nftnl_expr_add_expr(object.as_ptr(), *number, expression(inner).as_ptr());
                    }
                }
            }
        }
    }
    object
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("keys and register values are a few bytes long")
}

/// A libnftnl set, with or without elements; freed with them.
struct SetObject {
    object: NonNull<sys::nftnl_set>,
    family: ProtoFamily,
}

impl SetObject {
    fn named(name: &str, family: ProtoFamily) -> Self {
        // SAFETY: takes nothing; gives a new object or null.
        let object = NonNull::new(unsafe { sys::nftnl_set_alloc() }).expect("memory is left");
        let object = Self { object, family };
        object.put_text(sys::NFTNL_SET_TABLE, &text(TABLE));
        object.put_text(sys::NFTNL_SET_NAME, &text(name));
        object.put(sys::NFTNL_SET_FAMILY, family as u32);
        object
    }

    fn described(set: &Set, id: u32, family: ProtoFamily) -> Self {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        const TIMEOUT: u32 = 16;
        const EVALUATED: u32 = 32;
        // As nft sets it where rules add elements: without a size nothing can be added.
        const MOST_LEARNED: u32 = 65_535;
        // More pods than a node has, and more interfaces.
        const MOST_RATIONED: u32 = 8_192;
        let object = Self::named(&set.name, family);
        let flags = match set.kind {
            SetKind::Plain => 0,
            SetKind::Interval => INTERVAL,
            SetKind::Timed => TIMEOUT,
            SetKind::Learned => EVALUATED,
            SetKind::Rationed => EVALUATED | TIMEOUT,
            SetKind::Verdicts => MAP,
        };
        object.put(sys::NFTNL_SET_FLAGS, flags);
        object.put(sys::NFTNL_SET_KEY_TYPE, set.key_type());
        object.put(sys::NFTNL_SET_KEY_LEN, set.key_bytes());
        object.put(sys::NFTNL_SET_ID, id);
        match set.kind {
            SetKind::Learned => object.put(sys::NFTNL_SET_DESC_SIZE, MOST_LEARNED),
            SetKind::Rationed => {
                object.put(sys::NFTNL_SET_DESC_SIZE, MOST_RATIONED);
                let kept_ms = u64::try_from(KEPT_FOR.as_millis()).expect("minutes fit");
                // SAFETY: the object is live and not shared; the attribute is of 64 bits.
                unsafe { sys::nftnl_set_set_u64(object.object.as_ptr(), attribute(sys::NFTNL_SET_TIMEOUT), kept_ms) }
            }
            _ => {}
        }
        if set.kind == SetKind::Verdicts {
            object.put(sys::NFTNL_SET_DATA_TYPE, NFT_DATA_VERDICT);
        }
        let notes = set.user_data();
        // SAFETY: the object is live and not shared; the bytes outlive the call, which copies them.
        unsafe {
            sys::nftnl_set_set_data(
                object.object.as_ptr(),
                attribute(sys::NFTNL_SET_USERDATA),
                notes.as_ptr().cast(),
                length(&notes),
            );
        }
        object
    }

    fn put(&self, kind: u32, value: u32) {
        // SAFETY: the object is live and not shared; the attributes that come here are all of 32 bits.
        unsafe { sys::nftnl_set_set_u32(self.object.as_ptr(), attribute(kind), value) }
    }

    fn put_text(&self, kind: u32, value: &CStr) {
        // SAFETY: the object is live and not shared; the string outlives the call, which copies it.
        let _ = unsafe { sys::nftnl_set_set_str(self.object.as_ptr(), attribute(kind), value.as_ptr()) };
    }

    fn add(&mut self, element: &Element) {
        // SAFETY: a new element, live until it is given to the set, which then owns it and frees it; keys and names outlive the
        // calls, which copy them; each value has its attribute's width (libnftnl set_elem.c).
        unsafe {
            let object = NonNull::new(sys::nftnl_set_elem_alloc()).expect("memory is left").as_ptr();
            let key = element.key.as_ptr().cast();
            sys::nftnl_set_elem_set(object, attribute(sys::NFTNL_SET_ELEM_KEY), key, length(&element.key));
            if element.ends_range {
                sys::nftnl_set_elem_set_u32(object, attribute(sys::NFTNL_SET_ELEM_FLAGS), 1);
            }
            if let Some(timeout_ms) = element.timeout_ms {
                sys::nftnl_set_elem_set_u64(object, attribute(sys::NFTNL_SET_ELEM_TIMEOUT), timeout_ms);
                // For an element that is there already, the time-out alone would not begin afresh.
                sys::nftnl_set_elem_set_u64(object, attribute(sys::NFTNL_SET_ELEM_EXPIRATION), timeout_ms);
            }
            if let Some(verdict) = &element.verdict {
                sys::nftnl_set_elem_set_u32(object, attribute(sys::NFTNL_SET_ELEM_VERDICT), verdict.code());
                if let Some(chain) = verdict.chain() {
                    let chain = text(chain);
                    sys::nftnl_set_elem_set_str(object, attribute(sys::NFTNL_SET_ELEM_CHAIN), chain.as_ptr());
                }
            }
            sys::nftnl_set_elem_add(self.object.as_ptr(), object);
        }
    }

    fn header(&self, buffer: *mut c_void, kind: u16, flags: u16, sequence: u32) -> *mut nftnl::nftnl_sys::libc::nlmsghdr {
        // SAFETY: called by NlMsg::write alone, whose caller gives a buffer with room for the largest message.
        unsafe { sys::nftnl_nlmsg_build_hdr(buffer.cast::<c_char>(), kind, self.family as u16, flags, sequence) }
    }
}

impl Drop for SetObject {
    fn drop(&mut self) {
        // SAFETY: the object was made in `named`, is freed once, and nothing else holds it.
        unsafe { sys::nftnl_set_free(self.object.as_ptr()) }
    }
}

fn attribute(number: u32) -> u16 {
    u16::try_from(number).expect("attributes are small numbers")
}

// SAFETY: writes one message of a set's description, whose size is bounded by the names' and the notes'.
unsafe impl NlMsg for SetObject {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, kind: MsgType) {
        let (kind, flags) = match kind {
            MsgType::Add => (NFT_MSG_NEWSET, NLM_F_CREATE),
            MsgType::Del => (NFT_MSG_DELSET, 0),
        };
        let header = self.header(buffer, kind, flags, sequence);
        // SAFETY: the header stands in a buffer with room for the largest message, and the object is live.
        unsafe { sys::nftnl_set_nlmsg_build_payload(header, self.object.as_ptr()) }
    }
}

/// The elements that a set object carries, rather than its description.
struct Elements(SetObject);

// SAFETY: writes one message; ELEMENTS_PER_MESSAGE keeps it below 64 KiB.
unsafe impl NlMsg for Elements {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, kind: MsgType) {
        let (kind, flags) = match kind {
            MsgType::Add => (NFT_MSG_NEWSETELEM, NLM_F_CREATE),
            MsgType::Del => (NFT_MSG_DELSETELEM, 0),
        };
        let header = self.0.header(buffer, kind, flags, sequence);
        // SAFETY: as above.
        unsafe { sys::nftnl_set_elems_nlmsg_build_payload(header, self.0.object.as_ptr()) }
    }
}
