//! The byte stream of a link. Whatever is written, by the WebSocket layer (pongs, close) or by the
//! link itself (frames composed in a scratch buffer), goes through one queue, so frames never
//! interleave; the queue holds heap only while the kernel takes nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest recording: a message of the largest size, and control frames around it. (A message
/// may come in any number of empty fragments.)
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// A stream that accepts every write and keeps what the kernel does not take. The link bounds it:
/// it composes nothing and reads nothing while too much is kept.
#[derive(Debug)]
pub struct LinkIo<S> {
    stream: S,
    kept: Vec<u8>,
    sent: usize,
    /// What was read, while it is recorded; empty and unallocated otherwise.
    record: Option<Vec<u8>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> LinkIo<S> {
    /// Wraps a stream before its WebSocket handshake.
    pub const fn new(stream: S) -> Self {
        Self { stream, kept: Vec::new(), sent: 0, record: None }
    }

    /// Records what is read from now on; what is longer than any first message is not kept.
    pub(super) fn record(&mut self) {
        self.record = Some(Vec::new());
    }

    /// Ends the recording.
    pub(super) fn take_record(&mut self) -> Vec<u8> {
        self.record.take().unwrap_or_default()
    }

    /// Bytes that the kernel has not taken.
    pub(crate) const fn kept(&self) -> usize {
        self.kept.len() - self.sent
    }

    /// Writes what is kept; `Ready` when nothing is.
    pub(crate) fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.kept() > 0 {
            match Pin::new(&mut self.stream).poll_write(cx, &self.kept[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.sent += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if !self.kept.is_empty() {
            (self.kept, self.sent) = (Vec::new(), 0);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Writes `bytes`, keeping what the kernel does not take now.
    pub(crate) fn write(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.kept() > 0 {
            let _ = self.poll_kept(cx)?;
        }
        while self.kept() == 0 && !bytes.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => bytes = &bytes[count..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        if !bytes.is_empty() {
            self.kept.drain(..self.sent);
            self.sent = 0;
            self.kept.extend_from_slice(bytes);
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LinkIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(record) = &mut self.record {
            record.extend_from_slice(&buffer.filled()[before..]);
            if record.len() > RECORD_BYTES_MAX {
                self.record = None;
            }
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LinkIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, bytes)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_kept(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Appends the header of an unmasked, final text frame (RFC 6455, section 5.2).
pub(crate) fn text_header(out: &mut Vec<u8>, length: usize) {
    out.push(0x81);
    match length {
        0..=125 => out.push(length as u8),
        126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    };

    #[test]
    fn headers_are_those_of_the_websocket_library() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let frame = Frame::message(vec![b'x'; length], OpCode::Data(Data::Text), true);
            let mut expected = Vec::new();
            frame.format(&mut expected).unwrap();
            let mut ours = Vec::new();
            text_header(&mut ours, length);
            assert_eq!(ours, expected[..expected.len() - length], "length {length}");
        }
    }

    #[tokio::test]
    async fn writes_keep_their_order_when_the_kernel_takes_little_at_a_time() {
        let (near, mut far) = tokio::io::duplex(7);
        let mut io = LinkIo::new(near);
        let expected: Vec<u8> = (0..=255).cycle().take(3000).map(|b: u16| b as u8).collect();
        let sent = expected.clone();
        let writer = async {
            for chunk in sent.chunks(31) {
                std::future::poll_fn(|cx| Poll::Ready(io.write(cx, chunk))).await.unwrap();
            }
            std::future::poll_fn(|cx| io.poll_kept(cx)).await.unwrap();
            assert_eq!((io.kept(), io.kept.capacity()), (0, 0), "an idle link keeps no heap");
        };
        let reader = async {
            let mut got = vec![0; expected.len()];
            tokio::io::AsyncReadExt::read_exact(&mut far, &mut got).await.unwrap();
            assert_eq!(got, expected);
        };
        tokio::join!(writer, reader);
    }
}
