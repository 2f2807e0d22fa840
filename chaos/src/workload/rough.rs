//! Terminals that do not behave. They have a product of their own, which nobody is owed anything
//! of, so nothing of it is recorded: what must not suffer are the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clarion_protocol::terminal::{LINK_PATH, NodeFrame, Open, SUBPROTOCOL_JSON, TerminalFrame};
use clarion_protocol::{Offset, ProductId};
use clarion_sdk::{Backend, Push};
use fastrand::Rng;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::Doors;
use super::plan::{Rough, RoughPlan, State};
use super::teller::Teller;
use crate::Failure;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The only session of a link.
const SESSION: u32 = 1;
/// How long a connection and its session may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The pause of a slow terminal before it reads on.
const SLOW: Duration = Duration::from_millis(500);
/// What is pushed to slow terminals: every so often, so much.
const PUSH_EVERY: Duration = Duration::from_millis(50);
const PUSH_BYTES: usize = 3000;
const PUSH_TTL_S: u64 = 30;
/// How long a silent terminal is content to be ignored.
const SILENCE: Duration = Duration::from_secs(120);
/// The pause of one that was refused, at most, milliseconds.
const PAUSE_MS_MAX: u64 = 200;
/// How long a session of the storm lasts, at most, milliseconds.
const STORM_MS_MAX: u64 = 300;
/// More than a node takes as a frame.
const OVERSIZED_BYTES: usize = 2 << 20;
/// How often the driver is told how it goes.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// One of them.
struct Terminal {
    plan: Arc<RoughPlan>,
    doors: Arc<Doors>,
    product: ProductId,
    token: String,
    attempts: usize,
    connected: Arc<AtomicU64>,
    rng: Rng,
}

/// Runs them until the process ends.
pub(super) async fn run(
    plan: RoughPlan,
    doors: Arc<Doors>,
    teller: Arc<Teller>,
    seed: u64,
) -> Result<(), Failure> {
    let product = ProductId::new(&plan.product.name).map_err(Failure::of("the product"))?;
    let connected = Arc::new(AtomicU64::new(0));
    let (how, plan) = (plan.how, Arc::new(plan));
    let mut tasks = JoinSet::new();
    for (attempts, token) in plan.tokens.iter().enumerate() {
        let terminal = Terminal {
            plan: Arc::clone(&plan),
            doors: Arc::clone(&doors),
            product: product.clone(),
            token: token.clone(),
            attempts,
            connected: Arc::clone(&connected),
            rng: Rng::with_seed(seed ^ (attempts as u64) << 16),
        };
        tasks.spawn(terminal.run());
    }
    if how == Rough::Slow {
        tasks.spawn(push_much(plan, doors));
    }
    let mut turns = interval(TOLD_EVERY);
    loop {
        tokio::select! {
            _ = turns.tick() => {
                teller.state(State::Rough { connected: connected.load(Ordering::Relaxed) });
            }
            Some(ended) = tasks.join_next() => {
                ended.map_err(Failure::of("a rough terminal"))?;
            }
        }
    }
}

/// So that there is something not to be read.
async fn push_much(plan: Arc<RoughPlan>, doors: Arc<Doors>) {
    let product = &plan.product;
    let mut turns = interval(PUSH_EVERY);
    let backend = |url| Backend::builder(url, &product.name, &product.key, &product.secret).build();
    let backends: Vec<_> = doors.http.iter().filter_map(|door| backend(&door.url).ok()).collect();
    for backend in backends.iter().cycle() {
        turns.tick().await;
        let Ok(push) = Push::to_all().bytes("application/octet-stream", &[0; PUSH_BYTES]) else {
            return;
        };
        // How it goes is not what is looked at.
        let _ = backend.push(push.ttl(PUSH_TTL_S)).await;
    }
}

impl Terminal {
    async fn run(mut self) {
        loop {
            // Whatever becomes of it, there is a next time.
            let _ = match self.plan.how {
                Rough::Slow => self.slow().await,
                Rough::Silent => self.silent().await,
                Rough::Malicious => self.malicious().await,
                Rough::Storm => self.storm().await,
            };
            sleep(Duration::from_millis(self.rng.u64(..PAUSE_MS_MAX))).await;
        }
    }

    fn door(&mut self) -> String {
        self.attempts += 1;
        self.doors.terminals(self.attempts).map(|door| door.url.clone()).unwrap_or_default()
    }

    async fn connect(&mut self) -> Result<Socket, tungstenite::Error> {
        let mut request = format!("{}{LINK_PATH}", self.door()).into_client_request()?;
        let offered = HeaderValue::from_static(SUBPROTOCOL_JSON);
        request.headers_mut().insert("Sec-WebSocket-Protocol", offered);
        let connected = timeout(CONNECT, connect_async(request)).await;
        let (socket, _) = connected.map_err(|_| tungstenite::Error::ConnectionClosed)??;
        self.connected.fetch_add(1, Ordering::Relaxed);
        Ok(socket)
    }

    /// A link with an open session.
    async fn open(&mut self) -> Result<Socket, tungstenite::Error> {
        let mut socket = self.connect().await?;
        let open = self.open_frame(self.token.clone());
        socket.send(Message::text(open)).await?;
        let opened = async {
            while let Some(message) = socket.next().await {
                let Message::Text(text) = message? else { continue };
                match NodeFrame::parse(&text) {
                    Ok(NodeFrame::Opened(_)) => return Ok(()),
                    Ok(NodeFrame::Closed { .. }) => break,
                    _ => {}
                }
            }
            Err(tungstenite::Error::ConnectionClosed)
        };
        timeout(CONNECT, opened).await.map_err(|_| tungstenite::Error::ConnectionClosed)??;
        Ok(socket)
    }

    fn open_frame(&self, token: String) -> String {
        let (product, agent) = (self.product.clone(), Some("rough".to_owned()));
        let (cursors, topics) = (Vec::new(), Vec::new());
        TerminalFrame::Open(Open { s: SESSION, product, token, agent, cursors, topics }).to_json()
    }

    async fn slow(&mut self) -> Result<(), tungstenite::Error> {
        let mut socket = self.open().await?;
        while let Some(message) = socket.next().await {
            message?;
            sleep(SLOW).await;
        }
        Ok(())
    }

    async fn silent(&mut self) -> Result<(), tungstenite::Error> {
        match self.rng.u32(..3) {
            0 => {
                let url = self.door();
                let address = url.rsplit("//").next().unwrap_or_default().to_owned();
                let connected = timeout(CONNECT, TcpStream::connect(address)).await;
                let _held = connected.map_err(|_| tungstenite::Error::ConnectionClosed)??;
                self.connected.fetch_add(1, Ordering::Relaxed);
                sleep(SILENCE).await;
            }
            1 => {
                let _held = self.connect().await?;
                sleep(SILENCE).await;
            }
            _ => {
                let mut socket = self.open().await?;
                // It takes what it is given, and answers nothing.
                let _ = timeout(SILENCE, async { while let Some(Ok(_)) = socket.next().await {} })
                    .await;
            }
        }
        Ok(())
    }

    async fn malicious(&mut self) -> Result<(), tungstenite::Error> {
        let above = || {
            let a = vec![(0, Offset(1 << 52)), (1, Offset(u64::MAX >> 12)), (999, Offset(1))];
            TerminalFrame::Ack { s: SESSION, a }.to_json()
        };
        let trick = self.rng.u32(..8);
        if trick == 0 {
            // Not even HTTP.
            let url = self.door();
            let address = url.rsplit("//").next().unwrap_or_default().to_owned();
            let connected = timeout(CONNECT, TcpStream::connect(address)).await;
            let mut stream = connected.map_err(|_| tungstenite::Error::ConnectionClosed)??;
            self.connected.fetch_add(1, Ordering::Relaxed);
            let noise: Vec<u8> = (0..512).map(|_| self.rng.u8(..)).collect();
            stream.write_all(&noise).await?;
            sleep(Duration::from_millis(self.rng.u64(..PAUSE_MS_MAX))).await;
            return Ok(());
        }
        let mut socket = if trick < 3 { self.connect().await? } else { self.open().await? };
        let message = match trick {
            1 => Message::text(self.open_frame("not.a.token".to_owned())),
            2 => Message::text(above()),
            3 => Message::text("{\"t\": \"open\", \"s\": 1, "),
            4 => Message::binary(vec![0xFF; 64]),
            5 => Message::text("x".repeat(OVERSIZED_BYTES)),
            6 => Message::text(self.open_frame(self.token.clone())),
            _ => Message::text(above()),
        };
        socket.send(message).await?;
        // Until it is shown the door.
        let _ = timeout(CONNECT, async { while let Some(Ok(_)) = socket.next().await {} }).await;
        Ok(())
    }

    async fn storm(&mut self) -> Result<(), tungstenite::Error> {
        let socket = self.open().await?;
        sleep(Duration::from_millis(self.rng.u64(..STORM_MS_MAX))).await;
        drop(socket);
        Ok(())
    }
}
