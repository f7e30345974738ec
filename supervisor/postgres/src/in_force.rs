//! What is in force, where it comes from, and what PostgreSQL could not read: in its own words, never guessed.

use crate::{
    conf_text::literal,
    link::{Link, QueryError, parse},
};
use serde::Deserialize;
use std::{fmt, time::Duration};

/// Where the value of a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The setting.
    pub name: String,
    /// Its value in the asking session.
    pub value: String,
    /// PostgreSQL's word for the kind of its source.
    pub source: String,
    /// File and line, where it comes from one.
    pub place: Option<Place>,
}

impl Origin {
    /// Set for a role, a database or a session, over whatever the files say.
    #[must_use]
    pub fn is_of_session(&self) -> bool {
        matches!(
            self.source.as_str(),
            "database" | "user" | "database user" | "client" | "session" | "override" | "interactive"
        )
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = '{}' ", self.name, self.value)?;
        match &self.place {
            Some(place) => write!(f, "({place})"),
            None if self.source == "default" => write!(f, "(no file sets it)"),
            None => write!(f, "({})", self.source),
        }
    }
}

/// A line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}", self.file, self.line)?;
        // The one file that no person writes with an editor.
        if self.file.ends_with("/postgresql.auto.conf") { write!(f, ", by ALTER SYSTEM") } else { Ok(()) }
    }
}

/// A line of the configuration files, as they are now, that PostgreSQL cannot take up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Where, if PostgreSQL tells.
    pub place: Option<Place>,
    /// Which setting, and its value, if it is one.
    pub setting: Option<(String, String)>,
    /// PostgreSQL's words.
    pub error: String,
    /// No line of any file is taken up because of this one.
    pub blocks: bool,
    /// It waits for a restart.
    pub restart: bool,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, value)) = &self.setting {
            write!(f, "{name} = '{value}': ")?;
        }
        write!(f, "{}", self.error)?;
        self.place.as_ref().map_or(Ok(()), |place| write!(f, " ({place})"))
    }
}

impl Link {
    /// Where the values of these settings come from, as this session sees them.
    pub async fn origins(&self, names: &[&str], limit: Duration) -> Result<Vec<Origin>, QueryError> {
        const WHAT: &str = "ask where settings come from";
        let list: Vec<String> = names.iter().map(|name| literal(name)).collect();
        let sql = format!(
            "SELECT name, setting, source, sourcefile, sourceline FROM pg_settings WHERE name IN ({}) ORDER BY name",
            list.join(",")
        );
        let rows = self.rows(WHAT, &sql, limit).await?;
        rows.into_iter()
            .map(|row| {
                let [name, value, source, file, line] = columns(WHAT, row)?;
                let place = place(WHAT, file, line)?;
                Ok(Origin {
                    name: name.unwrap_or_default(),
                    value: value.unwrap_or_default(),
                    source: source.unwrap_or_default(),
                    place,
                })
            })
            .collect()
    }

    /// Everything in the configuration files, as they are now, that PostgreSQL cannot take up. Reads the files.
    pub async fn file_errors(&self, limit: Duration) -> Result<Vec<FileError>, QueryError> {
        const WHAT: &str = "ask for errors in the configuration files";
        // A value that does not fit leaves the others alone; what is no setting at all, or no line, does not.
        let sql = "SELECT f.sourcefile, f.sourceline, f.name, f.setting, f.error, \
                   s.name IS NULL, coalesce(s.context = 'postmaster', false) \
                   FROM pg_file_settings f LEFT JOIN pg_settings s ON lower(s.name) = lower(f.name) \
                   WHERE f.error IS NOT NULL ORDER BY f.seqno";
        let rows = self.rows(WHAT, sql, limit).await?;
        rows.into_iter()
            .map(|row| {
                let [file, line, name, value, error, blocks, restart] = columns(WHAT, row)?;
                Ok(FileError {
                    place: place(WHAT, file, line)?,
                    setting: name.map(|name| (name, value.unwrap_or_default())),
                    error: error.unwrap_or_default(),
                    blocks: blocks.as_deref() == Some("t"),
                    restart: restart.as_deref() == Some("t"),
                })
            })
            .collect()
    }
}

fn columns<const N: usize>(what: &'static str, row: Vec<Option<String>>) -> Result<[Option<String>; N], QueryError> {
    row.try_into().map_err(|_| QueryError::Answer { what, problem: "columns".to_owned() })
}

fn place(what: &'static str, file: Option<String>, line: Option<String>) -> Result<Option<Place>, QueryError> {
    let Some((file, line)) = file.zip(line) else { return Ok(None) };
    Ok(Some(Place { file, line: parse(what, &line)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_is_said_with_its_place() {
        let place = |file: &str| Some(Place { file: file.to_owned(), line: 3 });
        let mut origin = Origin {
            name: "fsync".to_owned(),
            value: "off".to_owned(),
            source: "configuration file".to_owned(),
            place: place("/d/postgresql.auto.conf"),
        };
        assert_eq!(origin.to_string(), "fsync = 'off' (/d/postgresql.auto.conf line 3, by ALTER SYSTEM)");
        origin.place = None;
        assert_eq!(origin.to_string(), "fsync = 'off' (configuration file)");
        origin.source = "default".to_owned();
        assert_eq!(origin.to_string(), "fsync = 'off' (no file sets it)");
        let error = FileError {
            place: place("/d/postgresql.conf"),
            setting: None,
            error: "syntax error".to_owned(),
            blocks: true,
            restart: false,
        };
        assert_eq!(error.to_string(), "syntax error (/d/postgresql.conf line 3)");
    }
}
