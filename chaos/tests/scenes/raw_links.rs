//! Links without the SDK, to see what a node tells those that it sends away.

use std::time::Duration;

use clarion_protocol::ProductId;
use clarion_protocol::terminal::{LINK_PATH, NodeFrame, Open, SUBPROTOCOL_JSON, TerminalFrame};
use futures_util::{SinkExt as _, StreamExt as _, future};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::swarm::{DEADLINE, Swarm};

pub type Link = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A `goaway` frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goaway {
    pub after_ms: u64,
    pub to: Vec<String>,
}

/// So many links with an open session at this door.
pub async fn open(swarm: &Swarm, url: &str, count: usize) -> Vec<Link> {
    let mut links = Vec::new();
    for n in 0..count {
        let name = format!("raw{n}");
        let token = swarm.token(&name).await;
        let mut request = format!("{url}{LINK_PATH}").into_client_request().unwrap();
        let offered = HeaderValue::from_static(SUBPROTOCOL_JSON);
        request.headers_mut().insert("Sec-WebSocket-Protocol", offered);
        let (mut link, _) = connect_async(request).await.unwrap();
        let open = TerminalFrame::Open(Open {
            s: 1,
            product: ProductId::new("swarm").unwrap(),
            token,
            agent: None,
            cursors: Vec::new(),
            topics: Vec::new(),
        });
        link.send(Message::text(open.to_json())).await.unwrap();
        let first = timeout(DEADLINE, frame(&mut link)).await.unwrap();
        assert!(matches!(first, NodeFrame::Opened(_)), "{first:?}");
        links.push(link);
    }
    links
}

/// Waits until each is told to leave, and leaves then.
pub async fn sent_away(links: Vec<Link>) -> Vec<Goaway> {
    let told = links.into_iter().map(|mut link| async move {
        loop {
            if let NodeFrame::Goaway { after_ms, to, .. } = frame(&mut link).await {
                sleep(Duration::from_millis(after_ms)).await;
                let _ = link.close(None).await;
                return Goaway { after_ms, to };
            }
        }
    });
    timeout(DEADLINE, future::join_all(told)).await.unwrap()
}

async fn frame(link: &mut Link) -> NodeFrame {
    loop {
        if let Message::Text(text) = link.next().await.unwrap().unwrap() {
            return NodeFrame::parse(&text).unwrap();
        }
    }
}
