//! Up to where k standbys of the rule in force have WAL, as a look at the primary's walsenders shows it.

use pgvigil_core::{cluster::ClusterState, local::Local, lsn::Lsn, sample::Walsender};

/// See the module; `None` while no rule of this reign is in force, or fewer stream.
#[must_use]
pub fn confirmed(agreed: &ClusterState, local: &Local, walsenders: &[Walsender]) -> Option<Lsn> {
    let rule = local.rule_in_force(agreed)?;
    rule.setting.confirmed(|key| flushed(&agreed.sync_name(key, rule.epoch), walsenders))
}

/// What has come in and was flushed under `name`: with two walsenders of one name, the one that has more may be a copy's.
fn flushed(name: &str, walsenders: &[Walsender]) -> Option<Lsn> {
    let counts = |sender: &&Walsender| matches!(sender.state.as_deref(), Some("streaming" | "stopping"));
    let named = walsenders.iter().filter(|sender| sender.application_name == name).filter(counts);
    named.map(|sender| sender.flush_lsn).min().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgvigil_core::{
        id::{Incarnation, MemberKey},
        rule::Setting,
    };

    fn sender(name: &str, state: &str, flush: Option<&str>) -> Walsender {
        serde_json::from_value(serde_json::json!({
            "pid": 1, "application_name": name, "role": null, "address": null, "encrypted": null, "port": null, "age_ms": 0,
            "replied": null, "state": state, "sync_state": null, "sent_lsn": null, "write_lsn": null, "flush_lsn": flush,
            "replay_lsn": null, "reply_age_ms": null,
        }))
        .unwrap()
    }

    /// With `ANY 2` one standby that goes on confirms nothing; a name that others took too counts by the one behind.
    #[test]
    fn confirmed_is_what_as_many_have_as_the_rule_demands() {
        let rows = [
            sender("b", "streaming", Some("0/30")),
            sender("c", "streaming", Some("0/20")),
            sender("d", "catchup", Some("0/90")),
            sender("", "streaming", Some("0/99")),
        ];
        let confirmed = |k, names: &[&str], rows: &[Walsender]| {
            let cohort = names.iter().map(|name| MemberKey::new((*name).into(), Incarnation(1))).collect();
            Setting { cohort, k }.confirmed(|key| flushed(key.member.as_str(), rows))
        };
        assert_eq!(confirmed(1, &["b", "c", "d"], &rows), Some(Lsn(0x30)));
        assert_eq!(confirmed(2, &["b", "c", "d"], &rows), Some(Lsn(0x20)));
        assert_eq!(confirmed(3, &["b", "c", "d"], &rows), None);
        assert_eq!(confirmed(1, &["c"], &rows), Some(Lsn(0x20)));
        assert_eq!(confirmed(0, &["b"], &rows), None);
        let twice = [sender("b", "streaming", Some("0/30")), sender("b", "streaming", Some("0/10"))];
        assert_eq!(confirmed(1, &["b"], &twice), Some(Lsn(0x10)));
        let fresh = [sender("b", "streaming", Some("0/30")), sender("b", "streaming", None)];
        assert_eq!(confirmed(1, &["b"], &fresh), None);
    }
}
