//! Chitchat's transport: signed datagrams over one UDP socket, which outlives chitchat itself when
//! that is started anew. What is lost, refused or cannot be sent is counted, never an error:
//! gossip repeats itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use tokio::net::UdpSocket;

use super::admit::Known;
use super::datagram::{DATAGRAM_BYTES_MAX, Dropped, MESSAGE_BYTES_MAX, Opener, Sealer};

/// At most one line of log for each kind of refusal in this time.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// Pause after the socket failed, so that a broken one does not spin.
const BROKEN_PAUSE: Duration = Duration::from_millis(100);
const DROPPED: &str = "clarion_cluster_gossip_dropped_total";

/// Milliseconds since 1970 by this node's clock.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The socket and what it takes to be heard on it.
#[derive(Clone)]
pub(super) struct SignedUdp {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) key: [u8; 32],
    pub(super) known: Arc<Mutex<Known>>,
}

#[async_trait]
impl Transport for SignedUdp {
    async fn open(&self, _listen: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(SignedSocket {
            socket: Arc::clone(&self.socket),
            known: Arc::clone(&self.known),
            sealer: Sealer::new(&self.key, rand::random()),
            opener: Opener::new(&self.key),
            message: Vec::new(),
            // One byte more than allowed: what fills it is too long.
            buffer: Box::new([0; DATAGRAM_BYTES_MAX + 1]),
            said: HashMap::new(),
        }))
    }
}

struct SignedSocket {
    socket: Arc<UdpSocket>,
    known: Arc<Mutex<Known>>,
    sealer: Sealer,
    opener: Opener,
    message: Vec<u8>,
    buffer: Box<[u8; DATAGRAM_BYTES_MAX + 1]>,
    /// When each kind of refusal was last logged: as many entries as there are kinds.
    said: HashMap<&'static str, Instant>,
}

#[async_trait]
impl Socket for SignedSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.message.clear();
        message.serialize(&mut self.message);
        let Some(count) = Sealer::parts(&self.message) else {
            metrics::counter!(DROPPED, "reason" => "too_long").increment(1);
            if self.may_say("too_long") {
                tracing::error!(
                    bytes = self.message.len(),
                    bytes_max = MESSAGE_BYTES_MAX,
                    "a gossip message is too long to be sent"
                );
            }
            return Ok(());
        };
        for index in 0..count {
            let datagram = self.sealer.seal(&self.message, index, count, unix_ms());
            if let Err(error) = self.socket.send_to(datagram, to).await {
                metrics::counter!(DROPPED, "reason" => "unsendable").increment(1);
                if self.may_say("unsendable") {
                    tracing::warn!(%to, %error, "gossip cannot be sent");
                }
                return Ok(());
            }
        }
        metrics::counter!("clarion_cluster_gossip_sent_total").increment(1);
        Ok(())
    }

    /// May be dropped while it waits: all state is in `self`.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (length, from) = match self.socket.recv_from(&mut self.buffer[..]).await {
                Ok(received) => received,
                Err(error) => {
                    // An ICMP answer to something sent earlier, mostly.
                    tracing::debug!(%error, "gossip socket");
                    tokio::time::sleep(BROKEN_PAUSE).await;
                    continue;
                }
            };
            match self.opener.open(&self.buffer[..length], unix_ms()) {
                Ok(None) => {}
                Ok(Some(message)) => {
                    if let Some(message) = self.admit(from, &message) {
                        return Ok((from, message));
                    }
                }
                Err(dropped) => self.note(from, dropped),
            }
        }
    }
}

impl SignedSocket {
    fn admit(&mut self, from: SocketAddr, message: &[u8]) -> Option<ChitchatMessage> {
        let admitted = self.known.lock().unwrap_or_else(PoisonError::into_inner).admit(message);
        let label = match admitted {
            Err(unfit) => unfit.label(),
            Ok(()) => match ChitchatMessage::deserialize(&mut &*message) {
                Ok(message) => {
                    metrics::counter!("clarion_cluster_gossip_received_total").increment(1);
                    return Some(message);
                }
                Err(_) => "form",
            },
        };
        metrics::counter!(DROPPED, "reason" => label).increment(1);
        if self.may_say(label) {
            tracing::error!(%from, reason = label, "signed gossip that cannot be taken");
        }
        None
    }

    fn note(&mut self, from: SocketAddr, dropped: Dropped) {
        metrics::counter!(DROPPED, "reason" => dropped.label()).increment(1);
        match dropped {
            Dropped::Foreign | Dropped::Repeated => {}
            Dropped::Unsigned => {
                if self.may_say("unsigned") {
                    tracing::warn!(%from, "gossip with another cookie or cluster name: not heard");
                }
            }
            Dropped::Clock(ahead_ms) => {
                if self.may_say("clock") {
                    tracing::error!(%from, ahead_ms, "gossip not heard: its sender's clock and \
                        ours are too far apart");
                }
            }
        }
    }

    fn may_say(&mut self, what: &'static str) -> bool {
        let fresh = self.said.get(what).is_none_or(|at| at.elapsed() >= SAID_EVERY);
        if fresh {
            self.said.insert(what, Instant::now());
        }
        fresh
    }
}
