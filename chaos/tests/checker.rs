//! Who checks the checker: good histories pass, and for every promise there are histories that it
//! finds bad, and nothing else does: without any one invariant something bad would pass.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod histories;

use std::collections::BTreeSet;
use std::path::Path;

use clarion_chaos::check::{self, registry};
use clarion_chaos::history::{Event, Record};
use histories::bad::{self, Bad};
use histories::bad_runs;
use histories::simulation::{self, Kind};
use histories::tape::{MS, Tape};
use histories::{broken, options};

fn good() -> Vec<Record> {
    simulation::run(1, Kind::PLAIN)
}

fn all() -> impl Iterator<Item = &'static Bad> {
    bad::ALL.iter().chain(&bad::MORE).chain(&bad_runs::ALL)
}

#[test]
fn a_good_history_passes_and_has_every_event() {
    let kinds =
        [Kind::PLAIN, Kind { evicts: true, ..Kind::PLAIN }, Kind { loses: true, ..Kind::PLAIN }];
    let mut events = BTreeSet::new();
    for kind in kinds {
        let records = simulation::run(1, kind);
        let mut options = options();
        options.evicts = kind.evicts;
        let (broken, what) = broken(&records, &options, registry());
        assert!(broken.is_empty(), "{kind:?}: {what}");
        for record in &records {
            let event = serde_json::to_value(&record.event).unwrap();
            events.insert(event["e"].as_str().unwrap().to_owned());
        }
    }
    // What the format has, but for what must not happen.
    for event in [
        "run",
        "component",
        "terminal",
        "joining",
        "joined",
        "leaving",
        "left_topic",
        "invoke",
        "accepted",
        "refused",
        "unknown",
        "opened",
        "delivered",
        "acknowledged",
        "left",
        "lost_cursors",
        "told_gap",
        "fault",
        "mended",
        "healed",
        "skipped",
        "baseline",
        "steady",
        "phase",
        "sample",
        "head_checked",
        "counting",
        "counted",
    ] {
        assert!(events.contains(event), "no {event}");
    }
}

#[test]
fn every_bad_history_is_found_by_its_invariant_alone_and_its_good_form_passes() {
    let good = good();
    for bad in all() {
        let mut options = options();
        (bad.options)(&mut options);
        let (found, what) = broken(&bad.behind(&good, false), &options, registry());
        assert!(found.is_empty(), "{}: {what}", bad.name);
        let (found, what) = broken(&bad.behind(&good, true), &options, registry());
        assert_eq!(found, BTreeSet::from([bad.invariant]), "{}: {what}", bad.name);
    }
}

#[test]
fn without_any_one_invariant_something_bad_passes() {
    let good = good();
    for taken in registry() {
        let passes = |bad: &&Bad| {
            let mut options = options();
            (bad.options)(&mut options);
            let rest = registry().filter(|one| *one != taken);
            broken(&bad.behind(&good, true), &options, rest).0.is_empty()
        };
        let needed = all().filter(|bad| bad.invariant == taken.name).any(|bad| passes(&bad));
        assert!(needed, "{taken:?} could be left out and nobody would notice");
    }
}

#[test]
fn every_bad_history_names_an_invariant_and_every_invariant_has_one() {
    let known: BTreeSet<&str> = registry().map(|one| one.name).collect();
    let named: BTreeSet<&str> = all().map(|bad| bad.invariant).collect();
    assert_eq!(named, known);
}

#[test]
fn numbers_are_in_order_and_names_are_files() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/check");
    for (number, invariant) in (1..).zip(registry()) {
        assert_eq!(invariant.number, number, "{invariant:?}");
        let file = here.join(format!("{}.rs", invariant.name.replace('-', "_")));
        let text = std::fs::read_to_string(&file).expect(invariant.name);
        assert!(text.starts_with(&format!("//! {}: ", invariant.id())), "{invariant:?}");
    }
}

#[test]
fn a_run_that_was_not_counted_is_bad() {
    let mut records = good();
    records
        .retain(|record| !matches!(record.event, Event::Counting { .. } | Event::Counted { .. }));
    assert_eq!(broken(&records, &options(), registry()).0, BTreeSet::from(["counts"]));
}

#[test]
fn a_sample_of_the_counts_is_enough_if_it_is_whole() {
    let mut records = good();
    let all = records.iter().filter(|r| matches!(r.event, Event::Counted { .. })).count() as u64;
    let mut left = 20;
    records.retain_mut(|record| match &mut record.event {
        Event::Counting { asked, .. } => {
            *asked = 20;
            true
        }
        Event::Counted { .. } => {
            left -= 1;
            left >= 0
        }
        _ => true,
    });
    assert!(all > 100, "{all}");
    assert_eq!(broken(&records, &options(), registry()).0, BTreeSet::new());
    let last = records.iter().rposition(|r| matches!(r.event, Event::Counted { .. })).unwrap();
    records.remove(last);
    assert_eq!(broken(&records, &options(), registry()).0, BTreeSet::from(["counts"]));
}

#[test]
fn counts_close_to_a_fault_may_lack_something_where_the_run_says_so() {
    let records = good();
    let fault = records.iter().find(|r| matches!(r.event, Event::Fault { .. })).unwrap().t;
    let near =
        records.iter().filter(|record| record.t > fault).find_map(|record| match &record.event {
            Event::Accepted { key, targets, .. } if targets.iter().any(|t| t.1.is_some()) => {
                Some(key.clone())
            }
            _ => None,
        });
    let near = near.unwrap();
    let mut records = records;
    for record in &mut records {
        if let Event::Counted { key, counts } = &mut record.event
            && *key == near
        {
            counts.pending += counts.acknowledged;
            counts.acknowledged = 0;
        }
    }
    let mut options = options();
    assert_eq!(broken(&records, &options, registry()).0, BTreeSet::from(["counts"]));
    options.counts_may_lack = true;
    assert_eq!(broken(&records, &options, registry()).0, BTreeSet::new());
}

/// What others used of the machine, in a history that ends with a delivery that comes late while a
/// sentinel is away.
fn late_while_others_use(percent: u64) -> Vec<Record> {
    let good = good();
    let mut tape = Tape::behind(&good, 60_000);
    let from = tape.now;
    bad_runs::waits_for_a_message(&mut tape, 4_000);
    let all_ms = 2 * (tape.now - from) / MS;
    let others_ms = all_ms * percent / 100;
    tape.add("driver", Event::Machine { from, cores: 2, others_ms, stolen_ms: 0 });
    good.into_iter().chain(tape.finish()).collect()
}

#[test]
fn what_others_did_to_the_machine_is_no_interruption() {
    let found = |records: &[Record]| broken(records, &options(), registry());
    let (alone, what) = found(&late_while_others_use(10));
    assert_eq!(alone, BTreeSet::from(["interruptions"]));
    assert!(what.contains("stood for 4000 of at most 500 ms"), "{what}");
    assert!(what.contains("others had 9 % of its time"), "{what}");
    assert_eq!(found(&late_while_others_use(60)).0, BTreeSet::new());
    // When nobody ran at all nobody waited.
    let mut records = late_while_others_use(10);
    let late = records.iter().rposition(|r| matches!(r.event, Event::Delivered { .. })).unwrap();
    let t = records[late].t;
    let event = Event::Stalled { from: t - 3_900 * MS };
    records.insert(late, Record { t, by: "driver".into(), event });
    assert_eq!(found(&records).0, BTreeSet::new());
}

#[test]
fn a_violation_names_the_records_that_prove_it_and_their_lines() {
    let bad = all().find(|bad| bad.invariant == "altered").unwrap();
    let records = bad.behind(&good(), true);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let lines: Vec<String> = records.iter().map(|r| serde_json::to_string(r).unwrap()).collect();
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    let mut verdict = check::judge(&records, &options());
    check::lines::find(&path, &mut verdict.violations).unwrap();
    let [violation] = &verdict.violations[..] else { panic!("{:?}", verdict.violations) };
    for proof in &violation.proof {
        assert_eq!(proof.line, Some(proof.index + 1));
    }
    let text = violation.to_string();
    assert!(text.starts_with("C05 altered: x/a was given k with another payload\n"), "{text}");
    let line = violation.proof.last().unwrap().line.unwrap();
    assert!(text.contains(&format!(" line {line} load-0: ")), "{text}");
}

/// What the README says of the invariants is what the registry says.
#[test]
fn the_table_in_the_readme_is_fresh() {
    const BEGIN: &str = "<!-- invariants: made from src/check/, do not edit -->\n";
    const END: &str = "<!-- invariants: end -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect(BEGIN);
    let (_, after) = rest.split_once(END).expect(END);
    let fresh = format!("{before}{BEGIN}\n{}\n{END}{after}", check::table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, fresh).unwrap();
    } else {
        assert!(
            text == fresh,
            "README.md is stale: UPDATE_DOCS=1 cargo test -p clarion-chaos --test checker"
        );
    }
}
