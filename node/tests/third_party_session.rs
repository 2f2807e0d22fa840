//! How the links and sessions of a terminal on plain `websockets`, written from the specification
//! alone (`clients/terminal.py`), live and end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::json;
use support::http::now_s;
use support::{Client, Node};

#[tokio::test]
async fn it_keeps_its_heart_beating_and_is_dropped_when_it_stops() {
    let node = Node::start(
        "[session]\nheartbeat_min_ms = 1000\nheartbeat_max_ms = 4000\nheartbeat_grace_ms = 1000\n",
    )
    .await;
    let key = node.product("demo").await;
    let mut phones = Vec::new();
    for (name, websocket_pings) in [("phone-1", false), ("phone-2", true)] {
        let options = json!({ "websocket_pings": websocket_pings });
        phones.push(Client::terminal(&node, &key, name, options).await);
    }
    for phone in &mut phones {
        assert_eq!(phone.next("opened").await["frame"]["heartbeat_ms"], 1000);
        // A link that proves stable may be silent for longer, up to the maximum.
        let raised = phone.next("heartbeat").await;
        assert_eq!(raised["frame"], json!({ "t": "heartbeat", "s": 0, "ms": 2000 }));
        assert_eq!(phone.next("heartbeat").await["frame"]["ms"], 4000);
        phone.next("alive").await;
        assert!(phone.told().iter().all(|event| event["event"] != "lost"), "{}", phone.account());
        phone.tell(json!({ "do": "silent" })).await;
    }
    for phone in &mut phones {
        let lost = phone.next("lost").await;
        assert_eq!((&lost["code"], &lost["then"]), (&json!(4001), &json!("reconnect")), "{lost}");
    }
}

#[tokio::test]
async fn the_newest_session_of_a_terminal_lives() {
    // I7
    let node = Node::start("").await;
    let key = node.product("demo").await;
    let mut first = Client::terminal(&node, &key, "phone-1", json!({})).await;
    first.next("opened").await;
    let mut second = Client::terminal(&node, &key, "phone-1", json!({})).await;
    second.next("opened").await;
    let closed = first.next("closed").await;
    assert_eq!(
        (&closed["frame"]["code"], &closed["frame"]["reason"]),
        (&json!(4200), &json!("replaced"))
    );
    assert_eq!(closed["frame"]["reconnect"], false);
    let lost = first.next("lost").await;
    assert_eq!((&lost["code"], &lost["then"]), (&json!(4200), &json!("stay")), "{lost}");
    node.push_number(&key, "phone-1", 1).await;
    assert_eq!(second.numbers(1, true).await, [1]);

    let kicked = node.admin("POST", &key.path("/terminals/phone-1/kick"), None).await;
    assert_eq!(kicked["kicked"], true, "{kicked}");
    assert_eq!(second.next("closed").await["frame"]["code"], 4201);
    let lost = second.next("lost").await;
    assert_eq!((&lost["code"], &lost["then"]), (&json!(4201), &json!("stay")), "{lost}");
}

#[tokio::test]
async fn a_session_lives_as_long_as_its_token() {
    let node = Node::start("").await;
    let key = node.product("demo").await;
    let mint = async |terminal: &str, ttl_s: u64| {
        node.token(&key, json!({ "terminal": terminal, "ttl_s": ttl_s })).await
    };
    let mut phone = Client::terminal_with(&node, &key, &mint("phone-1", 60).await, json!({}));
    let exp = phone.next("opened").await["frame"]["exp"].as_u64().unwrap();
    assert!(exp <= now_s() + 60);
    let longer = mint("phone-1", 600).await;
    let refreshed = phone.ask(json!({ "do": "refresh", "token": longer })).await;
    assert_eq!(refreshed["event"], "refreshed", "{refreshed}");
    assert!(refreshed["frame"]["exp"].as_u64().unwrap() > exp + 300, "{refreshed}");
    // Another identity cannot take over the session.
    let foreign = mint("phone-2", 600).await;
    phone.tell(json!({ "do": "refresh", "token": foreign })).await;
    assert_eq!(phone.next("closed").await["frame"]["reason"], "refresh_mismatch");
    assert_eq!(phone.next("lost").await["code"], 4211);

    let mut short = Client::terminal_with(&node, &key, &mint("phone-3", 4).await, json!({}));
    short.next("opened").await;
    let closed = short.next("closed").await;
    assert_eq!(
        (&closed["frame"]["code"], &closed["frame"]["reconnect"]),
        (&json!(4100), &json!(true))
    );
    assert_eq!(short.next("lost").await["then"], "new_token");
    let token = mint("phone-3", 600).await;
    short.tell(json!({ "do": "connect", "token": token })).await;
    short.next("opened").await;
    let garbage = json!({ "do": "refresh", "token": "not.a.token" });
    short.tell(garbage).await;
    assert_eq!(short.next("lost").await["code"], 4101);
}

#[tokio::test]
async fn a_node_that_drains_says_goodbye() {
    let mut node = Node::start("[node]\ndrain_timeout_ms = 5000\n").await;
    let key = node.product("demo").await;
    let mut phone = Client::terminal(&node, &key, "phone-1", json!({})).await;
    phone.next("opened").await;
    let code = node.stop();
    let goaway = phone.next("goaway").await;
    assert!(goaway["frame"]["after_ms"].as_u64().unwrap() <= 5000, "{goaway}");
    assert_eq!(code, Some(0));
    let lost = phone.next("lost").await;
    assert_eq!(lost["then"], "reconnect", "{lost}");
    node.boot();
    phone.next("opened").await;
}

#[tokio::test]
async fn a_session_can_be_closed_and_the_link_refused() {
    let node = Node::start("").await;
    let key = node.product("demo").await;
    let mut phone = Client::terminal(&node, &key, "phone-1", json!({})).await;
    phone.next("opened").await;
    let closed = phone.ask(json!({ "do": "close" })).await;
    assert_eq!(
        (&closed["event"], &closed["frame"]["code"]),
        (&json!("closed"), &json!(4008)),
        "{closed}"
    );
    let elsewhere = json!({ "url": format!("ws://{}/elsewhere", node.terminals) });
    let mut lost = Client::terminal(&node, &key, "phone-2", elsewhere).await;
    let refused = lost.next("refused").await;
    assert_eq!(
        (&refused["status"], &refused["problem"]["code"]),
        (&json!(404), &json!("not_found"))
    );
}
