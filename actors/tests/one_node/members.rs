//! Topics as terminals and the back-end change them.

use crate::support::*;
use clarion_protocol::Code;
use clarion_protocol::terminal::{NodeFrame, TerminalFrame};

fn subscribed(frame: &NodeFrame) -> Option<(Option<u64>, u16, String)> {
    match frame {
        NodeFrame::Subscribed { id, log, .. } => Some((*id, log.l, log.log.to_string())),
        _ => None,
    }
}

fn unsubscribed(frame: &NodeFrame) -> Option<(Option<u64>, String)> {
    match frame {
        NodeFrame::Unsubscribed { id, topic, .. } => Some((*id, topic.to_string())),
        _ => None,
    }
}

fn error(frame: &NodeFrame) -> Option<(Option<u64>, u16)> {
    match frame {
        NodeFrame::Error { id, code, .. } => Some((*id, *code)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_terminal_are_carried_out_in_their_order() {
    let node = Node::start().await;
    let (mut link, _) = node.open("t1").await;
    for id in 0..30 {
        if id % 2 == 0 {
            link.subscribe(id, "news").await;
        } else {
            let topic = topic("news");
            link.send(TerminalFrame::Unsubscribe { s: 1, id, topic }).await;
        }
    }
    for id in 0..30 {
        if id % 2 == 0 {
            let (answered, _, log) = link.expect(subscribed).await;
            assert_eq!((answered, log.as_str()), (Some(id), "topic:news"));
        } else {
            assert_eq!(link.expect(unsubscribed).await, (Some(id), "news".to_owned()));
        }
    }
    let members = node.system.members(&product_id("demo"), &topic("news"), None, 10).await.unwrap();
    assert!(members.items.is_empty(), "the last one was an unsubscribe");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_back_end_puts_and_removes_and_its_ban_beats_a_subscribe() {
    let node = Node::start().await;
    let product = product_id("demo");
    let (mut link, _) = node.open("t1").await;
    let put = node.system.put_members(&product, &topic("staff"), vec![terminal_id("t1")]).await;
    assert!(put[0].member && put[0].error.is_none());
    let (id, log, name) = link.expect(subscribed).await;
    assert_eq!((id, name.as_str()), (None, "topic:staff"));
    let accepted = node.accepted(to_topic("staff"), "for staff").await;
    let got = link.messages(1).await;
    assert_eq!((got[0].id, got[0].log), (accepted.id, log));
    let gone = node.system.remove_members(&product, &topic("staff"), vec![terminal_id("t1")]).await;
    assert!(!gone[0].member);
    assert_eq!(link.expect(unsubscribed).await, (None, "staff".to_owned()));
    node.accepted(to_topic("staff"), "not for t1").await;
    link.subscribe(7, "staff").await;
    assert_eq!(link.expect(error).await, (Some(7), Code::TopicBanned.number()));
    node.accepted(to_terminals(&["t1"]), "marker").await;
    assert_eq!(texts(&link.messages(1).await), ["marker"]);
    node.system.put_members(&product, &topic("staff"), vec![terminal_id("t1")]).await;
    assert_eq!(link.expect(subscribed).await.2, "topic:staff", "only the back-end lets it in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_inbox_is_full_learns_of_a_change_all_the_same() {
    let node = Node::with(|config| config.logs.inbox_entries_max = 2).await;
    let (mut link, opened) = node.open_in("t1", &["news"]).await;
    let news = alias(&opened, "topic:news");
    for number in 0..2 {
        node.accepted(to_terminals(&["t1"]), &format!("{number}")).await;
    }
    let first = link.messages(2).await;
    let product = product_id("demo");
    node.system.put_members(&product, &topic("staff"), vec![terminal_id("t1")]).await;
    let (id, staff, name) = link.expect(subscribed).await;
    assert_eq!((id, name.as_str()), (None, "topic:staff"));
    // The terminal sees the same session: aliases are what they were, and what it had not
    // acknowledged may come again and can be acknowledged now.
    link.ack(alias(&opened, "terminal"), first[1].offset).await;
    node.accepted(to_topic("news"), "news").await;
    node.accepted(to_topic("staff"), "staff").await;
    let mut got = Vec::new();
    while got.len() < 2 {
        let new = link.deliver().await;
        got.extend(new.into_iter().filter(|got| got.log == news || got.log == staff));
    }
    got.sort_by_key(|got| got.log);
    assert_eq!(texts(&got), ["news", "staff"]);
    let opened_again = link.kept().iter().any(|frame| matches!(frame, NodeFrame::Opened(_)));
    assert!(!opened_again, "the protocol knows one `opened`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_topics_are_refused_each_with_its_code() {
    let node = Node::with(|config| config.session.topics_max = 2).await;
    let (mut link, opened) = node.open_in("t1", &["a", "b", "c"]).await;
    assert_eq!(opened.refused, [(topic("c"), Code::TooManyTopics.number())]);
    link.subscribe(1, "d").await;
    assert_eq!(link.expect(error).await, (Some(1), Code::TooManyTopics.number()));
    link.subscribe(2, "a").await;
    let (id, log, _) = link.expect(subscribed).await;
    assert_eq!((id, log), (Some(2), alias(&opened, "topic:a")), "the same alias again");
}
