//! A way that TCP connections take: what goes along it is held back, throttled, and its bytes are
//! damaged, as the weather says. The kernel of many machines has no `netem`; this needs nothing.
//!
//! Everything random comes from a seed: the n-th connection meets the same weather in every run.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Failure;

/// Bytes that are passed on at a time; what a node writes at once is mostly less.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks on their way in one direction of a connection; whoever sends more waits.
const ON_THE_WAY: usize = 256;

/// What happens to bytes on their way, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Weather {
    /// How long each chunk takes.
    pub delay: Duration,
    /// How much longer it takes at most, by lot. No chunk passes another.
    pub jitter: Duration,
    /// Bytes a second of each direction, if that is bounded.
    pub bytes_per_s: Option<u32>,
    /// What is done to the bytes.
    pub damage: Option<Damage>,
}

/// What is done to chunks, to one in so many by lot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// What.
    pub how: How,
    /// To one chunk in so many.
    pub one_in: u32,
}

/// What is done to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Its first half arrives, then the connection ends.
    Cut,
    /// One bit is another.
    Corrupt,
    /// It arrives twice.
    Replay,
}

/// A listener and what passes through it; closed when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    at: SocketAddr,
    weather: watch::Sender<Weather>,
    // Ends with it.
    _passing: JoinSet<()>,
}

impl Proxy {
    /// Listens at a free port of `ip`, and takes what comes on to `to`.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn start(
        ip: std::net::IpAddr,
        to: SocketAddr,
        weather: Weather,
        seed: u64,
    ) -> Result<Self, Failure> {
        let listener = TcpListener::bind((ip, 0)).await;
        let listener = listener.map_err(Failure::of("the way has no place to listen"))?;
        let at = listener.local_addr().map_err(Failure::of("the way has no address"))?;
        let (weather, seen) = watch::channel(weather);
        let mut passing = JoinSet::new();
        passing.spawn(accept(listener, to, seen, seed));
        Ok(Self { at, weather, _passing: passing })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.at
    }

    /// Other weather from the next chunk on.
    pub fn change(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    weather: watch::Receiver<Weather>,
    seed: u64,
) {
    let mut rng = Rng::with_seed(seed);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of descriptors, or the other side is gone already: the next one, then.
                let Ok((from, _)) = accepted else { continue };
                connections.spawn(connection(from, to, weather.clone(), rng.fork()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    from: TcpStream,
    to: SocketAddr,
    weather: watch::Receiver<Weather>,
    mut rng: Rng,
) {
    let Ok(on) = TcpStream::connect(to).await else { return };
    // Without this the kernel gathers small chunks, and the delay is not what it says.
    let _ = from.set_nodelay(true).and_then(|()| on.set_nodelay(true));
    let ((from_read, from_write), (on_read, on_write)) = (from.into_split(), on.into_split());
    let (there, back) = (rng.fork(), rng);
    // The end of one direction is the end of both: a damaged connection leaves nothing half open.
    tokio::select! {
        () = pass(from_read, on_write, weather.clone(), there) => {}
        () = pass(on_read, from_write, weather, back) => {}
    }
}

/// A chunk, when it is to arrive, and whether the connection ends with it.
struct Chunk {
    bytes: Vec<u8>,
    due: Instant,
    last: bool,
}

async fn pass(
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
    mut rng: Rng,
) {
    let (send, mut receive) = mpsc::channel::<Chunk>(ON_THE_WAY);
    let throttled = weather.clone();
    let reading = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut latest = Instant::now();
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            let now = *weather.borrow();
            let (chunk, last) = damaged(&buffer[..length], now.damage, &mut rng);
            // No chunk passes another.
            latest = latest.max(Instant::now() + now.delay + now.jitter.mul_f64(rng.f64()));
            let sent = send.send(Chunk { bytes: chunk, due: latest, last }).await;
            if sent.is_err() || last {
                break;
            }
        }
    };
    let writing = async move {
        while let Some(Chunk { bytes, due, last }) = receive.recv().await {
            sleep_until(due).await;
            let bytes_per_s = throttled.borrow().bytes_per_s;
            if let Some(bytes_per_s) = bytes_per_s {
                let time = bytes.len() as f64 / f64::from(bytes_per_s.max(1));
                sleep(Duration::from_secs_f64(time)).await;
            }
            if write.write_all(&bytes).await.is_err() || last {
                break;
            }
        }
    };
    // What was read arrives, also when nothing more is read.
    tokio::join!(reading, writing);
}

/// The chunk as it arrives, and whether the connection ends with it.
fn damaged(chunk: &[u8], damage: Option<Damage>, rng: &mut Rng) -> (Vec<u8>, bool) {
    let strikes = |damage: &Damage, rng: &mut Rng| rng.u32(0..damage.one_in.max(1)) == 0;
    let mut bytes = chunk.to_vec();
    match damage.filter(|damage| strikes(damage, rng)).map(|damage| damage.how) {
        None => (bytes, false),
        Some(How::Cut) => {
            bytes.truncate(chunk.len() / 2);
            (bytes, true)
        }
        Some(How::Corrupt) => {
            let at = rng.usize(0..chunk.len());
            bytes[at] ^= 1 << rng.u32(0..8);
            (bytes, false)
        }
        Some(How::Replay) => {
            bytes.extend_from_slice(chunk);
            (bytes, false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A server that sends back what it gets, and the way to it.
    async fn echo(weather: Weather) -> (Proxy, TcpStream, JoinSet<()>) {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let to = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
        });
        let proxy = Proxy::start(HERE, to, weather, 7).await.unwrap();
        let stream = TcpStream::connect(proxy.addr()).await.unwrap();
        (proxy, stream, server)
    }

    async fn there_and_back(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
        stream.write_all(text).await.unwrap();
        let mut got = vec![0; text.len()];
        stream.read_exact(&mut got).await.unwrap();
        got
    }

    #[tokio::test]
    async fn bytes_pass_as_they_are_and_later_when_it_says_so() {
        let (proxy, mut stream, _server) = echo(Weather::default()).await;
        assert_eq!(there_and_back(&mut stream, b"hello").await, b"hello");
        let delay = Duration::from_millis(40);
        proxy.change(Weather { delay, jitter: delay, ..Weather::default() });
        let began = Instant::now();
        assert_eq!(there_and_back(&mut stream, b"slow").await, b"slow");
        assert!(began.elapsed() >= 2 * delay, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_throttled_way_takes_its_time() {
        let weather = Weather { bytes_per_s: Some(10_000), ..Weather::default() };
        let (_proxy, mut stream, _server) = echo(weather).await;
        let began = Instant::now();
        there_and_back(&mut stream, &[1; 1000]).await;
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_cut_connection_gives_half_and_ends() {
        let damage = Some(Damage { how: How::Cut, one_in: 1 });
        let (_proxy, mut stream, _server) = echo(Weather { damage, ..Weather::default() }).await;
        stream.write_all(b"12345678").await.unwrap();
        let mut got = Vec::new();
        // A reset tells the end as well.
        let _ = stream.read_to_end(&mut got).await;
        assert!(got.len() < 8, "{got:?}");
    }

    #[test]
    fn damage_is_what_it_says_and_the_same_for_the_same_seed() {
        let damage = |how| Some(Damage { how, one_in: 1 });
        let make = |how| damaged(b"abcd", damage(how), &mut Rng::with_seed(1));
        assert_eq!(make(How::Replay), (b"abcdabcd".to_vec(), false));
        assert_eq!(make(How::Cut), (b"ab".to_vec(), true));
        let (corrupt, _) = make(How::Corrupt);
        let bits: u32 = corrupt.iter().zip(b"abcd").map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(bits, 1);
        assert_eq!(make(How::Corrupt).0, corrupt);
        assert_eq!(damaged(b"abcd", None, &mut Rng::with_seed(1)), (b"abcd".to_vec(), false));
    }
}
