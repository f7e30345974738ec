//! Where a key stands in the file, for messages.

use toml::de::{DeTable, DeValue};

/// The line, from 1, of a byte.
pub(super) fn line_at(text: &str, byte: usize) -> usize {
    let end = byte.min(text.len());
    text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count() + 1
}

/// The line of a key, or of the innermost section above it that is written; 1 for none.
pub(super) fn line_of(text: &str, key: &[String]) -> usize {
    let Ok(document) = DeTable::parse(text) else { return 1 };
    let mut table = document.get_ref();
    let mut line = 1;
    for name in key {
        let Some((found, value)) = table.iter().find(|(written, _)| written.get_ref() == name) else { break };
        line = line_at(text, found.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    line
}
