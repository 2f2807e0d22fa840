//! How many links each address holds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts links by address. Bounded by the links there are: an address without one is forgotten.
pub(super) struct Addresses {
    max: usize,
    links: Mutex<HashMap<IpAddr, usize>>,
}

/// A place of an address, given back when dropped.
pub(super) struct Place {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    /// At most `max` links from one address; 0 for no limit.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, links: Mutex::default() })
    }

    /// A place, unless the address holds as many as it may.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        if self.max > 0 {
            let mut links = self.lock();
            let count = links.entry(address).or_default();
            if *count >= self.max {
                return None;
            }
            *count += 1;
        }
        Some(Place { addresses: Arc::clone(self), address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.addresses.max == 0 {
            return;
        }
        let mut links = self.addresses.lock();
        if let Some(count) = links.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                links.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_its_share_and_is_forgotten_with_its_last_link() {
        let addresses = Addresses::new(2);
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = addresses.enter(one).unwrap();
        let second = addresses.enter(one).unwrap();
        assert!(addresses.enter(one).is_none());
        assert!(addresses.enter(other).is_some());
        drop(first);
        assert!(addresses.enter(one).is_some());
        drop(second);
        assert!(addresses.lock().is_empty());
    }
}
