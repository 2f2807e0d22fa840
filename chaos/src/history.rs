//! What happened, in the order in which it was seen: the only thing that the checker reads.
//!
//! Records are appended under one lock. What a client does is recorded before it does it, what it
//! learns after it learned it, so the order of two records is an order in time: an `accepted` that
//! stands before an `invoke` was answered before that push was made. The field `t` is for people.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clarion_protocol::http::{Counts, Target};
use clarion_protocol::{LogName, MessageId, Offset};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The version of the format.
pub const FORMAT: u32 = 1;

/// A terminal as `PRODUCT/TERMINAL`, or the key of a push.
pub type Name = Arc<str>;

/// An event and when it was recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Milliseconds since the start of the run.
    pub t: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// How a terminal receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Client {
    /// The SDK with cursors in a file.
    Sdk,
    /// The bare protocol; cursors in memory, sent with every `open`.
    RawCursors,
    /// The bare protocol without cursors: the node's count.
    RawPlain,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The terminal closed it and the node confirmed.
    Closed,
    /// The terminal dropped the connection.
    Dropped,
    /// The connection broke, or the node ended it for a reason that asks to come again.
    Broken,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "snake_case")]
pub enum Event {
    /// First record.
    Run {
        /// [`FORMAT`].
        format: u32,
        /// What the run was made from.
        seed: u64,
    },
    /// There is going to be such a terminal.
    Terminal {
        /// Who.
        who: Name,
        /// The user it belongs to.
        user: Option<String>,
        /// How it receives.
        client: Client,
    },
    /// The terminal, or the back-end for it, is about to join a topic.
    Joining {
        /// Who.
        who: Name,
        /// The topic's log.
        log: LogName,
    },
    /// The terminal reads this log from now on: pushes made after this are for it.
    Joined {
        /// Who.
        who: Name,
        /// The log.
        log: LogName,
    },
    /// A push is about to be sent for the first time.
    Invoke {
        /// Its idempotency key, which its payload holds, too.
        key: Name,
        /// The product.
        product: String,
        /// Whom it is for.
        targets: Vec<Target>,
        /// Of the payload.
        hash: String,
    },
    /// It was answered with 202.
    Accepted {
        /// The push.
        key: Name,
        /// Its id.
        id: MessageId,
        /// Its offset in the log of each target; none where that target was refused.
        targets: Vec<(Target, Option<Offset>)>,
    },
    /// It was refused, and was not stored.
    Refused {
        /// The push.
        key: Name,
        /// The reason.
        why: String,
    },
    /// There was no answer: it may have been stored or not.
    Unknown {
        /// The push.
        key: Name,
        /// The reason.
        why: String,
    },
    /// A session of a terminal was opened.
    Opened {
        /// Who.
        who: Name,
        /// Its number, counted by the terminal.
        session: u64,
        /// The node's number for it.
        generation: u64,
        /// The cursors the terminal sent.
        sent: Vec<(LogName, Offset)>,
        /// Where the node starts each log; empty for the SDK, which does not tell.
        positions: Vec<(LogName, Offset)>,
    },
    /// The application of a terminal was given a message.
    Delivered {
        /// Who.
        who: Name,
        /// In which session.
        session: u64,
        /// From which log.
        log: LogName,
        /// Its offset there.
        offset: Offset,
        /// Its id.
        id: MessageId,
        /// The key in its payload.
        key: Name,
        /// Of its payload.
        hash: String,
        /// Whether the node said that it was sent on this link before.
        again: bool,
    },
    /// A terminal on the bare protocol sent an acknowledgement.
    Acknowledged {
        /// Who.
        who: Name,
        /// In which session.
        session: u64,
        /// The log.
        log: LogName,
        /// Up to there.
        offset: Offset,
    },
    /// A session ended.
    Left {
        /// Who.
        who: Name,
        /// Which.
        session: u64,
        /// How.
        how: Ending,
    },
    /// A terminal was told something that must not happen in such a run: a gap, or an end for good.
    Trouble {
        /// Who.
        who: Name,
        /// What.
        what: String,
    },
    /// The node was killed.
    Killed {
        /// The how manieth time.
        n: u32,
    },
    /// Something was broken on purpose: a node, a Redis server, a link between them.
    Fault {
        /// The how manieth time.
        n: u32,
        /// What.
        what: String,
    },
    /// The node said it is ready.
    Ready {
        /// The how manieth start, from 0.
        n: u32,
    },
    /// What this process of the node found by its slow head check alone (I12), read before it is
    /// killed and at the end.
    HeadChecked {
        /// Logs that had grown unnoticed.
        found: u64,
    },
    /// What the node counted for a push, after everything had been waited for.
    Counted {
        /// The push.
        key: Name,
        /// The numbers.
        counts: Counts,
    },
}

/// Collects records, and writes each to a file as one line of JSON.
#[derive(Debug)]
pub struct History {
    started: Instant,
    inner: Mutex<Inner>,
    accepted: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    records: Vec<Record>,
    file: BufWriter<File>,
    error: Option<io::Error>,
}

impl History {
    /// A history that is written to `path`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, seed: u64) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        let inner = Mutex::new(Inner { records: Vec::new(), file, error: None });
        let history = Self { started: Instant::now(), inner, accepted: watch::Sender::new(0) };
        history.add(Event::Run { format: FORMAT, seed });
        Ok(history)
    }

    /// Appends `event`.
    pub fn add(&self, event: Event) {
        let accepted = matches!(event, Event::Accepted { .. });
        {
            let mut inner = self.lock();
            let t = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let record = Record { t, event };
            let written = serde_json::to_writer(&mut inner.file, &record)
                .map_err(io::Error::from)
                .and_then(|()| inner.file.write_all(b"\n"));
            if let Err(error) = written {
                inner.error.get_or_insert(error);
            }
            inner.records.push(record);
        }
        if accepted {
            self.accepted.send_modify(|accepted| *accepted += 1);
        }
    }

    /// How many pushes were accepted, to wait for more.
    #[must_use]
    pub fn accepted(&self) -> watch::Receiver<u64> {
        self.accepted.subscribe()
    }

    /// Looks at the records up to now; nothing is recorded meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&[Record]) -> T) -> T {
        look(&self.lock().records)
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// When this or an earlier write failed.
    pub fn flush(&self) -> io::Result<()> {
        let mut inner = self.lock();
        match inner.error.take() {
            Some(error) => Err(error),
            None => inner.file.flush(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a history that was written before.
///
/// # Errors
/// When the file cannot be read, or a line is no record of this format.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for (index, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let record = serde_json::from_str(&line?)
            .map_err(|error| io::Error::other(format!("line {}: {error}", index + 1)))?;
        if let Record { event: Event::Run { format, .. }, .. } = record
            && format != FORMAT
        {
            return Err(io::Error::other(format!("format {format}, this reads {FORMAT}")));
        }
        records.push(record);
    }
    Ok(records)
}
