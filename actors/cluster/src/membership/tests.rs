//! Several memberships in one process, over real sockets on the loopback address.

use std::time::Duration;

use clarion_core::{Role, Roles};

use super::*;
use crate::identity::new_boot;

/// A test that waits longer than this for something to become true has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const COOKIE: &str = "a cookie of these tests";

/// How to start a node; by default like all the others.
#[derive(Clone)]
struct Plan {
    id: &'static str,
    group: &'static str,
    seeds: Vec<String>,
    cookie: &'static str,
    cluster: &'static str,
    listen: SocketAddr,
    gossip_ms: u64,
    quarantine_ms: u64,
    roles: Roles,
}

fn plan(id: &'static str) -> Plan {
    Plan {
        id,
        group: "default",
        seeds: Vec::new(),
        cookie: COOKIE,
        cluster: "clarion",
        listen: ([127, 0, 0, 1], 0).into(),
        gossip_ms: 50,
        quarantine_ms: 500,
        roles: Roles::ALL,
    }
}

impl Plan {
    fn seed(mut self, node: &Node) -> Self {
        self.seeds.push(node.addr.to_string());
        self
    }

    async fn start(self) -> Node {
        let boot = new_boot();
        let identity = NodeIdentity { id: self.id.into(), boot, group: self.group.into() };
        let settings = Settings {
            listen: self.listen,
            advertise: None,
            seeds: self.seeds.clone(),
            cluster: self.cluster.to_owned(),
            gossip_ms: self.gossip_ms,
            quarantine_ms: self.quarantine_ms,
            roles: self.roles,
            version: "test".to_owned(),
            wire: (1, 1),
            http_url: format!("http://{}", self.id),
            terminals_url: None,
        };
        let cookie = Cookie::new(self.cookie).unwrap();
        let mut membership = None;
        // The socket of a node that was just dropped is closed by its runtime, a moment later.
        for _ in 0..1_000 {
            match Membership::start(settings.clone(), identity.clone(), cookie.clone()).await {
                Ok(started) => {
                    membership = Some(started);
                    break;
                }
                Err(StartError::Listen { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let membership = membership.expect("the address becomes free");
        let (view, addr) = (membership.view(), membership.local_addr());
        Node { plan: self, boot, membership, view, addr }
    }
}

struct Node {
    plan: Plan,
    boot: BootId,
    membership: Membership,
    view: watch::Receiver<Arc<View>>,
    addr: SocketAddr,
}

impl Node {
    /// The first view of which this is true.
    async fn sees(&self, what: &str, is_so: impl Fn(&View) -> bool) -> Arc<View> {
        let mut watched = self.view.clone();
        let seen = tokio::time::timeout(PATIENCE, watched.wait_for(|view| is_so(view))).await;
        if let Ok(view) = seen {
            return Arc::clone(&view.unwrap());
        }
        panic!("{} never saw {what}: {:#}", self.plan.id, self.now().dump())
    }

    async fn sees_members(&self, ids: &[&str]) -> Arc<View> {
        self.sees(&format!("{ids:?}"), |view| ids_of(view) == ids).await
    }

    fn now(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Killed, and started again at the same address as another boot.
    async fn killed_and_restarted(self) -> Self {
        let plan = Plan { listen: self.addr, ..self.plan };
        drop(self.membership);
        plan.start().await
    }
}

fn ids_of(view: &View) -> Vec<&str> {
    view.members.iter().map(|member| &*member.id).collect()
}

fn owners_of<'a>(view: &'a View, group: &str) -> Vec<&'a str> {
    view.table(group).map(|table| table.members().map(|id| &**id).collect()).unwrap_or_default()
}

async fn three() -> [Node; 3] {
    let a = plan("a").start().await;
    let b = plan("b").seed(&a).start().await;
    let c = plan("c").seed(&a).start().await;
    for node in [&a, &b, &c] {
        node.sees_members(&["a", "b", "c"]).await;
    }
    [a, b, c]
}

#[tokio::test]
async fn a_node_alone_owns_everything() {
    let a = plan("a").start().await;
    let view = a.now();
    assert_eq!(ids_of(&view), ["a"]);
    assert_eq!(owners_of(&view, "default"), ["a"]);
    assert!(view.settled, "there is nobody to wait for");
    assert_eq!((view.me().boot, &*view.me().http_url), (a.boot, "http://a"));
    assert!(view.me().standing.reachable);
}

#[tokio::test]
async fn a_node_that_has_seeds_waits_a_moment_before_it_is_settled() {
    let a = Plan { seeds: vec!["127.0.0.1:9".to_owned()], ..plan("a") }.start().await;
    assert!(!a.now().settled);
    a.sees("that it is the first", |view| view.settled).await;
}

#[tokio::test]
async fn one_seed_is_enough_and_knowledge_spreads() {
    let [a, b, c] = three().await;
    for node in [&a, &b, &c] {
        let view = node.now();
        for other in [&a, &b, &c] {
            let member = view.member(other.plan.id).unwrap();
            assert_eq!((member.boot, member.peer_addr), (other.boot, other.addr));
            assert_eq!(member.standing.flaps, 0);
        }
        assert_eq!(owners_of(&view, "default"), ["a", "b", "c"]);
    }
    let (one, other) = (a.now(), b.now());
    assert_eq!(one.table("default"), other.table("default"), "all compute the same owners");
}

#[tokio::test]
async fn tables_are_kept_while_owners_are_the_same() {
    let [a, b, _c] = three().await;
    let before = a.now();
    b.membership.set_load(Load { links: 5, links_max: 10, ..Load::default() });
    let after = a.sees("the load", |view| view.member("b").unwrap().load.links == 5).await;
    assert!(after.revision > before.revision);
    assert!(Arc::ptr_eq(&after.tables["default"], &before.tables["default"]));
}

#[tokio::test]
async fn the_dead_leave_members_and_tables() {
    let [a, b, c] = three().await;
    drop(c);
    for node in [&a, &b] {
        let view = node.sees_members(&["a", "b"]).await;
        assert_eq!(owners_of(&view, "default"), ["a", "b"]);
    }
}

#[tokio::test]
async fn who_restarts_is_in_quarantine_and_flaps_are_counted() {
    let [a, b, mut c] = three().await;
    for flap in 1..=2 {
        c = c.killed_and_restarted().await;
        let boot = c.boot;
        let held = |view: &View| {
            let is_held =
                |member: &Member| member.boot == boot && member.standing.why == Why::Quarantined;
            view.member("c").is_some_and(is_held)
        };
        let view = a.sees("c in quarantine", held).await;
        assert_eq!(owners_of(&view, "default"), ["a", "b"]);
        let standing = view.member("c").unwrap().standing;
        assert_eq!(standing.flaps, flap);
        let owns = |view: &View| {
            view.member("c").is_some_and(|member| member.boot == boot && member.standing.owns)
        };
        for node in [&a, &b, &c] {
            let view = node.sees("c own again", owns).await;
            assert_eq!(owners_of(&view, "default"), ["a", "b", "c"]);
        }
    }
}

#[tokio::test]
async fn gossip_of_another_cookie_or_cluster_is_not_heard() {
    let a = plan("a").start().await;
    let wrong = Plan { cookie: "another cookie, as long", ..plan("wrong") }.seed(&a);
    let wrong = wrong.start().await;
    let foreign = Plan { cluster: "other", ..plan("foreign") }.seed(&a).start().await;
    for node in [&wrong, &foreign] {
        let view = node.sees("that nobody answers", |view| view.settled).await;
        assert_eq!(view.members.len(), 1);
    }
    let _right = plan("right").seed(&a).start().await;
    a.sees_members(&["a", "right"]).await;
}

#[tokio::test]
async fn noise_keeps_nobody_from_joining() {
    let a = plan("a").start().await;
    let noise = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut forged = [0_u8; 200];
    forged[..4].copy_from_slice(b"CLG1");
    forged[29] = 1;
    for _ in 0..2_000 {
        noise.send_to(&forged, a.addr).unwrap();
        noise.send_to(b"noise", a.addr).unwrap();
        noise.send_to(&[0; 9_000], a.addr).unwrap();
    }
    let _b = plan("b").seed(&a).start().await;
    a.sees_members(&["a", "b"]).await;
}

#[tokio::test]
async fn who_drains_or_is_sick_owns_nothing() {
    let [a, b, c] = three().await;
    b.membership.set_draining(true);
    let view = a.sees("b drain", |view| view.member("b").unwrap().draining).await;
    assert_eq!(owners_of(&view, "default"), ["a", "c"]);
    c.membership.set_sick(true);
    let view = a.sees("c sick", |view| view.member("c").unwrap().sick).await;
    assert_eq!(view.member("b").unwrap().standing.why, Why::Draining);
    b.membership.set_draining(false);
    let owners = |view: &View| owners_of(view, "default") == ["a", "b"];
    let view = a.sees("b own again", owners).await;
    assert_eq!(view.member("c").unwrap().standing.why, Why::Sick);
}

#[tokio::test]
async fn who_leaves_is_gone_and_its_return_is_no_flap() {
    let [a, b, c] = three().await;
    c.membership.leave().await;
    for node in [&a, &b] {
        node.sees_members(&["a", "b"]).await;
    }
    let c = c.killed_and_restarted().await;
    let view = a.sees_members(&["a", "b", "c"]).await;
    let standing = view.member("c").unwrap().standing;
    assert_eq!((standing.owns, standing.flaps), (true, 0));
    c.sees_members(&["a", "b", "c"]).await;
}

#[tokio::test]
async fn groups_have_tables_of_their_own() {
    let a = plan("a").start().await;
    let _b = Plan { group: "big", ..plan("b") }.seed(&a).start().await;
    let pushing = Roles::NONE.with(Role::Push);
    let _c = Plan { group: "big", roles: pushing, ..plan("c") }.seed(&a).start().await;
    let view = a.sees_members(&["a", "b", "c"]).await;
    assert_eq!(owners_of(&view, "default"), ["a"]);
    assert_eq!(owners_of(&view, "big"), ["b"]);
    assert_eq!(view.member("c").unwrap().standing.why, Why::NoBroker);
    assert!(view.table("nobody's").is_none());
}

#[tokio::test]
async fn two_nodes_under_one_name_are_told() {
    let a = plan("a").start().await;
    let first = plan("twin").seed(&a).start().await;
    a.sees_members(&["a", "twin"]).await;
    let second = plan("twin").seed(&a).start().await;
    let conflict = |view: &View| !view.conflicts.is_empty();
    let view = a.sees("the conflict", conflict).await;
    let (kept, other) = (first.addr, second.addr);
    let expected = Conflict { id: "twin".into(), kept, other, second: other };
    assert_eq!(view.conflicts, [expected]);
    assert_eq!(view.member("twin").unwrap().boot, first.boot);
    first.sees("the conflict", conflict).await;
    let view = second.sees("the conflict", conflict).await;
    assert_eq!(view.conflicts[0].kept, second.addr, "each counts for itself");
    assert_eq!(view.conflicts[0].second, second.addr, "and both know who came second");
    drop(first);
    let boot = second.boot;
    a.sees("the second", |view| view.member("twin").is_some_and(|one| one.boot == boot)).await;
}

#[tokio::test]
async fn a_refused_link_is_a_death_at_once() {
    // Gossip alone would take ten minutes to notice.
    let slow = |id| Plan { gossip_ms: 10_000, ..plan(id) };
    let a = slow("a").start().await;
    // A fast one makes a's gossip with it fast.
    let b = plan("b").seed(&a).start().await;
    a.sees_members(&["a", "b"]).await;
    assert!(!a.now().member("b").unwrap().standing.reachable, "no link yet");
    a.membership.link("b", b.boot, LinkState::Up);
    a.sees("a link", |view| view.member("b").unwrap().standing.reachable).await;
    let boot = b.boot;
    drop(b);
    a.membership.link("b", boot, LinkState::Down);
    a.membership.link("b", boot, LinkState::Refused);
    a.sees_members(&["a"]).await;
}

/// As with a wrong certificate: the cookie opens gossip to it, and nothing opens a link.
#[tokio::test]
async fn one_to_whom_no_link_ever_comes_up_owns_nothing_in_the_eyes_of_all() {
    let [a, b, stranger] = three().await;
    a.membership.link("b", b.boot, LinkState::Up);
    b.membership.link("a", a.boot, LinkState::Up);
    let out = |view: &View| {
        view.member("c").is_some_and(|member| member.standing.why == Why::NeverLinked)
    };
    for node in [&a, &b, &stranger] {
        let view = node.sees("c own nothing", out).await;
        assert_eq!(owners_of(&view, "default"), ["a", "b"]);
    }
}

#[tokio::test]
async fn a_link_that_is_down_is_cut_off_not_dead() {
    let [a, b, _c] = three().await;
    a.membership.link("b", b.boot, LinkState::Up);
    a.sees("a link", |view| view.member("b").unwrap().standing.reachable).await;
    a.membership.link("b", b.boot, LinkState::Down);
    let view = a.sees("b cut off", |view| {
        view.member("b").is_some_and(|member| !member.standing.reachable)
    });
    let view = view.await;
    assert_eq!(owners_of(&view, "default"), ["a", "b", "c"]);
}

#[tokio::test]
async fn standing_still_declares_nobody_dead() {
    let nodes = three().await;
    let mut dead = nodes[0].now();
    // One thread runs all of them: none of them moves, for longer than the dead stay undetected.
    let still = std::time::Instant::now();
    while still.elapsed() < Duration::from_millis(1_500) {
        std::hint::spin_loop();
    }
    let [a, b, c] = nodes;
    let mut watching = a.membership.view();
    for (links, node) in [(1, &b), (2, &c)] {
        node.membership.set_load(Load { links, links_max: 10, ..Load::default() });
        let id = node.plan.id;
        let told = |view: &View| view.member(id).is_some_and(|one| one.load.links == links);
        // Every view on the way there still holds all three.
        while !told(&dead) {
            watching.changed().await.unwrap();
            dead = Arc::clone(&watching.borrow_and_update());
            assert_eq!(ids_of(&dead), ["a", "b", "c"]);
        }
    }
    let view = a.sees_members(&["a", "b", "c"]).await;
    assert!(view.members.iter().all(|member| member.standing.flaps == 0));
}

#[tokio::test]
async fn what_cannot_be_gossiped_is_refused_at_the_start() {
    let settings = |plan: &Plan| Settings {
        listen: plan.listen,
        advertise: None,
        seeds: Vec::new(),
        cluster: "clarion".to_owned(),
        gossip_ms: 50,
        quarantine_ms: 500,
        roles: Roles::ALL,
        version: "test".to_owned(),
        wire: (1, 1),
        http_url: String::new(),
        terminals_url: None,
    };
    let start = async |settings, id: &str| {
        let identity = NodeIdentity { id: id.into(), boot: new_boot(), group: "default".into() };
        Membership::start(settings, identity, Cookie::new(COOKIE).unwrap()).await.err()
    };
    let plain = settings(&plan("a"));
    let error = start(plain.clone(), &"x".repeat(65)).await.unwrap();
    assert!(matches!(error, StartError::Length("id")));
    let everywhere = Settings { listen: ([0, 0, 0, 0], 0).into(), ..plain.clone() };
    assert!(matches!(start(everywhere, "a").await.unwrap(), StartError::Unspecified(_)));
    let long = Settings { http_url: "x".repeat(600), ..plain };
    assert!(matches!(start(long, "a").await.unwrap(), StartError::Length(_)));
}

/// Gossips with a right cookie but tells no facts, so that it is no member.
async fn liar(seed: &Node, lies: Vec<(String, String)>) -> chitchat::ChitchatHandle {
    let socket = bind(([127, 0, 0, 1], 0).into()).unwrap();
    let addr = socket.local_addr().unwrap();
    let key = Cookie::new(COOKIE).unwrap().key("gossip 1 of clarion");
    let udp = SignedUdp { socket: Arc::new(socket), key, known: Arc::default() };
    let config = chitchat::ChitchatConfig {
        chitchat_id: chitchat::ChitchatId::new("liar".to_owned(), 1, addr),
        cluster_id: "clarion".to_owned(),
        gossip_interval: Duration::from_millis(50),
        listen_addr: addr,
        seed_nodes: vec![seed.addr.to_string()],
        failure_detector_config: chitchat::FailureDetectorConfig::default(),
        marked_for_deletion_grace_period: Duration::from_secs(60),
        catchup_callback: None,
        extra_liveness_predicate: None,
    };
    chitchat::spawn_chitchat(config, lies, &udp).await.unwrap()
}

/// Until this is so of what the liar's gossip knows.
async fn until(liar: &chitchat::ChitchatHandle, is_so: impl Fn(&mut chitchat::Chitchat) -> bool) {
    let wait = async {
        while !liar.with_chitchat(&is_so).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the liar never heard it");
}

#[tokio::test]
async fn a_peer_that_talks_nonsense_is_forgotten_and_the_others_go_on() {
    let a = plan("a").start().await;
    let b = plan("b").seed(&a).start().await;
    let lies = (0..100).map(|key| (format!("key {key}"), "lie".repeat(100))).collect();
    let liar = liar(&a, lies).await;
    a.sees_members(&["a", "b"]).await;
    // A's gossip goes on with the liar, and with b: it knows b by a.
    until(&liar, |chitchat| chitchat.live_nodes().count() == 3).await;
    b.membership.set_load(Load { links: 7, links_max: 10, ..Load::default() });
    a.sees("b's load", |view| view.member("b").is_some_and(|one| one.load.links == 7)).await;
    assert_eq!(ids_of(&a.now()), ["a", "b"]);
    let _ = liar.shutdown().await;
}

#[tokio::test]
async fn who_is_lied_about_gossips_anew_and_nobody_sees_another_life() {
    let a = plan("a").start().await;
    let b = plan("b").seed(&a).start().await;
    for node in [&a, &b] {
        node.sees_members(&["a", "b"]).await;
    }
    let liar = liar(&a, Vec::new()).await;
    let of_a = |id: &&chitchat::ChitchatId| &*id.node_id == "a";
    until(&liar, |chitchat| chitchat.live_nodes().any(|id| of_a(&id))).await;
    let falsify = |chitchat: &mut chitchat::Chitchat| {
        let id = chitchat.node_states().keys().find(of_a).unwrap().clone();
        let version = chitchat.node_state(&id).unwrap().max_version() + 1_000;
        let (value, status) = ("{}".to_owned(), chitchat::DeletionStatus::Set);
        let lie = chitchat::VersionedValue { value, version, status };
        let lies = [("facts".to_owned(), lie)].into_iter();
        chitchat.reset_node_state_if_update(&id, lies, version, version - 1);
    };
    let boot = a.boot;
    liar.with_chitchat(falsify).await;
    until(&liar, |chitchat| chitchat.node_states().keys().filter(of_a).count() == 2).await;
    a.membership.set_load(Load { links: 7, links_max: 10, ..Load::default() });
    let told = |view: &View| view.member("a").is_some_and(|one| one.load.links == 7);
    let view = b.sees("a's load, gossiped anew", told).await;
    let member = view.member("a").unwrap();
    assert_eq!((member.boot, member.standing.flaps), (boot, 0));
    a.sees_members(&["a", "b"]).await;
    let _ = liar.shutdown().await;
}

#[tokio::test]
async fn a_digest_of_many_nodes_travels_in_parts() {
    // Names this long make a digest of fourteen nodes longer than a datagram.
    const COUNT: usize = 14;
    let first = plan("a").start().await;
    let mut nodes = Vec::new();
    for number in 1..COUNT {
        let id: &'static str = format!("a node {number:0>57}").leak();
        nodes.push(Plan { gossip_ms: 250, ..plan(id) }.seed(&first).start().await);
    }
    for node in &nodes {
        node.sees("all", |view| view.members.len() == COUNT).await;
    }
}
