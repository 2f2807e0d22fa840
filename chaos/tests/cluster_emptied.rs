//! Outside the fault model (I5): all copies of the data are lost. What that takes away is told, and a
//! history in which it is not told is rejected.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scenes;

use std::collections::BTreeSet;

use clarion_chaos::check::{self, Options as Judge};
use clarion_chaos::history::{self, Event, Record};
use clarion_chaos::run::{HISTORY_FILE, Options};
use scenes::run;

/// The numbers of the promises that were broken.
fn broken(records: &[Record], judge: &Judge) -> BTreeSet<u8> {
    let verdict = check::judge(records, judge);
    verdict.violations.iter().map(|violation| violation.invariant.number).collect()
}

async fn loss_is_told(scenario: &str, seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("kept");
    run(scenario, Options { keep: Some(kept.clone()), ..Options::test(seed) }).await;
    let file = kept.join(HISTORY_FILE);
    let (mut records, judge) =
        (history::read(&file).unwrap().records, Judge::beside(&file).unwrap());
    assert_eq!(broken(&records, &judge), BTreeSet::new());
    let told = |record: &Record| matches!(record.event, Event::ToldGap { .. });
    assert!(records.iter().any(told), "nothing was lost");
    records.retain(|record| !told(record));
    assert!(broken(&records, &judge).contains(&24), "nobody misses what was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_a_redis_master_that_comes_back_empty_is_told() {
    loss_is_told("redis-emptied", 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_and_an_older_copy_of_the_embedded_store_are_told() {
    loss_is_told("store-set-back", 18).await;
}
