//! Network namespaces: each node has an address and a way to the others of its own, and any way can
//! be cut in one direction. Needs root.
//!
//! A bridge joins the namespaces; clients and Redis are where the tests run, on the bridge's own
//! addresses. A cut is a routing rule of the receiver that swallows what comes from one address: the
//! sender learns nothing, as with a broken cable.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Output};

use clarion_launch::Place;

use crate::Failure;

/// The rule of the local table moves behind the cuts.
const LOCAL_PRIORITY: &str = "100";
/// Where cuts are.
const CUT_PRIORITY: &str = "50";

/// A bridge with namespaces around it; gone when it is dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// The first three parts of all addresses.
    net: [u8; 3],
    spaces: usize,
}

/// Somebody in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The n-th namespace.
    Node(usize),
    /// Redis, in the tests' own namespace.
    Redis,
}

impl Network {
    /// Makes a network of so many namespaces, fewer than 100.
    ///
    /// # Errors
    /// When the kernel refuses: not root, or no such interfaces.
    pub fn create(spaces: usize) -> Result<Self, Failure> {
        let pid = std::process::id();
        let part = |shift: u32| u8::try_from((pid >> shift) & 0xff).unwrap_or(0);
        // Of the addresses for private use; the process id keeps runs beside each other apart.
        let network =
            Self { name: format!("cl{pid:x}"), net: [10, 64 + part(8) % 128, part(0)], spaces: 0 };
        let mut network = network;
        let bridge = network.name.clone();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        for own in [network.client_ip(), network.redis_ip()] {
            ip(&["address", "add", &format!("{own}/24"), "dev", &bridge])?;
        }
        ip(&["link", "set", &bridge, "up"])?;
        for index in 0..spaces {
            network.add(index)?;
        }
        Ok(network)
    }

    fn add(&mut self, index: usize) -> Result<(), Failure> {
        let (space, bridge) = (self.space(index), self.name.clone());
        ip(&["netns", "add", &space])?;
        self.spaces += 1;
        let outer = format!("{bridge}v{index}");
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
        ip(&["link", "set", &outer, "master", &bridge, "up"])?;
        let inside = |arguments: &[&str]| {
            let mut all = vec!["-n", &space];
            all.extend_from_slice(arguments);
            ip(&all)
        };
        let address = format!("{}/24", self.ip(Who::Node(index)));
        inside(&["address", "add", &address, "dev", "eth0"])?;
        inside(&["link", "set", "lo", "up"])?;
        inside(&["link", "set", "eth0", "up"])?;
        // What is for this host is found out before anything else, unless the rule moves.
        inside(&["rule", "add", "priority", LOCAL_PRIORITY, "lookup", "local"])?;
        inside(&["rule", "delete", "priority", "0"])
    }

    fn space(&self, index: usize) -> String {
        format!("{}n{index}", self.name)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, last)
    }

    fn client_ip(&self) -> Ipv4Addr {
        self.address(254)
    }

    /// Where Redis is to listen.
    #[must_use]
    pub fn redis_ip(&self) -> Ipv4Addr {
        self.address(253)
    }

    fn ip(&self, who: Who) -> Ipv4Addr {
        match who {
            Who::Node(index) => self.address(u8::try_from(index + 1).unwrap_or(u8::MAX)),
            Who::Redis => self.redis_ip(),
        }
    }

    /// Where the nodes are to run.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let place = |index| Place {
            ip: IpAddr::V4(self.ip(Who::Node(index))),
            entry: ["ip", "netns", "exec", &self.space(index)].map(str::to_owned).to_vec(),
        };
        (0..self.spaces).map(place).collect()
    }

    /// Swallows everything that `from` sends to a node.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self, from: Who, to: usize) -> Result<(), Failure> {
        self.rule("add", from, to)
    }

    /// Holds back everything that a node sends to Redis. The node notices no more than that nothing
    /// comes back on what is open; what it wrote waits in its sockets and is sent when the way is
    /// mended, if they are still open then.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hold_back(&self, from: usize) -> Result<(), Failure> {
        self.rule_at(from, "add", "to", self.redis_ip())
    }

    /// Lets it through again.
    ///
    /// # Errors
    /// When it was not held back.
    pub fn let_through(&self, from: usize) -> Result<(), Failure> {
        self.rule_at(from, "delete", "to", self.redis_ip())
    }

    /// Lets it through again.
    ///
    /// # Errors
    /// When it was not cut.
    pub fn mend(&self, from: Who, to: usize) -> Result<(), Failure> {
        self.rule("delete", from, to)
    }

    fn rule(&self, what: &str, from: Who, to: usize) -> Result<(), Failure> {
        self.rule_at(to, what, "from", self.ip(from))
    }

    fn rule_at(&self, at: usize, what: &str, which: &str, ip_of: Ipv4Addr) -> Result<(), Failure> {
        let (space, other) = (self.space(at), ip_of.to_string());
        let rule = ["priority", CUT_PRIORITY, which, &other, "blackhole"];
        let mut all = vec!["-n", &space, "rule", what];
        all.extend_from_slice(&rule);
        ip(&all)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for index in 0..self.spaces {
            // The kernel is slow to clear a namespace away; what hangs on it goes first.
            let _ = ip(&["link", "delete", &format!("{}v{index}", self.name)]);
            let _ = ip(&["netns", "delete", &self.space(index)]);
        }
        let _ = ip(&["link", "delete", &self.name]);
    }
}

/// Runs `ip` (Debian: iproute2).
fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let what = format!("ip {}", arguments.join(" "));
    let Output { status, stderr, .. } =
        Command::new("ip").args(arguments).output().map_err(Failure::of(&what))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&stderr);
    Err(Failure::new(format!("{what}: {} (network namespaces need root)", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a packet sent in one namespace is answered by another.
    fn answers(network: &Network, from: usize, to: usize) -> bool {
        // Without a server the answer is a refusal at once; without a way there is none.
        let script = format!(
            "import socket,sys; s=socket.socket(); s.settimeout(0.5)\n\
             try: s.connect(('{}', 9))\n\
             except ConnectionRefusedError: sys.exit(0)\n\
             except OSError: sys.exit(1)",
            network.ip(Who::Node(to))
        );
        let space = network.space(from);
        let python = ["netns", "exec", &space, "python3", "-c", &script];
        Command::new("ip").args(python).status().unwrap().success()
    }

    #[test]
    fn ways_are_cut_and_mended_in_one_direction() {
        let network = Network::create(3).unwrap();
        assert!(answers(&network, 0, 1));
        network.cut(Who::Node(0), 1).unwrap();
        assert!(!answers(&network, 0, 1), "what is asked is swallowed");
        assert!(!answers(&network, 1, 0), "what is answered is swallowed");
        assert!(answers(&network, 2, 1) && answers(&network, 0, 2));
        network.mend(Who::Node(0), 1).unwrap();
        assert!(answers(&network, 0, 1) && answers(&network, 1, 0));
        assert!(network.mend(Who::Node(0), 1).is_err());
        let (name, space) = (network.name.clone(), network.space(0));
        drop(network);
        assert!(!std::path::Path::new("/sys/class/net").join(name).exists());
        assert!(!std::path::Path::new("/run/netns").join(space).exists());
    }
}
