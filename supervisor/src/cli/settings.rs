//! `pgvigil settings`: the agreed settings with what is allowed.

use super::{
    Client, Output,
    args::{SettingsArguments, SettingsCommand},
    asks::{agreed, done},
    client::Repeat,
    format::{operator, table},
    outcome::Failure,
};
use pgvigil_proto::v1;
use serde_json::{Map, Value, json};

pub(super) async fn run(client: &mut Client, out: Output, args: SettingsArguments) -> Result<(), Failure> {
    match args.what {
        None => get(client, out, None).await,
        Some(SettingsCommand::Get { key }) => get(client, out, key).await,
        Some(SettingsCommand::Set { changes }) => set(client, out, changes).await,
    }
}

async fn get(client: &mut Client, out: Output, key: Option<String>) -> Result<(), Failure> {
    let question = v1::GetSettingsRequest { cluster: client.cluster() };
    let answer = client.call(Repeat::Safe, question, |mut c, q| async move { c.get_settings(q).await }).await?;
    let mut settings = answer.settings;
    if let Some(key) = &key {
        let known = settings.iter().map(|setting| setting.key.as_str()).collect::<Vec<_>>().join(", ");
        settings.retain(|setting| setting.key == *key);
        if settings.is_empty() {
            return Err(Failure::Usage(format!("there is no setting {key:?}; the settings are: {known}")));
        }
    }
    let values: Map<String, Value> = settings
        .iter()
        .map(|setting| {
            let value = json!({
                "value": typed(&setting.value), "default": typed(&setting.default_value),
                "allowed": setting.allowed, "meaning": setting.meaning,
            });
            (setting.key.clone(), value)
        })
        .collect();
    out.print(&values, || {
        let rows: Vec<Vec<String>> = settings
            .iter()
            .map(|setting| {
                let changed = if setting.value == setting.default_value { "" } else { " *" };
                vec![
                    setting.key.clone(),
                    format!("{}{changed}", setting.value),
                    setting.default_value.clone(),
                    setting.meaning.clone(),
                    setting.allowed.clone(),
                ]
            })
            .collect();
        table(&["SETTING", "VALUE", "DEFAULT", "MEANING", "ALLOWED"], &rows)
    })
}

fn typed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

async fn set(client: &mut Client, out: Output, changes: Vec<String>) -> Result<(), Failure> {
    let mut pairs = Vec::new();
    for change in &changes {
        let Some((key, value)) = change.split_once('=') else {
            return Err(Failure::Usage(format!("{change:?} is not KEY=VALUE, such as lease_ms=2000")));
        };
        pairs.push(v1::KeyValue { key: key.trim().to_owned(), value: value.trim().to_owned() });
    }
    let question = v1::ChangeSettingsRequest { cluster: client.cluster(), changes: pairs, by: operator() };
    let answer =
        client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.change_settings(q).await }).await?;
    let answer = agreed(answer)?;
    out.print(&done(&answer), || format!("agreed (revision {}): {}", answer.revision, changes.join(", ")))
}
