//! `dig`, and what it shows.

use std::net::SocketAddr;
use std::process::Command;

use super::server::failed;
use crate::{Error, Netns};

/// One question to one server, and nothing tried again unless `options` say so (`+tries=2`, `+tcp`, `+bufsize=512`, `+ignore`, `+time=5`).
/// Its own wait is two seconds.
pub fn dig(ns: &Netns, server: SocketAddr, name: &str, kind: &str, options: &[&str]) -> Result<Dug, Error> {
    let mut command = Command::new("dig");
    command.args(["-r", &format!("@{}", server.ip()), "-p", &server.port().to_string(), "-q", name, "-t", kind]);
    command.args(["+tries=1", "+time=2", "+nocookie"]).args(options);
    let output = ns.output(&mut command).map_err(|error| failed(ns, "dig", error))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // 9: no answer from the server.
    match output.status.code() {
        Some(0) => read(&text).map(Dug::Answer).ok_or_else(|| failed(ns, "dig", text)),
        Some(9) => Ok(Dug::Nothing(text)),
        _ => Err(failed(ns, "dig", format!("{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr)))),
    }
}

/// What `dig` got.
#[derive(Clone, Debug)]
pub enum Dug {
    /// An answer that it took for one to its question.
    Answer(DigAnswer),
    /// No such; and what it wrote about that: `timed out`, `connection refused`, `ID mismatch`, `reply from unexpected source`.
    Nothing(String),
}

impl Dug {
    /// The answer.
    ///
    /// # Panics
    /// If there was none.
    pub fn answer(self) -> DigAnswer {
        match self {
            Self::Answer(answer) => answer,
            Self::Nothing(text) => panic!("dig: no answer:\n{text}"),
        }
    }
}

/// An answer, as `dig` prints it.
#[derive(Clone, Debug, Default)]
pub struct DigAnswer {
    /// `NOERROR`, `NXDOMAIN`, `REFUSED`, ..
    pub status: String,
    /// `qr`, `aa`, `tc`, `rd`, `ra`, ..
    pub flags: Vec<String>,
    /// The answer section.
    pub answers: Vec<DigRecord>,
    /// Extended DNS Errors: code and text.
    pub extended_errors: Vec<(u16, String)>,
    /// Whether it came by TCP.
    pub by_tcp: bool,
    /// All that was printed.
    pub text: String,
}

impl DigAnswer {
    /// The data of the answer's records, in their order.
    pub fn data(&self) -> Vec<&str> {
        self.answers.iter().map(|record| record.data.as_str()).collect()
    }

    /// Whether the answer is marked as cut short.
    pub fn is_truncated(&self) -> bool {
        self.flags.iter().any(|flag| flag == "tc")
    }
}

/// A record, as `dig` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigRecord {
    /// Whose, with a dot at its end.
    pub name: String,
    /// Seconds.
    pub ttl: u32,
    /// `A`, `CNAME`, ..
    pub kind: String,
    /// What it says.
    pub data: String,
}

fn read(text: &str) -> Option<DigAnswer> {
    let mut answer = DigAnswer { text: text.to_owned(), ..DigAnswer::default() };
    let mut in_answers = false;
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("status: ") {
            // A second message, after a truncated first, is the answer.
            answer = DigAnswer { text: text.to_owned(), ..DigAnswer::default() };
            answer.status = rest.split(',').next()?.to_owned();
        } else if let Some(rest) = line.strip_prefix(";; flags: ") {
            answer.flags = rest.split(';').next()?.split_whitespace().map(str::to_owned).collect();
        } else if let Some(rest) = line.strip_prefix("; EDE: ") {
            // `18 (Prohibited): (text)`, the last part only where there is a text.
            let code = rest.split_whitespace().next()?.trim_end_matches(':').parse().ok()?;
            let said = rest.split_once("): (").and_then(|(_, said)| said.strip_suffix(')')).unwrap_or_default();
            answer.extended_errors.push((code, said.to_owned()));
        } else if line.starts_with(";; SERVER: ") {
            answer.by_tcp = line.ends_with("(TCP)");
        } else if line.starts_with(";; ANSWER SECTION") {
            in_answers = true;
        } else if line.is_empty() {
            in_answers = false;
        } else if in_answers {
            let mut words = line.split_whitespace();
            let (name, ttl, _class, kind) = (words.next()?, words.next()?, words.next()?, words.next()?);
            let data = words.collect::<Vec<_>>().join(" ");
            answer.answers.push(DigRecord { name: name.to_owned(), ttl: ttl.parse().ok()?, kind: kind.to_owned(), data });
        }
    }
    (!answer.status.is_empty()).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let text = "\
;; Got answer:
;; ->>HEADER<<- opcode: QUERY, status: REFUSED, id: 4711
;; flags: qr rd ra; QUERY: 1, ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 1

;; OPT PSEUDOSECTION:
; EDNS: version: 0, flags:; udp: 1232
; EDE: 18 (Prohibited): (policy shop/names (rule 2))
; EDE: 22 (No Reachable Authority)

;; QUESTION SECTION:
;www.example.test.		IN	A

;; ANSWER SECTION:
www.example.test.	299	IN	TXT	\"a  b\" \"c\"

;; Query time: 0 msec
;; SERVER: 10.0.0.1#53(10.0.0.1) (TCP)
";
        let answer = read(text).expect("an answer");
        assert_eq!(answer.status, "REFUSED");
        assert_eq!(answer.flags, ["qr", "rd", "ra"]);
        assert_eq!(answer.extended_errors, [(18, "policy shop/names (rule 2)".to_owned()), (22, String::new())]);
        let record = DigRecord { name: "www.example.test.".into(), ttl: 299, kind: "TXT".into(), data: "\"a b\" \"c\"".into() };
        assert_eq!(answer.answers, [record]);
        assert!(answer.by_tcp && !answer.is_truncated());
    }
}
