//! What nodes of a Redis Cluster say, and what follows from it. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::sentinel::address;
use super::slot::SLOTS;

/// First and last slot.
pub(super) type Range = (u16, u16);

/// A master that serves slots, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: Arc<str>,
    pub(super) address: Arc<str>,
    /// Neither failed nor suspected.
    pub(super) up: bool,
    pub(super) slots: Vec<Range>,
}

/// The cluster as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    /// Who sees it.
    pub(super) myself: Arc<str>,
    /// The highest configuration epoch of a master in it: the newer picture has the higher one.
    pub(super) epoch: u64,
    pub(super) masters: Vec<Seen>,
    /// All other addresses in it.
    pub(super) others: Vec<Arc<str>>,
}

/// The answer to `CLUSTER NODES`; `asked` is the address the node was reached under, for nodes that
/// do not know their own.
pub(super) fn parse(text: &str, asked: &str) -> Option<Picture> {
    let (mut myself, mut epoch) = (None, 0);
    let (mut masters, mut others) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [id, place, flags, _, _, _, config_epoch, link, slots @ ..] = words.as_slice() else {
            continue;
        };
        let flag = |wanted| flags.split(',').any(|flag| flag == wanted);
        let place = place.split(['@', ',']).next().unwrap_or_default();
        let (host, port) = place.rsplit_once(':')?;
        let place = if host.is_empty() && flag("myself") {
            let own = asked.rsplit_once(':').map_or(asked, |(host, _)| host);
            format!("{own}:{port}").into()
        } else {
            address(host, port)
        };
        if flag("myself") {
            myself = Some(Arc::from(*id));
        }
        let slots: Vec<Range> = slots.iter().filter_map(|text| range(text)).collect();
        if flag("master") && !slots.is_empty() {
            epoch = epoch.max(config_epoch.parse().unwrap_or(0));
            let reached = flag("myself") || *link == "connected";
            let up = reached && !flag("fail") && !flag("fail?");
            masters.push(Seen { id: Arc::from(*id), address: place, up, slots });
        } else if !flag("noaddr") && !flag("handshake") {
            others.push(place);
        }
    }
    Some(Picture { myself: myself?, epoch, masters, others })
}

/// Slots on their way to another server, in brackets, are still where they are listed.
fn range(text: &str) -> Option<Range> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some((first, last))
}

/// The pictures of all nodes that were asked.
#[derive(Debug, Default)]
pub(super) struct Pictures {
    seen: BTreeMap<Arc<str>, (Instant, Picture)>,
    /// The shortest `cluster-node-timeout` heard of.
    pub(super) node_timeout: Option<Duration>,
}

/// A master, and until when a majority of masters vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vouched {
    pub(super) master: Seen,
    pub(super) until: Option<Instant>,
}

impl Pictures {
    /// The node at `address` was asked at that time.
    pub(super) fn heard(&mut self, address: &Arc<str>, asked: Instant, picture: Picture) {
        self.seen.insert(Arc::clone(address), (asked, picture));
    }

    /// Nobody asks the node any more.
    pub(super) fn forget(&mut self, address: &str) {
        self.seen.remove(address);
    }

    fn timeout(&self) -> Duration {
        self.node_timeout.unwrap_or(Duration::from_secs(15))
    }

    /// How often to ask.
    pub(super) fn period(&self) -> Duration {
        (self.timeout() / 8).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// The newest picture that is not older than the time-out.
    fn newest(&self, now: Instant) -> Option<&Picture> {
        let fresh = self.seen.values().filter(|(asked, _)| *asked + self.timeout() > now);
        fresh.max_by_key(|(asked, picture)| (picture.epoch, *asked)).map(|(_, picture)| picture)
    }

    /// Addresses worth asking: every master's, and the others' in case masters change.
    pub(super) fn addresses(&self, now: Instant) -> Vec<Arc<str>> {
        let Some(newest) = self.newest(now) else { return Vec::new() };
        let masters = newest.masters.iter().map(|seen| &seen.address);
        masters.chain(&newest.others).map(Arc::clone).collect()
    }

    /// The masters of the newest picture, each with the time until which a majority of them names it.
    pub(super) fn verdict(&self, now: Instant) -> Vec<Vouched> {
        let Some(newest) = self.newest(now) else { return Vec::new() };
        let majority = newest.masters.len() / 2 + 1;
        let voter = |id: &Arc<str>| newest.masters.iter().any(|seen| seen.id == *id);
        let vouched = |master: &Seen| {
            let mut words: HashMap<&Arc<str>, Instant> = HashMap::new();
            for (asked, picture) in self.seen.values() {
                let named = |seen: &Seen| seen.id == master.id && seen.up;
                if voter(&picture.myself) && picture.masters.iter().any(named) {
                    let word = words.entry(&picture.myself).or_insert(*asked);
                    *word = (*word).max(*asked);
                }
            }
            let mut words: Vec<Instant> = words.into_values().collect();
            words.sort_unstable_by(|a, b| b.cmp(a));
            words.get(majority - 1).map(|asked| *asked + self.timeout())
        };
        let all = newest.masters.iter();
        all.map(|master| Vouched { until: vouched(master), master: master.clone() }).collect()
    }
}

/// Which of the shards so far each master carries on, by the slots and ids they had; `None` is a
/// new shard. No two masters get the same one.
pub(super) fn carry_on(shards: &[(Arc<str>, Vec<Range>)], masters: &[Seen]) -> Vec<Option<usize>> {
    let mut taken = vec![false; shards.len()];
    let mut chosen = vec![None; masters.len()];
    for (master, chosen) in masters.iter().zip(&mut chosen) {
        if let Some(same) = shards.iter().position(|(id, _)| *id == master.id) {
            taken[same] = true;
            *chosen = Some(same);
        }
    }
    let mut shared = Vec::new();
    for (number, master) in masters.iter().enumerate() {
        for (index, (_, slots)) in shards.iter().enumerate() {
            shared.push((common(slots, &master.slots), index, number));
        }
    }
    shared.sort_unstable_by(|a, b| b.cmp(a));
    for (slots, index, number) in shared {
        if slots > 0 && !taken[index] && chosen[number].is_none() {
            taken[index] = true;
            chosen[number] = Some(index);
        }
    }
    chosen
}

fn common(a: &[Range], b: &[Range]) -> u32 {
    let overlap = |(a, b): (&Range, &Range)| {
        let (first, last) = (a.0.max(b.0), a.1.min(b.1));
        if first <= last { u32::from(last - first) + 1 } else { 0 }
    };
    a.iter().flat_map(|a| b.iter().map(move |b| (a, b))).map(overlap).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
aaa 127.0.0.1:7000@17000,host myself,master - 0 0 1 connected 0-5460 [93->-bbb]\n\
bbb 127.0.0.1:7001@17001 master - 0 1 2 connected 5461-10922\n\
ccc 127.0.0.1:7002@17002 master,fail? - 0 1 3 connected 10923-16382 16383\n\
ddd 127.0.0.1:7003@17003 slave aaa 0 1 1 connected\n\
eee :0@0 slave,noaddr aaa 0 1 1 disconnected\n";

    fn picture(myself: &str, epoch: u64) -> Picture {
        let mut picture = parse(NODES, "127.0.0.1:7000").unwrap();
        picture.myself = myself.into();
        picture.epoch = epoch;
        picture
    }

    #[test]
    fn nodes_are_read() {
        let picture = parse(NODES, "x:7000").unwrap();
        assert_eq!((&*picture.myself, picture.epoch), ("aaa", 3));
        assert_eq!(picture.masters.len(), 3);
        assert_eq!(picture.masters[0].slots, [(0, 5460)]);
        assert_eq!(picture.masters[2].slots, [(10923, 16382), (16383, 16383)]);
        assert!(picture.masters[1].up && !picture.masters[2].up);
        assert_eq!(picture.others, [Arc::<str>::from("127.0.0.1:7003")]);
        let nameless = parse("a :7@17 myself,master - 0 0 1 connected 0-1", "10.0.0.9:7").unwrap();
        assert_eq!(&*nameless.masters[0].address, "10.0.0.9:7");
    }

    #[test]
    fn a_majority_of_masters_vouches() {
        let (mut pictures, now) = (Pictures::default(), Instant::now());
        pictures.node_timeout = Some(Duration::from_secs(1));
        pictures.heard(&"1".into(), now, picture("aaa", 3));
        let until = |pictures: &Pictures| -> Vec<bool> {
            pictures.verdict(now).iter().map(|vouched| vouched.until.is_some()).collect()
        };
        assert_eq!(until(&pictures), [false, false, false]);
        pictures.heard(&"4".into(), now, picture("ddd", 3));
        assert_eq!(until(&pictures), [false, false, false], "a replica has no vote");
        pictures.heard(&"2".into(), now, picture("bbb", 3));
        assert_eq!(until(&pictures), [true, true, false], "ccc is suspected");
        assert!(pictures.verdict(now + Duration::from_secs(2)).is_empty(), "all too old");
    }

    #[test]
    fn the_picture_with_the_highest_epoch_is_the_map() {
        let (mut pictures, now) = (Pictures::default(), Instant::now());
        pictures.heard(&"1".into(), now + Duration::from_secs(1), picture("aaa", 3));
        let mut newer = picture("bbb", 9);
        newer.masters[0].id = "ddd".into();
        pictures.heard(&"2".into(), now, newer);
        assert_eq!(&*pictures.verdict(now)[0].master.id, "ddd");
    }

    #[test]
    fn a_shard_stays_itself_through_a_fail_over_and_moving_slots() {
        let shards: Vec<(Arc<str>, Vec<Range>)> =
            vec![("aaa".into(), vec![(0, 99)]), ("bbb".into(), vec![(100, 199)])];
        let seen = |id: &str, slots: Vec<Range>| Seen {
            id: id.into(),
            address: "x:1".into(),
            up: true,
            slots,
        };
        // ddd took over for aaa and got a slot of bbb; eee is new and took some of both.
        let masters = [
            seen("eee", vec![(40, 60), (110, 120)]),
            seen("ddd", vec![(0, 39), (61, 100)]),
            seen("bbb", vec![(101, 109), (121, 199)]),
        ];
        assert_eq!(carry_on(&shards, &masters[1..]), [Some(0), Some(1)]);
        let all = carry_on(&shards, &masters);
        assert_eq!(all[2], Some(1));
        assert_eq!((all[0], all[1]), (None, Some(0)), "ddd has most of what aaa had");
    }
}
