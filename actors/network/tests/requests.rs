//! Request, response and quotas between real nodes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::time::Duration;

use common::{address, config, start, wait};
use network::{Event, Events, NetworkHandle, Quota, RequestError};
use types::ids::Height;
use types::rpc_sync::{Request, Response};

const SECONDS: Duration = Duration::from_secs(10);

/// Answers status questions with `height`; leaves other questions without an answer.
fn serve(handle: &NetworkHandle, mut events: Events, height: u64) {
    let handle = handle.clone();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let Event::Request(question) = event {
                let answer = match question.request {
                    Request::Status => Response::Status { height: Height(height), lowest: Height(1) },
                    Request::Votes { .. } => Response::BlobManifest(None),
                    _ => continue,
                };
                assert!(handle.respond(question.token, &answer).accepted());
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_back_and_quotas_say_busy() {
    let mut strict = config(1, &[]);
    strict.limits.quotas.status = Quota { burst: 10, refill: Duration::from_secs(20) };
    strict.limits.request_timeout = Duration::from_secs(2);
    let (one, events) = start(strict).await;
    serve(&one, events, 42);
    let mut asker = config(2, &[address(&one)]);
    asker.limits.request_timeout = Duration::from_secs(2);
    let (two, _events) = start(asker).await;
    wait("connected", SECONDS, || two.peers().len() == 1).await;
    let status = Response::Status { height: Height(42), lowest: Height(1) };
    let asked: Vec<_> = (0..10).map(|_| two.request(one.peer_id(), Request::Status)).collect();
    for answer in futures::future::join_all(asked).await {
        assert_eq!(answer, Ok(status.clone()));
    }
    match two.request(one.peer_id(), Request::Status).await {
        Err(RequestError::Busy { retry_ms, .. }) => assert!((1..=2000).contains(&retry_ms), "{retry_ms}"),
        other => panic!("expected busy, got {other:?}"),
    }
    // Another kind has a bucket of its own; an answer of another kind is a fault.
    let votes = two.request(one.peer_id(), Request::Votes { height: Height(1) }).await;
    assert!(matches!(votes, Err(RequestError::Broken { .. })), "{votes:?}");
    wait("the wrong answer was booked", SECONDS, || two.peers().iter().any(|p| p.fault_points > 5.0)).await;
    // No answer at all: a time-out, and the stream is free again.
    let silent = two.request(one.peer_id(), Request::Blocks { from: Height(1), count: 1 }).await;
    assert!(matches!(silent, Err(RequestError::Timeout { .. } | RequestError::Broken { .. })), "{silent:?}");
    let nobody = network::PeerId::random();
    assert_eq!(two.request(nobody, Request::Status).await, Err(RequestError::NotConnected(nobody)));
    wait("throttling is counted", SECONDS, || one.metrics().requests_throttled_total >= 1).await;
    one.shutdown().await;
    wait("the asker notices", SECONDS, || two.peers().is_empty()).await;
    two.shutdown().await;
    assert_eq!(two.request(one.peer_id(), Request::Status).await, Err(RequestError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_streams_wait_in_line_and_a_flood_is_cut_off() {
    let mut patient = config(1, &[]);
    patient.limits.quotas.status = Quota { burst: 100, refill: Duration::from_secs(60) };
    let (one, events) = start(patient).await;
    serve(&one, events, 7);
    let (two, _events) = start(config(2, &[address(&one)])).await;
    wait("connected", SECONDS, || two.peers().len() == 1).await;
    let asked: Vec<_> = (0..60).map(|_| two.request(one.peer_id(), Request::Status)).collect();
    let answers = futures::future::join_all(asked).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    // Ignoring "busy" hundreds of times costs points until the connection goes.
    let (mut busy, mut asked) = (0, 0);
    while two.metrics().disconnected_total == 0 && asked < 1000 {
        asked += 1;
        if let Err(RequestError::Busy { .. }) = two.request(one.peer_id(), Request::Status).await {
            busy += 1;
        }
    }
    assert!(busy >= 256 && two.metrics().disconnected_total >= 1, "{busy} of {asked}");
    wait("the disconnect is counted", SECONDS, || one.metrics().fault_disconnects_total >= 1).await;
    for handle in [one, two] {
        handle.shutdown().await;
    }
}
