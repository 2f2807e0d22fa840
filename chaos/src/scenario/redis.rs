//! Redis servers and sentinels that die, hang and refuse.

use super::SOME;
use crate::Failure;
use crate::fault::{Act, Fault};
use crate::run::{Run, Setting};
use crate::world::Component;

pub(super) async fn master_killed(run: &mut Run) -> Result<(), Failure> {
    master(run, Act::Kill).await
}

pub(super) async fn master_hung(run: &mut Run) -> Result<(), Failure> {
    // It wakes believing it is master, with connections that nodes may have left open.
    master(run, Act::Hang).await
}

async fn master(run: &mut Run, act: Act) -> Result<(), Failure> {
    let old = run.redis_master(0).await?;
    run.with(Fault::new(old.clone(), act), async |run| {
        run.redis_failed_over(&old).await?;
        run.pushes(2 * SOME).await
    })
    .await?;
    // The next fault comes after resync: that is the fault model.
    run.pushes(SOME).await
}

pub(super) async fn others(run: &mut Run) -> Result<(), Failure> {
    let replicas = run.redis_replicas(0).await?;
    let of = |n: usize| replicas.get(n).cloned().ok_or_else(|| Failure::new("too few replicas"));
    let faults = [
        Fault::new(of(0)?, Act::Kill),
        Fault::new(of(1)?, Act::Hang),
        Fault::new(Component::Sentinel(0), Act::Kill),
        Fault::new(Component::Sentinel(1), Act::Hang),
    ];
    for fault in faults {
        run.with(fault, async |run| run.pushes(SOME).await).await?;
    }
    run.pushes(SOME).await
}

/// While it takes no writes, no push is accepted.
pub(super) fn read_only(mut setting: Setting) -> Result<Setting, Failure> {
    setting.overlap_min = 1;
    Ok(setting)
}

pub(super) async fn rolling(run: &mut Run) -> Result<(), Failure> {
    for act in [Act::Kill, Act::Hang, Act::RedisReadOnly] {
        let master = run.redis_master(0).await?;
        let read_only = act == Act::RedisReadOnly;
        run.with(Fault::new(master.clone(), act.clone()), async |run| {
            if read_only {
                return run.refused().await;
            }
            run.redis_failed_over(&master).await?;
            run.pushes(SOME).await
        })
        .await?;
        run.pushes(SOME).await?;
        if !read_only {
            let mut replicas = run.redis_replicas(0).await?;
            let replica = replicas.pop().ok_or_else(|| Failure::new("no replica"))?;
            for on in [replica, Component::Sentinel(2)] {
                let fault = Fault::new(on, act.clone());
                run.with(fault, async |run| run.pushes(SOME / 2).await).await?;
            }
        }
    }
    run.pushes(SOME).await
}

pub(super) async fn cluster(run: &mut Run) -> Result<(), Failure> {
    for act in [Act::Kill, Act::Hang] {
        let last = run.redis_shards() - 1;
        let shard = if act == Act::Kill { 0 } else { last };
        let master = run.redis_master(shard).await?;
        run.with(Fault::new(master.clone(), act), async |run| {
            run.redis_failed_over(&master).await?;
            run.pushes(2 * SOME).await
        })
        .await?;
        run.pushes(SOME).await?;
    }
    Ok(())
}
