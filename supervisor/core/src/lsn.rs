//! A place in PostgreSQL's write-ahead log, as bytes since its beginning.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// PostgreSQL's LSN: a byte position in the WAL. Comparable only along one timeline's history; see
/// [`Position`](crate::position::Position) for what may be compared across timelines.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

/// Text that is not an LSN of the form `X/X`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN; expected two hexadecimal numbers of up to 8 digits, such as 16/B374D848")]
pub struct ParseLsnError(String);

impl Lsn {
    /// The beginning: no WAL at all.
    pub const ZERO: Self = Self(0);

    /// Bytes from `earlier` to this one; 0 when this one is not later.
    #[must_use]
    pub const fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let refuse = || ParseLsnError(text.to_owned());
        let (high, low) = text.trim().split_once('/').ok_or_else(refuse)?;
        let part = |digits: &str| {
            let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if plain { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        match (part(high), part(low)) {
            (Some(high), Some(low)) => Ok(Self(high << 32 | low)),
            _ => Err(refuse()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_the_same_text() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/3000060"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_an_lsn() {
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "g/0", "123456789/0", "+1/0", "-1/0", "1/ 2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
