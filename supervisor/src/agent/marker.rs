//! The mark inside the data directory: whose it is and in which incarnation.

use pgvigil_core::local::Marker;
use pgvigil_postgres::fsio::{FsError, read_text, write_atomic};
use std::path::Path;

const NAME: &str = "pgvigil.marker";

/// A mark that cannot be read. Undecodable is not the same as absent.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// The file system did not cooperate.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The file is there but makes no sense.
    #[error("{path} is damaged: {source}; restore it, or move the data directory away to have it made anew")]
    Damaged {
        /// Which file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// Reads the mark; `None` if there is none.
pub fn read(data_dir: &Path) -> Result<Option<Marker>, MarkerError> {
    let path = data_dir.join(NAME);
    let Some(text) = read_text(&path)? else { return Ok(None) };
    let marker = serde_json::from_str(&text)
        .map_err(|source| MarkerError::Damaged { path: path.display().to_string(), source })?;
    Ok(Some(marker))
}

/// Writes the mark durably.
pub fn write(data_dir: &Path, marker: &Marker) -> Result<(), MarkerError> {
    let path = data_dir.join(NAME);
    let text = serde_json::to_string(marker)
        .map_err(|source| MarkerError::Damaged { path: path.display().to_string(), source })?;
    write_atomic(&path, text.as_bytes(), 0o600)?;
    Ok(())
}
