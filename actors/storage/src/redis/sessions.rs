//! Sessions and memberships (I3, I7). The terminal's record is the truth and changes in one script.
//! What starts at the head of another log joins that log first, where the head and the number of
//! readers are of one moment; a crash in between leaves a reader too many in an index, never an
//! entry unread. What it leaves it notes first (`leaving.rs`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clarion_core::{LogKey, LogKind};
use clarion_protocol::{LogName, Offset, ProductId, TerminalId, TopicName, UserId};
use futures_util::future::join_all;

use super::breaks::Step;
use super::codec::Stored;
use super::reply::{Args, Parts, number};
use super::schema::{Index, log_tag, tag_of};
use super::tickets::{Batch, Ticket};
use super::{RedisStore, codec, scripts};
use crate::engine::codec::{Sub, TerminalRow};
use crate::engine::terminals::{TOUCH_MS, in_order, refused, shared_key};
use crate::{OpenSession, OpenedLog, OpenedSession, StoreError, StoreResult};

/// Rounds after which others that change the same record at the same time have won.
pub(super) const ROUNDS_MAX: usize = 8;

/// What was joined is joined anew after this: less than upkeep waits before it takes it out.
const JOINED_FOR: Duration = Duration::from_secs(20);

/// Where readers begin, as told by the logs they joined.
#[derive(Debug, Default)]
pub(super) struct Starts {
    broadcast: Option<u64>,
    user: Option<u64>,
    topics: HashMap<String, u64>,
    /// Tickets of the record that are known to be counted.
    counted: Vec<u8>,
}

/// A change of a terminal's record.
pub(super) struct Attach<'a> {
    pub(super) product: &'a ProductId,
    pub(super) terminal: &'a TerminalId,
    /// A session, with user and kind; else only topics are joined.
    pub(super) session: Option<&'a OpenSession>,
    pub(super) topics: &'a [TopicName],
    pub(super) topics_max: u32,
    pub(super) lifts_bans: bool,
}

/// A record that was changed.
pub(super) struct Attached {
    pub(super) before: Option<TerminalRow>,
    pub(super) after: TerminalRow,
    inbox_head: Offset,
    now_ms: u64,
}

impl RedisStore {
    pub(super) async fn open_batch(
        &self,
        opens: Vec<OpenSession>,
    ) -> Vec<StoreResult<OpenedSession>> {
        // Sessions of one terminal open one after the other.
        let mut terminals: HashMap<(&ProductId, &TerminalId), Vec<usize>> = HashMap::new();
        for (index, open) in opens.iter().enumerate() {
            terminals.entry((&open.product, &open.terminal)).or_default().push(index);
        }
        let mut attached: Vec<Option<StoreResult<Attached>>> = Vec::new();
        attached.resize_with(opens.len(), || None);
        let groups = terminals.into_values().map(|indexes| self.open_in_order(indexes, &opens));
        for (index, outcome) in join_all(groups).await.into_iter().flatten() {
            attached[index] = Some(outcome);
        }
        let heads = self.heads_for(&opens, &attached).await;
        let missing = || Err(StoreError::Unknown("Redis left out an answer".into()));
        let opened = opens.iter().zip(attached).map(|(open, attached)| {
            let attached = attached.unwrap_or_else(missing)?;
            self.opened(open, &attached, &heads)
        });
        opened.collect()
    }

    async fn open_in_order(
        &self,
        indexes: Vec<usize>,
        opens: &[OpenSession],
    ) -> Vec<(usize, StoreResult<Attached>)> {
        let mut outcomes = Vec::with_capacity(indexes.len());
        for index in indexes {
            let open = &opens[index];
            let attach = Attach {
                product: &open.product,
                terminal: &open.terminal,
                session: Some(open),
                topics: &open.topics,
                topics_max: open.topics_max,
                lifts_bans: false,
            };
            outcomes.push((index, Box::pin(self.attach(&attach)).await));
        }
        outcomes
    }

    /// Heads of all logs of sessions that open, each asked for once.
    async fn heads_for(
        &self,
        opens: &[OpenSession],
        attached: &[Option<StoreResult<Attached>>],
    ) -> HashMap<Arc<LogKey>, StoreResult<Offset>> {
        let mut logs: HashMap<Arc<LogKey>, ()> = HashMap::new();
        for (open, attached) in opens.iter().zip(attached) {
            let Some(Ok(attached)) = attached else { continue };
            let row = &attached.after;
            for sub in in_order(row) {
                let log = shared_key(&open.product, &open.terminal, row.user.as_ref(), &sub.log);
                if let Some(log) = log.filter(|log| log.kind != LogKind::Terminal) {
                    logs.insert(log, ());
                }
            }
        }
        self.heads(logs.into_keys()).await
    }

    /// Heads of logs.
    pub(super) async fn heads(
        &self,
        logs: impl Iterator<Item = Arc<LogKey>>,
    ) -> HashMap<Arc<LogKey>, StoreResult<Offset>> {
        let heads = logs.map(|log| async move {
            let head = self.head(&log).await;
            (log, head)
        });
        join_all(heads).await.into_iter().collect()
    }

    pub(super) async fn head(&self, log: &LogKey) -> StoreResult<Offset> {
        let tag = log_tag(log);
        let call = self.call(&scripts::LOG, &tag, Args::new().kind(log.kind));
        Ok(Offset(number(self.shards.read(&tag, call).await?)?))
    }

    fn opened(
        &self,
        open: &OpenSession,
        attached: &Attached,
        heads: &HashMap<Arc<LogKey>, StoreResult<Offset>>,
    ) -> StoreResult<OpenedSession> {
        let row = &attached.after;
        let mut logs = Vec::with_capacity(row.subs.len());
        for sub in in_order(row) {
            let log = shared_key(&open.product, &open.terminal, row.user.as_ref(), &sub.log);
            let Some(log) = log else { continue };
            let head = match heads.get(&log) {
                Some(head) => head.clone()?,
                None => attached.inbox_head,
            };
            logs.push(self.opened_log(log, sub, head));
        }
        Ok(OpenedSession {
            generation: row.generation,
            time_ms: attached.now_ms,
            heartbeat_ms: row.heartbeat_ms,
            logs,
            refused: refused(row, &open.topics),
        })
    }

    pub(super) fn opened_log(&self, log: Arc<LogKey>, sub: &Sub, head: Offset) -> OpenedLog {
        OpenedLog {
            log,
            epoch: self.epoch,
            cursor_epoch: sub.epoch,
            cursor: sub.cursor,
            attempts: sub.attempts,
            head,
        }
    }

    /// Changes a terminal's record, joining what it needs to join first.
    pub(super) async fn attach(&self, attach: &Attach<'_>) -> StoreResult<Attached> {
        let tag = tag_of(attach.product, LogKind::Terminal, attach.terminal.as_str());
        let (mut starts, batch) = (Starts::default(), self.tellers.batch());
        let mut began = Instant::now();
        for _ in 0..ROUNDS_MAX {
            // A process that was stopped meanwhile: upkeep may have taken out what was joined.
            if began.elapsed() > JOINED_FOR {
                (starts, began) = (Starts::default(), Instant::now());
            }
            let args = self.attach_args(attach, &starts, batch.ticket(0));
            let call = self.call(&scripts::ATTACH, &tag, args);
            let answer = self.broken(Step::Attach, &tag, call).await?;
            let mut parts = Parts::of(answer)?;
            let done = parts.number()? == 1;
            let before = codec::decode_record(&tag, &parts.bytes()?)?.row;
            if done {
                let mut stored = codec::decode_record(&tag, &parts.bytes()?)?;
                let after = stored.row.take().ok_or_else(|| {
                    codec::damaged("terminals", &tag, "it was written and is none")
                })?;
                let inbox_head = Offset(parts.number()?);
                let now_ms = parts.number()?;
                let attached = Attached { before, after, inbox_head, now_ms };
                Box::pin(self.after_attach(attach, &attached, &stored, &batch)).await;
                return Ok(attached);
            }
            for need in parts.list()?.texts()? {
                if let Err(error) = self.join_first(attach, &need, &mut starts).await {
                    batch.of_logs(0);
                    return Err(error);
                }
            }
        }
        batch.of_logs(0);
        Err(StoreError::Unavailable("the terminal's record changes all the time".into()))
    }

    fn attach_args(&self, attach: &Attach<'_>, starts: &Starts, leaves: Ticket) -> Args {
        let session = attach.session;
        let user = session.and_then(|open| open.user.as_ref()).map_or("", UserId::as_str);
        let mut args = Args::new()
            .number(self.shift_ms())
            .number(self.retention_ms)
            .number(self.epoch.0)
            .bytes(if session.is_some() { "open" } else { "join" })
            .bytes(user)
            .number(codec::stored_kind(session.map(|open| open.kind)))
            .number(attach.topics_max)
            .flag(attach.lifts_bans)
            .maybe(starts.broadcast)
            .maybe(starts.user)
            .bytes(self.tellers.told())
            .bytes(starts.counted.clone())
            .bytes(codec::encode_ticket(leaves));
        for topic in attach.topics {
            args = args.bytes(topic.as_str()).maybe(starts.topics.get(topic.as_str()).copied());
        }
        args
    }

    async fn join_first(
        &self,
        attach: &Attach<'_>,
        need: &str,
        starts: &mut Starts,
    ) -> StoreResult<()> {
        let (product, terminal) = (attach.product, attach.terminal);
        match need.split_at_checked(1) {
            Some(("b", _)) => starts.broadcast = Some(self.register(product, terminal).await?),
            Some(("u", _)) => {
                let user = attach.session.and_then(|open| open.user.as_ref());
                let user = user.map_or("", UserId::as_str);
                let (_, counted) =
                    self.join(product, LogKind::User, user, terminal, true, Offset::ZERO).await?;
                starts.user = Some(counted);
            }
            Some(("s", topic)) => {
                let (head, _) =
                    self.join(product, LogKind::Topic, topic, terminal, true, Offset::ZERO).await?;
                starts.topics.insert(topic.to_owned(), head);
            }
            Some(("l", log)) => self.leave_first(product, terminal, log, starts).await?,
            Some(("p", _)) => starts.counted = self.settle_user(product, terminal).await?,
            _ => return Err(StoreError::Fatal(format!("a script needs {need:?}"))),
        }
        Ok(())
    }

    /// Is out of a log before it is in it anew.
    async fn leave_first(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
        log: &str,
        starts: &mut Starts,
    ) -> StoreResult<()> {
        let (stored, _, _) = self.stored_record(product, terminal).await?;
        for leaving in stored.leaving.iter().filter(|leaving| leaving.stored_log() == log) {
            self.finish_leaving(product, terminal, leaving).await?;
        }
        // What was joined meanwhile, the leaving undid.
        *starts = Starts { counted: std::mem::take(&mut starts.counted), ..Starts::default() };
        Ok(())
    }

    /// Counts what the cursor of a user's inbox passed, before it is dropped with the binding.
    async fn settle_user(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<Vec<u8>> {
        let (stored, _, _) = self.stored_record(product, terminal).await?;
        let user = stored.row.as_ref().and_then(|row| row.user.as_ref());
        let mut counted = Vec::new();
        for (name, pending) in stored.all_pending.iter().filter(|(name, _)| *name == LogName::User)
        {
            let Some(log) = shared_key(product, terminal, user, name) else { continue };
            if let Some(ticket) = self.settle_pending(&log, terminal, pending, true).await? {
                counted.extend(codec::encode_ticket(ticket));
            }
        }
        Ok(counted)
    }

    /// Registers a terminal as a reader of the broadcast and answers the head.
    pub(super) async fn register(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<u64> {
        self.announce(product).await;
        let is_new = self.enlist(product, Index::Terminals, terminal.as_str()).await?;
        // Also of one that is known: a head that is written to a record must be durable (I5), and
        // what a reader is seen at lives on.
        let (head, _) =
            self.join(product, LogKind::Broadcast, "", terminal, is_new, Offset::ZERO).await?;
        Ok(head)
    }

    /// Makes a terminal a reader of a log: the head, and in a user's inbox the offset up to which
    /// entries are not for it.
    async fn join(
        &self,
        product: &ProductId,
        kind: LogKind,
        name: &str,
        terminal: &TerminalId,
        is_reader_more: bool,
        settled: Offset,
    ) -> StoreResult<(u64, u64)> {
        let tag = tag_of(product, kind, name);
        let args = self
            .timed(kind)
            .number(self.retention_ms)
            .bytes(terminal.as_str())
            .flag(is_reader_more)
            .number(settled.0);
        let answer = self.shards.write(&tag, self.call(&scripts::JOIN, &tag, args)).await?;
        let mut parts = Parts::of(answer)?;
        let (head, start, is_new) = (parts.number()?, parts.number()?, parts.number()? == 1);
        if is_new {
            let log = LogKey { product: product.clone(), kind, name: name.into() };
            self.enlist_log(&log).await;
        }
        Ok((head, start))
    }

    /// What a changed record leaves to be done in other logs and in indexes.
    async fn after_attach(
        &self,
        attach: &Attach<'_>,
        attached: &Attached,
        stored: &Stored,
        batch: &Arc<Batch>,
    ) {
        let (product, terminal, row) = (attach.product, attach.terminal, &attached.after);
        if let Err(error) = self.finish_all_leaving(product, terminal, &stored.leaving, batch).await
        {
            tracing::debug!(%error, %product, %terminal, "found and gone on with later");
        }
        if let Some(before) = &attached.before
            && before.last_seen_ms.saturating_add(TOUCH_MS) <= attached.now_ms
        {
            self.repair(product, terminal, row).await;
        }
        if attach.session.is_some() {
            let (user, all_pending) = (row.user.as_ref(), &stored.all_pending);
            Box::pin(self.settle_opened(product, terminal, user, all_pending)).await;
        }
    }

    /// Adds a terminal to the indexes its record says it is in, and its logs to those that upkeep goes
    /// by, once a day.
    async fn repair(&self, product: &ProductId, terminal: &TerminalId, row: &TerminalRow) {
        let mut outcome = self.register(product, terminal).await.map(drop);
        for sub in row.subs.iter().filter(|sub| !sub.banned) {
            let log = shared_key(product, terminal, row.user.as_ref(), &sub.log);
            if let Some(log) = log.filter(|log| matches!(log.kind, LogKind::User | LogKind::Topic))
            {
                let joined = self.join(product, log.kind, &log.name, terminal, true, sub.settled());
                outcome = outcome.and(joined.await.map(drop));
                self.enlist_log(&log).await;
            }
        }
        if let Err(error) = outcome {
            super::index_failed(&error);
        }
    }

    /// A terminal's record, the head of its inbox, and now.
    pub(super) async fn record(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<(Option<TerminalRow>, Offset, u64)> {
        let (stored, head, now_ms) = self.stored_record(product, terminal).await?;
        Ok((stored.row, head, now_ms))
    }

    /// The same, and what is not done yet.
    async fn stored_record(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<(Stored, Offset, u64)> {
        let tag = tag_of(product, LogKind::Terminal, terminal.as_str());
        let args = Args::new().number(self.shift_ms());
        let answer = self.shards.read(&tag, self.call(&scripts::RECORD, &tag, args)).await?;
        let mut parts = Parts::of(answer)?;
        let stored = codec::decode_record(&tag, &parts.bytes()?)?;
        Ok((stored, Offset(parts.number()?), parts.number()?))
    }

    /// Whether each generation is the newest; then the terminal counts as seen, at most once a day.
    pub(super) async fn verify_batch(
        &self,
        sessions: &[(ProductId, TerminalId, u64)],
    ) -> StoreResult<Vec<bool>> {
        let verified = sessions.iter().map(|(product, terminal, generation)| async move {
            let (row, _, now_ms) = self.record(product, terminal).await?;
            let Some(row) = row.filter(|row| row.generation == *generation) else {
                return Ok(false);
            };
            if row.last_seen_ms.saturating_add(TOUCH_MS) <= now_ms {
                let tag = tag_of(product, LogKind::Terminal, terminal.as_str());
                let args = Args::new().number(self.shift_ms()).number(self.retention_ms);
                self.shards.write_relaxed(&tag, self.call(&scripts::TOUCH, &tag, args)).await?;
                self.repair(product, terminal, &row).await;
            }
            Ok(true)
        });
        join_all(verified).await.into_iter().collect()
    }
}
