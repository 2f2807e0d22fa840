use clarion_protocol::{LogName, MessageId, Offset};

use super::*;
use crate::check::{Options, judge_by};
use crate::history::{Ending, Name};

const MS: u64 = 1_000_000;

fn record(ms: u64, event: Event) -> Record {
    Record { t: ms * MS, by: "driver".into(), event }
}

fn opened(ms: u64, who: &str, node: &str) -> Record {
    let (who, door, node): (Name, Name, Name) = (who.into(), node.into(), node.into());
    let (sent, positions) = (Vec::new(), Vec::new());
    record(ms, Event::Opened { who, session: 1, generation: 1, sent, positions, door, node })
}

fn push(key: &str, invoked: u64, accepted: u64) -> [Record; 2] {
    let (key, door): (Name, Name) = (key.into(), "node-1".into());
    let invoke = Event::Invoke {
        key: key.clone(),
        product: "demo".into(),
        targets: Vec::new(),
        hash: "1".into(),
        ttl_ms: None,
        lane: "http".into(),
        patient: true,
        door: door.clone(),
    };
    let (targets, replayed) = (Vec::new(), false);
    let answer = Event::Accepted { key, id: MessageId(1), targets, door, replayed };
    [record(invoked, invoke), record(accepted, answer)]
}

fn delivered(ms: u64, who: &str, key: &str) -> Record {
    record(
        ms,
        Event::Delivered {
            who: who.into(),
            session: 1,
            log: LogName::Terminal,
            offset: Some(Offset(1)),
            id: MessageId(1),
            key: key.into(),
            hash: "1".into(),
            again: false,
        },
    )
}

fn fault(ms: u64, n: u32, component: &str, kind: &str, expects: &str) -> Record {
    record(
        ms,
        Event::Fault {
            n,
            component: component.into(),
            kind: kind.into(),
            what: "as <ordered>".to_owned(),
            expects: expects.to_owned(),
            outside_model: false,
        },
    )
}

fn component(name: &str) -> Record {
    record(0, Event::Component { name: name.into(), class: "node".into(), parts: Vec::new() })
}

/// One node hangs from second 10 to 12, and is whole at 14.
fn history() -> Vec<Record> {
    let mut records = vec![
        record(0, Event::Run(Box::new(About { heartbeat_ms: 2_000, ..About::default() }))),
        component("node:node-1"),
        component("node:node-2"),
        component("redis:0/0"),
        opened(1, "demo/near", "node-1"),
        opened(1, "demo/far", "node-2"),
        record(2, Event::Steady { from: 0 }),
    ];
    records.extend(push("quiet", 1_000, 1_005));
    records.push(delivered(1_009, "demo/far", "quiet"));
    records.extend(push("before", 9_990, 10_700));
    records.push(fault(
        10_000,
        1,
        "node:node-1",
        "hung",
        "pushes 6000 ms; deliveries 6000 ms; its own terminals a heartbeat + 10000 ms",
    ));
    records.push(delivered(10_900, "demo/far", "before"));
    records.push(record(12_000, Event::Mended { n: 1 }));
    records.push(delivered(13_000, "demo/near", "before"));
    records.push(record(14_000, Event::Healed { n: 1 }));
    records.push(record(
        15_000,
        Event::Skipped {
            component: "redis:0/0".into(),
            kind: "cut_off".into(),
            why: "this needs root".to_owned(),
        },
    ));
    records.sort_by_key(|record| record.t);
    records
}

fn report(records: &[Record]) -> Report {
    Report::of(records, &judge_by(records, &Options::short(), []))
}

#[test]
fn a_wait_begins_with_the_fault_and_is_of_the_component_or_of_others() {
    let report = report(&history());
    let [window] = report.faults.as_slice() else { panic!("one fault") };
    assert_eq!((window.push, window.delivery, window.own), (700 * MS, 200 * MS, Some(2_300 * MS)));
    assert_eq!(window.accepted, 1);
    assert_eq!((report.quiet.push.count, report.quiet.push.p50_ms), (1, 5.0));
    assert_eq!((report.quiet.delivery.count, report.quiet.delivery.p50_ms), (1, 4.0));
    assert!(report.is_good());
    assert_eq!(report.untouched, ["node:node-2"]);
}

#[test]
fn who_leaves_by_itself_does_not_wait() {
    let mut records = history();
    let (who, how): (Name, _) = ("demo/near".into(), Ending::Closed);
    records.push(record(10_100, Event::Left { who, session: 1, how }));
    records.push(opened(12_900, "demo/near", "node-2"));
    records.sort_by_key(|record| record.t);
    let report = report(&records);
    assert_eq!((report.faults[0].own, report.faults[0].delivery), (None, 200 * MS));
}

/// Mended at 12, whole at 14: what begins in between, and a second later at most, is still of the fault.
#[test]
fn a_fault_is_not_over_when_it_is_mended() {
    let longest = |invoked_ms, accepted_ms| {
        let mut records = history();
        records.extend(push("after", invoked_ms, accepted_ms));
        records.sort_by_key(|record| record.t);
        report(&records).faults[0].push / MS
    };
    assert_eq!(longest(12_100, 13_400), 1_300);
    assert_eq!(longest(14_900, 16_000), 1_100);
    assert_eq!(longest(15_100, 17_000), 700, "that of the push before");
}

#[test]
fn what_takes_too_long_is_told() {
    let mut records = history();
    records.extend(push("late", 10_500, 16_600));
    records.sort_by_key(|record| record.t);
    let report = report(&records);
    assert!(!report.is_good());
    let [too_long] = report.too_long.as_slice() else { panic!("{:?}", report.too_long) };
    let told = "fault 1, node:node-1 hung: a push stood for 6100 of at most 6000 ms";
    assert!(too_long.starts_with(told), "{too_long}");
    assert!(report.table().contains("**too long**"));
}

#[test]
fn the_page_has_everything_and_no_markup_of_others() {
    let report = report(&history());
    let directory = tempfile::tempdir().unwrap();
    let page = std::fs::read_to_string(report.write(directory.path()).unwrap()).unwrap();
    for part in ["node:node-1", "this needs root", "as &lt;ordered&gt;", "<svg", "Time line"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<ordered>") && !page.contains("http:") && !page.contains("<script"));
    let json = std::fs::read(directory.path().join(JSON_FILE)).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["rows"][0]["cells"][0]["own_ms"], 2_300);
    assert_eq!(json["seconds"].as_array().unwrap().len(), 16);
}
