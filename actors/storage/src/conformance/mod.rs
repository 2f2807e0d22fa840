//! The suite that every back end passes: one test per guarantee of [`crate::Store`]. A back end
//! implements [`Harness`] and calls [`conformance_tests!`](crate::conformance_tests).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod conservation;
mod counts;
mod logs;
mod model;
mod requests;
mod sessions;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use clarion_core::{Body, LogKey, Page};
use clarion_protocol::http::{Counts, TerminalKind};
use clarion_protocol::{MessageId, Offset, ProductId, TerminalId, TopicName, UserId};

pub use self::conservation::*;
pub use self::counts::*;
pub use self::logs::*;
pub use self::requests::*;
pub use self::sessions::*;

use crate::{
    Append, Appended, CursorSave, LogLimits, OpenSession, OpenedSession, Read, SaveOutcome, Store,
    StoreError, StoreResult, Subscribe, SubscribeBy, SubscribeOutcome,
};

/// A store under test.
pub trait Harness: Send {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;
    /// Moves the store's time forward.
    fn advance_ms(&self, by_ms: u64);
    /// Closes the store and opens it again. False if nothing of it would be left.
    fn reopen(&mut self) -> impl Future<Output = bool> + Send;
    /// From now on one in so many steps between a cursor and what it counts has an unknown outcome; 0:
    /// none. False if there are no such steps: both are one.
    fn break_one_in(&self, _steps: u32) -> bool {
        false
    }
    /// Whether the server removes records of requests at their time by itself, so that upkeep does
    /// not see them.
    fn records_expire_by_themselves(&self) -> bool {
        false
    }
}

/// One named test per guarantee. The argument is an expression that makes a [`Harness`]; or `@list`
/// and the name of a macro that takes the names of all tests, for servers that take long to start.
#[macro_export]
macro_rules! conformance_tests {
    ($make:expr) => {
        $crate::conformance_tests! { @to ($crate::conformance_tests { @each $make => }) }
    };
    (@list $callback:ident) => {
        $crate::conformance_tests! { @to ($callback {}) }
    };
    (@each $make:expr => $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::conformance::$name(&mut $make).await;
            }
        )*
    };
    (@to ($callback:path { $($given:tt)* })) => {
        $callback! { $($given)*
            i8_offsets_of_a_log_rise_in_the_order_given
            i1_no_reader_sees_an_entry_before_its_append_is_answered
            i2_a_retry_finds_its_message_behind_any_number_of_entries
            i2_a_message_is_in_a_log_once_and_a_late_attempt_is_refused
            i6_a_full_inbox_refuses_and_takes_again_when_it_is_read
            i6_a_full_wide_log_evicts_and_says_up_to_where
            i6_expired_entries_make_room_without_a_gap
            pages_are_bounded_and_say_if_there_is_more
            heads_stay_when_entries_go
            ttl_removes_entries_and_later_their_records
            every_kind_of_body_comes_back_as_it_was
            i3_start_positions_are_recorded
            i3_a_push_before_the_first_connect_arrives
            i3_rebinding_a_user_drops_the_former_users_cursor
            i7_generations_rise_and_stale_sessions_are_told
            i5_cursors_are_max_and_never_above_the_head
            i10_attempts_are_kept_with_the_cursor
            subscriptions_join_leave_and_are_bounded
            a_ban_beats_a_subscribe
            lists_are_in_order_and_paged
            claims_bind_replay_and_are_taken_over
            claims_of_a_process_that_is_gone_hold_nobody_up
            claims_are_exclusive_among_concurrent_callers
            claims_end_with_their_retention
            nonces_are_used_once_and_kept_in_bounds
            products_are_created_once_and_replaced
            i13_counts_of_inboxes
            i13_counts_of_wide_logs
            i13_gaps_are_counted_from_where_they_begin
            i13_what_was_passed_as_expired_is_counted_so
            i13_conservation_under_a_random_workload
            i13_conservation_where_steps_break
            i13_who_left_is_counted_no_more_also_where_answers_are_lost
            i13_what_broke_between_a_cursor_and_its_count_is_counted_once
            terminals_go_after_their_retention
            what_was_answered_survives_a_restart
            a_closed_store_says_so
        }
    };
}

pub(crate) const DAY_MS: u64 = 86_400_000;

fn product() -> ProductId {
    ProductId::new("demo").unwrap()
}

fn terminal(name: &str) -> TerminalId {
    TerminalId::new(name).unwrap()
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn inbox(name: &str) -> Arc<LogKey> {
    LogKey::terminal(&product(), &terminal(name))
}

fn user_log(name: &str) -> Arc<LogKey> {
    LogKey::user(&product(), &user(name))
}

fn topic_log(name: &str) -> Arc<LogKey> {
    LogKey::topic(&product(), &topic(name))
}

fn broadcast() -> Arc<LogKey> {
    LogKey::broadcast(&product())
}

const ROOMY: LogLimits = LogLimits { entries_max: 100_000, bytes_max: 1 << 30, evict: false };

/// An append of `{"n":id}` that lives for a day and may be tried for a minute.
fn append_of(store: &dyn Store, log: &Arc<LogKey>, id: u128) -> Append {
    let now_ms = store.time_ms();
    Append {
        log: Arc::clone(log),
        message: MessageId(id),
        expires_at_ms: now_ms + DAY_MS,
        body: Body::Json(Bytes::from(format!("{{\"n\":{id}}}"))),
        not_after_ms: now_ms + 60_000,
        first_attempt_ms: None,
        limits: ROOMY,
    }
}

async fn append_one(store: &dyn Store, append: Append) -> StoreResult<Appended> {
    let mut answers = store.append(vec![append]).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

async fn append(store: &dyn Store, log: &Arc<LogKey>, id: u128) -> Appended {
    append_one(store, append_of(store, log, id)).await.unwrap()
}

async fn read(store: &dyn Store, log: &Arc<LogKey>, after: Offset) -> Page {
    let read = Read { log: Arc::clone(log), after, entries_max: 100_000, bytes_max: u32::MAX };
    store.read(vec![read]).await.remove(0).unwrap()
}

async fn ids(store: &dyn Store, log: &Arc<LogKey>, after: Offset) -> Vec<u128> {
    read(store, log, after).await.entries.iter().map(|entry| entry.message.0).collect()
}

fn open_of(name: &str) -> OpenSession {
    OpenSession {
        product: product(),
        terminal: terminal(name),
        user: None,
        kind: TerminalKind::Device,
        topics: Vec::new(),
        topics_max: 64,
    }
}

async fn open(store: &dyn Store, open: OpenSession) -> OpenedSession {
    store.open_session(vec![open]).await.remove(0).unwrap()
}

fn save_of(
    store: &dyn Store,
    name: &str,
    log: &Arc<LogKey>,
    generation: u64,
    cursor: Offset,
) -> CursorSave {
    CursorSave {
        terminal: terminal(name),
        log: Arc::clone(log),
        generation,
        epoch: store.epoch(),
        cursor,
        attempts: 0,
        settled: Vec::new(),
        heartbeat_ms: None,
    }
}

async fn save(store: &dyn Store, save: CursorSave) -> SaveOutcome {
    store.save_cursors(vec![save]).await.remove(0).unwrap()
}

fn subscribe_of(name: &str, to: &str, by: SubscribeBy) -> Subscribe {
    Subscribe { product: product(), terminal: terminal(name), topic: topic(to), by, topics_max: 64 }
}

async fn subscribe(store: &dyn Store, name: &str, to: &str) -> SubscribeOutcome {
    let request = subscribe_of(name, to, SubscribeBy::Terminal);
    store.subscribe(vec![request]).await.remove(0).unwrap()
}

async fn counts(store: &dyn Store, id: u128) -> Counts {
    let record = store.message(&product(), MessageId(id)).await.unwrap().expect("a message");
    assert_eq!(record.targets.len(), 1);
    record.targets[0].counts
}

/// Sweeps until a round is complete.
async fn sweep(store: &dyn Store) -> crate::Upkeep {
    let mut all = crate::Upkeep::default();
    loop {
        let done = store.upkeep(1000).await.unwrap();
        all.expired_entries += done.expired_entries;
        all.expired_records += done.expired_records;
        if done.complete {
            return all;
        }
    }
}
