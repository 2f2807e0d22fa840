//! Leaving (I13): a terminal's record says what it reads, and the log counts its readers and what they
//! had not settled, elsewhere. So the script that takes a log out of the record notes there that it was
//! left, under a ticket; the log is told, and remembers the ticket as it does those of cursors
//! (`tickets.rs`); then the record forgets it. The note says all that is to be done, so whoever finds it
//! does the same again: who asks to leave once more, who joins anew (after that), the terminal's next
//! session or cursor, upkeep.
//!
//! A terminal that is removed leaves everything, and its record goes with the last of it.

use std::sync::Arc;

use clarion_core::LogKind;
use clarion_protocol::{Offset, ProductId, TerminalId};
use futures_util::future::join_all;

use super::breaks::Step;
use super::link::shard::SKEW_MS_MAX;
use super::memory::Parked;
use super::reply::{Args, number};
use super::schema::{Index, kind_letter, tag_of};
use super::tickets::{Batch, Ticket};
use super::{RedisStore, codec, scripts};
use crate::{StoreError, StoreResult};

/// Messages that one script looks at.
const ROWS_MAX: u32 = 2048;
/// What LEAVE answers when it is to be asked again.
const GOES_ON: u64 = 1;
/// What it answers after its deadline.
const TOO_LATE: u64 = 2;

/// A log that a terminal left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) kind: LogKind,
    pub(super) name: String,
    pub(super) ticket: Ticket,
    /// What is behind this was not settled; in a user's inbox its position says so.
    pub(super) settled: Offset,
    /// When.
    pub(super) at_ms: u64,
}

impl Leaving {
    /// As scripts name it.
    pub(super) fn stored_log(&self) -> String {
        format!("{}{}", kind_letter(self.kind), self.name)
    }
}

impl RedisStore {
    /// Has the log know that a terminal left it; then its record forgets it. Any number of times, by
    /// any number of processes.
    pub(super) async fn finish_leaving(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
        leaving: &Leaving,
    ) -> StoreResult<()> {
        let tag = tag_of(product, leaving.kind, &leaving.name);
        loop {
            // `now_ms` is the slowest clock of all servers; that of this one may be ahead of it.
            let not_after_ms =
                self.now_ms() + self.shards.timeout_ms() + 2 * SKEW_MS_MAX.unsigned_abs();
            let args = self
                .timed(leaving.kind)
                .bytes(terminal.as_str())
                .bytes(&leaving.ticket.teller.to_le_bytes()[..5])
                .number(leaving.ticket.batch)
                .number(leaving.settled.0)
                .number(leaving.at_ms)
                .number(ROWS_MAX)
                .number(not_after_ms);
            let call = self.call(&scripts::LEAVE, &tag, args);
            match number(self.broken(Step::Leave, &tag, call).await?)? {
                GOES_ON => {}
                TOO_LATE => return Err(StoreError::TooLate),
                _ => break,
            }
        }
        if leaving.kind == LogKind::Broadcast {
            self.strike(product, Index::Terminals, terminal.as_str()).await?;
        }
        self.forget_leaving(product, terminal, leaving).await
    }

    async fn forget_leaving(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
        leaving: &Leaving,
    ) -> StoreResult<()> {
        let tag = tag_of(product, LogKind::Terminal, terminal.as_str());
        let ticket = codec::encode_ticket(leaving.ticket);
        let args = Args::new().bytes(leaving.stored_log()).bytes(ticket);
        // Should it be lost, it is found anew, and the log says that it was done.
        let is_orphan =
            self.shards.write_relaxed(&tag, self.call(&scripts::LEFT, &tag, args)).await?;
        if number(is_orphan)? == 1 {
            self.enlist(product, Index::Inboxes, terminal.as_str()).await?;
        }
        Ok(())
    }

    /// The same for all that a record says it left. `batch` is that of those that were noted just now:
    /// they are kept for later if they cannot be done.
    pub(super) async fn finish_all_leaving(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
        all: &[Leaving],
        batch: &Arc<Batch>,
    ) -> StoreResult<()> {
        let mine = |leaving: &Leaving| leaving.ticket == batch.ticket(0);
        batch.of_logs(all.iter().filter(|leaving| mine(leaving)).count());
        let finished = all.iter().map(|leaving| async move {
            let finished = self.finish_leaving(product, terminal, leaving).await;
            (leaving, finished)
        });
        let mut outcome = Ok(());
        for (leaving, finished) in join_all(finished).await {
            match finished {
                Ok(()) if mine(leaving) => batch.counted(),
                Ok(()) => metrics::counter!("clarion_redis_leaving_resumed_total").increment(1),
                Err(error) => {
                    super::index_failed(&error);
                    if mine(leaving) {
                        self.parked.add(Parked {
                            product: product.clone(),
                            terminal: terminal.clone(),
                            leaving: leaving.clone(),
                            batch: Arc::clone(batch),
                        });
                    }
                    outcome = Err(half_done(&error));
                }
            }
        }
        outcome
    }

    /// Goes on with what was found in a record, unless this process is at it.
    pub(super) async fn finish_found(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
        leaving: &[Leaving],
    ) {
        let others = leaving.iter().filter(|leaving| !self.tellers.is_under_way(leaving.ticket));
        let finished = others.map(|leaving| self.finish_leaving(product, terminal, leaving));
        for finished in join_all(finished).await {
            match finished {
                Ok(()) => metrics::counter!("clarion_redis_leaving_resumed_total").increment(1),
                Err(error) => super::index_failed(&error),
            }
        }
    }

    /// Goes on with what could not be done.
    pub(super) async fn finish_parked(&self) {
        let parked = self.parked.take().into_iter().map(|parked| async move {
            let Parked { product, terminal, leaving, batch } = &parked;
            match self.finish_leaving(product, terminal, leaving).await {
                Ok(()) => batch.counted(),
                Err(error) => {
                    super::index_failed(&error);
                    self.parked.add(parked);
                }
            }
        });
        join_all(parked).await;
    }

    /// An index says that a terminal reads a log, and its record did not know of it: it leaves, unless
    /// it knows of it by now.
    pub(super) async fn depart(
        &self,
        product: &ProductId,
        kind: LogKind,
        name: &str,
        terminal: &TerminalId,
    ) -> StoreResult<()> {
        let batch = self.tellers.batch();
        let tag = tag_of(product, LogKind::Terminal, terminal.as_str());
        let args = Args::new()
            .number(self.shift_ms())
            .number(self.retention_ms)
            .bytes(format!("{}{name}", kind_letter(kind)))
            .bytes(codec::encode_ticket(batch.ticket(0)));
        let answer = self.shards.write(&tag, self.call(&scripts::DEPART, &tag, args)).await?;
        let leaving = match answer {
            ::redis::Value::BulkString(packed) => vec![codec::parse_leaving(&tag, &packed)?],
            _ => Vec::new(),
        };
        self.finish_all_leaving(product, terminal, &leaving, &batch).await
    }
}

/// The record says that it left, the log does not know that yet: whoever asks again goes on with it.
pub(super) fn half_done(error: &StoreError) -> StoreError {
    StoreError::Unknown(format!("it left, and the log does not know that yet: {error}"))
}
