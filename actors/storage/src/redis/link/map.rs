//! Which shard serves a slot, and the lanes of each shard.

use std::sync::Arc;

use super::cluster::{Range, Vouched, carry_on};
use super::lane::Lane;
use super::probe;
use super::settings::RedisSettings;
use super::shard::{Common, Master, Shard};
use super::slot::{self, SLOTS};

/// Connections per shard that only read.
const READERS: usize = 2;
/// A slot that nobody serves.
const NOBODY: u16 = u16::MAX;

/// A shard with its lanes. They end when it is dropped.
pub(super) struct Entry {
    pub(super) shard: Arc<Shard>,
    pub(super) lanes: Vec<Lane>,
    pub(super) readers: Vec<Lane>,
    /// Only confirms: a confirmation does not wait behind a full round.
    pub(super) confirms: Lane,
    probe: tokio::task::AbortHandle,
}

impl Entry {
    fn start(shard: Arc<Shard>) -> Arc<Self> {
        let lanes = shard.settings.lanes.clamp(1, 4);
        Arc::new(Self {
            lanes: (0..lanes).map(|_| Lane::start(&shard, false)).collect(),
            readers: (0..READERS).map(|_| Lane::start(&shard, false)).collect(),
            confirms: Lane::start(&shard, true),
            probe: crate::task::spawn(probe::run(Arc::clone(&shard))).abort_handle(),
            shard,
        })
    }

    pub(super) fn queued(&self) -> usize {
        let lanes = self.lanes.iter().chain(&self.readers);
        lanes.map(Lane::queued).sum::<usize>() + self.confirms.queued()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.probe.abort();
    }
}

/// Which shard serves a slot.
#[derive(Default)]
pub(super) struct Map {
    pub(super) shards: Vec<Arc<Entry>>,
    by_slot: Vec<u16>,
    /// Of each shard, how often what it serves has changed.
    versions: Vec<u64>,
    /// In a cluster: id of the master and slots of each shard, in the order of `shards`.
    serves: Vec<(Arc<str>, Vec<Range>)>,
}

/// Everything a shard is made of.
pub(super) struct Maker {
    pub(super) settings: Arc<RedisSettings>,
    pub(super) common: Arc<Common>,
    pub(super) anchors: Vec<(u16, String)>,
}

impl Maker {
    /// The slots divided evenly among servers or master names.
    pub(super) fn divided(&self, names: &[String], vouching: bool) -> Map {
        let count = names.len();
        let by_slot = (0..SLOTS).map(|slot| slot::divided(slot, count) as u16).collect();
        let shard = |(index, name): (usize, &String)| {
            let shard = Shard::new(name.clone(), &self.settings, &self.common, vouching);
            let address = (!vouching).then(|| Arc::from(&**name));
            shard.name_master(self.master(address, |slot| slot::divided(slot, count) == index));
            Entry::start(shard)
        };
        let shards = names.iter().enumerate().map(shard).collect();
        Map { shards, by_slot, versions: Vec::new(), serves: Vec::new() }
    }

    fn master(&self, address: Option<Arc<str>>, owns: impl Fn(u16) -> bool) -> Master {
        let own = self.anchors.iter().filter(|(slot, _)| owns(*slot)).map(|(_, tag)| tag.clone());
        let anchors: Arc<[String]> = own.collect();
        let fence_tag = match anchors.first() {
            Some(anchor) => anchor.as_str().into(),
            // A shard of less than 64 slots may have none.
            None => slot::tag_in(owns).unwrap_or_default().into(),
        };
        Master { address, fence_tag, anchors }
    }

    /// The map after a look at a cluster; `None` if nothing but masters' standing changed, which
    /// shards are told here.
    pub(super) fn look(&self, map: &Map, found: &[Vouched]) -> Option<Map> {
        let masters: Vec<_> = found.iter().map(|vouched| vouched.master.clone()).collect();
        let shards = carry_on(&map.serves, &masters);
        let mut next = Map {
            shards: map.shards.clone(),
            by_slot: vec![NOBODY; usize::from(SLOTS)],
            versions: map.versions.clone(),
            serves: map.serves.clone(),
        };
        next.serves.iter_mut().for_each(|(_, slots)| slots.clear());
        let mut now = vec![None; next.shards.len()];
        for (vouched, index) in found.iter().zip(shards) {
            let master = &vouched.master;
            let index = index.unwrap_or_else(|| {
                let name = next.shards.len().to_string();
                let shard = Shard::new(name, &self.settings, &self.common, true);
                next.shards.push(Entry::start(shard));
                next.serves.push((Arc::clone(&master.id), Vec::new()));
                now.push(None);
                next.shards.len() - 1
            });
            now[index] = Some(vouched);
            next.serves[index] = (Arc::clone(&master.id), master.slots.clone());
            for (first, last) in &master.slots {
                next.by_slot[usize::from(*first)..=usize::from(*last)].fill(index as u16);
            }
        }
        for (index, (entry, now)) in next.shards.iter().zip(now).enumerate() {
            let Some(Vouched { master, until }) = now else {
                entry.shard.name_master(Master::default());
                continue;
            };
            let slots = &master.slots;
            if map.serves(index) == Some(slots) {
                entry.shard.readdress(&master.address);
            } else {
                let owns =
                    |slot| slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
                entry.shard.name_master(self.master(Some(Arc::clone(&master.address)), owns));
            }
            let vouched = until.map(|until| (Arc::clone(&master.address), until));
            entry.shard.vouched(vouched);
        }
        next.versions.resize(next.serves.len(), 0);
        for (index, version) in next.versions.iter_mut().enumerate() {
            *version += u64::from(map.serves(index) != next.serves.get(index).map(|(_, now)| now));
        }
        let changed = next.serves != map.serves;
        changed.then_some(next)
    }
}

impl Map {
    /// Slots of a shard.
    fn serves(&self, index: usize) -> Option<&Vec<Range>> {
        self.serves.get(index).map(|(_, slots)| slots)
    }

    /// Another one when a shard serves something else; in a cluster only.
    pub(super) fn version(&self, shard: u16) -> u64 {
        self.versions.get(usize::from(shard)).copied().unwrap_or_default()
    }

    /// The shard of a slot.
    pub(super) fn at(&self, slot: u16) -> Option<(u16, &Arc<Entry>)> {
        let index = *self.by_slot.get(usize::from(slot))?;
        Some((index, self.shards.get(usize::from(index))?))
    }

    /// Whether every slot has a shard.
    pub(super) fn whole(&self) -> bool {
        !self.by_slot.is_empty() && !self.by_slot.contains(&NOBODY)
    }
}
