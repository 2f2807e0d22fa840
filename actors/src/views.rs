//! Records of the store as the API shows them.

use clarion_protocol::http::{CursorInfo, MessageState, Page, TargetState, TerminalInfo};
use clarion_storage::{MessageRecord, SubscriptionState, TerminalRecord};

/// A page of at most `limit` items; one more than that was read.
pub(crate) fn page<T>(mut items: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(key) } else { None };
    Page { items, next }
}

/// A message as the API shows it.
pub(crate) fn message_state(record: MessageRecord) -> MessageState {
    let mut counts = clarion_protocol::http::Counts::default();
    for target in &record.targets {
        counts.audience += target.counts.audience;
        counts.delivered += target.counts.delivered;
        counts.acknowledged += target.counts.acknowledged;
        counts.expired += target.counts.expired;
        counts.undeliverable += target.counts.undeliverable;
        counts.suppressed += target.counts.suppressed;
        counts.evicted += target.counts.evicted;
        counts.pending += target.counts.pending;
    }
    let expires_at_ms = record.targets.iter().map(|t| t.expires_at_ms).max().unwrap_or(0);
    let target = |t: clarion_storage::MessageTarget| TargetState {
        target: t.target,
        position: clarion_protocol::http::Position { epoch: t.epoch, offset: t.offset },
        counts: t.counts,
    };
    MessageState {
        id: record.message,
        accepted_at_ms: record.message.time_ms(),
        expires_at_ms,
        counts,
        targets: record.targets.into_iter().map(target).collect(),
    }
}

/// A terminal as the API shows it.
pub(crate) fn terminal_info((record, online): (TerminalRecord, bool)) -> TerminalInfo {
    let cursor = |subscription: clarion_storage::Subscription| match subscription.state {
        SubscriptionState::Reading { epoch, cursor, .. } => {
            Some(CursorInfo { log: subscription.log, epoch, offset: cursor })
        }
        SubscriptionState::Banned => None,
    };
    TerminalInfo {
        terminal: record.terminal,
        user: record.user,
        kind: record.kind,
        online,
        registered_at_ms: record.registered_at_ms,
        last_seen_ms: record.last_seen_ms,
        generation: record.generation,
        cursors: record.subscriptions.into_iter().filter_map(cursor).collect(),
    }
}
