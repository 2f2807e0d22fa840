//! Terminals, sessions, cursors, topics, lists.

use super::*;
use crate::{SubscriptionState, Unsubscribe, UnsubscribeOutcome};

fn logs_of(opened: &OpenedSession) -> Vec<String> {
    opened.logs.iter().map(|log| log.log.to_string()).collect()
}

/// Own inbox and user inbox from the oldest, broadcast and topics from their heads at that moment.
pub async fn i3_start_positions_are_recorded(harness: &mut impl Harness) {
    let store = harness.store();
    let broadcast_head = append(&*store, &broadcast(), 1).await.offset;
    let topic_head = append(&*store, &topic_log("news"), 2).await.offset;
    let user_head = append(&*store, &user_log("u"), 3).await.offset;
    let with = OpenSession {
        user: Some(user("u")),
        topics: vec![topic("news"), topic("empty")],
        ..open_of("a")
    };
    let opened = open(&*store, with.clone()).await;
    let names =
        ["demo/terminal/a", "demo/user/u", "demo/broadcast", "demo/topic/news", "demo/topic/empty"];
    assert_eq!(logs_of(&opened), names);
    let cursors: Vec<_> = opened.logs.iter().map(|log| (log.cursor, log.head)).collect();
    let expected = [
        (Offset::ZERO, Offset::ZERO),
        (Offset::ZERO, user_head),
        (broadcast_head, broadcast_head),
        (topic_head, topic_head),
        (Offset::ZERO, Offset::ZERO),
    ];
    assert_eq!(cursors, expected);
    assert!(
        opened.logs.iter().all(|log| log.epoch == store.epoch() && log.cursor_epoch == log.epoch)
    );
    // They stand, whatever is appended before the next session.
    let newer = append(&*store, &broadcast(), 4).await.offset;
    let again = open(&*store, with).await;
    assert_eq!((again.logs[2].cursor, again.logs[2].head), (broadcast_head, newer));
    assert_eq!(again.refused, []);
    let record = store.terminal(&product(), &terminal("a")).await.unwrap().unwrap();
    assert_eq!(record.user, Some(user("u")));
    assert_eq!(record.kind, Some(TerminalKind::Device));
    assert_eq!(record.subscriptions.len(), 5);
    assert_eq!(record.generation, again.generation);
    assert!(store.terminal(&product(), &terminal("b")).await.unwrap().is_none());
}

/// To a terminal and to a user that are not known yet.
pub async fn i3_a_push_before_the_first_connect_arrives(harness: &mut impl Harness) {
    let store = harness.store();
    append(&*store, &inbox("new"), 1).await;
    append(&*store, &user_log("u"), 2).await;
    let opened = open(&*store, OpenSession { user: Some(user("u")), ..open_of("new") }).await;
    assert_eq!(ids(&*store, &inbox("new"), opened.logs[0].cursor).await, [1]);
    assert_eq!(ids(&*store, &user_log("u"), opened.logs[1].cursor).await, [2]);
    let counts = counts(&*store, 2).await;
    assert_eq!((counts.audience, counts.pending), (1, 1));
}

/// A terminal changes its user.
pub async fn i3_rebinding_a_user_drops_the_former_users_cursor(harness: &mut impl Harness) {
    let store = harness.store();
    let bound = |name: &str| OpenSession { user: Some(user(name)), ..open_of("a") };
    let first = open(&*store, bound("u")).await;
    append(&*store, &user_log("u"), 1).await;
    let second = open(&*store, bound("v")).await;
    assert_eq!(logs_of(&second)[1], "demo/user/v");
    let late = save_of(&*store, "a", &user_log("u"), second.generation, Offset(1));
    assert_eq!(save(&*store, late).await, SaveOutcome::NotSubscribed);
    assert_eq!(counts(&*store, 1).await.suppressed, 1);
    let of = |name: &'static str| {
        let store = Arc::clone(&store);
        async move { store.terminals(&product(), Some(user(name)), None, 10).await.unwrap().len() }
    };
    assert_eq!((of("u").await, of("v").await), (0, 1));
    // Back again: what is live for the user is for it again.
    let third = open(&*store, bound("u")).await;
    assert!(third.generation > second.generation && second.generation > first.generation);
    assert_eq!(ids(&*store, &user_log("u"), third.logs[1].cursor).await, [1]);
    let counts = counts(&*store, 1).await;
    assert_eq!((counts.audience, counts.suppressed, counts.pending), (2, 1, 1));
    let none = open(&*store, open_of("a")).await;
    assert_eq!(logs_of(&none), ["demo/terminal/a", "demo/broadcast"]);
}

/// Each session is newer than all before it; what an older one writes is refused.
pub async fn i7_generations_rise_and_stale_sessions_are_told(harness: &mut impl Harness) {
    let store = harness.store();
    let old = open(&*store, open_of("a")).await.generation;
    let head = append(&*store, &inbox("a"), 1).await.offset;
    let batch = (0..20).map(|_| open_of("a")).collect();
    let mut newest = old;
    for opened in store.open_session(batch).await {
        let generation = opened.unwrap().generation;
        assert!(generation > newest);
        newest = generation;
    }
    let other = open(&*store, open_of("b")).await.generation;
    let sessions = vec![
        (product(), terminal("a"), old),
        (product(), terminal("a"), newest),
        (product(), terminal("b"), other),
        (product(), terminal("c"), 1),
    ];
    let verified = store.verify_generations(sessions).await.unwrap();
    assert_eq!(verified, [false, true, true, false]);
    let stale = save_of(&*store, "a", &inbox("a"), old, head);
    assert_eq!(save(&*store, stale.clone()).await, SaveOutcome::Stale);
    assert_eq!(ids(&*store, &inbox("a"), Offset::ZERO).await, [1]);
    drop(store);
    if harness.reopen().await {
        let store = harness.store();
        let opened = open(&*store, open_of("a")).await;
        assert!(opened.generation > newest);
        assert_eq!(opened.logs[0].cursor, Offset::ZERO);
        assert_eq!(save(&*store, stale).await, SaveOutcome::Stale);
    }
}

/// `max` within the epoch, bounded by the durable head, only for readers.
pub async fn i5_cursors_are_max_and_never_above_the_head(harness: &mut impl Harness) {
    let store = harness.store();
    let opened = open(&*store, OpenSession { topics: vec![topic("news")], ..open_of("a") }).await;
    let log = topic_log("news");
    let mut offsets = Vec::new();
    for id in 0..3 {
        offsets.push(append(&*store, &log, id).await.offset);
    }
    let at = |cursor| save_of(&*store, "a", &log, opened.generation, cursor);
    let above = at(Offset(offsets[2].0 + 1));
    assert_eq!(save(&*store, above).await, SaveOutcome::AboveHead);
    let foreign = CursorSave { epoch: clarion_protocol::Epoch(1), ..at(offsets[0]) };
    assert_eq!(save(&*store, foreign).await, SaveOutcome::AboveHead);
    let answers = store.save_cursors(vec![at(offsets[1]), at(offsets[0])]).await;
    assert!(answers.iter().all(|answer| *answer == Ok(SaveOutcome::Saved)));
    let again = open(&*store, OpenSession { topics: vec![topic("news")], ..open_of("a") }).await;
    assert_eq!(again.logs[2].cursor, offsets[1]);
    for (id, acknowledged) in [(0, 1), (1, 1), (2, 0)] {
        assert_eq!(counts(&*store, id).await.acknowledged, acknowledged);
    }
    let strangers = [
        save_of(&*store, "a", &topic_log("other"), again.generation, Offset::ZERO),
        save_of(&*store, "a", &inbox("b"), again.generation, Offset::ZERO),
        save_of(&*store, "b", &inbox("b"), again.generation, Offset::ZERO),
        save_of(&*store, "a", &user_log("u"), again.generation, Offset::ZERO),
    ];
    for answer in store.save_cursors(strangers.to_vec()).await {
        assert_eq!(answer, Ok(SaveOutcome::NotSubscribed));
    }
}

/// Attempts and heartbeat are stored with the cursor.
pub async fn i10_attempts_are_kept_with_the_cursor(harness: &mut impl Harness) {
    let store = harness.store();
    let opened = open(&*store, open_of("a")).await;
    assert_eq!((opened.heartbeat_ms, opened.logs[0].attempts), (None, 0));
    append(&*store, &inbox("a"), 1).await;
    let attempt = CursorSave {
        attempts: 3,
        heartbeat_ms: Some(60_000),
        ..save_of(&*store, "a", &inbox("a"), opened.generation, Offset::ZERO)
    };
    assert_eq!(save(&*store, attempt).await, SaveOutcome::Saved);
    let opened = open(&*store, open_of("a")).await;
    assert_eq!((opened.heartbeat_ms, opened.logs[0].attempts), (Some(60_000), 3));
    assert_eq!(ids(&*store, &inbox("a"), opened.logs[0].cursor).await, [1]);
}

/// Joining, leaving, the bound.
pub async fn subscriptions_join_leave_and_are_bounded(harness: &mut impl Harness) {
    let store = harness.store();
    let head = append(&*store, &topic_log("news"), 1).await.offset;
    // Joining registers the terminal (I3).
    let SubscribeOutcome::Joined(log) = subscribe(&*store, "a", "news").await else { panic!() };
    assert_eq!((log.cursor, log.head), (head, head));
    let newer = append(&*store, &topic_log("news"), 2).await.offset;
    let SubscribeOutcome::AlreadyIn(log) = subscribe(&*store, "a", "news").await else { panic!() };
    assert_eq!((log.cursor, log.head), (head, newer));
    assert_eq!(store.terminal_count(&product()).await.unwrap(), 1);
    let bounded =
        |to: &str| Subscribe { topics_max: 2, ..subscribe_of("a", to, SubscribeBy::Backend) };
    let answers = store.subscribe(vec![bounded("b"), bounded("c"), bounded("b")]).await;
    assert!(matches!(answers[0], Ok(SubscribeOutcome::Joined(_))));
    assert!(matches!(answers[1], Ok(SubscribeOutcome::TooMany)));
    assert!(matches!(answers[2], Ok(SubscribeOutcome::AlreadyIn(_))));
    let wants = OpenSession { topics: vec![topic("b"), topic("c")], topics_max: 2, ..open_of("a") };
    let opened = open(&*store, wants).await;
    assert_eq!(opened.refused, [(topic("c"), false)]);
    assert_eq!(opened.logs.len(), 4);
    let leave = |name: &str| Unsubscribe {
        product: product(),
        terminal: terminal(name),
        topic: topic("news"),
        by: SubscribeBy::Terminal,
    };
    let answers = store.unsubscribe(vec![leave("a"), leave("a"), leave("nobody")]).await;
    let not_in = Ok(UnsubscribeOutcome::NotIn);
    assert_eq!(answers, [Ok(UnsubscribeOutcome::Left), not_in.clone(), not_in]);
    let counts = counts(&*store, 2).await;
    assert_eq!((counts.audience, counts.suppressed), (1, 1));
    let stale = save_of(&*store, "a", &topic_log("news"), opened.generation, newer);
    assert_eq!(save(&*store, stale).await, SaveOutcome::NotSubscribed);
    // Its cursor is gone: it starts at the head again.
    let SubscribeOutcome::Joined(log) = subscribe(&*store, "a", "news").await else { panic!() };
    assert_eq!(log.cursor, newer);
}

/// The back-end removes, and only the back-end lets in again.
pub async fn a_ban_beats_a_subscribe(harness: &mut impl Harness) {
    let store = harness.store();
    let ban = Unsubscribe {
        product: product(),
        terminal: terminal("a"),
        topic: topic("news"),
        by: SubscribeBy::Backend,
    };
    assert!(matches!(subscribe(&*store, "a", "news").await, SubscribeOutcome::Joined(_)));
    let answers = store.unsubscribe(vec![ban.clone(), ban.clone()]).await;
    assert_eq!(answers, [Ok(UnsubscribeOutcome::Left), Ok(UnsubscribeOutcome::NotIn)]);
    assert!(matches!(subscribe(&*store, "a", "news").await, SubscribeOutcome::Banned));
    let wants = OpenSession { topics: vec![topic("news"), topic("b")], ..open_of("a") };
    let opened = open(&*store, wants).await;
    assert_eq!(opened.refused, [(topic("news"), true)]);
    // Leaving by itself does not lift it.
    let leave = Unsubscribe { by: SubscribeBy::Terminal, ..ban.clone() };
    assert_eq!(store.unsubscribe(vec![leave]).await, [Ok(UnsubscribeOutcome::NotIn)]);
    assert!(matches!(subscribe(&*store, "a", "news").await, SubscribeOutcome::Banned));
    let record = store.terminal(&product(), &terminal("a")).await.unwrap().unwrap();
    let banned = |s: &&crate::Subscription| s.state == SubscriptionState::Banned;
    assert_eq!(record.subscriptions.iter().filter(banned).count(), 1);
    // A terminal that was never seen can be banned too.
    let unseen = Unsubscribe { terminal: terminal("unseen"), ..ban };
    assert_eq!(store.unsubscribe(vec![unseen]).await, [Ok(UnsubscribeOutcome::NotIn)]);
    assert!(matches!(subscribe(&*store, "unseen", "news").await, SubscribeOutcome::Banned));
    let members = store.members(&product(), &topic("news"), None, 10).await.unwrap();
    assert_eq!(members, []);
    let lift = subscribe_of("a", "news", SubscribeBy::Backend);
    let answers = store.subscribe(vec![lift]).await;
    assert!(matches!(answers[0], Ok(SubscribeOutcome::Joined(_))));
    assert!(matches!(subscribe(&*store, "a", "news").await, SubscribeOutcome::AlreadyIn(_)));
}

/// Terminals, members, users' terminals, products.
pub async fn lists_are_in_order_and_paged(harness: &mut impl Harness) {
    let store = harness.store();
    let names: Vec<String> = (0..25).map(|n| format!("t{n:02}")).collect();
    let opens = names.iter().rev().map(|name| OpenSession {
        user: Some(user(if name.ends_with('3') { "u" } else { "v" })),
        topics: vec![topic("news")],
        ..open_of(name)
    });
    assert!(store.open_session(opens.collect()).await.iter().all(Result::is_ok));
    // Names that begin alike do not mix.
    let other = OpenSession { product: ProductId::new("demo2").unwrap(), ..open_of("x") };
    open(&*store, other).await;
    open(&*store, OpenSession { topics: vec![topic("news2")], ..open_of("z") }).await;
    assert_eq!(store.terminal_count(&product()).await.unwrap(), 26);
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = store.members(&product(), &topic("news"), after, 10).await.unwrap();
        assert!(page.len() <= 10);
        seen.extend(page.iter().map(|terminal| terminal.as_str().to_owned()));
        after = page.last().cloned();
        if page.len() < 10 {
            break;
        }
    }
    assert_eq!(seen, names);
    let page = store.terminals(&product(), None, Some(terminal("t20")), 3).await.unwrap();
    let ids: Vec<&str> = page.iter().map(|record| record.terminal.as_str()).collect();
    assert_eq!(ids, ["t21", "t22", "t23"]);
    let of_user = store.terminals(&product(), Some(user("u")), Some(terminal("t03")), 9).await;
    let ids: Vec<String> =
        of_user.unwrap().iter().map(|record| record.terminal.as_str().to_owned()).collect();
    assert_eq!(ids, ["t13", "t23"]);
    assert!(store.members(&product(), &topic("nobody"), None, 5).await.unwrap().is_empty());
}

/// After the retention a terminal is gone with everything it had; one that is seen stays.
pub async fn terminals_go_after_their_retention(harness: &mut impl Harness) {
    let store = harness.store();
    let wants = |name: &str| OpenSession {
        user: Some(user("u")),
        topics: vec![topic("news")],
        ..open_of(name)
    };
    let gone = open(&*store, wants("gone")).await;
    open(&*store, wants("idle")).await;
    let stays = open(&*store, wants("stays")).await;
    harness.advance_ms(60 * DAY_MS);
    open(&*store, wants("idle")).await;
    harness.advance_ms(29 * DAY_MS);
    append(&*store, &inbox("gone"), 1).await;
    append(&*store, &topic_log("news"), 2).await;
    append(&*store, &user_log("u"), 3).await;
    sweep(&*store).await;
    assert_eq!(store.terminal_count(&product()).await.unwrap(), 3);
    // A session that only listens is verified now and then.
    let live = vec![(product(), terminal("stays"), stays.generation)];
    assert_eq!(store.verify_generations(live).await.unwrap(), [true]);
    harness.advance_ms(DAY_MS + 1);
    sweep(&*store).await;
    assert_eq!(store.terminal_count(&product()).await.unwrap(), 2);
    assert!(store.terminal(&product(), &terminal("gone")).await.unwrap().is_none());
    let members = store.members(&product(), &topic("news"), None, 10).await.unwrap();
    assert_eq!(members, [terminal("idle"), terminal("stays")]);
    assert_eq!(store.terminals(&product(), Some(user("u")), None, 9).await.unwrap().len(), 2);
    assert_eq!(counts(&*store, 1).await.expired + counts(&*store, 1).await.suppressed, 1);
    for id in [2, 3] {
        let counts = counts(&*store, id).await;
        assert_eq!((counts.audience, counts.expired), (3, 3), "{id}: {counts:?}");
    }
    let late = save_of(&*store, "gone", &inbox("gone"), gone.generation, Offset::ZERO);
    assert_eq!(save(&*store, late).await, SaveOutcome::NotSubscribed);
}

/// Everything a caller was answered is there after a restart (where there is one).
pub async fn what_was_answered_survives_a_restart(harness: &mut impl Harness) {
    let store = harness.store();
    let wants = OpenSession { user: Some(user("u")), topics: vec![topic("news")], ..open_of("a") };
    let opened = open(&*store, wants.clone()).await;
    let mut heads = Vec::new();
    for (n, log) in opened.logs.iter().enumerate() {
        append(&*store, &log.log, n as u128 * 2).await;
        heads.push(append(&*store, &log.log, n as u128 * 2 + 1).await.offset);
        let first = read(&*store, &log.log, log.cursor).await.entries[0].offset;
        let ack = save_of(&*store, "a", &log.log, opened.generation, first);
        assert_eq!(save(&*store, ack).await, SaveOutcome::Saved);
    }
    let before = store.terminal(&product(), &terminal("a")).await.unwrap();
    let epoch = store.epoch();
    drop(store);
    for _ in 0..2 {
        if !harness.reopen().await {
            return;
        }
        let store = harness.store();
        assert_eq!(store.epoch(), epoch);
        let after = store.terminal(&product(), &terminal("a")).await.unwrap();
        assert_eq!(after, before);
        for (n, log) in opened.logs.iter().enumerate() {
            let after = before.as_ref().unwrap().subscriptions.iter();
            let SubscriptionState::Reading { cursor, .. } =
                after.clone().find(|sub| sub.log == log.log.local_name()).unwrap().state
            else {
                panic!()
            };
            assert_eq!(ids(&*store, &log.log, cursor).await, [n as u128 * 2 + 1]);
            assert_eq!(read(&*store, &log.log, cursor).await.head, heads[n]);
            assert_eq!(counts(&*store, n as u128 * 2).await.acknowledged, 1);
            assert_eq!(counts(&*store, n as u128 * 2 + 1).await.pending, 1);
            let again = append_of(&*store, &log.log, n as u128 * 2 + 1);
            let again = Append { first_attempt_ms: Some(0), ..again };
            assert!(append_one(&*store, again).await.unwrap().duplicate);
        }
        drop(store);
    }
    let store = harness.store();
    let again = open(&*store, wants).await;
    assert!(again.generation > opened.generation);
    assert_eq!(store.terminal_count(&product()).await.unwrap(), 1);
}
