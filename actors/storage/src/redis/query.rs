//! Records for whoever asks: terminals and messages.

use ::redis::Value;
use clarion_core::LogKind;
use clarion_protocol::http::Target;
use clarion_protocol::{MessageId, ProductId, TerminalId, TopicName, UserId};
use futures_util::future::join_all;

use super::codec::Placed;
use super::link::Request;
use super::registry::terminal_id;
use super::reply::{Args, Parts};
use super::schema::{Index, kind_of, message_tag, tag_of};
use super::{KEPT_MS, RedisStore, codec, scripts};
use crate::engine::codec::TerminalRow;
use crate::record::{
    MessageRecord, MessageTarget, Subscription, SubscriptionState, TerminalRecord,
};
use crate::{StoreError, StoreResult};

impl RedisStore {
    pub(super) async fn terminal_record(
        &self,
        product: &ProductId,
        terminal: &TerminalId,
    ) -> StoreResult<Option<TerminalRecord>> {
        let (row, _, _) = self.record(product, terminal).await?;
        Ok(row.map(|row| record_of(terminal.clone(), row)))
    }

    pub(super) async fn terminal_records(
        &self,
        product: &ProductId,
        user: Option<&UserId>,
        after: &str,
        limit: usize,
    ) -> StoreResult<Vec<TerminalRecord>> {
        let mut records = Vec::new();
        let mut after = after.to_owned();
        while records.len() < limit {
            let wanted = limit - records.len();
            let names = match user {
                Some(user) => self.readers_of(product, user, &after, wanted).await?,
                None => self.names(product, Index::Terminals, &after, wanted).await?,
            };
            let Some(last) = names.last() else { break };
            after.clone_from(last);
            let is_last = names.len() < wanted;
            let found = names.iter().map(|name| async move {
                self.terminal_record(product, &terminal_id(name)?).await
            });
            for record in join_all(found).await {
                records.extend(record?);
            }
            if is_last {
                break;
            }
        }
        Ok(records)
    }

    /// Terminals of a user in their order; they are few.
    pub(super) async fn readers_of(
        &self,
        product: &ProductId,
        user: &UserId,
        after: &str,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        let tag = tag_of(product, LogKind::User, user.as_str());
        let call = self.call(&scripts::READERS, &tag, Args::new().bytes(after));
        let mut names = Parts::of(self.shards.read(&tag, call).await?)?.texts()?;
        names.sort_unstable();
        names.truncate(limit);
        Ok(names)
    }

    /// A message with its counts: the note says where it may be, the logs what became of it.
    pub(super) async fn message_record(
        &self,
        product: &ProductId,
        message: MessageId,
    ) -> StoreResult<Option<MessageRecord>> {
        let tag = message_tag(product, message);
        let key = self.keys.main(&tag);
        let noted = self.shards.read(&tag, Request::command([&b"GET"[..], &key])).await?;
        let Value::BulkString(noted) = noted else { return Ok(None) };
        let noted = String::from_utf8_lossy(&noted);
        let mut logs: Vec<&str> = noted.lines().collect();
        logs.sort_unstable();
        let targets = logs.into_iter().map(|log| self.target(product, message, log));
        let mut found = Vec::new();
        for target in join_all(targets).await {
            found.extend(target?);
        }
        Ok((!found.is_empty()).then_some(MessageRecord { message, targets: found }))
    }

    async fn target(
        &self,
        product: &ProductId,
        message: MessageId,
        log: &str,
    ) -> StoreResult<Option<MessageTarget>> {
        let bad = || codec::damaged("messages", log, "it names no log");
        let (letter, name) = log.split_at_checked(1).ok_or_else(bad)?;
        let kind = kind_of(letter.as_bytes()[0]).ok_or_else(bad)?;
        let target = match kind {
            LogKind::Terminal => Target::Terminal(TerminalId::new(name).map_err(|_| bad())?),
            LogKind::User => Target::User(UserId::new(name).map_err(|_| bad())?),
            LogKind::Topic => Target::Topic(TopicName::new(name).map_err(|_| bad())?),
            LogKind::Broadcast => Target::All,
        };
        let Some((placed, now_ms)) = self.placed(product, kind, name, message).await? else {
            return Ok(None);
        };
        if placed.expires_at_ms.saturating_add(KEPT_MS) <= now_ms {
            return Ok(None);
        }
        Ok(Some(MessageTarget {
            target,
            epoch: self.epoch,
            offset: placed.offset,
            expires_at_ms: placed.expires_at_ms,
            counts: placed.counts,
        }))
    }

    async fn placed(
        &self,
        product: &ProductId,
        kind: LogKind,
        name: &str,
        message: MessageId,
    ) -> StoreResult<Option<(Placed, u64)>> {
        let tag = tag_of(product, kind, name);
        let args = self.timed(kind).bytes(message.0.to_be_bytes());
        let answer = self.shards.read(&tag, self.call(&scripts::PLACE, &tag, args)).await?;
        let Some(mut parts) = Parts::maybe(answer)? else { return Ok(None) };
        let packed = parts.bytes()?;
        let now_ms = parts.number()?;
        let (there, before) = (parts.number()? == 1, parts.number()?);
        let placed = match kind {
            LogKind::Terminal => codec::decode_place(&packed, there, now_ms),
            LogKind::User => codec::decode_counts(&packed, Some(before), now_ms),
            LogKind::Topic | LogKind::Broadcast => codec::decode_counts(&packed, None, now_ms),
        };
        let damaged = || -> StoreError { codec::damaged("messages", &tag, "it cannot be read") };
        Ok(Some((placed.ok_or_else(damaged)?, now_ms)))
    }
}

fn record_of(terminal: TerminalId, row: TerminalRow) -> TerminalRecord {
    let subscriptions = row.subs.into_iter().map(|sub| Subscription {
        log: sub.log,
        state: if sub.banned {
            SubscriptionState::Banned
        } else {
            let (epoch, cursor, attempts) = (sub.epoch, sub.cursor, sub.attempts);
            SubscriptionState::Reading { epoch, cursor, attempts }
        },
    });
    TerminalRecord {
        terminal,
        user: row.user,
        kind: row.kind,
        registered_at_ms: row.registered_at_ms,
        last_seen_ms: row.last_seen_ms,
        generation: row.generation,
        heartbeat_ms: row.heartbeat_ms,
        subscriptions: subscriptions.collect(),
    }
}
