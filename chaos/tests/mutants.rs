//! Nodes that break a promise on purpose: the checker must find each by that promise. Those that are
//! quick are run here, all of them by `clarion-chaos mutants`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use std::collections::BTreeSet;
use std::path::Path;

use clarion_chaos::check::registry;
use clarion_chaos::mutants::{self, ALL, End, ShownBy};
use clarion_chaos::scenario;
use scenes::{OrTold as _, lives_through};

/// Where the program has them.
const OF_THE_PROGRAM: &str = "../actors/core/src/fault.rs";

async fn is_found(name: &str) {
    let mutant = ALL.iter().find(|mutant| mutant.name == name).expect("a mutant of this name");
    match mutants::run(mutant, None).await.or_told() {
        End::Survived(others) => panic!("{name} survives; broken was {others:?}"),
        end => println!("{name}: {end}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_node_that_answers_before_it_commits_is_found() {
    is_found("answer-before-commit").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_node_where_stale_sessions_write_their_cursors_is_found() {
    is_found("stale-cursor").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_node_that_loses_the_order_is_found() {
    is_found("lose-order").await;
}

/// What finds them finds nothing where no promise is broken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_terminals_that_come_and_go_miss_nothing() {
    lives_through("come-and-go", 1).await;
}

#[test]
fn every_mutant_of_the_program_has_a_run_that_must_find_it() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(OF_THE_PROGRAM);
    let program = std::fs::read_to_string(program).unwrap();
    let named =
        program.lines().filter_map(|line| line.trim().strip_suffix("\",")?.split_once(" = \""));
    let named: BTreeSet<&str> = named.map(|(_, name)| name).collect();
    assert_eq!(named, ALL.iter().map(|mutant| mutant.name).collect());
    let numbers: BTreeSet<u8> = registry().map(|invariant| invariant.number).collect();
    for mutant in ALL {
        assert!(!mutant.found_by.is_empty(), "{}", mutant.name);
        assert!(mutant.found_by.iter().all(|number| numbers.contains(number)), "{}", mutant.name);
        if let ShownBy::Scenario(name) | ShownBy::WithoutHints(name) = mutant.shown_by {
            scenario::named(name).or_told();
        }
    }
}

#[test]
fn the_readme_has_the_table_of_mutants() {
    const BEGIN: &str = "<!-- mutants: made from src/mutants.rs, do not edit -->\n";
    const END: &str = "\n<!-- mutants: end -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect(BEGIN);
    let (_, after) = rest.split_once(END).expect(END);
    let fresh = format!("{before}{BEGIN}\n{}{END}{after}", mutants::table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, fresh).unwrap();
    } else {
        let how = "UPDATE_DOCS=1 cargo test -p clarion-chaos --test mutants";
        assert!(text == fresh, "README.md is stale: {how}");
    }
}
