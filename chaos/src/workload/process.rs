//! A load process: reads its plan, does its part, and ends with its standard input.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::plan::{Part, Plan, Wanted};
use super::teller::{Presence, Teller};
use super::terminal::TerminalTask;
use super::{backends, raw_terminal, rough, sdk_terminal};
use crate::Failure;
use crate::history::Client;

/// The subcommand `load`: for [`Workload`](super::Workload), not for people. Why it failed is on the
/// standard error output, which is its log.
#[must_use]
pub fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::of("no runtime"));
    match runtime.and_then(|runtime| runtime.block_on(run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Failure> {
    let mut lines = standard_input();
    let line = lines.recv().await.ok_or_else(|| Failure::new("there is no plan"))?;
    let line = line.map_err(Failure::of("cannot read the plan"))?;
    let plan: Plan = serde_json::from_str(&line).map_err(Failure::of("the plan"))?;
    let teller = Arc::new(Teller::new(plan.by.clone(), plan.clock));
    let (changed, wanted) = watch::channel(Wanted::default());
    let mut tasks = JoinSet::new();
    match plan.part.clone() {
        Part::BackEnds { products, pushes_per_s, members_change } => {
            let common =
                backends::Common { doors: Arc::new(plan.doors), teller, wanted, seed: plan.seed };
            tasks.spawn(backends::run(common, products, pushes_per_s, members_change));
        }
        Part::Terminals(terminals) => {
            let doors = Arc::new(plan.doors);
            for (place, terminal) in terminals.into_iter().enumerate() {
                let (doors, teller) = (Arc::clone(&doors), Arc::clone(&teller));
                let presence = Presence::new(Arc::clone(&teller), place);
                let (online, wanted_online) = watch::channel(false);
                tasks.spawn(follow(wanted.clone(), place, online));
                let client = terminal.client;
                let task = TerminalTask::new(terminal, doors, teller, presence, wanted_online);
                match client {
                    Client::Sdk => tasks.spawn(sdk_terminal::run(task)),
                    Client::RawCursors | Client::RawPlain => tasks.spawn(raw_terminal::run(task)),
                };
            }
        }
        Part::Rough(rough) => {
            tasks.spawn(rough::run(rough, Arc::new(plan.doors), teller, plan.seed));
        }
    }
    tokio::select! {
        told = obey(&mut lines, &changed) => told,
        failure = first_failure(&mut tasks) => Err(failure),
    }
}

/// The lines of the standard input. A thread of its own reads them, which the end of the process
/// does not wait for.
fn standard_input() -> mpsc::Receiver<io::Result<String>> {
    let (send, receive) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lines() {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receive
}

/// Follows what is wanted of one terminal.
async fn follow(
    mut wanted: watch::Receiver<Wanted>,
    place: usize,
    online: watch::Sender<bool>,
) -> Result<(), Failure> {
    loop {
        let now = wanted.borrow_and_update().online.get(place).copied();
        let now = now.unwrap_or(false);
        online.send_if_modified(|before| std::mem::replace(before, now) != now);
        if wanted.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Takes what is wanted until the driver is gone or lets go of this process.
async fn obey(
    lines: &mut mpsc::Receiver<io::Result<String>>,
    wanted: &watch::Sender<Wanted>,
) -> Result<(), Failure> {
    while let Some(line) = lines.recv().await {
        let line = line.map_err(Failure::of("cannot read on"))?;
        wanted.send_replace(serde_json::from_str(&line).map_err(Failure::of("what is wanted"))?);
    }
    Ok(())
}

/// Why one of the tasks ended before it was to.
async fn first_failure(tasks: &mut JoinSet<Result<(), Failure>>) -> Failure {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return failure,
            Err(error) => return Failure::new(error.to_string()),
        }
    }
    // All are done; the driver decides when this ends.
    std::future::pending().await
}
