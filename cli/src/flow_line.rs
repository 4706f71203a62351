//! A flow as people write it: the lines of `eval`, the options of `explain`, the rows of an expectation.

use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;
use sluice_policy::source::PodRef;
use sluice_policy::{IcmpMessage, Protocol};

use crate::contents::{Contents, LineDns, LineGrpc, LineHttp, LineTls};

/// What is asked: may this pass?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub from: End,
    pub to: End,
    /// After any Service translation; 0 for protocols without ports.
    pub port: u16,
    pub protocol: Protocol,
    /// Of ICMP: the message. `None`: an echo request.
    pub icmp: Option<IcmpMessage>,
    pub contents: Option<Contents>,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A pod, and which of its addresses if that matters.
    Pod(PodRef, Option<IpAddr>),
    Ip(IpAddr),
    /// A name that DNS answers.
    Name(String),
}

/// Why a flow can't be asked about.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlowError {
    #[error("not a flow: {0}")]
    NotJson(String),
    #[error("`{side}` must be {{\"namespace\", \"pod\"}}, {{\"ip\"}} or, for a destination, {{\"name\"}}")]
    NoEnd { side: &'static str },
    #[error("`from` can't be a name: flows start at a pod or an address")]
    NamedSource,
    #[error("`port` is missing: {0} has ports")]
    NoPort(Protocol),
    #[error("port {0:?}: write NUMBER/tcp, NUMBER/udp, NUMBER/sctp, icmp (an echo request) or icmp/TYPE/CODE")]
    PortText(String),
    #[error("end {0:?}: write NAMESPACE/POD, an address, or a name")]
    EndText(String),
    #[error("request {0:?}: write 'METHOD /PATH' or 'METHOD http://HOST/PATH'")]
    RequestText(String),
    #[error("header {0:?}: write 'NAME: VALUE'")]
    HeaderText(String),
    #[error("call {0:?}: write SERVICE/METHOD, as orders.OrderService/Get")]
    CallText(String),
    #[error("a flow has one of `http`, `grpc`, `tls` and `dns`, not several")]
    SeveralContents,
    #[error("`icmp` is a message of ICMP, not of {0}")]
    NoMessage(Protocol),
    #[error("protocol {0:?}: TCP, UDP, SCTP or ICMP")]
    Protocol(String),
    #[error("look-up {0:?}: NAME or NAME/TYPE, as in api.github.com/AAAA")]
    LookupText(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    from: LineEnd,
    to: LineEnd,
    port: Option<u16>,
    protocol: Option<String>,
    icmp: Option<IcmpMessage>,
    http: Option<LineHttp>,
    grpc: Option<LineGrpc>,
    tls: Option<LineTls>,
    dns: Option<LineDns>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineEnd {
    namespace: Option<String>,
    pod: Option<String>,
    ip: Option<IpAddr>,
    name: Option<String>,
}

impl LineEnd {
    fn read(self, side: &'static str) -> Result<End, FlowError> {
        match self {
            Self { namespace: Some(namespace), pod: Some(name), ip, name: None } => {
                Ok(End::Pod(PodRef { namespace: namespace.into(), name: name.into() }, ip))
            }
            Self { namespace: None, pod: None, ip: Some(ip), name: None } => Ok(End::Ip(ip)),
            Self { namespace: None, pod: None, ip: None, name: Some(name) } => Ok(End::Name(name)),
            _ => Err(FlowError::NoEnd { side }),
        }
    }
}

impl Question {
    /// Reads a line of `eval --flows`.
    pub fn from_json(line: &str) -> Result<Self, FlowError> {
        let line: Line = serde_json::from_str(line).map_err(|e| FlowError::NotJson(e.to_string()))?;
        let protocol = match line.protocol {
            Some(word) => Protocol::from_str(&word).map_err(|_| FlowError::Protocol(word))?,
            None if line.icmp.is_some() => Protocol::Icmp,
            None => Protocol::Tcp,
        };
        if line.icmp.is_some() && protocol != Protocol::Icmp {
            return Err(FlowError::NoMessage(protocol));
        }
        let port = match line.port {
            Some(port) => port,
            None if protocol.has_ports() => return Err(FlowError::NoPort(protocol)),
            None => 0,
        };
        let from = line.from.read("from")?;
        if matches!(from, End::Name(_)) {
            return Err(FlowError::NamedSource);
        }
        let dns = line.dns.map(Contents::dns).transpose()?;
        let contents = [line.http.map(Contents::http), line.grpc.map(Contents::grpc), line.tls.map(Contents::tls), dns];
        let contents = at_most_one(contents)?;
        Ok(Self { from, to: line.to.read("to")?, port, protocol, icmp: line.icmp, contents })
    }

    /// Reads the options of `explain` and the fields of an expectation.
    pub fn from_text(from: &str, to: &str, port: &str, http: Option<&str>) -> Result<Self, FlowError> {
        let from = End::from_str(from)?;
        if matches!(from, End::Name(_)) {
            return Err(FlowError::NamedSource);
        }
        let icmp = message_from_text(port)?;
        let (port, protocol) = if icmp.is_some() { (0, Protocol::Icmp) } else { port_from_text(port)? };
        let contents = http.map(Contents::from_request_line).transpose()?;
        Ok(Self { from, to: End::from_str(to)?, port, protocol, icmp, contents })
    }
}

/// The contents that are given.
pub(crate) fn at_most_one<const N: usize>(given: [Option<Contents>; N]) -> Result<Option<Contents>, FlowError> {
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (contents, None) => Ok(contents),
        _ => Err(FlowError::SeveralContents),
    }
}

/// `8080/tcp`, `53/UDP`, `icmp`; a bare number is TCP.
pub fn port_from_text(text: &str) -> Result<(u16, Protocol), FlowError> {
    let wrong = || FlowError::PortText(text.to_owned());
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if text.eq_ignore_ascii_case("icmp") {
        return Ok((0, Protocol::Icmp));
    }
    let protocol = Protocol::from_str(protocol).map_err(|_| wrong())?;
    if !protocol.has_ports() {
        return Err(wrong());
    }
    Ok((port.parse().map_err(|_| wrong())?, protocol))
}

/// `icmp/8`, `icmp/3/4`: type and code, which is 0 unless given. `None`: something else.
fn message_from_text(text: &str) -> Result<Option<IcmpMessage>, FlowError> {
    let Some((word, message)) = text.split_once('/').filter(|(word, _)| word.eq_ignore_ascii_case("icmp")) else {
        return Ok(None);
    };
    let wrong = |_| FlowError::PortText(format!("{word}/{message}"));
    let (kind, code) = message.split_once('/').unwrap_or((message, "0"));
    Ok(Some(IcmpMessage { kind: kind.parse().map_err(wrong)?, code: code.parse().map_err(wrong)? }))
}

impl FromStr for End {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Pod(PodRef { namespace: namespace.into(), name: name.into() }, None))
            }
            None if text.contains('.') => Ok(Self::Name(text.to_owned())),
            _ => Err(FlowError::EndText(text.to_owned())),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod(pod, _) => pod.fmt(f),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> String {
        match Question::from_json(line) {
            Ok(q) => {
                let contents = q.contents.map(|c| format!(" {c}")).unwrap_or_default();
                format!("{} -> {}:{}/{}{contents}", q.from, q.to, q.port, q.protocol)
            }
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn lines_are_read_or_refused_by_name() {
        let rows = [
            (r#"{"from":{"namespace":"a","pod":"x"},"to":{"ip":"10.0.0.1"},"port":80}"#, "a/x -> 10.0.0.1:80/TCP"),
            (r#"{"from":{"ip":"::1"},"to":{"namespace":"a","pod":"x"},"port":53,"protocol":"UDP"}"#, "::1 -> a/x:53/UDP"),
            (
                r#"{"from":{"ip":"::1"},"to":{"name":"api.github.com"},"port":443,"tls":{"serverName":"api.github.com"}}"#,
                "::1 -> api.github.com:443/TCP TLS for api.github.com",
            ),
            (
                r#"{"from":{"ip":"::1"},"to":{"ip":"::2"},"port":1,"grpc":{"service":"s.S","method":"Get"}}"#,
                "::1 -> ::2:1/TCP gRPC s.S/Get",
            ),
            (
                r#"{"from":{"ip":"::1"},"to":{"ip":"::2"},"port":1,"http":{"method":"PUT","path":"/a?b","headers":{"x":"y","z":["1","2"]}}}"#,
                "::1 -> ::2:1/TCP PUT /a?b",
            ),
            (r#"{"from":{"ip":"::1"},"to":{"ip":"::2"},"port":1,"tls":{}}"#, "::1 -> ::2:1/TCP TLS without a server name"),
            (r#"{"from":{"ip":"::1"},"to":{"ip":"::2"},"protocol":"ICMP"}"#, "::1 -> ::2:0/ICMP"),
            (r#"{"from":{"ip":"::1"},"to":{"ip":"::2"},"icmp":{"type":1,"code":4}}"#, "::1 -> ::2:0/ICMP"),
            (
                r#"{"from":{"ip":"::1"},"to":{"ip":"::2"},"port":80,"icmp":{"type":1},"protocol":"UDP"}"#,
                "`icmp` is a message of ICMP, not of UDP",
            ),
            (r#"{"from":{"ip":"::1"},"to":{"ip":"::2"}}"#, "`port` is missing: TCP has ports"),
            (
                r#"{"from":{"name":"a.b"},"to":{"ip":"::2"},"port":1}"#,
                "`from` can't be a name: flows start at a pod or an address",
            ),
            (
                r#"{"from":{"pod":"a"},"to":{"ip":"::2"},"port":1}"#,
                r#"`from` must be {"namespace", "pod"}, {"ip"} or, for a destination, {"name"}"#,
            ),
            (
                r#"{"from":{"ip":"::1"},"to":{"ip":"::2"},"port":1,"protocol":"TCPX"}"#,
                r#"protocol "TCPX": TCP, UDP, SCTP or ICMP"#,
            ),
        ];
        for (line, wanted) in rows {
            assert_eq!(read(line), wanted, "{line}");
        }
        for wrong in [r#"{"serverNames":["a.b"]}"#, r#""a.b""#] {
            let line = format!(r#"{{"from":{{"ip":"::1"}},"to":{{"ip":"::2"}},"port":1,"tls":{wrong}}}"#);
            assert!(read(&line).starts_with("not a flow: "), "{line}");
        }
        assert!(read("{").starts_with("not a flow: "));
        assert!(read(r#"{"from":{"ip":"::1"},"to":{"ip":"::2"},"port":70000}"#).starts_with("not a flow: "));
    }

    #[test]
    fn ports_and_requests_as_options() {
        assert_eq!(port_from_text("8080/tcp"), Ok((8080, Protocol::Tcp)));
        assert_eq!(port_from_text("53/UDP"), Ok((53, Protocol::Udp)));
        assert_eq!(port_from_text("80"), Ok((80, Protocol::Tcp)));
        assert_eq!(port_from_text("icmp"), Ok((0, Protocol::Icmp)));
        let message = |text| message_from_text(text).map(|icmp| icmp.map(|icmp| (icmp.kind, icmp.code)));
        assert_eq!(
            [message("icmp/8"), message("ICMP/3/4"), message("80/tcp"), message("icmp")],
            [Ok(Some((8, 0))), Ok(Some((3, 4))), Ok(None), Ok(None)]
        );
        for wrong in ["icmp/", "icmp/256", "icmp/8/", "icmp/8/0/0", "icmp/echo"] {
            assert_eq!(message(wrong), Err(FlowError::PortText(wrong.to_owned())));
        }
        for wrong in ["", "x/tcp", "80/icmp", "80/", "65536/tcp"] {
            assert_eq!(port_from_text(wrong), Err(FlowError::PortText(wrong.to_owned())), "{wrong}");
        }
        let with_host =
            Contents::Http { method: "GET".into(), target: "/a".into(), host: "h:80".into(), headers: Default::default() };
        assert_eq!(Contents::from_request_line("GET http://h:80/a"), Ok(with_host));
        let call = Contents::from_call("orders.OrderService/Get").unwrap();
        assert_eq!(call.to_string(), "gRPC orders.OrderService/Get");
        for wrong in ["Get", "/Get", "orders.OrderService/", "a/b/c", "a/b c"] {
            assert_eq!(Contents::from_call(wrong), Err(FlowError::CallText(wrong.to_owned())));
        }
        for wrong in ["GET", "GET a", " /", "GET /a b"] {
            assert!(Contents::from_request_line(wrong).is_err(), "{wrong}");
        }
    }
}
