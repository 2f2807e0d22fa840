//! The durability proof (I1-I8, I13): the node is killed again and again under load, and every
//! push answered 202 reaches every terminal of its audience.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use clarion_chaos::kill_loop::{Settings, run};
use clarion_chaos::run::HINTS_OFF;
use clarion_chaos::summary::Summary;

async fn keeps_every_promise(settings: Settings) -> Summary {
    let report = run(&settings).await.unwrap_or_else(|failure| panic!("{failure}"));
    println!("{}", report.summary);
    let shown: Vec<String> = report.violations.iter().take(40).map(ToString::to_string).collect();
    assert!(
        shown.is_empty(),
        "seed {}: {} violations; files in {:?}\n{}",
        settings.seed,
        report.violations.len(),
        report.directory,
        shown.join("\n")
    );
    assert!(report.summary.kills >= 6, "the node was killed too rarely to prove anything");
    assert!(report.summary.accepted >= 1000, "too few pushes to prove anything");
    report.summary
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_loop_loses_nothing_that_was_accepted() {
    let summary = keeps_every_promise(Settings::short(1)).await;
    // I12: a hint that was lost would have been found by the last net only.
    assert_eq!(summary.head_check_found, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_loop_loses_nothing_with_all_hints_switched_off_fault() {
    let faults = Some(HINTS_OFF.to_owned());
    let summary = keeps_every_promise(Settings { faults, ..Settings::short(2) }).await;
    // The hints were off indeed.
    assert!(summary.head_check_found > 0);
}
