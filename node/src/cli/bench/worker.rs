//! A load process: a child of the bench that holds some thousand terminals, so that neither they
//! nor the node run out of file descriptors. When stdin ends, so does it.

use std::sync::Arc;
use std::time::Duration;

use clarion_protocol::http::TokenClaims;
use clarion_protocol::terminal::Open;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::load::{Answer, Ask, Client, Terminals, identity};
use super::raw::{KIND, Raw};
use super::sdk_terminal;
use super::tally::Tally;
use crate::cli::exit::Failure;
use crate::cli::token::{expiry, mint};

struct Worker {
    tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    terminals: JoinSet<()>,
}

/// Runs a load process.
pub(super) async fn serve() -> Result<(), Failure> {
    crate::run::raise_descriptor_limit();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut out = tokio::io::stdout();
    let mut worker = Worker {
        tally: Arc::default(),
        stop: watch::Sender::new(false),
        terminals: JoinSet::new(),
    };
    let failed = |error: &dyn std::fmt::Display| Failure::local("load process", error);
    while let Some(line) = lines.next_line().await.map_err(|error| failed(&error))? {
        let ask: Ask = serde_json::from_str(&line).map_err(|error| failed(&error))?;
        let answer = worker.answer(ask).await;
        let mut text = serde_json::to_string(&answer).map_err(|error| failed(&error))?;
        text.push('\n');
        out.write_all(text.as_bytes()).await.map_err(|error| failed(&error))?;
        out.flush().await.map_err(|error| failed(&error))?;
    }
    Ok(())
}

impl Worker {
    async fn answer(&mut self, ask: Ask) -> Answer {
        match ask {
            Ask::Connect { terminals, first, count } => self.connect(terminals, first, count).await,
            Ask::Received { messages, timeout_ms } => {
                let all = self.tally.until(messages, 0..=u64::MAX);
                // Too late is an answer, too: the counts say so.
                let _ = timeout(Duration::from_millis(timeout_ms), all).await;
            }
            Ask::Counts => {}
            Ask::Reset { record } => self.tally.reset(record),
            Ask::Receipts => {
                let receipts = self.tally.take_receipts();
                return Answer { receipts, ..self.now() };
            }
            Ask::Disconnect => {
                self.stop.send_replace(true);
                while self.terminals.join_next().await.is_some() {}
                self.stop.send_replace(false);
            }
        }
        self.now()
    }

    fn now(&self) -> Answer {
        Answer {
            counts: self.tally.counts(),
            receipts: Vec::new(),
            reasons: self.tally.take_reasons(),
        }
    }

    async fn connect(&mut self, terminals: Terminals, first: u32, count: u32) {
        let pace = Arc::new(Semaphore::new(terminals.concurrency.max(1)));
        let terminals = Arc::new(terminals);
        let attempts = watch::Sender::new(0_u32);
        for index in first..first.saturating_add(count) {
            let one = One {
                terminals: terminals.clone(),
                index,
                pace: pace.clone(),
                attempts: attempts.clone(),
                stop: self.stop.subscribe(),
            };
            self.terminals.spawn(one.live(self.tally.clone()));
        }
        let _ = attempts.subscribe().wait_for(|done| *done >= count).await;
    }
}

/// One terminal's life.
struct One {
    terminals: Arc<Terminals>,
    index: u32,
    pace: Arc<Semaphore>,
    attempts: watch::Sender<u32>,
    stop: watch::Receiver<bool>,
}

impl One {
    async fn live(self, tally: Arc<Tally>) {
        let ended = match self.terminals.client {
            Client::Raw => self.raw(&tally).await,
            Client::Sdk => self.sdk(&tally).await,
        };
        if let Err(reason) = ended {
            tally.broken(reason);
        }
    }

    async fn raw(self, tally: &Tally) -> Result<(), String> {
        let connected = {
            let _turn = self.pace.acquire().await.map_err(|error| error.to_string())?;
            match self.open() {
                Ok(open) => Raw::connect(self.terminals.node(self.index), self.index, open).await,
                Err(error) => Err(error),
            }
        };
        if connected.is_ok() {
            tally.live(1);
        }
        self.attempts.send_modify(|done| *done += 1);
        let ended = connected?.receive(tally, self.stop).await;
        tally.live(-1);
        ended
    }

    async fn sdk(self, tally: &Tally) -> Result<(), String> {
        let connected = {
            let _turn = self.pace.acquire().await.map_err(|error| error.to_string())?;
            match self.token() {
                Ok(token) => sdk_terminal::connect(&self.terminals, self.index, token).await,
                Err(error) => Err(error),
            }
        };
        if connected.is_ok() {
            tally.live(1);
        }
        self.attempts.send_modify(|done| *done += 1);
        let ended = sdk_terminal::receive(connected?, tally, self.stop).await;
        tally.live(-1);
        ended
    }

    fn token(&self) -> Result<String, String> {
        let (terminal, user) = identity(self.index);
        let claims = TokenClaims {
            aud: self.terminals.product.to_string(),
            sub: terminal,
            user: Some(user),
            kind: KIND,
            topics: vec!["*".to_owned()],
            exp: expiry(Duration::from_secs(24 * 3600)),
            jti: None,
        };
        mint(&claims, &self.terminals.token_key, &self.terminals.token_secret)
            .map_err(|failure| failure.message)
    }

    fn open(&self) -> Result<Open, String> {
        Ok(Open {
            s: 1,
            product: self.terminals.product.clone(),
            token: self.token()?,
            agent: Some("clarion-bench".to_owned()),
            cursors: Vec::new(),
            topics: self.terminals.topics.clone(),
        })
    }
}
