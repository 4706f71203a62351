//! Where the feed is served: `unix:PATH` or `HOST:PORT`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The address of a controller, as both programs take it on their command line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FeedAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A name or address and a port, resolved at each attempt.
    Tcp { host: String, port: u16 },
}

/// A text that is no [`FeedAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("{0:?} is no address of a controller: write unix:PATH or HOST:PORT")]
    Shape(String),
    #[error("{0:?} names no path after \"unix:\"")]
    NoPath(String),
    #[error("{text:?} has no port between 1 and 65535 after its last colon")]
    Port { text: String },
}

impl FromStr for FeedAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///run/x` is how URLs write it; three slashes are one.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(AddressError::NoPath(text.to_owned()));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| AddressError::Shape(text.to_owned()))?;
        let port = port.parse().map_err(|_| AddressError::Port { text: text.to_owned() })?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        // An IPv6 address needs its brackets, or nobody knows where it ends.
        let bracketed = bare.len() != host.len();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let sound = if bracketed { bare.parse::<std::net::Ipv6Addr>().is_ok() } else { bare.chars().all(plain) };
        if bare.is_empty() || !sound {
            return Err(AddressError::Shape(text.to_owned()));
        }
        Ok(Self::Tcp { host: bare.to_owned(), port })
    }
}

impl fmt::Display for FeedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FeedAddress {
    /// The URL that the gRPC client takes.
    pub fn url(&self) -> String {
        match self {
            Self::Unix(_) => self.to_string(),
            Self::Tcp { .. } => format!("http://{self}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        let rows = [
            ("unix:/run/sluice/controller.sock", "unix:/run/sluice/controller.sock"),
            ("unix:///run/c.sock", "unix:/run/c.sock"),
            ("unix:relative.sock", "unix:relative.sock"),
            ("127.0.0.1:7070", "127.0.0.1:7070"),
            ("controller.sluice.svc:7070", "controller.sluice.svc:7070"),
            ("[::1]:7070", "[::1]:7070"),
        ];
        for (text, written) in rows {
            assert_eq!(text.parse::<FeedAddress>().expect(text).to_string(), written);
        }
        for bad in ["", "unix:", "host", "host:", "host:0x1", "host:70000", "::1:80", ":80", "http://x:80", "a b:80", "[x]:80"] {
            assert!(bad.parse::<FeedAddress>().is_err(), "{bad:?} was accepted");
        }
    }
}
