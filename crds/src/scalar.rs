//! What an unquoted word of YAML means, as kubectl reads it.
//!
//! kubectl reads YAML 1.1 (sigs.k8s.io/yaml), where more words are truth values and numbers than in YAML 1.2. A label
//! `enabled: yes` is therefore no text, and the API server refuses it; so do we, or the same file would mean two things.
//!
//! | written | is |
//! |---|---|
//! | nothing, `~`, `null`, `Null`, `NULL` | null |
//! | `y`, `yes`, `on`, `true` and `n`, `no`, `off`, `false`, each also `Yes` and `YES` | a truth value |
//! | `12`, `-3`, `1_000`, `0x1f`, `0b101`, `0o17`, `017` (octal) | an integer |
//! | `1.5`, `.5`, `1e3`, `.inf`, `.nan` | a number |
//! | all else, dates and `1:30` too | text |

use crate::value::Node;

/// What a plain (unquoted, untagged) scalar is.
pub(crate) fn resolve(text: &str) -> Node {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Node::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => return Node::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Node::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Node::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Node::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Node::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let starts_like_a_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    // No number that anyone means is longer; without the limit a megabyte of digits would be copied and parsed.
    if !starts_like_a_number || text.len() > 400 {
        return Node::String(text.into());
    }
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    if let Some(n) = integer(&plain) {
        return n;
    }
    if is_float(&plain)
        && let Ok(n) = plain.parse::<f64>()
    {
        return Node::number(n);
    }
    Node::String(text.into())
}

/// An integer in any of the notations of YAML 1.1, or `None`. What passes 64 bits becomes a float, as in Go.
fn integer(text: &str) -> Option<Node> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let radix = |prefix: [&str; 2], radix| {
        let digits = prefix.iter().find_map(|p| digits.strip_prefix(p))?;
        Some((digits, radix))
    };
    let (digits, radix) = radix(["0x", "0X"], 16)
        .or_else(|| radix(["0b", "0B"], 2))
        .or_else(|| radix(["0o", "0O"], 8))
        .or_else(|| (digits.len() > 1 && digits.starts_with('0')).then(|| (&digits[1..], 8)))
        .unwrap_or((digits, 10));
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    match i128::from_str_radix(digits, radix) {
        Ok(n) => {
            let n = if negative { -n } else { n };
            #[expect(clippy::cast_precision_loss, reason = "beyond 64 bits the number is a float, as in Go")]
            Some(i64::try_from(n).map_or_else(|_| Node::Float(n as f64), Node::Int))
        }
        Err(_) => digits.parse::<f64>().ok().map(Node::Float),
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`: narrower than what Rust parses (`inf`, `infinity`).
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['-', '+']).unwrap_or(e))),
        None => (text, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|e| !e.is_empty() && digits(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_kubectl_takes_them_for() {
        let text = |s: &str| Node::String(s.into());
        let rows = [
            ("", Node::Null),
            ("~", Node::Null),
            ("null", Node::Null),
            ("yes", Node::Bool(true)),
            ("y", Node::Bool(true)),
            ("On", Node::Bool(true)),
            ("off", Node::Bool(false)),
            ("N", Node::Bool(false)),
            ("yEs", text("yEs")),
            ("80", Node::Int(80)),
            ("+80", Node::Int(80)),
            ("-1", Node::Int(-1)),
            ("1_000", Node::Int(1000)),
            ("0x1F", Node::Int(31)),
            ("0b101", Node::Int(5)),
            ("017", Node::Int(15)),
            ("0o17", Node::Int(15)),
            ("018", Node::Int(18)),
            ("0", Node::Int(0)),
            ("80.0", Node::Int(80)),
            ("1e3", Node::Int(1000)),
            ("1.10", Node::Float(1.10)),
            ("1.", Node::Int(1)),
            (".5", Node::Float(0.5)),
            ("-", text("-")),
            (".", text(".")),
            ("1.2.3", text("1.2.3")),
            ("10.0.0.0/8", text("10.0.0.0/8")),
            ("2026-01-01", text("2026-01-01")),
            ("1:30", text("1:30")),
            ("inf", text("inf")),
            ("1e", text("1e")),
            ("18446744073709551616", Node::Float(18_446_744_073_709_551_616.0)),
            (".inf", Node::Float(f64::INFINITY)),
        ];
        for (word, want) in rows {
            assert_eq!(resolve(word), want, "{word:?}");
        }
    }
}
