//! The way of a push in each mode.

use crate::support::*;
use clarion_actors::{Push, Turns};
use clarion_protocol::http::Audience;
use clarion_protocol::terminal::NodeFrame;
use clarion_protocol::{Code, Offset};
use clarion_storage::Store;
use clarion_storage::memory::AppendFault;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_a_terminal_arrives_with_its_id_position_and_payload() {
    let node = Node::start().await;
    let (mut terminal, opened) = node.open("t1").await;
    let accepted = node.accepted(to_terminals(&["t1"]), "hello").await;
    let got = terminal.messages(1).await;
    assert_eq!(got[0].log, alias(&opened, "terminal"));
    assert_eq!((got[0].id, got[0].text.as_str()), (accepted.id, "hello"));
    assert_eq!(got[0].offset, offset_of(&accepted));
    assert_eq!(accepted.targets[0].position.unwrap().epoch, node.store.epoch());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_before_the_first_connect_arrives_i3() {
    let node = Node::start().await;
    let accepted = node.accepted(to_terminals(&["new"]), "early").await;
    let (mut terminal, opened) = node.open("new").await;
    assert_eq!(opened.logs[0].offset, Offset::ZERO, "from the oldest entry");
    assert_eq!(terminal.messages(1).await[0].id, accepted.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_a_user_reaches_each_of_its_terminals_and_nobody_else() {
    let node = Node::start().await;
    let of = |terminal, user| Claims { terminal, user, ..Claims::default() };
    let (mut one, opened) = node.open_as(of("t1", Some("alice")), &[]).await;
    let (mut two, _) = node.open_as(of("t2", Some("alice")), &[]).await;
    let (mut other, _) = node.open_as(of("t3", Some("bob")), &[]).await;
    let accepted = node.accepted(to_user("alice"), "both").await;
    for terminal in [&mut one, &mut two] {
        let got = terminal.messages(1).await;
        assert_eq!((got[0].id, got[0].log), (accepted.id, alias(&opened, "user")));
    }
    node.accepted(to_terminals(&["t3"]), "marker").await;
    assert_eq!(texts(&other.messages(1).await), ["marker"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topic_and_broadcast_reach_their_audience_from_when_it_joined_i3() {
    let node = Node::start().await;
    node.accepted(to_topic("news"), "before anybody").await;
    node.accepted(Audience::All, "before anybody").await;
    let (mut member, opened) = node.open_in("t1", &["news"]).await;
    let (mut stranger, _) = node.open("t2").await;
    let news = node.accepted(to_topic("news"), "news").await;
    let all = node.accepted(Audience::All, "all").await;
    let mut got = member.messages(2).await;
    got.sort_by_key(|got| got.log);
    assert_eq!(got[0].id, all.id);
    assert_eq!((got[1].id, got[1].log), (news.id, alias(&opened, "topic:news")));
    let got = stranger.messages(1).await;
    assert_eq!(got[0].id, all.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_0_is_delivered_once_without_offset_and_stored_nowhere() {
    let node = Node::start().await;
    let (mut online, _) = node.open("t1").await;
    online.settle().await;
    let now = || Push { ttl_s: 0, ..push(to_terminals(&["t1", "t2"]), "now") };
    // The terminal is there once its inbox is registered.
    node.until("t1 is online", async || {
        node.system.terminal(&product_id("demo"), &terminal_id("t1")).await.unwrap().unwrap().online
    })
    .await;
    let accepted = node.system.push(&node.product, now()).await.unwrap();
    assert!(accepted.targets.iter().all(|t| t.position.is_none() && t.error.is_none()));
    let got = online.messages(1).await;
    assert_eq!((got[0].id, got[0].offset), (accepted.id, Offset::ZERO));
    assert!(node.system.message(&product_id("demo"), accepted.id).await.unwrap().is_none());
    let (mut late, _) = node.open("t2").await;
    let marker = node.accepted(to_terminals(&["t2"]), "marker").await;
    assert_eq!(late.messages(1).await[0].id, marker.id, "t2 was not online");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_full_inbox_fails_alone_and_all_failed_is_an_error_i6() {
    let node = Node::with(|config| config.logs.inbox_entries_max = 2).await;
    for number in 0..2 {
        node.accepted(to_terminals(&["full"]), &format!("{number}")).await;
    }
    let accepted = node.accepted(to_terminals(&["ok", "full"]), "x").await;
    assert!(accepted.targets[0].position.is_some());
    let error = accepted.targets[1].error.as_ref().unwrap();
    assert_eq!((error.code, error.retryable), (Code::InboxFull, true));
    let failure = node.push(to_terminals(&["full"]), "x").await.unwrap_err();
    assert_eq!(failure.code, Code::InboxFull);
    for number in 0..2 {
        node.accepted(to_terminals(&["full2"]), &format!("{number}")).await;
    }
    let failure = node.push(to_terminals(&["full", "full2"]), "x").await.unwrap_err();
    assert_eq!((failure.code, failure.targets.len()), (Code::AllTargetsFailedRetryable, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_inbox_whose_terminal_has_read_makes_room_at_once() {
    let node = Node::with(|config| {
        config.logs.inbox_entries_max = 2;
        config.session.cursor_flush_ms = 3_600_000;
    })
    .await;
    let (mut terminal, opened) = node.open("t1").await;
    let inbox = alias(&opened, "terminal");
    for round in 0..10 {
        node.accepted(to_terminals(&["t1"]), "a").await;
        node.accepted(to_terminals(&["t1"]), "b").await;
        let got = terminal.messages(2).await;
        terminal.ack(inbox, got[1].offset).await;
        terminal.settle().await;
        assert_eq!(texts(&got), ["a", "b"], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_of_one_connection_keep_their_order_although_the_first_is_slower_i8() {
    let node = Node::start().await;
    let (mut terminal, _) = node.open("t1").await;
    let mut turns = Turns::default();
    let mut pushes = Vec::new();
    for number in 0..200u32 {
        let mut push = push(to_terminals(&["t1"]), &format!("{number}"));
        push.turn = Some(turns.take());
        if number % 3 == 0 {
            // These go to the store first, to claim their keys.
            push.idempotency = Some((format!("key{number}").into(), [0; 32]));
        }
        pushes.push(push);
    }
    // Started in the reverse order: only the turns keep them in order.
    let mut running = Vec::new();
    for push in pushes.into_iter().rev() {
        let (system, product) = (node.system.clone(), std::sync::Arc::clone(&node.product));
        running.push(tokio::spawn(async move { system.push(&product, push).await }));
    }
    for running in running {
        running.await.unwrap().unwrap();
    }
    let expected: Vec<_> = (0..200).map(|number: u32| number.to_string()).collect();
    assert_eq!(texts(&terminal.messages_acked(200).await), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unresolved_append_holds_later_ones_of_its_log_only_i8() {
    let node = Node::with(|config| config.limits.append_timeout_ms = 1000).await;
    let (mut one, _) = node.open("t1").await;
    let (mut two, _) = node.open("t2").await;
    node.store.set_append_fault(AppendFault::UnknownDone);
    let spawn = |text: &'static str| {
        let (system, product) = (node.system.clone(), std::sync::Arc::clone(&node.product));
        tokio::spawn(async move { system.push(&product, push(to_terminals(&["t1"]), text)).await })
    };
    let first = spawn("first");
    node.until("the first append was tried", async || {
        node.entries(to_terminals(&["t1"])).await == 1
    })
    .await;
    node.store.set_append_fault(AppendFault::None);
    let second = spawn("second");
    for number in 0..20 {
        let text = format!("other {number}");
        node.accepted(to_terminals(&["t2"]), &text).await;
        assert_eq!(texts(&two.messages(1).await), [text], "another log does not wait");
    }
    assert!(!first.is_finished() && !second.is_finished(), "it waits behind the unresolved one");
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(texts(&one.messages(2).await), ["first", "second"]);
    assert_eq!(node.entries(to_terminals(&["t1"])).await, 2, "and nothing is stored twice (I2)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_to_thousands_does_not_hold_up_a_private_message_n2() {
    let node = Node::with(|config| config.session.window_entries = 1000).await;
    // One link may carry many sessions: 300 links with 8 sessions each would be slow to set up,
    // 500 links with one are enough to make a broadcast long.
    let mut crowd = Vec::new();
    for number in 0..500 {
        crowd.push(node.open(&format!("c{number}")).await.0);
    }
    let (mut alone, opened) = node.open("alone").await;
    let (inbox, broadcast) = (alias(&opened, "terminal"), alias(&opened, "broadcast"));
    for number in 0..20 {
        node.accepted(Audience::All, &format!("all {number}")).await;
        node.accepted(to_terminals(&["alone"]), &format!("private {number}")).await;
    }
    let got = alone.messages(40).await;
    let of = |log| got.iter().filter(|got| got.log == log).count();
    assert_eq!((of(inbox), of(broadcast)), (20, 20));
    for terminal in &mut crowd {
        assert_eq!(terminal.messages(20).await.len(), 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_state_counts_what_became_of_it_i13() {
    let node = Node::start().await;
    let (mut terminal, opened) = node.open("t1").await;
    let accepted = node.accepted(to_terminals(&["t1"]), "x").await;
    let got = terminal.messages(1).await;
    terminal.ack(alias(&opened, "terminal"), got[0].offset).await;
    node.until("it is counted", async || {
        let state = node.system.message(&product_id("demo"), accepted.id).await.unwrap().unwrap();
        let counts = state.counts;
        (counts.audience, counts.acknowledged, counts.pending) == (1, 1, 0)
    })
    .await;
    let no_error = terminal.kept().iter().all(|f| !matches!(f, NodeFrame::Error { .. }));
    assert!(no_error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_are_idle_stop_and_start_again_with_the_next_push_or_reader_i12() {
    let node = Node::with(|config| config.actors.idle_stop_ms = 20).await;
    let idle = || async {
        node.until("owners are idle", async || node.system.status().await["virtual_owners"] == 0)
            .await;
    };
    let (mut link, opened) = node.open("t1").await;
    for round in 0..10 {
        node.accepted(to_topic("news"), "to nobody").await;
        if round % 2 == 0 {
            node.until("it is forgotten", async || {
                // The broadcast's owner has a reader and stays.
                node.system.status().await["virtual_owners"] == 1
            })
            .await;
        }
        link.subscribe(round, "news").await;
        let subscribed = |frame: &NodeFrame| match frame {
            NodeFrame::Subscribed { log, .. } => Some(log.l),
            _ => None,
        };
        let log = link.expect(subscribed).await;
        let text = format!("round {round}");
        node.accepted(to_topic("news"), &text).await;
        let got = link.messages(1).await;
        assert_eq!((got[0].log, got[0].text.as_str()), (log, text.as_str()));
        link.ack(log, got[0].offset).await;
        let topic = topic("news");
        link.send(clarion_protocol::terminal::TerminalFrame::Unsubscribe { s: 1, id: 99, topic })
            .await;
        link.expect(|frame| matches!(frame, NodeFrame::Unsubscribed { .. }).then_some(())).await;
    }
    node.accepted(Audience::All, "all").await;
    assert_eq!(link.messages(1).await[0].log, alias(&opened, "broadcast"));
    link.cut().await;
    idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_that_meet_a_stopping_owner_are_neither_lost_nor_late_i12() {
    let node = Node::with(|config| config.actors.idle_stop_ms = 1).await;
    // Topics without readers stop all the time: between taking the append and storing it, too.
    for round in 0..300 {
        node.accepted(to_topic("news"), &format!("{round}")).await;
    }
    assert_eq!(node.entries(to_topic("news")).await, 300);
}
