//! Rules about HTTP that match other than they seem to.

use sluice_crds::Value;
use sluice_policy::source::{Action, PortMatch};

use crate::lint::catalogue::Code;
use crate::lint::finding::Findings;
use crate::lint::scene::{Ruled, Scene, Subject};

/// Where TLS is spoken.
const TLS: [u16; 3] = [443, 6443, 8443];

pub(super) fn check(scene: &Scene, findings: &mut Findings) {
    for subject in scene.subjects() {
        for ruled in subject.rules().filter(|ruled| ruled.rule.action == Action::Allow) {
            let items = subject.raw(ruled).and_then(|raw| raw.get("http")).and_then(Value::as_list).unwrap_or_default();
            if !items.is_empty() {
                tls_ports(subject, ruled, findings);
            }
            for (i, item) in items.iter().enumerate() {
                let field = format!("{}.http[{i}]", ruled.path());
                // Exact texts and prefixes are no expressions.
                let is_expression = item.get("pathType").and_then(Value::as_str).is_none_or(|kind| kind == "Regex");
                if let Some(path) = item.get("path").and_then(Value::as_str).filter(|_| is_expression)
                    && let Some((message, fix)) = doubt_path(path)
                {
                    findings.add(Code::HttpPatternDoubtful, subject.written, &format!("{field}.path"), message, fix);
                }
                if let Some(method) = item.get("method").and_then(Value::as_str)
                    && !method.is_empty()
                    && method.bytes().all(|b| b.is_ascii_lowercase())
                {
                    let message = format!("{method} is no method of HTTP: their letters are capitals");
                    let fix = format!("write {}", method.to_uppercase());
                    findings.add(Code::HttpPatternDoubtful, subject.written, &format!("{field}.method"), message, fix);
                }
            }
        }
    }
}

/// What is doubtful about a pattern of paths, and what to write.
fn doubt_path(path: &str) -> Option<(String, String)> {
    if let Some(front) = path.strip_suffix("/*") {
        return Some((format!("{path:?} matches {front} and slashes behind it, nothing below"), format!("write {front}/.*")));
    }
    if path.contains("\\?") || path.contains("[?]") {
        let message = format!("{path:?} asks for a query, and paths are matched without theirs");
        return Some((message, "match the path alone".to_owned()));
    }
    // A path begins with a slash; these may stand for one, or for nothing.
    let may_begin = path.starts_with(['/', '.', '(', '[', '^', '\\', '*']) || path.is_empty();
    (!may_begin).then(|| (format!("{path:?} begins without a slash, and every path has one"), format!("write /{path}")))
}

fn tls_ports(subject: Subject<'_>, ruled: Ruled<'_>, findings: &mut Findings) {
    let is_tls = |port: &PortMatch| matches!(port, PortMatch::Range { first, last, .. } if first == last && TLS.contains(first));
    if ruled.rule.ports.as_ref().is_some_and(|ports| !ports.is_empty() && ports.iter().all(is_tls)) {
        let message = "these are ports of TLS, which is not opened: no request is seen, and all is denied".to_owned();
        let fix = "write the port on which the pods speak HTTP in the clear";
        findings.add(Code::HttpOnTlsPort, subject.written, &format!("{}.ports", ruled.path()), message, fix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_are_doubtful() {
        let rows = [
            ("/api/*", Some("write /api/.*")),
            ("/api/.*", None),
            ("api/.*", Some("write /api/.*")),
            (".*", None),
            ("(/a|/b)", None),
            ("/find\\?q=.*", Some("match the path alone")),
            ("/", None),
        ];
        for (path, fix) in rows {
            assert_eq!(doubt_path(path).map(|(_, fix)| fix).as_deref(), fix, "{path}");
        }
    }
}
