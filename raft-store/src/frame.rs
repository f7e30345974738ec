//! How every value is wrapped on disk: one format byte, a CRC-32C, then the payload as JSON.
//!
//! The checksum covers the format byte, the key under which the value is stored and the payload, so that a flipped
//! bit, a torn write and a value that sits under a foreign key all show. A value that cannot be read is an error
//! that names the key; it is never taken for "nothing stored", which for a vote would permit a second one.

use crate::error::StoreError;
use serde::{Serialize, de::DeserializeOwned};

/// The payload is JSON. The only format so far.
const JSON: u8 = 1;

/// Bytes before the payload: format byte and checksum.
const HEADER: usize = 5;

/// Wraps `value` for storage under `key`.
pub(crate) fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![JSON, 0, 0, 0, 0];
    serde_json::to_writer(&mut bytes, value)
        .map_err(|source| StoreError::Unencodable { key: key.to_owned(), source })?;
    let checksum = checksum(JSON, key, &bytes[HEADER..]);
    bytes[1..HEADER].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// Unwraps what was stored under `key`, after checking format and checksum.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { key: key.to_owned(), reason };
    if bytes.len() < HEADER {
        return Err(damaged(format!("{} bytes long, a frame has at least {HEADER}", bytes.len())));
    }
    let (header, payload) = bytes.split_at(HEADER);
    if header[0] != JSON {
        return Err(damaged(format!("format byte {}, this program knows {JSON}", header[0])));
    }
    let stored = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    let actual = checksum(JSON, key, payload);
    if stored != actual {
        return Err(damaged(format!("checksum {actual:08x} does not match the stored {stored:08x}")));
    }
    serde_json::from_slice(payload).map_err(|e| damaged(format!("checksum matches, content does not parse: {e}")))
}

fn checksum(format: u8, key: &str, payload: &[u8]) -> u32 {
    let start = crc32c::crc32c_append(crc32c::crc32c(&[format]), key.as_bytes());
    crc32c::crc32c_append(start, payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        schema::Identity,
        state_machine::Applied,
        type_config::{Entry, Vote},
    };
    use proptest::{collection::vec, prelude::*, sample::Index};

    #[test]
    fn every_single_bit_flip_is_an_error_that_names_the_key() {
        let good = encode("meta/vote", &"a value").expect("a string is JSON");
        assert_eq!(decode::<String>("meta/vote", &good).expect("untouched"), "a value");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = decode::<String>("meta/vote", &bad).expect_err("a flipped bit must show").to_string();
            assert!(error.contains("meta/vote"), "{error}");
        }
    }

    #[test]
    fn a_value_under_a_foreign_key_is_an_error() {
        let bytes = encode("logs/7", &7).expect("a number is JSON");
        assert!(decode::<i32>("logs/8", &bytes).is_err());
    }

    /// What a store may hold behind a good checksum: bytes of another version, or of a program that erred.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let entry = r#"{"log_id":{"leader_id":{"term":3,"node_id":1},"index":7},"payload":{"Normal":{"cluster":"c"}}}"#;
        let edits = vec((any::<Index>(), any::<u8>()), 0..6);
        let damaged = (edits, any::<Index>()).prop_map(move |(edits, cut)| {
            let mut bytes = entry.as_bytes().to_vec();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let length = bytes.len();
            bytes.truncate(length - cut.index(length + 1) / 8);
            bytes
        });
        prop_oneof![damaged, vec(any::<u8>(), 0..200)]
    }

    proptest! {
        /// Whatever lies in the store, it is read or refused by name; nothing panics and nothing is taken for "none".
        #[test]
        fn any_payload_is_read_or_refused_with_its_key(payload in payload(), checked in any::<bool>()) {
            let sum = if checked { checksum(JSON, "logs/7", &payload) } else { 0 };
            let bytes = [&[JSON], sum.to_le_bytes().as_slice(), &payload].concat();
            let refused = [
                decode::<Entry>("logs/7", &bytes).err(),
                decode::<Vote>("logs/7", &bytes).err(),
                decode::<Applied>("logs/7", &bytes).err(),
                decode::<Identity>("logs/7", &bytes).err(),
            ];
            for error in refused.into_iter().flatten() {
                prop_assert!(error.to_string().contains("logs/7"), "{}", error);
            }
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let good = encode("k", &"text").expect("a string is JSON");
        for length in 0..good.len() {
            assert!(decode::<String>("k", &good[..length]).is_err(), "length {length}");
        }
    }
}
