//! Back-ends with OAuth libraries that are not ours, unmodified: they push and read, and whatever
//! was tampered with, replayed, too old or signed by the wrong key is refused with its own code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::{Client, Key, Node};

/// An order for a client; `change` goes over it.
fn order(node: &Node, key: &Key, method: &str, path: &str, change: Value) -> Value {
    let url = node.url(&key.path(path));
    let mut order = json!({ "method": method, "url": url, "key": key.key, "secret": key.secret });
    let fields = order.as_object_mut().unwrap();
    fields.extend(change.as_object().unwrap().clone());
    order
}

fn push_to(terminal: &str, n: u64) -> Value {
    json!({ "audience": { "terminals": [terminal] }, "payload": { "n": n, "text": "grüße + % & =" } })
}

#[track_caller]
fn refused(answer: &Value, status: u16, code: &str) {
    assert_eq!(answer["status"], status, "{answer}");
    assert_eq!(answer["body"]["code"], code, "{answer}");
    assert_eq!(answer["body"]["doc_url"], format!("/docs/codes#{code}"), "{answer}");
}

async fn pushes_and_reads(mut client: Client) {
    let node = Node::start("").await;
    let key = node.product("demo").await;
    let strict =
        node.product_with(json!({ "product": "strict", "allow_sha1_body_hash": false })).await;
    for (key, sha256) in [(&key, false), (&key, true), (&strict, true)] {
        let push = json!({ "body": push_to("phone-1", 1), "sha256": sha256 });
        let answer = client.ask(order(&node, key, "POST", "/messages", push)).await;
        assert_eq!(answer["status"], 202, "{answer}");
        let id = answer["body"]["id"].as_str().unwrap();
        let read = order(&node, key, "GET", &format!("/messages/{id}"), json!({}));
        let state = client.ask(read).await;
        assert_eq!(state["status"], 200, "{state}");
        assert_eq!(state["body"]["id"], id, "{state}");
        assert_eq!(state["body"]["counts"]["audience"], 1, "{state}");
    }
    // Query parameters and names that need encoding are signed alike.
    let members = json!({ "body": { "terminals": ["phone-1", "phone-2"] }, "sha256": true });
    let put = order(&node, &key, "PUT", "/topics/news:a~b@c/members", members);
    assert_eq!(client.ask(put).await["status"], 200);
    let path = "/topics/news:a~b@c/members?limit=1&after=phone-1";
    let page = client.ask(order(&node, &key, "GET", path, json!({}))).await;
    assert_eq!(page["body"]["items"], json!([{ "terminal": "phone-2" }]), "{page}");
    let none = client.ask(order(&node, &key, "GET", "/terminals?user=a%2Bb", json!({}))).await;
    refused(&none, 422, "invalid_field"); // signed well, but `+` is in no name
}

async fn is_refused(mut client: Client) {
    let mut node = Node::start("").await;
    let key = node.product("demo").await;
    let other = node.product("other").await;
    let strict =
        node.product_with(json!({ "product": "strict", "allow_sha1_body_hash": false })).await;
    let push = |change: Value| {
        let mut push = json!({ "body": push_to("phone-1", 1), "sha256": true });
        push.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        push
    };
    let post = |key: &Key, change: Value| order(&node, key, "POST", "/messages", push(change));

    let body = push_to("phone-1", 2).to_string();
    let tampered = post(&key, json!({ "tamper": { "body": body } }));
    refused(&client.ask(tampered).await, 401, "body_hash_mismatch");

    let elsewhere = node.url(&key.path("/topics/news/members"));
    let moved = post(&key, json!({ "tamper": { "url": elsewhere }, "method": "PUT" }));
    refused(&client.ask(moved).await, 401, "signature_invalid");
    let wider = node.url(&key.path("/terminals?limit=1000"));
    let widened = json!({ "tamper": { "url": wider } });
    let widened = order(&node, &key, "GET", "/terminals?limit=1", widened);
    refused(&client.ask(widened).await, 401, "signature_invalid");

    let now_s = support::http::now_s();
    for timestamp in [now_s - 400, now_s + 400] {
        let off = post(&key, json!({ "timestamp": timestamp.to_string() }));
        refused(&client.ask(off).await, 401, "timestamp_refused");
    }
    let unhashed = post(&key, json!({ "unhashed": true }));
    refused(&client.ask(unhashed).await, 401, "body_hash_missing");
    let sha1 = post(&strict, json!({ "sha256": false }));
    refused(&client.ask(sha1).await, 401, "body_hash_method_forbidden");
    let method = post(&key, json!({ "signature_method": "HMAC-SHA1" }));
    refused(&client.ask(method).await, 401, "signature_method_unsupported");
    let secret = post(&key, json!({ "secret": other.secret }));
    refused(&client.ask(secret).await, 401, "signature_invalid");
    let unknown = post(&key, json!({ "key": "nobody" }));
    refused(&client.ask(unknown).await, 401, "key_unknown");
    let foreign = post(&key, json!({ "key": other.key, "secret": other.secret }));
    refused(&client.ask(foreign).await, 401, "key_unknown");

    // A replay, at once and after the node was killed: nonces are as durable as pushes.
    let first = client.ask(post(&key, json!({}))).await;
    assert_eq!(first["status"], 202, "{first}");
    refused(&client.ask(json!({ "again": true })).await, 401, "nonce_replayed");
    node.kill();
    node.boot();
    refused(&client.ask(json!({ "again": true })).await, 401, "nonce_replayed");

    // The key that is revoked; the product's second one goes on.
    let second = node.admin("POST", &key.path("/keys"), None).await;
    let id = &key.key;
    node.admin("DELETE", &key.path(&format!("/keys/{id}")), None).await;
    let post = |change| order(&node, &key, "POST", "/messages", push(change));
    refused(&client.ask(post(json!({}))).await, 401, "key_revoked");
    let second = json!({ "key": second["key"], "secret": second["secret"] });
    let accepted = client.ask(post(second)).await;
    assert_eq!(accepted["status"], 202, "{accepted}");
    // Of all this two pushes were accepted: nothing that was refused is in the inbox.
    let terminal = client.ask(order(&node, &strict, "GET", "/terminals/phone-1", json!({}))).await;
    refused(&terminal, 404, "terminal_unknown");
}

#[tokio::test]
async fn requests_oauthlib_pushes_and_reads() {
    pushes_and_reads(Client::python("oauth_requests.py", &[])).await;
}

#[tokio::test]
async fn oauth_1_0a_pushes_and_reads() {
    pushes_and_reads(Client::javascript("oauth_1_0a.js")).await;
}

#[tokio::test]
async fn what_requests_oauthlib_must_not_do_is_refused_by_code() {
    is_refused(Client::python("oauth_requests.py", &[])).await;
}

#[tokio::test]
async fn what_oauth_1_0a_must_not_do_is_refused_by_code() {
    is_refused(Client::javascript("oauth_1_0a.js")).await;
}

/// The blocks of code of a language in a section of the specification.
fn snippets(section: &str, language: &str) -> Vec<String> {
    let text = support::specification();
    let (_, rest) = text.split_once(section).expect(section);
    let rest = rest.split("\n### ").next().unwrap().split("\n## ").next().unwrap();
    let blocks = rest.split("```").skip(1).step_by(2);
    blocks
        .filter_map(|block| block.strip_prefix(&format!("{language}\n")))
        .map(str::to_owned)
        .collect()
}

async fn run(program: &std::path::Path, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(program);
    if let Some(modules) = std::env::var_os("CLARION_TEST_NODE_MODULES") {
        command.env("NODE_PATH", modules);
    }
    let output = command.args(arguments).kill_on_drop(true).output().await.unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

#[tokio::test]
async fn the_snippets_of_the_specification_work_as_they_are() {
    let node = Node::start("").await;
    let key = node.product("demo").await;
    let fill = |text: &str| text.replace("127.0.0.1:8080", &node.http.to_string());
    let constants = format!("API_KEY = \"{}\"\nAPI_SECRET = \"{}\"\n", key.key, key.secret);

    let python = snippets("### Python: requests-oauthlib", "python");
    assert_eq!(python.len(), 2);
    let (first, second) = (fill(&python[0]), fill(&python[1]));
    let again = first.split("\npush = ").nth(1).unwrap().replace("hello-1", "hello-sha256");
    let script = format!("{constants}{first}\n{second}\npush = {again}");
    let out = run(&support::client::python(), &["-c", &script]).await;
    assert_eq!(out.matches("202 {").count(), 2, "{out}");
    assert_eq!(out.matches("'items'").count(), 2, "{out}");

    let javascript = snippets("### JavaScript: oauth-1.0a", "js");
    let script = format!(
        "var {}{}",
        constants.replace("\nAPI_SECRET", "\nvar API_SECRET"),
        fill(&javascript[0])
    );
    let out = run("node".as_ref(), &["-e", &script]).await;
    assert!(out.contains("status: 202"), "{out}");

    let link = snippets("## Push over WebSocket", "python");
    let script = format!("{constants}{}\nprint(link.recv())\nlink.close()", fill(&link[0]));
    let out = run(&support::client::python(), &["-c", &script]).await;
    assert!(out.contains("welcome"), "{out}");
}
