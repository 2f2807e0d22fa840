//! Outside the fault model: every copy of the data is lost at once. What was accepted since the last
//! backup is gone, and nobody may be left to believe otherwise (I5): whoever misses something is told
//! a gap, nothing is made up, and what is pushed from then on is delivered.

use super::SOME;
use crate::Failure;
use crate::fault::{Act, Fault};
use crate::run::{Run, Setting};
use crate::world::Component;

/// Nothing is accepted without a store. And who is a member of what goes back with it, which no
/// terminal is told: nobody leaves or joins.
#[allow(clippy::unnecessary_wraps, reason = "a setting of a scenario may fail")]
pub(super) fn without_a_store(mut setting: Setting) -> Result<Setting, Failure> {
    (setting.overlap_min, setting.overlap_total_min) = (0, 0);
    setting.size.members_change = false;
    Ok(setting)
}

/// The master comes back empty before anybody took its place, and its replicas make themselves as
/// empty. Nodes do not take an empty Redis for theirs.
pub(super) async fn redis(run: &mut Run) -> Result<(), Failure> {
    let master = run.redis_master(0).await?;
    lost(run, Fault::new(master, Act::RedisEmptied)).await
}

/// The store of the one node is replaced by an older copy of it.
pub(super) async fn embedded(run: &mut Run) -> Result<(), Failure> {
    lost(run, Fault::new(Component::Node("node-1".to_owned()), Act::SetBack)).await
}

/// Some are away when it happens; some acknowledged what is lost, some were never given it.
async fn lost(run: &mut Run, fault: Fault) -> Result<(), Failure> {
    run.world.back_up(&fault.on)?;
    run.pushes(SOME).await?;
    // Those whose turn it is at the first fault.
    run.load.send_away(0);
    run.load.settled().await?;
    run.pushes(2 * SOME).await?;
    run.with(fault, async |run| run.refused().await).await?;
    run.pushes(2 * SOME).await
}
