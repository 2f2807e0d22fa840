//! Clusters whose members die, hang, drain, fall sick and are cut off, seen by each member for itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clarion_core::membership::{Link, Members, Seen, Verdict, Why};
use clarion_core::{BootId, Role, Roles};
use proptest::prelude::*;

const QUARANTINE_MS: u64 = 10_000;
const STEP_MS: u64 = 500;
/// The longest quarantine, and the time in which a node that has just started gets to know others.
const CALM_STEPS: u64 = (16 + 1) * QUARANTINE_MS / STEP_MS;

type Owners = BTreeMap<Arc<str>, Vec<Arc<str>>>;

struct Node {
    id: Arc<str>,
    boot: BootId,
    roles: Roles,
    group: Arc<str>,
    running: bool,
    draining: bool,
    sick: bool,
    /// It has the cookie and a wrong certificate: there is never a link to it.
    spoilt: bool,
    /// Nodes see only their own side.
    side: u8,
    members: Members,
    /// What it told after the last step; others hear it in the next one.
    told: Verdict,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Kill(usize),
    /// Starts a process, after killing the former if it runs.
    Start(usize),
    Drain(usize),
    Sicken(usize),
    Heal(usize),
    /// To the other side of a cut, or back.
    Cross(usize),
    /// Nothing happens for so many steps.
    Wait(u64),
}

struct World {
    nodes: Vec<Node>,
    now_ms: u64,
    boots: u64,
    /// When the links between two nodes come up, if not at once.
    links_at_ms: BTreeMap<(usize, usize), u64>,
}

impl World {
    /// Every third node is of another group, and every fifth no broker.
    fn new(count: usize) -> Self {
        let node = |index: usize| {
            let id: Arc<str> = Arc::from(format!("n{index}"));
            Node {
                members: Members::new(Arc::clone(&id), QUARANTINE_MS),
                id,
                boot: BootId(index as u64),
                roles: if index % 5 == 4 { Roles::NONE.with(Role::Gateway) } else { Roles::ALL },
                group: Arc::from(if index % 3 == 2 { "other" } else { "default" }),
                running: true,
                draining: false,
                sick: false,
                spoilt: false,
                side: 0,
                told: Verdict::default(),
            }
        };
        Self {
            nodes: (0..count).map(node).collect(),
            now_ms: 0,
            boots: count as u64,
            links_at_ms: BTreeMap::new(),
        }
    }

    fn apply(&mut self, event: Event) {
        let count = self.nodes.len();
        let node = |index: usize| index % count;
        match event {
            Event::Kill(index) => self.nodes[node(index)].running = false,
            Event::Start(index) => {
                self.boots += 1;
                let node = &mut self.nodes[node(index)];
                node.members = Members::new(Arc::clone(&node.id), QUARANTINE_MS);
                node.told = Verdict::default();
                node.boot = BootId(self.boots);
                (node.running, node.draining, node.sick) = (true, false, false);
            }
            Event::Drain(index) => self.nodes[node(index)].draining = true,
            Event::Sicken(index) => self.nodes[node(index)].sick = true,
            Event::Heal(index) => self.nodes[node(index)].sick = false,
            Event::Cross(index) => self.nodes[node(index)].side ^= 1,
            Event::Wait(steps) => {
                for _ in 0..steps {
                    self.step();
                }
            }
        }
    }

    /// Each running node sees all running nodes of its side, and what they told in the step before.
    fn step(&mut self) {
        self.now_ms += STEP_MS;
        for index in 0..self.nodes.len() {
            if self.nodes[index].running {
                let seen = self.seen_by(index);
                self.nodes[index].members.observe(self.now_ms, seen.clone());
                check(&self.nodes[index], &seen);
            }
        }
        let now_ms = self.now_ms;
        for node in &mut self.nodes {
            // As it travels.
            let told = node.members.verdict(now_ms);
            let unlinked: Verdict = told.unlinked().parse().unwrap();
            node.told = told.judged().parse::<Verdict>().unwrap().with(unlinked);
        }
    }

    fn seen_by(&self, index: usize) -> Vec<Seen> {
        let side = self.nodes[index].side;
        let all = self.nodes.iter().enumerate();
        let visible = all.filter(|(_, node)| node.running && node.side == side);
        let seen = visible.map(|(other, node)| Seen {
            id: Arc::clone(&node.id),
            boot: node.boot,
            roles: node.roles,
            group: Arc::clone(&node.group),
            placement_version: 2,
            draining: node.draining,
            sick: node.sick,
            alive: true,
            linked: self.link(index, other),
            verdict: node.told.clone(),
        });
        seen.collect()
    }

    fn link(&self, one: usize, other: usize) -> Link {
        let spoilt = self.nodes[one].spoilt || self.nodes[other].spoilt;
        let at_ms = self.links_at_ms.get(&(one.min(other), one.max(other)));
        let early = at_ms.is_some_and(|at_ms| self.now_ms < *at_ms);
        if spoilt || early { Link::Down } else { Link::Up }
    }

    /// Everybody a broker of the one group there is.
    fn all_alike(count: usize) -> Self {
        let mut world = Self::new(count);
        for node in &mut world.nodes {
            (node.roles, node.group) = (Roles::ALL, Arc::from("default"));
        }
        world
    }

    /// What all that run think, if they agree.
    fn owners(&self) -> Vec<&str> {
        let views = self.views(0);
        assert_eq!(views.len(), 1, "{views:?}");
        views.first().unwrap()["default"].iter().map(|id| &**id).collect()
    }

    /// What the running nodes of one side think, each view once.
    fn views(&self, side: u8) -> BTreeSet<&Owners> {
        let here = self.nodes.iter().filter(|node| node.running && node.side == side);
        here.map(|node| node.members.owners()).collect()
    }

    fn told(&self) -> Vec<Verdict> {
        self.nodes.iter().map(|node| node.told.clone()).collect()
    }
}

/// What holds in every view at any time.
fn check(node: &Node, seen: &[Seen]) {
    let owners = node.members.owners();
    let owns = |one: &Seen| owners.get(&one.group).is_some_and(|all| all.contains(&one.id));
    for one in seen {
        let standing = node.members.standings()[&one.id];
        assert_eq!(standing.owns, owns(one));
        assert_eq!(standing.owns, standing.why.owns());
        assert!(!standing.owns || one.roles.has(Role::Broker));
        assert_eq!(standing.boot, one.boot);
        if one.roles.has(Role::Broker) {
            let group = || seen.iter().filter(|other| other.group == one.group && owns(other));
            assert!(group().count() > 0, "a group with brokers has owners");
            let fit = group().any(|other| {
                matches!(node.members.standings()[&other.id].why, Why::Fit | Why::SickLikeMost)
            });
            assert!(!fit || standing.why != Why::LastResort, "somebody else could own");
        }
    }
    let count: usize = owners.values().map(Vec::len).sum();
    assert_eq!(count, seen.iter().filter(|one| owns(one)).count(), "owners are seen");
}

fn event(cuts: bool) -> impl Strategy<Value = Event> {
    let node = 0usize..7;
    prop_oneof![
        2 => node.clone().prop_map(Event::Kill),
        3 => node.clone().prop_map(Event::Start),
        1 => node.clone().prop_map(Event::Drain),
        1 => node.clone().prop_map(Event::Sicken),
        1 => node.clone().prop_map(Event::Heal),
        u32::from(cuts) * 2 => node.prop_map(Event::Cross),
        5 => (1u64..80).prop_map(Event::Wait),
    ]
}

fn history(cuts: bool) -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(event(cuts), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened: once it is over, all who run own, and all agree.
    #[test]
    fn flapping_nodes_converge(count in 1usize..=7, history in history(true)) {
        let mut world = World::new(count);
        for event in history {
            world.apply(event);
        }
        for index in 0..count {
            world.nodes[index].side = 0;
            world.nodes[index].sick = false;
            if !world.nodes[index].running || world.nodes[index].draining {
                world.apply(Event::Start(index));
            }
        }
        world.apply(Event::Wait(CALM_STEPS));
        let mut all = Owners::new();
        for node in world.nodes.iter().filter(|node| node.roles.has(Role::Broker)) {
            all.entry(Arc::clone(&node.group)).or_default().push(Arc::clone(&node.id));
        }
        prop_assert_eq!(world.views(0), BTreeSet::from([&all]));
        // And nothing is on its way that could change it.
        prop_assert!(world.nodes.iter().all(|node| node.members.next_ms().is_none()));
    }

    /// Nodes that see the same members and have heard all verdicts own the same, even those that
    /// have just started, and those that were cut off, and whatever they remember.
    #[test]
    fn who_sees_and_heard_the_same_agrees(count in 2usize..=7, history in history(true)) {
        let mut world = World::new(count);
        for event in history {
            world.apply(event);
            // Timers of quarantines strike every now and then; verdicts are heard one step later.
            loop {
                let told = world.told();
                world.step();
                if world.told() == told {
                    break;
                }
            }
            for side in [0, 1] {
                prop_assert!(world.views(side).len() <= 1, "{:?}", world.views(side));
            }
        }
    }

    /// Two that have seen the same from the beginning agree at every moment, without gossip.
    #[test]
    fn two_that_saw_the_same_events_agree(count in 3usize..=7, history in history(false)) {
        let mut world = World::new(count);
        let mut watchers = ["w0", "w1"].map(|id| Members::new(Arc::from(id), QUARANTINE_MS));
        for event in history {
            world.apply(event);
            world.step();
            let mut seen = world.seen_by(0);
            // Watchers own nothing and do not see each other; whatever others say is left out.
            for one in &mut seen {
                one.verdict = Verdict::default();
            }
            for watcher in &mut watchers {
                watcher.observe(world.now_ms, seen.clone());
            }
            let [one, other] = &watchers;
            prop_assert_eq!(one.owners(), other.owners());
            prop_assert_eq!(one.standings(), other.standings());
            prop_assert_eq!(one.verdict(world.now_ms), other.verdict(world.now_ms));
        }
    }

    /// A node that goes on dying gains its slots a few times only, however long it goes on.
    #[test]
    fn a_flapping_node_moves_its_slots_a_few_times_only(up in 1u64..=60, down in 1u64..=20) {
        let mut world = World::new(3);
        world.nodes[2].group = Arc::from("default");
        world.apply(Event::Wait(CALM_STEPS));
        let mut gained = 0;
        let mut owned = true;
        for _ in 0..40 {
            world.apply(Event::Kill(2));
            for step in 0..down + up {
                if step == down {
                    world.apply(Event::Start(2));
                }
                world.step();
                let owns = world.nodes[0].members.standings().get("n2").is_some_and(|n2| n2.owns);
                gained += u32::from(owns && !owned);
                owned = owns;
            }
        }
        // Lives of up to 30 s outlast quarantines of 10 s and 20 s.
        prop_assert!(gained <= 2, "{gained} times");
    }
}

/// Long enough for a link that never came to be told to everybody.
const UNLINKED_STEPS: u64 = 10_000 / STEP_MS + 3;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever has the cookie but no link to anybody owns nothing, in the eyes of all, whenever it came
    /// and however often it starts again; the others own everything throughout.
    #[test]
    fn whoever_was_never_linked_owns_nothing(
        good in 2usize..=5,
        spoilt in 1usize..=4,
        starts in proptest::collection::vec((0usize..4, 0u64..60), 0..12),
    ) {
        let spoilt = spoilt.min(good - 1);
        let mut world = World::all_alike(good + spoilt);
        world.nodes[good..].iter_mut().for_each(|node| node.spoilt = true);
        let all: BTreeSet<Arc<str>> =
            world.nodes[..good].iter().map(|node| Arc::clone(&node.id)).collect();
        for (index, wait) in starts {
            world.apply(Event::Start(good + index % spoilt));
            for _ in 0..wait {
                world.step();
                for node in &world.nodes[..good] {
                    let owners: BTreeSet<_> = node.members.owners()["default"].iter().cloned().collect();
                    prop_assert!(owners.is_superset(&all), "{owners:?}");
                }
            }
        }
        world.apply(Event::Wait(UNLINKED_STEPS + CALM_STEPS));
        let mut expected: Vec<&str> = all.iter().map(|id| &**id).collect();
        expected.sort_unstable();
        prop_assert_eq!(world.owners(), expected);
    }

    /// However slowly the links of a cluster that starts come up, somebody owns (`check` looks in each
    /// step); and once they are up all do.
    #[test]
    fn a_cluster_that_starts_is_never_without_owners(
        count in 1usize..=7,
        delays in (1u64..40_000).prop_flat_map(|most| proptest::collection::vec(0..most, 21)),
    ) {
        let mut world = World::all_alike(count);
        let pairs = (0..count).flat_map(|one| (one + 1..count).map(move |other| (one, other)));
        world.links_at_ms = pairs.zip(delays.iter().copied()).collect();
        // While no link is later than it may be, nobody loses anything.
        let in_time = delays.iter().all(|at_ms| *at_ms < 10_000);
        for _ in 0..40_000 / STEP_MS + UNLINKED_STEPS {
            world.step();
            prop_assert!(!in_time || world.owners().len() == count);
        }
        prop_assert_eq!(world.owners().len(), count);
    }

    /// One without links, from whenever on, whatever it tells: the others go on owning.
    #[test]
    fn one_without_links_evicts_nobody(count in 3usize..=7, waits in proptest::collection::vec(1u64..60, 1..8)) {
        let mut world = World::all_alike(count);
        world.nodes[0].spoilt = true;
        for wait in waits {
            for _ in 0..wait {
                world.step();
                for node in &world.nodes {
                    let owners = node.members.owners()["default"].iter();
                    let others = owners.filter(|id| ***id != *"n0").count();
                    prop_assert_eq!(others, count - 1, "in the eyes of {}", node.id);
                }
            }
            // The others have no memory from here on; it has.
            (1..count).for_each(|index| world.nodes[index].draining = true);
            world.step();
            (1..count).for_each(|index| world.apply(Event::Start(index)));
        }
    }
}

/// Three nodes; one is cut off for a while, and remembers that all others died.
#[test]
fn one_that_was_cut_off_is_quarantined_and_those_it_missed_are_not() {
    let mut world = World::new(3);
    for node in &mut world.nodes {
        node.group = Arc::from("default");
    }
    world.apply(Event::Wait(100));
    world.apply(Event::Cross(0));
    world.apply(Event::Wait(10));
    world.apply(Event::Cross(0));
    world.apply(Event::Wait(2));
    let expected = Owners::from([(Arc::from("default"), vec![Arc::from("n1"), Arc::from("n2")])]);
    assert_eq!(world.views(0), BTreeSet::from([&expected]), "in its own eyes too");
    world.apply(Event::Wait(QUARANTINE_MS / STEP_MS));
    let views = world.views(0);
    assert_eq!(views.len(), 1);
    assert_eq!(views.first().unwrap()["default"].len(), 3);
}
