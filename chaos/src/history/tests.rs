use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

fn about() -> About {
    About { seed: 7, scenario: "none".to_owned(), ..About::default() }
}

fn made(directory: &TempDir) -> (History, PathBuf) {
    let path = directory.path().join("history.jsonl");
    (History::create(&path, about()).unwrap(), path)
}

fn phase(t: u64, by: &str, name: &str) -> Record {
    Record { t, by: by.into(), event: Event::Phase { name: name.into() } }
}

fn names(contents: &Contents) -> Vec<&str> {
    let phases = contents.records.iter().filter_map(|record| match &record.event {
        Event::Phase { name } => Some(&**name),
        _ => None,
    });
    phases.collect()
}

#[test]
fn records_of_several_processes_are_read_in_the_order_of_time() {
    let directory = TempDir::new().unwrap();
    let (history, path) = made(&directory);
    let start = history.clock().now() + 1_000_000_000;
    for (t, by, name) in [(30, "load-0", "d"), (10, "load-1", "a"), (20, "load-1", "b")] {
        let record = phase(start + t, by, name);
        history.append(&record, &serde_json::to_string(&record).unwrap());
    }
    // The same time: as they were told.
    let record = phase(start + 20, "load-0", "c");
    history.append(&record, &serde_json::to_string(&record).unwrap());
    history.flush().unwrap();
    let contents = read(&path).unwrap();
    assert_eq!(names(&contents), ["a", "b", "c", "d"]);
    assert_eq!(contents.torn, None);
    let Event::Run(run) = &contents.records[0].event else { panic!("{contents:?}") };
    assert_eq!((run.format, run.seed, &*run.scenario), (FORMAT, 7, "none"));
    let looked = history.look(<[Record]>::to_vec).unwrap();
    assert_eq!(looked, contents.records);
}

#[test]
fn a_torn_last_line_is_told_and_the_rest_is_read() {
    let directory = TempDir::new().unwrap();
    let (history, path) = made(&directory);
    history.add(Event::Phase { name: "whole".into() });
    history.flush().unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}{{\"t\":9,\"by\":\"dri")).unwrap();
    let contents = read(&path).unwrap();
    assert_eq!(names(&contents), ["whole"]);
    assert_eq!(contents.torn.as_deref(), Some("{\"t\":9,\"by\":\"dri"));
}

#[test]
fn a_bad_line_in_the_middle_is_refused_by_its_number() {
    let directory = TempDir::new().unwrap();
    let (history, path) = made(&directory);
    history.flush().unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    for bad in ["{}", "{\"t\":1,\"by\":\"driver\",\"e\":\"nothing_like_it\"}", ""] {
        fs::write(&path, format!("{whole}{bad}\n{whole}")).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.starts_with("line 2: "), "{bad}: {error}");
    }
}

#[test]
fn other_formats_are_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("history.jsonl");
    let cases = [
        ("{\"t\":0,\"e\":\"run\",\"format\":1,\"seed\":7}\n", "this is of format 1, and 2 is read"),
        ("{\"t\":0,\"e\":\"run\",\"seed\":7}\n", "the first line names no format"),
        ("{\"t\":0,\"by\":\"driver\",\"e\":\"baseline\"}\n", "its first line is not of the run"),
        ("noise\n", "no history"),
        ("", "no history: its first line is missing"),
    ];
    for (text, why) in cases {
        fs::write(&path, text).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(why), "{text:?}: {error}");
    }
}

#[test]
fn the_clock_goes_on_in_another_process_that_is_given_it() {
    let clock = Clock::start();
    let handed_on: Clock = serde_json::from_str(&serde_json::to_string(&clock).unwrap()).unwrap();
    let before = clock.now();
    let there = handed_on.now();
    let after = clock.now();
    assert!(before <= there && there <= after, "{before} {there} {after}");
}

#[test]
fn names_are_shared_by_the_records_that_were_read() {
    let directory = TempDir::new().unwrap();
    let (history, path) = made(&directory);
    for _ in 0..2 {
        history.add(Event::LostCursors { who: "shop/t1".into() });
    }
    history.flush().unwrap();
    let contents = read(&path).unwrap();
    let who = |index: usize| match &contents.records[index].event {
        Event::LostCursors { who } => Name::clone(who),
        other => panic!("{other:?}"),
    };
    assert!(Name::ptr_eq(&who(1), &who(2)));
}

/// The names of all events, as the format itself says them.
fn event_names() -> Vec<String> {
    let error = serde_json::from_str::<Event>("{\"e\":\"?\"}").unwrap_err().to_string();
    let (_, expected) = error.split_once("expected one of").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_event_is_documented() {
    let documented = include_str!("../../README.md");
    let names = event_names();
    assert!(names.len() > 25, "{names:?}");
    for name in names {
        let rows = documented.lines().filter(|line| line.starts_with("| `"));
        let cell = |line: &str| line.split('|').nth(1).unwrap_or_default().to_owned();
        let found = rows.map(cell).any(|cell| cell.contains(&format!("`{name}`")));
        assert!(found, "chaos/README.md has no row for the event `{name}`");
    }
}

#[test]
fn a_record_is_small() {
    // A long run is judged with all of them in memory.
    assert!(size_of::<Record>() <= 176, "{}", size_of::<Record>());
}
