//! A link comes, carries messages in order, ends when it should, and comes again.

use serde_json::{Value, json};

use crate::proxy::Proxy;
use crate::support::{Node, config, linked, with};

#[test]
fn messages_arrive_in_order_on_every_lane_both_ways() {
    let (mut a, mut b) = linked(&config("a"), &config("b"));
    for lane in 0..4 {
        assert_eq!(a.send("b", lane, 5000, 120)["sent"], 5000);
        assert_eq!(b.send("a", lane, 3000, 90)["sent"], 3000);
    }
    for lane in 0..4 {
        b.handled("a", lane, 5000);
        a.handled("b", lane, 3000);
    }
    // What is handled is said: nothing stays in flight, and credit is back.
    a.until(&json!({"do": "status", "peer": "b"}), |status| {
        status["rtt_us"].as_u64().unwrap() > 0
            && (0..4).all(|lane| status["lanes"][lane]["in_flight"] == 0)
    });
}

#[test]
fn single_messages_and_large_ones_arrive() {
    let (mut a, mut b) = linked(&config("a"), &config("b"));
    let mut count = 0;
    for size in [8, 100, 65_536, 70_000, 1_000_000] {
        assert_eq!(a.send("b", 1, 1, size)["sent"], 1);
        count += 1;
        b.handled("a", 1, count);
    }
    assert_eq!(a.send("b", 1, 1, 2_000_000)["too_large"], true);
    a.send("b", 1, 1, 10);
    b.handled("a", 1, count + 1);
}

#[test]
fn the_only_listener_is_ours_and_stopping_ends_everything() {
    let (mut a, mut b) = linked(&config("a"), &config("b"));
    let process = json!({"do": "process"});
    let (port_a, port_b) = (a.addr.port(), b.addr.port());
    a.until(&process, |process| process["listening"] == json!([port_a]));
    b.until(&process, |process| process["listening"] == json!([port_b]));
    let stopped = b.ask(json!({"do": "stop"}));
    assert_eq!(stopped, json!({"listening": [], "peers": 0}));
    b.down("a", false);
    a.down("b", false);
    a.down("b", true);
}

/// With heartbeats of a minute only the reset can have told.
#[test]
fn kill_9_of_either_end_is_noticed_by_the_reset_and_told_as_refused() {
    let slow = |id: &str| with(config(id), json!({"heartbeat_ms": 60_000}));
    let (mut a, b) = linked(&slow("a"), &slow("b"));
    b.kill();
    a.down("b", false);
    a.down("b", true);

    let (a, mut b) = linked(&slow("a"), &slow("b"));
    a.kill();
    b.down("a", false);
    b.down("a", true);
}

#[test]
fn kill_and_restart_under_the_same_name_and_address_is_another_peer() {
    let (mut a, b) = linked(&config("a"), &config("b"));
    let (addr, former, at_a) = (b.addr, b.boot.clone(), a.target());
    b.kill();
    a.down("b", false);
    let mut b = Node::start(&with(config("b"), json!({"listen": addr.to_string()})));
    b.want(&[at_a]);
    // Until it is told of the new one, a knows only the former: told apart by the boot.
    let told = a.down("b", true);
    assert_eq!(told["boot"], former);
    a.want(&[b.target()]);
    let up = a.up("b");
    assert_eq!(up["boot"], b.boot);
    b.up("a");
    a.send("b", 2, 10, 100);
    b.handled("a", 2, 10);
}

/// Each would be announced to every peer: 11 KB there, for every session, topic and product here. And
/// a name of a remote actor that ends would be taken from a local one that has the same.
#[test]
fn only_the_ports_are_remotable_and_they_have_no_names() {
    let (mut a, mut b) = linked(&config("a"), &config("b"));
    for node in [&mut a, &mut b] {
        let remotable = node.ask(json!({"do": "process"}))["remotable"].clone();
        assert_eq!(remotable, json!([null, null, null, null, null]));
    }
}

#[test]
fn sessions_that_ended_leave_nothing_behind() {
    let (mut a, mut b) = linked(&config("a"), &config("b"));
    let process = json!({"do": "process"});
    let (before_a, before_b) = (a.ask(process.clone()), b.ask(process.clone()));
    for _ in 0..10 {
        a.want(&[]);
        a.down("b", false);
        b.down("a", false);
        a.want(&[b.target()]);
        a.up("b");
        b.up("a");
    }
    for (node, before) in [(&mut a, before_a), (&mut b, before_b)] {
        let same = |now: &Value, key: &str| now[key].as_u64() <= before[key].as_u64();
        node.until(&process, |now| same(now, "files") && same(now, "actors"));
    }
}

#[test]
fn a_lost_connection_is_made_again() {
    let (mut a, mut b) = (Node::start(&config("a")), Node::start(&config("b")));
    let proxy = Proxy::start(b.addr);
    b.want(&[a.target()]);
    a.want(&[b.target_at(proxy.addr)]);
    for round in 1..=3 {
        a.up("b");
        b.up("a");
        // The numbers of a session begin anew, and so does the count of what is in order.
        a.send("b", 1, 50, 100);
        b.handled("a", 1, round * 50);
        a.ask(json!({"do": "crash", "what": "peer_link b"}));
        a.down("b", false);
        b.down("a", false);
    }
}

#[test]
fn whoever_is_not_wanted_any_more_has_no_link() {
    let (mut a, mut b) = linked(&config("a"), &config("b"));
    a.want(&[]);
    a.down("b", false);
    b.down("a", false);
    a.want(&[b.target()]);
    a.up("b");
    b.up("a");
    b.want(&[]);
    b.down("a", false);
    a.down("b", false);
    // a keeps asking, b keeps refusing, until it wants again.
    b.want(&[a.target()]);
    a.up("b");
    b.up("a");
}

#[test]
fn a_crash_of_any_actor_ends_links_that_then_come_again() {
    let (mut a, mut b) = linked(&config("a"), &config("b"));
    for (at_a, what) in [
        (true, "peer_link b"),
        (false, "peer_link a"),
        (true, "port 0"),
        (false, "port 2"),
        (false, "port 4"),
        (true, "server"),
        (false, "server"),
    ] {
        let crashing = if at_a { &mut a } else { &mut b };
        crashing.ask(json!({"do": "crash", "what": what}));
        a.down("b", false);
        b.down("a", false);
        a.up("b");
        b.up("a");
    }
    a.send("b", 2, 100, 100);
    b.handled("a", 2, 100);
}

#[test]
fn a_handler_that_panics_costs_its_link_and_nothing_else() {
    let (mut a, mut b) = linked(&config("a"), &config("b"));
    let mut c = Node::start(&config("c"));
    c.want(&[b.target()]);
    b.want(&[a.target(), c.target()]);
    c.up("b");
    b.up("c");
    b.ask(json!({"do": "panic", "in": "received"}));
    a.send("b", 1, 1, 100);
    b.down("a", false);
    a.down("b", false);
    a.up("b");
    b.up("a");
    b.ask(json!({"do": "panic", "in": "up"}));
    a.ask(json!({"do": "crash", "what": "peer_link b"}));
    a.up("b");
    b.up("a");
    assert!(!c.has("down") && c.status("b")["up"] == true);
}
