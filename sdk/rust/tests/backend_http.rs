//! The back-end's and the administrator's HTTP clients against a scripted responder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clarion_sdk::backend::RequestTuning;
use clarion_sdk::backoff::Backoff;
use clarion_sdk::protocol::http::{ProductCreate, PushRequest};
use clarion_sdk::protocol::{Code, MessageId, Problem, ProductId, TerminalId, TopicName};
use clarion_sdk::transport::Tcp;
use clarion_sdk::{Admin, Backend, Push};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

#[derive(Debug, Clone)]
struct Seen {
    line: String,
    authorization: String,
    body: String,
    at: Instant,
    connection: usize,
}

/// What the responder does with a request.
enum Answer {
    Http(String),
    /// Closes the connection without a word.
    HangUp,
    /// Never answers.
    Silence,
}

struct Responder {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Responder {
    async fn new(script: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(script);
        tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                for connection in 0.. {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                    tokio::spawn(async move { serve(stream, connection, &seen, &*script).await });
                }
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn backend(&self, change: impl FnOnce(&mut RequestTuning)) -> Backend {
        let builder = Backend::builder(&self.url, "demo", "key", "secret");
        builder.tuning(|tuning| tuning.retry = FAST).tuning(change).build().unwrap()
    }
}

const FAST: Backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(4) };

async fn serve(
    stream: TcpStream,
    connection: usize,
    seen: &Mutex<Vec<Seen>>,
    script: &(dyn Fn(usize) -> Answer + Send + Sync),
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let header = |name: &str| {
            head.iter().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        let length = header("content-length").map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(Seen {
                line: head[0].clone(),
                authorization: header("authorization").unwrap_or_default(),
                body: String::from_utf8(body).unwrap(),
                at: Instant::now(),
                connection,
            });
            seen.len() - 1
        };
        match script(number) {
            Answer::Http(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Answer::HangUp => return,
            Answer::Silence => std::future::pending().await,
        }
    }
}

fn answer(status: u16, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Http(format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
}

fn accepted() -> Answer {
    let body = r#"{"id":"0000000000000000000000000A","expires_at_ms":5,"targets":[{"target":{"terminal":"t1"},"position":{"epoch":7,"offset":9}}]}"#;
    answer(202, "Content-Type: application/json\r\n", body)
}

fn problem(code: Code, headers: &str) -> Answer {
    let problem = Problem { retry_after_s: None, ..Problem::new(code, None) };
    answer(problem.status, headers, &serde_json::to_string(&problem).unwrap())
}

fn push() -> Push {
    Push::to_terminal("t1").json(&"hello").unwrap()
}

fn key_of(seen: &Seen) -> String {
    serde_json::from_str::<PushRequest>(&seen.body).unwrap().idempotency_key.unwrap()
}

fn nonce_of(seen: &Seen) -> String {
    let after = seen.authorization.split("oauth_nonce=\"").nth(1).unwrap();
    after.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_push_is_signed_and_its_answer_read() {
    let node = Responder::new(|_| accepted()).await;
    let backend = node.backend(|_| {});
    let push = Push::to_terminals(["t1", "t2"]).json(&serde_json::json!({"b": 1})).unwrap().ttl(60);
    let done = backend.push(push).await.unwrap();
    assert_eq!((done.id, done.targets.len()), (MessageId(10), 1));
    let seen = &node.seen()[0];
    assert_eq!(seen.line, "POST /v1/products/demo/messages HTTP/1.1");
    assert!(seen.authorization.starts_with("OAuth "), "{}", seen.authorization);
    for part in ["oauth_consumer_key=\"key\"", "oauth_body_hash=", "HMAC-SHA256"] {
        assert!(seen.authorization.contains(part), "{part}");
    }
    let start = r#"{"audience":{"terminals":["t1","t2"]},"payload":{"b":1},"ttl":60,"idempotency_key":"sdk-"#;
    assert!(seen.body.starts_with(start), "{}", seen.body);
    assert!(!format!("{backend:?}").contains("secret"));
}

#[tokio::test]
async fn a_retry_has_the_same_key_and_a_new_signature() {
    let node = Responder::new(|n| match n {
        0 => Answer::HangUp,
        1 => problem(Code::StoreUnavailable, ""),
        2 => problem(Code::NonceReplayed, ""),
        3 => answer(502, "", "a proxy's page"),
        4 => Answer::Silence,
        5 => problem(Code::IdempotencyInProgress, ""),
        _ => accepted(),
    })
    .await;
    let backend = node.backend(|tuning| tuning.attempt_timeout = Duration::from_millis(200));
    backend.push(push()).await.unwrap();
    let seen = node.seen();
    assert_eq!(seen.len(), 7);
    let bodies: HashSet<&String> = seen.iter().map(|seen| &seen.body).collect();
    let nonces: HashSet<String> = seen.iter().map(nonce_of).collect();
    assert_eq!((bodies.len(), nonces.len()), (1, 7));
}

#[tokio::test]
async fn every_push_has_a_key_of_its_own_unless_the_application_names_one() {
    let node = Responder::new(|_| accepted()).await;
    let backend = node.backend(|_| {});
    backend.push(push()).await.unwrap();
    backend.push(push()).await.unwrap();
    backend.push(push().idempotency_key("order-1")).await.unwrap();
    let seen = node.seen();
    assert_ne!(key_of(&seen[0]), key_of(&seen[1]));
    assert_eq!(key_of(&seen[2]), "order-1");
    assert!(seen.iter().all(|seen| seen.connection == 0), "the connection is kept");
}

#[tokio::test]
async fn what_cannot_succeed_is_not_repeated() {
    for code in [Code::InvalidField, Code::SignatureInvalid, Code::KeyRevoked, Code::InboxFull] {
        let node = Responder::new(move |_| problem(code, "")).await;
        let error = node.backend(|_| {}).push(push()).await.unwrap_err();
        assert_eq!(node.seen().len(), 1, "{code}");
        assert_eq!(error.code(), Some(code));
        assert_eq!(error.retryable, code == Code::InboxFull);
        assert!(!error.outcome_unknown, "{error}");
    }
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let node = Responder::new(|n| match n {
        0 => problem(Code::RateLimited, "Retry-After: 1\r\n"),
        _ => accepted(),
    })
    .await;
    node.backend(|_| {}).push(push()).await.unwrap();
    let seen = node.seen();
    let waited = seen[1].at - seen[0].at;
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
}

#[tokio::test]
async fn an_attempt_of_ones_own_in_progress_is_asked_about_soon() {
    let node = Responder::new(|n| match n {
        0 => problem(Code::IdempotencyInProgress, "Retry-After: 3600\r\n"),
        _ => accepted(),
    })
    .await;
    node.backend(|_| {}).push(push()).await.unwrap();
    assert_eq!(node.seen().len(), 2);
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    let node = Responder::new(|_| problem(Code::RateLimited, "Retry-After: 3600\r\n")).await;
    let error = node.backend(|_| {}).push(push()).await.unwrap_err();
    assert_eq!((error.attempts, error.retryable, error.outcome_unknown), (1, true, false));
}

#[tokio::test]
async fn an_error_says_what_is_not_known_of_all_attempts() {
    let node = Responder::new(|n| match n {
        0 => Answer::HangUp,
        _ => problem(Code::Overloaded, "Retry-After: 3600\r\n"),
    })
    .await;
    let error = node.backend(|_| {}).push(push()).await.unwrap_err();
    assert_eq!((error.code(), error.attempts), (Some(Code::Overloaded), 2));
    assert!(error.retryable);
    assert!(error.outcome_unknown, "the first attempt may have been stored");
}

#[tokio::test]
async fn the_deadline_ends_the_attempts() {
    let node = Responder::new(|_| problem(Code::Overloaded, "")).await;
    let backend = node.backend(|tuning| tuning.deadline = Duration::from_millis(300));
    let error = backend.push(push()).await.unwrap_err();
    assert!(error.attempts > 1 && error.retryable, "{error}");

    let node = Responder::new(|_| Answer::Silence).await;
    let backend = node.backend(|tuning| tuning.deadline = Duration::from_millis(100));
    let error = backend.push(push()).await.unwrap_err();
    assert_eq!((error.attempts, error.outcome_unknown), (1, true), "{error}");
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_known_not_to_have_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let backend = Backend::builder(&url, "demo", "k", "s")
        .tuning(|tuning| tuning.deadline = Duration::from_millis(50))
        .build()
        .unwrap();
    let error = backend.push(push()).await.unwrap_err();
    assert_eq!((error.retryable, error.outcome_unknown), (true, false), "{error}");
}

#[tokio::test]
async fn an_audience_that_holds_no_identifier_is_refused_here() {
    let error = Push::to_terminals(["fine", "not fine"]).json(&1).unwrap_err();
    assert!(error.to_string().contains("not fine"), "{error}");
    assert!(Push::to_topic("").bytes("text/plain", b"x").is_err());
}

#[tokio::test]
async fn the_other_requests_have_their_paths() {
    let node = Responder::new(|n| match n {
        0 => answer(200, "", r#"{"items":[{"terminal":"a:1"}],"next":"a:1"}"#),
        1 | 2 => answer(200, "", r#"{"items":[{"terminal":"a","member":true}]}"#),
        3 => answer(200, "", r#"{"items":[]}"#),
        4 => answer(200, "", r#"{"kicked":true}"#),
        _ => problem(Code::MessageUnknown, ""),
    })
    .await;
    let backend = node.backend(|_| {});
    let (topic, terminal) = (TopicName::new("news").unwrap(), TerminalId::new("a").unwrap());
    let page = backend.topic_members(&topic, Some("a@0"), Some(1)).await.unwrap();
    assert_eq!(page.next.as_deref(), Some("a:1"));
    assert!(backend.put_members(&topic, vec![terminal.clone()]).await.unwrap()[0].member);
    backend.remove_members(&topic, vec![terminal.clone()]).await.unwrap();
    backend.terminals(Some("u"), None, None).await.unwrap();
    assert!(backend.kick(&terminal).await.unwrap().kicked);
    let unknown = backend.message(MessageId(1)).await.unwrap_err();
    assert_eq!(unknown.code(), Some(Code::MessageUnknown));
    let lines: Vec<String> = node.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(
        lines,
        [
            "GET /v1/products/demo/topics/news/members?after=a%400&limit=1 HTTP/1.1",
            "PUT /v1/products/demo/topics/news/members HTTP/1.1",
            "DELETE /v1/products/demo/topics/news/members HTTP/1.1",
            "GET /v1/products/demo/terminals?user=u HTTP/1.1",
            "POST /v1/products/demo/terminals/a/kick HTTP/1.1",
            "GET /v1/products/demo/messages/00000000000000000000000001 HTTP/1.1",
        ]
    );
}

#[tokio::test]
async fn an_administrator_shows_its_token_and_makes_nothing_twice() {
    let node = Responder::new(|n| match n {
        0 => answer(200, "", r#"{"node":"n1"}"#),
        1 => answer(204, "", ""),
        2 => problem(Code::Overloaded, ""),
        _ => Answer::HangUp,
    })
    .await;
    let tuning = RequestTuning::default();
    let admin = Admin::with(&node.url, "hush", &Tcp::new().unwrap(), tuning).unwrap();
    assert_eq!(admin.status().await.unwrap()["node"], "n1");
    let product = ProductId::new("demo").unwrap();
    let key = clarion_sdk::protocol::KeyId::new("k1").unwrap();
    admin.revoke_key(&product, &key).await.unwrap();
    let create: ProductCreate = serde_json::from_str(r#"{"product":"demo"}"#).unwrap();
    let error = admin.create_product(&create).await.unwrap_err();
    assert!(error.outcome_unknown, "{error}");
    let seen = node.seen();
    assert_eq!(seen.len(), 4, "repeated while that is safe, and not after");
    assert!(seen.iter().all(|seen| seen.authorization == "Bearer hush"));
    assert!(!format!("{admin:?}").contains("hush"));
}
