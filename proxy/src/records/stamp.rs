//! When something happened, as records say it.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::Offset;
use serde::{Serialize, Serializer};

/// RFC 3339 with microseconds, in UTC: `2026-11-22T21:58:30.123456Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(Timestamp);

impl Stamp {
    pub fn now() -> Self {
        Self(Timestamp::now())
    }

    /// By hand, as there is one in each record. `None`: the year hasn't four digits.
    fn text(self) -> Option<[u8; 27]> {
        let at = Offset::UTC.to_datetime(self.0);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let year = u32::try_from(at.year()).ok().filter(|year| *year <= 9999)?;
        let parts = [
            (0..4, year),
            (5..7, at.month().unsigned_abs().into()),
            (8..10, at.day().unsigned_abs().into()),
            (11..13, at.hour().unsigned_abs().into()),
            (14..16, at.minute().unsigned_abs().into()),
            (17..19, at.second().unsigned_abs().into()),
            (20..26, at.subsec_nanosecond().unsigned_abs() / 1000),
        ];
        for (place, mut number) in parts {
            for digit in text[place].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        Some(text)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.0)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.text().as_ref().and_then(|text| std::str::from_utf8(text).ok()) {
            Some(text) => serializer.serialize_str(text),
            None => serializer.collect_str(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_as_the_calendar_says(micros in -62_135_596_800_000_000_i64..253_402_207_200_000_000) {
            let stamp = Stamp(Timestamp::from_microsecond(micros).unwrap());
            prop_assert_eq!(stamp.text().map(|text| text.to_vec()), Some(stamp.to_string().into_bytes()));
        }
    }

    #[test]
    fn what_is_no_year_of_four_digits_is_written_too() {
        let stamp = Stamp(Timestamp::MIN);
        assert_eq!(stamp.text(), None);
        assert_eq!(serde_json::to_value(stamp).unwrap(), stamp.to_string());
    }
}
