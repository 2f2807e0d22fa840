//! Nodes that all see and hear one another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use clarion_actors::cluster::{Cluster, Lane, PeerPort, Refused};
use clarion_protocol::http::Audience;
use tokio::sync::mpsc;

use crate::asking::terminals_of;
use crate::support::*;
use crate::world::*;

const ABC: [&str; 3] = ["a", "b", "c"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_reaches_its_audience_wherever_it_is_pushed_owned_and_read() {
    let world = World::of(&ABC).await;
    for owner in ABC {
        let terminal = terminal_of(owner, &ABC);
        let news = topic_of(owner, &ABC);
        for (at, reader) in ABC.iter().enumerate() {
            let pusher = ABC[(at + 1) % 3];
            let (mut link, opened) = world.node(reader).open_in(terminal, &[news]).await;
            link.settle().await;
            for (audience, log) in [
                (to_terminal(terminal), "terminal".to_owned()),
                (to_topic(news), format!("topic:{news}")),
                (Audience::All, "broadcast".to_owned()),
            ] {
                let text = format!("{log} of {owner} at {reader}");
                world.node(pusher).accepted(audience, &text).await;
                let got = loop {
                    let got = link.deliver().await.pop().unwrap();
                    link.ack(got.log, got.offset).await;
                    // What the former session on another node acknowledged last may come again.
                    if got.text == text {
                        break got;
                    }
                };
                assert_eq!(got.log, alias(&opened, &log));
            }
            link.cut().await;
        }
    }
}

/// One end of a link that counts what is held back of its credit, and can keep what is sent.
struct Tap {
    to: Arc<str>,
    boot: u64,
    sender: mpsc::UnboundedSender<(Lane, Bytes)>,
    /// Messages of this lane go here instead.
    keeps: Mutex<Option<(Lane, Vec<Bytes>)>>,
    held: Arc<AtomicUsize>,
}

/// Credit that is held back.
struct Holds(Arc<AtomicUsize>, usize);

impl Drop for Holds {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::AcqRel);
    }
}

impl PeerPort for Tap {
    fn id(&self) -> &Arc<str> {
        &self.to
    }
    fn boot(&self) -> u64 {
        self.boot
    }
    fn wire(&self) -> u16 {
        clarion_actors::cluster::wire_versions().1
    }
    fn send(&self, lane: Lane, message: Bytes) -> Result<(), Refused> {
        match &mut *self.keeps.lock().unwrap() {
            Some((kept, messages)) if *kept == lane => messages.push(message),
            _ => self.sender.send((lane, message)).map_err(|_| Refused::Down)?,
        }
        Ok(())
    }
    fn hold(self: Arc<Self>, _lane: Lane, bytes: usize) -> Box<dyn Send> {
        self.held.fetch_add(bytes, Ordering::AcqRel);
        Box::new(Holds(Arc::clone(&self.held), bytes))
    }
    fn status(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// Links two nodes by taps; returns the end of each.
fn tap(world: &mut World, a: &str, b: &str) -> (Arc<Tap>, Arc<Tap>) {
    world.cut(a, b);
    let end = |to: &str| {
        let (sender, messages) = mpsc::unbounded_channel();
        let (keeps, held) = (Mutex::default(), Arc::default());
        let boot = world.node(to).boot;
        (Arc::new(Tap { to: to.into(), boot, sender, keeps, held }), messages)
    };
    let ((to_b, from_a), (to_a, from_b)) = (end(b), end(a));
    let carry = |to: &str, at: &Arc<Tap>, mut messages: mpsc::UnboundedReceiver<(Lane, Bytes)>| {
        let (cluster, port) = (Arc::downgrade(world.node(to).system.cluster()), Arc::clone(at));
        tokio::spawn(async move {
            while let (Some((lane, message)), Some(cluster)) =
                (messages.recv().await, cluster.upgrade())
            {
                receive(&cluster, &port, lane, vec![message]);
            }
        });
    };
    for (name, port) in [(a, &to_b), (b, &to_a)] {
        world.node(name).system.cluster().up(Arc::<Tap>::clone(port));
    }
    carry(b, &to_a, from_a);
    carry(a, &to_b, from_b);
    (to_b, to_a)
}

fn receive(cluster: &Cluster, port: &Arc<Tap>, lane: Lane, messages: Vec<Bytes>) {
    let port: Arc<dyn PeerPort> = Arc::<Tap>::clone(port);
    cluster.received(&port, lane, messages);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_of_another_node_keep_its_credit_for_as_long_as_they_are_served() {
    let mut world = World::of(&["a", "b"]).await;
    let (_, at_b) = tap(&mut world, "a", "b");
    let (a, b) = (world.node("a"), world.node("b"));
    let terminal = to_terminal(terminal_of("b", &["a", "b"]));
    let held = || at_b.held.load(Ordering::Acquire);
    assert_eq!(held(), 0);
    b.store.hold_appends(true);
    let text = "x".repeat(1000);
    let release = async {
        b.store.waiting.subscribe().wait_for(|waiting| *waiting > 0).await.unwrap();
        let held = held();
        b.store.hold_appends(false);
        held
    };
    let (_, held_meanwhile) = tokio::join!(a.accepted(terminal, &text), release);
    assert!((1000..2000).contains(&held_meanwhile), "{held_meanwhile}");
    b.until("its credit is back", async || held() == 0).await;
}

/// Nothing here runs at the same time: the relay does not get to what is received at once.
#[tokio::test]
async fn a_hint_that_finds_no_room_at_its_relay_is_made_up_for_by_a_comparison_i12() {
    let mut world = World::of(&["a", "b"]).await;
    let (at_a, at_b) = tap(&mut world, "a", "b");
    let (a, b) = (world.node("a"), world.node("b"));
    let mut terminals = terminals_of("a", &["a", "b"]);
    let (terminal, other) = (&*terminals.next().unwrap(), &*terminals.next().unwrap());
    let (mut link, _) = b.open(terminal).await;
    let (mut fills, _) = b.open(other).await;
    for (link, terminal) in [(&mut link, terminal), (&mut fills, other)] {
        a.accepted(to_terminal(terminal), "first").await;
        assert_eq!(texts(&link.messages_acked(1).await), ["first"]);
    }
    // What is compared because the link came up is compared by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    *at_a.keeps.lock().unwrap() = Some((Lane::Unicast, Vec::new()));
    let kept = async |count: usize| {
        let len = || at_a.keeps.lock().unwrap().as_ref().unwrap().1.len();
        a.until("it is hinted", async || len() == count).await;
    };
    let long = "x".repeat(30_000);
    a.accepted(to_terminal(other), &long).await;
    kept(1).await;
    a.accepted(to_terminal(terminal), "last").await;
    kept(2).await;
    let hints = at_a.keeps.lock().unwrap().take().unwrap().1;
    let mut messages = vec![hints[0].clone(); (20 << 20) / 30_000];
    messages.push(hints[1].clone());
    receive(b.system.cluster(), &at_b, Lane::Unicast, messages);
    assert_eq!(texts(&link.messages_acked(1).await), ["last"]);
    assert_eq!(texts(&fills.messages_acked(1).await), [long]);
}
