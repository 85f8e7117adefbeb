//! [`EngineHandle`]: the calls themselves.
//!
//! Every wait has a time limit. Reads run off the async threads on one consistent snapshot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::{TxCode, query};
use storage::blobs::{BlobStatus, BlobWriter};
use storage::{StorageError, StoreRead};
use tokio::sync::{broadcast, oneshot};
use types::Wire;
use types::genesis::Genesis;
use types::ids::{BlobHash, BlockId, GenesisHash, Height, JobId, TimeMs, TxId};
use types::job::{BlobRef, JobStatus};
use types::keys::PublicKey;
use types::limits::SET_CHANGES_MAX;
use types::transaction::{Action, SignedTx, Transaction};

use super::ApiError;
use super::convert;
use super::views::{
    AccountView, BlockView, EstimateView, EventView, EvidenceView, ExplainView, HeadView, HealthView, JobView, NetView,
    PeerView, ProverStatusView, ProverView, SubmitView, TxStatus, ValidatorView,
};
use crate::app::availability::{AvailabilityMsg, Standing};
use crate::app::mempool::MempoolMsg;
use crate::app::prover::ProverMsg;
use crate::mailbox::{Mailbox, Sent};
use crate::reads::{self, NoReceipt};
use crate::supervisor::StopReason;
use crate::wiring::{ChainView, Wiring, wall_clock};

/// Longest wait for an actor's answer.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// Jobs and offences in one answer.
const PAGE_MAX: u32 = 200;

/// One node's engine, as its edge sees it. Cheap to clone.
#[derive(Clone)]
pub struct EngineHandle {
    wiring: Wiring,
    started: Instant,
    tree: Arc<crate::start::Tree>,
}

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EngineHandle({})", self.wiring.genesis_hash.short())
    }
}

impl EngineHandle {
    pub(crate) fn new(wiring: Wiring, tree: crate::start::Tree) -> Self {
        Self { wiring, started: Instant::now(), tree: Arc::new(tree) }
    }

    /// The supervisors.
    #[cfg(test)]
    pub(crate) fn tree(&self) -> &crate::start::Tree {
        &self.tree
    }

    /// The genesis document.
    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.wiring.genesis
    }

    /// Identity of the chain.
    pub fn genesis_hash(&self) -> GenesisHash {
        self.wiring.genesis_hash
    }

    /// The last decided block.
    ///
    /// # Errors
    /// None today; reserved for a node that is stopping.
    pub fn head(&self) -> Result<HeadView, ApiError> {
        Ok(reads::head_view(&self.wiring, &self.wiring.view()))
    }

    /// A decided block.
    ///
    /// # Errors
    /// `unknown_block`, `pruned`.
    pub async fn block(&self, height: Height) -> Result<BlockView, ApiError> {
        let head = self.wiring.view().head.height;
        if height.0 == 0 || height > head {
            let message = format!("there is no block at height {height}; ask for 1 to {head}");
            return Err(ApiError::field("unknown_block", "height", height, head, message));
        }
        let found = self.read(move |w, _| Ok(w.store.block(height)?)).await?;
        found
            .map(|d| convert::block(&d))
            .ok_or_else(|| ApiError::new("pruned", format!("the block at height {height} is not held here any more")))
    }

    /// A decided block by its id.
    ///
    /// # Errors
    /// `unknown_block`, `pruned`.
    pub async fn block_by_hash(&self, id: BlockId) -> Result<BlockView, ApiError> {
        let height = self.read(move |w, _| Ok(w.store.height_of(&id)?)).await?;
        match height {
            Some(height) => self.block(height).await,
            None => Err(ApiError::field(
                "unknown_block",
                "hash",
                id,
                "a decided block",
                "no decided block has this hash here",
            )),
        }
    }

    /// The validators of a height; of the next one without a height.
    ///
    /// # Errors
    /// `unknown_height`.
    pub async fn validators(&self, height: Option<Height>) -> Result<Vec<ValidatorView>, ApiError> {
        let net = self.wiring.net.get();
        self.read(move |_, view| {
            let height = height.unwrap_or(view.head.height.next());
            let set = ledger::validator_set(&view.state, height)?.ok_or_else(|| {
                let limit = view.head.height.next().next();
                ApiError::field("unknown_height", "height", height, limit, "no validator set is known for this height")
            })?;
            let records = query::validators(&view.state)?;
            Ok(convert::validators(&set, &records, net.as_ref()))
        })
        .await
    }

    /// Submits a signed transaction, a job or a cancellation among them, and waits at most `wait` for its block.
    ///
    /// # Errors
    /// The ledger's refusals by their codes, `unknown_blob`, `overloaded`.
    pub async fn submit(&self, tx: SignedTx, wait: Duration) -> Result<SubmitView, ApiError> {
        let id = tx.id();
        let (sender, nonce, expires_ms) = (tx.content.sender, tx.content.nonce, tx.content.expires_ms);
        let job_id = match &tx.content.action {
            Action::SubmitJob(spec) => {
                let known = self.wiring.view();
                let repeated = query::repeated(&known.state, &tx)?;
                let own = spec.job_id(&self.wiring.genesis_hash, &tx.content.sender, tx.content.nonce);
                Some(repeated.unwrap_or(own))
            }
            _ => None,
        };
        let mut chain = self.wiring.chain.clone();
        let answer = |status| SubmitView { tx_id: id, status, job_id };
        let (refuse, refused) = oneshot::channel();
        match &tx.content.action {
            Action::SubmitJob(spec) => {
                if let Some(decided) = self.decided(id).await? {
                    return Ok(answer(decided));
                }
                spec.check().map_err(|e| ApiError::from(ledger::LedgerError::Refused(e.into())))?;
                let blobs = std::iter::once(("program", spec.program)).chain(spec.args.map(|a| ("args", a)));
                for (field, blob) in blobs {
                    self.need_blob(field, &blob)?;
                }
                let tx = Box::new(tx);
                let message = |reply| AvailabilityMsg::Submit { tx, reply, refused: refuse };
                self.ask(&self.wiring.mail.availability, message).await??;
            }
            _ => {
                drop(refuse);
                let tx = Box::new(Transaction::Signed(tx));
                let taken = self.ask(&self.wiring.mail.mempool, |reply| MempoolMsg::Submit { tx, reply }).await?;
                if let Err(refusal) = taken {
                    // Sent again after its block: its nonce is used, by itself.
                    return self.decided(id).await?.map(answer).ok_or(refusal);
                }
            }
        }
        let deadline = tokio::time::Instant::now() + wait;
        // A dropped sender means that nothing is refused any more; then only blocks and time count.
        let refused = async move {
            match refused.await {
                Ok(error) => error,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::pin!(refused);
        // Who does not wait is answered at once: that the transaction waits here is known.
        while !wait.is_zero() {
            // The view is older than the look for the block: whoever has lost its place by then is in no later one.
            let look = move |w: &Wiring, view: &ChainView| {
                Ok((lost_place(view, sender, nonce, expires_ms)?, w.store.tx(&id)?))
            };
            let (lost, location) = self.read(look).await?;
            if let Some(location) = location {
                return Ok(answer(TxStatus::Decided { height: location.height }));
            }
            if let Some(error) = lost {
                return Err(error);
            }
            let go_on = tokio::select! {
                error = &mut refused => return Err(error),
                changed = tokio::time::timeout_at(deadline, chain.changed()) => matches!(changed, Ok(Ok(()))),
            };
            if !go_on {
                break;
            }
        }
        Ok(answer(TxStatus::Pending))
    }

    /// The status of a transaction that is in a block.
    async fn decided(&self, id: TxId) -> Result<Option<TxStatus>, ApiError> {
        let location = self.read(move |w, _| Ok(w.store.tx(&id)?)).await?;
        Ok(location.map(|location| TxStatus::Decided { height: location.height }))
    }

    fn need_blob(&self, field: &str, blob: &BlobRef) -> Result<(), ApiError> {
        match self.wiring.blobs.status(&blob.hash) {
            BlobStatus::Held { bytes } if bytes == blob.bytes => Ok(()),
            BlobStatus::Held { bytes } => Err(ApiError::field(
                "blob_length",
                &format!("{field}.bytes"),
                blob.bytes,
                bytes,
                format!(
                    "{field}: the blob held here has another length; name its own length, or upload the right file"
                ),
            )),
            _ => Err(ApiError::field(
                "unknown_blob",
                field,
                blob.hash,
                "a blob held here",
                format!("{field}: no such blob is held here; upload the file first: PUT /v1/blobs"),
            )),
        }
    }

    /// Where a transaction stands.
    ///
    /// # Errors
    /// `internal` when the store fails.
    pub async fn tx_status(&self, id: TxId) -> Result<TxStatus, ApiError> {
        if let Some(decided) = self.decided(id).await? {
            return Ok(decided);
        }
        if self.ask(&self.wiring.mail.mempool, |reply| MempoolMsg::Has { id, reply }).await? {
            return Ok(TxStatus::Pending);
        }
        let standing = |reply| AvailabilityMsg::Standing { id, reply };
        Ok(match self.ask(&self.wiring.mail.availability, standing).await? {
            Standing::Waiting => TxStatus::Pending,
            Standing::Refused(error) => TxStatus::Refused { reason: error.message },
            Standing::Unknown => TxStatus::Unknown,
        })
    }

    /// A job.
    ///
    /// # Errors
    /// `unknown_job`.
    pub async fn job(&self, id: JobId) -> Result<JobView, ApiError> {
        self.read(move |w, view| reads::job_view(w, view, &id)?.ok_or_else(|| unknown_job(&id))).await
    }

    /// Jobs by sender and status, newest first within the ledger's order; `after` is the cursor of the page before.
    ///
    /// # Errors
    /// `out_of_bounds` for the limit, `invalid_params` for a cursor that is none.
    pub async fn jobs(
        &self,
        sender: Option<PublicKey>,
        status: Option<JobStatus>,
        after: Option<String>,
        limit: u32,
    ) -> Result<(Vec<JobView>, Option<String>), ApiError> {
        let limit = page(limit)?;
        if let Some(cursor) = after.as_deref().filter(|cursor| !query::is_job_cursor(sender.as_ref(), cursor)) {
            let message =
                "after: this is no cursor of such a list; give the one of the page before, asked with the same sender";
            let shown: String = cursor.chars().take(120).collect();
            return Err(ApiError::field("invalid_params", "after", shown, "the cursor of the page before", message));
        }
        self.read(move |w, view| {
            let page = query::list_jobs(&view.state, sender.as_ref(), status, after.as_deref(), limit)?;
            let mut jobs = Vec::with_capacity(page.items.len());
            for item in page.items {
                jobs.extend(reads::job_view(w, view, &item.job_id)?);
            }
            Ok((jobs, page.cursor))
        })
        .await
    }

    /// Why a job waits, or how it ended.
    ///
    /// # Errors
    /// `unknown_job`.
    pub async fn explain(&self, id: JobId) -> Result<ExplainView, ApiError> {
        self.read(move |w, view| {
            let explained =
                ledger::explain::job(&view.state, &id, view.head.time_ms)?.ok_or_else(|| unknown_job(&id))?;
            let job = reads::job_view(w, view, &id)?.ok_or_else(|| unknown_job(&id))?;
            let task = reads::task(view, &id)?;
            Ok(convert::explain(&explained, &job, task.as_ref(), convert::stalled(w, view)))
        })
        .await
    }

    /// The price of a job with this step limit.
    ///
    /// # Errors
    /// `out_of_bounds`.
    pub async fn estimate(&self, max_steps: u64) -> Result<EstimateView, ApiError> {
        self.read(move |_, view| {
            let fee = query::price(&view.state, max_steps)?;
            let limit = view.params.steps_max;
            let fee = fee.filter(|_| max_steps <= limit).ok_or_else(|| {
                ApiError::field(
                    "out_of_bounds",
                    "max_steps",
                    max_steps,
                    limit,
                    "no job of this chain may have so many steps; ask for fewer",
                )
            })?;
            let provers =
                query::provers(&view.state)?.iter().filter(|p| p.steps_max >= max_steps && !p.exiting).count();
            Ok(EstimateView { fee, steps_max: limit, deadline_ms_max: view.params.deadline_ms_max, provers })
        })
        .await
    }

    /// A job's receipt, encoded, with the changes of the validator set from height `since` on.
    ///
    /// # Errors
    /// `unknown_job`, `receipt_not_ready`, `pruned`, `out_of_bounds` for `since`.
    pub async fn receipt(&self, id: JobId, since: Height) -> Result<Vec<u8>, ApiError> {
        self.read(move |w, view| Ok(reads::receipt(w, view, &id, since)?.to_bytes())).await
    }

    /// An account.
    ///
    /// # Errors
    /// `internal` when the store fails.
    pub async fn account(&self, key: PublicKey) -> Result<AccountView, ApiError> {
        let account = self.read(move |_, view| Ok(query::account(&view.state, &key)?)).await?;
        let pending = self.ask(&self.wiring.mail.mempool, |reply| MempoolMsg::NextNonce { sender: key, reply }).await?;
        let nonce_pending = pending?.max(account.nonce);
        Ok(AccountView { account: key, balance: account.balance, nonce: account.nonce, nonce_pending })
    }

    /// Registered provers.
    ///
    /// # Errors
    /// `internal` when the store fails.
    pub async fn provers(&self) -> Result<Vec<ProverView>, ApiError> {
        self.read(|_, view| {
            Ok(query::provers(&view.state)?.iter().map(|p| convert::prover(p, view.head.time_ms)).collect())
        })
        .await
    }

    /// Has the prover look for devices that have come or gone, in the background.
    pub fn look_for_devices(&self) {
        if self.wiring.mail.prover.send(ProverMsg::Look) != Sent::Accepted {
            tracing::info!("this node does not prove, or its prover is busy: no devices are looked for");
        }
    }

    /// What this node's prover does.
    ///
    /// # Errors
    /// `internal` when the store fails.
    pub async fn prover_status(&self) -> Result<ProverStatusView, ApiError> {
        let mut status = self.wiring.prover_status.borrow().clone();
        if status.state == "idle"
            && let Some(key) = self.wiring.prover
        {
            // The ledger knows why: not registered, other ranks first, behind after lapsed turns.
            status.reason = self
                .read(move |_, view| Ok(ledger::explain::prover(&view.state, &key, view.head.time_ms)?.text))
                .await?;
        }
        Ok(status)
    }

    /// Offences on record.
    ///
    /// # Errors
    /// `out_of_bounds` for the limit.
    pub async fn evidence(&self, limit: u32) -> Result<Vec<EvidenceView>, ApiError> {
        let limit = page(limit)?;
        self.read(move |_, view| {
            Ok(query::offences(&view.state, None, limit)?.items.iter().map(convert::offence).collect())
        })
        .await
    }

    /// This node's network.
    ///
    /// # Errors
    /// `network_down` while the swarm restarts.
    pub fn net(&self) -> Result<NetView, ApiError> {
        let net = self.wiring.net.get().ok_or_else(network_down)?;
        Ok(convert::net(&net, &self.wiring, &self.wiring.view()))
    }

    /// Connected peers.
    ///
    /// # Errors
    /// `network_down` while the swarm restarts.
    pub fn peers(&self) -> Result<Vec<PeerView>, ApiError> {
        let net = self.wiring.net.get().ok_or_else(network_down)?;
        Ok(net.peers().iter().map(convert::peer).collect())
    }

    /// Begins an upload. What is written beyond the largest blob is refused.
    ///
    /// # Errors
    /// `disk_budget`, `disk_reserve`.
    pub async fn blob_upload(&self) -> Result<BlobUpload, ApiError> {
        let writer = self.read(|w, _| Ok(w.blobs.writer()?)).await?;
        Ok(BlobUpload { writer: Some(writer) })
    }

    /// A blob's length, bytes, when all of it is here.
    ///
    /// # Errors
    /// `unknown_blob`, `pruned`.
    pub fn blob_bytes(&self, hash: &BlobHash) -> Result<u64, ApiError> {
        match self.wiring.blobs.status(hash) {
            BlobStatus::Held { bytes } => Ok(bytes),
            BlobStatus::Pruned => {
                Err(ApiError::new("pruned", format!("blob {hash} was pruned after its retention time")))
            }
            BlobStatus::Partial { .. } | BlobStatus::Unknown => Err(unknown_blob(hash)),
        }
    }

    /// One chunk of a blob ([`BLOB_CHUNK_BYTES`](types::limits::BLOB_CHUNK_BYTES), the last one what is left), read from the
    /// disk now and checked against the hash.
    ///
    /// # Errors
    /// `unknown_blob` when it has no such chunk, or has gone meanwhile.
    pub async fn blob_chunk(&self, hash: BlobHash, number: u32) -> Result<Vec<u8>, ApiError> {
        self.read(move |w, _| w.blobs.chunk(&hash, number)?.ok_or_else(|| unknown_blob(&hash))).await
    }

    /// Events from now on. A reader that falls behind the ring is told how many it missed, once.
    pub fn subscribe(&self) -> broadcast::Receiver<EventView> {
        self.wiring.ring.subscribe()
    }

    /// How the node is.
    pub async fn health(&self) -> HealthView {
        let (wiring, uptime) = (self.wiring.clone(), self.started.elapsed());
        let looked = tokio::task::spawn_blocking(move || convert::health(&wiring, uptime)).await;
        looked.unwrap_or_else(|error| HealthView {
            status: "unhealthy".into(),
            components: vec![],
            not_ready: Some(format!("the health check itself failed: {error}")),
        })
    }

    /// The engine's metrics as Prometheus text, and libp2p's own as OpenMetrics text.
    ///
    /// # Errors
    /// `internal` when they can't be rendered.
    pub async fn metrics_text(&self) -> Result<(String, String), ApiError> {
        let uptime = self.started.elapsed().as_secs();
        self.read(move |w, _| {
            let set = |gauge: &prometheus::IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            let metrics = &w.metrics;
            set(&metrics.uptime, uptime);
            for (actor, refused) in w.mail.refused() {
                let counter = metrics.refused.with_label_values(&[actor]);
                counter.inc_by(refused.saturating_sub(counter.get()));
            }
            let blobs = w.blobs.usage();
            for (part, bytes) in
                [("used", blobs.used), ("unreferenced", blobs.unreferenced), ("budget", blobs.limits.budget)]
            {
                set(&metrics.blob_bytes.with_label_values(&[part]), bytes);
            }
            let used = w.store.usage();
            for (part, bytes) in [
                ("files", used.files),
                ("blob_files", used.blob_files),
                ("memory_tables", used.memory_tables),
                ("cache", used.cache),
            ] {
                set(&metrics.store_bytes.with_label_values(&[part]), bytes);
            }
            if let Ok(free) = w.blobs.disk_free() {
                set(&metrics.disk_free, free);
            }
            let own = metrics.text().map_err(|e| ApiError::new("internal", e.to_string()))?;
            Ok((own, w.net.get().map(|n| n.open_metrics()).unwrap_or_default()))
        })
        .await
    }

    /// Stops intake, lets what is under way finish for at most ten seconds, and ends every actor.
    pub async fn shutdown(&self) {
        self.wiring.stop.stop(StopReason::Shutdown);
        self.tree.stop().await;
    }

    /// Waits until the engine ends, and says why.
    pub async fn stopped(&self) -> StopReason {
        self.wiring.stop.stopped().await
    }

    async fn read<T, F>(&self, read: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&Wiring, &ChainView) -> Result<T, ApiError> + Send + 'static,
    {
        let wiring = self.wiring.clone();
        let done = tokio::task::spawn_blocking(move || {
            let view = wiring.view();
            read(&wiring, &view)
        });
        done.await.map_err(|e| ApiError::new("internal", e.to_string()))?
    }

    async fn ask<M: Send + 'static, T>(
        &self,
        mailbox: &Mailbox<M>,
        message: impl FnOnce(oneshot::Sender<T>) -> M,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        match mailbox.send(message(reply)) {
            Sent::Accepted => {}
            Sent::Full => {
                return Err(ApiError::new("overloaded", "this node has too much waiting; try again in a few seconds"));
            }
            Sent::Closed => {
                return Err(ApiError::new(
                    "restarting",
                    format!("the node's {} is restarting; try again", mailbox.name()),
                ));
            }
        }
        match tokio::time::timeout(ASK_LIMIT, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => {
                Err(ApiError::new("restarting", format!("the node's {} restarted; try again", mailbox.name())))
            }
            Err(_) => Err(ApiError::new("overloaded", format!("the node's {} did not answer in time", mailbox.name()))),
        }
    }
}

/// An upload under way; dropped, it leaves nothing behind.
pub struct BlobUpload {
    writer: Option<BlobWriter>,
}

impl std::fmt::Debug for BlobUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobUpload")
    }
}

impl BlobUpload {
    /// Appends a part.
    ///
    /// # Errors
    /// `too_large`, `disk_budget`, `disk_reserve`.
    pub async fn write(&mut self, part: &[u8]) -> Result<(), ApiError> {
        let gone = || ApiError::new("internal", "the upload is over");
        let (mut writer, part) = (self.writer.take().ok_or_else(gone)?, part.to_vec());
        let done = tokio::task::spawn_blocking(move || writer.write(&part).map(|()| writer));
        self.writer = Some(done.await.map_err(|e| ApiError::new("internal", e.to_string()))??);
        Ok(())
    }

    /// Ends the upload; the blob is held for ten minutes unless a job needs it.
    ///
    /// # Errors
    /// `internal`.
    pub async fn finish(mut self) -> Result<BlobRef, ApiError> {
        let writer = self.writer.take().ok_or_else(|| ApiError::new("internal", "the upload is over"))?;
        let done = tokio::task::spawn_blocking(move || writer.finish(wall_clock()));
        let (hash, bytes) = done.await.map_err(|e| ApiError::new("internal", e.to_string()))??;
        Ok(BlobRef { hash, bytes })
    }
}

fn unknown_blob(hash: &BlobHash) -> ApiError {
    ApiError::field("unknown_blob", "hash", hash, "a blob held here", "this blob is not on this node; ask another one")
}

fn unknown_job(id: &JobId) -> ApiError {
    ApiError::field(
        "unknown_job",
        "job_id",
        id,
        "a job in the ledger",
        "no such job is in the ledger of this node; check the id, or wait if it was just submitted",
    )
}

fn network_down() -> ApiError {
    ApiError::new("network_down", "the network is restarting; try again in a few seconds")
}

fn page(limit: u32) -> Result<usize, ApiError> {
    if limit == 0 || limit > PAGE_MAX {
        return Err(ApiError::field(
            "out_of_bounds",
            "limit",
            limit,
            PAGE_MAX,
            "ask for 1 to 200 entries and follow the cursor",
        ));
    }
    Ok(limit as usize)
}

impl From<ledger::StateError> for ApiError {
    fn from(error: ledger::StateError) -> Self {
        Self::new("internal", error.to_string())
    }
}

impl From<ledger::LedgerError> for ApiError {
    fn from(error: ledger::LedgerError) -> Self {
        match error {
            ledger::LedgerError::Refused(e) => Self {
                code: e.code().name().into(),
                message: e.to_string(),
                field: Some(e.field().into()),
                value: Some(e.value().into()),
                limit: Some(e.limit().into()),
            },
            ledger::LedgerError::State(e) => e.into(),
        }
    }
}

/// Why a transaction that is in no block yet can be in none any more, if so.
fn lost_place(
    view: &ChainView,
    sender: PublicKey,
    nonce: u64,
    expires_ms: TimeMs,
) -> Result<Option<ApiError>, ApiError> {
    let next = query::account(&view.state, &sender)?.nonce;
    if nonce < next {
        let message = format!(
            "another transaction of this account took nonce {nonce} while this one waited; sign it again with nonce {next}"
        );
        return Ok(Some(ApiError::field(TxCode::NonceUsed.name(), "nonce", nonce, format!("next is {next}"), message)));
    }
    let now = view.head.time_ms;
    Ok((expires_ms <= now).then(|| {
        let message = "it was in no block before it expired; sign it again with a later expiry";
        ApiError::field(TxCode::TxExpired.name(), "expires_ms", expires_ms.0, format!("after {}", now.0), message)
    }))
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        match &error {
            StorageError::TooLarge { what, value, limit } => {
                Self::field("too_large", what, value, limit, error.to_string())
            }
            StorageError::BudgetExceeded { .. } => Self::new("disk_budget", error.to_string()),
            StorageError::DiskReserve { free, reserve, .. } => {
                Self::field("disk_reserve", "storage.disk_reserve_mib", free, reserve, error.to_string())
            }
            _ => Self::new("internal", error.to_string()),
        }
    }
}

impl From<reads::ReadError> for ApiError {
    fn from(error: reads::ReadError) -> Self {
        Self::new("internal", error.to_string())
    }
}

impl From<NoReceipt> for ApiError {
    fn from(error: NoReceipt) -> Self {
        match &error {
            NoReceipt::UnknownJob(id) => unknown_job(id),
            NoReceipt::NotCertified(_) | NoReceipt::NotHere(_) => Self::new("receipt_not_ready", error.to_string()),
            NoReceipt::Pruned(_) => Self::new("pruned", error.to_string()),
            NoReceipt::TooManySets { since } => {
                let limit = format!("at most {SET_CHANGES_MAX} changes of the set before the job");
                Self::field("out_of_bounds", "since", since, limit, error.to_string())
            }
            NoReceipt::Read(_) => Self::new("internal", error.to_string()),
        }
    }
}
