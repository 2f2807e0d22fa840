//! What shows a broken promise that the other scenarios do not: see [the mutants](crate::mutants).

use std::time::Duration;

use tokio::time::sleep;

use super::SOME;
use crate::Failure;
use crate::fault::{Act, Cut, Fault};
use crate::interruption::Expects;
use crate::run::{Run, Setting};
use crate::world::Component;

/// How long a master goes on alone: what it takes meanwhile, nobody else has.
const ALONE: Duration = Duration::from_secs(3);

/// Nothing is broken that pushes could overlap.
pub(super) fn unbroken(mut setting: Setting) -> Result<Setting, Failure> {
    (setting.overlap_min, setting.overlap_total_min) = (0, 0);
    Ok(setting)
}

pub(super) async fn come_and_go(run: &mut Run) -> Result<(), Failure> {
    for third in 0..4 {
        run.come_and_go(third).await?;
        run.pushes(SOME).await?;
        // For longer this time, so that much waits, and nothing is left to be written.
        run.load.send_away(third);
        run.pushes(8 * SOME).await?;
        run.load.bring_back(third);
        run.pushes(SOME).await?;
    }
    Ok(())
}

pub(super) async fn replicas_cut_off(run: &mut Run) -> Result<(), Failure> {
    // Who is away meanwhile is given what is left of it.
    run.load.send_away(0);
    run.pushes(SOME).await?;
    let master = run.redis_master(0).await?;
    let mut cuts = Vec::new();
    for replica in run.redis_replicas(0).await? {
        let way = Component::Link(Box::new(master.clone()), Box::new(replica));
        let cut = Fault::new(way, Act::CutOff(Cut::Both));
        // Without any of them nothing can be confirmed.
        cuts.extend(run.begin_expecting(cut, Expects::INTERRUPTS).await?);
    }
    sleep(ALONE).await;
    run.with(Fault::new(master.clone(), Act::Kill), async |run| {
        run.redis_failed_over(&master).await?;
        for cut in cuts {
            run.mend(cut).await?;
        }
        run.load.bring_back(0);
        run.pushes(2 * SOME).await
    })
    .await?;
    run.pushes(SOME).await
}

pub(super) async fn answers_lost(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    let master = run.redis_master(0).await?;
    let way = Component::Link(Box::new(Component::Node(owner)), Box::new(master));
    let deaf = Fault::new(way, Act::CutOff(Cut::Out));
    run.with(deaf, async |run| run.pushes(2 * SOME).await).await?;
    run.pushes(SOME).await
}
