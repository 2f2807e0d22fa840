//! Joining and leaving topics.

use clarion_core::LogKey;
use clarion_protocol::{LogName, Offset};

use super::codec::{Sub, TerminalRow};
use super::tables::View;
use super::{Engine, keys};
use crate::{
    StoreResult, Subscribe, SubscribeBy, SubscribeOutcome, Unsubscribe, UnsubscribeOutcome,
};

/// Bans a terminal's record holds; the oldest goes when there is one more.
const BANS_MAX: usize = 1024;

impl<B: View> Engine<B> {
    /// A terminal joins a topic.
    pub(crate) fn subscribe(&mut self, request: &Subscribe) -> StoreResult<SubscribeOutcome> {
        let Subscribe { product, terminal, topic, by, topics_max } = request;
        let key = keys::pair(product.as_str(), terminal.as_str());
        let name = LogName::Topic(topic.clone());
        let known = self.terminal(&key)?;
        let topics = known.map_or(0, TerminalRow::topics);
        if let Some(sub) = known.and_then(|row| row.sub(&name)).cloned() {
            if !sub.banned {
                let log = LogKey::topic(product, topic);
                return Ok(SubscribeOutcome::AlreadyIn(self.opened_log(log, &sub)?));
            }
            if *by == SubscribeBy::Terminal {
                return Ok(SubscribeOutcome::Banned);
            }
        }
        if topics >= *topics_max as usize {
            return Ok(SubscribeOutcome::TooMany);
        }
        if self.full {
            return Err(self.full_error());
        }
        self.registered(product, terminal, &key)?;
        let sub = self.join(product, terminal, &key, topic)?;
        Ok(SubscribeOutcome::Joined(self.opened_log(LogKey::topic(product, topic), &sub)?))
    }

    /// A terminal leaves a topic.
    pub(crate) fn unsubscribe(&mut self, request: &Unsubscribe) -> StoreResult<UnsubscribeOutcome> {
        let Unsubscribe { product, terminal, topic, by } = request;
        let key = keys::pair(product.as_str(), terminal.as_str());
        let name = LogName::Topic(topic.clone());
        let sub = self.terminal(&key)?.and_then(|row| row.sub(&name)).cloned();
        let reading = sub.as_ref().is_some_and(|sub| !sub.banned);
        let bans = *by == SubscribeBy::Backend;
        if let (true, Some(sub)) = (reading, &sub) {
            self.leave_topic(product, terminal, topic, sub)?;
        }
        if reading || (bans && sub.is_none()) {
            self.sync = true;
            let epoch = self.epoch;
            let row = self.registered(product, terminal, &key)?;
            row.subs.retain(|sub| sub.log != name);
            if bans {
                if row.subs.iter().filter(|sub| sub.banned).count() >= BANS_MAX
                    && let Some(oldest) = row.subs.iter().position(|sub| sub.banned)
                {
                    row.subs.remove(oldest);
                    tracing::warn!(%product, %terminal, "too many bans, the oldest was dropped");
                }
                row.subs.push(Sub { banned: true, ..Sub::reading(name, epoch, Offset::ZERO) });
            }
        }
        Ok(if reading { UnsubscribeOutcome::Left } else { UnsubscribeOutcome::NotIn })
    }
}
