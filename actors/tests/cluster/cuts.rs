//! Links that break.

use std::sync::Arc;
use std::time::Duration;

use clarion_protocol::http::Audience;
use clarion_storage::DEFAULT_GROUP;

use crate::links::Flow;
use crate::support::*;
use crate::world::*;

const ABC: [&str; 3] = ["a", "b", "c"];

/// A push at `a` for what `b` owns, while what `way` of the link between them carries is lost and
/// nobody has noticed.
async fn lost_on_the_way(ways: &[usize]) {
    let world = World::of(&ABC).await;
    let terminal = terminal_of("b", &ABC);
    let (mut link, _) = world.node("c").open(terminal).await;
    link.settle().await;
    for way in ways {
        world.link_of("a", "b").way(*way).flow.send_replace(Flow::Loses);
    }
    let texts = numbered("text", 5);
    push_all(world.node("a"), to_terminal(terminal), &texts).await;
    assert_eq!(world.node("a").stored(to_terminal(terminal)).await, 5, "each is stored once");
    assert_eq!(read_all(&mut link, 5).await, texts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_whose_owner_never_got_it_is_made_by_the_next_one_i2() {
    lost_on_the_way(&[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_whose_answer_was_lost_is_found_by_the_next_owner_i2() {
    lost_on_the_way(&[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_over_a_link_that_is_dead_both_ways_is_made_by_the_next_owner_i2() {
    lost_on_the_way(&[0, 1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_link_is_cut_the_next_owner_serves_and_every_reader_is_told_i12() {
    let mut world = World::of(&ABC).await;
    let (terminal, news) = (terminal_of("b", &ABC), topic_of("b", &ABC));
    let mut links = Vec::new();
    for reader in ABC {
        let name = format!("{terminal}-{reader}");
        links.push(world.node(reader).open_in(&name, &[news]).await.0);
    }
    for link in &mut links {
        link.settle().await;
    }
    world.cut("a", "b");
    let before = numbered("cut", 20);
    // From both ends of the cut, and from the one that hears both.
    let mut all = before.clone();
    push_all(world.node("a"), to_topic(news), &before).await;
    for (name, pusher) in [("b", "b"), ("c", "c")] {
        let texts = numbered(name, 5);
        push_all(world.node(pusher), to_topic(news), &texts).await;
        all.extend(texts);
    }
    for link in &mut links {
        assert_eq!(read_all(link, all.len()).await, all);
    }
    world.link("a", "b");
    let after = numbered("mended", 5);
    push_all(world.node("a"), to_topic(news), &after).await;
    for link in &mut links {
        assert_eq!(read_all(link, after.len()).await, after);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cut_off_from_all_others_but_not_from_the_store_is_heard_and_hears() {
    let mut world = World::of(&ABC).await;
    let terminal = terminal_of("b", &ABC);
    let mut at = Vec::new();
    for reader in ABC {
        let name = format!("{terminal}-{reader}");
        at.push(world.node(reader).open(&name).await.0);
    }
    for link in &mut at {
        link.settle().await;
    }
    world.cut("a", "b");
    world.cut("a", "c");
    world.sees("a", &["a"]);
    world.sees("b", &["b", "c"]);
    world.sees("c", &["b", "c"]);
    let (from_a, from_b) = (numbered("a", 10), numbered("b", 10));
    push_all(world.node("a"), Audience::All, &from_a).await;
    push_all(world.node("b"), Audience::All, &from_b).await;
    let all: Vec<_> = from_a.into_iter().chain(from_b).collect();
    for link in &mut at {
        assert_eq!(read_all(link, all.len()).await, all);
    }
    world.link("a", "b");
    world.link("a", "c");
    world.all_see(&ABC);
    let after = numbered("together", 10);
    push_all(world.node("c"), Audience::All, &after).await;
    for link in &mut at {
        assert_eq!(read_all(link, after.len()).await, after);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_opens_while_its_owner_cannot_be_reached_reads_all_the_same_i4() {
    let mut world = World::of(&ABC).await;
    let terminal = terminal_of("b", &ABC);
    world.cut("a", "b");
    world.node("c").accepted(to_terminal(terminal), "before").await;
    let (mut link, _) = world.node("a").open(terminal).await;
    assert_eq!(texts(&link.messages_acked(1).await), ["before"]);
    world.node("c").accepted(to_terminal(terminal), "after").await;
    assert_eq!(texts(&link.messages_acked(1).await), ["after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_flap_under_load_lose_nothing_and_mix_up_nothing_i8() {
    let mut world = World::of(&ABC).await;
    let terminals = ABC.map(|owner| terminal_of(owner, &ABC));
    let mut readers = Vec::new();
    for (at, terminal) in terminals.iter().enumerate() {
        let (mut link, _) = world.node(ABC[(at + 2) % 3]).open(terminal).await;
        link.settle().await;
        readers.push(tokio::spawn(async move { read_all(&mut link, 120).await }));
    }
    let mut pushers = Vec::new();
    for (at, terminal) in terminals.into_iter().enumerate() {
        let node = world.node(ABC[(at + 1) % 3]);
        let (system, product) = (node.system.clone(), Arc::clone(&node.product));
        pushers.push(tokio::spawn(async move {
            for text in numbered(terminal, 120) {
                system.push(&product, push(to_terminal(terminal), &text)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }));
    }
    for round in 0..9 {
        let (a, b) = [("a", "b"), ("b", "c"), ("a", "c")][round % 3];
        world.cut(a, b);
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.link(a, b);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for pusher in pushers {
        pusher.await.unwrap();
    }
    for (terminal, reader) in terminals.iter().zip(readers) {
        assert_eq!(reader.await.unwrap(), numbered(terminal, 120));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_lane_dropped_is_said_and_read_from_the_store_i12() {
    let mut world = World::of(&["a", "b"]).await;
    world.cut("a", "b");
    world.room = 4;
    world.link("a", "b");
    let terminal = terminal_of("a", &["a", "b"]);
    let (mut link, _) = world.node("b").open(terminal).await;
    link.settle().await;
    world.node("a").accepted(to_terminal(terminal), "first").await;
    read_all(&mut link, 1).await;
    world.link_of("a", "b").way(0).flow.send_replace(Flow::Stalls);
    let texts = numbered("text", 60);
    push_all(world.node("a"), to_terminal(terminal), &texts).await;
    world.link_of("a", "b").way(0).flow.send_replace(Flow::Runs);
    assert_eq!(read_all(&mut link, 60).await, texts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interest_that_a_full_lane_refused_is_told_again_i12() {
    let mut world = World::of(&["a", "b"]).await;
    world.cut("a", "b");
    world.room = 2;
    world.link("a", "b");
    world.link_of("a", "b").way(1).flow.send_replace(Flow::Stalls);
    let mut links = Vec::new();
    let owner = terminal_of("a", &["a", "b"]);
    let names: Vec<String> = (0..40).map(|number| format!("{owner}-{number}")).collect();
    for name in &names {
        links.push(world.node("b").open(name).await.0);
    }
    world.link_of("a", "b").way(1).flow.send_replace(Flow::Runs);
    for (name, link) in names.iter().zip(&mut links) {
        world.node("a").accepted(to_terminal(name), name).await;
        assert_eq!(texts(&link.messages_acked(1).await), [name]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows_while_a_peer_hangs_and_nothing_stale_happens_when_it_wakes() {
    let world = World::of(&ABC).await;
    let terminals: Vec<_> = (0..200).map(|n| format!("{}-{n}", terminal_of("b", &ABC))).collect();
    world.link_of("a", "b").flow(Flow::Stalls);
    let node = world.node("a");
    let pushes = terminals.iter().map(|terminal| node.accepted(to_terminal(terminal), "text"));
    futures_util::future::join_all(pushes).await;
    let left = async |name: &str| {
        let status = world.node(name).system.status().await;
        let of = |path: &str| status.pointer(path).unwrap().as_u64().unwrap();
        of("/cluster/forwarding/logs")
            + of("/cluster/forwarding/messages")
            + of("/cluster/serving")
            + of("/cluster/asking")
    };
    node.until("everything is resolved", async || left("a").await == 0).await;
    world.link_of("a", "b").flow(Flow::Runs);
    // Whatever lay on the link has been handled once this went the same way.
    world.node("a").accepted(Audience::All, "after").await;
    world.node("b").until("b is idle", async || left("b").await == 0).await;
    for terminal in &terminals {
        assert_eq!(node.stored(to_terminal(terminal)).await, 1, "{terminal}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_that_panics_is_not_the_last_one_i12() {
    let mut world = World::of(&ABC).await;
    let claims = Claims { terminal: terminal_of("b", &ABC), user: Some("u1"), ..Claims::default() };
    let (mut link, _) = world.node("a").open_as(claims, &[]).await;
    link.settle().await;
    // From here on only comparisons tell "a" of what "b" appends. That of inboxes and users panics.
    let panics = &world.node("a").store.panics;
    panics.store(3, std::sync::atomic::Ordering::Release);
    world.cut("a", "b");
    let a = world.node("a");
    let panicked = || a.store.panics.load(std::sync::atomic::Ordering::Acquire) == 0;
    a.until("comparisons panicked", async || panicked()).await;
    world.node("b").accepted(to_terminal(claims.terminal), "text").await;
    assert_eq!(texts(&link.messages_acked(1).await), ["text"]);
}

/// Terminals at a node that read so many topics of each name between them, and nothing else yet.
async fn readers_of(node: &Node, names: &[(&str, usize)]) -> Vec<TestTerminal> {
    let mut all = Vec::new();
    for (name, count) in names {
        all.extend(numbered(&format!("{name}-"), *count).iter().map(|name| name.replace(' ', "")));
    }
    let mut links = Vec::new();
    for (at, some) in all.chunks(50).enumerate() {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        links.push(node.open_in(&format!("{}-{at}", names[0].0), &some).await.0);
    }
    links
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_part_of_the_store_that_is_away_holds_keeps_nothing_else_from_being_compared_i12() {
    let mut world = World::of(&["a", "b"]).await;
    let a = world.node("a");
    // The wanted topics have a terminal of their own, whose inbox is not away.
    let _others = readers_of(a, &[("away", 400), ("well", 150)]).await;
    let wanted: Vec<String> = (0..10).map(|n| format!("wanted-{n}")).collect();
    let topics: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let mut link = a.open_in("t1", &topics).await.0;
    link.settle().await;
    *a.store.fails.lock().unwrap() = Some(|log| log.to_string().contains("away"));
    // From here on only comparisons tell "a" of what "b" appends.
    world.cut("a", "b");
    for name in &wanted {
        world.node("b").accepted(to_topic(name), name).await;
        assert_eq!(read_all(&mut link, 1).await, std::slice::from_ref(name));
    }
    // And when that part is back nothing of it is missing.
    let mut back = world.node("a").open_in("t2", &["away-7"]).await.0;
    world.node("b").accepted(to_topic("away-7"), "back").await;
    *world.node("a").store.fails.lock().unwrap() = None;
    assert_eq!(read_all(&mut back, 1).await, ["back"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_alone_does_not_reach_the_store_reads_through_another_one_i12() {
    let mut world = World::of(&ABC).await;
    let (terminal, news) = (terminal_of("b", &ABC), topic_of("b", &ABC));
    let (mut link, _) = world.node("a").open_in(terminal, &[news]).await;
    link.settle().await;
    *world.node("a").store.fails.lock().unwrap() = Some(|_| true);
    // Nothing of it is hinted there: it has to be read, page by page.
    world.link_of("a", "b").flow(Flow::Loses);
    let (b, padding) = (world.node("b"), "p".repeat(4000));
    let of_news = numbered(&format!("news{padding}"), 30);
    push_all(b, to_topic(news), &of_news).await;
    push_all(b, to_terminal(terminal), &numbered("inbox", 3)).await;
    world.cut("a", "b");
    let got = read_all(&mut link, 33).await;
    let (to_it, of_topic): (Vec<_>, Vec<_>) = got.into_iter().partition(|t| t.starts_with("inbox"));
    assert_eq!(to_it, numbered("inbox", 3));
    assert_eq!(of_topic, of_news);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_part_of_the_store_that_is_away_holds_keeps_no_other_interest_waiting_i4() {
    let world = World::of(&["a", "b"]).await;
    let owner = world.node("b");
    *owner.store.fails.lock().unwrap() = Some(|log| log.to_string().contains("away"));
    let _others = readers_of(world.node("a"), &[("away", 1500)]).await;
    for n in 0..20 {
        let (terminal, news) =
            (format!("{}-{n}", terminal_of("b", &["a", "b"])), format!("wanted-{n}"));
        world.node("b").accepted(to_topic(&news), &news).await;
        let mut link = world.node("a").open_in(&terminal, &[&news]).await.0;
        let begun = std::time::Instant::now();
        world.node("b").accepted(to_terminal(&terminal), "text").await;
        assert_eq!(texts(&link.messages_acked(1).await), ["text"]);
        assert!(begun.elapsed() < Duration::from_secs(1), "{terminal}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirmations_that_panic_are_not_the_last_ones_i4() {
    let world = World::of(&ABC).await;
    let terminal = terminal_of("b", &ABC);
    for name in ABC {
        world.node(name).store.panics.store(2, std::sync::atomic::Ordering::Release);
    }
    let topics: Vec<String> = (0..40).map(|n| format!("news-{n}")).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let (mut link, _) = world.node("c").open_in(terminal, &topics).await;
    for news in &topics {
        world.node("a").accepted(to_topic(news), news).await;
    }
    let mut got = read_all(&mut link, topics.len()).await;
    got.sort();
    let mut all: Vec<_> = topics.iter().map(ToString::to_string).collect();
    all.sort();
    assert_eq!(got, all);
    world.node("a").accepted(to_terminal(terminal), "text").await;
    assert_eq!(read_all(&mut link, 1).await, ["text"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_behind_a_cut_that_rejects_is_not_dead_for_good_i12() {
    let mut world = World::of(&ABC).await;
    let (mut link, _) = world.node("a").open("t1").await;
    link.settle().await;
    world.cut("b", "c");
    world.link_of("a", "b").flow(Flow::Loses);
    world.link_of("a", "b").down(true);
    world.sees("b", &["b"]);
    world.sees("c", &["a", "c"]);
    world.sees("a", &["a", "c"]);
    // It is seen again, the same run of it, and owns nothing by this view.
    world.sees_draining("a", &["a", "c"], &["b"]);
    // For longer than anything is compared because the link ended and slots moved.
    let texts = numbered("text", 8);
    for text in &texts {
        world.node("b").accepted(Audience::All, text).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(read_all(&mut link, 8).await, texts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_dead_and_starts_again_behind_a_cut_is_heard_of_by_the_store_i12() {
    let mut world = World::of(&["a", "b"]).await;
    let (mut link, _) = world.node("a").open("t1").await;
    link.settle().await;
    world.kill("b");
    world.sees("a", &["a"]);
    world.add("b", DEFAULT_GROUP, &|_| {}).await;
    world.sees("b", &["b"]);
    // Its address does not refuse any more, and nothing comes through.
    let a = world.node("a").system.cluster();
    for (id, boot) in a.absent() {
        a.asked(&id, boot, false);
    }
    // For longer than anything is compared because the link ended and slots moved.
    let texts = numbered("text", 8);
    for text in &texts {
        world.node("b").accepted(Audience::All, text).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(read_all(&mut link, 8).await, texts);
}
