//! Stands between two nodes and does to their bytes what a network may.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

const PASS: u8 = 0;
const FLIP: u8 = 1;
const HOLE: u8 = 2;

pub struct Proxy {
    pub addr: SocketAddr,
    /// Towards the node behind it, and back.
    forth: Arc<AtomicU8>,
    back: Arc<AtomicU8>,
    /// The connection to the node behind it.
    far: Arc<Mutex<Option<TcpStream>>>,
}

impl Proxy {
    pub fn start(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (forth, back) = (Arc::new(AtomicU8::new(PASS)), Arc::new(AtomicU8::new(PASS)));
        let modes = (forth.clone(), back.clone());
        let far_slot = Arc::new(Mutex::new(None));
        let slot = far_slot.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { return };
                let Ok(far) = TcpStream::connect(behind) else { continue };
                *slot.lock().unwrap() = far.try_clone().ok();
                for (from, to, mode) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap(), modes.0.clone()),
                    (far, near, modes.1.clone()),
                ] {
                    std::thread::spawn(move || pump(from, to, &mode));
                }
            }
        });
        Self { addr, forth, back, far: far_slot }
    }

    /// Changes one byte of the next large piece that goes forth.
    pub fn flip(&self) {
        self.forth.store(FLIP, Ordering::SeqCst);
    }

    /// Adds bytes to what goes forth.
    pub fn insert(&self, bytes: &[u8]) {
        self.far.lock().unwrap().as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// From now on bytes are taken and forgotten, in one direction only: the other works.
    pub fn swallow_forth(&self, on: bool) {
        self.forth.store(if on { HOLE } else { PASS }, Ordering::SeqCst);
    }

    pub fn swallow_back(&self, on: bool) {
        self.back.store(if on { HOLE } else { PASS }, Ordering::SeqCst);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, mode: &AtomicU8) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..length];
        match mode.load(Ordering::SeqCst) {
            HOLE => continue,
            FLIP if length > 1000 => {
                // Well inside the payload of the last frame.
                bytes[length - 200] ^= 0x40;
                mode.store(PASS, Ordering::SeqCst);
            }
            _ => {}
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
