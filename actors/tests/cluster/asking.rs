//! What nodes ask and tell one another beside pushes.

use std::sync::Arc;

use clarion_core::LogKey;
use clarion_core::placement::{self, SlotTable};
use clarion_protocol::Code;
use clarion_protocol::http::Audience;

use crate::links::Flow;
use crate::support::*;
use crate::world::*;

const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_online_and_kicked_wherever_it_is() {
    let world = World::of(&ABC).await;
    let product = product_id("demo");
    let (mut link, _) = world.node("c").open("t1").await;
    link.settle().await;
    for asked in ABC {
        let system = &world.node(asked).system;
        let info = system.terminal(&product, &terminal_id("t1")).await.unwrap().unwrap();
        assert!(info.online, "{asked}");
        let all = system.terminals(&product, None, None, 10).await.unwrap();
        assert!(all.items.iter().all(|terminal| terminal.online), "{asked}");
    }
    assert!(world.node("a").system.kick(&product, &terminal_id("t1")).await.unwrap());
    assert_eq!(link.closed().await, (1, Code::Kicked.number()));
    link.cut().await;
    world
        .node("b")
        .until("it is offline", async || {
            let system = &world.node("b").system;
            !system.terminal(&product, &terminal_id("t1")).await.unwrap().unwrap().online
        })
        .await;
    assert!(!world.node("a").system.kick(&product, &terminal_id("t1")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_session_on_another_node_ends_the_older_one_at_once_i7() {
    for owner in ABC {
        let world = World::of(&ABC).await;
        let terminal = terminal_of(owner, &ABC);
        let (mut older, _) = world.node("a").open(terminal).await;
        older.settle().await;
        let (mut newer, _) = world.node("b").open(terminal).await;
        assert_eq!(older.closed().await, (1, Code::Replaced.number()));
        newer.settle().await;
        world.node("c").accepted(to_terminal(terminal), "text").await;
        assert_eq!(texts(&newer.messages_acked(1).await), ["text"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_inbox_whose_terminal_on_another_node_has_read_makes_room_at_once() {
    let world = World::with(&ABC, |config| {
        config.logs.inbox_entries_max = 4;
        config.session.cursor_flush_ms = 3_600_000;
    })
    .await;
    let terminal = terminal_of("b", &ABC);
    let (mut link, _) = world.node("c").open(terminal).await;
    for text in numbered("text", 20) {
        world.node("a").accepted(to_terminal(terminal), &text).await;
        assert_eq!(texts(&link.messages_acked(1).await), [text]);
        link.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_product_is_seen_by_every_node_at_once() {
    let mut world = World::of(&["a", "b"]).await;
    let product = product_id("demo");
    let sha1 = async |world: &World, at: &str| {
        let record = world.node(at).system.product(&product).await.unwrap().unwrap();
        record.allow_sha1_body_hash
    };
    assert!(sha1(&world, "b").await);
    let change = async |world: &World, allow: bool| {
        let change = |record: &mut clarion_storage::ProductRecord| {
            record.allow_sha1_body_hash = allow;
            Ok(())
        };
        world.node("a").system.change_product(&product, change).await.unwrap();
    };
    change(&world, false).await;
    world.node("b").until("b sees it", async || !sha1(&world, "b").await).await;
    // What was changed while there was no link is read when there is one again.
    world.cut("a", "b");
    change(&world, true).await;
    assert!(!sha1(&world, "b").await, "it was not told");
    world.link("a", "b");
    world.node("b").until("b sees it", async || sha1(&world, "b").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_every_node_that_answers_is_told() {
    let world = World::of(&ABC).await;
    world.link_of("a", "c").flow(Flow::Loses);
    let told = world.node("a").system.cluster_status().await;
    let of = |name: &str| told.iter().find(|status| status["node"] == name).unwrap();
    assert_eq!(told.len(), 3);
    assert_eq!(told[0]["node"], "a");
    assert_eq!(of("b")["alive"], true);
    assert_eq!(of("c")["answers"], false);
    assert!(!world.node("a").system.drain_node("c").await);
    assert!(world.node("a").system.drain_node("b").await);
    world.node("b").system.drain_wanted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_0_reaches_who_is_online_on_any_node_once() {
    let world = World::of(&ABC).await;
    let terminal = terminal_of("b", &ABC);
    let (mut link, _) = world.node("c").open(terminal).await;
    for audience in [to_terminal(terminal), Audience::All] {
        // Whoever is online is known once something durable came.
        world.node("a").accepted(audience.clone(), "before").await;
        assert_eq!(texts(&link.messages_acked(1).await), ["before"]);
        let push = clarion_actors::Push { ttl_s: 0, ..push(audience, "now") };
        world.node("a").system.push(&world.node("a").product, push).await.unwrap();
        assert_eq!(texts(&link.messages(1).await), ["now"]);
    }
    link.settle().await;
    assert!(link.kept().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_put_through_any_node_are_told_to_their_session() {
    let world = World::of(&ABC).await;
    let terminal = terminal_of("b", &ABC);
    let (mut link, _) = world.node("c").open(terminal).await;
    let (product, who) = (product_id("demo"), vec![terminal_id(terminal)]);
    let outcome = world.node("a").system.put_members(&product, &topic("news"), who).await;
    assert!(outcome[0].member);
    link.expect(|frame| match frame {
        clarion_protocol::terminal::NodeFrame::Subscribed { .. } => Some(()),
        _ => None,
    })
    .await;
    world.node("b").accepted(to_topic("news"), "text").await;
    assert_eq!(texts(&link.messages_acked(1).await), ["text"]);
}

/// Terminals whose inboxes that node owns, among those of the cluster.
pub fn terminals_of(owner: &'static str, names: &[&str]) -> impl Iterator<Item = String> + use<> {
    let table = SlotTable::new(names.iter().map(|name| Arc::from(*name)));
    let inbox = |name: &str| LogKey::terminal(&product_id("demo"), &terminal_id(name));
    let names = (0..).map(|number| format!("terminal-{number}"));
    names.filter(move |name| table.owns(owner, placement::slot_of(&inbox(name))))
}

/// On one thread the targets of a push come to the owner as one batch.
#[tokio::test]
async fn a_node_that_does_not_answer_holds_up_20_full_inboxes_no_longer_than_one() {
    let world = World::with(&ABC, |config| {
        config.logs.inbox_entries_max = 1;
        config.actors.inbox_shards = 1;
        config.limits.request_timeout_ms = 3000;
    })
    .await;
    let names: Vec<String> = terminals_of("b", &ABC).take(20).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.node("b").accepted(to_terminals(&names), "fills").await;
    world.link_of("b", "c").flow(Flow::Stalls);
    // Asked one after the other their time would be over long before.
    let failure = world.node("b").push(to_terminals(&names), "text").await.unwrap_err();
    let codes: Vec<_> = failure.targets.iter().map(|t| t.error.as_ref().unwrap().code).collect();
    assert_eq!(codes, vec![Code::InboxFull; 20]);
}
