use std::fmt::Write as _;

use hickory_proto::op::{Edns as Opt, Message, OpCode, ResponseCode};
use hickory_proto::rr::DNSClass;
use proptest::prelude::*;

use super::super::MOST_ALIASES;
use super::super::sample::{answer, ask, bytes, query, record};
use super::*;

/// The names in order, then each address with its TTL and how many names lead to it.
fn told(answer: &Answer) -> String {
    let mut text = answer.names.join(" ");
    if answer.truncated {
        text.push_str(" cut");
    }
    if answer.rcode != Rcode::NO_ERROR {
        write!(text, " {}", answer.rcode).unwrap();
    }
    for address in &answer.addresses {
        write!(text, " | {} {} {}", address.ip, address.ttl_seconds, answer.names_of(address).len()).unwrap();
    }
    text
}

fn learned(question: &str, message: &Message) -> String {
    told(&believe(&query(question), &bytes(message)).unwrap())
}

fn check(rows: &[(&str, &str, &[&str], &str)]) {
    for (what, question, lines, wanted) in rows {
        assert_eq!(learned(question, &answer(question, lines)), *wanted, "{what}");
    }
}

#[test]
fn addresses_are_learned_along_the_chain() {
    check(&[
        ("one", "A w.org", &["w.org 60 A 192.0.2.1"], "w.org | 192.0.2.1 60 1"),
        ("several", "A w.org", &["w.org 60 A 192.0.2.1", "w.org 60 A 192.0.2.2"], "w.org | 192.0.2.1 60 1 | 192.0.2.2 60 1"),
        ("of IPv6", "AAAA w.org", &["w.org 60 AAAA 2001:db8::1"], "w.org | 2001:db8::1 60 1"),
        ("in another case", "A w.org", &["W.Org 60 A 192.0.2.1"], "w.org | 192.0.2.1 60 1"),
        ("an alias", "A w.org", &["w.org 30 CNAME Lb.net", "lb.net 60 A 192.0.2.1"], "w.org lb.net | 192.0.2.1 30 2"),
        (
            "three, backwards",
            "A w.org",
            &["c.net 9 A 192.0.2.1", "b.net 50 CNAME c.net", "a.net 7 CNAME b.net", "w.org 60 CNAME a.net"],
            "w.org a.net b.net c.net | 192.0.2.1 7 4",
        ),
        ("the same twice", "A w.org", &["w.org 60 A 192.0.2.1", "w.org 20 A 192.0.2.1"], "w.org | 192.0.2.1 20 1"),
        ("no data", "A w.org", &[], "w.org"),
        ("an alias without data", "A w.org", &["w.org 30 CNAME lb.net"], "w.org lb.net"),
        (
            "at a name with an alias",
            "A w.org",
            &["w.org 60 A 192.0.2.1", "w.org 30 CNAME lb.net", "lb.net 5 A 192.0.2.2"],
            "w.org lb.net | 192.0.2.1 60 1 | 192.0.2.2 5 2",
        ),
        ("a TTL that can't be", "A w.org", &["w.org 2147483648 A 192.0.2.1"], "w.org | 192.0.2.1 0 1"),
        ("the longest", "A w.org", &["w.org 2147483647 A 192.0.2.1"], "w.org | 192.0.2.1 2147483647 1"),
        (
            "an alias whose TTL can't be",
            "A w.org",
            &["w.org 4294967295 CNAME lb.net", "lb.net 60 A 192.0.2.1"],
            "w.org lb.net | 192.0.2.1 0 2",
        ),
    ]);
}

#[test]
fn foreign_records_teach_nothing() {
    check(&[
        ("of another name", "A w.org", &["x.org 60 A 192.0.2.1"], "w.org"),
        ("of a name above", "A w.org", &["org 60 A 192.0.2.1"], "w.org"),
        ("of a name below", "A w.org", &["a.w.org 60 A 192.0.2.1"], "w.org"),
        ("behind a foreign alias", "A w.org", &["x.org 60 CNAME w.org", "x.org 60 A 192.0.2.1"], "w.org"),
        ("a chain that isn't asked", "A w.org", &["x.org 60 CNAME y.org", "y.org 60 A 192.0.2.1"], "w.org"),
        ("of the other family", "A w.org", &["w.org 60 AAAA 2001:db8::1"], "w.org"),
        ("of the other family", "AAAA w.org", &["w.org 60 A 192.0.2.1"], "w.org"),
        ("beside the answer", "A w.org", &["+w.org 60 A 192.0.2.1"], "w.org"),
        ("an alias beside it", "A w.org", &["+w.org 60 CNAME x.org", "x.org 60 A 192.0.2.1"], "w.org"),
        ("a hint", "A w.org", &["w.org 60 HTTPS 1 . 192.0.2.1"], "w.org"),
        ("to any type", "ANY w.org", &["w.org 60 A 192.0.2.1", "w.org 60 AAAA 2001:db8::1"], "w.org"),
        ("to a text", "TXT w.org", &["w.org 60 TXT v=spf1", "w.org 60 A 192.0.2.1"], "w.org"),
        ("to an alias", "CNAME w.org", &["w.org 60 CNAME lb.net", "lb.net 60 A 192.0.2.1"], "w.org lb.net"),
    ]);
    // A dot in a label makes it another name.
    let mut message = answer("A x.example.org", &[]);
    let mut foreign = record("www.example.org 60 A 192.0.2.1");
    foreign.name = hickory_proto::rr::Name::from_labels(["x.example".as_bytes(), b"org"]).unwrap();
    message.add_answer(foreign);
    assert_eq!(learned("A x.example.org", &message), "x.example.org");
}

#[test]
fn chains_without_an_end_lead_nowhere() {
    check(&[
        ("to itself", "A w.org", &["w.org 60 CNAME w.org"], "w.org"),
        ("a loop", "A w.org", &["w.org 60 CNAME a.net", "a.net 60 CNAME w.org", "x.net 60 A 192.0.2.1"], "w.org a.net"),
        (
            "a loop further on",
            "A w.org",
            &["w.org 60 CNAME a.net", "a.net 60 CNAME b.net", "b.net 60 CNAME A.net"],
            "w.org a.net b.net",
        ),
        (
            "two ways",
            "A w.org",
            &["w.org 60 CNAME a.net", "w.org 60 CNAME b.net", "a.net 60 A 192.0.2.1", "b.net 60 A 192.0.2.2"],
            "w.org",
        ),
        (
            "the same way twice",
            "A w.org",
            &["w.org 60 CNAME a.net", "w.org 40 CNAME A.net", "a.net 90 A 192.0.2.1"],
            "w.org a.net | 192.0.2.1 40 2",
        ),
    ]);
    let links = |count: usize| -> String {
        let mut lines: Vec<String> = (0..count).map(|at| format!("n{at}.org 60 CNAME n{}.org", at + 1)).collect();
        lines.push(format!("n{count}.org 60 A 192.0.2.1"));
        learned("A n0.org", &answer("A n0.org", &lines.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    assert!(links(MOST_ALIASES).ends_with("n15.org n16.org | 192.0.2.1 60 17"));
    assert!(links(MOST_ALIASES + 1).ends_with("n15.org n16.org"));
}

#[test]
fn bindings_of_services_teach_their_hints() {
    check(&[
        (
            "both families",
            "HTTPS w.org",
            &["w.org 60 HTTPS 1 . 192.0.2.1 192.0.2.2 2001:db8::1"],
            "w.org | 192.0.2.1 60 1 | 192.0.2.2 60 1 | 2001:db8::1 60 1",
        ),
        ("of another target", "HTTPS w.org", &["w.org 60 HTTPS 1 s.net 192.0.2.1"], "w.org | 192.0.2.1 60 1"),
        (
            "an alias, whose records are beside it",
            "HTTPS w.org",
            &["w.org 50 HTTPS 0 s.net", "+s.net 60 HTTPS 1 . 192.0.2.1", "+s.net 40 AAAA 2001:db8::1", "+s.net 90 A 192.0.2.2"],
            "w.org s.net | 2001:db8::1 40 2 | 192.0.2.2 50 2 | 192.0.2.1 50 2",
        ),
        (
            "a canonical name, then an alias",
            "HTTPS w.org",
            &["w.org 50 CNAME a.net", "a.net 60 HTTPS 0 s.net", "s.net 60 HTTPS 1 . 192.0.2.1"],
            "w.org a.net s.net | 192.0.2.1 50 3",
        ),
        ("beside, of its own name", "HTTPS w.org", &["w.org 60 HTTPS 1 .", "+w.org 9 A 192.0.2.1"], "w.org | 192.0.2.1 9 1"),
        ("beside, of a target", "HTTPS w.org", &["w.org 60 HTTPS 1 s.net", "+s.net 9 A 192.0.2.1"], "w.org"),
        ("an alias to itself", "HTTPS w.org", &["w.org 60 HTTPS 0 w.org"], "w.org"),
        ("an alias to nothing", "HTTPS w.org", &["w.org 60 HTTPS 0 ."], "w.org"),
        ("hints of an alias", "HTTPS w.org", &["w.org 60 HTTPS 0 s.net 192.0.2.1"], "w.org s.net"),
        (
            "an alias takes the say",
            "HTTPS w.org",
            &["w.org 60 HTTPS 1 . 192.0.2.1", "w.org 60 HTTPS 0 s.net", "s.net 60 HTTPS 1 . 192.0.2.2"],
            "w.org s.net | 192.0.2.2 60 2",
        ),
        (
            "two aliases",
            "HTTPS w.org",
            &["w.org 60 HTTPS 0 s.net", "w.org 60 HTTPS 0 t.net", "s.net 60 HTTPS 1 . 192.0.2.1"],
            "w.org",
        ),
        ("of the other kind", "HTTPS w.org", &["w.org 60 SVCB 1 . 192.0.2.1"], "w.org"),
        ("of the other kind", "SVCB w.org", &["w.org 60 HTTPS 1 . 192.0.2.1"], "w.org"),
        ("any service", "SVCB w.org", &["w.org 60 SVCB 1 . 192.0.2.1"], "w.org | 192.0.2.1 60 1"),
        ("foreign", "HTTPS w.org", &["x.org 60 HTTPS 1 . 192.0.2.1", "+x.org 60 A 192.0.2.1"], "w.org"),
    ]);
}

#[test]
fn only_what_went_well_teaches() {
    let lines = ["w.org 30 CNAME lb.net", "lb.net 60 A 192.0.2.1"];
    for code in [ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::Refused] {
        let mut message = answer("A w.org", &lines);
        message.metadata.response_code = code;
        assert_eq!(learned("A w.org", &message), format!("w.org lb.net {}", Rcode(code.into())));
    }
    // Of this one, the header alone says that all went well.
    let mut message = answer("A w.org", &lines);
    message.metadata.response_code = ResponseCode::BADVERS;
    message.set_edns(Opt::new());
    assert_eq!(bytes(&message)[3] & 0xf, 0);
    assert_eq!(learned("A w.org", &message), "w.org lb.net BADVERS");
}

#[test]
fn a_cut_answer_teaches_nothing_and_is_handed_on() {
    let mut message = answer("A w.org", &["w.org 30 A 192.0.2.1"]);
    message.metadata.truncation = true;
    let wire = bytes(&message);
    // Some servers cut in the middle of a record.
    for end in [wire.len(), wire.len() - 3, wire.len() - 16] {
        assert_eq!(told(&believe(&query("A w.org"), &wire[..end]).unwrap()), "w.org cut");
    }
    message.metadata.response_code = ResponseCode::NXDomain;
    assert_eq!(learned("A w.org", &message), "w.org cut NXDOMAIN");
}

#[test]
fn another_class_is_another_world() {
    let mut message = answer("A w.org", &["w.org 30 A 192.0.2.1", "w.org 30 A 192.0.2.2"]);
    message.answers[0].dns_class = DNSClass::CH;
    assert_eq!(learned("A w.org", &message), "w.org | 192.0.2.2 30 1");
    message.answers[1].dns_class = DNSClass::ANY;
    assert_eq!(learned("A w.org", &message), "w.org");
    let mut message = answer("A w.org", &["w.org 30 CNAME lb.net", "lb.net 30 A 192.0.2.1"]);
    message.answers[0].dns_class = DNSClass::Unknown(0x8001);
    assert_eq!(learned("A w.org", &message), "w.org");
}

#[test]
fn what_belongs_to_another_question_is_not_believed() {
    let asked = query("A w.org");
    let reason = |change: fn(&mut Message)| {
        let mut message = answer("A w.org", &["w.org 60 A 192.0.2.1"]);
        change(&mut message);
        believe(&asked, &bytes(&message)).unwrap_err().to_string()
    };
    assert_eq!(reason(|message| message.metadata.id ^= 1), "id 10774, where 10775 was asked");
    assert_eq!(reason(|message| *message = ask("A w.org")), "a query, where an answer belongs");
    assert_eq!(reason(|message| message.metadata.op_code = OpCode::Status), "opcode 2, where 0 was asked");
    let other = "another question than the one that was asked";
    assert_eq!(reason(|message| message.queries = answer("AAAA w.org", &[]).queries), other);
    assert_eq!(reason(|message| message.queries = answer("A x.org", &[]).queries), other);
    assert_eq!(reason(|message| message.queries = answer("A w.orgs", &[]).queries), other);
    assert_eq!(
        reason(|message| {
            message.queries[0].set_query_class(DNSClass::CH);
        }),
        other
    );
    assert_eq!(reason(|message| message.queries.clear()), other);
    assert_eq!(reason(|message| message.queries.push(message.queries[0].clone())), other);
    assert_eq!(believe(&asked, &[0x2a]).unwrap_err().to_string(), "1 bytes are less than a header");

    // 0x20: the letters' case may come back as it was, or not.
    let mut message = answer("A w.org", &["w.org 60 A 192.0.2.1"]);
    message.queries = answer("A W.oRg", &[]).queries;
    assert_eq!(learned("A w.org", &message), "w.org | 192.0.2.1 60 1");
    assert_eq!(told(&believe(&query("A W.ORG"), &bytes(&message)).unwrap()), "w.org | 192.0.2.1 60 1");
}

#[test]
fn what_cannot_be_read_to_its_end_is_not_believed() {
    let asked = query("A w.org");
    let whole = bytes(&answer("A w.org", &["w.org 60 A 192.0.2.1", "w.org 60 A 192.0.2.2"]));
    let question_end = 12 + asked.question.len();
    for end in question_end..whole.len() {
        assert!(matches!(believe(&asked, &whole[..end]), Err(NotBelieved::Unreadable(_))), "{end}");
    }
    for end in 0..question_end {
        assert!(!matches!(believe(&asked, &whole[..end]), Ok(_) | Err(NotBelieved::Unreadable(_))), "{end}");
    }
    // Owners that point to themselves, forward, and into nothing.
    for target in [question_end, question_end + 1, 0x3fff] {
        let mut message = whole.clone();
        let [high, low] = u16::try_from(0xc000 | target).unwrap().to_be_bytes();
        message[question_end..question_end + 2].copy_from_slice(&[high, low]);
        assert!(matches!(believe(&asked, &message), Err(NotBelieved::Unreadable(_))), "{target}");
    }
    // An address of five bytes.
    let mut message = whole.clone();
    message.splice(whole.len() - 6..whole.len() - 4, [0, 5]);
    message.push(0);
    assert!(matches!(believe(&asked, &message), Err(NotBelieved::Unreadable(_))));
}

#[test]
fn very_many_records_are_bounded() {
    let asked = query("A w.org");
    let with = |count: u16| {
        let mut message = bytes(&answer("A w.org", &[]));
        message[6..8].copy_from_slice(&count.to_be_bytes());
        for number in 0..count {
            let [high, low] = number.to_be_bytes();
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, high, low]);
        }
        message
    };
    let all = with(4090);
    assert!(all.len() < 65_536);
    assert_eq!(believe(&asked, &all).unwrap().addresses.len(), 4090);
    assert!(matches!(believe(&asked, &with(4097)), Err(NotBelieved::TooManyRecords(4097))));
    // A count costs nothing by itself.
    let mut message = with(1);
    message[6..8].copy_from_slice(&4096_u16.to_be_bytes());
    assert!(matches!(believe(&asked, &message), Err(NotBelieved::Unreadable(_))));

    let hints: Vec<String> = (0..5000).map(|number: u32| std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string()).collect();
    let message = answer("HTTPS w.org", &[&format!("w.org 60 HTTPS 1 . {}", hints.join(" "))]);
    let answer = believe(&query("HTTPS w.org"), &bytes(&message)).unwrap();
    assert_eq!((answer.addresses.len(), answer.left_out), (MOST_ADDRESSES, 5000 - MOST_ADDRESSES));
}

/// Seconds of work for each message, if it were read.
#[test]
fn names_that_point_on_and_on_are_bounded() {
    let asked = query("A w.org");
    let row = |count: u16| {
        let mut message = bytes(&answer("A w.org", &[]));
        message[7] = 2;
        // A record of type NULL with the row in it, and one whose owner is its end.
        message.extend([0, 0, 10, 0, 1, 0, 0, 0, 60]);
        message.extend((2 * count + 1).to_be_bytes());
        let mut last = message.len();
        message.push(0);
        for _ in 0..count {
            let pointer = 0xc000 | u16::try_from(last).unwrap();
            last = message.len();
            message.extend(pointer.to_be_bytes());
        }
        message.extend(
            [(0xc000 | u16::try_from(last).unwrap()).to_be_bytes().as_slice(), &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 1, 1, 1]]
                .concat(),
        );
        message
    };
    assert!(believe(&asked, &row(15)).is_ok());
    assert!(matches!(believe(&asked, &row(16)), Err(NotBelieved::TooManyPointers(17))));
    assert!(matches!(believe(&asked, &row(8000)), Err(NotBelieved::TooManyPointers(8001))));
    // Names below names below names, each of which points to the one before, are in real answers.
    let lines: Vec<String> = (1..=10).map(|depth| format!("{}org 60 A 192.0.2.1", "a.".repeat(depth))).collect();
    let nested = answer("A w.org", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(learned("A w.org", &nested), "w.org");
}

#[test]
fn strangers_write_nothing_to_the_log() {
    let log = tempfile::tempfile().unwrap();
    let writer = std::sync::Mutex::new(log.try_clone().unwrap());
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(writer).finish();
    let written = || log.metadata().unwrap().len();
    let mut message = bytes(&answer("A w.org", &["w.org 60 A 192.0.2.1"]));
    message[11] = 1;
    // Options that end in the middle.
    message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 6, 0, 3, 0, 5, 1, 2]);
    tracing::subscriber::with_default(subscriber, || {
        Message::from_vec(&message).unwrap();
        let by_the_parser = written();
        assert!(by_the_parser > 0, "the parser has nothing to say of it");
        assert_eq!(told(&believe(&query("A w.org"), &message).unwrap()), "w.org | 192.0.2.1 60 1");
        assert_eq!(written(), by_the_parser);
    });
}

#[test]
fn the_least_ttl_is_that_of_all_it_says() {
    let rows: [(&str, &[&str], Option<u32>); 4] = [
        ("A w.org", &["w.org 60 A 192.0.2.1", "w.org 50 A 192.0.2.2"], Some(50)),
        ("A w.org", &["w.org 40 CNAME lb.net", "lb.net 60 A 192.0.2.1"], Some(40)),
        ("A w.org", &["w.org 40 CNAME lb.net"], Some(40)),
        ("A w.org", &[], None),
    ];
    for (question, lines, wanted) in rows {
        assert_eq!(believe(&query(question), &bytes(&answer(question, lines))).unwrap().ttl_seconds, wanted, "{lines:?}");
    }
}

#[test]
fn what_is_no_look_up_is_matched_and_unread() {
    let transfer = query("AXFR example.org");
    let message = bytes(&answer("AXFR example.org", &["example.org 60 A 192.0.2.1"]));
    assert_eq!(told(&believe(&transfer, &message).unwrap()), "example.org");
    // Further messages of a transfer have no question.
    let mut next = answer("AXFR example.org", &["a.example.org 60 A 192.0.2.1"]);
    next.queries.clear();
    assert_eq!(told(&believe(&transfer, &bytes(&next)).unwrap()), "example.org");
    let other = bytes(&answer("AXFR example.net", &[]));
    assert!(matches!(believe(&transfer, &other), Err(NotBelieved::OtherQuestion)));
}

/// Lines of zones in which names often meet.
fn lines() -> impl Strategy<Value = Vec<String>> {
    let name = || prop::sample::select(&["w.org", "a.net", "b.net", "c.net"][..]);
    let line = (name(), 0_u32..100, 0_u8..6, name(), 1_u8..5).prop_map(|(owner, ttl, kind, target, number)| {
        let data = match kind {
            0 | 1 => format!("CNAME {target}"),
            2 => format!("A 192.0.2.{number}"),
            3 => format!("AAAA 2001:db8::{number}"),
            4 => format!("HTTPS 0 {target}"),
            _ => format!("HTTPS 1 . 192.0.2.{number}"),
        };
        format!("{owner} {ttl} {data}")
    });
    prop::collection::vec(line, 0..8)
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(rest in prop::collection::vec(any::<u8>(), 0..200), answers in 0_u8..4) {
        let asked = query("A w.org");
        let mut message = bytes(&answer("A w.org", &[]));
        message[7] = answers;
        message.extend(&rest);
        let _ = believe(&asked, &message);
        let _ = believe(&asked, &rest);
    }

    /// A byte that is another anywhere in an answer makes it unbelieved, or leaves it the question's.
    #[test]
    fn a_changed_answer_teaches_no_other_name(at in 0_usize..60, to in any::<u8>()) {
        let asked = query("A w.org");
        let mut message = bytes(&answer("A w.org", &["w.org 30 CNAME lb.net", "lb.net 60 A 192.0.2.1"]));
        let length = message.len();
        message[at % length] = to;
        if let Ok(answer) = believe(&asked, &message) {
            prop_assert_eq!(&answer.names[0], "w.org");
        }
    }

    #[test]
    fn another_question_is_never_believed(
        name in "[a-c]{1,2}\\.org",
        other in "[a-c]{1,2}\\.org",
        record_type in 0_usize..3,
        other_type in 0_usize..3,
        id in prop::option::of(any::<u16>()),
    ) {
        let types = ["A", "AAAA", "HTTPS"];
        let asked = query(&format!("{} {name}", types[record_type]));
        let mut message = answer(&format!("{} {other}", types[other_type]), &["a.org 60 A 192.0.2.1"]);
        message.metadata.id = id.unwrap_or(message.metadata.id);
        let same = name == other && record_type == other_type && message.metadata.id == asked.id;
        prop_assert_eq!(believe(&asked, &bytes(&message)).is_ok(), same);
    }

    /// Records say what they say in any order.
    #[test]
    fn the_order_of_records_says_nothing(lines in lines(), swaps in prop::collection::vec((0_usize..8, 0_usize..8), 0..8), https in any::<bool>()) {
        let question = if https { "HTTPS w.org" } else { "A w.org" };
        let sorted = |lines: &[String]| {
            let message = answer(question, &lines.iter().map(String::as_str).collect::<Vec<_>>());
            let mut answer = believe(&query(question), &bytes(&message)).unwrap();
            answer.addresses.sort_by_key(|address| (address.ip, address.links));
            answer
        };
        let mut shuffled = lines.clone();
        for (one, other) in swaps {
            if one < lines.len() && other < lines.len() {
                shuffled.swap(one, other);
            }
        }
        prop_assert_eq!(sorted(&lines), sorted(&shuffled));
    }

    /// Each address is the data of a record whose owner the question leads to by aliases of the message.
    #[test]
    fn an_address_is_reached_from_the_question(lines in lines()) {
        let message = answer("A w.org", &lines.iter().map(String::as_str).collect::<Vec<_>>());
        let answer = believe(&query("A w.org"), &bytes(&message)).unwrap();
        let has = |owner: &str, data: &str| {
            lines.iter().any(|line| line.starts_with(&format!("{owner} ")) && line.ends_with(&format!(" {data}")))
        };
        for pair in answer.names.windows(2) {
            prop_assert!(has(&pair[0], &format!("CNAME {}", pair[1])), "{:?}", lines);
        }
        for address in &answer.addresses {
            let owner = answer.names_of(address).last().unwrap();
            prop_assert!(has(owner, &format!("A {}", address.ip)), "{:?}", lines);
        }
    }
}
