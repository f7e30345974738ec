//! `pgvigil members` and `pgvigil voters`: who belongs to the cluster, who to the Raft group.

use super::{
    Client, Output,
    args::{MembersArguments, MembersCommand, VotersArguments, VotersCommand, Waiting},
    asks::{agreed, done, only_agreed},
    client::Repeat,
    format::{operator, table},
    outcome::Failure,
    status::members_table,
    wait::{Progress, until_done},
};
use crate::view::{MemberDocument, StatusDocument};
use pgvigil_proto::v1;
use serde_json::json;

const HOW_TO_ADD: &str = "\
A member joins by itself: write a configuration for it (the same cluster and voters, a name of its own, and
[node] initial_voter = false), and start 'pgvigil run --config FILE' on its host. It is then cloned from the
primary and taken into the durability rule once it has caught up. To give its node a vote: pgvigil voters add.";

pub(super) async fn members(client: &mut Client, out: Output, args: MembersArguments) -> Result<(), Failure> {
    match args.what {
        None | Some(MembersCommand::List) => {
            let question = v1::MembersRequest { cluster: client.cluster() };
            let answer = client.call(Repeat::Safe, question, |mut c, q| async move { c.members(q).await }).await?;
            let members: Vec<MemberDocument> = answer.members.into_iter().map(Into::into).collect();
            let value = json!({"cluster": answer.cluster, "members": members, "expected": answer.expected});
            out.print(&value, || {
                let mut text = members_table(&members);
                if !answer.expected.is_empty() {
                    text.push_str(&format!("expected, not here yet: {}\n", answer.expected.join(", ")));
                }
                text
            })
        }
        Some(MembersCommand::Add) => out.print(&json!({"how": HOW_TO_ADD}), || HOW_TO_ADD.to_owned()),
        Some(MembersCommand::Remove { member, waiting }) => remove(client, out, member, waiting).await,
    }
}

async fn remove(client: &mut Client, out: Output, member: String, waiting: Waiting) -> Result<(), Failure> {
    let question = v1::RemoveMemberRequest { cluster: client.cluster(), member: member.clone(), by: operator() };
    let answer = client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.remove_member(q).await }).await?;
    let answer = agreed(answer)?;
    if waiting.no_wait {
        return only_agreed(out, "removal", &answer);
    }
    let judge = |status: &StatusDocument| match status.member(&member) {
        None => Progress::Done(format!("{member} is no member any more; stop its pgvigil, or it joins again")),
        Some(_) => Progress::Going,
    };
    let (text, _) = until_done(client, out, waiting, judge).await?;
    out.print(&done(&answer), || text)
}

pub(super) async fn voters(client: &mut Client, out: Output, args: VotersArguments) -> Result<(), Failure> {
    let answer = match args.what {
        None | Some(VotersCommand::List) => {
            client.call(Repeat::Safe, v1::VotersRequest {}, |mut c, q| async move { c.voters(q).await }).await?
        }
        Some(VotersCommand::Add { node, address }) => {
            let question = v1::AddVoterRequest { node, address };
            client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.add_voter(q).await }).await?
        }
        Some(VotersCommand::Remove { node }) => {
            let question = v1::RemoveVoterRequest { node };
            client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.remove_voter(q).await }).await?
        }
        Some(VotersCommand::Lead { node }) => {
            let question = v1::TransferLeadershipRequest { node };
            client.call(Repeat::OnlyUnsent, question, |mut c, q| async move { c.transfer_leadership(q).await }).await?
        }
    };
    if let Some(refusal) = answer.refusal {
        return Err(refusal.into());
    }
    let voters: Vec<_> = answer
        .voters
        .iter()
        .map(|voter| {
            json!({
                "node": voter.node, "address": voter.address, "leader": voter.leader, "behind": voter.behind,
                "learner": voter.learner,
            })
        })
        .collect();
    let value = json!({
        "leader": answer.leader, "term": answer.term, "committed": answer.committed, "voters": voters,
    });
    out.print(&value, || {
        let rows: Vec<Vec<String>> = answer
            .voters
            .iter()
            .map(|voter| {
                let role = match (voter.leader, voter.learner) {
                    (true, _) => "leader",
                    (false, true) => "learner (no vote yet)",
                    (false, false) => "follower",
                };
                vec![
                    voter.node.to_string(),
                    voter.address.clone(),
                    role.to_owned(),
                    voter.behind.map_or_else(|| "-".to_owned(), |behind| behind.to_string()),
                ]
            })
            .collect();
        let table = table(&["NODE", "ADDRESS", "ROLE", "ENTRIES BEHIND"], &rows);
        format!("term {}, {} entries agreed\n{table}", answer.term, answer.committed)
    })
}
