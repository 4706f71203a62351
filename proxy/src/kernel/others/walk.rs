//! Where a packet can be denied: a walk through somebody else's chains, with what is known of the packet.
//!
//! A condition holds, doesn't, or can't be told. What can't be told may hold where a rule denies, and may not where it accepts. So
//! every rule that could deny the packet is found, and some that never do.

use std::collections::{BTreeSet, HashMap};

use super::bits::{Bits, Holds};
use super::packet::{Field, Packet, Place};
use super::ruleset::{Register, Rule, Ruleset, Step, Test, Verdict};
use super::{known, xtables};

/// Jumps deeper than the kernel allows (`NFT_JUMP_STACK_SIZE`) aren't followed.
const DEEPEST: usize = 16;
/// Rules that one walk looks at. iptables-legacy allows jumps by which this would never end.
const MOST_RULES: usize = 500_000;

/// What can deny a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Denial {
    /// The rule of a chain, both by their places in the lists.
    Rule(usize, usize),
    /// A base chain's policy.
    Policy(usize),
    /// There was too much to be looked at.
    Unread(usize),
}

/// How a chain ends for the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The packet certainly doesn't come back from it.
    Taken,
    MayReturn,
}

/// The walks of all packets through one base chain.
pub(super) struct Walk<'a> {
    ruleset: &'a Ruleset,
    /// Chains by table and name.
    index: &'a HashMap<(&'a super::ruleset::TableName, &'a str), usize>,
    place: &'a Place,
    visited: HashMap<usize, End>,
    looked_at: usize,
    pub(super) denials: BTreeSet<Denial>,
    /// Rules after which the packet's mark may lack what ours was.
    pub(super) unmarks: BTreeSet<Denial>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        ruleset: &'a Ruleset,
        index: &'a HashMap<(&'a super::ruleset::TableName, &'a str), usize>,
        place: &'a Place,
    ) -> Self {
        let (denials, unmarks) = (BTreeSet::new(), BTreeSet::new());
        Self { ruleset, index, place, visited: HashMap::new(), looked_at: 0, denials, unmarks }
    }

    /// Finds what can deny `packet` from the base chain on.
    pub(super) fn follow(&mut self, base: usize, packet: &Packet) {
        self.visited.clear();
        self.looked_at = 0;
        let end = self.chain(base, packet, 0);
        let drops = self.ruleset.chains[base].base.is_some_and(|base| base.drops);
        if end == End::MayReturn && drops {
            self.denials.insert(Denial::Policy(base));
        }
        if self.looked_at >= MOST_RULES {
            self.denials.insert(Denial::Unread(base));
        }
    }

    fn chain(&mut self, at: usize, packet: &Packet, depth: usize) -> End {
        if let Some(end) = self.visited.get(&at) {
            return *end;
        }
        if depth > DEEPEST {
            return End::MayReturn;
        }
        // What jumps in a circle ends here.
        self.visited.insert(at, End::MayReturn);
        let end = self.rules(at, packet, depth);
        self.visited.insert(at, end);
        end
    }

    fn rules(&mut self, at: usize, packet: &Packet, depth: usize) -> End {
        let ruleset = self.ruleset;
        for (number, rule) in ruleset.chains[at].rules.iter().enumerate() {
            self.looked_at += 1;
            if self.looked_at >= MOST_RULES {
                return End::MayReturn;
            }
            let (holds, verdicts) = self.rule(at, number, rule, packet);
            // Of several verdicts a map gives one: nothing is certain.
            let is_certain = holds == Holds::Yes && verdicts.len() == 1;
            for verdict in verdicts {
                let end = match verdict {
                    Verdict::Accept => End::Taken,
                    Verdict::Deny(_) => {
                        self.denials.insert(Denial::Rule(at, number));
                        End::Taken
                    }
                    Verdict::Return if is_certain => return End::MayReturn,
                    Verdict::Return | Verdict::Continue => End::MayReturn,
                    Verdict::Jump(chain) => self.jump(at, number, &chain, packet, depth),
                    Verdict::Goto(chain) => match self.jump(at, number, &chain, packet, depth) {
                        end if is_certain => return end,
                        end => end,
                    },
                };
                if is_certain && end == End::Taken {
                    return End::Taken;
                }
            }
        }
        End::MayReturn
    }

    fn jump(&mut self, at: usize, number: usize, name: &str, packet: &Packet, depth: usize) -> End {
        let table = &self.ruleset.chains[at].table;
        if known::is_harmless_chain(table, name) {
            return End::MayReturn;
        }
        match self.index.get(&(table, name)) {
            Some(to) => self.chain(*to, packet, depth + 1),
            // In the text of iptables a target looks like a chain's name.
            None if table.is_legacy && xtables::target(name).is_some() => {
                self.denials.insert(Denial::Rule(at, number));
                End::Taken
            }
            None => End::MayReturn,
        }
    }

    /// Whether the packet meets the rule's end, and what then becomes of it.
    fn rule(&mut self, at: usize, number: usize, rule: &Rule, packet: &Packet) -> (Holds, Vec<Verdict>) {
        let mut registers: HashMap<Register, Bits> = HashMap::new();
        let mut holds = Holds::Yes;
        let read = |registers: &HashMap<Register, Bits>, from: Register| registers.get(&from).cloned().unwrap_or_default();
        for step in &rule.steps {
            match step {
                Step::Load { to, field } => {
                    registers.insert(*to, packet.load(*field, self.place));
                }
                Step::Set { to, value } => {
                    registers.insert(*to, Bits::known(value));
                }
                Step::Mask { from, to, mask, xor } => {
                    let masked = read(&registers, *from).masked(mask, xor);
                    registers.insert(*to, masked);
                }
                Step::Forget => registers.clear(),
                Step::Compare { from, differs, value } => {
                    holds = holds.and(packet.compare(&read(&registers, *from), value, self.place).not(*differs));
                }
                Step::Within { from, set, inverted } => {
                    holds = holds.and(self.is_within(at, &read(&registers, *from), set, packet).not(*inverted));
                }
                Step::Map { from, map } => return self.mapped(at, &read(&registers, *from), map, packet, holds),
                Step::Test(test) => holds = holds.and(self.test(test, packet)),
                Step::Perhaps(_) => holds = holds.and(Holds::Perhaps),
                Step::WriteMark { from } => {
                    if !packet.keeps_mark(&read(&registers, *from)) {
                        self.unmarks.insert(Denial::Rule(at, number));
                    }
                }
                Step::Verdict(verdict) => return (holds, vec![verdict.clone()]),
            }
            if holds == Holds::No {
                return (holds, Vec::new());
            }
        }
        (holds, Vec::new())
    }

    fn is_within(&self, at: usize, bits: &Bits, set: &str, packet: &Packet) -> Holds {
        let Some(elements) = self.ruleset.sets.get(&(self.ruleset.chains[at].table.clone(), set.to_owned())) else {
            return Holds::Perhaps;
        };
        if elements.otherwise.is_some() {
            return Holds::Yes;
        }
        if elements.is_vague {
            return Holds::Perhaps;
        }
        let mut holds = Holds::No;
        for (key, _) in &elements.elements {
            match packet.compare(bits, key, self.place) {
                Holds::Yes => return Holds::Yes,
                Holds::Perhaps => holds = Holds::Perhaps,
                Holds::No => {}
            }
        }
        holds
    }

    fn mapped(&self, at: usize, bits: &Bits, map: &str, packet: &Packet, holds: Holds) -> (Holds, Vec<Verdict>) {
        let Some(elements) = self.ruleset.sets.get(&(self.ruleset.chains[at].table.clone(), map.to_owned())) else {
            return (Holds::Perhaps, vec![Verdict::Deny("a verdict map that can't be read".to_owned())]);
        };
        let mut verdicts = Vec::new();
        for (key, verdict) in &elements.elements {
            let Some(verdict) = verdict else { continue };
            let fits = if elements.is_vague { Holds::Perhaps } else { packet.compare(bits, key, self.place) };
            match fits {
                Holds::Yes => return (holds, vec![verdict.clone()]),
                Holds::Perhaps => verdicts.push(verdict.clone()),
                Holds::No => {}
            }
        }
        let otherwise = elements.otherwise.clone().flatten();
        if let (Some(verdict), true) = (&otherwise, verdicts.is_empty() && !elements.is_vague) {
            return (holds, vec![verdict.clone()]);
        }
        verdicts.extend(otherwise);
        (holds.and(Holds::Perhaps), verdicts)
    }

    fn test(&self, test: &Test, packet: &Packet) -> Holds {
        match test {
            Test::State { bits, inverted } => Holds::of(packet.state & bits != 0).not(*inverted),
            Test::Flags { .. } if packet.protocol != super::packet::TCP => Holds::No,
            Test::Flags { mask, value, inverted } => Holds::of(packet.flags & mask == *value).not(*inverted),
            Test::Protocol { number, inverted } => Holds::of(*number == 0 || *number == packet.protocol).not(*inverted),
            // RTN_UNICAST.
            Test::AddressType { types, inverted } => Holds::of(types & 2 != 0).not(*inverted),
            // PACKET_HOST.
            Test::PacketType { number, inverted } => Holds::of(*number == 0).not(*inverted),
            Test::Address { value, mask, inverted, .. } => {
                let bits = packet.load(Field::any_address(packet.family), self.place).masked(mask, &[]);
                packet.compare(&bits, value, self.place).not(*inverted)
            }
        }
    }
}
