//! Nodes that die and hang.

use serde_json::Value;

use super::SOME;
use crate::Failure;
use crate::fault::{Act, Fault};
use crate::run::{Run, Setting, says};
use crate::world::Component;

pub(super) async fn killed(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    // It comes back under its name, another boot: nobody takes it for the one that was.
    run.with(Fault::kill(&owner), async |run| run.pushes(2 * SOME).await).await?;
    run.pushes(SOME).await?;
    // Again before it has proved stable.
    let again = Fault::new(Component::Node(owner.clone()), Act::Restart);
    run.with(again, async |run| run.pushes(SOME).await).await?;
    run.sees(&owner, "itself owning again", |state| says(state, &owner, "owns") == true).await?;
    run.pushes(SOME).await
}

pub(super) async fn hung(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    let other = run.another(&owner)?;
    // It wakes with everything it had in its hands: nothing of that may count any more.
    run.with(Fault::hang(&owner), async |run| {
        run.pushes(SOME).await?;
        run.sees(&other, "that it hangs", |state| !reachable(state, &owner)).await?;
        run.pushes(2 * SOME).await
    })
    .await?;
    run.pushes(SOME).await
}

pub(super) async fn twin(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    let twin = Fault::new(Component::Node(owner), Act::Twin);
    run.with(twin, async |run| run.pushes(2 * SOME).await).await?;
    run.pushes(SOME).await
}

pub(super) async fn roles_killed(run: &mut Run) -> Result<(), Failure> {
    let broker = run.owner("push-1", "product-0").await?;
    for name in ["gateway-1", &broker, "push-2"] {
        run.with(Fault::kill(name), async |run| run.pushes(SOME).await).await?;
        run.pushes(SOME / 2).await?;
    }
    run.pushes(SOME).await
}

pub(super) async fn roles_hung(run: &mut Run) -> Result<(), Failure> {
    let broker = run.owner("push-1", "product-0").await?;
    for name in ["gateway-2", &broker, "push-2"] {
        run.with(Fault::hang(name), async |run| {
            run.sees("push-1", "that it hangs", |state| !reachable(state, name)).await?;
            run.pushes(SOME).await
        })
        .await?;
    }
    run.pushes(SOME).await
}

pub(super) fn loaded(mut setting: Setting) -> Result<Setting, Failure> {
    setting.size.pushes_per_s = 300;
    // A window of messages waits in front of an application that takes 80 ms for each.
    setting.expiry_slack_ms = Some(10_000);
    Ok(setting)
}

pub(super) async fn memory(run: &mut Run) -> Result<(), Failure> {
    /// What the queues to the hung node may hold (four lanes, 4 MiB each), with what is made of it
    /// on the way; and the allocator's slack.
    const GROWTH_KIB_MAX: u64 = 3 * 16 * 1024;
    run.pushes(1000).await?;
    let owner = run.owner("node-1", "product-0").await?;
    let before = run.resident_besides(&owner)?;
    run.with(Fault::hang(&owner), async |run| {
        for _ in 0..5 {
            run.pushes(500).await?;
            for (before, now) in before.iter().zip(run.resident_besides(&owner)?) {
                if now >= before + GROWTH_KIB_MAX {
                    return Err(Failure::new(format!("{now} KiB after {before}")));
                }
            }
        }
        Ok(())
    })
    .await?;
    run.pushes(500).await
}

/// Whether a node says that it reaches another.
pub(super) fn reachable(state: &Value, of: &str) -> bool {
    says(state, of, "reachable") == true
}
