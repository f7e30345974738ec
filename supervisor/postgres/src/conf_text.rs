//! The three small languages that settings are written in: configuration file, libpq connection string, pass file.

pub use pgvigil_core::sync_rule::identifier;

/// Text that cannot be written into a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A line break or NUL would end the line.
    #[error("the value of {name} contains a line break or NUL")]
    Control {
        /// Of which setting.
        name: String,
    },
    /// Not a parameter name.
    #[error("{name:?} is not the name of a PostgreSQL parameter")]
    Name {
        /// What was given.
        name: String,
    },
}

/// One line of a configuration file: `name = 'value'`, quoted so that PostgreSQL reads exactly `value`.
pub fn assignment(name: &str, value: &str) -> Result<String, TextError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '$';
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') || !name.chars().all(plain) {
        return Err(TextError::Name { name: name.to_owned() });
    }
    refuse_control(name, value)?;
    Ok(format!("{name} = {}\n", quoted(value)))
}

/// A value in quotes as PostgreSQL's configuration files (and SQL's `E''`) read it: quotes and backslashes doubled.
#[must_use]
pub fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// An SQL string literal, whatever `standard_conforming_strings` says.
#[must_use]
pub fn literal(value: &str) -> String {
    if value.contains('\\') { format!(" E{}", quoted(value)) } else { format!("'{}'", value.replace('\'', "''")) }
}

/// A libpq connection string of `keyword='value'` pairs; an empty value is written as such.
#[must_use]
pub fn conninfo(pairs: &[(&str, String)]) -> String {
    let words = pairs.iter().map(|(keyword, value)| {
        let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:,*".contains(c));
        if plain {
            format!("{keyword}={value}")
        } else {
            format!("{keyword}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// One line of a pass file that gives `user` its password on every database of one server, and of no other; host `*`: of
/// any that listens on that port.
pub fn pass_line(host: &str, port: u16, user: &str, password: &str) -> Result<String, TextError> {
    refuse_control("host", host)?;
    refuse_control("user", user)?;
    refuse_control("password", password)?;
    let field = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    Ok(format!("{}:{port}:*:{}:{}\n", field(host), field(user), field(password)))
}

/// Parses one line of a configuration file into (name in lower case, value); `None` for blanks and comments, and for
/// lines that PostgreSQL itself would refuse.
#[must_use]
pub fn parse_assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_.$".contains(c))).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(inner) => unquote(inner),
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next().unwrap_or_default().to_owned(),
    };
    Some((name.to_ascii_lowercase(), value))
}

fn unquote(inner: &str) -> String {
    let mut value = String::new();
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => value.extend(chars.next()),
            '\'' => break,
            '\\' => match chars.next() {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some(other) => value.push(other),
                None => break,
            },
            c => value.push(c),
        }
    }
    value
}

fn refuse_control(name: &str, value: &str) -> Result<(), TextError> {
    if value.contains(['\n', '\r', '\0']) { Err(TextError::Control { name: name.to_owned() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strange_values_are_quoted() {
        assert_eq!(assignment("a.b", r"it's \ x").unwrap(), "a.b = 'it''s \\\\ x'\n");
        assert!(assignment("a b", "x").is_err() && assignment("a", "x\ny").is_err() && assignment("", "x").is_err());
        assert_eq!(
            conninfo(&[("host", "h".into()), ("a", String::new()), ("p", "x y'".into())]),
            r"host=h a='' p='x y\''"
        );
        assert_eq!(pass_line("::1", 5432, "u", r"a:b\c").unwrap(), "\\:\\:1:5432:*:u:a\\:b\\\\c\n");
        assert_eq!(literal(r"a'b\"), r" E'a''b\\'");
    }

    #[test]
    fn lines_are_read_as_postgresql_reads_them() {
        let parse = |line| parse_assignment(line);
        assert_eq!(parse("Port 5433 # x"), Some(("port".into(), "5433".into())));
        assert_eq!(parse("  # port = 1"), None);
        assert_eq!(parse("x='a''b' # c"), Some(("x".into(), "a'b".into())));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in "[^\n\r\0]*") {
            let line = assignment("x", &value).unwrap();
            prop_assert_eq!(parse_assignment(&line), Some(("x".to_owned(), value)));
        }
    }
}
