//! What a request is judged by and forwarded as: one canonical path, one host.

use ::http::request::Parts;
use ::http::uri::{Authority, PathAndQuery, Scheme};
use ::http::{HeaderMap, Method, Uri, Version, header};
use sluice_policy::http::{canonical_path, encode_path};

use super::head::{is_authority, same_authority, split_port};
use crate::judge::JudgedRequest;

/// Why a request has no single reading, in words for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("{0}")]
    Path(sluice_policy::http::PathError),
    #[error("{0}")]
    Host(&'static str),
}

/// The request as it is judged, and the target that goes to the server in its place.
pub(crate) fn read_target(parts: &Parts) -> Result<(JudgedRequest, Uri), TargetError> {
    let authority = authority(parts)?;
    let mut request = JudgedRequest {
        method: parts.method.as_str().to_owned(),
        path: String::new(),
        query: None,
        host: split_port(authority).0.to_ascii_lowercase(),
        is_http2: parts.version == Version::HTTP_2,
        fields: HeaderMap::new(),
    };
    if parts.method == Method::CONNECT {
        return Ok((request, parts.uri.clone()));
    }
    let path = canonical_path(raw_path(&parts.uri)).map_err(TargetError::Path)?;
    let forwarded = forwarded(parts, &path, authority)?;
    request.query = parts.uri.query().map(str::to_owned);
    request.path = path.into_owned();
    Ok((request, forwarded))
}

/// RFC 9112 section 3.2.2: an absolute-form target without a path asks for `/`.
fn raw_path(uri: &Uri) -> &str {
    if uri.path().is_empty() { "/" } else { uri.path() }
}

/// HTTP/1 goes on in origin-form, HTTP/2 with the pseudo-fields it had.
fn forwarded(parts: &Parts, path: &str, authority: &str) -> Result<Uri, TargetError> {
    let mut target = encode_path(path).into_owned();
    if let Some(query) = parts.uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let unreadable = |_| TargetError::Host("a target that can't be written down again");
    let target = PathAndQuery::try_from(target).map_err(unreadable)?;
    let mut uri = ::http::uri::Parts::default();
    uri.path_and_query = Some(target);
    if parts.version == Version::HTTP_2 {
        uri.scheme = Some(parts.uri.scheme().cloned().unwrap_or(Scheme::HTTP));
        uri.authority = Some(Authority::try_from(authority).map_err(unreadable)?);
    }
    Uri::from_parts(uri).map_err(|_| TargetError::Host("a target that can't be written down again"))
}

/// The one authority that target and `Host` agree on. HTTP/1 requests come through the guard, which has checked it; an
/// HTTP/1.0 request may have none.
fn authority(parts: &Parts) -> Result<&str, TargetError> {
    let host = host_field(&parts.headers)?;
    let target = parts.uri.authority().map(Authority::as_str);
    let connect = parts.method == Method::CONNECT;
    let authority = match (target, host) {
        (Some(target), Some(host)) if !same_authority(target, host, connect) => {
            return Err(TargetError::Host("a Host that differs from the target"));
        }
        (Some(authority), _) | (None, Some(authority)) => authority,
        (None, None) if parts.version == Version::HTTP_10 => return Ok(""),
        (None, None) => return Err(TargetError::Host("no host")),
    };
    if !is_authority(authority) {
        return Err(TargetError::Host("a host that is no host name or address"));
    }
    Ok(authority)
}

fn host_field(headers: &HeaderMap) -> Result<Option<&str>, TargetError> {
    let mut values = headers.get_all(header::HOST).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(TargetError::Host("more than one Host"));
    }
    first.to_str().map(Some).map_err(|_| TargetError::Host("a Host that is no host name or address"))
}

#[cfg(test)]
mod tests {
    use ::http::{Request, Version};

    use super::read_target;

    fn check(version: Version, method: &str, uri: &str, host: Option<&str>, expected: Result<(&str, &str, &str), &str>) {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let got = read_target(&parts).map(|(judged, uri)| (judged.path, judged.host, uri.to_string()));
        let got = got.map_err(|error| error.to_string());
        let expected =
            expected.map(|(path, host, uri)| (path.to_owned(), host.to_owned(), uri.to_owned())).map_err(str::to_owned);
        assert_eq!(got, expected, "{method} {uri}");
    }

    #[test]
    fn what_is_forwarded_is_what_was_judged() {
        let (h1, h10, h2) = (Version::HTTP_11, Version::HTTP_10, Version::HTTP_2);
        check(h1, "GET", "/a//b/../c?x=%2e", Some("Web:80"), Ok(("/a/c", "web", "/a/c?x=%2e")));
        check(h1, "GET", "/caf%C3%A9", Some("web"), Ok(("/café", "web", "/caf%C3%A9")));
        check(h1, "GET", "http://web/a?b", Some("web:80"), Ok(("/a", "web", "/a?b")));
        check(h1, "GET", "http://web", Some("web"), Ok(("/", "web", "/")));
        check(h1, "OPTIONS", "*", Some("web"), Ok(("*", "web", "*")));
        check(h1, "CONNECT", "web:443", Some("web"), Ok(("", "web", "web:443")));
        check(h10, "GET", "/", None, Ok(("/", "", "/")));
        check(h1, "GET", "/", Some("[2001:db8::1]:80"), Ok(("/", "[2001:db8::1]", "/")));
        check(h2, "GET", "http://web/a/./b", None, Ok(("/a/b", "web", "http://web/a/b")));
        check(h2, "GET", "http://web/a", Some("web"), Ok(("/a", "web", "http://web/a")));
        check(h2, "GET", "http://web/a", Some("other"), Err("a Host that differs from the target"));
        check(h2, "GET", "http://u@web/a", None, Err("a host that is no host name or address"));
        let twice = "the path is encoded twice: a decoded path still hides / \\ . or NUL";
        check(h1, "GET", "/%252e%252e/x", Some("web"), Err(twice));
    }
}
