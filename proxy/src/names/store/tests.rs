//! The store against a list of entries that does the same the slow way, and what it promises beside.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::dns::{Query, believe};
use crate::names::metrics::Bound;

const SMALL: Limits = Limits {
    min_ttl: Duration::from_secs(2),
    max_ttl: Duration::from_secs(20),
    grace: Duration::from_secs(1),
    names_per_pod: 4,
    addresses_per_name: 3,
    names_per_address: 2,
    total: usize::MAX,
};

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn at(millis: u64) -> Moment {
    Moment::since_boot(Duration::from_millis(millis))
}

fn store(limits: Limits) -> Names {
    Names::new(limits, NamesMetrics::default())
}

/// Has `pod` learn that each of `names` leads to each of `addresses`, for so many seconds.
fn learn(store: &Names, pod: IpAddr, names: &[&str], addresses: &[IpAddr], ttl: u32, now: Moment) -> Lesson {
    let facts: Vec<_> = addresses.iter().map(|address| store.fact(*address, names.len(), ttl, now)).collect();
    store.learn_facts(pod, names, &facts, now)
}

/// In seconds, without what is added to all.
fn until(expires: u32) -> f64 {
    f64::from(expires - SLACK_TICKS) / 4.0
}

fn shown(lesson: &Lesson) -> Vec<String> {
    let one = |learned: &super::super::Learned| {
        let name = |n: &super::super::LearnedName| {
            let news = if n.is_news { "!" } else { "" };
            format!("{}{news}@{}", n.name, until(Tick::not_before(n.expires).0))
        };
        let mut names: Vec<_> = learned.names.iter().map(name).collect();
        names.sort();
        format!("{} {}", learned.address, names.join(" "))
    };
    let mut all: Vec<_> = lesson.addresses.iter().map(one).collect();
    all.sort();
    all
}

#[test]
fn an_answer_teaches_each_name_of_its_chain() {
    use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
    use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::CNAME};
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let mut asked = Message::new(7, MessageType::Query, OpCode::Query);
    asked.add_query(Question::query(name("www.example.org."), RecordType::A));
    let query = Query::read(&asked.to_vec().unwrap()).unwrap();
    let mut told = asked.into_response();
    let alias = RData::CNAME(CNAME(name("cdn.example.net.")));
    told.add_answer(Record::from_rdata(name("www.example.org."), 100, alias));
    for (ttl, last) in [(40, 1), (3600, 2)] {
        let address = std::net::Ipv4Addr::new(192, 0, 2, last);
        told.add_answer(Record::from_rdata(name("cdn.example.net."), ttl, RData::A(address.into())));
    }
    let answer = believe(&query, &told.to_vec().unwrap()).unwrap();
    let store = store(Limits::default());
    let lesson = store.learn(ip(9), &answer, at(500));
    let both = "cdn.example.net!@40.5 www.example.org!@40.5";
    let other = "cdn.example.net!@100.5 www.example.org!@100.5";
    assert_eq!(shown(&lesson), [format!("192.0.2.1 {both}"), format!("192.0.2.2 {other}")]);
    let nothing = Answer { addresses: vec![], ..answer };
    assert!(store.learn(ip(8), &nothing, at(500)).is_empty());
    assert_eq!(store.pods(), [ip(9)], "an answer without addresses takes no room");
}

#[test]
fn the_time_is_the_ttl_within_its_bounds_and_a_second_at_most() {
    let store = store(Limits { grace: Duration::from_secs(5), ..Limits::default() });
    for (ttl, millis, exact, rounded) in [
        (0, 0, 35_000, 35_000),
        (29, 0, 35_000, 35_000),
        (30, 1, 35_001, 35_250),
        (60, 999, 65_999, 66_000),
        (60, 1000, 66_000, 66_000),
        (u32::MAX, 0, 86_405_000, 86_405_000),
        (86_401, 1, 86_405_001, 86_405_250),
    ] {
        let fact = store.fact(ip(1), 1, ttl, at(millis));
        assert_eq!(fact.until.moment(), at(rounded), "{ttl} s at {millis} ms");
        let beyond = at(exact).until(fact.expires.moment());
        assert!(beyond >= Duration::from_millis(750) && beyond < Duration::from_secs(1), "{ttl} s at {millis} ms: {beyond:?}");
    }
    // A floor above the ceiling is the operator's word too.
    let odd = Names::new(Limits { max_ttl: Duration::from_secs(10), ..Limits::default() }, NamesMetrics::default());
    assert_eq!(odd.fact(ip(1), 1, 3600, at(0)).until.moment(), at(30_000));
}

#[test]
fn a_repeated_look_up_waits_for_the_kernel_only_if_it_holds_too_little() {
    let store = store(Limits::default());
    let say = |millis| learn(&store, ip(9), &["a"], &[ip(1)], 60, at(millis));
    let first = say(200);
    assert_eq!((shown(&first), first.prolongs), (vec!["192.0.2.1 a!@60.25".to_owned()], false));
    let second = say(250);
    assert_eq!((shown(&second), second.prolongs), (shown(&first), false), "nobody has confirmed it");
    store.confirm(&first);
    assert!(say(250).is_empty() && say(750).is_empty(), "the kernel holds more than it says");
    let third = say(751);
    assert_eq!((shown(&third), third.prolongs), (vec!["192.0.2.1 a!@61".to_owned()], true), "just as much");
    assert!(say(752).is_empty() && say(1000).is_empty(), "it is on its way");
    let fourth = say(1001);
    assert_eq!((shown(&fourth), fourth.prolongs), (vec!["192.0.2.1 a!@61.25".to_owned()], false), "and has not arrived");
    store.confirm(&second);
    assert!(!say(1002).is_empty(), "an older confirmation is of the older time");
    store.confirm(&third);
    assert!(say(1003).is_empty());
    store.confirm(&fourth);
    let shorter = learn(&store, ip(9), &["a"], &[ip(1)], 30, at(1004));
    assert!(shorter.is_empty(), "an expiry only moves later");
    let other = learn(&store, ip(9), &["b"], &[ip(1)], 30, at(2000));
    assert_eq!(shown(&other), ["192.0.2.1 a@61.25 b!@32"], "all the names of an address, and which of them are new");
    assert!(say(1500).is_empty(), "another name's news is no reason to wait");
    assert_eq!(shown(&store.of_pod(ip(9), at(3000))), ["192.0.2.1 a@61.25 b!@32"]);
    assert_eq!(store.names_of(ip(9), ip(1), at(32_749)).len(), 2);
    assert_eq!(store.names_of(ip(9), ip(1), at(32_750)), ["a".into()]);
    assert!(store.names_of(ip(9), ip(1), at(62_000)).is_empty());
    assert!(store.names_of(ip(8), ip(1), at(3000)).is_empty(), "another pod asked for nothing");
}

#[test]
fn a_lesson_that_has_waited_says_what_is_known_by_now() {
    let store = store(Limits { names_per_pod: 2, ..Limits::default() });
    let mut waiting = learn(&store, ip(9), &["a"], &[ip(1)], 60, at(0));
    let later = learn(&store, ip(9), &["a"], &[ip(1), ip(2)], 60, at(5000));
    assert!(store.catch_up(&mut waiting));
    assert_eq!(shown(&waiting), ["192.0.2.1 a!@65"]);
    store.confirm(&later);
    assert!(learn(&store, ip(9), &["a"], &[ip(1)], 60, at(5000)).is_empty());
    learn(&store, ip(9), &["b"], &[ip(3)], 600, at(5000));
    assert!(store.catch_up(&mut waiting), "nothing was displaced");
    learn(&store, ip(9), &["c"], &[ip(4)], 600, at(5000));
    assert!(!store.catch_up(&mut waiting), "it was itself");
    assert_eq!(shown(&waiting), ["192.0.2.1 a!@65"]);
    let mut of_gone = learn(&store, ip(9), &["b"], &[ip(5)], 60, at(5000));
    store.forget(ip(9), at(6000));
    assert!(!store.catch_up(&mut of_gone));
    learn(&store, ip(9), &["b"], &[ip(5)], 600, at(6000));
    assert!(!store.catch_up(&mut of_gone), "another pod's");
}

#[test]
fn what_is_forgotten_can_not_be_confirmed() {
    let store = store(Limits::default());
    let old = learn(&store, ip(9), &["a"], &[ip(1)], 60, at(5000));
    let forgotten = store.forget(ip(9), at(4000));
    assert_eq!((forgotten.pod, forgotten.at), (ip(9), at(5000)), "whatever was learned by then");
    assert_eq!((store.len(), store.pods().len()), (0, 0));
    let new = learn(&store, ip(9), &["a"], &[ip(1)], 60, at(5000));
    store.confirm(&old);
    assert_eq!(shown(&learn(&store, ip(9), &["a"], &[ip(1)], 60, at(5000))), shown(&new));
    store.confirm(&new);
    assert!(learn(&store, ip(9), &["a"], &[ip(1)], 60, at(5000)).is_empty());
    assert_eq!(store.forget(ip(7), at(6000)).at, at(6000), "one that nothing is known of");
}

#[test]
fn a_name_of_many_addresses_keeps_those_of_the_newest_answer() {
    let store = store(Limits { addresses_per_name: 3, ..Limits::default() });
    learn(&store, ip(9), &["a"], &[ip(1), ip(2), ip(3)], 3600, at(0));
    let lesson = learn(&store, ip(9), &["a"], &[ip(4), ip(1)], 30, at(0));
    assert_eq!(shown(&lesson), ["192.0.2.1 a!@3600", "192.0.2.4 a!@30"]);
    assert_eq!(lesson.displaced, [Displaced { pod: ip(9), address: ip(2), name: "a".into() }]);
    let lesson = learn(&store, ip(9), &["a"], &[ip(5), ip(6), ip(7), ip(8)], 30, at(0));
    assert_eq!(shown(&lesson), ["192.0.2.5 a!@30", "192.0.2.6 a!@30", "192.0.2.7 a!@30"], "one answer may be more than all");
    assert_eq!(store.metrics.displaced_by(Bound::AddressesPerName), 1 + 3 + 1);
    // Expired ones give way without being counted.
    learn(&store, ip(9), &["a"], &[ip(1), ip(2), ip(3)], 30, at(40_000));
    assert_eq!(store.metrics.displaced_by(Bound::AddressesPerName), 5);
    assert_eq!(store.len(), 3);
}

#[test]
fn a_pod_of_many_names_loses_the_one_that_expires_soonest() {
    let store = store(Limits { names_per_pod: 2, ..Limits::default() });
    learn(&store, ip(9), &["long"], &[ip(1)], 3600, at(0));
    learn(&store, ip(9), &["short"], &[ip(2), ip(3)], 60, at(0));
    let lesson = learn(&store, ip(9), &["new"], &[ip(4)], 30, at(0));
    assert_eq!(lesson.displaced.len(), 2);
    let known: Vec<_> = store.all(at(0)).into_iter().map(|known| known.name.to_string()).collect();
    assert_eq!(known, ["long", "new"]);
    assert_eq!(store.metrics.displaced_by(Bound::NamesPerPod), 2);
    let chain = learn(&store, ip(9), &["asked", "alias", "end"], &[ip(5)], 30, at(0));
    assert_eq!(shown(&chain), ["192.0.2.5 alias!@30 asked!@30"], "the question and what is next to it");
}

#[test]
fn the_pod_with_the_most_gives_way_to_others() {
    let store = store(Limits { total: 10, ..Limits::default() });
    for n in 0..9 {
        learn(&store, ip(100), &[&format!("n{n}")], &[ip(n)], 60 + u32::from(n), at(0));
    }
    learn(&store, ip(101), &["a"], &[ip(1)], 30, at(0));
    let lesson = learn(&store, ip(101), &["b"], &[ip(1), ip(2)], 30, at(0));
    let gone: Vec<_> = lesson.displaced.iter().map(|gone| (gone.pod, &*gone.name)).collect();
    assert_eq!(gone, [(ip(100), "n0"), (ip(100), "n1")]);
    assert_eq!((store.len(), store.metrics.entries.get()), (10, 10));
    assert_eq!(store.metrics.displaced_by(Bound::Total), 2);
    // An answer as large as all that may be is not taken back while it is on its way, but everything else is.
    let many: Vec<_> = (0..12).map(ip).collect();
    let lesson = learn(&store, ip(102), &["c"], &many, 30, at(0));
    assert_eq!((lesson.addresses.len(), store.len()), (12, 12));
    learn(&store, ip(101), &["d"], &[ip(1)], 30, at(0));
    assert_eq!(store.len(), 1);
}

#[test]
fn what_comes_back_is_bounded_like_what_is_learned() {
    let store = store(Limits { names_per_pod: 2, ..Limits::default() });
    let entry = |pod, name: &str, seconds: u64| Entry {
        pod: ip(pod),
        address: ip(1),
        name: name.into(),
        expires: at(seconds * 1000),
        learned: at(0),
    };
    let entries = [entry(8, "a", 1_000_000), entry(9, "over", 10), entry(9, "b", 60), entry(9, "c", 50), entry(9, "d", 70)];
    store.restore(&entries, at(10_000));
    let left: Vec<_> = store.all(at(10_000)).into_iter().map(|known| (known.name.to_string(), known.left.as_secs())).collect();
    assert_eq!(left, [("a".into(), 86_400), ("b".into(), 50), ("d".into(), 60)]);
    assert!(store.of_pod(ip(9), at(10_000)).addresses.iter().all(|learned| learned.names.iter().all(|name| name.is_news)));
}

#[test]
fn many_threads_leave_no_more_than_they_should() {
    let limits = Limits { total: 200, names_per_pod: 20, addresses_per_name: 4, names_per_address: 4, ..Limits::default() };
    let store = store(limits);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..3000u64 {
                    let mix = (n * 7 + thread * 13) % 101;
                    let pod = ip(u8::try_from(200 + mix % 16).unwrap());
                    let name = format!("n{}", mix % 37);
                    let addresses = [ip(u8::try_from(mix % 29).unwrap()), ip(u8::try_from(mix % 31).unwrap())];
                    let lesson = learn(store, pod, &[&name, "alias"], &addresses, 60, at(n * 50));
                    store.confirm(&lesson);
                    store.names_of(pod, addresses[0], at(n * 50));
                    match n % 97 {
                        0 => drop(store.forget(pod, at(n * 50))),
                        1 => store.sweep(at(n * 50)),
                        2 => drop(store.all(at(n * 50))),
                        _ => {}
                    }
                }
            });
        }
    });
    assert!(store.len() <= 200, "{}", store.len());
    assert_eq!(store.len(), store.all(at(0)).len(), "the count is what is there");
    store.sweep(at(100_000_000));
    assert_eq!((store.len(), store.pods().len()), (0, 0));
}

/// The same, as lists that are searched from end to end.
#[derive(Debug, Default)]
struct Model {
    /// Pod, name, the latest expiry of any of its addresses.
    names: Vec<(IpAddr, String, u32)>,
    entries: Vec<Row>,
    /// Pods that have lost something in time, or all: once for each time.
    void: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    pod: IpAddr,
    name: String,
    address: IpAddr,
    expires: u32,
    told: u32,
}

impl Model {
    fn expire(&mut self, now: Moment) {
        self.names.retain(|(_, _, last)| !Tick(*last).is_over(now));
        self.entries.retain(|row| !Tick(row.expires).is_over(now));
    }

    /// Each pair that an answer says, with how long it does.
    fn said<'m>(&'m self, pod: IpAddr, names: &'m [&str], facts: &'m [Fact]) -> impl Iterator<Item = (Option<&'m Row>, u32)> {
        let row = move |name: &str, fact: &Fact| {
            self.entries.iter().find(|row| row.pod == pod && row.name == name && row.address == fact.address)
        };
        facts.iter().flat_map(move |fact| names[..fact.names].iter().map(move |name| (row(name, fact), fact.until.0)))
    }

    /// Whether the kernel holds all that an answer says.
    fn holds(&self, pod: IpAddr, names: &[&str], facts: &[Fact]) -> bool {
        self.said(pod, names, facts).all(|(row, until)| row.is_some_and(|row| row.told >= until))
    }

    /// Whether it would not hold it a tick later, and won't.
    fn is_ending(&self, pod: IpAddr, names: &[&str], facts: &[Fact]) -> bool {
        self.said(pod, names, facts).any(|(row, until)| row.is_none_or(|row| row.expires <= until))
    }

    fn learn(&mut self, pod: IpAddr, names: &[&str], addresses: &[(IpAddr, usize, u32)], now: Moment) {
        self.expire(now);
        let before = self.entries.clone();
        let reached = addresses.iter().map(|(_, links, _)| *links).max().unwrap_or(0);
        let names = &names[..reached.min(SMALL.names_per_pod)];
        let is_new = |model: &Self, name: &str| !model.names.iter().any(|(p, n, _)| *p == pod && n == name);
        let new: Vec<_> = names.iter().filter(|name| is_new(self, name)).collect();
        while self.names.iter().filter(|(p, _, _)| *p == pod).count() + new.len() > SMALL.names_per_pod {
            let others = self.names.iter().filter(|(p, n, _)| *p == pod && !names.contains(&n.as_str()));
            let Some((_, gone, _)) = others.min_by_key(|(_, n, last)| (*last, n.clone())).cloned() else { break };
            self.names.retain(|(p, n, _)| !(*p == pod && *n == gone));
            self.entries.retain(|row| !(row.pod == pod && row.name == gone));
        }
        for name in new {
            self.names.push((pod, (*name).to_string(), 0));
        }
        for (index, name) in names.iter().enumerate() {
            self.learn_name(pod, name, names, addresses.iter().filter(|(_, links, _)| *links > index));
        }
        let lost = before.iter().any(|row| !self.entries.iter().any(|r| r.key() == row.key()));
        if lost {
            self.void.push(pod);
        }
    }

    fn learn_name<'a>(
        &mut self,
        pod: IpAddr,
        name: &str,
        answer: &[&str],
        facts: impl Iterator<Item = &'a (IpAddr, usize, u32)>,
    ) {
        let mut wanted: Vec<(IpAddr, u32)> = Vec::new();
        for (address, _, expires) in facts {
            match wanted.iter_mut().find(|(a, _)| a == address) {
                Some((_, e)) => *e = (*e).max(*expires),
                None => wanted.push((*address, *expires)),
            }
        }
        wanted.truncate(SMALL.addresses_per_name);
        wanted.sort();
        let latest = wanted.iter().map(|(_, e)| *e).max().unwrap_or(0);
        let (_, _, last) = self.names.iter_mut().find(|(p, n, _)| *p == pod && n == name).unwrap();
        *last = (*last).max(latest);
        let mut new = Vec::new();
        for (address, expires) in &wanted {
            match self.entries.iter_mut().find(|r| r.pod == pod && r.name == name && r.address == *address) {
                Some(row) => row.expires = row.expires.max(*expires),
                None => new.push((*address, *expires)),
            }
        }
        while self.entries.iter().filter(|r| r.pod == pod && r.name == name).count() + new.len() > SMALL.addresses_per_name {
            let others = self.entries.iter().filter(|r| r.pod == pod && r.name == name);
            let others = others.filter(|r| !wanted.iter().any(|(a, _)| *a == r.address));
            let Some(gone) = others.min_by_key(|r| (r.expires, r.address)).cloned() else { break };
            self.entries.retain(|r| *r != gone);
        }
        for (address, expires) in new {
            let there: Vec<Row> = self.entries.iter().filter(|r| r.pod == pod && r.address == address).cloned().collect();
            if there.len() >= SMALL.names_per_address {
                let others = there.iter().filter(|r| !answer.contains(&r.name.as_str()));
                let Some(gone) = others.min_by_key(|r| (r.expires, r.name.clone())) else { continue };
                self.entries.retain(|r| r != gone);
            }
            self.entries.push(Row { pod, name: name.to_owned(), address, expires, told: 0 });
        }
    }

    fn of_pod(&self, pod: IpAddr, only: Option<&[IpAddr]>) -> Vec<String> {
        let rows = || self.entries.iter().filter(|row| row.pod == pod);
        let addresses: HashSet<IpAddr> = rows().map(|row| row.address).collect();
        let has_news = |a: &&IpAddr| rows().any(|row| row.address == **a && row.told < row.expires);
        let chosen = addresses.iter().filter(|a| only.is_none_or(|only| only.contains(a) && has_news(a)));
        let line = |address: &IpAddr| {
            let mut names: Vec<_> = rows()
                .filter(|row| row.address == *address)
                .map(|row| format!("{}{}@{}", row.name, if row.told < row.expires { "!" } else { "" }, until(row.expires)))
                .collect();
            names.sort();
            format!("{address} {}", names.join(" "))
        };
        let mut all: Vec<_> = chosen.map(line).collect();
        all.sort();
        all
    }

    fn losses(&self, pod: IpAddr) -> usize {
        self.void.iter().filter(|p| **p == pod).count()
    }
}

impl Row {
    fn key(&self) -> (IpAddr, &str, IpAddr) {
        (self.pod, &self.name, self.address)
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The pod, the first of its names, and addresses: each of how many names, and its TTL.
    Learn(u8, usize, Vec<(u8, usize, u32)>),
    /// One of the lessons so far.
    Confirm(prop::sample::Index),
    Forget(u8),
    Sweep,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let address = (0u8..7, 1usize..4, prop_oneof![Just(0u32), 1..30u32, Just(u32::MAX)]);
    let step = prop_oneof![
        8 => (100u8..102, 0usize..7, prop::collection::vec(address, 1..6)).prop_map(|(pod, name, list)| Step::Learn(pod, name, list)),
        5 => any::<prop::sample::Index>().prop_map(Step::Confirm),
        1 => (100u8..102).prop_map(Step::Forget),
        1 => Just(Step::Sweep),
        3 => prop_oneof![0u64..8000, 0u64..600].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_store_does_what_the_list_does(steps in steps()) {
        let store = store(SMALL);
        let mut model = Model::default();
        let mut millis = 0;
        let mut lessons: Vec<(Lesson, usize)> = Vec::new();
        for step in steps {
            let now = at(millis);
            match step {
                Step::Wait(more) => millis += more,
                Step::Sweep => {
                    store.sweep(now);
                    model.expire(now);
                    let Model { names, entries, .. } = &mut model;
                    names.retain(|(pod, name, _)| entries.iter().any(|row| row.pod == *pod && row.name == *name));
                }
                Step::Forget(pod) => {
                    store.forget(ip(pod), now);
                    model.entries.retain(|row| row.pod != ip(pod));
                    model.names.retain(|(p, _, _)| *p != ip(pod));
                    model.void.push(ip(pod));
                }
                Step::Learn(pod, first, list) => {
                    let names = &NAMES[first..(first + 3).min(NAMES.len())];
                    let facts: Vec<_> = list
                        .iter()
                        .map(|(a, links, ttl)| store.fact(ip(*a), (*links).min(names.len()), *ttl, now))
                        .collect();
                    let lesson = store.learn_facts(ip(pod), names, &facts, now);
                    model.expire(now);
                    let holds = model.holds(ip(pod), names, &facts);
                    prop_assert_eq!(lesson.prolongs, holds && model.is_ending(ip(pod), names, &facts));
                    if holds && !lesson.prolongs {
                        prop_assert!(lesson.is_empty() && lesson.displaced.is_empty());
                    } else {
                        let rows: Vec<_> = facts.iter().map(|fact| (fact.address, fact.names, fact.expires.0)).collect();
                        model.learn(ip(pod), names, &rows, now);
                        let asked: Vec<_> = rows.iter().map(|(address, _, _)| *address).collect();
                        prop_assert_eq!(shown(&lesson), model.of_pod(ip(pod), Some(&asked)));
                    }
                    let losses = model.losses(ip(pod));
                    prop_assert_eq!(lesson.displaced.iter().all(|gone| gone.pod == ip(pod)), true);
                    lessons.push((lesson, losses));
                }
                Step::Confirm(index) if !lessons.is_empty() => {
                    let (lesson, losses) = index.get(&lessons);
                    store.confirm(lesson);
                    if model.losses(lesson.pod) == *losses {
                        for learned in &lesson.addresses {
                            for name in learned.names.iter().filter(|name| name.is_news) {
                                let same = |r: &&mut Row| r.pod == lesson.pod && r.address == learned.address && *r.name == *name.name;
                                if let Some(row) = model.entries.iter_mut().find(same) {
                                    row.told = row.told.max(Tick::not_before(name.expires).0);
                                }
                            }
                        }
                    }
                }
                Step::Confirm(_) => {}
            }
            let now = at(millis);
            model.expire(now);
            for pod in [ip(100), ip(101)] {
                prop_assert_eq!(shown(&store.of_pod(pod, now)), model.of_pod(pod, None));
                for address in (0..7).map(ip) {
                    let mut names: Vec<_> = store.names_of(pod, address, now).iter().map(ToString::to_string).collect();
                    let mut expected: Vec<_> = model.entries.iter().filter(|r| r.pod == pod && r.address == address).map(|r| r.name.clone()).collect();
                    names.sort();
                    expected.sort();
                    prop_assert_eq!(names, expected);
                }
            }
            prop_assert_eq!(store.all(now).len(), model.entries.len());
            prop_assert!(store.len() >= model.entries.len());
        }
        store.sweep(at(millis));
        model.expire(at(millis));
        prop_assert_eq!(store.len(), model.entries.len());
    }
}
