//! Storms: thousands of terminals lose their node, or are sent away from one, and come to the others.
//! These go on undisturbed, newcomers are paced, what they read is gathered, and they go
//! where there is room.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "scenes/raw_links.rs"]
mod raw_links;
mod scenes;
#[path = "scenes/swarm.rs"]
mod swarm;

use std::collections::BTreeMap;
use std::time::Instant;

use clarion_launch::{Cluster, LaunchError, Node, wait};
use clarion_sdk::terminal::Why;
use scenes::OrTold as _;
use swarm::{At, Swarm, more, samples};

/// How many terminals there are when a node dies: 1,500 unless this says otherwise.
const TERMINALS_VARIABLE: &str = "CLARION_STORM_TERMINALS";
/// Messages to all that are pushed while terminals are away.
const PUSHED: usize = 5;

fn terminals() -> usize {
    std::env::var(TERMINALS_VARIABLE).map_or(1_500, |text| text.parse().unwrap())
}

fn everywhere(cluster: &Cluster) -> At {
    At::Listed(cluster.nodes.iter().map(Node::http_url).collect())
}

/// The samples of each of these nodes.
async fn all_samples(cluster: &mut Cluster, names: &[&str]) -> Vec<BTreeMap<String, f64>> {
    let mut all = Vec::new();
    for name in names {
        all.push(samples(cluster.node(name).unwrap()).await);
    }
    all
}

/// Access points as a node lists them, by their nodes.
async fn gateways(node: &Node) -> Vec<String> {
    let answer = node.get("/v1/gateways?product=swarm").await.or_told();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    let listed = answer["gateways"].as_array().unwrap().iter();
    listed.map(|one| one["node"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_a_node_brings_all_its_terminals_to_the_others_undisturbed() {
    let count = terminals();
    let accepts_per_s = count / 10;
    let (mut cluster, _directory) = swarm::cluster(
        "three-nodes",
        &format!(
            "[session]\nheartbeat_min_ms = 3000\nheartbeat_max_ms = 3000\n\
             heartbeat_grace_ms = 2000\n\
             [actors]\nhead_check_ms = 3600000\n\
             [terminals]\naccepts_per_s_max = {accepts_per_s}\nrebalance_links_per_s = 0\n"
        ),
    )
    .await;
    let mut swarm = Swarm::new(&cluster.nodes[0]).await;
    let at = everywhere(&cluster);
    let all = swarm.add(count, &at).await;
    swarm.wait("all online", &all, |seen| seen.node.is_some()).await;
    swarm.push_to_all(cluster.node("node-1").unwrap(), "before").await;
    swarm.wait("the first message", &all, |seen| seen.given.contains_key("before")).await;
    let lost = swarm.on("node-3");
    let stay: Vec<usize> = all.iter().copied().filter(|n| !lost.contains(n)).collect();
    // Each came where the list sent it, by lot among three alike.
    assert!(lost.len() > count / 5 && lost.len() < count / 2, "{} of {count}", lost.len());
    let sessions_before: u32 = swarm.all(|seen| stay.iter().map(|n| seen[*n].sessions).sum());

    let survivors = ["node-1", "node-2"];
    let before = all_samples(&mut cluster, &survivors).await;
    let began = Instant::now();
    cluster.node("node-3").unwrap().kill().await.or_told();
    let pusher = cluster.node("node-1").unwrap();
    swarm.push_to_each(pusher, &lost, "alone").await;
    for n in 0..PUSHED {
        swarm.push_to_all(pusher, &format!("meanwhile {n}")).await;
    }
    swarm.wait("all back", &lost, |seen| seen.node.is_some() && seen.sessions >= 2).await;
    let took = began.elapsed();
    let whole = |seen: &swarm::Seen, own: usize| {
        seen.given.len() == 1 + PUSHED + own && seen.given.values().all(|times| *times == 1)
    };
    swarm.wait("everything, once", &lost, |seen| whole(seen, 1)).await;
    swarm.wait("everything, once", &stay, |seen| whole(seen, 0)).await;
    let now = all_samples(&mut cluster, &survivors).await;

    // Who was on the others stayed there and lost nothing.
    let sessions: u32 = swarm.all(|seen| stay.iter().map(|n| seen[*n].sessions).sum());
    assert_eq!(sessions, sessions_before, "sessions that had nothing to do with it ended");
    let (mut came, mut paused) = (0.0, 0.0);
    for ((name, before), now) in survivors.iter().zip(&before).zip(&now) {
        let more = |sample: &str| more(before, now, sample);
        assert!(more("clarion_links_ended_total") < 0.5, "{name} closed links: {now:#?}");
        // The link with the dead one, and no other.
        let fell = more("clarion_peer_links_ended_total");
        assert!((0.5..1.5).contains(&fell), "{name}: {fell} links with other nodes ended");
        let accepted = more(r#"clarion_handshakes_total{outcome="ok"}"#);
        came += accepted;
        paused += more("clarion_accept_pauses_total");
        // One-sided: a slow machine only makes this wider.
        let most = (took.as_secs_f64() + 0.2) * accepts_per_s as f64 + 1.0;
        assert!(accepted <= most, "{name} accepted {accepted} in {took:?}");
    }
    println!("{} of {count} terminals were back in {took:?}, {paused} pauses", lost.len());
    assert!(came > lost.len() as f64 - 0.5, "{came} came of {}", lost.len());
    assert!(paused > 0.5, "accepting was never paced");
    gathered(&before, &now, lost.len() as f64);
    drop(swarm);
    cluster.stop().await.or_told();
}

/// What newcomers ask the store for went to it in batches, and the same was asked once.
fn gathered(before: &[BTreeMap<String, f64>], now: &[BTreeMap<String, f64>], came: f64) {
    let sum = |what: &str, sort: &str| -> f64 {
        let name = format!("clarion_store_gathered_{what}_total{{sort=\"{sort}\"}}");
        before.iter().zip(now).map(|(before, now)| more(before, now, &name)).sum()
    };
    for sort in ["open", "read"] {
        let (requests, questions) = (sum("requests", sort), sum("questions", sort));
        let batches = sum("batches", sort);
        println!("{sort}: {requests} requests, {questions} questions, {batches} batches");
        assert!(requests >= questions && questions >= batches, "{sort}");
        assert!(batches < requests, "{sort}: nothing was gathered");
        if sort == "open" {
            assert!(requests >= came, "{requests} sessions of {came} were opened");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_draining_node_sends_its_terminals_to_the_others_at_the_configured_rate() {
    const PER_S: usize = 40;
    let (mut cluster, _directory) = swarm::cluster(
        "three-nodes",
        &format!("[node]\ndrain_links_per_s = {PER_S}\ndrain_timeout_ms = 30000\n"),
    )
    .await;
    let mut swarm = Swarm::new(&cluster.nodes[0]).await;
    let at = everywhere(&cluster);
    let all = swarm.add(90, &at).await;
    swarm.wait("all online", &all, |seen| seen.node.is_some()).await;
    let leave = swarm.on("node-3");
    let url = cluster.node("node-3").unwrap().terminals_url();
    let links = raw_links::open(&swarm, &url, 60).await;

    let asked = cluster.node("node-1").unwrap();
    let drain = asked.admin("POST", "/v1/cluster/nodes/node-3/drain").await.or_told();
    assert_eq!(drain.status, 202, "{}", drain.body);
    let told = raw_links::sent_away(links).await;
    // It is not among the access points any more, however often one asks.
    for _ in 0..5 {
        let listed = gateways(cluster.node("node-1").unwrap()).await;
        assert!(!listed.is_empty() && !listed.contains(&"node-3".to_owned()), "{listed:?}");
    }
    swarm.wait("all elsewhere", &leave, |seen| seen.sessions == 2 && seen.node.is_some()).await;
    // All have left by themselves, so it ends long before its time is over.
    let gone = cluster.node("node-3").unwrap();
    gone.wait_stopped().await.or_told();

    // The moments that it named are spread: in no second more than the rate, over all the time that
    // the rate needs for those that are known.
    let mut moments: Vec<u64> = told.iter().map(|goaway| goaway.after_ms).collect();
    moments.sort_unstable();
    let most = PER_S + 2;
    assert!(moments.windows(most + 1).all(|some| some[most] - some[0] >= 1_000), "{moments:?}");
    let links = (leave.len() + told.len()) as u64;
    assert!(*moments.last().unwrap() <= (links * 1000).div_ceil(PER_S as u64), "{moments:?}");
    // Each was told where to go instead.
    let others: Vec<String> = cluster.nodes.iter().take(2).map(Node::terminals_url).collect();
    for goaway in &told {
        assert!(!goaway.to.is_empty(), "{goaway:?}");
        assert!(goaway.to.iter().all(|url| others.contains(url)), "{goaway:?}, not {others:?}");
    }
    swarm.all(|seen| {
        for (n, one) in seen.iter().enumerate() {
            let lost: &[Why] = if leave.contains(&n) { &[Why::GoingAway] } else { &[] };
            assert_eq!(one.lost, lost, "terminal {n}");
        }
    });
    drop(swarm);
    cluster.stop().await.or_told();
}

/// Waits until a node knows how many links of 40 each has.
async fn knows(asked: &Node, wanted: [u64; 3]) {
    let known = wait::until("it knows the loads", swarm::DEADLINE, async || {
        let state = asked.admin("GET", "/v1/cluster").await?.json();
        let links = |n: usize| {
            let load = &state["nodes"][n]["load"];
            load["links"].as_u64().filter(|_| load["links_max"] == 40)
        };
        let seen = [0, 1, 2].map(links);
        let content = seen == wanted.map(Some);
        if content { Ok(()) } else { Err(LaunchError::new(format!("{seen:?}"))) }
    });
    known.await.or_told();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_an_overloaded_node_sends_newcomers_to_the_idle_one() {
    let (cluster, _directory) =
        swarm::cluster("three-nodes", "[terminals]\nlinks_max = 40\n").await;
    let mut swarm = Swarm::new(&cluster.nodes[0]).await;
    let url = |cluster: &Cluster, n: usize| cluster.nodes[n].terminals_url();
    // The last of 38 alone: while one opens its session it may count twice.
    let mut full = swarm.add(37, &At::Fixed(url(&cluster, 0))).await;
    swarm.wait("all online", &full, |seen| seen.node.is_some()).await;
    full.extend(swarm.add(1, &At::Fixed(url(&cluster, 0))).await);
    let half = swarm.add(24, &At::Fixed(url(&cluster, 1))).await;
    swarm.wait("all online", &full, |seen| seen.node.is_some()).await;
    swarm.wait("all online", &half, |seen| seen.node.is_some()).await;
    // By gossip, so it takes a moment.
    for asked in &cluster.nodes {
        knows(asked, [38, 24, 0]).await;
    }

    // The full one is named by nobody, itself included; mostly the idle one is named first.
    let mut first = BTreeMap::<String, usize>::new();
    for node in &cluster.nodes {
        for _ in 0..10 {
            let listed = gateways(node).await;
            assert_eq!(listed.len(), 2, "{listed:?}");
            *first.entry(listed[0].clone()).or_default() += 1;
        }
    }
    assert_eq!(first.get("node-1"), None, "{first:?}");
    assert!(first["node-3"] > 20, "{first:?}");

    // Who looks for a place finds one; who insists on the full node is asked to come back later.
    let at = everywhere(&cluster);
    let guided = swarm.add(10, &at).await;
    swarm.wait("a place", &guided, |seen| seen.node.is_some()).await;
    swarm.all(|seen| {
        for n in &guided {
            let seen = &seen[*n];
            assert!(seen.lost.is_empty() && seen.node.as_deref() != Some("node-1"), "{seen:?}");
        }
    });
    let refused = |why: &Why| matches!(why, Why::Refused { status: 503, .. });
    let stubborn = swarm.add(1, &At::Fixed(url(&cluster, 0))).await;
    swarm.wait("a refusal", &stubborn, |seen| seen.lost.iter().any(refused)).await;
    assert_eq!(swarm.on("node-1").len(), 38, "nobody had to go");
    drop(swarm);
    cluster.stop().await.or_told();
}
