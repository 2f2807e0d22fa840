use clarion_protocol::Epoch;

use super::*;
use crate::history::Client;

/// A ledger that is told events with rising times.
#[derive(Default)]
struct Told {
    ledger: Ledger,
    t: u64,
}

impl Told {
    /// Two terminals of one user, which read everything.
    fn new() -> Self {
        let mut told = Self::default();
        for terminal in ["t0", "t1"] {
            told.add(Event::Terminal {
                who: who(terminal),
                product: "shop".into(),
                user: Some("u0".to_owned()),
                client: Client::Sdk,
                topics: Vec::new(),
                keeps_cursors: true,
                slow: false,
            });
            for log in ["user", "broadcast", "topic:news"] {
                told.add(Event::Joined { who: who(terminal), log: log.parse().unwrap() });
            }
        }
        told
    }

    fn add(&mut self, event: Event) {
        self.t += 1;
        self.ledger.note(&Record { t: self.t, by: "load-0".into(), event });
    }

    fn pushed(&mut self, key: &str, target: &str, ttl_ms: Option<u64>) {
        self.add(Event::Invoke {
            key: key.into(),
            product: "shop".into(),
            targets: vec![to(target)],
            hash: "".into(),
            ttl_ms,
            lane: "http".into(),
            patient: true,
            door: "node-1".into(),
        });
    }

    fn accepted(&mut self, key: &str, target: &str, offset: Option<u64>) {
        self.add(Event::Accepted {
            key: key.into(),
            id: MessageId(7),
            targets: vec![(to(target), offset.map(Offset))],
            door: "node-1".into(),
            replayed: false,
        });
    }

    fn given(&mut self, key: &str, terminal: &str) {
        self.add(Event::Delivered {
            who: who(terminal),
            session: 1,
            log: LogName::Broadcast,
            offset: Some(Offset(1)),
            id: MessageId(7),
            key: key.into(),
            hash: "".into(),
            again: false,
        });
    }

    fn gap(&mut self, terminal: &str, from: u64, to: u64, reason: &str) {
        self.add(Event::ToldGap {
            who: who(terminal),
            session: 1,
            log: LogName::Broadcast,
            from: Offset(from),
            to: Offset(to),
            epoch: Epoch(1),
            reason: reason.into(),
        });
    }

    fn missing(&mut self) -> usize {
        self.ledger.missing()
    }
}

fn who(terminal: &str) -> Name {
    format!("shop/{terminal}").into()
}

fn to(target: &str) -> Target {
    match target.split_once(':') {
        Some(("terminal", name)) => Target::Terminal(name.parse().unwrap()),
        Some(("user", name)) => Target::User(name.parse().unwrap()),
        Some(("topic", name)) => Target::Topic(name.parse().unwrap()),
        _ => Target::All,
    }
}

#[test]
fn an_accepted_push_is_owed_to_each_of_its_audience_once() {
    for (target, owed) in [("terminal:t0", 1), ("user:u0", 2), ("topic:news", 2), ("all", 2)] {
        let mut told = Told::new();
        told.pushed("shop-http-0", target, None);
        assert_eq!(told.missing(), 0, "{target}: no answer yet");
        told.accepted("shop-http-0", target, Some(1));
        assert_eq!(told.missing(), owed, "{target}");
        told.given("shop-http-0", "t0");
        told.given("shop-http-0", "t0");
        assert_eq!(told.missing(), owed - 1, "{target}");
        told.given("shop-http-0", "t1");
        assert_eq!(told.missing(), 0, "{target}");
        assert!(told.ledger.open.is_empty(), "{target}: nothing is kept of it but who has it");
    }
}

#[test]
fn lines_that_cross_make_no_difference() {
    let mut told = Told::new();
    told.given("shop-http-0", "t0");
    told.given("shop-http-0", "t1");
    told.pushed("shop-http-0", "all", None);
    told.accepted("shop-http-0", "all", Some(1));
    assert_eq!(told.missing(), 0);
    let (countable, of) = told.ledger.countable(&["shop"], 10);
    assert_eq!((countable.len(), countable[0].given, of), (1, 2, 1));
}

#[test]
fn what_nobody_knows_is_owed_once_anybody_has_it() {
    let mut told = Told::new();
    told.pushed("shop-hasty-0", "all", None);
    told.add(Event::Unknown { key: "shop-hasty-0".into(), why: String::new() });
    assert_eq!(told.missing(), 0);
    told.given("shop-hasty-0", "t1");
    assert_eq!(told.missing(), 1);
}

#[test]
fn what_was_refused_or_ends_soon_is_not_waited_for() {
    let mut told = Told::new();
    told.pushed("shop-http-0", "all", None);
    told.add(Event::Refused { key: "shop-http-0".into(), why: String::new() });
    told.pushed("shop-http-1", "all", None);
    told.accepted("shop-http-1", "all", None);
    told.pushed("shop-http-2", "all", Some(3_000));
    told.accepted("shop-http-2", "all", Some(2));
    assert_eq!(told.missing(), 0);
    told.pushed("shop-http-3", "all", Some(WAITED_FOR_TTL_MS));
    told.accepted("shop-http-3", "all", Some(3));
    assert_eq!(told.missing(), 2);
}

#[test]
fn a_topic_is_owed_to_those_who_are_in_it_from_before_the_push_on() {
    let mut told = Told::new();
    let news: LogName = "topic:news".parse().unwrap();
    told.pushed("shop-http-0", "topic:news", None);
    told.accepted("shop-http-0", "topic:news", Some(1));
    told.add(Event::Leaving { who: who("t0"), log: news.clone() });
    assert_eq!(told.missing(), 1, "who left may have been passed over");
    told.add(Event::Joined { who: who("t0"), log: news });
    assert_eq!(told.missing(), 1, "who came back begins behind it");
    told.pushed("shop-http-1", "topic:news", None);
    told.accepted("shop-http-1", "topic:news", Some(2));
    assert_eq!(told.missing(), 3);
}

#[test]
fn what_is_told_to_be_gone_is_not_waited_for() {
    let mut told = Told::new();
    for (key, offset) in [("shop-http-0", 5), ("shop-http-1", 6), ("shop-http-2", 7)] {
        told.pushed(key, "all", None);
        told.accepted(key, "all", Some(offset));
        told.given(key, "t1");
    }
    told.gap("t0", 5, 6, "evicted");
    assert_eq!(told.missing(), 2);
    told.gap("t0", 900, 3, "epoch");
    assert_eq!(told.missing(), 0);
    told.pushed("shop-http-3", "all", None);
    told.accepted("shop-http-3", "all", Some(8));
    assert_eq!(told.missing(), 2, "of the new lineage");
}

#[test]
fn counts_are_asked_of_what_was_stored_and_drawn_evenly_of_many() {
    let mut told = Told::new();
    for number in 0..100 {
        let key = format!("shop-http-{number}");
        told.pushed(&key, "terminal:t0", None);
        told.accepted(&key, "terminal:t0", (number % 2 == 0).then_some(number + 1));
    }
    let (all, of) = told.ledger.countable(&["shop"], 1000);
    assert_eq!((all.len(), of), (50, 50));
    let (some, of) = told.ledger.countable(&["shop"], 20);
    assert_eq!((some.len(), of), (17, 50));
    assert_eq!(told.ledger.countable(&["sho"], 20), (Vec::new(), 0));
    assert!(!some[0].near_fault);
    let fault = |n, outside_model| Event::Fault {
        n,
        component: "node:node-1".into(),
        kind: "killed".into(),
        what: String::new(),
        expects: String::new(),
        outside_model,
    };
    told.add(fault(1, false));
    let first = &told.ledger.countable(&["shop"], 1).0[0];
    assert!(first.near_fault && !first.may_be_gone);
    told.add(fault(2, true));
    assert!(told.ledger.countable(&["shop"], 1).0[0].may_be_gone);
}
