//! The connections that this host's operating system and its primary show; what they mean is said in
//! [`pgvigil_agent::twin`].

use super::shared::Shared;
use pgvigil_core::{
    local::LocalPostgres,
    report::{Receiver, Remote},
};
use pgvigil_postgres::{Sample, tcp};

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
