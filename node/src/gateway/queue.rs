//! Who is next with a handshake. So many run at the same time, and one address has half of them at
//! most: silent connections from there hold up others from there, and nobody else.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections of one address that wait for each handshake it may have; further ones are closed.
const WAITING_PER_PLACE: usize = 8;

/// Connections in or before their handshake. An address without one is forgotten.
pub(super) struct Queue {
    all: Arc<Semaphore>,
    share: usize,
    addresses: Mutex<HashMap<IpAddr, (usize, Arc<Semaphore>)>>,
}

/// One connection in the queue; leaves it when dropped.
pub(super) struct Turn {
    queue: Arc<Queue>,
    address: IpAddr,
    of_address: Arc<Semaphore>,
}

/// A running handshake.
pub(super) struct Handshake {
    _of_address: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Queue {
    /// At most `handshakes_max` at the same time.
    pub(super) fn new(handshakes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(handshakes_max)),
            share: handshakes_max.div_ceil(2),
            addresses: Mutex::default(),
        })
    }

    /// Queues a connection, unless too many of its address wait already.
    pub(super) fn join(self: &Arc<Self>, address: IpAddr) -> Option<Turn> {
        let mut addresses = self.lock();
        let new = || (0, Arc::new(Semaphore::new(self.share)));
        let (count, of_address) = addresses.entry(address).or_insert_with(new);
        if *count >= self.share * WAITING_PER_PLACE {
            return None;
        }
        *count += 1;
        let of_address = Arc::clone(of_address);
        drop(addresses);
        Some(Turn { queue: Arc::clone(self), address, of_address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, (usize, Arc<Semaphore>)>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Waits for a place. `None` only if the queue is gone.
    pub(super) async fn come(&self) -> Option<Handshake> {
        let of_address = Arc::clone(&self.of_address).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.queue.all).acquire_owned().await.ok()?;
        Some(Handshake { _of_address: of_address, _of_all: of_all })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut addresses = self.queue.lock();
        if let Some((count, _)) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_crowd_from_one_address_keeps_no_other_waiting() {
        let queue = Queue::new(4);
        let (crowd, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let turns: Vec<_> = std::iter::from_fn(|| queue.join(crowd)).collect();
        assert_eq!(turns.len(), 2 * WAITING_PER_PLACE, "the rest is closed");
        let running: Vec<_> =
            turns.iter().map_while(|turn| turn.come().now_or_never().flatten()).collect();
        assert_eq!(running.len(), 2, "half of all");
        let turn = queue.join(other).unwrap();
        assert!(turn.come().now_or_never().flatten().is_some());
        drop((running, turns, turn));
        assert!(queue.lock().is_empty());
        assert_eq!(queue.all.available_permits(), 4);
    }
}
