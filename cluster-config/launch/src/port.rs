//! Ports that nobody uses.
//!
//! A server must find its port free again when it is restarted. So ports come from below the range
//! that the kernel gives to clients (32768 on), where no outgoing connection can take one while
//! its server is down; and the port that Redis Cluster uses besides (10000 higher) must be below it,
//! too. That leaves 10000 to 22767.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::LaunchError;
use crate::error::Cause;

/// The first port that is given out.
const FIRST: u16 = 10_000;
/// One more than the last.
const END: u16 = 22_768;
/// How much higher the second port of a Redis Cluster node is.
pub const BUS_OFFSET: u16 = 10_000;

/// How often a port that seems to be taken is looked at, and the pause between.
const LOOKS: usize = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Those given out by this process: never twice, as their servers may be down just now.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// An address of the loopback interface whose port is free.
///
/// # Errors
/// When there is none.
pub fn free() -> Result<SocketAddr, LaunchError> {
    free_at(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// A port that is free at `ip`, for TCP and UDP, and so is the one [`BUS_OFFSET`] higher.
///
/// # Errors
/// When there is none.
pub fn free_at(ip: IpAddr) -> Result<SocketAddr, LaunchError> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_with(HashSet::new);
    let count = END - FIRST;
    // Processes that look at the same time begin in different places.
    let start = seed(u64::from(std::process::id()), given.len() as u64, u64::from(count));
    for step in 0..count {
        let port = FIRST + (start + step) % count;
        if !given.contains(&port) && is_free(ip, port) && is_free(ip, port + BUS_OFFSET) {
            given.insert(port);
            return Ok(SocketAddr::new(ip, port));
        }
    }
    Err(LaunchError::new(format!("no port of {FIRST} to {} is free at {ip}", END - 1)))
}

/// Takes care that [`free_at`] does not give this port to another one.
pub(crate) fn keep(port: u16) {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    given.get_or_insert_with(HashSet::new).insert(port);
}

/// That `name` can listen there.
pub(crate) async fn must_be_free(name: &str, at: SocketAddr) -> Result<(), LaunchError> {
    if !is_taken(at).await {
        return Ok(());
    }
    let what = format!("{name} is to listen on {at}, and another process does");
    Err(LaunchError::new(what).because(Cause::PortTaken))
}

/// Whether somebody listens there, for TCP or UDP, and not only for the moment that it takes another
/// process to look for a free port.
async fn is_taken(at: SocketAddr) -> bool {
    for _ in 0..LOOKS {
        if is_free(at.ip(), at.port()) {
            return false;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    true
}

fn is_free(ip: IpAddr, port: u16) -> bool {
    let at = SocketAddr::new(ip, port);
    let free = |bound: std::io::Result<()>| match bound {
        Ok(()) => true,
        // An address of another network namespace: nobody else is there.
        Err(error) => error.kind() == ErrorKind::AddrNotAvailable,
    };
    free(TcpListener::bind(at).map(drop)) && free(UdpSocket::bind(at).map(drop))
}

/// A number below `count` that differs between processes and from call to call.
fn seed(process: u64, call: u64, count: u64) -> u16 {
    let mixed = (process * 1_000_003 + call).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    u16::try_from(mixed % count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_given_out_once_and_leaves_room_for_the_bus() {
        let mut seen = HashSet::new();
        for _ in 0..50 {
            let at = free().unwrap();
            assert!(seen.insert(at.port()));
            assert!((FIRST..END).contains(&at.port()));
            assert!(!is_taken(at).await);
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_not_given_out() {
        let at = free().unwrap();
        let held = TcpListener::bind(at).unwrap();
        assert!(!is_free(at.ip(), at.port()) && is_taken(at).await);
        drop(held);
    }
}
