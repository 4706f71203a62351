//! The numbers that messages have for types of records and outcomes, as people write them.

use std::fmt;

use serde::{Serialize, Serializer};

/// A type of records by its IANA number. Shown as `AAAA`, or as `TYPE1234` where it has no name here (RFC 3597 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordType(pub u16);

impl RecordType {
    pub const A: Self = Self(1);
    pub const CNAME: Self = Self(5);
    pub const AAAA: Self = Self(28);
    pub const OPT: Self = Self(41);
    pub const SVCB: Self = Self(64);
    pub const HTTPS: Self = Self(65);
    pub const IXFR: Self = Self(251);
    pub const AXFR: Self = Self(252);
    pub const ANY: Self = Self(255);

    /// Whether it asks for something else than records of one type or of all: a transfer, or what the protocol itself needs
    /// (RFC 6895 section 3.1).
    pub const fn is_meta(self) -> bool {
        self.0 == Self::OPT.0 || (self.0 >= 128 && self.0 < Self::ANY.0)
    }

    fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            1 => "A",
            2 => "NS",
            5 => "CNAME",
            6 => "SOA",
            10 => "NULL",
            12 => "PTR",
            13 => "HINFO",
            15 => "MX",
            16 => "TXT",
            17 => "RP",
            18 => "AFSDB",
            24 => "SIG",
            25 => "KEY",
            28 => "AAAA",
            29 => "LOC",
            33 => "SRV",
            35 => "NAPTR",
            36 => "KX",
            37 => "CERT",
            39 => "DNAME",
            41 => "OPT",
            42 => "APL",
            43 => "DS",
            44 => "SSHFP",
            45 => "IPSECKEY",
            46 => "RRSIG",
            47 => "NSEC",
            48 => "DNSKEY",
            49 => "DHCID",
            50 => "NSEC3",
            51 => "NSEC3PARAM",
            52 => "TLSA",
            53 => "SMIMEA",
            55 => "HIP",
            59 => "CDS",
            60 => "CDNSKEY",
            61 => "OPENPGPKEY",
            62 => "CSYNC",
            63 => "ZONEMD",
            64 => "SVCB",
            65 => "HTTPS",
            99 => "SPF",
            249 => "TKEY",
            250 => "TSIG",
            251 => "IXFR",
            252 => "AXFR",
            255 => "ANY",
            256 => "URI",
            257 => "CAA",
            _ => return None,
        })
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

impl Serialize for RecordType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        written(self, self.name(), serializer)
    }
}

/// What a server says of a query, with the bits that EDNS adds to it (RFC 6891 section 6.1.3): 0 to 4095. Shown as `NXDOMAIN`, or as
/// `RCODE3841` where it has no name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rcode(pub u16);

impl Rcode {
    pub const NO_ERROR: Self = Self(0);
    pub const FORM_ERR: Self = Self(1);
    pub const SERV_FAIL: Self = Self(2);
    pub const NX_DOMAIN: Self = Self(3);
    pub const REFUSED: Self = Self(5);
}

impl Rcode {
    fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "NOERROR",
            1 => "FORMERR",
            2 => "SERVFAIL",
            3 => "NXDOMAIN",
            4 => "NOTIMP",
            5 => "REFUSED",
            6 => "YXDOMAIN",
            7 => "YXRRSET",
            8 => "NXRRSET",
            9 => "NOTAUTH",
            10 => "NOTZONE",
            16 => "BADVERS",
            23 => "BADCOOKIE",
            _ => return None,
        })
    }
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "RCODE{}", self.0),
        }
    }
}

impl Serialize for Rcode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        written(self, self.name(), serializer)
    }
}

/// As it is shown, without being formatted where it has a name.
fn written<S: Serializer>(shown: &impl fmt::Display, name: Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.serialize_str(name),
        None => serializer.collect_str(shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_names_that_people_write() {
        for (number, name) in [(1, "A"), (65, "HTTPS"), (257, "CAA"), (1234, "TYPE1234"), (0, "TYPE0")] {
            assert_eq!(RecordType(number).to_string(), name);
            assert_eq!(serde_json::to_value(RecordType(number)).unwrap(), name);
        }
        for (number, name) in [(0, "NOERROR"), (3, "NXDOMAIN"), (16, "BADVERS"), (3841, "RCODE3841")] {
            assert_eq!(Rcode(number).to_string(), name);
            assert_eq!(serde_json::to_value(Rcode(number)).unwrap(), name);
        }
    }

    /// Where both have a name for a number, it is the same one.
    #[test]
    fn names_are_those_of_the_parser() {
        let mut both = 0;
        for number in 0..=u16::MAX {
            let theirs: &str = hickory_proto::rr::RecordType::from(number).into();
            if let Some(ours) = RecordType(number).name()
                && theirs != "Unknown"
            {
                assert_eq!(ours, theirs, "{number}");
                both += 1;
            }
        }
        assert!(both > 30, "{both}");
    }

    #[test]
    fn transfers_and_machinery_are_no_types_of_records() {
        let meta = (0..=u16::MAX).map(RecordType).filter(|number| number.is_meta()).count();
        assert_eq!(meta, 1 + 127);
        for number in [RecordType::OPT, RecordType::AXFR, RecordType::IXFR, RecordType(249), RecordType(250)] {
            assert!(number.is_meta(), "{number}");
        }
        for number in [RecordType::A, RecordType::ANY, RecordType::HTTPS, RecordType(256), RecordType(127)] {
            assert!(!number.is_meta(), "{number}");
        }
    }
}
