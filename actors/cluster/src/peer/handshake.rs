//! Who is at the other end, settled on a fresh socket before ractor sees a byte of it.
//!
//! | step | from | bytes |
//! | --- | --- | --- |
//! | 1 | dialler | magic, length, hello |
//! | 2 | acceptor | the same, or a refusal |
//! | 3 | dialler | proof: HMAC-SHA256 over everything so far |
//! | 4 | acceptor | its proof, or a refusal |
//!
//! A hello names the versions its sender speaks, its cluster, node id, boot, a nonce of 32 bytes, its
//! clock, and (dialler) the node and boot it wants. Both proofs are over both hellos and, with TLS,
//! over what both ends export from that TLS session; they differ by direction, so neither can be
//! sent back as the other. The cookie itself is never sent. What does not depend on the cookie
//! (version, cluster, other boot) is refused with its reason at step 2; whom a node wants is told
//! only to those who have proved the cookie.
//!
//! Who wants nobody (no id, boot 0) only **asks** who is there: the same steps, and no link after
//! them. That is how an operator's check tells a wrong cookie from a wrong address.

use std::sync::Arc;

use subtle::ConstantTimeEq;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::cookie::hmac;
use crate::{BootId, Cookie, NodeIdentity};

const MAGIC: [u8; 8] = *b"clarionP";
const NONCE_BYTES: usize = 32;
/// Most bytes of a hello or a refusal.
const BODY_BYTES_MAX: usize = 1024;
/// Longest name of a node or cluster, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 255;

const HELLO: u8 = 1;
const REFUSAL: u8 = 2;
const PROOF: u8 = 3;

/// Why there is no link with this peer, or not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[repr(u8)]
pub(super) enum Refusal {
    #[error("no common wire version")]
    Wire = 1,
    #[error("it is a node of another cluster")]
    Cluster = 2,
    #[error("another node listens there")]
    OtherNode = 3,
    #[error("the node has been restarted since")]
    OtherBoot = 4,
    #[error("the cookies differ")]
    Cookie = 5,
    #[error("it does not know this node yet")]
    NotWanted = 6,
    #[error("the certificate is not for that node")]
    Certificate = 7,
}

impl Refusal {
    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Wire,
            2 => Self::Cluster,
            3 => Self::OtherNode,
            4 => Self::OtherBoot,
            5 => Self::Cookie,
            6 => Self::NotWanted,
            7 => Self::Certificate,
            _ => return None,
        })
    }
}

/// Why a handshake failed.
#[derive(Debug, Error)]
pub(super) enum HandshakeError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("does not speak this protocol")]
    Protocol,
    /// The peer only asked who is here, and was told.
    #[error("asked who is here")]
    Asked,
    /// This end refused, or the other one did (`told`).
    #[error("refused{}: {refusal}{}", if *told { " by the peer" } else { "" }, DetailText(.detail))]
    Refused { refusal: Refusal, told: bool, detail: String },
}

struct DetailText<'a>(&'a str);

impl std::fmt::Display for DetailText<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            "" => Ok(()),
            detail => write!(formatter, " ({detail})"),
        }
    }
}

/// What this end brings into a handshake.
pub(super) struct Local<'a> {
    pub(super) identity: &'a NodeIdentity,
    pub(super) cluster: &'a str,
    pub(super) wire: (u16, u16),
    pub(super) cookie: &'a Cookie,
    /// This node's clock now, in microseconds.
    pub(super) clock_us: &'a (dyn Fn() -> u64 + Send + Sync),
    /// What both ends export from their TLS session; empty without TLS.
    pub(super) binding: &'a [u8],
}

/// What a handshake has settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) id: Arc<str>,
    pub(super) boot: BootId,
    /// The highest version that both speak.
    pub(super) wire: u16,
    /// The same number at both ends, made of both nonces.
    pub(super) session: u64,
    /// When the peer sent its hello by its clock, and when it was here by ours.
    pub(super) clock: (u64, u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hello {
    wire: (u16, u16),
    cluster: String,
    id: String,
    boot: u64,
    nonce: [u8; NONCE_BYTES],
    clock_us: u64,
    /// Dialler: whom it wants. Acceptor, and who only asks: empty and 0.
    wants: (String, u64),
}

impl Hello {
    fn only_asks(&self) -> bool {
        self.wants.0.is_empty() && self.wants.1 == 0
    }

    fn of(local: &Local<'_>, wants: (&str, BootId)) -> Self {
        Self {
            wire: local.wire,
            cluster: local.cluster.to_owned(),
            id: local.identity.id.to_string(),
            boot: local.identity.boot.0,
            nonce: rand::random(),
            clock_us: (local.clock_us)(),
            wants: (wants.0.to_owned(), wants.1.0),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&self.wire.0.to_le_bytes());
        out.extend_from_slice(&self.wire.1.to_le_bytes());
        out.extend_from_slice(&self.boot.to_le_bytes());
        out.extend_from_slice(&self.clock_us.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.wants.1.to_le_bytes());
        for name in [&self.cluster, &self.id, &self.wants.0] {
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        out
    }

    /// Bytes behind the known ones are left to later releases; they are part of what is proved.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let wire = (u16::from_le_bytes(take(&mut rest)?), u16::from_le_bytes(take(&mut rest)?));
        let boot = u64::from_le_bytes(take(&mut rest)?);
        let clock_us = u64::from_le_bytes(take(&mut rest)?);
        let nonce = take(&mut rest)?;
        let wants_boot = u64::from_le_bytes(take(&mut rest)?);
        let cluster = take_name(&mut rest)?;
        let id = take_name(&mut rest)?;
        let wants = take_name(&mut rest)?;
        Some(Self { wire, cluster, id, boot, nonce, clock_us, wants: (wants, wants_boot) })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_name(rest: &mut &[u8]) -> Option<String> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (name, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    let fits = (length <= NAME_BYTES_MAX).then_some(name)?;
    String::from_utf8(fits.to_vec()).ok()
}

/// The highest version in both ranges.
fn common_wire(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let highest = ours.1.min(theirs.1);
    (highest >= ours.0.max(theirs.0)).then_some(highest)
}

async fn write_part(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    body: &[u8],
) -> Result<Vec<u8>, HandshakeError> {
    let mut part = Vec::with_capacity(MAGIC.len() + 3 + body.len());
    part.extend_from_slice(&MAGIC);
    part.push(kind);
    part.extend_from_slice(&(body.len() as u16).to_le_bytes());
    part.extend_from_slice(body);
    stream.write_all(&part).await?;
    stream.flush().await?;
    Ok(part)
}

/// Reads exactly one part, so that nothing of what follows the handshake is swallowed; a refusal is
/// an error.
async fn read_part(
    stream: &mut (impl AsyncRead + Unpin),
    kind: u8,
) -> Result<(Vec<u8>, usize), HandshakeError> {
    let mut part = vec![0; MAGIC.len() + 3];
    stream.read_exact(&mut part).await?;
    let head = part.len();
    let length = usize::from(u16::from_le_bytes([part[head - 2], part[head - 1]]));
    if part[..MAGIC.len()] != MAGIC || length > BODY_BYTES_MAX {
        return Err(HandshakeError::Protocol);
    }
    part.resize(head + length, 0);
    stream.read_exact(&mut part[head..]).await?;
    let body = &part[head..];
    if part[MAGIC.len()] == REFUSAL {
        let refusal = body.first().copied().and_then(Refusal::from_code);
        let refusal = refusal.ok_or(HandshakeError::Protocol)?;
        // Of a stranger: only what is safe in a log.
        let text = String::from_utf8_lossy(&body[1..]);
        let detail = text.chars().filter(|char| !char.is_control()).take(200).collect();
        return Err(HandshakeError::Refused { refusal, told: true, detail });
    }
    if part[MAGIC.len()] != kind {
        return Err(HandshakeError::Protocol);
    }
    Ok((part, head))
}

/// Tells the peer why, as far as it still listens, and gives the same as an error.
async fn refuse(
    stream: &mut (impl AsyncWrite + Unpin),
    refusal: Refusal,
    detail: String,
) -> HandshakeError {
    let mut body = vec![refusal as u8];
    body.extend_from_slice(detail.as_bytes());
    body.truncate(BODY_BYTES_MAX);
    if let Err(error) = write_part(stream, REFUSAL, &body).await {
        tracing::debug!(%error, "a refusal was not read");
    }
    HandshakeError::Refused { refusal, told: false, detail }
}

fn proof(key: &[u8; 32], label: &[u8], parts: [&[u8]; 3]) -> [u8; 32] {
    let [dialler, acceptor, binding] = parts;
    let lengths = [dialler.len() as u64, acceptor.len() as u64, binding.len() as u64];
    let lengths: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
    hmac(key, &[label, &lengths, dialler, acceptor, binding])
}

fn proof_key(local: &Local<'_>) -> [u8; 32] {
    local.cookie.key(&format!("peer handshake of {}", local.cluster))
}

fn same(ours: &[u8; 32], theirs: &[u8]) -> bool {
    ours[..].ct_eq(theirs).into()
}

fn agreed(key: &[u8; 32], parts: [&[u8]; 3], peer: Hello, wire: u16, here_us: u64) -> Agreed {
    let made = proof(key, b"session", parts);
    let mut session = [0; 8];
    session.copy_from_slice(&made[..8]);
    Agreed {
        id: Arc::from(peer.id),
        boot: BootId(peer.boot),
        wire,
        session: u64::from_le_bytes(session),
        clock: (peer.clock_us, here_us),
    }
}

/// The handshake of the end that dialled `want`.
pub(super) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    local: &Local<'_>,
    want: (&str, BootId),
) -> Result<Agreed, HandshakeError> {
    dial_any(stream, local, Some(want)).await
}

/// Asks who is there; nothing follows.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    local: &Local<'_>,
) -> Result<Agreed, HandshakeError> {
    dial_any(stream, local, None).await
}

async fn dial_any<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    local: &Local<'_>,
    want: Option<(&str, BootId)>,
) -> Result<Agreed, HandshakeError> {
    let hello = Hello::of(local, want.unwrap_or(("", BootId(0))));
    let mine = write_part(stream, HELLO, &hello.encode()).await?;
    let (theirs, head) = read_part(stream, HELLO).await?;
    let here_us = (local.clock_us)();
    let peer = Hello::decode(&theirs[head..]).ok_or(HandshakeError::Protocol)?;
    let wrong = |refusal| HandshakeError::Refused { refusal, told: false, detail: String::new() };
    if want.is_some_and(|(id, _)| peer.id != id) {
        return Err(wrong(Refusal::OtherNode));
    }
    if want.is_some_and(|(_, boot)| peer.boot != boot.0) {
        return Err(wrong(Refusal::OtherBoot));
    }
    let wire = common_wire(local.wire, peer.wire).ok_or_else(|| wrong(Refusal::Wire))?;
    let key = proof_key(local);
    let parts = [&mine[..], &theirs, local.binding];
    write_part(stream, PROOF, &proof(&key, b"dialler", parts)).await?;
    let (answer, head) = read_part(stream, PROOF).await?;
    if !same(&proof(&key, b"acceptor", parts), &answer[head..]) {
        return Err(wrong(Refusal::Cookie));
    }
    Ok(agreed(&key, parts, peer, wire, here_us))
}

/// The handshake of the end that accepted. `certified` judges the id the peer claims by its
/// certificate, `wanted` whether a link with it is wanted now.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    local: &Local<'_>,
    certified: impl Fn(&str) -> bool,
    wanted: impl Fn(&str, BootId) -> bool,
) -> Result<Agreed, HandshakeError> {
    let (theirs, head) = read_part(stream, HELLO).await?;
    let here_us = (local.clock_us)();
    let peer = Hello::decode(&theirs[head..]).ok_or(HandshakeError::Protocol)?;
    if peer.cluster != local.cluster {
        return Err(refuse(stream, Refusal::Cluster, String::new()).await);
    }
    let only_asks = peer.only_asks();
    if !only_asks && peer.wants.0 != *local.identity.id {
        return Err(refuse(stream, Refusal::OtherNode, String::new()).await);
    }
    if !only_asks && peer.wants.1 != local.identity.boot.0 {
        return Err(refuse(stream, Refusal::OtherBoot, String::new()).await);
    }
    let Some(wire) = common_wire(local.wire, peer.wire) else {
        let ((low, high), (their_low, their_high)) = (local.wire, peer.wire);
        let detail = format!("{low} to {high} here, {their_low} to {their_high} there");
        return Err(refuse(stream, Refusal::Wire, detail).await);
    };
    let mine = write_part(stream, HELLO, &Hello::of(local, ("", BootId(0))).encode()).await?;
    let (answer, head) = read_part(stream, PROOF).await?;
    let key = proof_key(local);
    let parts = [&theirs[..], &mine, local.binding];
    if !same(&proof(&key, b"dialler", parts), &answer[head..]) {
        return Err(refuse(stream, Refusal::Cookie, String::new()).await);
    }
    if !certified(&peer.id) {
        return Err(refuse(stream, Refusal::Certificate, String::new()).await);
    }
    if !only_asks && !wanted(&peer.id, BootId(peer.boot)) {
        return Err(refuse(stream, Refusal::NotWanted, String::new()).await);
    }
    write_part(stream, PROOF, &proof(&key, b"acceptor", parts)).await?;
    if only_asks {
        return Err(HandshakeError::Asked);
    }
    Ok(agreed(&key, parts, peer, wire, here_us))
}

#[cfg(test)]
mod tests;
