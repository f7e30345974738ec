//! `pgvigil demo`: three nodes on this machine, a write load, a killed primary; what was seen, decided and done; and
//! a check by the clients' own books that nothing acknowledged is lost.

mod books;
mod end;
mod ground;
mod load;
mod nodes;
mod outlive;
mod story;

pub use outlive::end as end_of_killed;

use crate::{
    cli::{Client, Connection, DemoArguments, Failure, milliseconds},
    view::{ClusterWord, IncidentDocument, Role, StatusDocument},
};
use ground::Ground;
use load::Load;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nodes::Nodes;
use outlive::Outliver;
use pgvigil_postgres::datadir::live_postmaster;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use story::Story;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

/// Three initdb or clones on a slow, busy machine.
const FORM_WITHIN: Duration = Duration::from_secs(180);
/// Failover, rewind and catching up on a slow, busy machine.
const HEAL_WITHIN: Duration = Duration::from_secs(180);
/// How long the load runs before the fault, and after the healing.
const WARM_UP: Duration = Duration::from_secs(3);
const COOL_DOWN: Duration = Duration::from_secs(2);

/// Runs the demo. Done: nothing is lost and the cluster has healed.
pub async fn run(args: DemoArguments, json: bool) -> Result<(), Failure> {
    let story = Arc::new(Story::new(json));
    let ground = Arc::new(Ground::prepare(args.dir.as_deref(), &story)?);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Failure::Failed(error.to_string()))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| Failure::Failed(error.to_string()))?;
    let outliver = Outliver::start(&ground.dir, args.dir.is_none())?;
    // If that fails, the helper is dropped without a word: it ends and removes what there is.
    let nodes = Nodes::start(&ground, &story)?;
    let result = tokio::select! {
        result = play(&args, &ground, &story) => result,
        _ = interrupt.recv() => Err(Failure::Failed("interrupted".to_owned())),
        _ = terminate.recv() => Err(Failure::Failed("told to stop".to_owned())),
    };
    // With --keep the story ends by a signal, after its result was printed.
    let result = match result {
        Err(Failure::Failed(_)) if story.is_told() => Ok(()),
        other => other,
    };
    story.say("stopping the three nodes");
    nodes.stop().await;
    end::stop_everything(&ground, &story).await;
    outliver.dismiss();
    match (&result, args.dir.is_some()) {
        (Ok(()), false) => ground.remove(&story),
        (Ok(()), true) => story.say(&format!("everything is still in {}", ground.dir.display())),
        (Err(_), _) => story.say(&format!(
            "everything is still in {}; the nodes' logs are n1/pgvigil.log, n2/pgvigil.log and n3/pgvigil.log",
            ground.dir.display()
        )),
    }
    result
}

async fn play(args: &DemoArguments, ground: &Ground, story: &Story) -> Result<(), Failure> {
    let connect = ground.nodes.iter().map(|node| node.listen.clone()).collect::<Vec<_>>().join(",");
    let connection = Connection { connect: connect.clone(), cluster: None };
    let mut client = Client::new(&connection)?;
    story.say("waiting for the cluster: one initdb, two clones");
    let healthy =
        |status: &StatusDocument| status.state == ClusterWord::Healthy && status.members.len() == ground.nodes.len();
    let Some(status) = story.until(&mut client, Instant::now() + FORM_WITHIN, healthy).await? else {
        return Err(unhealthy(&mut client, "the cluster is not healthy", FORM_WITHIN).await);
    };
    story.table(&status);
    story.say(&format!("connect with: psql \"{}\"", ground.dsn));
    story.say(&format!("ask with:     pgvigil --connect {connect} status"));
    let load = Load::start(&ground.dsn, args.write_load).await?;
    story.say(&format!("{} clients write, each row a transaction of its own", load::CLIENTS));
    load.run_for(WARM_UP).await;
    story.say(&format!("{} commits acknowledged in {}", load.acknowledged(), milliseconds(WARM_UP.as_millis() as u64)));

    let killed = kill_primary(ground, story, &status, &load)?;
    let limit = Instant::now() + HEAL_WITHIN;
    let mut healed_at = None;
    let healed = |status: &StatusDocument| {
        let back = status.member(&killed.member).is_some_and(|old| old.role == Role::Standby);
        incident_after(status, killed.epoch).is_some() && healthy(status) && back
    };
    let end = story.until(&mut client, limit, healed).await?;
    if end.is_some() {
        healed_at = Some(killed.at.elapsed());
        load.run_for(COOL_DOWN).await;
    }
    let stopped_for = load.longest_gap();
    let verdict = load.pause_and_verify(&ground.dsn).await?;
    let incident = end.as_ref().and_then(|status| incident_after(status, killed.epoch)).cloned();
    let result = Ending { killed: killed.member, stopped_for, verdict, incident, healed_after: healed_at };
    let status = match &end {
        Some(status) => status.clone(),
        None => client.status().await.unwrap_or_default(),
    };
    story.table(&status);
    let told = story.ending(&result, &ground.dsn);
    if result.verdict.lost > 0 {
        return Err(Failure::Failed(format!("{} acknowledged commits are lost", result.verdict.lost)));
    }
    if end.is_none() {
        return Err(unhealthy(&mut client, "the cluster has not healed", HEAL_WITHIN).await);
    }
    told?;
    if args.keep {
        stay(args, ground, story, &connect, load).await;
    }
    Ok(())
}

/// Until a signal ends it.
async fn stay(args: &DemoArguments, ground: &Ground, story: &Story, connect: &str, load: Load) {
    story.told();
    story.say(&format!("the cluster stays up until Ctrl-C: psql \"{}\"", ground.dsn));
    story.say(&format!("  export PGVIGIL_CONNECT={connect}; pgvigil watch"));
    story.say(&format!("  {} describes it for programs", ground.dir.join("demo.json").display()));
    if !args.write_load {
        drop(load);
        std::future::pending::<()>().await;
    } else {
        load.resume();
        load.report_stops(story).await;
    }
}

struct Killed {
    member: String,
    epoch: u64,
    at: Instant,
}

/// What came of it.
struct Ending {
    killed: String,
    stopped_for: Option<Duration>,
    verdict: books::Verdict,
    incident: Option<IncidentDocument>,
    healed_after: Option<Duration>,
}

impl Ending {
    fn json(&self, dsn: &str) -> serde_json::Value {
        json!({
            "killed": self.killed,
            "acknowledged": self.verdict.acknowledged,
            "lost": self.verdict.lost,
            "unanswered": self.verdict.unanswered,
            "writes_stopped_ms": self.stopped_for.map(|gap| gap.as_secs_f64() * 1000.0),
            "healed_after_ms": self.healed_after.map(|after| after.as_secs_f64() * 1000.0),
            "incident": self.incident,
            "dsn": dsn,
        })
    }
}

fn incident_after(status: &StatusDocument, epoch: u64) -> Option<&IncidentDocument> {
    let complete = |incident: &&IncidentDocument| {
        incident.number > epoch && incident.phases.iter().any(|phase| phase.name == "completed")
    };
    status.incidents.iter().find(complete)
}

fn kill_primary(ground: &Ground, story: &Story, status: &StatusDocument, load: &Load) -> Result<Killed, Failure> {
    let member = status.primary.clone();
    let node = ground.nodes.iter().find(|node| node.member == member);
    let node = node.ok_or_else(|| Failure::Failed(format!("{member} is none of the demo's members")))?;
    let postmaster = live_postmaster(&node.data_dir)
        .map_err(|error| Failure::Failed(error.to_string()))?
        .ok_or_else(|| Failure::Failed(format!("no postmaster runs in {}", node.data_dir.display())))?;
    load.watch_for_gap();
    let at = Instant::now();
    kill(Pid::from_raw(postmaster.pid), Signal::SIGKILL)
        .map_err(|error| Failure::Failed(format!("cannot kill process {}: {error}", postmaster.pid)))?;
    story.begin_clock();
    story.say(&format!("kill -9 {}: the postmaster of {member}, the primary", postmaster.pid));
    Ok(Killed { member, epoch: status.epoch, at })
}

async fn unhealthy(client: &mut Client, what: &str, limit: Duration) -> Failure {
    let seconds = limit.as_secs();
    let why = match client.status().await {
        Ok(status) => {
            let state = crate::api::convert::word(&status.state);
            let mut why = vec![format!("it is {state}")];
            why.extend([status.waits_for].into_iter().filter(|text| !text.is_empty()));
            why.extend(status.rpo.not_writable);
            why.extend(status.findings);
            why.join("; ")
        }
        Err(failure) => failure.to_string(),
    };
    Failure::Failed(format!("{what} after {seconds} s: {why}"))
}
