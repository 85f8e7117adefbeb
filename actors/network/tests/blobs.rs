//! Blob transfer between real nodes: several sources, dying and lying ones, resumption, speed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{address, config, start, wait};
use network::{ChunkSink, Event, Events, FetchError, FetchOptions, MemorySink, NetworkHandle, PeerId, fetch_blob};
use types::blob::{BlobManifest, blob_hash};
use types::ids::BlobHash;
use types::limits::BLOB_CHUNK_BYTES;
use types::rpc_sync::{Request, Response};

const SECONDS: Duration = Duration::from_secs(10);

/// How a source behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Flips a bit in every chunk.
    Corrupt,
    /// Gives a manifest with another length and honest chunks.
    WrongLength,
    /// Gives its manifest and then never a chunk.
    Silent,
}

/// Serves one blob; counts the chunks it sent.
fn serve(
    handle: &NetworkHandle,
    mut events: Events,
    blob: &Arc<Vec<u8>>,
    manner: Manner,
    delay: Duration,
) -> Arc<AtomicUsize> {
    let (handle, blob, sent) = (handle.clone(), blob.clone(), Arc::new(AtomicUsize::new(0)));
    let counter = sent.clone();
    let (hash, manifest) = (blob_hash(&blob), BlobManifest::of(&blob));
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            let Event::Request(question) = event else { continue };
            let answer = match question.request {
                Request::BlobManifest { hash: asked } if asked == hash => {
                    let mut manifest = manifest.clone();
                    if manner == Manner::WrongLength {
                        manifest.bytes -= 1;
                    }
                    Response::BlobManifest(Some(manifest))
                }
                Request::BlobChunk { hash: asked, .. } if asked == hash && manner == Manner::Silent => continue,
                Request::BlobChunk { hash: asked, index } if asked == hash => {
                    tokio::time::sleep(delay).await;
                    let start = index as usize * BLOB_CHUNK_BYTES as usize;
                    let end = blob.len().min(start + BLOB_CHUNK_BYTES as usize);
                    let mut part = blob[start..end].to_vec();
                    if manner == Manner::Corrupt {
                        part[0] ^= 1;
                    }
                    counter.fetch_add(1, Ordering::Relaxed);
                    Response::BlobChunk(Some(part))
                }
                Request::BlobManifest { .. } => Response::BlobManifest(None),
                _ => Response::BlobChunk(None),
            };
            handle.respond(question.token, &answer);
        }
    });
    sent
}

fn blob(bytes: usize) -> Arc<Vec<u8>> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    Arc::new(std::iter::repeat_with(next).take(bytes).collect())
}

async fn client(sources: &[&NetworkHandle]) -> NetworkHandle {
    let bootstrap: Vec<_> = sources.iter().map(|h| address(h)).collect();
    let (handle, _events) = start(config(9, &bootstrap)).await;
    wait("connected to all sources", SECONDS, || handle.peers().len() == sources.len()).await;
    handle
}

fn peers(sources: &[&NetworkHandle]) -> Vec<PeerId> {
    sources.iter().map(|h| h.peer_id()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_killed_in_mid_transfer_costs_nothing_but_its_share() {
    let blob = blob(20 * BLOB_CHUNK_BYTES as usize + 12_345);
    let (one, events_one) = start(config(1, &[])).await;
    let (two, events_two) = start(config(2, &[])).await;
    let pace = Duration::from_millis(15);
    let sent_one = serve(&one, events_one, &blob, Manner::Honest, pace);
    let sent_two = serve(&two, events_two, &blob, Manner::Honest, pace);
    let client = client(&[&one, &two]).await;
    let candidates = peers(&[&one, &two]);
    let (fetcher, hash) = (client.clone(), blob_hash(&blob));
    let transfer = tokio::spawn(async move {
        let mut sink = MemorySink::default();
        let report = fetch_blob(&fetcher, hash, &candidates, &mut sink, FetchOptions::default()).await;
        (report, sink)
    });
    wait("both sources deliver", SECONDS, || {
        sent_one.load(Ordering::Relaxed) >= 2 && sent_two.load(Ordering::Relaxed) >= 2
    })
    .await;
    one.shutdown().await;
    let (report, sink) = tokio::time::timeout(SECONDS, transfer).await.unwrap().unwrap();
    let report = report.unwrap();
    assert!(sink.into_bytes() == **blob, "the blob arrived whole");
    assert!(report.delivered[&two.peer_id()] >= 10, "{report:?}");
    assert_eq!(report.delivered.values().sum::<u32>(), 21);
    assert!(report.bad.is_empty());
    for handle in [client, two] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_source_is_penalised_and_another_one_used() {
    let blob = blob(8 * BLOB_CHUNK_BYTES as usize);
    let (bad, events_bad) = start(config(1, &[])).await;
    let (good, events_good) = start(config(2, &[])).await;
    let (empty, events_empty) = start(config(3, &[])).await;
    let sent_bad = serve(&bad, events_bad, &blob, Manner::Corrupt, Duration::ZERO);
    serve(&good, events_good, &blob, Manner::Honest, Duration::from_millis(5));
    serve(&empty, events_empty, &Arc::new(vec![0]), Manner::Honest, Duration::ZERO);
    let client = client(&[&bad, &good, &empty]).await;
    let mut sink = MemorySink::default();
    let candidates = peers(&[&bad, &good, &empty, &client]);
    let report = fetch_blob(&client, blob_hash(&blob), &candidates, &mut sink, FetchOptions::default()).await.unwrap();
    assert!(sink.into_bytes() == **blob);
    assert_eq!(report.bad, [bad.peer_id()]);
    assert_eq!(report.delivered.keys().copied().collect::<Vec<_>>(), [good.peer_id()]);
    assert!(sent_bad.load(Ordering::Relaxed) >= 1);
    let points = |peer: PeerId| client.peers().iter().find(|p| p.peer_id == peer).map(|p| p.fault_points);
    wait("the liar has points", SECONDS, || points(bad.peer_id()).is_none_or(|p| p > 9.0)).await;
    assert_eq!(points(good.peer_id()), Some(0.0));
    for handle in [client, bad, good, empty] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_length_in_a_manifest_does_not_discredit_honest_sources() {
    for bytes in [1000, 3 * BLOB_CHUNK_BYTES as usize + 10] {
        let blob = blob(bytes);
        let (liar, events_liar) = start(config(1, &[])).await;
        let (good, events_good) = start(config(2, &[])).await;
        serve(&liar, events_liar, &blob, Manner::WrongLength, Duration::ZERO);
        serve(&good, events_good, &blob, Manner::Honest, Duration::from_millis(20));
        let client = client(&[&liar, &good]).await;
        let mut sink = MemorySink::default();
        let candidates = peers(&[&liar, &good]);
        let report =
            fetch_blob(&client, blob_hash(&blob), &candidates, &mut sink, FetchOptions::default()).await.unwrap();
        assert!(sink.into_bytes() == **blob);
        assert!(!report.bad.contains(&good.peer_id()), "{report:?}");
        for handle in [client, liar, good] {
            handle.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_resumes_with_what_the_sink_has_and_failures_are_told_apart() {
    let blob = blob(6 * BLOB_CHUNK_BYTES as usize + 1);
    let (one, events) = start(config(1, &[])).await;
    let sent = serve(&one, events, &blob, Manner::Honest, Duration::ZERO);
    let client = client(&[&one]).await;
    let mut sink = MemorySink::default();
    for index in [0u32, 3, 6] {
        let start = index as usize * BLOB_CHUNK_BYTES as usize;
        let part = blob[start..blob.len().min(start + BLOB_CHUNK_BYTES as usize)].to_vec();
        sink.put(index, part).await.unwrap();
    }
    let hash = blob_hash(&blob);
    let options = FetchOptions::default();
    let report = fetch_blob(&client, hash, &[one.peer_id()], &mut sink, options).await.unwrap();
    assert_eq!((report.had, sent.load(Ordering::Relaxed)), (3, 4));
    assert!(sink.into_bytes() == **blob);

    let mut sink = MemorySink::default();
    let unknown = BlobHash::new([5; 32]);
    let error = fetch_blob(&client, unknown, &[one.peer_id()], &mut sink, options).await.unwrap_err();
    assert_eq!(error, FetchError::NotFound { hash: unknown, asked: 1 });
    let small = FetchOptions { bytes_max: 1000, ..options };
    let error = fetch_blob(&client, hash, &[one.peer_id()], &mut sink, small).await.unwrap_err();
    assert_eq!(error, FetchError::TooLarge { hash, bytes: blob.len() as u64, limit: 1000 });
    let error = fetch_blob(&client, hash, &[], &mut sink, options).await.unwrap_err();
    assert_eq!(error, FetchError::NotFound { hash, asked: 0 });
    for handle in [client, one] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_another_length_than_announced_costs_one_chunk() {
    let blob = blob(6 * BLOB_CHUNK_BYTES as usize + 1);
    let (one, events) = start(config(1, &[])).await;
    let sent = serve(&one, events, &blob, Manner::Honest, Duration::ZERO);
    let (two, events) = start(config(2, &[])).await;
    serve(&two, events, &blob, Manner::WrongLength, Duration::ZERO);
    let client = client(&[&one, &two]).await;
    let (hash, length) = (blob_hash(&blob), blob.len() as u64);
    let options = |bytes| FetchOptions { bytes: Some(bytes), ..FetchOptions::default() };
    let mut sink = MemorySink::default();
    let error = fetch_blob(&client, hash, &[one.peer_id()], &mut sink, options(1000)).await.unwrap_err();
    assert_eq!(error, FetchError::Length { hash, bytes: length, expected: 1000 });
    assert_eq!((sent.load(Ordering::Relaxed), sink.len()), (1, 0), "only the chunk that proves the length");
    // A source that lies about the length proves nothing, and the honest one delivers.
    let mut sink = MemorySink::default();
    let report = fetch_blob(&client, hash, &peers(&[&two, &one]), &mut sink, options(length)).await.unwrap();
    assert!(sink.into_bytes() == **blob);
    assert!(!report.bad.contains(&one.peer_id()), "{report:?}");
    for handle in [client, one, two] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_source_is_given_up_long_before_the_time_limit() {
    let blob = blob(3 * BLOB_CHUNK_BYTES as usize);
    let (one, events) = start(config(1, &[])).await;
    serve(&one, events, &blob, Manner::Silent, Duration::ZERO);
    let client = client(&[&one]).await;
    let (mut sink, hash) = (MemorySink::default(), blob_hash(&blob));
    let options = FetchOptions { idle_limit: Duration::from_millis(700), ..FetchOptions::default() };
    let error = fetch_blob(&client, hash, &[one.peer_id()], &mut sink, options).await.unwrap_err();
    assert!(matches!(error, FetchError::Stalled { came: 0, .. }), "{error}");
    for handle in [client, one] {
        handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_blob_arrives_fast() {
    let blob = blob(32 << 20);
    let (one, events) = start(config(1, &[])).await;
    serve(&one, events, &blob, Manner::Honest, Duration::ZERO);
    let client = client(&[&one]).await;
    for _ in 0..2 {
        let mut sink = MemorySink::default();
        let report =
            fetch_blob(&client, blob_hash(&blob), &[one.peer_id()], &mut sink, FetchOptions::default()).await.unwrap();
        assert!(sink.into_bytes() == **blob);
        let speed = report.bytes as f64 / report.elapsed.as_secs_f64() / 1e6;
        println!("32 MiB in {:?}: {speed:.0} MB/s", report.elapsed);
        assert!(report.elapsed < Duration::from_secs(8), "{:?}", report.elapsed);
    }
    for handle in [client, one] {
        handle.shutdown().await;
    }
}
