//! Nodes that lack something, or whose actors fail.

use super::SOME;
use crate::Failure;
use crate::fault::{Act, Crowd, Fault};
use crate::run::{Run, Setting};
use crate::workload::Rough;
use crate::world::Component;

pub(super) async fn squeezed(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    for act in [Act::Descriptors, Act::Memory { more_mib: 64 }, Act::Cpu { percent: 25 }] {
        let fault = Fault::new(Component::Node(owner.clone()), act);
        run.with(fault, async |run| {
            run.pushes(SOME).await?;
            run.come_and_go(0).await?;
            run.pushes(SOME).await
        })
        .await?;
        run.pushes(SOME).await?;
    }
    Ok(())
}

pub(super) async fn panics(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    let random = "relay=1%,lane=1%,session=1%,inbox_shard=1%,product=1%,topic=1%";
    // A loop ends by itself: the next visits panic, one after the other.
    for points in [random, "relay=8,lane=8,inbox_shard=8,product=8"] {
        let act = Act::Panics { points: points.to_owned() };
        let fault = Fault::new(Component::Node(owner.clone()), act);
        run.with(fault, async |run| run.pushes(5 * SOME).await).await?;
        run.pushes(SOME).await?;
    }
    Ok(())
}

pub(super) async fn crowds(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    let rough = [Rough::Storm, Rough::Slow, Rough::Silent, Rough::Malicious].map(Crowd::Rough);
    for crowd in rough.into_iter().chain([Crowd::Flood]) {
        let fault = Fault::new(Component::Node(owner.clone()), Act::Crowd(crowd));
        run.with(fault, async |run| run.pushes(3 * SOME).await).await?;
    }
    run.pushes(SOME).await
}

/// Every node has a wall clock of its own.
pub(super) fn with_clocks(mut setting: Setting) -> Result<Setting, Failure> {
    setting.plan.clocks = true;
    Ok(setting)
}

pub(super) async fn clocks(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    // Less than it takes to be not ready, more, and far more, in both directions.
    for step_s in [1, -1, 30, -30, 3 * 3600, -3 * 3600] {
        let fault = Fault::new(Component::Node(owner.clone()), Act::Clock { step_s });
        run.with(fault, async |run| run.pushes(2 * SOME).await).await?;
        run.pushes(SOME / 2).await?;
    }
    run.pushes(SOME).await
}

/// What its store has, MiB.
const DISK_MIB: u64 = 96;

/// The node has a disk of its own.
pub(super) fn with_a_disk(mut setting: Setting) -> Result<Setting, Failure> {
    setting.plan.disks.insert(Component::Node("node-1".to_owned()), DISK_MIB);
    // There is no other node that would accept any.
    (setting.overlap_min, setting.overlap_total_min) = (1, 1);
    Ok(setting)
}

pub(super) async fn disk(run: &mut Run) -> Result<(), Failure> {
    let node = Component::Node("node-1".to_owned());
    for act in [Act::DiskFull, Act::DiskReadOnly] {
        let fault = Fault::new(node.clone(), act);
        run.with(fault, async |run| run.refused().await).await?;
        run.pushes(2 * SOME).await?;
    }
    Ok(())
}
