//! The load processes of a bench, and what it says to them: one command a line on their stdin, one
//! answer a line on their stdout. [`worker`](super::worker) is the other end.

use std::process::Stdio;
use std::time::Duration;

use clarion_protocol::{KeyId, ProductId, TopicName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

use super::tally::Counts;
use crate::cli::exit::{Exit, Failure};

/// What terminals are made with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Terminals {
    /// WebSocket URLs of the nodes; terminals take turns.
    pub(super) nodes: Vec<String>,
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

impl Terminals {
    /// The URL of the node that terminal number `index` connects to.
    pub(super) fn node(&self, index: u32) -> &str {
        let turn = usize::try_from(index).unwrap_or(0) % self.nodes.len().max(1);
        self.nodes.get(turn).map_or("", String::as_str)
    }
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

    /// Connects the first `count` terminals, spread over the processes; fails unless all are live.
    pub(super) async fn connect(
        &mut self,
        terminals: &Terminals,
        count: u32,
    ) -> Result<(), Failure> {
        self.connect_from(terminals, 0, count).await
    }

    /// The same, with those from number `first` on.
    pub(super) async fn connect_from(
        &mut self,
        terminals: &Terminals,
        mut first: u32,
        count: u32,
    ) -> Result<(), Failure> {
        let shares = u32::try_from(self.processes.len()).unwrap_or(1);
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
