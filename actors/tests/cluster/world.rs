//! Some nodes over one store.

use std::collections::BTreeMap;
use std::sync::Arc;

use clarion_actors::System;
use clarion_actors::cluster::{Topology, TopologyNode};
use clarion_config::Config;
use clarion_core::LogKey;
use clarion_core::placement::{self, SlotTable};
use clarion_protocol::http::Audience;
use clarion_storage::memory::MemoryStore;
use clarion_storage::{DEFAULT_GROUP, Store};

use crate::links::{Flow, Link};
use crate::store::NodeStore;
use crate::support::{self, Node, product_id, record, terminal_id, topic};

/// Time for a forwarded append in these tests, in milliseconds.
pub const FORWARD_MS: u64 = 300;

pub struct Member {
    pub name: &'static str,
    pub boot: u64,
    pub group: &'static str,
    pub node: Node,
    pub store: Arc<NodeStore>,
}

impl std::ops::Deref for Member {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.node
    }
}

pub struct World {
    pub store: Arc<MemoryStore>,
    pub members: Vec<Member>,
    pub links: Vec<Link>,
    revision: u64,
    /// Messages that a lane of a link holds.
    pub room: usize,
}

fn base_config() -> Config {
    let mut config = support::config();
    config.cluster.forward_timeout_ms = FORWARD_MS;
    config.cluster.poll_ms = 100;
    config.limits.append_timeout_ms = FORWARD_MS;
    config
}

impl World {
    /// Nodes of these names, all linked, all of one view.
    pub async fn of(names: &[&'static str]) -> Self {
        Self::with(names, |_| {}).await
    }

    pub async fn with(names: &[&'static str], change: impl Fn(&mut Config)) -> Self {
        let mut world = Self {
            store: Arc::new(MemoryStore::new()),
            members: Vec::new(),
            links: Vec::new(),
            revision: 0,
            room: 4096,
        };
        for name in names {
            world.add(name, DEFAULT_GROUP, &change).await;
        }
        world.link_all();
        world.all_see(names);
        world
    }

    /// A node that nobody sees yet.
    pub async fn add(
        &mut self,
        name: &'static str,
        group: &'static str,
        change: &impl Fn(&mut Config),
    ) {
        let mut config = base_config();
        config.node.id = name.to_owned();
        config.node.isolation_group = group.to_owned();
        change(&mut config);
        let store = NodeStore::new(Arc::clone(&self.store));
        let dynamic: Arc<dyn Store> = Arc::<NodeStore>::clone(&store);
        let system = System::start_among_others(Arc::new(config), dynamic).await.unwrap();
        if system.product(&product_id("demo")).await.unwrap().is_none() {
            system.create_product(record("demo")).await.unwrap();
        }
        let product = system.product(&product_id("demo")).await.unwrap().unwrap();
        let node = Node { system, store: Arc::clone(&self.store), product };
        let boot = fastrand::u64(1..);
        self.members.push(Member { name, boot, group, node, store });
    }

    /// The latest of that name.
    pub fn node(&self, name: &str) -> &Member {
        self.members.iter().rev().find(|member| member.name == name).unwrap()
    }

    pub fn link_all(&mut self) {
        let names: Vec<_> = self.members.iter().map(|member| member.name).collect();
        for (at, a) in names.iter().enumerate() {
            for b in &names[at + 1..] {
                if a != b {
                    self.link(a, b);
                }
            }
        }
    }

    pub fn link(&mut self, a: &str, b: &str) {
        self.links.retain(|link| !link.is_of(a, b));
        let (a, b) = (self.node(a), self.node(b));
        let link = Link::up(
            (a.system.cluster(), a.name, a.boot),
            (b.system.cluster(), b.name, b.boot),
            self.room,
        );
        self.links.push(link);
    }

    pub fn link_of(&self, a: &str, b: &str) -> &Link {
        self.links.iter().find(|link| link.is_of(a, b)).unwrap()
    }

    /// Ends the link between two nodes, as heartbeats do when nothing comes through.
    pub fn cut(&mut self, a: &str, b: &str) {
        self.link_of(a, b).flow(Flow::Loses);
        self.link_of(a, b).down(false);
        self.links.retain(|link| !link.is_of(a, b));
    }

    /// Everybody sees these nodes.
    pub fn all_see(&mut self, names: &[&str]) {
        for name in self.members.iter().map(|member| member.name).collect::<Vec<_>>() {
            self.sees(name, names);
        }
    }

    /// One node sees these.
    pub fn sees(&mut self, who: &str, names: &[&str]) {
        self.sees_draining(who, names, &[]);
    }

    /// One node sees these, and others that are about to go and own nothing.
    pub fn sees_draining(&mut self, who: &str, names: &[&str], leaving: &[&str]) {
        self.revision += 1;
        let mut nodes = std::collections::HashMap::new();
        let mut groups: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
        for name in names.iter().chain(leaving) {
            let member = self.node(name);
            let (id, group): (Arc<str>, Arc<str>) = (member.name.into(), member.group.into());
            let (broker, draining, boot) = (true, leaving.contains(name), member.boot);
            if !draining {
                groups.entry(Arc::clone(&group)).or_default().push(Arc::clone(&id));
            }
            nodes.insert(id, TopologyNode { group, boot, broker, draining });
        }
        let table = |(group, ids)| (group, Arc::new(SlotTable::new(ids)));
        let tables = groups.into_iter().map(table).collect();
        let topology = Topology { revision: self.revision, nodes, tables };
        self.node(who).system.cluster().set_topology(Arc::new(topology));
    }

    /// The process of a node is gone: its links are reset and its address refuses.
    pub fn kill(&mut self, name: &str) {
        self.node(name).store.die();
        for link in self.links.iter().filter(|link| link.touches(name)) {
            link.flow(Flow::Loses);
            link.down(true);
        }
        self.links.retain(|link| !link.touches(name));
    }
}

/// A terminal whose inbox that node owns, among those of the cluster.
pub fn terminal_of(owner: &str, names: &[&str]) -> &'static str {
    find(owner, names, |name| LogKey::terminal(&product_id("demo"), &terminal_id(name)), "t")
}

/// A topic that it owns.
pub fn topic_of(owner: &str, names: &[&str]) -> &'static str {
    find(owner, names, |name| LogKey::topic(&product_id("demo"), &topic(name)), "news")
}

fn find(
    owner: &str,
    names: &[&str],
    log: impl Fn(&str) -> Arc<LogKey>,
    prefix: &str,
) -> &'static str {
    let table = SlotTable::new(names.iter().map(|name| Arc::from(*name)));
    let name = (0..)
        .map(|number| format!("{prefix}-{owner}-{number}"))
        .find(|name| table.owns(owner, placement::slot_of(&log(name))));
    Box::leak(name.unwrap().into_boxed_str())
}

pub fn to_terminal(name: &str) -> Audience {
    support::to_terminals(&[name])
}

/// Reads and acknowledges until all these texts have come; each once, but for what says it comes
/// again. Returns them in their order.
pub async fn read_all(link: &mut support::TestTerminal, count: usize) -> Vec<String> {
    let mut got: Vec<String> = Vec::new();
    while got.len() < count {
        let new = link.deliver().await;
        let last = new.last().unwrap();
        link.ack(last.log, last.offset).await;
        for message in new {
            assert!(!got.contains(&message.text), "twice: {}", message.text);
            got.push(message.text);
        }
    }
    got
}

pub fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name} {number}")).collect()
}

/// Pushes one after the other and insists that each is accepted.
pub async fn push_all(node: &Node, audience: Audience, texts: &[String]) {
    for text in texts {
        node.accepted(audience.clone(), text).await;
    }
}

impl Member {
    /// What is in the log of the first target.
    pub async fn entries_of(&self, audience: Audience) -> Vec<Arc<clarion_core::Entry>> {
        let product = &self.node.product.product;
        let log = match &audience {
            Audience::All => LogKey::broadcast(product),
            Audience::Terminals(ids) => LogKey::terminal(product, &ids[0]),
            Audience::Users(ids) => LogKey::user(product, &ids[0]),
            Audience::Topic(name) => LogKey::topic(product, name),
        };
        let after = clarion_protocol::Offset::ZERO;
        let read = clarion_storage::Read { log, after, entries_max: 100_000, bytes_max: u32::MAX };
        self.node.store.read(vec![read]).await.pop().unwrap().unwrap().entries
    }

    /// How many messages the store has places for in the log, acknowledged ones too.
    pub async fn stored(&self, audience: Audience) -> usize {
        self.entries_of(audience).await.len()
    }
}

pub fn text_of(entry: &clarion_core::Entry) -> String {
    match &entry.body {
        clarion_core::Body::Json(text) => serde_json::from_slice(text).unwrap(),
        other => panic!("{other:?}"),
    }
}
