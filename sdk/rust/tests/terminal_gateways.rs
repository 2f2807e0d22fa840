//! A terminal that looks for access points itself, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clarion_sdk::backoff::Backoff;
use clarion_sdk::protocol::Code;
use clarion_sdk::protocol::http::{Gateway, Gateways};
use clarion_sdk::protocol::terminal::NodeFrame;
use clarion_sdk::terminal::{Builder, Why};
use clarion_sdk::{Event, Events, Terminal};
use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

/// An HTTP API that lists what the test says.
struct Api {
    address: SocketAddr,
    list: Arc<Mutex<Vec<String>>>,
    asked: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Api {
    async fn listing(urls: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (list, asked) = (Arc::new(Mutex::new(urls.to_vec())), Arc::new(AtomicU64::new(0)));
        let (answers, counts) = (Arc::clone(&list), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                assert!(text.starts_with("GET /v1/gateways?product=demo HTTP/1.1\r\n"), "{text}");
                counts.fetch_add(1, Ordering::SeqCst);
                let urls = answers.lock().await.clone();
                let gateways =
                    urls.into_iter().map(|url| Gateway { url, node: "n".to_owned() }).collect();
                let body = Gateways { gateways, ttl_s: 60 };
                let body = serde_json::to_string(&body).unwrap();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { address, list, asked, task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// From now on connections to it are refused.
    async fn stop(self) -> u64 {
        self.task.abort();
        let _ = self.task.await;
        self.asked.load(Ordering::SeqCst)
    }
}

/// An access point.
struct Door {
    listener: TcpListener,
}

impl Door {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn url(&self) -> String {
        format!("ws://{}", self.listener.local_addr().unwrap())
    }

    async fn session(&self) -> NodeLink {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut link = NodeLink::accept(Box::new(stream)).await;
        let open = link.open().await;
        link.opened(&open, |_| {}).await;
        link
    }

    /// Refuses the next connection for a long while.
    async fn refuse(&self) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let answer = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3600\r\n\
            Content-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn terminal(api: &Api) -> Builder {
    let quick = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(1) };
    Terminal::discovering(&api.url(), "demo", "token").tuning(|tuning| tuning.reconnect = quick)
}

async fn disconnected(events: &mut Events) -> (Why, Duration) {
    until(events, |event| match event {
        Event::Disconnected { why, retry_in } => Some((why, retry_in)),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn the_next_of_the_list_is_tried_and_after_the_last_it_is_asked_for_again() {
    let (a, b, c) = (Door::new().await, Door::new().await, Door::new().await);
    let api = Api::listing(&[a.url(), b.url()]).await;
    let (_handle, mut events) = terminal(&api).connect().await.unwrap();
    drop(a.session().await);
    disconnected(&mut events).await;
    let link = b.session().await;
    assert_eq!(api.asked(), 1, "one list serves until it is used up");
    *api.list.lock().await = vec![c.url()];
    drop(link);
    let mut link = c.session().await;
    assert_eq!(api.asked(), 2);
    link.deliver(TERMINAL, [1]).await;
    assert_eq!(next_message(&mut events).await.offset.unwrap().0, 1);
}

#[tokio::test]
async fn the_pause_that_a_full_node_asks_for_does_not_hold_up_the_next_access_point() {
    let (full, free) = (Door::new().await, Door::new().await);
    let api = Api::listing(&[full.url(), free.url()]).await;
    let (_handle, mut events) = terminal(&api).connect().await.unwrap();
    full.refuse().await;
    let (why, retry_in) = disconnected(&mut events).await;
    assert!(matches!(why, Why::Refused { status: 503, .. }), "{why}");
    assert!(retry_in <= Duration::from_millis(1), "{retry_in:?}");
    free.session().await;
}

#[tokio::test]
async fn the_pause_of_the_last_access_point_is_kept() {
    let full = Door::new().await;
    let api = Api::listing(&[full.url()]).await;
    let (_handle, mut events) = terminal(&api).connect().await.unwrap();
    full.refuse().await;
    let (_, retry_in) = disconnected(&mut events).await;
    assert!(retry_in >= Duration::from_secs(3600), "{retry_in:?}");
}

#[tokio::test]
async fn a_product_that_moved_to_other_nodes_is_looked_for_with_a_new_list() {
    let (a, b, c) = (Door::new().await, Door::new().await, Door::new().await);
    let api = Api::listing(&[a.url(), b.url()]).await;
    let (_handle, mut events) = terminal(&api).connect().await.unwrap();
    let mut link = a.session().await;
    *api.list.lock().await = vec![c.url()];
    let (code, reason) = (Code::WrongGroup.number(), Code::WrongGroup.as_str().to_owned());
    let reconnect = Code::WrongGroup.reconnect();
    link.send(&NodeFrame::Closed { s: 1, code, reason, reconnect, detail: None }).await;
    let (why, _) = disconnected(&mut events).await;
    assert!(matches!(why, Why::Closed { code: 4009, .. }), "{why}");
    c.session().await;
    assert_eq!(api.asked(), 2);
}

#[tokio::test]
async fn goaway_is_followed_to_where_it_points_or_to_a_new_list() {
    let (a, b, c) = (Door::new().await, Door::new().await, Door::new().await);
    let api = Api::listing(&[a.url(), b.url()]).await;
    let (_handle, _events) = terminal(&api).connect().await.unwrap();
    let mut link = a.session().await;
    link.send(&NodeFrame::Goaway { s: 0, after_ms: 1, to: vec![c.url(), a.url()] }).await;
    assert!(link.recv().await.is_none(), "the terminal left");
    let mut link = c.session().await;
    assert_eq!(api.asked(), 1, "the node that drains said where to");
    *api.list.lock().await = vec![b.url()];
    link.send(&NodeFrame::Goaway { s: 0, after_ms: 1, to: vec![] }).await;
    b.session().await;
    assert_eq!(api.asked(), 2, "nobody said where to");
}

#[tokio::test]
async fn with_the_api_away_the_old_list_serves_and_another_api_is_asked() {
    let (a, b) = (Door::new().await, Door::new().await);
    let api = Api::listing(&[a.url()]).await;
    let other = Api::listing(&[b.url()]).await;
    let (_handle, _events) = terminal(&api).gateways_url(&other.url()).connect().await.unwrap();
    let link = a.session().await;
    assert_eq!(api.stop().await, 1);
    drop(link);
    let link = b.session().await;
    assert_eq!(other.stop().await, 1, "the first did not answer");
    drop(link);
    // Nobody answers: the last list begins anew.
    b.session().await;
}

#[tokio::test]
async fn an_empty_list_is_told_and_asked_for_again() {
    let door = Door::new().await;
    let api = Api::listing(&[]).await;
    let (_handle, mut events) = terminal(&api).connect().await.unwrap();
    let (why, _) = disconnected(&mut events).await;
    assert!(matches!(why, Why::Gateways(_)), "{why}");
    *api.list.lock().await = vec![door.url()];
    door.session().await;
}
