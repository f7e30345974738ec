//! The settings by name, for people: value, default, what is allowed and why.
//!
//! Bounds are not written down here a second time: they are found by asking the core's own check.

use pgvigil_core::settings::{SettingRefused, Settings};
use serde_json::{Map, Value};

/// One setting as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Its default.
    pub default_value: String,
    /// What is allowed, and why.
    pub allowed: String,
    /// What it does.
    pub meaning: &'static str,
}

/// A change that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// No such setting.
    #[error("there is no setting {key:?}; the settings are: {known}")]
    Unknown {
        /// What was named.
        key: String,
        /// All names.
        known: String,
    },
    /// Not of its type.
    #[error("setting {key} = {value:?} is refused: {allowed}")]
    Type {
        /// Which.
        key: String,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// Out of its bounds.
    #[error(transparent)]
    Bound(#[from] SettingRefused),
}

fn meaning(key: &str) -> &'static str {
    match key {
        "sync_standbys" => "how many standbys must have flushed a commit before it is acknowledged (k)",
        "heartbeat_ms" => "how often an agent reports, and asks for the lease to be renewed",
        "canary_ms" => "how often the primary's agent makes a small commit of its own",
        "lease_ms" => "the primary's right to serve after its last renewal or canary",
        "lease_margin_ms" => "how much longer than the holder of the lease its granter waits",
        "suspect_ms" => "silence of an agent after which it is suspected",
        "hang_timeout_ms" => "a canary that hangs longer means that PostgreSQL or its disk hangs",
        "standby_timeout_ms" => "a standby that is silent for longer leaves the durability rule",
        "sync_lag_max_bytes" => "a standby that is further behind leaves the durability rule",
        "switchover_drain_ms" => "how long a planned change may drain before it is forced",
        "restart_timeout_ms" => "how long a restart in place may take before it counts as failed",
        "crash_policy" => "what happens when only the primary's PostgreSQL died and its host is well",
        "automatic_failover" => "whether a failover may begin without an operator",
        "leader_away_from_primary" => "whether the Raft leader keeps off the primary's host when it can",
        "fence_by_time" => {
            "whether a lost primary counts as fenced once its lease has run out; off: a fence command must"
        }
        "serve_without_rule" => {
            "whether clients are served while PostgreSQL cannot be made to show the agreed rule; such times count against \
             RPO 0"
        }
        "slot_wal_max_mib" => "the most WAL that replication slots may hold back; a slot that needs more is lost",
        _ => "",
    }
}

fn table(settings: &Settings) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(mut table)) => {
            // Left out where it is not used: see `Settings`.
            table.entry("serve_without_rule").or_insert(settings.serve_without_rule.into());
            table
        }
        _ => Map::new(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Every setting.
#[must_use]
pub fn catalogue(settings: &Settings) -> Vec<Shown> {
    let defaults = table(&Settings::default());
    table(settings)
        .into_iter()
        .map(|(key, value)| Shown {
            value: text(&value),
            default_value: defaults.get(&key).map(text).unwrap_or_default(),
            allowed: allowed(settings, &key, &value),
            meaning: meaning(&key),
            key,
        })
        .collect()
}

fn allowed(settings: &Settings, key: &str, value: &Value) -> String {
    match value {
        Value::Bool(_) => "true or false".to_owned(),
        Value::String(_) => words(key).to_owned(),
        _ => match bound(settings, key) {
            Some((bound, reason)) => format!("at least {bound}: {reason}"),
            None => "any number from 0".to_owned(),
        },
    }
}

fn words(key: &str) -> &'static str {
    match key {
        "crash_policy" => "failover or restart",
        _ => "a word",
    }
}

/// The smallest value that the check lets pass with the other settings as they are, and the reason why none below.
fn bound(settings: &Settings, key: &str) -> Option<(u64, String)> {
    let refused = |candidate: u64| -> Option<SettingRefused> {
        let mut table = table(settings);
        table.insert(key.to_owned(), candidate.into());
        let settings: Settings = serde_json::from_value(Value::Object(table)).ok()?;
        settings.validate().err().filter(|refused| refused.key == key)
    };
    refused(0)?;
    let (mut below, mut passes) = (0_u64, 1_u64);
    while refused(passes).is_some() {
        below = passes;
        passes = passes.checked_mul(2).filter(|next| *next <= u64::from(u32::MAX))?;
    }
    while passes - below > 1 {
        let middle = below + (passes - below) / 2;
        if refused(middle).is_some() {
            below = middle;
        } else {
            passes = middle;
        }
    }
    Some((passes, refused(below)?.reason))
}

/// The settings with some of them changed: all or none.
pub fn changed<'a>(
    settings: &Settings,
    changes: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Settings, ChangeRefused> {
    let mut values = table(settings);
    for (key, value) in changes {
        let known = || values.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let Some(present) = values.get(key) else {
            return Err(ChangeRefused::Unknown { key: key.to_owned(), known: known() });
        };
        let wrong = |allowed: String| ChangeRefused::Type { key: key.to_owned(), value: value.to_owned(), allowed };
        let parsed = match present {
            Value::Bool(_) => match value {
                "true" | "on" | "yes" => Value::Bool(true),
                "false" | "off" | "no" => Value::Bool(false),
                _ => return Err(wrong("true or false".to_owned())),
            },
            Value::String(_) => Value::String(value.to_owned()),
            _ => value.parse::<u64>().map(Value::from).map_err(|_| {
                wrong(
                    bound(settings, key).map_or("a number".to_owned(), |(b, why)| format!("a number from {b}: {why}")),
                )
            })?,
        };
        let mut attempt = values.clone();
        attempt.insert(key.to_owned(), parsed);
        if serde_json::from_value::<Settings>(Value::Object(attempt.clone())).is_err() {
            let allowed = if matches!(present, Value::String(_)) { words(key) } else { "a number, not as large" };
            return Err(wrong(allowed.to_owned()));
        }
        values = attempt;
    }
    let settings: Settings = serde_json::from_value(Value::Object(values)).map_err(|error| ChangeRefused::Type {
        key: "settings".to_owned(),
        value: String::new(),
        allowed: error.to_string(),
    })?;
    settings.validate()?;
    countable(&settings)?;
    Ok(settings)
}

/// Refuses a rule that PostgreSQL cannot count: under `ANY k` it counts walsenders, not members. A standby that reconnects
/// while its old walsender lives on has two under one name, and with k ≥ 2 both may confirm a commit that only this one
/// member has (found by simulation, storm 1000758). A physical slot does not mend it: a walsender that ends lets go of its
/// slot before it stops being counted (`chaos/model`, `counting`, which also shows what would: names that let in one
/// connection). With k = 1 one confirmation is one member. Keeps S1.
pub fn countable(settings: &Settings) -> Result<(), SettingRefused> {
    if settings.sync_standbys <= 1 {
        return Ok(());
    }
    Err(SettingRefused {
        key: "sync_standbys".to_owned(),
        value: settings.sync_standbys.to_string(),
        allowed: "it must be 1 in this version".to_owned(),
        reason: "PostgreSQL counts walsenders, not members: it may count a standby that reconnects twice, with a \
                 replication slot too, and an acknowledged commit could be lost"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_meaning_and_numbers_have_a_bound_with_its_reason() {
        for shown in catalogue(&Settings::default()) {
            assert!(!shown.meaning.is_empty(), "{}", shown.key);
            let number = shown.value.parse::<u64>().is_ok();
            assert_eq!(number, shown.allowed.starts_with("at least "), "{}: {}", shown.key, shown.allowed);
        }
    }

    #[test]
    fn the_bound_is_the_smallest_value_that_passes() {
        let (bound, reason) = bound(&Settings::default(), "lease_ms").unwrap();
        assert_eq!(bound, 1000);
        assert!(!reason.is_empty());
        let slow = Settings { heartbeat_ms: 350, ..Settings::default() };
        assert_eq!(super::bound(&slow, "lease_ms").unwrap().0, 1400);
    }

    #[test]
    fn changes_are_all_or_none_and_say_what_is_allowed() {
        let settings = Settings::default();
        let next = changed(&settings, [("lease_ms", "2000"), ("crash_policy", "restart")]).unwrap();
        assert_eq!(next.lease_ms, 2000);
        for (key, value, says) in [
            ("lease_ms", "10", "at least 1000"),
            ("lease_ms", "soon", "a number from 1000"),
            ("lease", "2000", "lease_margin_ms"),
            ("crash_policy", "pray", "failover or restart"),
            ("automatic_failover", "maybe", "true or false"),
            ("sync_standbys", "5000000000", "not as large"),
            ("sync_standbys", "2", "must be 1 in this version"),
        ] {
            let refused = changed(&settings, [("suspect_ms", "900"), (key, value)]).unwrap_err().to_string();
            assert!(refused.contains(says), "{key}={value}: {refused}");
        }
    }
}
