//! Sockets between nodes: how they are opened, and how one is taken away from a ractor session that
//! will not let go of it.
//!
//! A session whose peer hangs has a writer that waits for room in the kernel for ever, with its
//! queue behind it. [`KillSwitch::fire`] makes the next or the waiting read and write fail, so that
//! reader and writer end, and queue and socket are freed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsStream;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Bytes read at once: ractor reads 8 KiB at a time, each of which would be a system call.
const READ_BUFFER_BYTES: usize = 64 << 10;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A socket that listens. `SO_REUSEADDR`: a node that is started again need not wait.
pub(super) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A connection to `addr`; the caller has the deadline.
pub(super) async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.connect(addr).await
}

/// What every connection between nodes has, whoever dialled. `unsent`: the longest time that data
/// may stay unacknowledged by the peer's kernel before the connection counts as broken.
pub(super) fn tune(stream: &TcpStream, unsent: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(unsent))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL),
    )
}

/// From here on closing is a reset that takes along what is not sent: the peer is not to get it
/// once this end has given the link up.
pub(super) fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// A connection that has passed the handshake.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Ends both directions of a stream from outside.
#[derive(Clone, Default)]
pub(super) struct KillSwitch(Arc<Kill>);

#[derive(Default)]
struct Kill {
    fired: AtomicBool,
    reader: Mutex<Option<Waker>>,
    writer: Mutex<Option<Waker>>,
}

impl KillSwitch {
    /// From now on every read and write fails, those that wait too.
    pub(super) fn fire(&self) {
        self.0.fired.store(true, Ordering::SeqCst);
        for waker in [&self.0.reader, &self.0.writer] {
            let waker = waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn check(&self, waker: &Mutex<Option<Waker>>, context: &Context<'_>) -> io::Result<()> {
        {
            let mut waker = waker.lock().unwrap_or_else(PoisonError::into_inner);
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
        }
        // After the waker is there: whoever fires later finds it.
        if self.0.fired.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "link closed"));
        }
        Ok(())
    }
}

/// What ractor gets: the connection, its switch, and the label by which its events are known.
pub(super) struct LinkStream {
    pub(super) wire: Wire,
    pub(super) kill: KillSwitch,
    pub(super) label: String,
}

impl ClusterBidiStream for LinkStream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        fn wrap<R, W>(reader: R, writer: W, kill: KillSwitch) -> (BoxRead, BoxWrite)
        where
            R: AsyncRead + Unpin + Send + 'static,
            W: AsyncWrite + Unpin + Send + 'static,
        {
            let reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
            let reader = Killable { inner: reader, kill: kill.clone() };
            (Box::new(reader), Box::new(Killable { inner: writer, kill }))
        }
        match self.wire {
            Wire::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                wrap(reader, writer, self.kill)
            }
            Wire::Tls(stream) => {
                let (reader, writer) = tokio::io::split(*stream);
                wrap(reader, writer, self.kill)
            }
        }
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.label.clone())
    }
}

struct Killable<T> {
    inner: T,
    kill: KillSwitch,
}

impl<T: AsyncRead + Unpin> AsyncRead for Killable<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.kill.check(&self.kill.0.reader, context)?;
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Killable<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.kill.check(&self.kill.0.writer, context)?;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.kill.check(&self.kill.0.writer, context)?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair() -> (BoxRead, BoxWrite, KillSwitch, TcpStream) {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let near = connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        tune(&near, Duration::from_secs(2)).unwrap();
        let kill = KillSwitch::default();
        let stream =
            LinkStream { wire: Wire::Plain(near), kill: kill.clone(), label: "x".to_owned() };
        assert_eq!(stream.peer_label().as_deref(), Some("x"));
        let (reader, writer) = Box::new(stream).split();
        (reader, writer, kill, far)
    }

    #[tokio::test]
    async fn a_writer_that_waits_for_a_hung_peer_is_released() {
        let (reader, mut writer, kill, far) = pair().await;
        let (filled, is_filled) = tokio::sync::oneshot::channel();
        let task = super::super::task::spawn(async move {
            let chunk = vec![0; 1 << 20];
            let mut filled = Some(filled);
            // Until the kernel takes no more, and then until it is told to stop.
            loop {
                let write = writer.write_all(&chunk);
                tokio::pin!(write);
                let first = futures_poll(write.as_mut()).await;
                let result = match first {
                    Some(result) => result,
                    None => {
                        if let Some(filled) = filled.take() {
                            filled.send(()).unwrap();
                        }
                        write.await
                    }
                };
                if let Err(error) = result {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
                    return;
                }
            }
        });
        is_filled.await.unwrap();
        kill.fire();
        task.await.unwrap();
        drop((reader, far));
    }

    /// Polls once.
    async fn futures_poll<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn what_is_already_buffered_is_not_read_after_the_switch() {
        let (mut reader, writer, kill, mut far) = pair().await;
        far.write_all(b"two").await.unwrap();
        assert_eq!(reader.read_u8().await.unwrap(), b't');
        kill.fire();
        assert!(reader.read_u8().await.is_err());
        drop((reader, writer));
        // The socket is gone with its two halves.
        let mut byte = [0; 1];
        assert!(matches!(far.read(&mut byte).await, Ok(0) | Err(_)));
    }
}
