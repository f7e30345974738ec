//! `pgvigil dsn`: a libpq connection string that names every member and finds the one that fits.

use super::{Client, Output, args::DsnArguments, client::Repeat, outcome::Failure};
use crate::view::{MemberDocument, Role};
use pgvigil_core::member::Tier;
use pgvigil_proto::v1;
use serde_json::json;

pub(super) async fn run(client: &mut Client, out: Output, args: DsnArguments) -> Result<(), Failure> {
    let question = v1::MembersRequest { cluster: client.cluster() };
    let answer = client.call(Repeat::Safe, question, |mut c, q| async move { c.members(q).await }).await?;
    let members: Vec<MemberDocument> = answer.members.into_iter().map(Into::into).collect();
    let wanted = Wanted { read_only: args.ro, user: args.user.as_deref(), dbname: &args.dbname };
    let hosts = hosts(&members, args.ro);
    if hosts.is_empty() {
        return Err(Failure::Failed("the cluster has no member to connect to yet".to_owned()));
    }
    let text = if args.keywords { keywords(&hosts, &wanted) } else { uri(&hosts, &wanted) };
    out.print(&json!({"dsn": text}), || text.clone())
}

/// What a connection is for.
pub(crate) struct Wanted<'a> {
    pub(crate) read_only: bool,
    pub(crate) user: Option<&'a str>,
    pub(crate) dbname: &'a str,
}

impl Wanted<'_> {
    const fn attrs(&self) -> &'static str {
        if self.read_only { "prefer-standby" } else { "read-write" }
    }
}

/// libpq tries them in this order: the likeliest first. Backups serve nobody.
fn hosts(members: &[MemberDocument], read_only: bool) -> Vec<(String, u16)> {
    let mut members: Vec<&MemberDocument> = members.iter().filter(|member| member.tier != Tier::Backup).collect();
    members.sort_by_key(|member| ((member.role == Role::Primary) == read_only, member.tier, member.name.clone()));
    members.into_iter().map(|member| (member.host.clone(), member.port)).collect()
}

/// `postgresql://...`. A host that does not answer is given up after two seconds, the least that libpq allows.
#[must_use]
pub(crate) fn uri(hosts: &[(String, u16)], wanted: &Wanted<'_>) -> String {
    let user = wanted.user.map_or_else(String::new, |user| format!("{}@", percent(user)));
    let hosts: Vec<String> = hosts
        .iter()
        .map(|(host, port)| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
        .collect();
    let (dbname, attrs) = (percent(wanted.dbname), wanted.attrs());
    format!("postgresql://{user}{}/{dbname}?target_session_attrs={attrs}&connect_timeout=2", hosts.join(","))
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn keywords(hosts: &[(String, u16)], wanted: &Wanted<'_>) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let names: Vec<&str> = hosts.iter().map(|(host, _)| host.as_str()).collect();
    let ports: Vec<String> = hosts.iter().map(|(_, port)| port.to_string()).collect();
    let user = wanted.user.map_or_else(String::new, |user| format!(" user={}", quote(user)));
    format!(
        "host={} port={} dbname={}{user} target_session_attrs={} connect_timeout=2",
        names.join(","),
        ports.join(","),
        quote(wanted.dbname),
        wanted.attrs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, role: Role, tier: Tier) -> MemberDocument {
        MemberDocument {
            name: name.to_owned(),
            role,
            tier,
            host: format!("{name}.example"),
            port: 5432,
            ..Default::default()
        }
    }

    #[test]
    fn names_every_member_but_backups_the_likeliest_first() {
        let members = [
            member("a", Role::Standby, Tier::Primary),
            member("b", Role::Primary, Tier::Primary),
            member("c", Role::Standby, Tier::Backup),
        ];
        let wanted = Wanted { read_only: false, user: Some("jo@x"), dbname: "shop" };
        assert_eq!(
            uri(&hosts(&members, false), &wanted),
            "postgresql://jo%40x@b.example:5432,a.example:5432/shop?target_session_attrs=read-write&connect_timeout=2"
        );
        let wanted = Wanted { read_only: true, user: None, dbname: "it's" };
        assert_eq!(
            keywords(&hosts(&members, true), &wanted),
            "host=a.example,b.example port=5432,5432 dbname='it\\'s' target_session_attrs=prefer-standby connect_timeout=2"
        );
    }
}
