//! Answers peers' questions from the store, the blob store and the other actors.
//!
//! Inbox: 256 requests, one more is dropped (the peer sees a time-out); rates per peer are the network's. Reads run off the
//! async threads, at most [`READS_MAX`] at once. Restart: nothing to rebuild.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::StoreRead;
use tokio::sync::{Semaphore, oneshot};
use types::Wire;
use types::ids::Height;
use types::limits::{SYNC_BLOCKS_MAX, SYNC_BYTES_MAX};
use types::rpc_sync::{Request, Response};

use crate::app::votes::VotesMsg;
use crate::mailbox::{Letter, Sent};
use crate::safety::consensus::ConsensusMsg;
use crate::wiring::Wiring;

/// Reads at once.
const READS_MAX: usize = 4;
/// Longest wait for another actor.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Room left for the framing of a response, bytes.
const FRAMING: usize = 4096;
/// What a peer is told when this node can't answer now.
const RETRY_MS: u32 = 500;

/// A peer's request.
#[derive(Debug)]
pub(crate) struct ServeMsg(pub(crate) network::Request);

/// The actor.
#[derive(Debug)]
pub(crate) struct Serve;

impl Actor for Serve {
    type Msg = Letter<ServeMsg>;
    type State = (Wiring, Arc<Semaphore>);
    type Arguments = Wiring;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, wiring: Wiring) -> Result<Self::State, ActorProcessingErr> {
        wiring.mail.serve.attach(myself);
        Ok((wiring, Arc::new(Semaphore::new(READS_MAX))))
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        (wiring, permits): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let ServeMsg(network::Request { request, token, peer }) = letter.message;
        let permit = Arc::clone(permits).acquire_owned().await?;
        let wiring = wiring.clone();
        tokio::spawn(async move {
            let response = answer(&wiring, request).await.unwrap_or_else(|why| {
                tracing::debug!(%peer, %why, "request not answered");
                Response::Busy { retry_ms: RETRY_MS }
            });
            drop(permit);
            if let Some(net) = wiring.net.get()
                && !net.respond(token, &response).accepted()
            {
                tracing::debug!(%peer, "answer not delivered");
            }
        });
        Ok(())
    }
}

async fn answer(wiring: &Wiring, request: Request) -> Result<Response, String> {
    match request {
        Request::Status => {
            let (height, store) = (wiring.view().head.height, Arc::clone(&wiring.store));
            let lowest = blocking(move || store.lowest_height()).await?.unwrap_or(Height(1));
            Ok(Response::Status { height, lowest })
        }
        Request::Blocks { from, count } => {
            let (count, store) = (usize::from(count).min(SYNC_BLOCKS_MAX), Arc::clone(&wiring.store));
            Ok(Response::Blocks(blocking(move || store.blocks(from, count, SYNC_BYTES_MAX - FRAMING)).await?))
        }
        Request::ProposedBlock { height, block } => {
            let (reply, answer) = oneshot::channel();
            ask(wiring.mail.consensus.send(ConsensusMsg::ProposedBlock { height, block, reply }))?;
            Ok(Response::ProposedBlock(wait(answer).await?.map(|b| Box::new((*b).clone()))))
        }
        Request::Votes { height } => {
            let (reply, answer) = oneshot::channel();
            ask(wiring.mail.consensus.send(ConsensusMsg::VotesOf { height, reply }))?;
            let (votes, proposals) = wait(answer).await?;
            Ok(Response::Votes { votes, proposals })
        }
        Request::BlobManifest { hash } => {
            Ok(Response::BlobManifest(wiring.blobs.manifest(&hash).map(|m| (*m).clone())))
        }
        Request::BlobChunk { hash, index } => {
            let blobs = wiring.blobs.clone();
            Ok(Response::BlobChunk(blocking(move || blobs.chunk(&hash, index)).await?))
        }
        Request::Verdicts { job } => {
            let (reply, answer) = oneshot::channel();
            ask(wiring.mail.votes.send(VotesMsg::OfJob { job, reply }))?;
            Ok(Response::Verdicts(wait(answer).await?))
        }
        Request::Genesis => {
            let fits = wiring.genesis.to_bytes().len().saturating_add(FRAMING) <= SYNC_BYTES_MAX;
            Ok(Response::Genesis(fits.then(|| Box::new((*wiring.genesis).clone()))))
        }
    }
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> storage::Result<T> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

fn ask(sent: Sent) -> Result<(), String> {
    match sent {
        Sent::Accepted => Ok(()),
        Sent::Full | Sent::Closed => Err("an actor is busy".into()),
    }
}

async fn wait<T>(answer: oneshot::Receiver<T>) -> Result<T, String> {
    match tokio::time::timeout(ASK_LIMIT, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err("an actor restarted".into()),
        Err(_) => Err("an actor did not answer in time".into()),
    }
}
