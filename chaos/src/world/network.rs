//! A network namespace for each host: an address of its own, and ways to the others that can be cut in
//! one direction, lose packets, be narrow, or lead through somebody else. Needs root.
//!
//! A bridge joins the namespaces. The run itself is at the bridge, beside them: nothing that is done to
//! a way keeps it from asking a node how it is. A cut is a routing rule of the receiver that swallows
//! what comes from one address: the sender learns nothing, as with a broken cable.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clarion_launch::Place;

use super::Component;
use super::lease::{Lease, batch, run};
use crate::Failure;

/// The rule of the local table moves behind the cuts.
const LOCAL_PRIORITY: u8 = 100;
/// Where cuts are.
const CUT_PRIORITY: u8 = 50;
/// The last part of the run's own address.
const OWN: u8 = 254;
/// What passes a narrow way at once, bytes.
const BURST_BYTES: u32 = 32 * 1024;
/// How long packets wait before a narrow way drops them, milliseconds.
const QUEUE_MS: u32 = 200;

/// Hosts around a bridge; gone when it is dropped, with all processes in them.
#[derive(Debug)]
pub struct Network {
    hosts: BTreeMap<Component, Host>,
    ways: Mutex<Ways>,
    lease: Arc<Lease>,
}

#[derive(Debug)]
struct Host {
    space: String,
    ip: Ipv4Addr,
}

/// What was done to the ways.
#[derive(Debug, Default)]
struct Ways {
    /// How often a rule was asked for: a link and one of its hosts may be cut at the same time.
    rules: HashMap<(Component, Rule, Ipv4Addr), u32>,
    /// Hosts that are cut off from all others, those that come meanwhile too.
    off: Vec<(Component, Direction)>,
    /// By the receiver and the sender: of a hundred packets so many are lost.
    losses: BTreeMap<Component, BTreeMap<Component, u8>>,
    /// By the sender and the receiver: bytes a second.
    widths: BTreeMap<Component, BTreeMap<Component, u32>>,
    /// By the sender and where it wants to connect: where it gets to.
    detours: BTreeMap<Component, BTreeMap<SocketAddr, SocketAddr>>,
}

/// What a host does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rule {
    /// Those that come from an address are swallowed.
    From,
    /// Those for an address are not sent.
    To,
}

/// Which packets, seen from a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Those that it would get.
    In,
    /// Those that it sends.
    Out,
    /// All.
    Both,
}

impl Network {
    /// Makes a network of these hosts.
    ///
    /// # Errors
    /// When the kernel refuses: not root, or no such interfaces.
    pub fn create(hosts: &[Component]) -> Result<Self, Failure> {
        Self::with(Lease::take()?, hosts)
    }

    /// The same with names and addresses that were taken already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn with(lease: Arc<Lease>, hosts: &[Component]) -> Result<Self, Failure> {
        let mut network = Self { hosts: BTreeMap::new(), ways: Mutex::default(), lease };
        let (bridge, own) = (network.lease.name(), network.own_ip());
        let orders = format!(
            "link add {bridge} type bridge\naddress add {own}/24 dev {bridge}\n\
             link set {bridge} up\n"
        );
        batch("ip", &[], &orders)?;
        for host in hosts {
            network.add(host)?;
        }
        Ok(network)
    }

    /// Adds a host, or gives the place of one that there is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add(&mut self, component: &Component) -> Result<Place, Failure> {
        if let Some(place) = self.place(component) {
            return Ok(place);
        }
        let n = u8::try_from(self.hosts.len() + 1).ok().filter(|n| *n < OWN);
        let n = n.ok_or_else(|| Failure::new("too many hosts"))?;
        let bridge = self.lease.name();
        let called: String = component.to_string();
        let called: String =
            called.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let (space, outer) = (format!("{bridge}-{called}"), format!("{bridge}v{n}"));
        let ip = self.address(n);
        let orders = format!(
            "netns add {space}\n\
             link add {outer} type veth peer name eth0 netns {space}\n\
             link set {outer} master {bridge} up\n"
        );
        batch("ip", &[], &orders)?;
        // What is for this host is found out before anything else, unless the rule moves.
        let orders = format!(
            "address add {ip}/24 dev eth0\nlink set lo up\nlink set eth0 up\n\
             rule add priority {LOCAL_PRIORITY} lookup local\nrule delete priority 0\n"
        );
        batch("ip", &["-n", &space], &orders)?;
        self.hosts.insert(component.clone(), Host { space, ip });
        let off = self.ways().off.clone();
        for (host, direction) in off {
            self.ways_between(&host, std::slice::from_ref(component), direction, true)?;
        }
        self.place(component).ok_or_else(|| nowhere(component))
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.lease.net();
        Ipv4Addr::new(a, b, c, last)
    }

    /// Where the run itself is.
    #[must_use]
    pub fn own_ip(&self) -> Ipv4Addr {
        self.address(OWN)
    }

    /// The names and addresses that it has, for whoever makes more.
    #[must_use]
    pub const fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Component> {
        self.hosts.keys()
    }

    /// Where the component runs: its address, and the command that runs a program there.
    #[must_use]
    pub fn place(&self, component: &Component) -> Option<Place> {
        let Host { space, ip } = self.hosts.get(component)?;
        // Unlike `ip netns exec` it leaves mounts as they are: what is unmounted is gone for all.
        let entry = ["nsenter".to_owned(), format!("--net=/run/netns/{space}"), "--".to_owned()];
        Some(Place { ip: IpAddr::V4(*ip), entry: entry.to_vec() })
    }

    fn host(&self, component: &Component) -> Result<&Host, Failure> {
        self.hosts.get(component).ok_or_else(|| nowhere(component))
    }

    /// Swallows everything that one host sends to another.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self, from: &Component, to: &Component) -> Result<(), Failure> {
        self.change(to, Rule::From, std::slice::from_ref(from), true)
    }

    /// Takes one cut back; the way is free when all are.
    ///
    /// # Errors
    /// When it was not cut.
    pub fn mend(&self, from: &Component, to: &Component) -> Result<(), Failure> {
        self.change(to, Rule::From, std::slice::from_ref(from), false)
    }

    /// Cuts a host off from all others.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut_off(&self, host: &Component, direction: Direction) -> Result<(), Failure> {
        self.ways_between(host, &self.others(host), direction, true)?;
        self.ways().off.push((host.clone(), direction));
        Ok(())
    }

    /// Takes that back.
    ///
    /// # Errors
    /// When it was not cut off.
    pub fn reconnect(&self, host: &Component, direction: Direction) -> Result<(), Failure> {
        let mut ways = self.ways();
        let known = ways.off.iter().position(|(off, of)| off == host && *of == direction);
        let known = known.ok_or_else(|| Failure::new(format!("{host} is not cut off")))?;
        ways.off.swap_remove(known);
        drop(ways);
        self.ways_between(host, &self.others(host), direction, false)
    }

    fn others(&self, host: &Component) -> Vec<Component> {
        self.hosts.keys().filter(|other| *other != host).cloned().collect()
    }

    fn ways_between(
        &self,
        host: &Component,
        others: &[Component],
        direction: Direction,
        add: bool,
    ) -> Result<(), Failure> {
        if direction != Direction::Out {
            self.change(host, Rule::From, others, add)?;
        }
        if direction != Direction::In {
            for other in others {
                self.change(other, Rule::From, std::slice::from_ref(host), add)?;
            }
        }
        Ok(())
    }

    /// Holds back everything that one host sends to another. It notices no more than that nothing comes
    /// back on what is open; what it wrote waits in its sockets and is sent when the way is free again,
    /// if they are still open then.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hold_back(&self, from: &Component, to: &Component) -> Result<(), Failure> {
        self.change(from, Rule::To, std::slice::from_ref(to), true)
    }

    /// Lets it through again.
    ///
    /// # Errors
    /// When it was not held back.
    pub fn let_through(&self, from: &Component, to: &Component) -> Result<(), Failure> {
        self.change(from, Rule::To, std::slice::from_ref(to), false)
    }

    /// Adds or takes back a rule of a host about others.
    fn change(
        &self,
        at: &Component,
        rule: Rule,
        about: &[Component],
        add: bool,
    ) -> Result<(), Failure> {
        let space = self.host(at)?.space.clone();
        let mut ways = self.ways();
        let mut orders = String::new();
        let mut counts = Vec::new();
        for other in about {
            let ip = self.host(other)?.ip;
            let key = (at.clone(), rule, ip);
            let before = ways.rules.get(&key).copied().unwrap_or(0);
            let (now, order) = match (add, before) {
                (true, 0) => (1, Some("add")),
                (true, before) => (before + 1, None),
                (false, 0) => return Err(Failure::new(format!("{at} and {other} are not cut"))),
                (false, 1) => (0, Some("delete")),
                (false, before) => (before - 1, None),
            };
            let which = if rule == Rule::From { "from" } else { "to" };
            if let Some(order) = order {
                orders += &format!("rule {order} priority {CUT_PRIORITY} {which} {ip} blackhole\n");
            }
            counts.push((key, now));
        }
        if !orders.is_empty() {
            batch("ip", &["-n", &space], &orders)?;
        }
        ways.rules.extend(counts);
        ways.rules.retain(|_, count| *count > 0);
        Ok(())
    }

    /// So many of a hundred packets that one host sends to another are lost, by lot; none with 0.
    ///
    /// # Errors
    /// When `nft` (Debian: nftables) or the kernel refuses.
    pub fn lose(&self, from: &Component, to: &Component, percent: u8) -> Result<(), Failure> {
        self.host(from)?;
        let mut ways = self.ways();
        set(&mut ways.losses, to, from.clone(), (percent > 0).then_some(percent));
        self.filter(&ways, to)
    }

    /// No more bytes a second pass from one host to another; `None`: as many as there are.
    ///
    /// # Errors
    /// When `tc` (Debian: iproute2) or the kernel refuses.
    pub fn narrow(
        &self,
        from: &Component,
        to: &Component,
        bytes_per_s: Option<u32>,
    ) -> Result<(), Failure> {
        self.host(to)?;
        let mut ways = self.ways();
        let space = &self.host(from)?.space;
        let some_before = ways.widths.get(from).is_some_and(|widths| !widths.is_empty());
        set(&mut ways.widths, from, to.clone(), bytes_per_s);
        let mut orders = String::new();
        if some_before {
            orders += "qdisc delete dev eth0 root\n";
        }
        let widths = ways.widths.get(from).into_iter().flatten();
        for (index, (to, bytes_per_s)) in widths.enumerate() {
            if index == 0 {
                // What goes elsewhere goes as fast as ever.
                orders += "qdisc add dev eth0 root handle 1: htb default 1\n\
                    class add dev eth0 parent 1: classid 1:1 htb rate 10gbit quantum 60000\n";
            }
            let (class, ip) = (index + 2, self.host(to)?.ip);
            let (bits, queue) = (u64::from(*bytes_per_s) * 8, QUEUE_MS);
            orders += &format!(
                "class add dev eth0 parent 1: classid 1:{class} htb rate 10gbit quantum 60000\n\
                 qdisc add dev eth0 parent 1:{class} tbf rate {bits}bit burst {BURST_BYTES} latency {queue}ms\n\
                 filter add dev eth0 parent 1: protocol ip u32 match ip dst {ip}/32 flowid 1:{class}\n"
            );
        }
        if orders.is_empty() { Ok(()) } else { batch("tc", &["-n", space], &orders) }
    }

    /// Whoever connects from a host to an address gets to another one instead: to somebody who passes
    /// on what is sent, late or damaged ([`own_ip`](Network::own_ip) is where the run can listen).
    /// Connections that there are end. `None`: each gets to where it wants.
    ///
    /// # Errors
    /// When `nft` (Debian: nftables) or the kernel refuses.
    pub fn redirect(
        &self,
        from: &Component,
        to: SocketAddr,
        via: Option<SocketAddr>,
    ) -> Result<(), Failure> {
        let mut ways = self.ways();
        set(&mut ways.detours, from, to, via);
        self.filter(&ways, from)
    }

    /// Writes the table of a host anew, all at once.
    fn filter(&self, ways: &Ways, at: &Component) -> Result<(), Failure> {
        // So that there is one to delete.
        let mut table =
            "table ip clarion\ndelete table ip clarion\ntable ip clarion {\n".to_owned();
        table += "chain lost {\ntype filter hook input priority 0\n";
        for (from, percent) in ways.losses.get(at).into_iter().flatten() {
            let ip = self.host(from)?.ip;
            let lot = match percent {
                0..100 => format!("numgen random mod 100 < {percent} "),
                _ => String::new(),
            };
            table += &format!("ip saddr {ip} {lot}drop\n");
        }
        let detours = || ways.detours.get(at).into_iter().flatten();
        table += "}\nchain detour {\ntype nat hook output priority -100\n";
        for (to, via) in detours() {
            let (ip, port) = (to.ip(), to.port());
            table += &format!("ip daddr {ip} tcp dport {port} dnat to {via}\n");
        }
        // Where there is a detour nothing goes straight; what did before is told at its next packet.
        table += "}\nchain straight {\ntype filter hook output priority 0\n";
        for (to, _) in detours() {
            let (ip, port) = (to.ip(), to.port());
            table += &format!("ip daddr {ip} tcp dport {port} reject with tcp reset\n");
        }
        table += "}\n}\n";
        let net = format!("--net=/run/netns/{}", self.host(at)?.space);
        run("nsenter", &[&net, "--", "nft", "-f", "-"], &table)
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nowhere(component: &Component) -> Failure {
    Failure::new(format!("{component} has no host"))
}

/// Sets what is said of a pair, or takes it away.
fn set<K: Ord, V>(
    all: &mut BTreeMap<Component, BTreeMap<K, V>>,
    of: &Component,
    key: K,
    value: Option<V>,
) {
    let known = all.entry(of.clone()).or_default();
    match value {
        Some(value) => drop(known.insert(key, value)),
        None => drop(known.remove(&key)),
    }
}

#[cfg(test)]
mod tests;
