use hickory_proto::op::Edns as Opt;
use proptest::prelude::*;

use super::super::super::sample::{answer, bytes, query};
use super::super::parsed;
use super::*;

/// Both ways to read an answer, of which the short one may leave what it has no place for.
fn both(query: &Query, response: &[u8]) -> (Option<Answer>, Result<Answer, String>) {
    let header = Header::read(response).unwrap();
    (read(query, header, response), parsed(query, header, response, unread(query, header)).map_err(|error| error.to_string()))
}

#[test]
fn the_usual_answer_is_read_without_a_parser() {
    let lines = [
        (true, &["w.org 60 A 192.0.2.1"][..]),
        (true, &["w.org 60 A 192.0.2.1", "w.org 7 A 192.0.2.2", "w.org 30 A 192.0.2.1"]),
        (true, &["w.org 2147483648 A 192.0.2.1"]),
        (true, &[]),
        (false, &["w.org 60 CNAME v.org", "v.org 60 A 192.0.2.1"]),
        (false, &["v.org 60 A 192.0.2.1"]),
        (false, &["w.org 60 AAAA 2001:db8::1"]),
        (false, &["w.org 60 A 192.0.2.1", "+v.org 60 A 192.0.2.1"]),
    ];
    for (is_usual, lines) in lines {
        let mut message = answer("A w.org", lines);
        for edns in [false, true] {
            if edns {
                message.edns = Some(Opt::new());
            }
            let (short, long) = both(&query("A w.org"), &bytes(&message));
            assert_eq!(short.is_some(), is_usual, "{lines:?}");
            assert_eq!(short.unwrap_or_else(|| long.clone().unwrap()), long.unwrap(), "{lines:?}");
        }
    }
}

proptest! {
    #[test]
    fn what_is_read_without_a_parser_is_what_the_parser_reads(
        addresses in prop::collection::vec((any::<u32>(), 0u8..4), 0..5),
        v6 in any::<bool>(),
        edns in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in 0usize..4,
    ) {
        let question = if v6 { "AAAA w.org" } else { "A w.org" };
        let line = |(ttl, last): &(u32, u8)| {
            if v6 { format!("w.org {ttl} AAAA 2001:db8::{last}") } else { format!("w.org {ttl} A 192.0.2.{last}") }
        };
        let lines: Vec<String> = addresses.iter().map(line).collect();
        let mut message = answer(question, &lines.iter().map(String::as_str).collect::<Vec<_>>());
        if edns {
            message.edns = Some(Opt::new());
        }
        let mut response = bytes(&message);
        let query = query(question);
        let begin = HEADER_BYTES + query.question.len();
        // The question stays, and what the first flags say: that they fit the query's is known before.
        for (index, byte) in &changes {
            let at = index.index(response.len());
            if (3..HEADER_BYTES).contains(&at) || at >= begin {
                response[at] = *byte;
            }
        }
        response.truncate((response.len() - cut).max(begin));
        let (short, long) = both(&query, &response);
        if let Some(short) = short {
            prop_assert_eq!(Ok(short), long);
        }
    }
}
