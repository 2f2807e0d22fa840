//! The store as the rest of Clarion sees it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use clarion_core::{Body, LogKey, Page, Settled};
use clarion_protocol::http::TerminalKind;
use clarion_protocol::{Epoch, KeyId, MessageId, Offset, ProductId, TerminalId, TopicName, UserId};

use crate::record::{MessageRecord, ProductRecord, TerminalRecord};

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing happened; the same may succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It may or may not have happened (a time-out, a crash on the way). Ask again as I2 says.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// Nothing happened: the log is full and its limits say refuse (I6).
    #[error("the log is full")]
    LogFull,
    /// Nothing happened: the disk is below its free-space watermark.
    #[error("the store is full: {0}")]
    Full(String),
    /// Nothing happened: `not_after_ms` had passed (I2).
    #[error("the attempt came after its deadline")]
    TooLate,
    /// The store cannot go on (poisoned, corrupted data). The node stops accepting and says so.
    #[error("the store failed: {0}")]
    Fatal(String),
}

/// What a store answers with.
pub type StoreResult<T> = Result<T, StoreError>;

/// How long a log may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Most live entries.
    pub entries_max: u32,
    /// Most payload bytes of live entries.
    pub bytes_max: u64,
    /// Whether a full log evicts its oldest entries (topics, broadcast) or refuses (inboxes).
    pub evict: bool,
}

/// One attempt to append (I2).
#[derive(Debug, Clone)]
pub struct Append {
    /// The log.
    pub log: Arc<LogKey>,
    /// The message. One log holds a message at most once.
    pub message: MessageId,
    /// When it expires, Unix milliseconds of the store.
    pub expires_at_ms: u64,
    /// What it holds.
    pub body: Body,
    /// The attempt is refused with [`StoreError::TooLate`] after this, Unix milliseconds of the store.
    pub not_after_ms: u64,
    /// Set on every retry to the time of the first attempt: the message is looked for among all
    /// entries since then before it is appended.
    pub first_attempt_ms: Option<u64>,
    /// How long the log may become.
    pub limits: LogLimits,
}

/// A durable entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The lineage.
    pub epoch: Epoch,
    /// Its position.
    pub offset: Offset,
    /// The position before it.
    pub predecessor: Offset,
    /// It had been appended before, by an earlier attempt.
    pub duplicate: bool,
    /// Terminals it is for, as counted with the append (I13).
    pub audience: u64,
    /// Entries that were evicted to make room.
    pub evicted: u32,
}

/// A read of one log.
#[derive(Debug, Clone)]
pub struct Read {
    /// The log.
    pub log: Arc<LogKey>,
    /// Entries behind this offset.
    pub after: Offset,
    /// Most entries.
    pub entries_max: u32,
    /// Payload bytes after which no further entry is added. A page holds at least one entry.
    pub bytes_max: u32,
}

/// A session is about to open.
#[derive(Debug, Clone)]
pub struct OpenSession {
    /// The product.
    pub product: ProductId,
    /// The terminal.
    pub terminal: TerminalId,
    /// The user of its token. Another one than stored replaces the binding and drops the cursor of
    /// the former user's inbox.
    pub user: Option<UserId>,
    /// The kind of its token.
    pub kind: TerminalKind,
    /// Topics it asks to be in, allowed by its token.
    pub topics: Vec<TopicName>,
    /// Most topics a terminal may be in; those above are refused.
    pub topics_max: u32,
}

/// A session that may begin (I3, I7).
#[derive(Debug, Clone)]
pub struct OpenedSession {
    /// Orders the sessions of this terminal: higher than every one before.
    pub generation: u64,
    /// The store's time, Unix milliseconds.
    pub time_ms: u64,
    /// The heartbeat to start with, as last saved; `None` for the shortest.
    pub heartbeat_ms: Option<u64>,
    /// Its logs: inbox, user inbox if any, broadcast, topics.
    pub logs: Vec<OpenedLog>,
    /// Topics that were refused, and whether by a ban (else because of `topics_max`).
    pub refused: Vec<(TopicName, bool)>,
}

/// A log of a session that opens.
#[derive(Debug, Clone)]
pub struct OpenedLog {
    /// The log.
    pub log: Arc<LogKey>,
    /// The lineage of the store now.
    pub epoch: Epoch,
    /// The lineage of the stored cursor; another one means a gap (I5).
    pub cursor_epoch: Epoch,
    /// The stored cursor, or the start position recorded just now (I3).
    pub cursor: Offset,
    /// Delivery attempts of the first entry behind the cursor in earlier sessions (I10).
    pub attempts: u8,
    /// The durable head of the log.
    pub head: Offset,
}

/// A cursor to be written.
#[derive(Debug, Clone)]
pub struct CursorSave {
    /// The terminal whose cursor it is.
    pub terminal: TerminalId,
    /// The log; its product is the terminal's.
    pub log: Arc<LogKey>,
    /// The generation of the session that says so.
    pub generation: u64,
    /// The lineage.
    pub epoch: Epoch,
    /// Everything up to here is settled. Written as `max` within the epoch; another epoch than
    /// stored replaces it.
    pub cursor: Offset,
    /// Delivery attempts of the first entry behind the cursor.
    pub attempts: u8,
    /// Entries between the stored cursor and `cursor` that were not acknowledged; all others there
    /// were (I13). In the order of their offsets. A gap the reader was told (I6) is one item with
    /// `Evicted` and the offset it ends at: it speaks of everything that is not in the log any more,
    /// from the stored cursor on, or from an item with `Acknowledged` in front of it.
    pub settled: Vec<Settled>,
    /// The heartbeat to start the next session with.
    pub heartbeat_ms: Option<u64>,
}

/// What became of a [`CursorSave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveOutcome {
    /// It stands, durable.
    Saved,
    /// A newer session exists: the sender is to close as `replaced` (I7).
    Stale,
    /// The terminal is no reader of this log any more (unsubscribed, rebound, erased).
    NotSubscribed,
    /// The cursor is above the log's durable head: nothing is stored (I5).
    AboveHead,
}

/// Who changes a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscribeBy {
    /// The terminal, as its token allows; a ban beats it.
    Terminal,
    /// The back-end. Subscribing lifts a ban, unsubscribing sets one.
    Backend,
}

/// A terminal joins a topic.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// The product.
    pub product: ProductId,
    /// The terminal; registered if it was not (I3).
    pub terminal: TerminalId,
    /// The topic.
    pub topic: TopicName,
    /// Who asks.
    pub by: SubscribeBy,
    /// Most topics a terminal may be in.
    pub topics_max: u32,
}

/// What became of a [`Subscribe`].
#[derive(Debug, Clone)]
pub enum SubscribeOutcome {
    /// It is in now; its start position is durable.
    Joined(OpenedLog),
    /// It was in already.
    AlreadyIn(OpenedLog),
    /// The back-end had removed it.
    Banned,
    /// It is in as many topics as it may be.
    TooMany,
}

/// A terminal leaves a topic; its cursor is dropped durably.
#[derive(Debug, Clone)]
pub struct Unsubscribe {
    /// The product.
    pub product: ProductId,
    /// The terminal.
    pub terminal: TerminalId,
    /// The topic.
    pub topic: TopicName,
    /// Who asks.
    pub by: SubscribeBy,
}

/// What became of an [`Unsubscribe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsubscribeOutcome {
    /// It is out now.
    Left,
    /// It was not in (a ban is set all the same when the back-end asks).
    NotIn,
}

/// A caller's idempotency key is claimed for a message id, durably before the first append.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The product.
    pub product: ProductId,
    /// The key.
    pub key: Arc<str>,
    /// SHA-256 of the request.
    pub body_hash: [u8; 32],
    /// The id to use if the key is new.
    pub message: MessageId,
    /// When the entry of the message expires, if the key is new. Unix milliseconds of the store.
    pub expires_at_ms: u64,
    /// Until when the claimant works on it; afterwards the next one takes over. Unix milliseconds
    /// of the store; at least the `not_after_ms` of its appends.
    pub until_ms: u64,
    /// When the record of the key may go. Unix milliseconds of the store.
    pub keep_until_ms: u64,
}

/// What became of a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The key is new and now bound to the given id.
    New,
    /// Another request works on it until then. Unix milliseconds of the store.
    InProgress {
        /// When it can be taken over.
        until_ms: u64,
    },
    /// An earlier claim ended without an outcome, or with targets to repeat: go on with its id.
    TakenOver {
        /// The id the key is bound to.
        message: MessageId,
        /// Its expiry.
        expires_at_ms: u64,
        /// When the first claim was made: appends must look for the message since then (I2).
        first_attempt_ms: u64,
        /// The outcome so far, as given to [`Finish`] with `done: false`.
        partial: Option<Bytes>,
    },
    /// The outcome as given to [`Finish`] with `done: true`.
    Done {
        /// The id the key is bound to.
        message: MessageId,
        /// The outcome.
        outcome: Bytes,
    },
    /// The key is bound to another body.
    Mismatch,
}

/// The outcome of a claimed request.
#[derive(Debug, Clone)]
pub struct Finish {
    /// The product.
    pub product: ProductId,
    /// The key.
    pub key: Arc<str>,
    /// The id it is bound to; nothing happens if it is bound to another.
    pub message: MessageId,
    /// Whether a retry replays the outcome (true) or repeats what failed as retryable (false).
    pub done: bool,
    /// The outcome, opaque to the store, at most 64 KiB.
    pub outcome: Bytes,
}

/// A nonce is used.
#[derive(Debug, Clone)]
pub struct ConsumeNonce {
    /// The product.
    pub product: ProductId,
    /// The key that signed.
    pub key: KeyId,
    /// The nonce.
    pub nonce: Arc<str>,
    /// The timestamp of the request, Unix seconds; the record lives until it leaves the window.
    pub timestamp_s: u64,
    /// The window to either side, in seconds.
    pub window_s: u64,
}

/// What became of a [`ConsumeNonce`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonceUse {
    /// First use.
    Fresh,
    /// Used before.
    Replayed,
    /// The record of nonces is at its bound; the request is to be refused as overloaded.
    Full,
}

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreHealth {
    /// The lineage.
    pub epoch: Epoch,
    /// Whether appends are accepted; if not, why.
    pub writable: Result<(), StoreError>,
    /// Free bytes on the data disk, where there is one.
    pub free_bytes: Option<u64>,
    /// Bytes the store occupies, where it knows.
    pub used_bytes: Option<u64>,
    /// Requests that wait for the writer.
    pub queued: usize,
}

/// What a round of upkeep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Records looked at.
    pub examined: u64,
    /// Entries removed because they had expired.
    pub expired_entries: u64,
    /// Other records removed at the end of their retention.
    pub expired_records: u64,
    /// Whether the round went through everything (else the next call goes on where this one ended).
    pub complete: bool,
}

/// A durable store. Methods take batches first; the answers are in the order of the requests.
/// One item's failure is its own; an outer error speaks for the whole batch.
///
/// Every method is safe to drop half-way: the effect is then unknown, as with a time-out.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Appends. An `Ok` item is durable; items of one log get increasing offsets in the order
    /// given, also across concurrent calls from one task that were issued in order. No reader sees
    /// an entry before it is durable (I1). Offsets are [`Offset::next`] of the log's last one.
    async fn append(&self, appends: Vec<Append>) -> Vec<StoreResult<Appended>>;

    /// Reads from positions; stops at the durable head (I1).
    async fn read(&self, reads: Vec<Read>) -> Vec<StoreResult<Page>>;

    /// Registers terminals that are new, binds users, joins topics, takes generations and returns
    /// cursors, in one call per session (I3, I7). What is new is durable on return; a session of a
    /// known terminal that changes nothing costs no synchronous write.
    async fn open_session(&self, opens: Vec<OpenSession>) -> Vec<StoreResult<OpenedSession>>;

    /// Writes cursors, durable on return, `max` within the epoch, fenced by generation (I7), and
    /// counts what they settle with them, exactly once (I13). Entries of inboxes that every reader
    /// has passed are removed.
    async fn save_cursors(&self, saves: Vec<CursorSave>) -> Vec<StoreResult<SaveOutcome>>;

    /// Whether each generation is still the newest of its terminal (I7).
    async fn verify_generations(
        &self,
        sessions: Vec<(ProductId, TerminalId, u64)>,
    ) -> StoreResult<Vec<bool>>;

    /// Joins topics; durable on return.
    async fn subscribe(&self, requests: Vec<Subscribe>) -> Vec<StoreResult<SubscribeOutcome>>;

    /// Leaves topics; durable on return. What was pending there counts as suppressed (I13).
    async fn unsubscribe(&self, requests: Vec<Unsubscribe>)
    -> Vec<StoreResult<UnsubscribeOutcome>>;

    /// Claims idempotency keys; durable on return.
    async fn claim(&self, claims: Vec<Claim>) -> Vec<StoreResult<ClaimOutcome>>;

    /// Records outcomes of claimed requests. Ordered before later claims of the same key, but not
    /// necessarily durable on return: what is lost in a crash is found again by I2.
    async fn finish(&self, outcomes: Vec<Finish>) -> StoreResult<()>;

    /// Uses nonces, atomically across all callers. Survives the death of the process.
    async fn consume_nonces(&self, nonces: Vec<ConsumeNonce>) -> StoreResult<Vec<NonceUse>>;

    /// Creates or replaces the record of a product; durable on return. `expect_absent` refuses
    /// (`Ok(false)`) to replace.
    async fn put_product(&self, product: ProductRecord, expect_absent: bool) -> StoreResult<bool>;

    /// The record of a product.
    async fn product(&self, product: &ProductId) -> StoreResult<Option<ProductRecord>>;

    /// Products in the order of their names, behind `after`.
    async fn products(
        &self,
        after: Option<ProductId>,
        limit: usize,
    ) -> StoreResult<Vec<ProductRecord>>;

    /// The record of a terminal.
    async fn terminal(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<Option<TerminalRecord>>;

    /// Terminals of a product in the order of their ids, behind `after`; of one user if given.
    async fn terminals(
        &self,
        product: &ProductId,
        user: Option<UserId>,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalRecord>>;

    /// How many terminals a product has.
    async fn terminal_count(&self, product: &ProductId) -> StoreResult<u64>;

    /// Members of a topic in the order of their ids, behind `after`.
    async fn members(
        &self,
        product: &ProductId,
        topic: &TopicName,
        after: Option<TerminalId>,
        limit: usize,
    ) -> StoreResult<Vec<TerminalId>>;

    /// The record of a message with its counts (I13), until a day after it expired. It leads to the logs
    /// and is not needed by them: a back end may find nothing of a message that was appended while that
    /// could not be noted, for a while, or for good if the process ended then.
    async fn message(
        &self,
        product: &ProductId,
        message: MessageId,
    ) -> StoreResult<Option<MessageRecord>>;

    /// Counts first writes to terminals, for messages of any log: `(log, offset, terminals)`.
    /// Informative: not durable on return, lost increments are made up for by acknowledgements.
    async fn count_delivered(&self, counts: Vec<(Arc<LogKey>, Offset, u32)>) -> StoreResult<()>;

    /// Does a bounded piece of upkeep (at most about `budget` records looked at): removes what
    /// expired and what is beyond its retention.
    async fn upkeep(&self, budget: usize) -> StoreResult<Upkeep>;

    /// The store's time, Unix milliseconds; never steps back while the process lives (I11).
    fn time_ms(&self) -> u64;

    /// The lineage (I5).
    fn epoch(&self) -> Epoch;

    /// How the store is. Cheap: no I/O on the caller's thread.
    fn health(&self) -> StoreHealth;

    /// Makes everything durable and stops. Later calls answer [`StoreError::Unavailable`].
    async fn close(&self) -> StoreResult<()>;
}
