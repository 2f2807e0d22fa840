//! How long each fault may interrupt, and why.

use super::{Act, Fault};
use crate::interruption::{Bound, Expects};
use crate::world::Component;

/// What a Redis server is just now, for the faults that concern one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redis {
    /// The master, and another can take its place.
    Master,
    /// The master, and there is no other.
    OnlyMaster,
    /// A replica; or nothing of Redis is concerned.
    Replica,
}

/// A node that is killed resets its connections: everybody learns at once, and its actors start
/// elsewhere on first use. What was under way there waits until its attempt can no longer count (I2).
const KILLED: Expects = Expects::all(Bound::Ms(3_000));

/// A node that says nothing is given up by its peers after three heartbeats, and by clients when their
/// own time is over; its terminals learn of it by its silence alone. The end of a way that is cut
/// cannot be told from that: whoever stands before it sees the other one hang. Nor can a way so bad, or a
/// process so slow, that heartbeats do not come through.
const HUNG: Expects = Expects { own: Bound::Heartbeat(10_000), ..Expects::all(Bound::Ms(6_000)) };

/// A proxy that is killed resets the connections that it passes on; who was on one goes to the other proxy
/// as soon as it trusts this one no longer, as with a node. Nobody else notices.
const PROXY_KILLED: Expects = Expects { deliveries: Bound::Baseline, ..KILLED };

/// A proxy that says nothing, or a way to one or from one: clients find out by themselves, as of a node
/// that hangs, and nobody else is concerned. What is lost on such a way TCP sends again: after 0.2, 0.4 and
/// 0.8 s, the first packet of a connection after 1 and 2 s.
const MUTE: Expects = Expects { deliveries: Bound::Baseline, ..HUNG };

/// Sentinels (or the other masters) name another master when the old one has not answered for
/// `down-after`. A node that alone does not reach the master must not own anything: it gives up, too.
const MASTER_GONE: Expects = Expects::all(Bound::Ms(5_000));

/// What is expected of a fault; `redis` is what the Redis server that it concerns is when it begins.
#[must_use]
pub fn expects(fault: &Fault, redis: Redis) -> Expects {
    match (&fault.on, &fault.act) {
        // There is no second of it.
        (_, Act::RedisReadOnly | Act::RedisEmptied | Act::SetBack) => Expects::INTERRUPTS,
        (_, Act::DiskFull | Act::DiskReadOnly) => Expects::INTERRUPTS,
        (Component::Node(_), act) => of_node(act),
        (Component::Redis { .. }, _) => of_redis(redis),
        (Component::Proxy(_), Act::Hang | Act::CutOff(_)) => MUTE,
        (Component::Proxy(_), Act::Kill | Act::Restart | Act::Stop) => PROXY_KILLED,
        (Component::Link(from, to), _) => of_link(from, to, redis),
        // A sentinel of three.
        _ => Expects::NOTHING,
    }
}

fn of_node(act: &Act) -> Expects {
    match act {
        // Its actors die one after the other, as all do with a node.
        Act::Kill | Act::Restart | Act::Panics { .. } => KILLED,
        // In good order, which must not be worse. A back-end that knows only this node is told to come
        // again until its own patience ends.
        Act::Stop | Act::Grow | Act::Shrink | Act::Upgrade => KILLED,
        Act::Hang | Act::Twin | Act::CutOff(_) => HUNG,
        // It lives on with less than it needs, and may end over it.
        Act::Descriptors | Act::Memory { .. } | Act::Cpu { .. } => HUNG,
        // It has nothing to do with the node's work.
        _ => Expects::NOTHING,
    }
}

const fn of_redis(redis: Redis) -> Expects {
    match redis {
        Redis::Master => MASTER_GONE,
        Redis::OnlyMaster => Expects::INTERRUPTS,
        // A majority of the copies is there without it.
        Redis::Replica => Expects::NOTHING,
    }
}

fn of_link(from: &Component, to: &Component, redis: Redis) -> Expects {
    match (from, to) {
        (Component::Node(_), Component::Node(_)) => HUNG,
        // Of the ways to Redis only that to the master is needed; the node at its end is the one that
        // does not reach it, so pushes and terminals have other nodes to go to.
        (Component::Node(_), Component::Redis { .. }) if redis != Redis::Replica => MASTER_GONE,
        (Component::Proxy(_) | Component::Client, _) => MUTE,
        _ => Expects::NOTHING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Cut;

    fn of(on: &str, act: Act, redis: Redis) -> Expects {
        expects(&Fault::new(on.parse().unwrap(), act), redis)
    }

    #[test]
    fn bounds_are_those_that_are_promised() {
        let cut = Act::CutOff(Cut::Both);
        let none = Redis::Replica;
        assert_eq!(of("node:node-1", Act::Kill, none), KILLED);
        assert_eq!(of("node:node-1", Act::Stop, none), KILLED);
        assert_eq!(of("node:node-1", Act::Hang, none), HUNG);
        assert_eq!(of("redis:0/1", Act::Kill, Redis::Master), MASTER_GONE);
        assert_eq!(of("redis:0/1", Act::Hang, Redis::Master), MASTER_GONE);
        assert_eq!(of("link:node-1>node-2", cut.clone(), none), HUNG);
        assert_eq!(of("link:node-1>redis-0/0", cut.clone(), Redis::Master), MASTER_GONE);
        assert_eq!(of("proxy:0", Act::Hang, none), MUTE);
        assert_eq!(of("proxy:0", Act::Kill, none), PROXY_KILLED);
        assert_eq!(of("link:client>proxy-0", cut.clone(), none), MUTE);
        assert_eq!(of("link:client>proxy-0", Act::Loss { percent: 5 }, none), MUTE);
        let nobody_notices = [
            ("redis:0/1", Act::Hang),
            ("sentinel:0", Act::Hang),
            ("link:node-1>redis-0/1", cut.clone()),
            ("link:node-1>sentinel-0", cut.clone()),
            ("link:redis-0/0>redis-0/1", cut),
        ];
        for (on, act) in nobody_notices {
            assert_eq!(of(on, act, none), Expects::NOTHING, "{on}");
        }
        assert!(!of("redis:0/0", Act::Kill, Redis::OnlyMaster).lets_pushes_pass());
    }
}
