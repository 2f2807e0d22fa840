//! Ways that nothing passes, that pass less, or that lead through a [`Proxy`].

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clarion_launch::Place;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Cut;
use super::proxy::{Proxy, Weather};
use crate::Failure;
use crate::world::{Component, Direction, Network, World};

/// Where the rules of flapping ways are: before those of the [`Network`].
const FLAP_PRIORITY: &str = "40";

/// Ways that are cut.
#[derive(Debug)]
pub(crate) struct Cuts {
    ways: Vec<Way>,
    flapping: Option<Flapping>,
}

#[derive(Debug, Clone)]
enum Way {
    /// From one to another.
    Between(Component, Component),
    /// Between one and all others.
    All(Component, Direction),
    /// What one sends to another waits.
    Held(Component, Component),
}

impl Cuts {
    /// Cuts them.
    pub fn make(world: &World, on: &Component, cut: Cut) -> Result<Self, Failure> {
        let network = network(world)?;
        if let Cut::Flapping { every_ms } = cut {
            let flapping = Some(Flapping::start(world, on, every_ms)?);
            return Ok(Self { ways: Vec::new(), flapping });
        }
        let ways = ways(world, on, cut);
        for way in &ways {
            match way {
                Way::Between(from, to) => network.cut(from, to)?,
                Way::All(host, direction) => network.cut_off(host, *direction)?,
                Way::Held(from, to) => network.hold_back(from, to)?,
            }
        }
        Ok(Self { ways, flapping: None })
    }

    /// Opens them.
    pub async fn open(self, world: &World) -> Result<(), Failure> {
        let network = network(world)?;
        for way in &self.ways {
            match way {
                Way::Between(from, to) => network.mend(from, to)?,
                Way::All(host, direction) => network.reconnect(host, *direction)?,
                Way::Held(from, to) => network.let_through(from, to)?,
            }
        }
        match self.flapping {
            Some(flapping) => flapping.stop().await,
            None => Ok(()),
        }
    }
}

fn ways(world: &World, on: &Component, cut: Cut) -> Vec<Way> {
    if let Component::Link(from, to) = on {
        let there = Way::Between((**from).clone(), (**to).clone());
        let back = Way::Between((**to).clone(), (**from).clone());
        return match cut {
            Cut::In => vec![there],
            Cut::Out => vec![back],
            Cut::Held => vec![Way::Held((**from).clone(), (**to).clone())],
            Cut::Both | Cut::Partial | Cut::Flapping { .. } => vec![there, back],
        };
    }
    let all = |direction| vec![Way::All(on.clone(), direction)];
    match cut {
        Cut::In => all(Direction::In),
        Cut::Out | Cut::Held => all(Direction::Out),
        Cut::Both | Cut::Flapping { .. } => all(Direction::Both),
        Cut::Partial => {
            let others = world.processes().into_iter();
            let others = others.filter(|one| one.class() == on.class() && one != on);
            let both = |other: Component| {
                [Way::Between(on.clone(), other.clone()), Way::Between(other, on.clone())]
            };
            others.flat_map(both).collect()
        }
    }
}

/// Ways that are cut for a moment, again and again.
#[derive(Debug)]
struct Flapping {
    rules: Vec<FlapRule>,
    turns: JoinSet<Result<(), Failure>>,
}

/// At a host, what comes from an address.
#[derive(Debug, Clone)]
struct FlapRule {
    entry: Vec<String>,
    from: IpAddr,
}

impl Flapping {
    fn start(world: &World, on: &Component, every_ms: u64) -> Result<Self, Failure> {
        let network = network(world)?;
        let pairs = match on {
            Component::Link(from, to) => vec![((**from).clone(), (**to).clone())],
            one => {
                let others = network.hosts().filter(|other| *other != one);
                others.map(|other| (one.clone(), other.clone())).collect()
            }
        };
        let mut rules = Vec::new();
        for (one, other) in pairs {
            let (one, other) = (place(network, &one)?, place(network, &other)?);
            rules.push(FlapRule { entry: one.entry, from: other.ip });
            rules.push(FlapRule { entry: other.entry, from: one.ip });
        }
        let mut turns = JoinSet::new();
        let (all, every) = (rules.clone(), Duration::from_millis(every_ms));
        turns.spawn(async move {
            loop {
                for what in ["add", "delete"] {
                    for rule in &all {
                        rule.order(what).await?;
                    }
                    sleep(every).await;
                }
            }
        });
        Ok(Self { rules, turns })
    }

    /// All of them are open, whatever they were.
    async fn stop(mut self) -> Result<(), Failure> {
        self.turns.abort_all();
        while let Some(ended) = self.turns.join_next().await {
            if let Ok(ended) = ended {
                ended?;
            }
        }
        for rule in &self.rules {
            // Whether it was cut just now nobody knows.
            while rule.order("delete").await.is_ok() {}
        }
        Ok(())
    }
}

impl FlapRule {
    async fn order(&self, what: &str) -> Result<(), Failure> {
        let from = self.from.to_string();
        let rule = ["ip", "rule", what, "priority", FLAP_PRIORITY, "from", &from, "blackhole"];
        let mut words = self.entry.iter().map(String::as_str).chain(rule);
        let mut command = Command::new(words.next().unwrap_or("ip"));
        let output = command.args(words).output().await.map_err(Failure::of("ip rule"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!("ip rule {what}: {}", said.trim())))
    }
}

/// So many packets of a hundred are lost on a link, in both directions; none with 0.
pub(super) fn lose(world: &World, on: &Component, percent: u8) -> Result<(), Failure> {
    let (from, to) = ends(on)?;
    let network = network(world)?;
    network.lose(from, to, percent)?;
    network.lose(to, from, percent)
}

/// So many bytes a second pass along a link in each direction.
pub(super) fn narrow(
    world: &World,
    on: &Component,
    bytes_per_s: Option<u32>,
) -> Result<(), Failure> {
    let (from, to) = ends(on)?;
    let network = network(world)?;
    network.narrow(from, to, bytes_per_s)?;
    network.narrow(to, from, bytes_per_s)
}

/// The detour of two nodes' links to each other.
#[derive(Debug)]
pub(crate) struct Detour {
    /// Who gets elsewhere, and where it wanted to get.
    led: [(Component, SocketAddr); 2],
    // What passes through them ends with them, and the nodes dial again, the short way.
    _proxies: [Proxy; 2],
}

impl Detour {
    /// From now on what two nodes say to each other goes through a proxy, whoever dials.
    pub async fn make(
        world: &mut World,
        on: &Component,
        weather: Weather,
        seed: u64,
    ) -> Result<Self, Failure> {
        let (from, to) = ends(on)?;
        let (at_from, at_to) = (peers(world, from)?, peers(world, to)?);
        let network = network(world)?;
        let here = IpAddr::V4(network.own_ip());
        let there = Proxy::start(here, at_to, weather, seed).await?;
        let back = Proxy::start(here, at_from, weather, !seed).await?;
        network.redirect(from, at_to, Some(there.addr()))?;
        network.redirect(to, at_from, Some(back.addr()))?;
        let led = [(from.clone(), at_to), (to.clone(), at_from)];
        Ok(Self { led, _proxies: [there, back] })
    }

    /// The short way again.
    pub fn end(self, world: &World) -> Result<(), Failure> {
        let network = network(world)?;
        self.led.iter().try_for_each(|(from, to)| network.redirect(from, *to, None))
    }
}

/// Where other nodes reach a node.
fn peers(world: &mut World, node: &Component) -> Result<SocketAddr, Failure> {
    let Component::Node(name) = node else {
        return Err(Failure::new(format!("{node} is no node")));
    };
    let at = world.node(name)?.peers_addr();
    at.ok_or_else(|| Failure::new(format!("{node} has no peers")))
}

fn ends(on: &Component) -> Result<(&Component, &Component), Failure> {
    match on {
        Component::Link(from, to) => Ok((from, to)),
        other => Err(Failure::new(format!("{other} is no link"))),
    }
}

fn network(world: &World) -> Result<&Network, Failure> {
    world.network().ok_or_else(|| Failure::new("there are no hosts to be cut off"))
}

fn place(network: &Network, of: &Component) -> Result<Place, Failure> {
    network.place(of).ok_or_else(|| Failure::new(format!("{of} has no host")))
}
