//! The first message of a link. It carries a token and is by far the largest that most terminals
//! ever send; the read buffer that the WebSocket layer grows for it would stay with the link for
//! good. So it is read with one WebSocket stream, and the
//! link gets a fresh one that begins with exactly the bytes behind it.

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::io::LinkIo;

/// Answers to pings that may wait for a terminal which has not said anything yet.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Pings that a link may send before its first data message.
const CONTROL_MESSAGES_MAX: usize = 64;

/// Waits for the first data message of a link that was just upgraded, and takes the socket with
/// it. `None`: the link ended before. The caller sets the time-out, and has the socket still when
/// it passes.
pub async fn first_message<S>(
    waiting: &mut Option<WebSocketStream<LinkIo<S>>>,
    config: WebSocketConfig,
) -> Option<(WebSocketStream<LinkIo<S>>, Message)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let socket = waiting.as_mut()?;
    socket.get_mut().record();
    let mut messages = 0;
    let first = loop {
        let message = socket.next().await?.ok()?;
        messages += 1;
        if messages > CONTROL_MESSAGES_MAX {
            return None; // nothing but pings: this is no terminal
        }
        if socket.get_ref().kept() > KEPT_BYTES_MAX {
            return None; // it asks for pongs and does not read them
        }
        match message {
            Message::Ping(_) | Message::Pong(_) => {} // the library answers pings
            Message::Close(_) => return None,
            first => break first,
        }
    };
    // Pongs that are queued would be lost with it; the byte stream below takes them in any case.
    if let Some(flushed) = socket.flush().now_or_never() {
        flushed.ok()?;
    }
    let mut socket = waiting.take()?;
    let record = socket.get_mut().take_record();
    let Some(rest) = behind(&record, messages) else { return Some((socket, first)) };
    let rest = rest.to_vec();
    let io = socket.into_inner();
    let fresh = WebSocketStream::from_partially_read(io, rest, Role::Server, Some(config));
    Some((fresh.now_or_never()?, first))
}

/// What comes behind the first `messages` messages of a byte stream of frames (RFC 6455, section
/// 5.2). `None` if they are not all there, which cannot be: the library has taken them.
fn behind(mut bytes: &[u8], messages: usize) -> Option<&[u8]> {
    let mut seen = 0;
    while seen < messages {
        let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
        let (length, rest) = match second & 0x7F {
            126 => {
                let (length, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk::<8>()?;
                (usize::try_from(u64::from_be_bytes(*length)).ok()?, rest)
            }
            length => (usize::from(length), rest),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        bytes = rest.get(mask..)?.get(length..)?;
        // Control frames and final fragments complete a message.
        let (control, last) = (first & 0x08 != 0, first & 0x80 != 0);
        seen += usize::from(control || last);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    /// Whatever is pipelined behind the first message, and however it is cut, the link gets it.
    #[tokio::test]
    async fn nothing_behind_the_first_message_is_lost() {
        for chunk in [1, 3, 64, 700, 100_000] {
            let (near, far) = tokio::io::duplex(chunk);
            let config = WebSocketConfig::default().read_buffer_size(512);
            let large = format!("\"{}\"", "x".repeat(3000));
            let sent = large.clone();
            let client = async move {
                let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
                let part = |text: &str, code, last| {
                    Message::Frame(Frame::message(text.to_owned(), OpCode::Data(code), last))
                };
                client.feed(Message::Ping(vec![1].into())).await.unwrap();
                client.feed(part(&sent[..1000], Data::Text, false)).await.unwrap();
                client.feed(Message::Ping(vec![2].into())).await.unwrap();
                client.feed(part(&sent[1000..], Data::Continue, true)).await.unwrap();
                for number in 0..20 {
                    client.feed(Message::text(format!("{number}"))).await.unwrap();
                }
                client.flush().await.unwrap();
                client
            };
            let server = async move {
                let io = LinkIo::new(near);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                let mut waiting = Some(socket);
                let (mut socket, first) = first_message(&mut waiting, config).await.unwrap();
                assert_eq!(first.into_text().unwrap().as_str(), large);
                for number in 0..20 {
                    let next = socket.next().await.unwrap().unwrap();
                    assert_eq!(next.into_text().unwrap().as_str(), format!("{number}"));
                }
                // As a link does after each turn.
                std::future::poll_fn(|cx| socket.get_mut().poll_kept(cx)).await.unwrap();
            };
            let drain = async {
                let mut client = client.await;
                for answer in [1, 2] {
                    let pong = client.next().await.unwrap().unwrap();
                    assert_eq!(pong, Message::Pong(vec![answer].into()));
                }
                client // kept open until the node has read everything
            };
            let _ = tokio::join!(drain, server);
        }
    }
}
