//! What libpq would take from elsewhere, taken from here: the environment of every program that pgvigil starts, and the
//! parameters that stand in every connection string, so that neither a variable nor a file in a home directory changes a
//! connection. (`sslmode=prefer` beside a stranger's `root.crt` goes on without encryption, and nobody is told.)

use crate::{layout::Layout, version::Version};
use std::{ffi::OsString, process::Command};

/// Variables that PostgreSQL's programs get: where programs and libraries are, who the user is, language and time zone,
/// and the two that protect a postmaster from the kernel's out-of-memory killer. Nothing that libpq, TLS, Kerberos or a
/// resolver reads; HOME is for archive commands, and what libpq reads there is pinned.
const PASSED: [&str; 16] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TZDIR",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NSS_WRAPPER_PASSWD",
    "NSS_WRAPPER_GROUP",
    "PG_OOM_ADJUST_FILE",
    "PG_OOM_ADJUST_VALUE",
];

/// What no configuration may pass on: a password in the environment, say, would let a sealed member's walreceiver
/// authenticate although its pass file is empty (history A5).
const REFUSED: [&str; 7] = ["PG", "KRB5", "OPENSSL", "SSL", "RES_OPTIONS", "LOCALDOMAIN", "HOSTALIASES"];

/// Clears a command's environment of everything but what is on the list, and `LC_*`.
pub fn quiet_environment(command: &mut Command) {
    let passed: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(|name| PASSED.contains(&name) || name.starts_with("LC_")))
        .collect();
    command.env_clear().envs(passed);
}

/// Whether an archive command may be given this variable. Libraries that open connections read the others.
#[must_use]
pub fn may_pass(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(plain) && !REFUSED.iter().any(|prefix| name.starts_with(prefix))
}

/// The parameters in every connection string of ours beside address, role and password file.
///
/// The password leaves by SCRAM only: from 16 on libpq refuses everything else (`require_auth`). An older libpq gives it
/// to whoever asks for it in clear, unless `scram_plus` is set, which needs TLS: channel binding works with SCRAM alone.
#[must_use]
pub fn pinned(version: Version, layout: &Layout, scram_plus: bool) -> Vec<(&'static str, String)> {
    let text = |value: &str| value.to_owned();
    // Left out, an empty one would be taken from the environment in which somebody else started an adopted server.
    let empty = String::new;
    // There is no such file: an empty value would stand for the one in the home directory.
    let none = layout.agent_dir.join("no-such-file").display().to_string();
    let mut pinned = vec![
        ("hostaddr", empty()),
        ("options", empty()),
        ("sslmode", text(if scram_plus { "require" } else { "prefer" })),
        ("sslrootcert", none.clone()),
        ("sslcrl", none.clone()),
        ("sslcrldir", empty()),
        ("sslcert", none.clone()),
        ("sslkey", none),
        ("sslsni", text("1")),
        ("ssl_min_protocol_version", text("TLSv1.2")),
        ("ssl_max_protocol_version", empty()),
        ("gssencmode", text("disable")),
        ("channel_binding", text(if scram_plus { "require" } else { "prefer" })),
        ("target_session_attrs", text("any")),
    ];
    if version.major >= 16 {
        pinned.push(("require_auth", text("scram-sha-256")));
        pinned.push(("sslcertmode", text("disable")));
        pinned.push(("load_balance_hosts", text("disable")));
    }
    if version.major >= 17 {
        pinned.push(("sslnegotiation", text("postgres")));
    }
    pinned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_what_is_on_the_list_and_nothing_else() {
        let mut command = Command::new("env");
        command.env("PGPASSWORD", "x").env("PGSSLROOTCERT", "y").env("KRB5CCNAME", "z");
        quiet_environment(&mut command);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for line in text.lines() {
            let name = line.split_once('=').map_or(line, |(name, _)| name);
            assert!(PASSED.contains(&name) || name.starts_with("LC_"), "{line}");
        }
        assert!(text.contains("PATH="));
    }

    #[test]
    fn a_person_may_pass_on_what_no_connection_depends_on() {
        assert!(may_pass("AWS_REGION") && may_pass("WALG_S3_PREFIX") && may_pass("http_proxy"));
        for name in ["PGPASSWORD", "PGSSLROOTCERT", "KRB5_CONFIG", "OPENSSL_CONF", "SSL_CERT_FILE", "", "A=B"] {
            assert!(!may_pass(name), "{name}");
        }
    }

    #[test]
    fn the_password_leaves_by_scram_only() {
        let layout = Layout::new("/data", "/agent");
        let value = |major, plus, name| {
            let pinned = pinned(Version { major, minor: 0 }, &layout, plus);
            pinned.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value)
        };
        for major in 16..=18 {
            assert_eq!(value(major, false, "require_auth").as_deref(), Some("scram-sha-256"));
        }
        assert_eq!(value(15, false, "require_auth"), None, "libpq of 15 would refuse the word");
        assert_eq!(value(15, true, "channel_binding").as_deref(), Some("require"));
        assert_eq!(value(15, true, "sslmode").as_deref(), Some("require"));
    }
}
