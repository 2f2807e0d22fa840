//! A terminal on plain `websockets`, written from the specification alone
//! (`clients/terminal.py`), against a node that is killed under it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::{Client, Key, Node, wait_until};

/// The counts of a message.
async fn counts(node: &Node, key: &Key, pushed: &Value) -> Value {
    let id = pushed["id"].as_str().unwrap();
    node.admin("GET", &key.path(&format!("/messages/{id}")), None).await["counts"].clone()
}

#[tokio::test]
async fn it_receives_acknowledges_and_resumes() {
    let mut node = Node::start("").await;
    let key = node.product("demo").await;
    // A push before the first connect arrives (I3).
    node.push_number(&key, "phone-1", 1).await;
    let user = json!({ "audience": { "users": ["alice"] }, "payload": 2 });
    node.push(&key, user).await;
    let mut phone = Client::terminal(&node, &key, "phone-1", json!({ "topics": ["news"] })).await;
    let opened = phone.next("opened").await;
    assert_eq!(opened["frame"]["generation"].as_u64().map(|g| g > 0), Some(true), "{opened}");
    let mut first = phone.numbers(2, true).await;
    first.sort_unstable();
    assert_eq!(first, [1, 2]);
    node.push_topic(&key, "news", 3).await;
    node.push(&key, json!({ "audience": "all", "payload": 4 })).await;
    let mut next = phone.numbers(2, true).await;
    next.sort_unstable();
    assert_eq!(next, [3, 4]);
    let bytes = json!({ "audience": { "terminals": ["phone-1"] },
        "payload_base64": "AP8=", "content_type": "image/png" });
    node.push(&key, bytes).await;
    let message = phone.next("message").await;
    assert_eq!((&message["b"], &message["ct"]), (&json!("AP8="), &json!("image/png")), "{message}");

    // Every session of a terminal has a higher generation, also behind a kill (I7).
    let mut generation = opened["frame"]["generation"].as_u64().unwrap();
    for (round, kill) in [(10, false), (20, true), (30, false), (40, true)] {
        phone.tell(json!({ "do": "hold" })).await;
        let last = node.push_number(&key, "phone-1", round).await;
        assert_eq!(phone.numbers(1, false).await, [round]);
        // The link breaks before the acknowledgement: the message comes again.
        if kill {
            node.kill();
            node.boot();
        } else {
            phone.tell(json!({ "do": "drop" })).await;
        }
        let lost = phone.next("lost").await;
        assert_eq!((&lost["code"], &lost["then"]), (&json!(1006), &json!("reconnect")), "{lost}");
        let opened = phone.next("opened").await;
        let newer = opened["frame"]["generation"].as_u64().unwrap();
        assert!(newer > generation, "{newer} after {generation}");
        generation = newer;
        assert_eq!(phone.numbers(1, true).await, [round], "it comes again");
        phone.tell(json!({ "do": "release" })).await;
        node.push_topic(&key, "news", round + 1).await;
        assert_eq!(phone.numbers(1, false).await, [round + 1]);
        let acknowledged = async || counts(&node, &key, &last).await["acknowledged"] == 1;
        wait_until("the acknowledgement to be counted", acknowledged).await;
    }
    // Without cursors of its own it resumes from the node's: nothing acknowledged comes again.
    phone.tell(json!({ "do": "leave" })).await;
    assert_eq!(phone.next("lost").await["code"], 1000);
    drop(phone);
    let mut again = Client::terminal(&node, &key, "phone-1", json!({})).await;
    again.next("opened").await;
    node.push_number(&key, "phone-1", 99).await;
    assert_eq!(again.numbers(1, true).await, [99], "{}", again.account());
}

#[tokio::test]
async fn many_messages_come_in_order_and_once_although_the_node_is_killed() {
    let mut node = Node::start("").await;
    let key = node.product("demo").await;
    let mut phone = Client::terminal(&node, &key, "phone-1", json!({ "topics": ["news"] })).await;
    phone.next("opened").await;
    let mut received = Vec::new();
    for round in 0..3 {
        for n in 0..150 {
            node.push_topic(&key, "news", round * 1000 + n).await;
        }
        received.extend(phone.numbers(40, false).await);
        node.kill();
        node.boot();
        received.extend(phone.numbers(110, false).await);
    }
    let pushed: Vec<u64> =
        (0..3).flat_map(|round| (0..150).map(move |n| round * 1000 + n)).collect();
    assert_eq!(received, pushed);
}

#[tokio::test]
async fn it_joins_and_leaves_topics() {
    let node = Node::start("[session]\ntopics_max = 3\n").await;
    let key = node.product("demo").await;
    node.push_topic(&key, "news", 1).await;
    let mut phone = Client::terminal(&node, &key, "phone-1", json!({ "topics": ["secret"] })).await;
    let opened = phone.next("opened").await;
    assert_eq!(opened["frame"]["refused"], json!([["secret", 4203]]), "{opened}");

    let joined = phone.ask(json!({ "do": "subscribe", "topic": "news" })).await;
    assert_eq!(
        (&joined["event"], &joined["frame"]["id"]),
        (&json!("subscribed"), &json!(1)),
        "{joined}"
    );
    let alias = joined["frame"]["log"]["l"].clone();
    let again = phone.ask(json!({ "do": "subscribe", "topic": "news" })).await;
    assert_eq!(
        (&again["frame"]["log"]["l"], &again["frame"]["id"]),
        (&alias, &json!(2)),
        "{again}"
    );
    node.push_topic(&key, "news", 2).await;
    assert_eq!(phone.numbers(1, true).await, [2], "a topic is read from its end (I3)");
    phone.next("acknowledged").await;

    let refused = phone.ask(json!({ "do": "subscribe", "topic": "secret" })).await;
    assert_eq!(refused["event"], "error", "{refused}");
    assert_eq!((&refused["frame"]["code"], &refused["frame"]["id"]), (&json!(4203), &json!(3)));
    for topic in ["quiet:1", "quiet:2"] {
        let joined = phone.ask(json!({ "do": "subscribe", "topic": topic })).await;
        assert_eq!(joined["event"], "subscribed", "{joined}");
    }
    let refused = phone.ask(json!({ "do": "subscribe", "topic": "quiet:3" })).await;
    assert_eq!(refused["frame"]["reason"], "too_many_topics", "{refused}");

    let left = phone.ask(json!({ "do": "unsubscribe", "topic": "news" })).await;
    assert_eq!((&left["event"], &left["frame"]["topic"]), (&json!("unsubscribed"), &json!("news")));
    node.push_topic(&key, "news", 3).await;
    node.push_topic(&key, "quiet:1", 4).await;
    assert_eq!(phone.numbers(1, true).await, [4]);
    phone.next("acknowledged").await;
    let joined = phone.ask(json!({ "do": "subscribe", "topic": "news" })).await;
    assert_ne!(joined["frame"]["log"]["l"], alias, "an alias is given once: {joined}");
    node.push_topic(&key, "news", 5).await;
    assert_eq!(phone.numbers(1, true).await, [5], "the end, again: 3 was not for it");
    phone.next("acknowledged").await;

    // The back-end's doing: the same frames without an id; what it removed stays out.
    let members = Some(json!({ "terminals": ["phone-1"] }));
    node.admin("DELETE", &key.path("/topics/news/members"), members.clone()).await;
    let removed = phone.next("unsubscribed").await;
    assert_eq!(
        (&removed["frame"]["topic"], &removed["frame"]["id"]),
        (&json!("news"), &Value::Null)
    );
    let banned = phone.ask(json!({ "do": "subscribe", "topic": "news" })).await;
    assert_eq!(banned["frame"]["reason"], "topic_banned", "{banned}");
    node.admin("PUT", &key.path("/topics/staff/members"), members).await;
    let added = phone.next("subscribed").await;
    assert_eq!(added["frame"]["log"]["log"], "topic:staff", "{added}");
    assert_eq!(added["frame"]["id"], Value::Null, "{added}");
    node.push_topic(&key, "staff", 6).await;
    assert_eq!(phone.numbers(1, true).await, [6]);
}

#[tokio::test]
async fn it_is_told_what_it_missed() {
    // I6: a topic that drops its oldest entries tells whoever had not read them.
    let node = Node::start("[logs]\ntopic_entries_max = 5\n").await;
    let key = node.product("demo").await;
    let mut phone = Client::terminal(&node, &key, "phone-1", json!({ "topics": ["news"] })).await;
    let opened = phone.next("opened").await;
    let logs = opened["frame"]["logs"].as_array().unwrap();
    let before = logs.iter().find(|log| log["log"] == "topic:news").unwrap()["offset"].clone();
    phone.tell(json!({ "do": "leave" })).await;
    phone.next("lost").await;
    let mut last = Vec::new();
    for n in 1..=20 {
        last.push(node.push_topic(&key, "news", n).await);
    }
    phone.tell(json!({ "do": "connect" })).await;
    let gap = phone.next("gap").await;
    assert_eq!((&gap["log"], &gap["frame"]["reason"]), (&json!("topic:news"), &json!("evicted")));
    assert_eq!(gap["frame"]["from"], before, "{gap}");
    let rest = phone.numbers(1, true).await;
    let first = usize::try_from(rest[0]).unwrap();
    assert!(first > 1, "{rest:?}");
    let passed = &last[first - 2]["targets"][0]["position"]["offset"];
    assert_eq!(&gap["frame"]["to"], passed, "delivery goes on right behind the gap");
    let rest = phone.numbers(20 - first, true).await;
    assert_eq!(rest, (first as u64 + 1..=20).collect::<Vec<_>>());
    // It is told once.
    phone.next("acknowledged").await;
    phone.tell(json!({ "do": "drop" })).await;
    phone.next("opened").await;
    node.push_topic(&key, "news", 21).await;
    assert_eq!(phone.numbers(1, true).await, [21]);
    assert_eq!(phone.told().iter().filter(|event| event["event"] == "gap").count(), 1);
}

#[tokio::test]
async fn it_is_told_that_the_history_is_another() {
    // I5: after a restore the node has a new lineage, and what the terminal knows is void.
    let mut node = Node::start("").await;
    let key = node.product("demo").await;
    let mut phone = Client::terminal(&node, &key, "phone-1", json!({})).await;
    let opened = phone.next("opened").await;
    let epoch = opened["frame"]["logs"][0]["epoch"].clone();
    node.push_number(&key, "phone-1", 1).await;
    let first = phone.next("message").await;
    phone.next("acknowledged").await;
    assert_eq!(node.stop(), Some(0));
    assert!(node.command(&["store", "restored", "node.toml"]).status.success());
    node.boot();
    let gap = phone.next("gap").await;
    assert_eq!(
        (&gap["log"], &gap["frame"]["reason"]),
        (&json!("terminal"), &json!("epoch")),
        "{gap}"
    );
    assert_eq!((&gap["frame"]["from"], &gap["frame"]["to"]), (&first["o"], &json!(0)), "{gap}");
    assert_ne!(gap["frame"]["epoch"], epoch, "{gap}");
    node.push_number(&key, "phone-1", 2).await;
    assert_eq!(phone.numbers(1, false).await, [2]);
    // The new lineage is the terminal's from now on: no second gap.
    phone.next("acknowledged").await;
    phone.tell(json!({ "do": "drop" })).await;
    phone.next("opened").await;
    node.push_number(&key, "phone-1", 3).await;
    assert_eq!(phone.numbers(1, false).await, [3]);
    let gaps = phone.told().iter().filter(|e| e["event"] == "gap" && e["log"] == "terminal");
    assert_eq!(gaps.count(), 1, "{}", phone.account());
}

#[tokio::test]
async fn what_is_not_acknowledged_comes_again_and_at_last_is_given_up() {
    // I10: two repetitions on a link, the third time-out closes it; four attempts in all.
    let node = Node::start("[session]\nack_timeout_ms = 800\nattempts_max = 4\n").await;
    let key = node.product("demo").await;
    let poison = node.push_number(&key, "phone-1", 1).await;
    let mut phone = Client::terminal(&node, &key, "phone-1", json!({ "hold": true })).await;
    let mut deliveries = 0;
    while deliveries < 3 {
        let message = phone.next("message").await;
        deliveries += 1;
        assert_eq!(
            (&message["d"], &message["again"]),
            (&json!(1), &json!(deliveries > 1)),
            "{message}"
        );
    }
    let closed = phone.next("closed").await;
    assert_eq!(
        (&closed["frame"]["code"], &closed["frame"]["reason"]),
        (&json!(4002), &json!("ack_timeout"))
    );
    assert_eq!(phone.next("lost").await["then"], "reconnect");
    assert_eq!(phone.next("message").await["again"], false, "the fourth attempt, on a new link");
    let behind = node.push_number(&key, "phone-1", 2).await;
    let given_up = async || counts(&node, &key, &poison).await["undeliverable"] == 1;
    wait_until("the message to be given up", given_up).await;
    while phone.next("message").await["d"] != 2 {}
    phone.tell(json!({ "do": "release" })).await;
    let acknowledged = async || counts(&node, &key, &behind).await["acknowledged"] == 1;
    wait_until("the next message to be acknowledged", acknowledged).await;
    let counts = counts(&node, &key, &poison).await;
    assert_eq!((&counts["pending"], &counts["acknowledged"]), (&json!(0), &json!(0)), "{counts}");
}

#[tokio::test]
async fn it_skips_what_it_cannot_handle() {
    let node = Node::start("").await;
    let key = node.product("demo").await;
    let mut phone = Client::terminal(&node, &key, "phone-1", json!({ "hold": true })).await;
    phone.next("opened").await;
    let poison = node.push_number(&key, "phone-1", 1).await;
    let behind = node.push_number(&key, "phone-1", 2).await;
    assert_eq!(phone.numbers(2, true).await, [1, 2]);
    phone.tell(json!({ "do": "skip" })).await;
    phone.tell(json!({ "do": "release" })).await;
    wait_until("both to be settled", async || {
        counts(&node, &key, &poison).await["undeliverable"] == 1
            && counts(&node, &key, &behind).await["acknowledged"] == 1
    })
    .await;
    // Only the first unacknowledged one can be skipped.
    phone.tell(json!({ "do": "hold" })).await;
    node.push_number(&key, "phone-1", 3).await;
    node.push_number(&key, "phone-1", 4).await;
    assert_eq!(phone.next("message").await["d"], 3);
    let second = phone.next("message").await;
    let skip = json!({ "t": "skip", "l": 1, "o": second["o"] });
    phone.tell(json!({ "do": "send", "frame": skip })).await;
    let closed = phone.next("closed").await;
    assert_eq!(closed["frame"]["reason"], "frame_unexpected", "{closed}");
    assert_eq!(phone.next("lost").await["code"], 4207);
}

#[tokio::test]
async fn ttl_0_reaches_only_who_is_there() {
    let node = Node::start("").await;
    let key = node.product("demo").await;
    let push = |n: u64| json!({ "audience": { "terminals": ["phone-1"] }, "payload": n, "ttl": 0 });
    let accepted = node.push(&key, push(1)).await;
    assert_eq!(accepted["targets"][0]["position"], Value::Null, "{accepted}");
    let mut phone = Client::terminal(&node, &key, "phone-1", json!({ "topics": ["news"] })).await;
    phone.next("opened").await;
    node.push_number(&key, "phone-1", 2).await;
    phone.next("acknowledged").await;
    node.push(&key, push(3)).await;
    let told: Vec<&Value> =
        phone.told().iter().filter(|event| event["event"] == "message").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let message = phone.next("message").await;
    assert_eq!((&message["d"], &message["o"]), (&json!(3), &Value::Null), "{message}");
    let everybody = json!({ "audience": "all", "payload": 4, "ttl": 0 });
    node.push(&key, everybody).await;
    let topic = json!({ "audience": { "topic": "news" }, "payload": 5, "ttl": 0 });
    node.push(&key, topic).await;
    let mut numbers = phone.numbers(2, true).await;
    numbers.sort_unstable();
    assert_eq!(numbers, [4, 5]);
    // They are in no log.
    phone.tell(json!({ "do": "drop" })).await;
    phone.next("opened").await;
    node.push_number(&key, "phone-1", 6).await;
    assert_eq!(phone.numbers(1, true).await, [6]);
}
