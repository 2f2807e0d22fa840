//! The HTTP API as clients see it, byte by byte, over a store in memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::large_futures)]

#[allow(dead_code)]
mod http_support;

use clarion_protocol::Code;
use clarion_protocol::http::ApiKeyInfo;
use clarion_storage::memory::AppendFault;
use http_support::{Key, Node, Request, nonce};
use serde_json::{Value, json};

const PUSH: &str = r#"{"audience":{"terminals":["t1"]},"payload":{"hello":"world"}}"#;

#[tokio::test]
async fn a_signed_push_is_accepted_and_its_state_shown() {
    let node = Node::start().await;
    let key = node.demo().await;
    let reply = node.send(node.push(&key, PUSH)).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let accepted = reply.json();
    assert_eq!(accepted["targets"][0]["target"], json!({ "terminal": "t1" }));
    assert!(accepted["targets"][0]["position"]["offset"].as_u64().unwrap() > 0);

    let path = key.path(&format!("/messages/{}", accepted["id"].as_str().unwrap()));
    for reply in [
        node.send(node.signed(&key, "GET", &path, None)).await,
        node.admin("GET", &path, None).await,
    ] {
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.json()["id"], accepted["id"]);
    }
    let other = key.path("/messages/01ARZ3NDEKTSV4RRFFQ69G5FAV");
    node.send(node.signed(&key, "GET", &other, None)).await.refuses(Code::MessageUnknown);
    let malformed = key.path("/messages/17");
    node.send(node.signed(&key, "GET", &malformed, None)).await.refuses(Code::InvalidField);
}

#[tokio::test]
async fn each_refusal_of_a_signature_has_its_own_code() {
    let node = Node::start().await;
    let key = node.demo().await;
    let other = node.product(json!({ "product": "other" })).await;
    let path = key.messages();
    let push =
        |signature: &str| Request::new("POST", &path).header("authorization", signature).json(PUSH);
    let good = || node.signature(&key, "POST", &path, Some(PUSH));

    let tampered = push(&good()).body(&PUSH.replace("world", "wOrld"));
    node.send(tampered).await.refuses(Code::BodyHashMismatch);
    let elsewhere = key.path("/messages?x=1");
    let moved = Request::new("POST", &elsewhere).header("authorization", &good()).json(PUSH);
    node.send(moved).await.refuses(Code::SignatureInvalid);
    let unsigned_body = node.signature(&key, "POST", &path, None);
    node.send(push(&unsigned_body)).await.refuses(Code::BodyHashMissing);

    for timestamp in [node.now_s() - 310, node.now_s() + 310] {
        let old = node.signature_with(&key, "POST", &path, Some(PUSH), &nonce(), timestamp);
        node.send(push(&old)).await.refuses(Code::TimestampRefused);
    }

    let wrong = Key { secret: other.secret.clone(), ..key.clone() };
    let forged = node.signature(&wrong, "POST", &path, Some(PUSH));
    node.send(push(&forged)).await.refuses(Code::SignatureInvalid);
    let foreign = node.signature(&other, "POST", &path, Some(PUSH));
    node.send(push(&foreign)).await.refuses(Code::KeyUnknown);
    let stranger = Key { key: "nobody".into(), ..key.clone() };
    let unknown = node.signature(&stranger, "POST", &path, Some(PUSH));
    node.send(push(&unknown)).await.refuses(Code::KeyUnknown);
    // Who holds no key learns no names of products.
    let nowhere = Key { product: "nowhere".into(), ..key.clone() };
    node.send(node.push(&nowhere, PUSH)).await.refuses(Code::KeyUnknown);

    node.send(push(&good()).without("authorization")).await.refuses(Code::SignatureMissing);
    node.send(push("Basic abc")).await.refuses(Code::SignatureMissing);
    node.send(push("OAuth oauth_nonce=1")).await.refuses(Code::SignatureMalformed);
    let plain = good().replace("HMAC-SHA256", "PLAINTEXT");
    node.send(push(&plain)).await.refuses(Code::SignatureMethodUnsupported);
    node.send(push(&good())).await.refuses_nothing();
}

#[tokio::test]
async fn a_nonce_is_used_once_and_only_by_a_request_that_could_be_carried_out() {
    let node = Node::start().await;
    let key = node.demo().await;
    let path = key.messages();
    let signature = node.signature(&key, "POST", &path, Some(PUSH));
    let push = Request::new("POST", &path).header("authorization", &signature).json(PUSH);

    let tampered = push.clone().body(&PUSH.replace("world", "wOrld"));
    node.send(tampered).await.refuses(Code::BodyHashMismatch);
    node.send(push.clone()).await.refuses_nothing();
    node.send(push).await.refuses(Code::NonceReplayed);
}

#[tokio::test]
async fn keys_are_made_and_revoked_while_the_other_goes_on() {
    let node = Node::start().await;
    let first = node.demo().await;
    let made = node.admin("POST", "/v1/products/demo/keys", None).await;
    assert_eq!(made.status, 201, "{made:?}");
    let info: ApiKeyInfo = serde_json::from_str(&made.body).unwrap();
    let second = Key::of("demo", &info);
    node.admin("POST", "/v1/products/demo/keys", None).await.refuses(Code::TooManyKeys);
    node.send(node.push(&first, PUSH)).await.refuses_nothing();
    node.send(node.push(&second, PUSH)).await.refuses_nothing();

    let revoke = format!("/v1/products/demo/keys/{}", first.key);
    for _ in 0..2 {
        let revoked = node.admin("DELETE", &revoke, None).await;
        assert_eq!((revoked.status, revoked.body.as_str()), (204, ""));
    }
    node.send(node.push(&first, PUSH)).await.refuses(Code::KeyRevoked);
    node.send(node.push(&second, PUSH)).await.refuses_nothing();
    node.admin("DELETE", "/v1/products/demo/keys/none", None).await.refuses(Code::NotFound);
    node.admin("POST", "/v1/products/nowhere/keys", None).await.refuses(Code::ProductUnknown);
    let shown = node.admin("GET", "/v1/products/demo", None).await;
    assert!(!shown.body.contains("secret"), "{shown:?}");
    assert_eq!(shown.json()["api_keys"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_sha_1_body_hash_is_accepted_unless_the_product_forbids_it() {
    // What oauthlib sends for the body `{}`: base64 of its SHA-1.
    const BODY: &str = "{}";
    const SHA1: &str = "vyGp6PvFo4RvsFtPoIWeCReyIC8=";
    let node = Node::start().await;
    let lax = node.demo().await;
    let strict = json!({ "product": "strict", "allow_sha1_body_hash": false });
    let strict = node.product(strict).await;
    for (key, expected) in [(&lax, Code::InvalidField), (&strict, Code::BodyHashMethodForbidden)] {
        let signature = sign_with_body_hash(&node, key, SHA1);
        let request = Request::new("POST", &key.messages());
        let request = request.header("authorization", &signature).json(BODY);
        // `{}` is no push, but whoever is told so has been authenticated.
        node.send(request).await.refuses(expected);
    }
}

fn sign_with_body_hash(node: &Node, key: &Key, hash: &str) -> String {
    // The hash is one parameter among the others; the node signs whatever it finds.
    use base64::Engine as _;
    use hmac_free::hmac_sha256;
    let (timestamp, nonce) = (node.now_s().to_string(), nonce());
    let parameters = [
        ("oauth_body_hash", hash),
        ("oauth_consumer_key", &key.key),
        ("oauth_nonce", &nonce),
        ("oauth_signature_method", "HMAC-SHA256"),
        ("oauth_timestamp", &timestamp),
    ];
    let url = node.url(&key.messages());
    let base = clarion_protocol::oauth::signature_base_string("POST", &url, parameters);
    let mac = hmac_sha256(format!("{}&", key.secret).as_bytes(), base.as_bytes());
    let signature = base64::engine::general_purpose::STANDARD.encode(mac);
    let encode = |text: &str| text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let mut header = format!("OAuth oauth_signature=\"{}\"", encode(&signature));
    for (name, value) in parameters {
        header += &format!(", {name}=\"{}\"", encode(value));
    }
    header
}

/// RFC 2104 in ten lines: the test's own, so that it signs without the code under test.
mod hmac_free {
    use sha2::{Digest as _, Sha256};

    pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
        assert!(key.len() <= 64);
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        let pad = |with: u8| block.map(|byte| byte ^ with);
        let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
        Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
    }
}

#[tokio::test]
async fn credentials_open_what_is_theirs_and_nothing_else() {
    let node = Node::start().await;
    let key = node.demo().await;
    node.send(Request::new("GET", "/v1/status")).await.refuses(Code::AdminTokenInvalid);
    let wrong = Request::new("GET", "/v1/status").header("authorization", "Bearer wrong");
    node.send(wrong).await.refuses(Code::AdminTokenInvalid);
    let signed = node.signed(&key, "GET", "/v1/status", None);
    node.send(signed).await.refuses(Code::AdminTokenInvalid);
    let products = node.signed(&key, "GET", "/v1/products/demo", None);
    node.send(products).await.refuses(Code::AdminTokenInvalid);

    let push: Value = serde_json::from_str(PUSH).unwrap();
    node.admin("POST", &key.messages(), Some(push)).await.refuses(Code::Forbidden);
    let terminals = node.admin("GET", "/v1/products/nowhere/terminals", None).await;
    terminals.refuses(Code::ProductUnknown);
    assert_eq!(node.admin("GET", &key.path("/terminals"), None).await.status, 200);
    let status = node.admin("GET", "/v1/status", None).await;
    assert_eq!(status.status, 200, "{status:?}");
    assert_eq!(status.json()["node"], "node-1");
}

#[tokio::test]
async fn the_idempotency_header_repeats_the_key_of_the_body() {
    let node = Node::start().await;
    let key = node.demo().await;
    let body = r#"{"audience":{"terminals":["t1"]},"payload":1,"idempotency_key":"order-7"}"#;
    let with = |header: &str, body: &str| node.push(&key, body).header("idempotency-key", header);
    node.send(with("order-8", body)).await.refuses(Code::IdempotencyHeaderMismatch);
    node.send(with("order-7", PUSH)).await.refuses(Code::IdempotencyHeaderMismatch);

    let first = node.send(with("order-7", body)).await;
    let again = node.send(node.push(&key, body)).await;
    assert_eq!((first.status, again.status), (202, 202), "{first:?} {again:?}");
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.json()["replayed"], true);
    let other = body.replace("\"payload\":1", "\"payload\":2");
    node.send(node.push(&key, &other)).await.refuses(Code::IdempotencyMismatch);
}

#[tokio::test]
async fn what_is_no_push_is_told_what_is_wrong() {
    let node = Node::with(|config| config.limits.body_bytes_max = 4096).await;
    let key = node.demo().await;
    for (body, code, hint) in [
        ("{", Code::BadRequest, "line 1"),
        (r#"{"payload":1}"#, Code::InvalidField, "audience"),
        (r#"{"audience":"all","payload":1,"ttll":1}"#, Code::InvalidField, "ttll"),
        (r#"{"audience":"all"}"#, Code::InvalidField, "payload"),
        (r#"{"audience":{"terminals":["a b"]},"payload":1}"#, Code::InvalidField, "terminals"),
        (r#"{"audience":"all","payload":1,"ttl":99999999}"#, Code::InvalidField, "ttl"),
    ] {
        let problem = node.send(node.push(&key, body)).await.refuses(code);
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(hint), "{body}: {detail}");
    }
    let many: Vec<String> = (0..101).map(|n| format!("t{n}")).collect();
    let many = json!({ "audience": { "terminals": many }, "payload": 1 }).to_string();
    node.send(node.push(&key, &many)).await.refuses(Code::TooManyTargets);

    let text = node.push(&key, PUSH).without("content-type").header("content-type", "text/plain");
    node.send(text).await.refuses(Code::UnsupportedMediaType);
    let large = format!("\"{}\"", "x".repeat(5000));
    node.send(node.push(&key, &large)).await.refuses(Code::BodyTooLarge);
    let deep = format!(r#"{{"audience":"all","payload":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    let reply = node.send(node.push(&key, &deep)).await;
    assert!(matches!(reply.status, 400 | 422), "{reply:?}");
}

#[tokio::test]
async fn a_payload_above_the_limit_of_payloads_is_refused() {
    let node = Node::start().await;
    let key = node.demo().await;
    let body = json!({ "audience": "all", "payload": "x".repeat(5000) }).to_string();
    node.send(node.push(&key, &body)).await.refuses(Code::PayloadTooLarge);
}

#[tokio::test]
async fn what_fits_no_route_is_a_problem_too() {
    let node = Node::start().await;
    for path in ["/", "/v1", "/v1/products/", "/v1/products/demo/messages/", "/livez/x"] {
        node.send(Request::new("GET", path)).await.refuses(Code::NotFound);
    }
    let reply = node.send(Request::new("PATCH", "/v1/products")).await;
    reply.refuses(Code::MethodNotAllowed);
    let mut allowed: Vec<&str> = reply.header("allow").unwrap().split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    let broken = Request::new("GET", "/v1/products/%ff/terminals");
    node.send(broken).await.refuses(Code::BadRequest);
    let query = node.admin("GET", "/v1/products?befor=x", None).await;
    query.refuses(Code::BadRequest);
}

#[tokio::test]
async fn requests_keep_their_id_and_get_one() {
    let node = Node::start().await;
    let given = Request::new("GET", "/nowhere").header("x-request-id", "checkout/17");
    let problem = node.send(given).await.refuses(Code::NotFound);
    assert_eq!(problem["request_id"], "checkout/17");
    let reply = node.send(Request::new("GET", "/livez")).await;
    assert_eq!(reply.header("x-request-id").unwrap().len(), 16);
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let node = Node::start().await;
    let key = node.demo().await;
    for name in ["a", "b", "c", "d"] {
        node.product(json!({ "product": name })).await;
    }
    let (mut names, mut path) = (Vec::new(), "/v1/products?limit=2".to_owned());
    for pages in 1.. {
        let page = node.admin("GET", &path, None).await.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        names.extend(items.iter().map(|item| item["product"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else {
            assert_eq!(pages, 3);
            break;
        };
        path = format!("/v1/products?limit=2&after={next}");
    }
    assert_eq!(names, ["a", "b", "c", "d", "demo"]);

    let members = key.path("/topics/news/members");
    let terminals: Vec<String> = (0..5).map(|n| format!("t{n}")).collect();
    let put = json!({ "terminals": terminals }).to_string();
    let reply = node.send(node.signed(&key, "PUT", &members, Some(&put))).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.json()["items"].as_array().unwrap().iter().all(|item| item["member"] == true));
    let page = format!("{members}?after=t1&limit=2");
    let page = node.send(node.signed(&key, "GET", &page, None)).await.json();
    assert_eq!(page["items"], json!([{ "terminal": "t2" }, { "terminal": "t3" }]));
    assert_eq!(page["next"], "t3");
    let out = json!({ "terminals": ["t2"] }).to_string();
    let reply = node.send(node.signed(&key, "DELETE", &members, Some(&out))).await;
    assert_eq!(reply.json()["items"][0]["member"], false, "{reply:?}");

    for limit in ["0", "1001", "x"] {
        let path = format!("/v1/products?limit={limit}");
        node.admin("GET", &path, None).await.refuses(Code::InvalidField);
    }
}

#[tokio::test]
async fn terminals_are_shown_and_kicked() {
    let node = Node::start().await;
    let key = node.demo().await;
    let members = key.path("/topics/news/members");
    let put = json!({ "terminals": ["t1"] }).to_string();
    node.send(node.signed(&key, "PUT", &members, Some(&put))).await;
    let shown = node.send(node.signed(&key, "GET", &key.path("/terminals/t1"), None)).await;
    assert_eq!(shown.json()["online"], false, "{shown:?}");
    let kick = node.signed(&key, "POST", &key.path("/terminals/t1/kick"), None);
    let kicked = node.send(kick).await;
    assert_eq!((kicked.status, kicked.json()), (200, json!({ "kicked": false })));
    for (method, path) in [("GET", "/terminals/none"), ("POST", "/terminals/none/kick")] {
        let request = node.signed(&key, method, &key.path(path), None);
        node.send(request).await.refuses(Code::TerminalUnknown);
    }
}

#[tokio::test]
async fn tokens_are_minted_for_products_that_sign_with_a_secret() {
    let node = Node::start().await;
    node.demo().await;
    let body = json!({ "terminal": "t1", "kind": "web", "topics": ["news*"], "ttl_s": 60 });
    let minted = node.admin("POST", "/v1/products/demo/tokens", Some(body)).await;
    assert_eq!(minted.status, 200, "{minted:?}");
    let minted = minted.json();
    assert_eq!(minted["token"].as_str().unwrap().split('.').count(), 3);
    assert!(minted["expires_at_s"].as_u64().unwrap() >= node.now_s() + 50);
    let bad = json!({ "terminal": "t1", "ttl_s": 0 });
    let refused = node.admin("POST", "/v1/products/demo/tokens", Some(bad)).await;
    refused.refuses(Code::InvalidField);
    let nowhere = json!({ "terminal": "t1" });
    let refused = node.admin("POST", "/v1/products/nowhere/tokens", Some(nowhere)).await;
    refused.refuses(Code::ProductUnknown);
    let twice = node.admin("POST", "/v1/products", Some(json!({ "product": "demo" }))).await;
    twice.refuses(Code::ProductExists);
}

#[tokio::test]
async fn a_token_key_is_made_without_a_body_or_named_with_one() {
    let node = Node::start().await;
    node.demo().await;
    let made = node.admin("POST", "/v1/products/demo/token-keys", None).await;
    assert_eq!((made.status, &made.json()["algorithm"]), (201, &json!("HS256")));
    let kid = made.json()["kid"].as_str().unwrap().to_owned();
    let revoked = node.admin("DELETE", &format!("/v1/products/demo/token-keys/{kid}"), None).await;
    assert_eq!(revoked.status, 204, "{revoked:?}");
    let bad = json!({ "token_public_key_pem": "no key" });
    let refused = node.admin("POST", "/v1/products/demo/token-keys", Some(bad)).await;
    refused.refuses(Code::InvalidField);
}

#[tokio::test]
async fn health_metrics_and_documents_are_open() {
    let node = Node::start().await;
    assert_eq!(node.send(Request::new("GET", "/livez")).await.json(), json!({ "alive": true }));
    let ready = node.send(Request::new("GET", "/readyz?door=terminals")).await;
    assert!(ready.json()["doors"]["terminals"]["ready"].is_boolean(), "{ready:?}");
    node.send(Request::new("GET", "/readyz?door=back")).await.refuses(Code::InvalidField);
    let metrics = node.send(Request::new("GET", "/metrics")).await;
    assert_eq!(metrics.body, "clarion_up 1\n");
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain"));
    let codes = node.send(Request::new("GET", "/docs/codes")).await;
    assert!(codes.body.contains("id=\"nonce_replayed\""));
    let document = node.send(Request::new("GET", "/openapi.json")).await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let head = node.connect().await;
    let mut head = head;
    head.write(&Request::new("HEAD", "/livez")).await;
    // The length is that of the body a GET would have; none comes.
    let mut text = vec![0; 4096];
    let read = tokio::io::AsyncReadExt::read(&mut head.0, &mut text).await.unwrap();
    assert!(text[..read].ends_with(b"\r\n\r\n"));
}

#[tokio::test]
async fn a_store_that_is_away_is_told_at_once_as_retryable() {
    let node = Node::start().await;
    let key = node.demo().await;
    node.send(node.push(&key, PUSH)).await.refuses_nothing();
    node.store.set_unavailable(true);
    node.send(node.push(&key, PUSH)).await.refuses(Code::StoreUnavailable);
    node.store.set_unavailable(false);
    node.send(node.push(&key, PUSH)).await.refuses_nothing();
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered() {
    let node = Node::with(|config| config.limits.request_timeout_ms = 200).await;
    let key = node.demo().await;
    let mut connection = node.connect().await;
    let signature = node.signature(&key, "POST", &key.messages(), Some(PUSH));
    let request = Request::new("POST", &key.messages())
        .header("authorization", &signature)
        .header("content-type", "application/json")
        .header("content-length", &PUSH.len().to_string());
    connection.write(&request).await;
    connection.read().await.refuses(Code::RequestTimeout);
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_closes_what_is_idle() {
    let mut node = Node::start().await;
    let key = node.demo().await;
    let mut idle = node.connect().await;
    assert_eq!(idle.send(Request::new("GET", "/livez")).await.status, 200);
    node.store.set_append_fault(AppendFault::Hang);
    let mut busy = node.connect().await;
    busy.write(&node.push(&key, PUSH)).await;
    wait_for_append(&node).await;

    node.shut_down();
    let mut byte = [0];
    let closed = tokio::io::AsyncReadExt::read(&mut idle.0, &mut byte).await;
    assert_eq!(closed.unwrap_or(0), 0, "an idle connection is closed");
    assert!(tokio::net::TcpStream::connect(node.address).await.is_err(), "nothing is accepted");
    node.store.set_append_fault(AppendFault::None);
    busy.read().await.refuses_nothing();
    node.stopped().await;
}

/// A client that gives up gets its answer from the same key at once, not when the claim runs out.
#[tokio::test]
async fn a_push_goes_on_when_its_client_goes_away() {
    // With one place for connections, the next is served once the node has seen the last one end.
    let node = Node::with(|config| config.http.connections_max = 1).await;
    let key = node.demo().await;
    let body = r#"{"audience":{"terminals":["t1"]},"payload":1,"idempotency_key":"k"}"#;
    node.store.set_append_fault(AppendFault::Hang);
    let mut impatient = node.connect().await;
    impatient.write(&node.push(&key, body)).await;
    wait_for_append(&node).await;
    drop(impatient);
    node.send(node.push(&key, body)).await.refuses(Code::IdempotencyInProgress);
    node.store.set_append_fault(AppendFault::None);
    loop {
        let reply = node.send(node.push(&key, body)).await;
        if reply.status == 202 {
            assert_eq!(reply.json()["replayed"], true, "stored once: {reply:?}");
            break;
        }
        reply.refuses(Code::IdempotencyInProgress);
    }
}

/// Waits until the push to `t1` has reached the store.
async fn wait_for_append(node: &Node) {
    use clarion_core::LogKey;
    use clarion_protocol::{Offset, ProductId, TerminalId};
    use clarion_storage::{Read, Store as _};
    let log = LogKey::terminal(&ProductId::new("demo").unwrap(), &TerminalId::new("t1").unwrap());
    loop {
        let read = Read { log: log.clone(), after: Offset::ZERO, entries_max: 1, bytes_max: 1024 };
        if !node.store.read(vec![read]).await[0].as_ref().unwrap().entries.is_empty() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_above_the_limit_wait() {
    let node = Node::with(|config| config.http.connections_max = 1).await;
    let mut first = node.connect().await;
    assert_eq!(first.send(Request::new("GET", "/livez")).await.status, 200);
    let mut second = node.connect().await;
    second.write(&Request::new("GET", "/livez")).await;
    assert_eq!(first.send(Request::new("GET", "/livez")).await.status, 200);
    let mut byte = [0];
    let early = second.0.try_read(&mut byte).map_err(|error| error.kind());
    assert_eq!(early, Err(std::io::ErrorKind::WouldBlock), "the second waits in the kernel");
    drop(first);
    assert_eq!(second.read().await.status, 200);
}

#[tokio::test]
async fn hostile_requests_leave_the_door_open() {
    let node = Node::start().await;
    let long = "x".repeat(100_000);
    for text in [
        "\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}".to_owned(),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"),
        "POST /v1/products HTTP/1.1\r\ncontent-length: -1\r\n\r\n".to_owned(),
        "POST /v1/products HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
            .to_owned(),
    ] {
        use tokio::io::AsyncWriteExt as _;
        let mut connection = node.connect().await;
        // The node may have closed already.
        let _ = connection.0.write_all(text.as_bytes()).await;
        let _ = connection.0.shutdown().await;
    }
    assert_eq!(node.send(Request::new("GET", "/livez")).await.status, 200);
}

trait RefusesNothing {
    fn refuses_nothing(&self);
}

impl RefusesNothing for http_support::Reply {
    #[track_caller]
    fn refuses_nothing(&self) {
        assert_eq!(self.status, 202, "{self:?}");
    }
}
