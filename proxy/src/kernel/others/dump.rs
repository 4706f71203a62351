//! Reads the tables of others from nftables.

use std::collections::HashMap;

use super::super::inquiry;
use super::super::netlink::{Attributes, Error, Message, Socket, attribute, flags};
use super::expression::{self, name, number};
use super::known;
use super::packet::Hook;
use super::ruleset::{Base, Chain, Elements, Rule, Ruleset, TableFamily, TableName, Verdict};

/// Of a set, so many elements are looked at; beyond, any of them may fit.
const MOST_ELEMENTS: usize = 4096;

/// Every table but ours and those that are known to be harmless.
pub(super) fn read(socket: &mut Socket) -> Result<Ruleset, Error> {
    let tables = socket.dump(request(inquiry::GET_TABLE, 0, None), |kind, body| {
        let table = TableName { family: family(body)?, name: name(attributes(body)?, 1)?, is_legacy: false };
        (kind == inquiry::NEW_TABLE && !known::is_harmless_table(&table)).then_some(table)
    })?;
    let mut ruleset = Ruleset::default();
    if tables.is_empty() {
        return Ok(ruleset);
    }
    ruleset.chains = socket.dump(request(inquiry::GET_CHAIN, 0, None), |kind, body| {
        let body_attributes = attributes(body)?;
        let table = TableName { family: family(body)?, name: name(body_attributes, 1)?, is_legacy: false };
        let chain = || Some(Chain { base: base(body_attributes), name: name(body_attributes, 3)?, table, rules: Vec::new() });
        (kind == inquiry::NEW_CHAIN).then(chain).flatten().filter(|chain| tables.contains(&chain.table))
    })?;
    // Tables whose chains hang nowhere that matters aren't read further.
    let matter: Vec<&TableName> =
        tables.iter().filter(|table| ruleset.chains.iter().any(|chain| chain.table == **table && chain.base.is_some())).collect();
    let mut rules = Vec::new();
    for table in &matter {
        rules.extend(
            socket
                .dump(request(inquiry::GET_RULE, table.family.number(), Some(&table.name)), |kind, body| {
                    (kind == inquiry::NEW_RULE && family(body)? == table.family).then(|| rule(attributes(body)?)).flatten()
                })?
                .into_iter()
                .map(|(chain, rule)| ((*table).clone(), chain, rule)),
        );
    }
    let places: HashMap<(TableName, String), usize> =
        ruleset.chains.iter().enumerate().map(|(at, chain)| ((chain.table.clone(), chain.name.clone()), at)).collect();
    let mut wanted: Vec<(TableName, String)> = Vec::new();
    for (table, chain, rule) in rules {
        wanted.extend(rule.steps.iter().filter_map(|step| known::set_of(step)).map(|set| (table.clone(), set.to_owned())));
        if let Some(at) = places.get(&(table, chain)) {
            ruleset.chains[*at].rules.push(rule);
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    for (table, set) in wanted {
        let elements = elements(socket, &table, &set)?;
        ruleset.sets.insert((table, set), elements);
    }
    Ok(ruleset)
}

fn request(kind: u16, family: u8, table: Option<&str>) -> Message {
    let mut request = Message::new(kind, flags::DUMP, &[family, 0, 0, 0]);
    if let Some(table) = table {
        request.put(1, &zero_ended(table));
    }
    request
}

fn zero_ended(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn family(body: &[u8]) -> Option<TableFamily> {
    body.first().copied().map(TableFamily::of)
}

fn attributes(body: &[u8]) -> Option<&[u8]> {
    body.get(inquiry::FIXED_BYTES..)
}

/// `NFTA_CHAIN_HOOK` and `NFTA_CHAIN_POLICY`.
fn base(chain: &[u8]) -> Option<Base> {
    const DROP: u32 = 0;
    let hook = attribute(chain, 4)?;
    let number_of = number(hook, 1)?;
    let hook_name = match (number_of, attribute(hook, 3).or_else(|| attribute(hook, 4)).is_some()) {
        // Of a device; `netdev` numbers its hooks anew.
        (0 | 5, true) => Hook::Ingress,
        (1, true) => Hook::Egress,
        (0, false) => Hook::Prerouting,
        (1, false) => Hook::Input,
        (2, _) => Hook::Forward,
        (3, _) => Hook::Output,
        (4, _) => Hook::Postrouting,
        _ => Hook::Ingress,
    };
    let drops = number(chain, 5) == Some(DROP);
    Some(Base { hook: hook_name, priority: number(hook, 2)?.cast_signed(), drops })
}

/// The chain of a rule, and the rule.
fn rule(body: &[u8]) -> Option<(String, Rule)> {
    let handle = attribute(body, 3).and_then(|value| value.first_chunk()).map(|bytes| u64::from_be_bytes(*bytes));
    let (steps, of_iptables) = expression::steps(attribute(body, 4).unwrap_or_default());
    let comment = attribute(body, 7).and_then(expression::comment).or(of_iptables);
    Some((name(body, 2)?, Rule { handle, comment, steps, text: None }))
}

fn elements(socket: &mut Socket, table: &TableName, set: &str) -> Result<Elements, Error> {
    let mut ask = Message::new(inquiry::GET_SET, 0, &[table.family.number(), 0, 0, 0]);
    ask.put(1, &zero_ended(&table.name)).put(2, &zero_ended(set));
    let flags_of = socket.answered(ask, |kind, body| (kind == inquiry::NEW_SET).then(|| number(attributes(body)?, 3)).flatten());
    const INTERVAL: u32 = 4;
    let mut read = Elements { is_vague: true, ..Elements::default() };
    match flags_of {
        Ok(flags) => read.is_vague = flags.unwrap_or_default() & INTERVAL != 0,
        // Gone in the meantime: the next look finds the ruleset changed.
        Err(error) if error.refusal().is_some() => return Ok(read),
        Err(error) => return Err(error),
    }
    let mut request = request(inquiry::GET_ELEMENTS, table.family.number(), Some(&table.name));
    request.put(2, &zero_ended(set));
    let mut left = MOST_ELEMENTS;
    let lists = socket.dump(request, |kind, body| {
        let list = (kind == inquiry::NEW_ELEMENTS).then(|| attribute(attributes(body)?, 3)).flatten()?;
        let some: Vec<_> = Attributes(list).map(|(_, element)| self::element(element)).take(left).collect();
        left -= some.len();
        Some(some)
    });
    let lists = match lists {
        Err(error) if error.refusal().is_some() => return Ok(read),
        lists => lists?,
    };
    for element in lists.into_iter().flatten() {
        match element {
            Some((Some(key), verdict)) => read.elements.push((key, verdict)),
            Some((None, verdict)) => read.otherwise = Some(verdict),
            None => read.is_vague = true,
        }
    }
    read.is_vague |= read.elements.len() >= MOST_ELEMENTS;
    Ok(read)
}

/// The key, which an element for whatever no other stands for lacks, and the verdict. `None`: of a form that isn't known.
fn element(element: &[u8]) -> Option<(Option<Vec<u8>>, Option<Verdict>)> {
    const CATCH_ALL: u32 = 2;
    let key = attribute(element, 1).and_then(|key| attribute(key, 1)).map(<[u8]>::to_vec);
    if key.is_none() && number(element, 3).unwrap_or_default() & CATCH_ALL == 0 {
        return None;
    }
    let verdict = attribute(element, 2).and_then(|data| attribute(data, 2)).and_then(expression::verdict);
    Some((key, verdict))
}
