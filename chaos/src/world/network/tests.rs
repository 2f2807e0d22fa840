//! Programs in real namespaces (root).

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;
use crate::world::sweep;

/// Says where it listens, and with a letter who was reached; sends all that is asked for.
const SERVER: &str = "
import socket, sys, threading
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], 0)); s.listen(); print(s.getsockname()[1], flush=True)
def serve(c):
  try:
    c.sendall(sys.argv[2].encode())
    while True:
      asked = c.recv(9)
      if not asked: return
      c.sendall(b'.' * int(asked))
  except OSError: pass
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
";

/// Connects with `c IP PORT`, asks for bytes with `a COUNT`; says how that went, and how long it took.
const CLIENT: &str = "
import socket, sys, time
s = None
for line in sys.stdin:
  what, *rest = line.split()
  began = time.monotonic()
  try:
    if what == 'c':
      s = socket.create_connection((rest[0], int(rest[1])), timeout=1)
      said = s.recv(1).decode()
    else:
      s.sendall(b'%9d' % int(rest[0])); left = int(rest[0])
      s.settimeout(20)
      while left:
        got = len(s.recv(min(left, 65536)))
        if not got: raise OSError('closed')
        left -= got
      said = 'all'
  except TimeoutError: said = 'nothing'
  except OSError as e: said = 'error'
  print(said, time.monotonic() - began, flush=True)
";

struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn at(place: &Place, script: &str, arguments: &[&str]) -> Self {
        let words = place.entry.iter().map(String::as_str).chain(["python3", "-c", script]);
        let words: Vec<&str> = words.chain(arguments.iter().copied()).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn tell(&mut self, order: &str) -> (String, f64) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(format!("{order}\n").as_bytes()).unwrap();
        let line = self.line();
        let (said, seconds) = line.split_once(' ').unwrap();
        (said.to_owned(), seconds.parse().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server and a client at each of some nodes.
struct Town {
    network: Network,
    nodes: Vec<(Component, SocketAddr, Program, Program)>,
}

impl Town {
    fn of(count: usize) -> Self {
        let hosts: Vec<Component> =
            (1..=count).map(|n| Component::Node(format!("node-{n}"))).collect();
        let network = Network::create(&hosts).unwrap();
        let nodes = hosts.into_iter().map(|host| {
            let place = network.place(&host).unwrap();
            let mut server = Program::at(&place, SERVER, &[&place.ip.to_string(), "S"]);
            let at = SocketAddr::new(place.ip, server.line().parse().unwrap());
            let client = Program::at(&place, CLIENT, &[]);
            (host, at, server, client)
        });
        let nodes = nodes.collect();
        Self { network, nodes }
    }

    fn node(&self, n: usize) -> Component {
        self.nodes[n].0.clone()
    }

    fn connects(&mut self, from: usize, to: usize) -> String {
        let at = self.nodes[to].1;
        self.nodes[from].3.tell(&format!("c {} {}", at.ip(), at.port())).0
    }

    /// Whether it connects again, which on a busy machine may take more than one attempt's time.
    fn connects_again(&mut self, from: usize, to: usize) -> bool {
        (0..20).any(|_| self.connects(from, to) == "S")
    }

    fn gets(&mut self, at: usize, bytes: usize) -> (String, f64) {
        self.nodes[at].3.tell(&format!("a {bytes}"))
    }
}

#[test]
fn a_cut_swallows_one_direction_and_others_notice_nothing() {
    let mut town = Town::of(3);
    let (a, b) = (town.node(0), town.node(1));
    assert_eq!(town.connects(0, 1), "S");
    town.network.cut(&a, &b).unwrap();
    assert_eq!(town.connects(0, 1), "nothing", "what is asked is swallowed");
    assert_eq!(town.connects(1, 0), "nothing", "what is answered is swallowed");
    assert_eq!((town.connects(2, 1), town.connects(0, 2)), ("S".into(), "S".into()));
    town.network.mend(&a, &b).unwrap();
    assert!(town.connects_again(0, 1) && town.connects_again(1, 0));
    assert!(town.network.mend(&a, &b).is_err());
}

#[test]
fn cuts_of_a_way_and_of_its_host_lie_over_each_other() {
    let mut town = Town::of(3);
    let (a, b) = (town.node(0), town.node(1));
    town.network.cut(&a, &b).unwrap();
    town.network.cut_off(&b, Direction::Both).unwrap();
    assert_eq!((town.connects(2, 1), town.connects(1, 2)), ("nothing".into(), "nothing".into()));
    assert_eq!(town.connects(0, 2), "S");
    town.network.reconnect(&b, Direction::Both).unwrap();
    assert!(town.connects_again(2, 1));
    assert_eq!(town.connects(0, 1), "nothing");
    town.network.mend(&a, &b).unwrap();
    assert!(town.connects_again(0, 1));
}

#[test]
fn who_comes_while_a_host_is_cut_off_does_not_reach_it_until_it_is_reconnected() {
    let mut town = Town::of(2);
    let a = town.node(0);
    town.network.cut_off(&a, Direction::Both).unwrap();
    let late = Component::Node("node-3".into());
    let place = town.network.add(&late).unwrap();
    let at = town.nodes[0].1;
    let mut client = Program::at(&place, CLIENT, &[]);
    let mut connects = || client.tell(&format!("c {} {}", at.ip(), at.port())).0;
    assert_eq!(connects(), "nothing");
    town.network.reconnect(&a, Direction::Both).unwrap();
    assert!((0..20).any(|_| connects() == "S"));
    assert!(town.connects_again(1, 0));
    assert!(town.network.reconnect(&a, Direction::Both).is_err(), "it is not cut off");
}

#[test]
fn a_host_that_hears_nothing_still_speaks_and_the_other_way_round() {
    let mut town = Town::of(2);
    let (a, udp) = (
        town.node(0),
        "import socket,sys\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 0))\n\
        print(s.getsockname()[1], flush=True)\n\
        while True: print(s.recv(9).decode(), flush=True)",
    );
    let place = |town: &Town, n: usize| town.network.place(&town.node(n)).unwrap();
    let hears = |at: &Place, from: &Place, heard: &mut Program, port: &str, text: &str| {
        let script = "import socket,sys\n\
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
            s.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))";
        let mut sender = Program::at(from, script, &[&at.ip.to_string(), port, text]);
        assert!(sender.child.wait().unwrap().success());
        heard.line()
    };
    let places = [place(&town, 0), place(&town, 1)];
    let mut ears = places.clone().map(|at| Program::at(&at, udp, &[&at.ip.to_string()]));
    let ports = [ears[0].line(), ears[1].line()];
    town.network.cut_off(&a, Direction::In).unwrap();
    assert_eq!(town.connects(0, 1), "nothing");
    assert_eq!(hears(&places[1], &places[0], &mut ears[1], &ports[1], "spoken"), "spoken");
    town.network.reconnect(&a, Direction::In).unwrap();
    town.network.cut_off(&a, Direction::Out).unwrap();
    assert_eq!(town.connects(0, 1), "nothing");
    assert_eq!(hears(&places[0], &places[1], &mut ears[0], &ports[0], "heard"), "heard");
}

#[test]
fn what_is_held_back_arrives_when_it_is_let_through() {
    let mut town = Town::of(2);
    let (a, b) = (town.node(0), town.node(1));
    assert_eq!(town.connects(0, 1), "S");
    town.network.hold_back(&a, &b).unwrap();
    assert_eq!(town.connects(1, 0), "nothing", "the answers of the first are held back, too");
    let input = town.nodes[0].3.child.stdin.as_mut().unwrap();
    input.write_all(b"a 1000\n").unwrap();
    town.network.let_through(&a, &b).unwrap();
    assert!(town.nodes[0].3.line().starts_with("all"));
}

#[test]
fn packets_are_lost_by_lot_and_a_narrow_way_takes_its_time() {
    let mut town = Town::of(3);
    let (a, b) = (town.node(0), town.node(1));
    town.network.lose(&b, &a, 100).unwrap();
    assert_eq!(town.connects(0, 1), "nothing");
    // Few enough for TCP to get everything through.
    town.network.lose(&b, &a, 10).unwrap();
    while town.connects(0, 1) != "S" {}
    assert_eq!(town.gets(0, 1_000_000).0, "all");
    let lost = town.network.place(&a).unwrap().entry;
    let list = Command::new(&lost[0]).args(&lost[1..]).args(["nft", "list", "ruleset"]).output();
    assert!(String::from_utf8_lossy(&list.unwrap().stdout).contains("random"));
    town.network.lose(&b, &a, 0).unwrap();
    let free = town.gets(0, 400_000);
    assert!(free.0 == "all" && free.1 < 1.0, "{free:?}");
    town.network.narrow(&b, &a, Some(200_000)).unwrap();
    let narrow = town.gets(0, 400_000);
    assert!(narrow.0 == "all" && narrow.1 > 1.0, "{narrow:?}");
    while town.connects(2, 1) != "S" {}
    let other = town.gets(2, 400_000);
    assert!(other.0 == "all" && other.1 < 1.0, "a way to somebody else: {other:?}");
    town.network.narrow(&b, &a, None).unwrap();
    let free = town.gets(0, 400_000);
    assert!(free.0 == "all" && free.1 < 1.0, "{free:?}");
}

#[test]
fn a_way_can_lead_through_the_run_and_what_went_straight_ends() {
    let mut town = Town::of(2);
    let (a, to) = (town.node(0), town.nodes[1].1);
    assert_eq!(town.connects(0, 1), "S");
    let detour = TcpListener::bind((town.network.own_ip(), 0)).unwrap();
    let via = detour.local_addr().unwrap();
    town.network.redirect(&a, to, Some(via)).unwrap();
    assert_eq!(town.gets(0, 10).0, "error", "the connection ended");
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = detour.accept().unwrap();
        stream.write_all(b"D").unwrap();
    });
    assert_eq!(town.connects(0, 1), "D");
    answers.join().unwrap();
    assert_eq!(town.connects(1, 0), "S", "the other direction goes straight");
    town.network.redirect(&a, to, None).unwrap();
    assert_eq!(town.connects(0, 1), "S");
}

fn is_there(name: &str, host: &str) -> [bool; 3] {
    let space = Path::new("/run/netns").join(format!("{name}-{host}"));
    let bridge = Path::new("/sys/class/net").join(name);
    [space.exists(), bridge.exists(), Path::new("/run/clarion-chaos").join(name).exists()]
}

#[test]
fn two_networks_do_not_collide_and_each_is_gone_when_it_is_dropped() {
    let mut first = Town::of(2);
    let mut second = Town::of(2);
    assert_ne!(first.network.lease().net(), second.network.lease().net());
    assert_eq!((first.connects(0, 1), second.connects(0, 1)), ("S".into(), "S".into()));
    let name = first.network.lease().name().to_owned();
    assert_eq!(is_there(&name, "node-node-1"), [true; 3]);
    let inside = first.nodes[0].2.child.id();
    // Not the programs: these go with the network.
    let Town { network, mut nodes } = first;
    drop(network);
    assert_eq!(is_there(&name, "node-node-1"), [false; 3]);
    assert!(nodes[0].2.child.wait().unwrap().code().is_none(), "{inside} was killed");
    assert_eq!(second.connects(1, 0), "S");
}

/// Set for a copy of this program that is to make a network, say so, and wait for its end.
const MAKE: &str = "CLARION_TEST_MAKE_A_NETWORK";

#[test]
fn what_a_killed_run_left_is_swept_away_with_its_processes() {
    if std::env::var_os(MAKE).is_some() {
        let network = Network::create(&[Component::Client]).unwrap();
        let place = network.place(&Component::Client).unwrap();
        let mut child = Program::at(&place, SERVER, &[&place.ip.to_string(), "S"]);
        // It is inside when it listens; until then it is a shell on its way there.
        child.line();
        println!("made {} {}", network.lease().name(), child.child.id());
        loop {
            std::thread::park();
        }
    }
    let this = "world::network::tests::what_a_killed_run_left_is_swept_away_with_its_processes";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", this, "--nocapture"]).env(MAKE, "1").stdout(Stdio::piped());
    let mut other = command.spawn().unwrap();
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let made = lines.find_map(|line| Some(line.unwrap().split_once("made ")?.1.to_owned()));
    let made = made.unwrap();
    let (name, pid) = made.split_once(' ').unwrap();
    // Others may sweep at the same time; nobody takes from one that lives.
    sweep().unwrap();
    assert_eq!(is_there(name, "client-0"), [true; 3]);
    other.kill().unwrap();
    other.wait().unwrap();
    sweep().unwrap();
    assert_eq!(is_there(name, "client-0"), [false; 3]);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}
