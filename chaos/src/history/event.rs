//! The events of a history. `README.md` has them as a table.

use clarion_protocol::http::{Counts, Target};
use clarion_protocol::{Epoch, LogName, MessageId, Offset};
use serde::{Deserialize, Serialize};

use super::Name;

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

/// What a run is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct About {
    /// [`FORMAT`](super::FORMAT).
    pub format: u32,
    /// What everything random was made from.
    pub seed: u64,
    /// What is done to the world.
    pub scenario: String,
    /// The world that it is done to.
    pub world: String,
    /// The revision of the source.
    pub commit: String,
    /// What the program says of itself.
    pub program: String,
    /// What makes such a run again: the arguments of `clarion-chaos`.
    #[serde(default)]
    pub again: String,
    /// The longest heartbeat that terminals are told, milliseconds.
    pub heartbeat_ms: u64,
    /// How much longer than expected a fault may interrupt, milliseconds: the program was built
    /// without optimisation.
    #[serde(default)]
    pub slack_ms: u64,
    /// Messages of a log that a session may have unacknowledged: so many may come again with a
    /// fault.
    pub window: u32,
}

/// What a process holds at a time. Nothing is known where a field is none: the process is down, is
/// no node, or does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Which.
    pub process: Name,
    /// Resident memory, KiB.
    pub rss_kib: Option<u64>,
    /// Open files and sockets.
    pub fds: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// CPU time since it started, milliseconds.
    pub cpu_ms: Option<u64>,
    /// Links of terminals (nodes).
    pub links: Option<u64>,
    /// Sessions of terminals (nodes).
    pub sessions: Option<u64>,
    /// What waits in memory for other nodes and terminals, bytes (nodes).
    pub queued_bytes: Option<u64>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "snake_case")]
pub enum Event {
    /// First record: what run this is.
    Run(Box<About>),
    /// There is such a component, which a run may break.
    Component {
        /// Its name: `node:node-1`, `link:node-1>node-2`, `redis:0/1`, …
        name: Name,
        /// What it is, for tables: `node:gateway+push+broker`.
        class: Name,
        /// Components that it is made of; none for most.
        parts: Vec<Name>,
    },
    /// There is going to be such a terminal.
    Terminal {
        /// Who.
        who: Name,
        /// Its product.
        product: Name,
        /// The user it belongs to.
        user: Option<String>,
        /// How it receives.
        client: Client,
        /// The topics it joins whenever it connects.
        topics: Vec<String>,
        /// Whether its cursors survive that it leaves.
        keeps_cursors: bool,
        /// Whether its application takes its time for each message, so that after a hold-up it has the
        /// last of them long after they were delivered to it.
        slow: bool,
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
    /// The terminal, or the back-end for it, is about to leave a topic: what it was not given by now
    /// it may never be given.
    Leaving {
        /// Who.
        who: Name,
        /// The topic's log.
        log: LogName,
    },
    /// It has left the topic: pushes made after this are not for it.
    LeftTopic {
        /// Who.
        who: Name,
        /// The topic's log.
        log: LogName,
    },
    /// A push is about to be sent for the first time.
    Invoke {
        /// Its idempotency key, which its payload holds, too.
        key: Name,
        /// The product.
        product: Name,
        /// Whom it is for.
        targets: Vec<Target>,
        /// Of the payload.
        hash: Name,
        /// How long it lives, from its acceptance; as long as it does by default if none. 0: it is
        /// stored nowhere, for terminals that are online.
        ttl_ms: Option<u64>,
        /// The pusher.
        lane: Name,
        /// Whether the pusher repeats it until there is an answer.
        patient: bool,
        /// The node or proxy that is asked first.
        door: Name,
    },
    /// It was answered with 202.
    Accepted {
        /// The push.
        key: Name,
        /// Its id.
        id: MessageId,
        /// Its offset in the log of each target; none where that target was refused, or nothing
        /// was stored (TTL 0). Targets whose outcome is unknown are left out.
        targets: Vec<(Target, Option<Offset>)>,
        /// The node or proxy that answered.
        door: Name,
        /// Whether it says that this push was stored before.
        replayed: bool,
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
        /// The node or proxy that it connected to.
        door: Name,
        /// The node that says it serves it.
        node: Name,
    },
    /// The application of a terminal was given a message.
    Delivered {
        /// Who.
        who: Name,
        /// In which session.
        session: u64,
        /// From which log.
        log: LogName,
        /// Its offset there; none if the push had TTL 0, and so no place in the log.
        offset: Option<Offset>,
        /// Its id.
        id: MessageId,
        /// The key in its payload.
        key: Name,
        /// Of its payload.
        hash: Name,
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
    /// What a terminal knew of its cursors was deleted on purpose while it was away.
    LostCursors {
        /// Who.
        who: Name,
    },
    /// A terminal was told that messages of a log are gone for it (I5, I6).
    ToldGap {
        /// Who.
        who: Name,
        /// In which session.
        session: u64,
        /// The log.
        log: LogName,
        /// Its position until now.
        from: Offset,
        /// Its position from now on.
        to: Offset,
        /// The lineage from now on.
        epoch: Epoch,
        /// Why, as the protocol names it.
        reason: Name,
    },
    /// A terminal was told something that must not happen in such a run, or ended for good.
    Trouble {
        /// Who.
        who: Name,
        /// What.
        what: String,
    },
    /// Something is broken on purpose from now on.
    Fault {
        /// Its number, from 1.
        n: u32,
        /// The component, as in [`Event::Component`].
        component: Name,
        /// What is done to it: `killed`, `hung`, `cut_off`, …
        kind: Name,
        /// How, in words.
        what: String,
        /// What is expected of it, in words.
        expects: String,
        /// Whether it is outside the stated fault model: loss is allowed, if it is told.
        outside_model: bool,
    },
    /// The hand is off again: what was broken was started, woken, connected.
    Mended {
        /// The number of the fault.
        n: u32,
    },
    /// All is whole again after it, as the world says.
    Healed {
        /// The number of the fault.
        n: u32,
    },
    /// A fault that cannot be made here.
    Skipped {
        /// The component.
        component: Name,
        /// What would have been done to it.
        kind: Name,
        /// Why it cannot be.
        why: String,
    },
    /// From here on nothing is broken, and what is measured stands for a run without faults.
    Baseline,
    /// From here on the load is in full swing.
    Steady {
        /// The time from which it was, nanoseconds since the start of the run.
        from: u64,
    },
    /// Another part of the run begins.
    Phase {
        /// Which.
        name: Name,
    },
    /// What a process holds.
    Sample(Box<Sample>),
    /// The machine let nobody run, not even who only looks at the clock, from a time until now.
    Stalled {
        /// Since when, nanoseconds since the start of the run.
        from: u64,
    },
    /// Who used the machine from a time until now.
    Machine {
        /// Since when, nanoseconds since the start of the run.
        from: u64,
        /// Its processors.
        cores: u64,
        /// Processor time of processes that are not of the run, milliseconds.
        others_ms: u64,
        /// What the host of a virtual machine took, milliseconds.
        stolen_ms: u64,
    },
    /// What a process of a node found by its slow head check alone (I12), read before it is killed
    /// and at the end.
    HeadChecked {
        /// Logs that had grown unnoticed.
        found: u64,
    },
    /// The server's counts are asked for from here on (I13): of so many pushes among all those that
    /// were accepted and stored, drawn evenly if not of all.
    Counting {
        /// Pushes that are asked about.
        asked: u64,
        /// Pushes that there are.
        of: u64,
    },
    /// What the server counted for a push, after everything had been waited for.
    Counted {
        /// The push.
        key: Name,
        /// The numbers.
        counts: Counts,
    },
}
