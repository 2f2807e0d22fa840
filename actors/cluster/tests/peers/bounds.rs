//! A slow handler pushes back on its lane alone, and whoever was refused is told when it may go on.

use serde_json::{Value, json};

use crate::support::{config, linked, with};

const CREDIT: u64 = 256 << 10;
const QUEUE: u64 = 256 << 10;
/// A frame may go beyond the credit.
const FRAME: u64 = (64 << 10) + 128 * 64;

fn small(id: &str) -> Value {
    with(config(id), json!({"lane_credit_bytes": CREDIT, "lane_queue_bytes": QUEUE}))
}

fn pushes_back(stop: &Value, go: &Value) {
    let (mut a, mut b) = linked(&small("a"), &small("b"));
    b.ask(stop.clone());
    let answer = a.send("b", 1, 5000, 936);
    let (sent, full) = (answer["sent"].as_u64().unwrap(), answer["full"].as_u64().unwrap());
    assert!(full > 0 && sent * 1000 <= CREDIT + QUEUE + FRAME, "{answer}");
    let stalled = a.until(&json!({"do": "status", "peer": "b"}), |status| {
        status["lanes"][1]["credit"].as_i64().unwrap() <= 0
    });
    let lane = &stalled["lanes"][1];
    assert_eq!(lane["dropped"], full);
    assert!(lane["queued"].as_u64().unwrap() <= QUEUE);
    assert!(lane["in_flight"].as_u64().unwrap() <= CREDIT + FRAME);
    // Other lanes go on, the link stays, and nobody is told of room that is not there.
    a.send("b", 2, 100, 100);
    if stop["do"] == "hold" {
        b.handled("a", 2, 100);
    }
    assert!(!a.has("dropped") && !a.has("down"));
    b.ask(go.clone());
    a.event(|event| event["dropped"] == "b" && event["lane"] == 1);
    b.handled("a", 1, sent);
    b.handled("a", 2, 100);
    a.until(&json!({"do": "status", "peer": "b"}), |status| {
        status["lanes"][1]["queued"] == 0
            && status["lanes"][1]["credit"].as_i64().unwrap() >= CREDIT as i64 * 3 / 4
    });
    assert_eq!(a.send("b", 1, 100, 936)["sent"], 100);
    b.handled("a", 1, sent + 100);
    assert!(!a.has("dropped"), "told once");
}

#[test]
fn a_handler_that_blocks_pushes_back() {
    pushes_back(&json!({"do": "block", "on": true}), &json!({"do": "block", "on": false}));
}

#[test]
fn a_handler_that_passes_on_pushes_back_by_holding_credit() {
    pushes_back(&json!({"do": "hold", "on": true}), &json!({"do": "hold", "on": false}));
}

/// Heartbeats go beside the lanes: three heartbeats of a blocked handler do not end a link.
#[test]
fn a_blocked_handler_does_not_end_its_link() {
    let beats = |id: &str| with(small(id), json!({"heartbeat_ms": 400}));
    let (mut a, mut b) = linked(&beats("a"), &beats("b"));
    b.ask(json!({"do": "block", "on": true}));
    a.send("b", 1, 100, 100);
    // Round trips go on being measured: six other values are six heartbeats answered.
    for _ in 0..6 {
        let command = json!({"do": "status", "peer": "b"});
        let before = a.ask(command.clone())["rtt_us"].clone();
        a.until(&command, |status| status["rtt_us"] != before);
    }
    assert!(!a.has("down"));
    b.ask(json!({"do": "block", "on": false}));
    // Longer in the mailbox than a frame may be under way, which is no standstill of the peer.
    b.handled("a", 1, 100);
}
