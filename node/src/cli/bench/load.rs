//! A load process: a child of the bench that holds some thousand terminals, so that neither they
//! nor the node run out of file descriptors. It takes one command a line on stdin and answers each
//! with one line on stdout; when stdin ends, so does it.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use clarion_protocol::http::TokenClaims;
use clarion_protocol::terminal::Open;
use clarion_protocol::{KeyId, ProductId, TopicName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::raw::{KIND, Raw};
use super::sdk_terminal;
use super::tally::{Counts, Tally};
use crate::cli::exit::{Exit, Failure};
use crate::cli::token::mint;

/// What terminals are made with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Terminals {
    /// WebSocket URL of the node.
    pub(super) node: String,
    /// The product.
    pub(super) product: ProductId,
    /// The key that signs their tokens, and its secret.
    pub(super) token_key: KeyId,
    /// Its HS256 secret, base64url.
    pub(super) token_secret: String,
    /// Topics each is in.
    pub(super) topics: Vec<TopicName>,
    /// Which client they are.
    pub(super) client: Client,
    /// Terminals that connect at the same time.
    pub(super) concurrency: usize,
}

/// Which client bench terminals are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Client {
    /// The Rust SDK's terminal
    Sdk,
    /// A minimal client of the protocol, lighter than the SDK's
    Raw,
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sdk => "the SDK's client",
            Self::Raw => "a minimal client",
        })
    }
}

/// What the bench asks of a load process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Ask {
    /// Connects terminals with these numbers; answers when all are live or failed.
    Connect { terminals: Terminals, first: u32, count: u32 },
    /// Answers when so many messages were received since the reset, or the time is over.
    Received { messages: u64, timeout_ms: u64 },
    /// The counts now.
    Counts,
    /// Counts from zero; records receipts or not.
    Reset { record: bool },
    /// The receipts recorded so far, which are then forgotten.
    Receipts,
    /// Ends all sessions; answers when they have ended.
    Disconnect,
}

/// What a load process answers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) counts: Counts,
    pub(super) receipts: Vec<(u64, u64)>,
    pub(super) reasons: Vec<String>,
}

/// The claims of terminal number `index`; each has its own user.
pub(super) fn identity(index: u32) -> (String, String) {
    (format!("t{index}"), format!("u{index}"))
}

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
    let mut worker =
        Worker { tally: Arc::default(), stop: watch::Sender::new(false), terminals: JoinSet::new() };
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
                Ok(open) => Raw::connect(&self.terminals.node, self.index, open).await,
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
            exp: crate::cli::token::expiry(Duration::from_secs(24 * 3600)),
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

/// The load processes of a bench.
pub(super) struct Loads {
    processes: Vec<Process>,
}

struct Process {
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

/// Terminals that one process holds at most.
const TERMINALS_PER_PROCESS: u32 = 9000;

/// Longer than everything that a load process is asked to wait for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(900);

impl Loads {
    /// Starts as many processes as `terminals` need.
    pub(super) fn start(terminals: u32) -> Result<Self, Failure> {
        let binary = std::env::current_exe().map_err(|error| Failure::local("own path", error))?;
        let processes = (0..terminals.div_ceil(TERMINALS_PER_PROCESS).max(1))
            .map(|_| Process::start(&binary))
            .collect::<Result<_, _>>()?;
        Ok(Self { processes })
    }

    /// Connects `count` terminals, spread over the processes; fails unless all are live.
    pub(super) async fn connect(&mut self, terminals: &Terminals, count: u32) -> Result<(), Failure> {
        let shares = u32::try_from(self.processes.len()).unwrap_or(1);
        let mut first = 0;
        let mut asks = Vec::new();
        for share in 0..shares {
            let own = count / shares + u32::from(share < count % shares);
            asks.push(Ask::Connect { terminals: terminals.clone(), first, count: own });
            first += own;
        }
        let answers = self.all(asks).await?;
        let live: u64 = answers.iter().map(|answer| answer.counts.live).sum();
        if live == u64::from(count) {
            return Ok(());
        }
        let reasons: Vec<String> =
            answers.into_iter().flat_map(|answer| answer.reasons).take(3).collect();
        Err(Failure::new(
            Exit::Failed,
            format!("{live} of {count} terminals are live: {}", reasons.join("; ")),
        ))
    }

    /// Waits until `messages` were received in all (each process its share), or gives up.
    pub(super) async fn received(
        &mut self,
        messages: u64,
        within: Duration,
    ) -> Result<Counts, Failure> {
        let deadline = Instant::now() + within;
        let shares = u64::try_from(self.processes.len()).unwrap_or(1);
        let mut answers = self.each(|| Ask::Counts).await?;
        loop {
            let counts = sum(&answers);
            if counts.received >= messages || Instant::now() >= deadline {
                return Ok(counts);
            }
            let missing = messages - counts.received;
            // A process that has more than its share waits for nothing but the time-out.
            let timeout_ms = if shares == 1 { 1000 } else { 50 };
            let ask = |own: &Answer| Ask::Received {
                messages: own.counts.received + missing.div_ceil(shares),
                timeout_ms,
            };
            let asks = answers.iter().map(ask).collect();
            answers = self.all(asks).await?;
        }
    }

    /// The counts of all processes together.
    pub(super) async fn counts(&mut self) -> Result<Counts, Failure> {
        Ok(sum(&self.each(|| Ask::Counts).await?))
    }

    /// Counts from zero.
    pub(super) async fn reset(&mut self, record: bool) -> Result<(), Failure> {
        self.each(|| Ask::Reset { record }).await.map(|_| ())
    }

    /// The receipts of all processes.
    pub(super) async fn receipts(&mut self) -> Result<Vec<(u64, u64)>, Failure> {
        let answers = self.each(|| Ask::Receipts).await?;
        Ok(answers.into_iter().flat_map(|answer| answer.receipts).collect())
    }

    /// Ends all sessions.
    pub(super) async fn disconnect(&mut self) -> Result<(), Failure> {
        self.each(|| Ask::Disconnect).await.map(|_| ())
    }

    async fn each(&mut self, ask: impl Fn() -> Ask) -> Result<Vec<Answer>, Failure> {
        let asks = self.processes.iter().map(|_| ask()).collect();
        self.all(asks).await
    }

    async fn all(&mut self, asks: Vec<Ask>) -> Result<Vec<Answer>, Failure> {
        let calls = self.processes.iter_mut().zip(asks).map(|(process, ask)| process.call(ask));
        futures_util::future::try_join_all(calls).await
    }
}

fn sum(answers: &[Answer]) -> Counts {
    answers.iter().fold(Counts::default(), |sum, Answer { counts, .. }| Counts {
        live: sum.live + counts.live,
        received: sum.received + counts.received,
        duplicates: sum.duplicates + counts.duplicates,
        gaps: sum.gaps + counts.gaps,
        broken: sum.broken + counts.broken,
        newest_ns: sum.newest_ns.max(counts.newest_ns),
    })
}

impl Process {
    fn start(binary: &std::path::Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::local("cannot start load", error);
        let mut child = Command::new(binary)
            .args(["bench", "load"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(&error))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(&"no pipes"));
        };
        Ok(Self { _child: child, stdin, stdout: BufReader::new(stdout).lines() })
    }

    async fn call(&mut self, ask: Ask) -> Result<Answer, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::local("load process", error);
        let mut line = serde_json::to_string(&ask).map_err(|error| failed(&error))?;
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).await.map_err(|error| failed(&error))?;
        let answer = timeout_at(Instant::now() + ANSWER_TIMEOUT, self.stdout.next_line())
            .await
            .map_err(|_| failed(&"no answer"))?
            .map_err(|error| failed(&error))?
            .ok_or_else(|| failed(&"it ended"))?;
        serde_json::from_str(&answer).map_err(|error| failed(&error))
    }
}
