//! Receiving and acknowledging against a scripted node.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use clarion_sdk::protocol::terminal::{GapReason, Message, NodeFrame, TerminalFrame};
use clarion_sdk::protocol::{Epoch, LogName, MessageId, Offset};
use clarion_sdk::terminal::{RequestError, commit_token};
use clarion_sdk::{Event, MemoryCursors, Payload, TransactionalCursors};
use common::*;
use futures_util::SinkExt;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message as Ws;

#[tokio::test(start_paused = true)]
async fn open_says_who_it_is_and_what_it_wants() {
    let node = FakeNode::new();
    let _terminal = node.terminal().topics(["a", "b"]).agent("app/1").connect().await.unwrap();
    let (_link, open) = node.session().await;
    assert_eq!((open.s, open.product.as_str(), open.token.as_str()), (1, "demo", "token"));
    assert_eq!(open.topics, [topic("a"), topic("b")]);
    assert_eq!(open.agent.as_deref(), Some("app/1"));
    assert_eq!(open.cursors, []);
}

#[tokio::test(start_paused = true)]
async fn payloads_arrive_as_they_were_written() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    let text = r#"{"s":1,"l":0,"m":[{"o":5,"id":"00000000000000000000000001","d": {"b" : 1.50} },{"o":6,"id":"00000000000000000000000002","b":"AAEC","ct":"image/png"}],"t":"deliver"}"#;
    link.send_text(text.to_owned()).await;
    let first = next_message(&mut events).await;
    assert_eq!((first.id, first.offset), (MessageId(1), Some(Offset(5))));
    assert_eq!(first.log, LogName::Terminal);
    assert!(matches!(&first.payload, Payload::Json(text) if text.get() == r#"{"b" : 1.50}"#));
    let second = next_message(&mut events).await;
    let Payload::Bytes { content_type, data } = &second.payload else { panic!("not bytes") };
    assert_eq!((content_type.as_str(), data.as_ref()), ("image/png", &[0, 1, 2][..]));
}

#[tokio::test(start_paused = true)]
async fn a_message_without_offset_is_shown_once_and_not_acknowledged() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    let ephemeral = || Message { o: None, ..message(0, 9) };
    link.deliver_messages(TERMINAL, vec![ephemeral(), ephemeral(), message(1, 1)]).await;
    next_message(&mut events).await.ack();
    let last = next_message(&mut events).await;
    assert_eq!(last.id, MessageId(1));
    last.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_costs_one_acknowledgement() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, 1..=20).await;
    link.deliver(BROADCAST, 101..=110).await;
    for _ in 0..30 {
        next_message(&mut events).await.ack();
    }
    let start = Instant::now();
    assert_eq!(link.ack().await, [(TERMINAL, 20), (BROADCAST, 110)]);
    assert_eq!(elapsed_ms(start), 0, "the end of a burst does not wait");
    let more = timeout(Duration::from_secs(1), link.recv()).await;
    assert!(more.is_err(), "one frame: {more:?}");
}

#[tokio::test(start_paused = true)]
async fn within_a_burst_acknowledgements_wait_for_more_but_not_long() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, 1..=3).await;
    next_message(&mut events).await.ack();
    let _held = next_message(&mut events).await;
    let start = Instant::now();
    assert_eq!(link.ack().await, [(TERMINAL, 1)]);
    let waited = elapsed_ms(start);
    assert!((15..=30).contains(&waited), "{waited}");
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_of_acknowledgements_does_not_wait() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, 1..=40).await;
    for _ in 0..32 {
        next_message(&mut events).await.ack();
    }
    let start = Instant::now();
    assert_eq!(link.ack().await, [(TERMINAL, 32)]);
    assert_eq!(elapsed_ms(start), 0);
}

#[tokio::test(start_paused = true)]
async fn only_the_prefix_without_a_hole_is_acknowledged() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [3, 5, 9]).await;
    let first = next_message(&mut events).await;
    let second = next_message(&mut events).await;
    let third = next_message(&mut events).await;
    third.ack();
    second.ack();
    let early = timeout(Duration::from_secs(1), link.recv()).await;
    assert!(early.is_err(), "{early:?}");
    first.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 9)]);
}

#[tokio::test(start_paused = true)]
async fn automatic_acknowledgement_waits_for_the_next_call() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().auto_ack(true).connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [1]).await;
    drop(next_message(&mut events).await);
    let early = timeout(Duration::from_secs(1), link.recv()).await;
    assert!(early.is_err(), "the handler may still be at it: {early:?}");
    let (ack, _) = tokio::join!(link.ack(), timeout(Duration::from_millis(1), events.next()));
    assert_eq!(ack, [(TERMINAL, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_let_go_is_shown_again_when_the_node_sends_it_again() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [1, 2]).await;
    let first = next_message(&mut events).await;
    let second = next_message(&mut events).await;
    assert!(!first.redelivered);
    drop(first);
    link.deliver(TERMINAL, [1, 2]).await;
    let again = next_message(&mut events).await;
    assert_eq!((again.offset, again.redelivered), (Some(Offset(1)), true));
    assert!(nothing_comes(&mut events).await, "the second is still held");
    again.ack();
    second.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_in_two_logs_is_shown_once_and_acknowledged_in_both() {
    let node = FakeNode::new();
    let (handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver_messages(TERMINAL, vec![message(1, 77)]).await;
    let shown = next_message(&mut events).await;
    link.deliver_messages(NEWS, vec![message(500, 77)]).await;
    assert!(nothing_comes(&mut events).await, "it is in the application's hands");
    shown.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 1), (NEWS, 500)]);
    link.deliver_messages(BROADCAST, vec![message(900, 77)]).await;
    assert_eq!(link.ack().await, [(BROADCAST, 900)], "it was handled long ago");
    assert_eq!(handle.duplicates(), 2);
}

#[tokio::test(start_paused = true)]
async fn i5_a_gap_is_told_and_its_lineage_and_position_adopted() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [10]).await;
    let old = next_message(&mut events).await;
    link.send(&NodeFrame::Gap {
        s: 1,
        l: TERMINAL,
        epoch: Epoch(8),
        from: Offset(10),
        to: Offset(2),
        reason: GapReason::Epoch,
    })
    .await;
    let gap = until(&mut events, |event| match event {
        Event::Gap(gap) => Some(gap),
        _ => None,
    })
    .await;
    assert_eq!((gap.log, gap.epoch, gap.to), (LogName::Terminal, Epoch(8), Offset(2)));
    link.deliver_messages(TERMINAL, vec![message(3, 1003)]).await;
    let new = next_message(&mut events).await;
    old.ack(); // Of another history: must not acknowledge anything of this one.
    new.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 3)]);
    drop(link);
    let (_link, open) = node.session().await;
    let own = open.cursors.iter().find(|(log, _)| *log == LogName::Terminal).unwrap();
    assert_eq!((own.1.0, own.1.1), (Epoch(8), Offset(3)));
}

#[tokio::test(start_paused = true)]
async fn skip_gives_up_one_message_in_its_turn() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [1, 2, 3]).await;
    let first = next_message(&mut events).await;
    next_message(&mut events).await.skip();
    next_message(&mut events).await.ack();
    first.ack();
    assert_eq!(link.ack().await, [(TERMINAL, 1)]);
    assert_eq!(link.recv().await, Some(TerminalFrame::Skip { s: 1, l: TERMINAL, o: Offset(2) }));
    assert_eq!(link.ack().await, [(TERMINAL, 3)]);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_read_stops_the_node() {
    let node = FakeNode::new();
    let terminal = node.terminal().tuning(|tuning| tuning.buffer = 8);
    let (_handle, mut events) = terminal.connect().await.unwrap();
    let (mut link, _) = node.session().await;
    let total = 5000;
    let writing = tokio::task::spawn(async move {
        for n in 1..=total {
            let m = vec![Message { o: None, ..message(n, u128::from(n)) }];
            link.deliver_messages(TERMINAL, m).await;
        }
        link
    });
    // With time paused this passes only when nobody can go on: the node is stuck.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!writing.is_finished(), "the terminal read what nobody asked for");
    for n in 1..=total {
        assert_eq!(next_message(&mut events).await.id, MessageId(u128::from(n)));
    }
    writing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn topics_are_joined_and_left() {
    let node = FakeNode::new();
    let (handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, open) = node.session().await;
    let asked = tokio::task::spawn({
        let handle = handle.clone();
        async move { handle.subscribe("sport").await }
    });
    let Some(TerminalFrame::Subscribe { id, topic: name, .. }) = link.recv().await else {
        panic!("not subscribe")
    };
    assert_eq!(name, topic("sport"));
    // The link breaks before the answer: it is asked again.
    drop(link);
    let (mut link, _) = node.session().await;
    let Some(TerminalFrame::Subscribe { id: again, .. }) = link.recv().await else {
        panic!("not subscribe")
    };
    assert_eq!(again, id);
    let log = clarion_sdk::protocol::terminal::LogPosition {
        l: 9,
        log: LogName::Topic(topic("sport")),
        epoch: EPOCH,
        offset: Offset(40),
    };
    link.send(&NodeFrame::Subscribed { s: 1, id: Some(id), log }).await;
    asked.await.unwrap().unwrap();
    link.deliver(9, [41]).await;
    next_message(&mut events).await.ack();
    assert_eq!(link.ack().await, [(9, 41)]);

    let asked = tokio::task::spawn(async move { handle.subscribe("secret").await });
    let Some(TerminalFrame::Subscribe { id, .. }) = link.recv().await else { panic!() };
    let reason = "topic_forbidden".to_owned();
    link.send(&NodeFrame::Error { s: 1, id: Some(id), code: 4203, reason, detail: None }).await;
    let refused = asked.await.unwrap().unwrap_err();
    assert!(matches!(refused, RequestError::Refused { code: 4203, .. }), "{refused}");
    assert_eq!(open.topics, []);
    drop(link);
    let (_link, open) = node.session().await;
    assert_eq!(open.topics, [topic("sport")]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_left_takes_its_cursor_along() {
    let node = FakeNode::new();
    let (handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(NEWS, [5]).await;
    next_message(&mut events).await.ack();
    link.ack().await;
    let asked = tokio::task::spawn(async move { handle.unsubscribe("news").await });
    let Some(TerminalFrame::Unsubscribe { id, topic: name, .. }) = link.recv().await else {
        panic!("not unsubscribe")
    };
    link.send(&NodeFrame::Unsubscribed { s: 1, id: Some(id), topic: name }).await;
    asked.await.unwrap().unwrap();
    drop(link);
    let mut link = node.link().await;
    let open = link.open().await;
    assert!(open.cursors.iter().all(|(log, _)| *log != LogName::Topic(topic("news"))));
}

#[tokio::test(start_paused = true)]
async fn frames_of_other_sessions_and_of_unknown_types_are_ignored() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.send_text(r#"{"t":"novelty","s":1,"x":[]}"#.to_owned()).await;
    let text =
        r#"{"t":"deliver","s":2,"l":0,"m":[{"o":4,"id":"00000000000000000000000009","d":1}]}"#;
    link.send_text(text.to_owned()).await;
    link.0.send(Ws::Ping(vec![1].into())).await.unwrap();
    link.deliver(TERMINAL, [1]).await;
    assert_eq!(next_message(&mut events).await.id, MessageId(1));
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_makes_no_sense_breaks_the_link_and_loses_nothing() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    // Half of the frame is fine. What is not must not be counted as received.
    let text = r#"{"t":"deliver","s":1,"l":0,"m":[{"o":1,"id":"00000000000000000000000001","d":1},{"o":2,"id":"00000000000000000000000002","b":"%"}]}"#;
    link.send_text(text.to_owned()).await;
    next_message(&mut events).await.ack();
    let why = until(&mut events, |event| match event {
        Event::Disconnected { why, .. } => Some(why),
        _ => None,
    })
    .await;
    assert!(why.to_string().starts_with("not this protocol"), "{why}");
    let (mut link, open) = node.session().await;
    assert_eq!(open.cursors.iter().map(|(_, cursor)| cursor.1.0).max(), Some(1));
    link.deliver(TERMINAL, [2]).await;
    assert_eq!(next_message(&mut events).await.id, MessageId(2));
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_stay_below_the_rate_that_nodes_allow() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    let start = Instant::now();
    let mut frames = 0_u64;
    let mut told = 0;
    for n in 1..=2000 {
        link.deliver(TERMINAL, [n]).await;
        next_message(&mut events).await.ack();
        // One message a millisecond: each of them alone would be a frame of its own.
        if let Ok(ack) = timeout(Duration::from_millis(1), link.ack()).await {
            frames += 1;
            told = ack[0].1;
        }
    }
    while told < 2000 {
        told = link.ack().await[0].1;
        frames += 1;
    }
    let bound = 150 + 150 * elapsed_ms(start) / 1000 + 1;
    assert!(frames <= bound, "{frames} frames, {bound} allowed");
    assert!(frames > 150, "{frames}");
}

#[tokio::test(start_paused = true)]
async fn a_commit_token_counts_its_messages_as_handled() {
    let node = FakeNode::new();
    let (_handle, mut events) = node.terminal().connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver(TERMINAL, [1, 2, 3]).await;
    let first = next_message(&mut events).await;
    let second = next_message(&mut events).await;
    let third = next_message(&mut events).await;
    let both = commit_token(&[&first, &third]);
    drop((first, second, third, events));

    let store = TransactionalCursors::resume(Some(&both)).unwrap();
    let (_handle, mut events) = node.terminal().cursor_store(store).connect().await.unwrap();
    let mut next = node.link().await;
    let open = next.open().await;
    next.opened(&open, |_| {}).await;
    let own = open.cursors.iter().find(|(log, _)| *log == LogName::Terminal).unwrap();
    assert_eq!(own.1.1, Offset(1), "the second was not committed");
    next.deliver(TERMINAL, [2, 3]).await;
    assert_eq!(next_message(&mut events).await.offset, Some(Offset(2)));
    assert!(nothing_comes(&mut events).await, "the third was committed");
}

#[tokio::test(start_paused = true)]
async fn ids_are_remembered_with_the_cursors() {
    let node = FakeNode::new();
    let store = std::sync::Arc::new(MemoryCursors::new());
    let terminal = node.terminal().cursor_store(store.clone());
    let (handle, mut events) = terminal.connect().await.unwrap();
    let (mut link, _) = node.session().await;
    link.deliver_messages(TERMINAL, vec![message(1, 77)]).await;
    next_message(&mut events).await.ack();
    link.ack().await;
    handle.close();
    assert!(matches!(link.recv().await, Some(TerminalFrame::Close { s: 1 })));
    drop(link);
    until(&mut events, |event| matches!(event, Event::Closed(_)).then_some(())).await;

    let (_handle, mut events) = node.terminal().cursor_store(store).connect().await.unwrap();
    let (mut link, open) = node.session().await;
    assert_eq!(open.cursors.iter().map(|(_, cursor)| cursor.1.0).max(), Some(1));
    link.deliver_messages(BROADCAST, vec![message(8, 77), message(9, 78)]).await;
    assert_eq!(next_message(&mut events).await.id, MessageId(78));
}
