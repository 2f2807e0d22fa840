//! What the tests of whole clusters share.
#![allow(dead_code, reason = "no test uses all of it")]

use clarion_chaos::run::Options;
use clarion_chaos::scenario::{self, Outcome};
use clarion_chaos::summary::Summary;

/// A scenario with the slow head check off: nothing may have been found by it (I12). One that cannot
/// be made here says so by name.
pub async fn lives_through(name: &str, seed: u64) -> Summary {
    run(name, Options::test(seed)).await
}

pub async fn run(name: &str, options: Options) -> Summary {
    let scenario = scenario::named(name).unwrap_or_else(|failure| panic!("{failure}"));
    match scenario::run(scenario, options).await.unwrap_or_else(|failure| panic!("{failure}")) {
        Outcome::Kept(summary) => *summary,
        Outcome::Skipped(why) => {
            println!("skipped: {why}");
            Summary::default()
        }
    }
}

/// The same for what can fail on the way.
pub trait OrTold<T> {
    fn or_told(self) -> T;
}

impl<T, E: std::fmt::Display> OrTold<T> for Result<T, E> {
    fn or_told(self) -> T {
        self.unwrap_or_else(|failure| panic!("{failure}"))
    }
}
