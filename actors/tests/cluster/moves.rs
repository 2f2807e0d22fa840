//! Ownership that moves: nodes that come, go, die, come back, and disagree.

use std::sync::Arc;
use std::time::Duration;

use clarion_protocol::http::Audience;
use clarion_storage::DEFAULT_GROUP;

use crate::support::*;
use crate::world::*;

const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_while_it_appends_costs_nothing_that_was_accepted() {
    let mut world = World::of(&ABC).await;
    let terminal = terminal_of("b", &ABC);
    let (mut link, _) = world.node("c").open(terminal).await;
    link.settle().await;
    let node = world.node("a");
    let (system, product) = (node.system.clone(), Arc::clone(&node.product));
    let pusher = tokio::spawn(async move {
        for text in numbered("text", 200) {
            system.push(&product, push(to_terminal(terminal), &text)).await.unwrap();
        }
    });
    read_some(&mut link, 40).await;
    world.kill("b");
    world.sees("a", &["a", "c"]);
    world.sees("c", &["a", "c"]);
    let rest = read_all(&mut link, 160).await;
    assert_eq!(rest, numbered("text", 200)[40..]);
    pusher.await.unwrap();
}

/// Exactly so many.
async fn read_some(link: &mut TestTerminal, count: usize) {
    let mut seen = 0;
    while seen < count {
        let new = link.deliver().await;
        seen += new.len();
        let last = new.last().unwrap();
        link.ack(last.log, last.offset).await;
    }
    assert_eq!(seen, count, "the terminal got more at once than it was to read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_disagree_who_owns_a_log_do_no_harm() {
    let mut world = World::of(&ABC).await;
    world.sees("a", &["a"]);
    world.sees("b", &["b", "c"]);
    let (terminal, news) = (terminal_of("b", &ABC), topic_of("c", &ABC));
    let mut links = Vec::new();
    for reader in ABC {
        let name = format!("{terminal}-{reader}");
        links.push(world.node(reader).open_in(&name, &[news]).await.0);
    }
    let mut all = Vec::new();
    for round in 0..5 {
        for pusher in ABC {
            let text = format!("{pusher} {round}");
            world.node(pusher).accepted(to_topic(news), &text).await;
            all.push(text);
        }
    }
    for link in &mut links {
        assert_eq!(read_all(link, all.len()).await, all);
    }
    world.all_see(&ABC);
    for pusher in ABC {
        let text = format!("{pusher} agrees");
        world.node(pusher).accepted(to_topic(news), &text).await;
        for link in &mut links {
            assert_eq!(read_all(link, 1).await, std::slice::from_ref(&text));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_to_a_node_that_joins_and_back_while_pushes_go_on() {
    let mut world = World::of(&["a", "b"]).await;
    world.add("c", DEFAULT_GROUP, &|_| {}).await;
    // All of them will be c's for a while.
    let terminals: Vec<_> = (0..6).map(|n| format!("{}-{n}", terminal_of("c", &ABC))).collect();
    let mut readers = Vec::new();
    for (at, terminal) in terminals.iter().enumerate() {
        let (mut link, _) = world.node(["a", "b"][at % 2]).open(terminal).await;
        readers.push(tokio::spawn(async move { read_all(&mut link, 150).await }));
    }
    let mut pushers = Vec::new();
    for (at, terminal) in terminals.iter().cloned().enumerate() {
        let node = world.node(["b", "a"][at / 3]);
        let (system, product) = (node.system.clone(), Arc::clone(&node.product));
        pushers.push(tokio::spawn(async move {
            for text in numbered(&terminal, 150) {
                system.push(&product, push(to_terminal(&terminal), &text)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }));
    }
    for _ in 0..3 {
        world.link("a", "c");
        world.link("b", "c");
        // Not all at once.
        for who in ["c", "a", "b"] {
            world.sees(who, &ABC);
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        // It drains: nobody counts on it any more, and then it goes.
        for who in ["a", "c", "b"] {
            world.sees(who, &["a", "b"]);
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        world.cut("a", "c");
        world.cut("b", "c");
    }
    for pusher in pushers {
        pusher.await.unwrap();
    }
    for (terminal, reader) in terminals.iter().zip(readers) {
        assert_eq!(reader.await.unwrap(), numbered(terminal, 150));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_under_its_name_is_another_one_i12() {
    let mut world = World::of(&ABC).await;
    let terminal = terminal_of("b", &ABC);
    let (mut link, _) = world.node("c").open(terminal).await;
    link.settle().await;
    for round in 0..3 {
        world.kill("b");
        world.add("b", DEFAULT_GROUP, &|_| {}).await;
        world.link("a", "b");
        world.link("c", "b");
        world.all_see(&ABC);
        let texts = numbered(&round.to_string(), 5);
        push_all(world.node("a"), to_terminal(terminal), &texts).await;
        push_all(world.node("b"), to_terminal(terminal), &[format!("{round} b")]).await;
        assert_eq!(read_all(&mut link, 5).await, texts);
        assert_eq!(read_all(&mut link, 1).await, [format!("{round} b")]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn products_of_a_group_are_served_by_its_nodes_alone() {
    let mut world = World::of(&["a"]).await;
    world.add("g", "gold", &|_| {}).await;
    world.link("a", "g");
    world.all_see(&["a", "g"]);
    let gold = clarion_storage::ProductRecord { isolation_group: "gold".into(), ..record("metal") };
    world.node("a").system.create_product(gold).await.unwrap();
    let product = world.node("a").system.product(&product_id("metal")).await.unwrap().unwrap();
    let claims = Claims { product: "metal", ..Claims::default() };
    let (mut link, _) = world.node("g").open_as(claims, &[]).await;
    link.settle().await;
    for audience in [to_terminal("t1"), Audience::All] {
        world.node("a").system.push(&product, push(audience, "gold")).await.unwrap();
        assert_eq!(texts(&link.messages_acked(1).await), ["gold"]);
    }
    let mut refused = world.node("a").connect();
    let open = world.node("a").open_frame(claims);
    refused.send(clarion_protocol::terminal::TerminalFrame::Open(open)).await;
    let code = clarion_protocol::Code::WrongGroup.number();
    assert_eq!(refused.closed().await, (1, code));
}

/// Gives `demo` to a group, through a node.
async fn give(world: &World, at: &str, group: &str) {
    let change = |record: &mut clarion_storage::ProductRecord| {
        record.isolation_group = group.into();
        Ok(())
    };
    world.node(at).system.change_product(&product_id("demo"), change).await.unwrap();
}

/// One node of the group "default" and one of "gold".
async fn two_groups() -> World {
    let mut world = World::of(&["a"]).await;
    world.add("g", "gold", &|_| {}).await;
    world.link("a", "g");
    world.all_see(&["a", "g"]);
    world
}

const WRONG_GROUP: u16 = clarion_protocol::Code::WrongGroup.number();

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_product_that_gets_another_group_takes_its_live_sessions_along() {
    let world = two_groups().await;
    world.node("a").system.create_product(record("other")).await.unwrap();
    let claims = Claims { product: "other", terminal: "t2", ..Claims::default() };
    let (mut stays, _) = world.node("a").open_as(claims, &[]).await;
    let pushed = world.node("a");
    // Each time through "g": "a" is told, "g" itself knows.
    for (round, (from, to, group)) in
        [("a", "g", "gold"), ("g", "a", "default")].into_iter().enumerate()
    {
        let (mut link, _) = world.node(from).open("t1").await;
        link.settle().await;
        give(&world, "g", group).await;
        assert_eq!(link.closed().await, (1, WRONG_GROUP));
        assert_eq!(link.end().await, WRONG_GROUP);
        let text = format!("text {round}");
        let seen = async || {
            let product = pushed.system.product(&product_id("demo")).await.unwrap().unwrap();
            (*product.isolation_group == *group).then_some(product)
        };
        pushed.until("\"a\" knows the group", async || seen().await.is_some()).await;
        let product = seen().await.unwrap();
        let (mut link, _) = world.node(to).open("t1").await;
        let push = push(to_terminal("t1"), &text);
        let accepted = pushed.system.push(&product, push).await.unwrap();
        assert_eq!(texts(&link.messages_acked(1).await), [text]);
        link.cut().await;
        let offset = offset_of(&accepted);
        pushed.until_stored("t1", clarion_protocol::LogName::Terminal, offset).await;
    }
    stays.settle().await;
    assert!(stays.kept().is_empty(), "{:?}", stays.kept());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_was_not_told_of_another_group_finds_out_by_itself() {
    let mut world = two_groups().await;
    let (mut link, _) = world.node("a").open("t1").await;
    world.cut("a", "g");
    give(&world, "g", "gold").await;
    link.settle().await;
    assert!(link.kept().is_empty(), "it cannot know: {:?}", link.kept());
    // Its record of the product is no longer fresh then.
    world.store.advance_ms(30_000);
    assert_eq!(link.closed().await, (1, WRONG_GROUP));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_being_opened_while_its_product_moves_does_not_stay() {
    let world = two_groups().await;
    let a = world.node("a");
    a.store.opens_held.send_replace(true);
    let mut link = a.connect();
    let open = a.open_frame(Claims::default());
    link.send(clarion_protocol::terminal::TerminalFrame::Open(open)).await;
    a.store.opened.subscribe().wait_for(|opened| *opened > 0).await.unwrap();
    give(&world, "g", "gold").await;
    a.until("it knows", async || {
        let product = a.system.product(&product_id("demo")).await.unwrap().unwrap();
        &*product.isolation_group == "gold"
    })
    .await;
    a.store.opens_held.send_replace(false);
    assert_eq!(link.closed().await, (1, WRONG_GROUP));
}
