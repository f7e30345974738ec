//! Heartbeats to one peer through one long gRPC call: a message each way per heartbeat, and nothing else.
//!
//! Twenty times a second, to every follower, the cost of a call of its own (headers, routing, a task) is most of what
//! an idle leader spends.

use futures::SinkExt;
use futures::channel::mpsc;
use pgvigil_proto::v1::RaftPayload;
use pgvigil_proto::v1::raft_transport_client::RaftTransportClient;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// The call, if it is open. One exchange at a time.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    beats: mpsc::Sender<RaftPayload>,
    answers: Streaming<RaftPayload>,
}

impl Pipe {
    /// Sends one message and returns its answer; opens the call first if need be.
    ///
    /// Any failure closes the call, and so does dropping this future half way: otherwise the answer that is still
    /// due would be taken for the answer to the next message.
    pub(crate) async fn exchange(
        &mut self,
        client: RaftTransportClient<Channel>,
        payload: RaftPayload,
    ) -> Result<RaftPayload, Status> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::to(client).await?,
        };
        let closed = || Status::unavailable("the other side ended the heartbeats");
        open.beats.send(payload).await.map_err(|_| closed())?;
        let answer = open.answers.message().await?.ok_or_else(closed)?;
        self.open = Some(open);
        Ok(answer)
    }
}

impl Open {
    async fn to(mut client: RaftTransportClient<Channel>) -> Result<Self, Status> {
        let (beats, sent) = mpsc::channel(0);
        let answers = client.heartbeats(sent).await?.into_inner();
        Ok(Self { beats, answers })
    }
}
