//! The table of codes: its promises, and the copy of it in the specification.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::fmt::Write as _;

use clarion_protocol::{Code, Problem, Retry};

#[test]
fn numbers_and_names_are_unique_and_read_back() {
    let numbers: HashSet<u16> = Code::ALL.iter().map(|code| code.number()).collect();
    let names: HashSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!((numbers.len(), names.len()), (Code::ALL.len(), Code::ALL.len()));
    for code in Code::ALL {
        assert_eq!(Code::from_number(code.number()), Some(*code));
        assert_eq!(Code::from_name(code.as_str()), Some(*code));
        assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
        assert!(
            code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b))
        );
        // A WebSocket close frame has room for 123 bytes of reason.
        assert!(code.as_str().len() <= 123);
    }
    assert!(Code::ALL.is_sorted_by_key(|code| code.number()), "the table is in order");
    assert_eq!((Code::from_number(999), Code::from_name("nothing")), (None, None));
}

/// The ranges are the part of the table that clients older than it can still follow.
#[test]
fn ranges_say_what_to_do() {
    for code in Code::ALL {
        let fits = match code.number() {
            1000..=1999 => true,
            4000..=4099 => code.retry() == Retry::Later && code.reconnect(),
            4100..=4199 => code.retry() == Retry::Reauthenticate && code.reconnect(),
            4200..=4999 => code.retry() == Retry::Never && !code.reconnect(),
            _ => false,
        };
        assert!(fits, "{code} is in the wrong range");
        assert_eq!(code.retryable(), code.retry() == Retry::Later);
    }
}

/// What a status promises to clients that know only HTTP.
#[test]
fn statuses_fit_what_to_do() {
    for code in Code::ALL.iter().filter(|code| code.number() < 2000) {
        let later = matches!(code.http_status(), 408 | 429 | 500 | 503 | 504);
        let later = later || *code == Code::IdempotencyInProgress;
        assert_eq!(code.retryable(), later, "{code}");
        if code.retry() == Retry::Reauthenticate {
            assert_eq!(code.http_status(), 401, "{code}");
        }
    }
}

#[test]
fn problems_come_from_the_table() {
    for code in Code::ALL {
        let problem = Problem::new(*code, None);
        assert_eq!(problem.known_code(), Some(*code));
        assert_eq!(problem.status, code.http_status());
        assert_eq!(problem.retry_after_s.is_some(), code.retryable());
        assert_eq!(problem.kind, problem.doc_url);
    }
}

const BEGIN: &str = "<!-- codes: begin (generated, see tests/codes.rs) -->\n";
const END: &str = "<!-- codes: end -->";

fn table() -> String {
    let mut out = String::new();
    for (title, range, again) in [
        ("Answers to requests", 1000..2000, "retry"),
        ("Ends of links and sessions", 4000..5000, "reconnect"),
    ] {
        write!(
            out,
            "\n### {title}\n\n| number | name | HTTP | {again} | what happened | what to do |\n"
        )
        .unwrap();
        out.push_str("| --- | --- | --- | --- | --- | --- |\n");
        for code in Code::ALL.iter().filter(|code| range.contains(&code.number())) {
            let again = match (code.number() < 2000, code.retry()) {
                (_, Retry::Never) => "no",
                (true, Retry::Later) => "later",
                (true, Retry::Reauthenticate) => "signed anew",
                (false, Retry::Later) => "yes",
                (false, Retry::Reauthenticate) => "with a new token",
            };
            writeln!(
                out,
                "| {} | `{code}` | {} | {again} | {} | {} |",
                code.number(),
                code.http_status(),
                code.title(),
                code.help(),
            )
            .unwrap();
        }
    }
    out.push('\n');
    out
}

/// `UPDATE_DOCS=1` writes the table into the specification; otherwise it must be there.
#[test]
fn the_specification_has_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the mark before the table");
    let (within, after) = rest.split_once(END).expect("the mark behind the table");
    let table = table();
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert!(within == table, "README.md is not up to date: run again with UPDATE_DOCS=1");
    }
}
