//! Header fields that belong to one connection and not to the message (RFC 9110 section 7.6.1).

use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Takes the client's hop-by-hop fields from an HTTP/1 request. Yields whether it asks for a tunnel by `Upgrade`.
///
/// `TE: trailers` goes on, because trailers do, and `Upgrade` if this proxy can carry what it leads to: not another HTTP, which
/// would put requests where nobody judges them.
pub(crate) fn clean_request(headers: &mut HeaderMap, version: Version) -> bool {
    let options = connection_options(headers);
    let trailers = headers.get(header::TE).is_some_and(|te| has_token(te, "trailers"));
    let upgrade = version == Version::HTTP_11 && options.contains(&header::UPGRADE) && is_opaque_upgrade(headers);
    for option in options {
        if option != header::UPGRADE {
            headers.remove(option);
        }
    }
    for name in [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, header::TE] {
        headers.remove(name);
    }
    if !upgrade {
        headers.remove(header::UPGRADE);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.append(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if upgrade {
        headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    upgrade
}

/// Takes the server's hop-by-hop fields from an HTTP/1 response. Where the server closes, so do we.
pub(crate) fn clean_response(headers: &mut HeaderMap, status: StatusCode) {
    let options = connection_options(headers);
    let closes = options.iter().any(|option| option == "close");
    let keeps_upgrade = matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED);
    for option in options {
        if option != header::UPGRADE {
            headers.remove(option);
        }
    }
    for name in [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION] {
        headers.remove(name);
    }
    if headers.get(header::TRANSFER_ENCODING).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        headers.remove(header::TRANSFER_ENCODING);
    }
    if keeps_upgrade && headers.contains_key(header::UPGRADE) {
        headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(header::UPGRADE);
    }
    if closes {
        headers.append(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|option| option.trim().parse().ok()).collect()
}

fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.to_str().is_ok_and(|value| {
        value.split(',').any(|part| part.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(token))
    })
}

/// An upgrade to bytes that no rule is about. `h2c`, `HTTP/2.0` and `TLS/1.2` would hide further requests.
fn is_opaque_upgrade(headers: &HeaderMap) -> bool {
    let mut protocols = headers
        .get_all(header::UPGRADE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .peekable();
    protocols.peek().is_some()
        && protocols
            .all(|name| !name.is_empty() && ![b"h2".as_slice(), b"http", b"tls"].iter().any(|hidden| name.starts_with(hidden)))
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

    use super::{clean_request, clean_response};

    fn map(text: &str) -> HeaderMap {
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        text.lines().map(pair).collect()
    }

    fn text(headers: &HeaderMap) -> String {
        let line = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}\n", value.to_str().unwrap());
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort();
        lines.concat()
    }

    #[test]
    fn requests() {
        for (sent, forwarded, asks) in [
            ("a: 1\nconnection: keep-alive\nkeep-alive: timeout=5\n", "a: 1\n", false),
            ("connection: close, x-hop\nx-hop: 1\nb: 2\n", "b: 2\n", false),
            ("connection: te\nte: trailers;q=1\n", "connection: te\nte: trailers\n", false),
            ("te: gzip\n", "", false),
            ("connection: Upgrade\nupgrade: websocket\n", "connection: upgrade\nupgrade: websocket\n", true),
            ("upgrade: websocket\n", "", false),
            ("connection: upgrade, http2-settings\nupgrade: h2c\nhttp2-settings: AAMA\n", "", false),
            ("connection: upgrade\nupgrade: websocket, h2c\n", "", false),
            ("connection: upgrade\nupgrade: TLS/1.2, HTTP/1.1\n", "", false),
        ] {
            let mut headers = map(sent);
            assert_eq!(clean_request(&mut headers, Version::HTTP_11), asks, "{sent}");
            assert_eq!(text(&headers), forwarded, "{sent}");
        }
        let mut old = map("connection: upgrade\nupgrade: websocket\n");
        assert!(!clean_request(&mut old, Version::HTTP_10), "HTTP/1.0 has no upgrades");
    }

    #[test]
    fn responses() {
        for (status, sent, forwarded) in [
            (200, "connection: close\nx: 1\n", "connection: close\nx: 1\n"),
            (200, "connection: keep-alive\nkeep-alive: timeout=5\ntransfer-encoding: chunked\n", ""),
            (101, "connection: upgrade\nupgrade: websocket\n", "connection: upgrade\nupgrade: websocket\n"),
            (200, "connection: upgrade\nupgrade: h2c\n", ""),
        ] {
            let mut headers = map(sent);
            clean_response(&mut headers, StatusCode::from_u16(status).unwrap());
            assert_eq!(text(&headers), forwarded, "{status} {sent}");
        }
    }
}
