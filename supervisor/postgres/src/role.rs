//! The replication role: what it must be, what people make of it, and back.

use crate::{
    conf_text::{identifier, literal},
    link::{Link, QueryError},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// What pg_rewind calls on its source (its documentation lists them for a role without superuser rights).
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// The password of the replication role.
pub struct Secret {
    password: String,
    /// The last verifier that was found to be this password's: computing that takes milliseconds.
    fits: Mutex<Option<String>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Keeps it.
    #[must_use]
    pub fn new(password: String) -> Self {
        Self { password, fits: Mutex::new(None) }
    }

    /// As it is.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Whether `verifier`, as `pg_authid` holds it, is this password's. Takes milliseconds for each new one.
    fn fits(&self, verifier: &str) -> bool {
        if self.known(verifier) {
            return true;
        }
        let fits = scram_fits(verifier, &self.password) == Some(true);
        if fits {
            self.remember(verifier);
        }
        fits
    }

    fn known(&self, verifier: &str) -> bool {
        self.fits.lock().unwrap_or_else(PoisonError::into_inner).as_deref() == Some(verifier)
    }

    fn remember(&self, verifier: &str) {
        *self.fits.lock().unwrap_or_else(PoisonError::into_inner) = Some(verifier.to_owned());
    }
}

/// More than anybody uses; a verifier with more is replaced rather than computed.
const MOST_ITERATIONS: u32 = 100_000;

/// Whether `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` belongs to the password; `None`: it is no such text.
fn scram_fits(verifier: &str, password: &str) -> Option<bool> {
    let (head, keys) = verifier.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
    let (iterations, salt) = head.split_once(':')?;
    let (stored, _) = keys.split_once(':')?;
    let (iterations, salt) = (iterations.parse::<u32>().ok()?, STANDARD.decode(salt).ok()?);
    if iterations > MOST_ITERATIONS {
        return None;
    }
    let prepared = stringprep::saslprep(password).map_or_else(|_| password.to_owned(), std::borrow::Cow::into_owned);
    let keyed = |key: &[u8], parts: &[&[u8]]| -> Option<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
        parts.iter().for_each(|part| mac.update(part));
        Some(mac.finalize().into_bytes().into())
    };
    let mut round = keyed(prepared.as_bytes(), &[&salt, &[0, 0, 0, 1]])?;
    let mut salted = round;
    for _ in 1..iterations {
        round = keyed(prepared.as_bytes(), &[&round])?;
        salted.iter_mut().zip(round).for_each(|(sum, byte)| *sum ^= byte);
    }
    let client = keyed(&salted, &[b"Client Key"])?;
    Some(STANDARD.decode(stored).ok()? == Sha256::digest(client).as_slice())
}

/// How closely the role is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Whether it is there and may log in: one query.
    Quick,
    /// Its password too: milliseconds of computing when the verifier is a new one.
    Close,
}

impl Link {
    /// Puts the replication role in order: it is there, may log in at any time as often as it likes with this password,
    /// replicate, and run what pg_rewind needs. Returns what was wrong; where nothing was, nothing is written. On a primary
    /// only; in a session that does not wait for standbys, since none may be able to connect. Only the password's SCRAM
    /// verifier leaves this process, so no log shows it.
    pub async fn mend_replication_role(
        &self,
        role: &str,
        secret: &Secret,
        look: Look,
        limit: Duration,
    ) -> Result<Vec<&'static str>, QueryError> {
        let facts = self.rows("look at the replication role", &facts(role), limit).await?.pop();
        let name = identifier(role);
        let wrong = match &facts {
            None => vec!["it did not exist"],
            Some(facts) => faults(facts, secret, look),
        };
        if wrong.is_empty() {
            return Ok(wrong);
        }
        let verifier = postgres_protocol::password::scram_sha_256(secret.password.as_bytes());
        let verb = if facts.is_none() { "CREATE" } else { "ALTER" };
        let mut sql = format!(
            "{verb} ROLE {name} LOGIN REPLICATION CONNECTION LIMIT -1 VALID UNTIL 'infinity' PASSWORD {};",
            literal(&verifier)
        );
        if wrong.contains(&OWN_SETTINGS) {
            sql += &format!("ALTER ROLE {name} RESET ALL;");
        }
        for function in REWIND_FUNCTIONS {
            sql += &format!("GRANT EXECUTE ON FUNCTION {function} TO {name};");
        }
        if wrong.contains(&NO_DATABASE) {
            sql += &format!("GRANT CONNECT ON DATABASE postgres TO {name};");
        }
        self.execute("put the replication role in order", &sql, limit).await?;
        secret.remember(&verifier);
        Ok(wrong)
    }
}

const OWN_SETTINGS: &str = "it had settings of its own";
const NO_DATABASE: &str = "it might not connect to database postgres";

/// Asks for everything that [`faults`] reads, in its order.
fn facts(role: &str) -> String {
    let may_run = REWIND_FUNCTIONS.map(|f| format!("has_function_privilege(a.oid, {}, 'EXECUTE')", literal(f)));
    format!(
        "SELECT a.rolcanlogin, a.rolreplication, a.rolconnlimit < 0, \
         coalesce(a.rolvaliduntil = 'infinity', true), {}, \
         coalesce((SELECT has_database_privilege(a.oid, d.oid, 'CONNECT') FROM pg_database d WHERE datname = 'postgres'), true), \
         NOT EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setrole = a.oid AND s.setdatabase = 0), a.rolpassword \
         FROM pg_authid a WHERE a.rolname = {}",
        may_run.join(" AND "),
        literal(role)
    )
}

fn faults(facts: &[Option<String>], secret: &Secret, look: Look) -> Vec<&'static str> {
    let words = [
        "it might not log in",
        "it might not replicate",
        "its connections were limited",
        "its password had an end",
        "it might not run what pg_rewind needs",
        NO_DATABASE,
        OWN_SETTINGS,
    ];
    let mut wrong: Vec<&'static str> =
        words.into_iter().zip(facts).filter(|(_, fact)| fact.as_deref() != Some("t")).map(|(word, _)| word).collect();
    let other = match facts.last().and_then(Option::as_deref) {
        None => true,
        Some(verifier) => look == Look::Close && !secret.fits(verifier),
    };
    if other {
        wrong.push("its password was not the one of the configuration");
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_known_by_its_password() {
        for password in ["pencil", r"p:a'ss\word", "\u{2168}", "with\u{a0}space", ""] {
            let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
            assert_eq!(scram_fits(&verifier, password), Some(true), "{password:?}");
            assert_eq!(scram_fits(&verifier, "another"), Some(false));
            let secret = Secret::new(password.to_owned());
            assert!(secret.fits(&verifier) && secret.known(&verifier));
        }
        for odd in ["", "md5aabb", "SCRAM-SHA-256$x:y$z:w", "SCRAM-SHA-256$4096:AAAA$AAAA"] {
            assert_eq!(scram_fits(odd, "x"), None, "{odd}");
            assert!(!Secret::new("x".to_owned()).fits(odd));
        }
    }
}
