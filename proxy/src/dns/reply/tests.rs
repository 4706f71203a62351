use hickory_proto::op::{Edns as Opt, Message, OpCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use proptest::prelude::*;

use super::super::sample::{ask, bytes};
use super::super::{Malformed, believe};
use super::*;

fn query(question: &str, edns: Option<(u16, bool)>) -> (Query, Vec<u8>) {
    let mut message = ask(question);
    if let Some((size, dnssec_ok)) = edns {
        let mut opt = Opt::new();
        opt.set_max_payload(size).set_dnssec_ok(dnssec_ok);
        message.set_edns(opt);
    }
    let wire = bytes(&message);
    (Query::read(&wire).unwrap(), wire)
}

/// The extended error of an answer: its code and text.
fn extended(message: &Message) -> Option<(u16, String)> {
    let option = message.edns.as_ref()?.option(EdnsCode::from(15))?;
    let EdnsOption::Unknown(_, data) = option else { panic!("{option:?}") };
    let (code, text) = data.split_first_chunk().unwrap();
    Some((u16::from_be_bytes(*code), String::from_utf8(text.to_vec()).unwrap()))
}

const POLICY: &str = "SluiceNetworkPolicy production/backend: no rule allows this name";

#[test]
fn each_answer_says_what_it_is() {
    let (with, _) = query("A Api.GitHub.com", Some((4096, true)));
    let (without, _) = query("A Api.GitHub.com", None);
    type Make = fn(&Query) -> Vec<u8>;
    let rows: [(&str, Make, u16, (u16, &str)); 5] = [
        ("denied", |query| refusal(query, DenyWith::Refused, Some(POLICY)), 5, (18, POLICY)),
        ("denied as unknown", |query| refusal(query, DenyWith::NxDomain, Some(POLICY)), 3, (18, POLICY)),
        ("denied without a word", |query| refusal(query, DenyWith::default(), None), 5, (18, "")),
        ("a search suffix", no_such_name, 3, (18, "an allowed name with a search suffix behind it")),
        (
            "nobody answers",
            |query| failure(query, ExtendedError::NoReachableAuthority, Some("10.96.0.10:53 is silent")),
            2,
            (22, "10.96.0.10:53 is silent"),
        ),
    ];
    for (what, make, rcode, (code, text)) in rows {
        let answer = Message::from_vec(&make(&with)).unwrap();
        assert_eq!(u16::from(answer.metadata.response_code), rcode, "{what}");
        assert_eq!(extended(&answer), Some((code, text.to_owned())), "{what}");
        let edns = answer.edns.unwrap();
        assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1232, 0, true), "{what}");

        let plain = make(&without);
        assert_eq!(plain.len(), 12 + without.question.len(), "{what}");
        let answer = Message::from_vec(&plain).unwrap();
        assert_eq!((u16::from(answer.metadata.response_code), answer.edns), (rcode, None), "{what}");
    }
    let network = failure(&with, ExtendedError::NetworkError, None);
    assert_eq!(extended(&Message::from_vec(&network).unwrap()), Some((23, String::new())));
}

#[test]
fn an_answer_is_that_of_its_query() {
    let (with, wire) = query("AAAA wWw.eXample.ORG", Some((1400, false)));
    let made = refusal(&with, DenyWith::Refused, Some(POLICY));
    // Id, then response, query and recursion desired, then recursion available and refused.
    assert_eq!(made[..12], [0x2a, 0x17, 0x81, 0x85, 0, 1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(made[12..12 + with.question.len()], wire[12..12 + with.question.len()]);
    assert!(!Message::from_vec(&made).unwrap().edns.unwrap().flags().dnssec_ok);

    // What a client sets of the other bits doesn't come back, but that it checks by itself.
    let mut message = ask("A www.example.org");
    message.metadata.recursion_desired = false;
    message.metadata.checking_disabled = true;
    message.metadata.authentic_data = true;
    message.metadata.authoritative = true;
    message.metadata.truncation = true;
    let made = refusal(&Query::read(&bytes(&message)).unwrap(), DenyWith::Refused, None);
    assert_eq!(made[2..4], [0x80, 0x95]);
}

#[test]
fn other_operations_are_refused_as_what_they_are() {
    let mut message = ask("SOA example.org");
    message.metadata.op_code = OpCode::Notify;
    let query = Query::read(&bytes(&message)).unwrap();
    let made = refusal(&query, DenyWith::NxDomain, Some(POLICY));
    let answer = Message::from_vec(&made).unwrap();
    assert_eq!((answer.metadata.op_code, u16::from(answer.metadata.response_code)), (OpCode::Notify, 5));
    assert_eq!(answer.queries.len(), 1);

    // A stateful operation has no question to give back (RFC 8490 section 5.4).
    let query = Query::read(&[0, 7, 6 << 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(refusal(&query, DenyWith::Refused, Some(POLICY)), [0, 7, 0x80 | 6 << 3, 0x85, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn what_cannot_be_read_is_told_so_if_it_may_be() {
    let (_, wire) = query("A www.example.org", None);
    let cut = &wire[..20];
    assert!(matches!(Query::read(cut), Err(Malformed::Form(_))));
    let answer = unreadable(cut).unwrap();
    assert_eq!(answer, [0x2a, 0x17, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(unreadable(&wire[..11]), None);
    // Two that answered each other's answers would never end.
    assert_eq!(unreadable(&answer), None);
}

#[test]
fn a_text_is_cut_between_characters() {
    let text = "€".repeat(1000);
    for (size, most) in [(512, 512), (513, 513), (514, 514), (1231, 1231), (1232, 1232), (4096, 1232)] {
        let (query, _) = query("A www.example.org", Some((size, false)));
        let made = refusal(&query, DenyWith::Refused, Some(&text));
        // The last character didn't fit whole.
        assert!(made.len() <= most && made.len() + 3 > most, "{size}: {}", made.len());
        let (_, said) = extended(&Message::from_vec(&made).unwrap()).unwrap();
        assert!(said.len() > 400 && text.starts_with(&said), "{size}");
    }
}

proptest! {
    #[test]
    fn an_answer_fits_and_belongs_to_its_query(
        name in "[a-zA-Z]{1,63}(\\.[a-zA-Z0-9]{1,40}){0,4}",
        edns in prop::option::of((any::<u16>(), any::<bool>())),
        id in any::<u16>(),
        text in prop::option::of("\\PC{0,500}"),
        nx_domain in any::<bool>(),
    ) {
        let (_, mut wire) = query(&format!("A {name}"), edns);
        wire[..2].copy_from_slice(&id.to_be_bytes());
        let query = Query::read(&wire).unwrap();
        let with = if nx_domain { DenyWith::NxDomain } else { DenyWith::Refused };
        for made in [refusal(&query, with, text.as_deref()), failure(&query, ExtendedError::NetworkError, text.as_deref())] {
            prop_assert!(made.len() <= edns.map_or(512, |(size, _)| usize::from(size.clamp(512, 1232))));
            let message = Message::from_vec(&made).unwrap();
            prop_assert_eq!(message.metadata.id, id);
            prop_assert_eq!(&made[12..12 + query.question.len()], &wire[12..12 + query.question.len()]);
            if let Some((_, said)) = extended(&message) {
                prop_assert!(text.as_deref().unwrap_or_default().starts_with(&said));
            }
            let believed = believe(&query, &made).unwrap();
            prop_assert_eq!((believed.addresses.len(), believed.names), (0, vec![query.name.clone()]));
        }
    }
}
