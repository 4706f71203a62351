//! Clients inside pods: curl, an HTTP/1.1 client that shows every byte, and a pair of sockets.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_testnet::Netns;

use crate::scene::{LONG, SHORT};

/// What curl got.
#[derive(Debug)]
pub(crate) struct Curl {
    /// curl's own exit status; 0 if there was an answer, 28 for a time-out.
    pub(crate) exit: i32,
    /// 0 without an answer.
    pub(crate) status: u64,
    pub(crate) body: String,
    /// `1.1` or `2`.
    pub(crate) version: String,
    headers: Value,
}

impl Curl {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers[name][0].as_str()
    }

    /// The body of a pod's web server.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs curl in a namespace; it gives up after 20 s.
pub(crate) fn curl(ns: &Netns, url: &str, arguments: &[&str]) -> Curl {
    curl_within(ns, url, arguments, LONG)
}

/// curl where no answer is expected: it gives up soon.
pub(crate) fn curl_in_vain(ns: &Netns, url: &str) -> Curl {
    curl_within(ns, url, &[], SHORT)
}

fn curl_within(ns: &Netns, url: &str, arguments: &[&str], limit: Duration) -> Curl {
    let seconds = format!("{:.1}", limit.as_secs_f64());
    let facts = "%{stderr}\n{\"status\": %{response_code}, \"version\": \"%{http_version}\", \"headers\": %{header_json}}";
    let mut command = Command::new("curl");
    command.args(["--silent", "--globoff", "--noproxy", "*", "--max-time", &seconds, "--write-out", facts]);
    command.args(arguments).arg(url);
    let output = ns.output(&mut command).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let facts: Value = said.find('{').and_then(|start| serde_json::from_str(&said[start..]).ok()).unwrap_or_default();
    Curl {
        exit: output.status.code().unwrap_or(-1),
        status: facts["status"].as_u64().unwrap_or(0),
        body: String::from_utf8_lossy(&output.stdout).into_owned(),
        version: facts["version"].as_str().unwrap_or_default().to_owned(),
        headers: facts["headers"].clone(),
    }
}

/// An HTTP/1.1 answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection whose bytes the test writes and reads itself.
pub(crate) struct Talk {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

impl Talk {
    pub(crate) fn open(ns: &Netns, to: &str) -> io::Result<Self> {
        Self::open_within(ns, to, LONG)
    }

    pub(crate) fn open_within(ns: &Netns, to: &str, timeout: Duration) -> io::Result<Self> {
        let stream = ns.tcp_connect(None, to.parse().expect("an address and port"), timeout)?;
        stream.set_nodelay(true)?;
        Ok(Self::of(stream))
    }

    /// Over a connection that is there already.
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a request without a body, and reads the answer.
    pub(crate) fn ask(&mut self, method: &str, target: &str) -> io::Result<Answer> {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: test\r\n\r\n"))?;
        self.answer()
    }

    /// [`Talk::ask`] with GET.
    pub(crate) fn get(&mut self, target: &str) -> io::Result<Answer> {
        self.ask("GET", target)
    }

    /// The next answer: its head, and its body by Content-Length, in chunks, or (without either) none.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status line: {status_line:?}")))?;
        let headers = self.fields()?;
        let mut answer = Answer { status, headers, body: Vec::new(), trailers: Vec::new() };
        if answer.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
                if size == 0 {
                    break;
                }
                answer.body.extend(self.exactly(size)?);
                self.line()?;
            }
            answer.trailers = self.fields()?;
        } else if let Some(length) = answer.header("content-length").and_then(|value| value.parse().ok()) {
            answer.body = self.exactly(length)?;
        }
        Ok(answer)
    }

    /// So many bytes of what comes next.
    pub(crate) fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < length {
            self.more()?;
        }
        Ok(self.unread.drain(..length).collect())
    }

    /// A line without its end.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            self.more()?;
        }
    }

    /// Whether the other side ends the connection (FIN or RST) within `timeout`; what it still sends is thrown away.
    pub(crate) fn ends_within(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut bytes = [0_u8; 16 * 1024];
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut bytes) {
                Ok(1..) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Ok(0) | Err(_) => return true,
            }
        }
        false
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { return Ok(fields) };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut bytes = [0_u8; 16 * 1024];
        match self.stream.read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            got => {
                self.unread.extend_from_slice(&bytes[..got]);
                Ok(())
            }
        }
    }
}

/// A TCP connection of which the test holds both ends.
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Pair {
    /// Connects from `client` to a listener that is made in `server` for this one connection.
    pub(crate) fn connect(client: &Netns, server: &Netns, to: &str) -> Self {
        let to: SocketAddr = to.parse().expect("an address and port");
        let listener = server.tcp_listen(to).unwrap();
        let client = client.tcp_connect(None, to, LONG).unwrap();
        let (server, _) = listener.accept().unwrap();
        Self { client, server }
    }

    /// Whether a word comes through, each way: from the client to the server, and back.
    pub(crate) fn passes(&mut self, wait: Duration) -> (bool, bool) {
        (word_passes(&mut self.client, &mut self.server, wait), word_passes(&mut self.server, &mut self.client, wait))
    }
}

fn word_passes(from: &mut TcpStream, to: &mut TcpStream, wait: Duration) -> bool {
    if from.write_all(b"word").is_err() {
        return false;
    }
    to.set_read_timeout(Some(wait)).unwrap();
    let mut word = [0_u8; 4];
    to.read_exact(&mut word).is_ok()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
