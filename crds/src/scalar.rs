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

/// What a plain (unquoted, untagged) scalar is; `None`: text.
pub(crate) fn resolve(text: &str) -> Option<Node> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Node::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => return Some(Node::Bool(true)),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Some(Node::Bool(false));
        }
        ".nan" | ".NaN" | ".NAN" => return Some(Node::Float(f64::NAN)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Some(Node::Float(f64::INFINITY)),
        "-.inf" | "-.Inf" | "-.INF" => return Some(Node::Float(f64::NEG_INFINITY)),
        _ => {}
    }
    let starts_like_a_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    // No number that anyone means is longer; without the limit a megabyte of digits would be copied and parsed.
    if !starts_like_a_number || text.len() > 400 {
        return None;
    }
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    if let Some(n) = integer(&plain) {
        return Some(n);
    }
    if is_float(&plain)
        && let Ok(n) = plain.parse::<f64>()
    {
        return Some(Node::number(n));
    }
    None
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
        let rows = [
            ("", Some(Node::Null)),
            ("~", Some(Node::Null)),
            ("null", Some(Node::Null)),
            ("yes", Some(Node::Bool(true))),
            ("y", Some(Node::Bool(true))),
            ("On", Some(Node::Bool(true))),
            ("off", Some(Node::Bool(false))),
            ("N", Some(Node::Bool(false))),
            ("yEs", None),
            ("80", Some(Node::Int(80))),
            ("+80", Some(Node::Int(80))),
            ("-1", Some(Node::Int(-1))),
            ("1_000", Some(Node::Int(1000))),
            ("0x1F", Some(Node::Int(31))),
            ("0b101", Some(Node::Int(5))),
            ("017", Some(Node::Int(15))),
            ("0o17", Some(Node::Int(15))),
            ("018", Some(Node::Int(18))),
            ("0", Some(Node::Int(0))),
            ("80.0", Some(Node::Int(80))),
            ("1e3", Some(Node::Int(1000))),
            ("1.10", Some(Node::Float(1.10))),
            ("1.", Some(Node::Int(1))),
            (".5", Some(Node::Float(0.5))),
            ("-", None),
            (".", None),
            ("1.2.3", None),
            ("10.0.0.0/8", None),
            ("2026-01-01", None),
            ("1:30", None),
            ("inf", None),
            ("1e", None),
            ("18446744073709551616", Some(Node::Float(18_446_744_073_709_551_616.0))),
            (".inf", Some(Node::Float(f64::INFINITY))),
        ];
        for (word, want) in rows {
            assert_eq!(resolve(word), want, "{word:?}");
        }
    }
}
