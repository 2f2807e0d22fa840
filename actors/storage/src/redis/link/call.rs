//! What is asked of a server, and the ticket that says whether it was sent: a call whose time is up
//! before that did certainly not happen, one whose time is up afterwards may have.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use ::redis::Value;
use bytes::BytesMut;
use sha1::{Digest, Sha1};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::resp;
use crate::{StoreError, StoreResult};

/// A Lua script, a named file.
#[derive(Debug)]
pub(crate) struct Script {
    /// The name of its file, for messages.
    pub(crate) name: &'static str,
    source: &'static str,
    sha: OnceLock<String>,
}

impl Script {
    pub(crate) const fn new(name: &'static str, source: &'static str) -> Self {
        Self { name, source, sha: OnceLock::new() }
    }

    pub(super) fn source(&self) -> &'static str {
        self.source
    }

    /// The name the server gives it: SHA-1 in hexadecimal.
    pub(super) fn sha(&self) -> &str {
        self.sha.get_or_init(|| {
            let digest = Sha1::digest(self.source.as_bytes());
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        })
    }
}

/// A script with its keys (all of one tag) and arguments.
#[derive(Debug, Clone)]
pub(crate) struct ScriptCall {
    pub(crate) script: &'static Script,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) args: Vec<Vec<u8>>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// A script.
    Script(ScriptCall),
    /// A plain command: its name and arguments.
    Command(Vec<Vec<u8>>),
    /// Nothing: only the confirmation that everything before is on enough copies (I1).
    Nothing,
}

impl From<ScriptCall> for Request {
    fn from(call: ScriptCall) -> Self {
        Self::Script(call)
    }
}

impl Request {
    /// A plain command from its words.
    pub(crate) fn command<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::Command(words.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// About the bytes it takes on the wire and in the queue.
    pub(super) fn bytes(&self) -> usize {
        let of = |parts: &[Vec<u8>]| parts.iter().map(|part| part.len() + 32).sum::<usize>();
        128 + match self {
            Self::Script(call) => of(&call.keys) + of(&call.args),
            Self::Command(words) => of(words),
            Self::Nothing => 0,
        }
    }

    /// Appends it; nothing for [`Request::Nothing`].
    pub(super) fn encode(&self, out: &mut BytesMut, read_only: bool) {
        match self {
            Self::Script(call) => {
                let name: &[u8] = if read_only { b"EVALSHA_RO" } else { b"EVALSHA" };
                let count = call.keys.len().to_string();
                let mut parts = vec![name, call.script.sha().as_bytes(), count.as_bytes()];
                parts.extend(call.keys.iter().chain(&call.args).map(Vec::as_slice));
                resp::command(out, parts);
            }
            Self::Command(words) => resp::command(out, words.iter().map(Vec::as_slice)),
            Self::Nothing => {}
        }
    }
}

/// What must be true before the caller is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// It is on `replicas_min` replicas.
    Durable,
    /// The master did it.
    Relaxed,
    /// It has no effect.
    Read,
}

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const ABANDONED: u8 = 2;

/// Shared by caller and lane; whoever changes it first decides.
#[derive(Debug, Default)]
pub(super) struct Ticket(AtomicU8);

impl Ticket {
    /// The lane is about to send it. False: the caller has given up, it must not be sent.
    fn send(&self) -> bool {
        self.0.compare_exchange(QUEUED, SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller gives up. True: it is certain never to be sent.
    pub(super) fn abandon(&self) -> bool {
        self.0.compare_exchange(QUEUED, ABANDONED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Bytes that wait for one connection or are under way on it, bounded.
#[derive(Debug)]
pub(super) struct Weight {
    used: AtomicUsize,
    max: usize,
}

impl Weight {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// Room for `bytes`; a call larger than the bound is taken when nothing else is there.
    fn take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let room = |used: usize| {
            let after = used.saturating_add(bytes);
            (used == 0 || after <= self.max).then_some(after)
        };
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, room);
        taken.ok().map(|_| Held { weight: Arc::clone(self), bytes })
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }
}

/// Gives the bytes back when the call is over, however it ends.
#[derive(Debug)]
struct Held {
    weight: Arc<Weight>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.weight.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// A call on its way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) request: Request,
    pub(super) wish: Wish,
    /// Hash slot of its tag: calls of one slot keep their order.
    pub(super) slot: u16,
    /// Nobody waits for it after this.
    pub(super) deadline: Instant,
    pub(super) bytes: usize,
    ticket: Arc<Ticket>,
    reply: oneshot::Sender<StoreResult<Value>>,
    _held: Held,
}

/// The caller's end of a call.
pub(super) struct Waiting {
    pub(super) ticket: Arc<Ticket>,
    pub(super) answer: oneshot::Receiver<StoreResult<Value>>,
}

impl Call {
    /// `None`: too many bytes wait already.
    pub(super) fn new(
        request: Request,
        wish: Wish,
        slot: u16,
        deadline: Instant,
        weight: &Arc<Weight>,
    ) -> Option<(Self, Waiting)> {
        let bytes = request.bytes();
        let held = weight.take(bytes)?;
        let (reply, answer) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let waiting = Waiting { ticket: Arc::clone(&ticket), answer };
        Some((Self { request, wish, slot, deadline, bytes, ticket, reply, _held: held }, waiting))
    }

    /// To be asked right before it is sent; false: the caller has given up.
    pub(super) fn send(&self) -> bool {
        self.ticket.send()
    }

    pub(super) fn answer(self, answer: StoreResult<Value>) {
        // The caller may have gone; then nobody wants it.
        let _ = self.reply.send(answer);
    }

    /// It was sent, and then something went wrong.
    pub(super) fn lost(self, why: &str) {
        let error = match self.wish {
            Wish::Read => StoreError::Unavailable(why.into()),
            Wish::Durable | Wish::Relaxed => StoreError::Unknown(why.into()),
        };
        self.answer(Err(error));
    }

    /// It was not sent.
    pub(super) fn refuse(self, why: &str) {
        self.answer(Err(StoreError::Unavailable(why.into())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SCRIPT: Script = Script::new("one", "return 1");

    #[test]
    fn the_sha_is_what_redis_computes() {
        assert_eq!(SCRIPT.sha(), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }

    #[test]
    fn either_the_lane_sends_or_the_caller_gives_up() {
        let sent = Ticket::default();
        assert!(sent.send() && !sent.abandon());
        let abandoned = Ticket::default();
        assert!(abandoned.abandon() && !abandoned.send());
    }

    #[test]
    fn bytes_in_the_queue_are_bounded_and_given_back() {
        let weight = Weight::new(1000);
        let request = |bytes: usize| Request::Command(vec![vec![0; bytes - 160]]);
        let call = |bytes| Call::new(request(bytes), Wish::Read, 0, Instant::now(), &weight);
        let (first, _) = call(600).unwrap();
        assert_eq!(weight.used(), 600);
        assert!(call(600).is_none());
        drop(first);
        assert_eq!(weight.used(), 0);
        assert!(call(5000).is_some(), "a single large call gets through");
    }
}
