//! The terminal is killed at every step of its life in turn, and started again: what then is shown
//! of each message is what the cursor store promises.
//!
//! "Killed" means that nothing the process does afterwards reaches anything outside of it: bytes
//! to the node, the cursor store, the application's own data. Each such effect is one step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use async_trait::async_trait;
use clarion_sdk::cursors::{CursorError, CursorStore, Snapshot};
use clarion_sdk::protocol::Offset;
use clarion_sdk::protocol::terminal::TerminalFrame;
use clarion_sdk::transport::BoxedStream;
use clarion_sdk::{Event, FileCursors, TransactionalCursors};
use common::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const MESSAGES: u64 = 6;

/// Counts steps and dies at one of them.
struct Life {
    steps: AtomicU64,
    dies_at: u64,
    dead: AtomicBool,
}

impl Life {
    fn until(dies_at: u64) -> Arc<Self> {
        Arc::new(Self { steps: AtomicU64::new(0), dies_at, dead: AtomicBool::new(false) })
    }

    /// Whether this step still happens.
    fn step(&self) -> bool {
        if self.steps.fetch_add(1, Ordering::SeqCst) >= self.dies_at {
            self.dead.store(true, Ordering::SeqCst);
        }
        !self.is_dead()
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

struct MortalStream {
    stream: BoxedStream,
    life: Arc<Life>,
}

impl AsyncRead for MortalStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.life.is_dead() {
            Poll::Pending
        } else {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        }
    }
}

impl AsyncWrite for MortalStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.life.step() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A store that dies before or after the save.
struct MortalStore<S> {
    store: S,
    life: Arc<Life>,
}

#[async_trait]
impl<S: CursorStore> CursorStore for MortalStore<S> {
    async fn load(&self) -> Result<Snapshot, CursorError> {
        self.store.load().await
    }

    async fn save(&self, snapshot: &Snapshot) -> Result<(), CursorError> {
        if !self.life.step() {
            return pending().await;
        }
        self.store.save(snapshot).await?;
        if self.life.step() { Ok(()) } else { pending().await }
    }
}

/// What the application keeps: how often each message had its effect, and the last token, changed
/// in one transaction.
#[derive(Default)]
struct Database {
    effects: BTreeMap<u64, u32>,
    token: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    None,
    File,
    Transactional,
}

/// A node with a log of messages. What it was told may be lost with it (`forgets`): then the
/// terminal's own cursors are all there is.
async fn serve(node: Arc<FakeNode>, forgets: bool) {
    let mut cursor = 0;
    loop {
        let mut link = node.link().await;
        let Some(TerminalFrame::Open(open)) = link.recv().await else { continue };
        let own = open.cursors.first().map_or(0, |(_, cursor)| cursor.1.0);
        cursor = if forgets { own } else { own.max(cursor) };
        link.opened(&open, |opened| opened.logs[0].offset = Offset(cursor)).await;
        // The same messages travel in two logs: ids have to tell.
        link.deliver(TERMINAL, cursor + 1..=MESSAGES).await;
        let again = (1..=MESSAGES).map(|n| message(100 + n, u128::from(n))).collect();
        link.deliver_messages(NEWS, again).await;
        while let Some(frame) = link.recv().await {
            if let TerminalFrame::Ack { a, .. } = frame {
                let told = a.iter().filter(|(l, _)| *l == TERMINAL).map(|(_, o)| o.0);
                cursor = told.max().unwrap_or(cursor).max(cursor);
            }
        }
    }
}

/// One life of the terminal; ends when it is killed, or everything was handled.
async fn live(
    node: &FakeNode,
    kind: Kind,
    path: &std::path::Path,
    database: &Mutex<Database>,
    life: &Arc<Life>,
) {
    let terminal = node.terminal();
    let terminal = match kind {
        Kind::None => terminal,
        Kind::File => terminal
            .cursor_store(MortalStore { store: FileCursors::new(path), life: Arc::clone(life) }),
        Kind::Transactional => {
            let token = database.lock().unwrap().token.clone();
            terminal.cursor_store(TransactionalCursors::resume(token.as_deref()).unwrap())
        }
    };
    let (handle, mut events) = terminal.connect().await.unwrap();
    let mut idle = 0;
    while !life.is_dead() && idle < 3 {
        let wait = std::time::Duration::from_millis(200);
        let Ok(event) = tokio::time::timeout(wait, events.next()).await else {
            idle += 1;
            continue;
        };
        let Some(Event::Message(message)) = event else { continue };
        if !life.step() {
            break; // Received, not handled.
        }
        {
            let mut database = database.lock().unwrap();
            let number: u64 = u64::try_from(message.id.0).unwrap();
            *database.effects.entry(number).or_default() += 1;
            if kind == Kind::Transactional {
                database.token = Some(message.commit_token());
            }
        }
        if !life.step() {
            break; // Handled, not acknowledged.
        }
        message.ack();
        // Acknowledged; what follows has its steps in the store and in the stream.
        tokio::task::yield_now().await;
    }
    handle.close();
}

async fn kill_at_every_step(kind: Kind, forgets: bool) -> BTreeMap<u32, u32> {
    let mut shown_times: BTreeMap<u32, u32> = BTreeMap::new();
    let mut finished = false;
    let mut dies_at = 0;
    while !finished {
        let current: Arc<Mutex<Arc<Life>>> = Arc::new(Mutex::new(Life::until(dies_at)));
        let node = Arc::new(FakeNode::wrapping({
            let current = Arc::clone(&current);
            move |stream| {
                let life = Arc::clone(&current.lock().unwrap());
                Box::new(MortalStream { stream, life })
            }
        }));
        let serving = tokio::task::spawn(serve(Arc::clone(&node), forgets));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cursors");
        let database = Mutex::new(Database::default());

        let first = Arc::clone(&current.lock().unwrap());
        live(&node, kind, &path, &database, &first).await;
        finished = !first.is_dead();
        first.dead.store(true, Ordering::SeqCst);

        // The second life lasts. The node may still hang on the dead link; it gets a new one.
        serving.abort();
        let second = Life::until(u64::MAX);
        *current.lock().unwrap() = Arc::clone(&second);
        let node = Arc::new(FakeNode::new());
        let serving = tokio::task::spawn(serve(Arc::clone(&node), forgets));
        live(&node, kind, &path, &database, &second).await;
        serving.abort();

        let database = database.into_inner().unwrap();
        for number in 1..=MESSAGES {
            let times = database.effects.get(&number).copied().unwrap_or(0);
            assert!(times >= 1, "message {number} is lost, killed at step {dies_at}");
            *shown_times.entry(times).or_default() += 1;
        }
        dies_at += 1;
    }
    assert!(dies_at > 15, "only {dies_at} steps: the harness does not see them");
    shown_times
}

#[tokio::test(start_paused = true)]
async fn with_a_file_every_message_is_shown_at_least_once_and_again_only_if_it_was_in_the_hand() {
    let times = kill_at_every_step(Kind::File, true).await;
    assert!(times.keys().all(|times| *times <= 2), "{times:?}");
    assert!(times.contains_key(&2), "no kill hit the moment between handling and saving");
}

#[tokio::test(start_paused = true)]
async fn with_a_transactional_store_every_message_counts_exactly_once() {
    for forgets in [true, false] {
        let times = kill_at_every_step(Kind::Transactional, forgets).await;
        assert_eq!(times.keys().collect::<Vec<_>>(), [&1], "{times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_store_every_message_is_shown_at_least_once() {
    let times = kill_at_every_step(Kind::None, true).await;
    assert!(times.contains_key(&2), "{times:?}");
}
