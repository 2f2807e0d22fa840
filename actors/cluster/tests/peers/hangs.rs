//! Peers and paths that stand still.

use serde_json::{Value, json};

use crate::proxy::Proxy;
use crate::support::{Node, config, linked, with};

const CREDIT: u64 = 1 << 20;
const QUEUE: u64 = 512 << 10;

fn small(id: &str) -> Value {
    with(
        config(id),
        json!({
            "heartbeat_ms": 500,
            "lane_credit_bytes": CREDIT,
            "lane_queue_bytes": QUEUE,
        }),
    )
}

/// SIGSTOP of one end: what waits for it is bounded, the link ends by the heartbeat, socket and
/// queues are freed, and when it wakes it handles nothing of what was sent to it meanwhile.
#[test]
fn a_hung_peer_costs_what_is_configured_and_wakes_to_nothing_stale() {
    let (mut a, mut b) = linked(&small("a"), &small("b"));
    a.send("b", 1, 10, 1000);
    b.handled("a", 1, 10);
    let before = a.ask(json!({"do": "process"}));
    b.stop_process();
    let mut full = 0;
    for lane in 0..4 {
        let answer = a.send("b", lane, 10_000, 1000);
        full += answer["full"].as_u64().unwrap();
        let sent = answer["sent"].as_u64().unwrap();
        assert!(sent * 1064 <= CREDIT + QUEUE + (64 << 10) + (16 << 10), "{sent}");
        let status = a.lane("b", lane as usize);
        assert!(status["queued"].as_u64().unwrap() <= QUEUE);
        assert!(status["in_flight"].as_u64().unwrap() <= CREDIT + (64 << 10) + (16 << 10));
        assert!(status["credit"].as_i64().unwrap() <= 0);
    }
    assert!(full > 0);
    a.down("b", false);
    let freed = a.lane("b", 1);
    assert_eq!((&freed["queued"], &freed["in_flight"]), (&json!(0), &json!(0)));
    // Its socket is closed, though the peer still hangs and has its end open. Redials reach its
    // backlog, at most one at a time.
    a.until(&json!({"do": "process"}), |now| {
        let same = |key: &str| now[key].as_u64() <= before[key].as_u64();
        same("files") && same("actors")
    });
    assert!(!a.has("up"));

    b.signal("-CONT");
    b.down("a", false);
    a.up("b");
    b.up("a");
    a.send("b", 1, 5, 100);
    b.handled("a", 1, 15);
    for lane in [0, 2, 3] {
        assert_eq!(b.lane("a", lane)["received"], 0, "handled what was stale");
    }
}

/// The end that accepted hangs and is killed meanwhile by nobody: the other may be the hung one, too.
#[test]
fn a_hung_dialler_is_noticed_and_comes_back() {
    let (mut a, mut b) = linked(&small("a"), &small("b"));
    a.stop_process();
    b.send("a", 1, 100, 1000);
    b.down("a", false);
    a.signal("-CONT");
    a.down("b", false);
    a.up("b");
    b.up("a");
    assert_eq!(a.lane("b", 1)["received"], 0, "handled what was stale");
    b.send("a", 1, 100, 1000);
    a.handled("b", 1, 100);
}

#[test]
fn a_path_cut_in_one_direction_ends_the_link_at_both_ends() {
    for forth in [true, false] {
        let (mut a, mut b) = (Node::start(&small("a")), Node::start(&small("b")));
        let proxy = Proxy::start(b.addr);
        b.want(&[a.target()]);
        a.want(&[b.target_at(proxy.addr)]);
        a.up("b");
        b.up("a");
        let swallow = |on| {
            if forth { proxy.swallow_forth(on) } else { proxy.swallow_back(on) }
        };
        swallow(true);
        a.down("b", false);
        b.down("a", false);
        assert!(!a.has("up") && !b.has("up"));
        swallow(false);
        a.up("b");
        b.up("a");
        a.send("b", 1, 10, 100);
        b.handled("a", 1, 10);
    }
}

/// A node that is started again while its former self hangs: told apart by the boot, so neither the
/// election of ractor nor a frame can mix them up, and the former one, awake, has no link.
#[test]
fn a_node_comes_back_beside_its_hung_former_self() {
    let (mut a, mut former) = linked(&small("a"), &small("b"));
    former.stop_process();
    let mut b = Node::start(&small("b"));
    b.want(&[a.target()]);
    a.want(&[b.target()]);
    assert_eq!(a.down("b", false)["boot"], former.boot);
    assert_eq!(a.up("b")["boot"], b.boot);
    b.up("a");
    former.signal("-CONT");
    former.down("a", false);
    a.send("b", 1, 10, 100);
    b.handled("a", 1, 10);
    assert!(!a.has("up") && !a.has("down") && !former.has("up"));
    assert_eq!(a.status("b")["peers"], 1);
}

#[test]
fn an_oversized_frame_ends_its_link_and_nothing_else() {
    let (mut a, mut b) = (Node::start(&small("a")), Node::start(&small("b")));
    let mut c = Node::start(&small("c"));
    let proxy = Proxy::start(b.addr);
    b.want(&[a.target(), c.target()]);
    a.want(&[b.target_at(proxy.addr)]);
    c.want(&[b.target()]);
    a.up("b");
    b.up("a");
    b.up("c");
    // The length that ractor puts before a message, of one that is 16 MiB long.
    proxy.insert(&(16_u64 << 20).to_be_bytes());
    b.down("a", false);
    a.down("b", false);
    a.up("b");
    b.up("a");
    assert!(!c.has("down"));
}

#[test]
fn a_changed_byte_ends_the_link_and_nothing_of_it_is_handled() {
    let (mut a, mut b) = (Node::start(&config("a")), Node::start(&config("b")));
    let proxy = Proxy::start(b.addr);
    b.want(&[a.target()]);
    a.want(&[b.target_at(proxy.addr)]);
    a.up("b");
    b.up("a");
    proxy.flip();
    a.send("b", 2, 1, 20_000);
    b.down("a", false);
    a.down("b", false);
    a.up("b");
    b.up("a");
    assert_eq!(b.lane("a", 2)["received"], 0);
    a.send("b", 2, 1, 20_000);
    b.handled("a", 2, 1);
}
