//! Moments, in the one form in which everybody reads the same: RFC 3339, as the API server's `date-time` takes it.

use std::time::SystemTime;

use jiff::Timestamp;

use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, text};
use crate::value::{Value, quoted};

/// A moment in RFC 3339 (section 5.6): date, `T`, time with seconds, and the offset from UTC.
pub(crate) fn moment(value: &Value, at: At<'_>, report: &mut Report) -> Reading<SystemTime> {
    let written = text(value, at, report)?;
    parse_moment(written).ok_or_else(|| {
        report.error(at, format!("{} is no time", quoted(written)), "write date, time and offset: 2027-01-31T00:00:00Z");
        Unreadable
    })
}

/// Reads a moment in RFC 3339, and in no other form. `None`: it is none, or there is no such day.
pub fn parse_moment(written: &str) -> Option<SystemTime> {
    // What the calendar says of it, the library knows; it would read other forms too.
    has_form(written.as_bytes()).then(|| written.parse::<Timestamp>().ok()).flatten().map(SystemTime::from)
}

/// A moment as it is printed: RFC 3339, in UTC.
pub fn moment_text(moment: SystemTime) -> String {
    Timestamp::try_from(moment).map_or_else(|_| "a time beyond the year 9999".to_owned(), |moment| moment.to_string())
}

/// `2027-01-31T00:00:00`, perhaps a fraction, and `Z` or `+01:00`.
fn has_form(written: &[u8]) -> bool {
    let fits = |text: &[u8], form: &[u8]| {
        text.len() == form.len()
            && text.iter().zip(form).all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form })
    };
    let Some((start, rest)) = written.split_at_checked(19) else { return false };
    // The library takes a leap second for the one before it.
    if !fits(start, b"0000-00-00T00:00:00") || start.ends_with(b"60") {
        return false;
    }
    let offset = match rest.split_first() {
        Some((b'.', fraction)) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 || digits > 9 {
                return false;
            }
            &fraction[digits..]
        }
        _ => rest,
    };
    let is_offset = fits(offset, b"+00:00") || fits(offset, b"-00:00");
    offset == b"Z" || (is_offset && &offset[1..3] < b"24".as_slice() && &offset[4..6] < b"60".as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_is_read_and_no_other() {
        let rows = [
            ("2027-01-31T00:00:00Z", Some("2027-01-31T00:00:00Z")),
            ("2027-01-31T01:00:00+01:00", Some("2027-01-31T00:00:00Z")),
            ("2027-01-30T19:00:00-05:00", Some("2027-01-31T00:00:00Z")),
            ("2027-01-31T00:00:00.25Z", Some("2027-01-31T00:00:00.25Z")),
            ("1969-12-31T23:59:59Z", Some("1969-12-31T23:59:59Z")),
            ("2028-02-29T12:30:59Z", Some("2028-02-29T12:30:59Z")),
            ("2027-02-29T00:00:00Z", None),
            ("2027-13-01T00:00:00Z", None),
            ("2027-01-31T24:00:00Z", None),
            ("2027-01-31T23:59:60Z", None),
            ("2027-01-31T00:00:00", None),
            ("2027-01-31T00:00Z", None),
            ("2027-01-31", None),
            ("2027-01-31 00:00:00Z", None),
            ("2027-01-31t00:00:00z", None),
            ("2027-01-31T00:00:00.Z", None),
            ("2027-01-31T00:00:00+0100", None),
            ("2027-01-31T00:00:00+25:00", None),
            ("2027-01-31T00:00:00Z[UTC]", None),
            ("+002027-01-31T00:00:00Z", None),
            (" 2027-01-31T00:00:00Z", None),
            ("1801440000", None),
            ("tomorrow", None),
            ("", None),
        ];
        for (written, wanted) in rows {
            assert_eq!(parse_moment(written).map(moment_text).as_deref(), wanted, "{written}");
        }
    }
}
