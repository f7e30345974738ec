//! The connections that this host's operating system and its primary show; what they mean is said in
//! [`pgvigil_agent::twin`].

use super::shared::Shared;
use pgvigil_agent::twin::given_up;
use pgvigil_core::{
    id::Epoch,
    local::LocalPostgres,
    report::{Receiver, Remote},
};
use pgvigil_postgres::{Link, QueryError, Sample, tcp};
use std::time::Duration;

/// Looks at this standby's walreceiver. What a server that does not answer had before holds as long as its socket does: it
/// may be stopped, but nobody else has that connection.
pub fn look_at_receiver(shared: &Shared, sample: Option<&Sample>) {
    let standby = matches!(&shared.lock().local.postgres, LocalPostgres::Running(running) if running.in_recovery);
    let before = shared.server().receiver_socket;
    let pid = match sample {
        Some(sample) => sample.receiver.as_ref().map(|receiver| receiver.pid),
        None => before.map(|socket| socket.pid),
    };
    let socket = pid.and_then(|pid| tcp::connection_of(pid, before.as_ref()).ok().flatten());
    let receiver = match (socket, sample) {
        _ if !standby => Receiver::Unknown,
        (Some(socket), _) => {
            Receiver::Connected(Remote { address: socket.local.ip().to_string(), port: socket.local.port() })
        }
        (None, Some(sample)) if sample.receiver.is_none() => Receiver::Absent,
        _ => Receiver::Unknown,
    };
    shared.lock().receiver = receiver;
    shared.server().receiver_socket = socket;
}

/// Ends the walsenders of names that were given up, now that others are in force: the members' own come back under theirs,
/// and a copy's count for nothing.
pub async fn end_given_up(shared: &Shared, link: &Link, epoch: Epoch, limit: Duration) -> Result<(), QueryError> {
    let names = shared.agreed().map(|agreed| given_up(&agreed, epoch)).unwrap_or_default();
    if names.is_empty() {
        return Ok(());
    }
    for (pid, name, _) in link.walsenders(limit).await? {
        if names.iter().any(|given_up| name.eq_ignore_ascii_case(given_up)) {
            link.terminate_backend(pid, limit).await?;
        }
    }
    Ok(())
}
