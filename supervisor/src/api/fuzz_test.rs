//! Goal: no request makes a face panic or fall silent, and none leaves the agreed state broken.
//!
//! Method: gRPC requests with any words and numbers, and any bytes at the HTTP face, against the small backend that
//! applies the core's own rules. A handler that panics shows as a broken connection or as an unknown error.
//! `PROPTEST_CASES=10000` asks for more by hand.

use super::{
    http,
    tests::{Fake, get, two_nodes},
};
use pgvigil_core::{id::NodeId, invariant};
use pgvigil_proto::v1::{self, pgvigil_client::PgvigilClient};
use proptest::{collection::vec, prelude::*};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tonic::{Code, Status, transport::Channel};

/// Generous: only a face that fell silent waits this long.
const LIMIT: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn word() -> impl Strategy<Value = String> {
    let words = [
        "",
        "demo",
        "pg1",
        "pg2",
        "pg3",
        "lease_ms",
        "sync_standbys",
        "crash_policy",
        "restart",
        "0",
        "-1",
        "a b",
        "é",
    ];
    prop_oneof![4 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

/// One request of any kind.
#[derive(Clone, Debug)]
struct Ask {
    kind: u8,
    words: [String; 4],
    number: u64,
    flag: bool,
}

fn ask() -> impl Strategy<Value = Ask> {
    let number = prop_oneof![0..5_u64, Just(u64::MAX), any::<u64>()];
    (0..14_u8, [word(), word(), word(), word()], number, any::<bool>()).prop_map(|(kind, words, number, flag)| Ask {
        kind,
        words,
        number,
        flag,
    })
}

async fn put(client: &mut PgvigilClient<Channel>, ask: Ask) -> Result<(), Status> {
    let Ask { kind, words: [cluster, one, two, by], number, flag } = ask;
    match kind {
        0 => client.status(v1::StatusRequest { cluster, stale_ok: flag }).await.map(drop),
        1 => client.members(v1::MembersRequest { cluster }).await.map(drop),
        2 => client.remove_member(v1::RemoveMemberRequest { cluster, member: one, by }).await.map(drop),
        3 => client.switchover(v1::SwitchoverRequest { cluster, to: one, by }).await.map(drop),
        4 => {
            let give_up = vec![two.clone(), two];
            let request = v1::FailoverRequest { cluster, to: one, give_up, old_primary_is_off: flag, by };
            client.failover(request).await.map(drop)
        }
        5 => client.pause(v1::PauseRequest { cluster, reason: one, by }).await.map(drop),
        6 => client.resume(v1::ResumeRequest { cluster, by }).await.map(drop),
        7 => client.reinitialise(v1::ReinitialiseRequest { cluster, member: one, by }).await.map(drop),
        8 => client.restart(v1::RestartRequest { cluster, member: one, by }).await.map(drop),
        9 => client.get_settings(v1::GetSettingsRequest { cluster }).await.map(drop),
        10 => {
            let changes = vec![
                v1::KeyValue { key: one, value: number.to_string() },
                v1::KeyValue { key: two, value: by.clone() },
            ];
            client.change_settings(v1::ChangeSettingsRequest { cluster, changes, by }).await.map(drop)
        }
        11 => client.incidents(v1::IncidentsRequest { cluster, number }).await.map(drop),
        12 => client.add_voter(v1::AddVoterRequest { node: number, address: one }).await.map(drop),
        _ => client.remove_voter(v1::RemoveVoterRequest { node: number }).await.map(drop),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_request_has_an_answer_and_leaves_the_agreed_state_whole(asks in vec(ask(), 1..12)) {
        runtime().block_on(async {
            let (_, leader, backend) = two_nodes().await;
            let mut client = PgvigilClient::connect(format!("http://{leader}")).await.unwrap();
            for ask in asks {
                let said = format!("{ask:?}");
                let answer = tokio::time::timeout(LIMIT, put(&mut client, ask)).await;
                let answer = answer.unwrap_or_else(|_| panic!("no answer to {said}"));
                if let Err(status) = answer {
                    let meant = [Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition];
                    assert!(meant.contains(&status.code()) && !status.message().is_empty(), "{said}: {status:?}");
                }
                for cluster in backend.state.lock().unwrap().clusters.values() {
                    assert!(invariant::check(cluster).is_ok(), "{:?} after {said}", invariant::check(cluster));
                }
            }
        });
    }

    #[test]
    fn any_bytes_at_the_http_face_leave_it_answering(
        start in prop::sample::select(vec!["", "GET ", "GET /replica?lag=", "GET /status HTTP/1.1\r\n", "POST /primary ", "PRI * HTTP/2.0\r\n"]),
        bytes in vec(any::<u8>(), 0..300),
        end in prop::sample::select(vec!["", " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "\r\n\r\n"]),
    ) {
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let backend: Arc<Fake> = Fake::new(2, Some((NodeId(2), "127.0.0.1:1".to_owned())));
            tokio::spawn(http::serve(listener, backend, std::future::pending()));
            let mut stream = TcpStream::connect(&address).await.unwrap();
            let request = [start.as_bytes(), &bytes, end.as_bytes()].concat();
            // It may hang up at the first bad byte; it must end what it says when nothing more comes.
            let _ = stream.write_all(&request).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "it never ends: {:?}", String::from_utf8_lossy(&request));
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answer));
            assert!(!answer.starts_with(b"HTTP/1.1 500"), "{:?}", String::from_utf8_lossy(&answer));
            assert!(get(&address, "/health").await.starts_with("HTTP/1.1 200"));
        });
    }
}
