//! The redirect by filters of the kernel's traffic control (`cls_u32`, `act_mirred`): needs no BPF, and works without root.
//!
//! At the ingress of a port, in this order; a frame that no filter takes goes on to the bridge, whose [`guard`](super::guard)
//! drops it:
//!
//! | protocol | match | |
//! |---|---|---|
//! | IPv4 | source is an address of the pod | to the bridge's own ingress |
//! | IPv6 | destination in ff00::/8 | stays on the bridge |
//! | IPv6 | neighbour discovery, ICMPv6 133 to 137 | stays on the bridge |
//! | IPv6 | source is an address of the pod | to the bridge's own ingress |
//!
//! The match of the source is the check against forged ones, by port. Frames with a VLAN tag are of no such protocol here. What a
//! pod sends from its link-local address stays on the bridge and is dropped there, neighbour discovery apart.
//!
//! Our filters are told by their preferences, [`PREFERENCE_V4`] and [`PREFERENCE_V6`]; those of others stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;

use super::super::netlink::{self, Message, attribute, flags, u32_at};
use super::super::object::{Family, octets};
use super::ingress::{
    DELETE_FILTER, FIXED_BYTES, GET_FILTER, INGRESS, Ingress, KIND, NEW_FILTER, OPTIONS, fixed, gone_is_done, nothing_there,
};
use super::redirect::Port;

/// Early, because a filter of somebody else that takes frames away first would close the pod.
const PREFERENCE_V4: u16 = 83;
const PREFERENCE_V6: u16 = 84;

/// `linux/pkt_cls.h`, `linux/tc_act/tc_mirred.h`.
const U32_CLASS: u16 = 1;
const U32_SELECTOR: u16 = 5;
const U32_ACTIONS: u16 = 7;
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
const MIRRED_PARAMETERS: u16 = 2;
/// `TCA_INGRESS_REDIR`, `TC_ACT_STOLEN`.
const TO_INGRESS: u32 = 3;
const STOLEN: u32 = 4;
const TERMINAL: u8 = 1;

/// Any class: a match without action ends the classification.
const STAYS: u32 = 0x0001_0001;

const SELECTOR_BYTES: usize = 16;
const KEY_BYTES: usize = 16;
/// A filter's place among those of one preference: its lower 12 bits.
const NODE_MASK: u32 = 0xfff;
/// Those that stay are tried before the redirects, whose places begin here.
const FIRST_REDIRECT: u32 = 16;
const LAST_NODE: u32 = 0xffe;

/// A 32-bit word of the packet, from the beginning of its IP header: both in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    offset: u32,
    value: [u8; 4],
    mask: [u8; 4],
}

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Filter {
    keys: Vec<Key>,
    /// The interface to whose ingress matching frames go; None: they stay.
    to: Option<u32>,
}

/// The filters of one preference, by their places.
type Filters = BTreeMap<u32, Filter>;

/// The filters of all ports.
#[derive(Debug)]
pub(super) struct Classifier {
    ingress: Ingress,
}

impl Classifier {
    pub(super) fn open() -> Result<Self, netlink::Error> {
        Ok(Self { ingress: Ingress::open()? })
    }

    /// The place where they hang.
    pub(super) fn ingress(&mut self) -> &mut Ingress {
        &mut self.ingress
    }

    /// See [`Redirect::set`](super::redirect::Redirect::set).
    pub(super) fn set(&mut self, port: &Port) -> Result<(), netlink::Error> {
        for family in Family::BOTH {
            let there = self.filters(port.index, family)?;
            let mut free = FIRST_REDIRECT..=LAST_NODE;
            let mut kept = BTreeSet::new();
            let staying = staying(family);
            let redirects: BTreeSet<Filter> = of_family(port, family).map(|a| redirect(a, port.bridge)).collect();
            for (node, filter) in &there {
                let is_right = staying.get(node) == Some(filter) || (redirects.contains(filter) && kept.insert(filter.clone()));
                if !is_right || (*node < FIRST_REDIRECT) != filter.to.is_none() {
                    kept.remove(filter);
                    self.delete(port.index, family, *node)?;
                }
            }
            if redirects.is_empty() {
                self.delete_all(port.index, family)?;
                continue;
            }
            for (node, filter) in staying.iter().filter(|(node, filter)| there.get(node) != Some(filter)) {
                self.add(port.index, family, *node, filter)?;
            }
            for filter in redirects.difference(&kept) {
                // A pod with so many addresses that there is no place left has some that are closed.
                let Some(node) = free.find(|node| !there.contains_key(node)) else { break };
                self.add(port.index, family, node, filter)?;
            }
        }
        Ok(())
    }

    /// See [`Redirect::clear`](super::redirect::Redirect::clear).
    pub(super) fn clear(&mut self, index: u32) -> Result<(), netlink::Error> {
        Family::BOTH.into_iter().try_for_each(|family| self.delete_all(index, family))
    }

    /// See [`Redirect::admitted`](super::redirect::Redirect::admitted).
    pub(super) fn admitted(&mut self, index: u32) -> Result<BTreeSet<IpAddr>, netlink::Error> {
        let mut admitted = BTreeSet::new();
        for family in Family::BOTH {
            let filters = self.filters(index, family)?;
            admitted.extend(filters.values().filter(|filter| filter.to.is_some()).filter_map(|filter| source(family, filter)));
        }
        Ok(admitted)
    }

    /// Whether there is any filter of ours.
    pub(super) fn has_any(&mut self, index: u32) -> Result<bool, netlink::Error> {
        for family in Family::BOTH {
            if !self.filters(index, family)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Our filters at an interface's ingress, as far as they are of our form; others at our preference have no keys.
    fn filters(&mut self, index: u32, family: Family) -> Result<Filters, netlink::Error> {
        let preference = preference(family);
        let request = Message::new(GET_FILTER, flags::DUMP, &fixed(index, 0, INGRESS, info(family)));
        let found = self.ingress.socket.dump(request, |kind, body| {
            let is_ours = kind == NEW_FILTER && u32_at(body, 4)? == index && u32_at(body, 16)? >> 16 == u32::from(preference);
            is_ours.then(|| decode(body)).flatten()
        });
        Ok(nothing_there(found)?.into_iter().collect())
    }

    fn add(&mut self, index: u32, family: Family, node: u32, filter: &Filter) -> Result<(), netlink::Error> {
        match self.ingress.socket.acknowledged(message(index, family, node, filter)) {
            // There is no queueing discipline to hang it on.
            Err(netlink::Error::Refused(Errno::EINVAL | Errno::ENOENT | Errno::EOPNOTSUPP)) => {
                self.ingress.prepare(index)?;
                self.ingress.socket.acknowledged(message(index, family, node, filter))
            }
            done => done,
        }
    }

    fn delete(&mut self, index: u32, family: Family, node: u32) -> Result<(), netlink::Error> {
        // The upper bits name the table of filters, which is not ours to choose: it has to be asked for.
        let request = Message::new(GET_FILTER, flags::DUMP, &fixed(index, 0, INGRESS, info(family)));
        let handles = self.ingress.socket.dump(request, |kind, body| {
            let is_it = kind == NEW_FILTER && u32_at(body, 16)? >> 16 == u32::from(preference(family));
            u32_at(body, 8).filter(|handle| is_it && handle & NODE_MASK == node && *handle != 0)
        });
        for handle in nothing_there(handles)? {
            gone_is_done(self.ingress.socket.acknowledged(Message::new(
                DELETE_FILTER,
                0,
                &fixed(index, handle, INGRESS, info(family)),
            )))?;
        }
        Ok(())
    }

    fn delete_all(&mut self, index: u32, family: Family) -> Result<(), netlink::Error> {
        gone_is_done(self.ingress.socket.acknowledged(Message::new(DELETE_FILTER, 0, &fixed(index, 0, INGRESS, info(family)))))
    }
}

fn of_family(port: &Port, family: Family) -> impl Iterator<Item = IpAddr> {
    port.addresses.iter().copied().filter(move |address| Family::of(*address) == family)
}

/// What stays on the bridge although it may come from the pod's address.
fn staying(family: Family) -> Filters {
    if family == Family::V4 {
        return Filters::new();
    }
    let next_header = Key { offset: 4, value: [0, 0, super::super::expr::ICMPV6, 0], mask: [0, 0, 0xff, 0] };
    let kind = |value: u8, mask: u8| vec![next_header, Key { offset: 40, value: [value, 0, 0, 0], mask: [mask, 0, 0, 0] }];
    let multicast = vec![Key { offset: 24, value: [0xff, 0, 0, 0], mask: [0xff, 0, 0, 0] }];
    let matches = [multicast, kind(133, 0xff), kind(134, 0xfe), kind(136, 0xfe)];
    (1..).zip(matches.map(|keys| Filter { keys, to: None })).collect()
}

fn redirect(from: IpAddr, to: u32) -> Filter {
    let first = source_offset(Family::of(from));
    let words = octets(from).chunks(4).map(|word| [word[0], word[1], word[2], word[3]]).collect::<Vec<_>>();
    let keys = (first..).step_by(4).zip(words).map(|(offset, value)| Key { offset, value, mask: [0xff; 4] }).collect();
    Filter { keys, to: Some(to) }
}

/// The address that a redirect is for. None for a filter that isn't one of ours.
fn source(family: Family, filter: &Filter) -> Option<IpAddr> {
    let bytes: Vec<u8> = filter.keys.iter().flat_map(|key| key.value).collect();
    let address = match family {
        Family::V4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        Family::V6 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    (redirect(address, filter.to?) == *filter).then_some(address)
}

const fn source_offset(family: Family) -> u32 {
    match family {
        Family::V4 => 12,
        Family::V6 => 8,
    }
}

const fn preference(family: Family) -> u16 {
    match family {
        Family::V4 => PREFERENCE_V4,
        Family::V6 => PREFERENCE_V6,
    }
}

/// Preference and protocol (in network order) as `tcm_info` has them.
fn info(family: Family) -> u32 {
    let protocol: u16 = match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    };
    u32::from(preference(family)) << 16 | u32::from(protocol.to_be())
}

fn message(index: u32, family: Family, node: u32, filter: &Filter) -> Message {
    let head = fixed(index, node, INGRESS, info(family));
    let mut message = Message::new(NEW_FILTER, flags::CREATE | flags::EXCLUSIVE, &head);
    message.put(KIND, b"u32\0").nest(OPTIONS, |options| {
        options.put(U32_SELECTOR, &selector(&filter.keys));
        match filter.to {
            None => drop(options.put(U32_CLASS, &STAYS.to_ne_bytes())),
            Some(to) => drop(options.nest(U32_ACTIONS, |actions| {
                actions.nest(1, |action| {
                    action.put(ACTION_KIND, b"mirred\0").nest(ACTION_OPTIONS, |options| {
                        // `struct tc_mirred`: index, capabilities, action, two counts, what to do, and with which interface.
                        let words = [0, 0, STOLEN, 0, 0, TO_INGRESS, to];
                        options.put(MIRRED_PARAMETERS, &words.map(u32::to_ne_bytes).concat());
                    });
                });
            })),
        }
    });
    message
}

/// `struct tc_u32_sel` and its keys.
fn selector(keys: &[Key]) -> Vec<u8> {
    let mut bytes = vec![0; SELECTOR_BYTES];
    bytes[0] = TERMINAL;
    bytes[2] = u8::try_from(keys.len()).expect("five keys at most");
    for key in keys {
        bytes.extend_from_slice(&key.mask);
        bytes.extend_from_slice(&key.value);
        bytes.extend_from_slice(&key.offset.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    bytes
}

/// A filter and its place. None for the list that it is in, which is described like a filter.
fn decode(body: &[u8]) -> Option<(u32, Filter)> {
    let node = u32_at(body, 8)? & NODE_MASK;
    let options = attribute(body.get(FIXED_BYTES..)?, OPTIONS)?;
    let selector = attribute(options, U32_SELECTOR)?;
    let mut keys: Vec<Key> = selector
        .get(SELECTOR_BYTES..)?
        .chunks_exact(KEY_BYTES)
        .filter_map(|key| {
            let word = |at: usize| key.get(at..)?.first_chunk::<4>().copied();
            Some(Key { mask: word(0)?, value: word(4)?, offset: u32_at(key, 8)? })
        })
        .collect();
    let is_terminal = selector.first()? & TERMINAL != 0;
    let to = match attribute(options, U32_ACTIONS) {
        None => None,
        Some(actions) => {
            let parameters = || {
                let action = attribute(actions, 1)?;
                let is_mirred = attribute(action, ACTION_KIND)?.starts_with(b"mirred\0");
                let parameters = attribute(attribute(action, ACTION_OPTIONS)?, MIRRED_PARAMETERS)?;
                (is_mirred && u32_at(parameters, 20)? == TO_INGRESS).then(|| u32_at(parameters, 24)).flatten()
            };
            // Another action than ours is a redirect to nowhere, and so unlike any that is wanted.
            Some(parameters().unwrap_or(0))
        }
    };
    if !is_terminal {
        keys.clear();
    }
    Some((node, Filter { keys, to }))
}
