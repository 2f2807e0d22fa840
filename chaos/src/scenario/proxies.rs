//! Nodes behind Debian's HAProxy with the shipped config: clients know one address.

use super::SOME;
use super::redis;
use crate::Failure;
use crate::fault::Fault;
use crate::run::{Run, Setting};

const LINKS: &str = "clarion_links";

/// The same, but with sentinels that make another master.
pub(super) fn with_sentinels(setting: Setting) -> Result<Setting, Failure> {
    setting.redis_of("sentinel")
}

pub(super) async fn redis_master(run: &mut Run) -> Result<(), Failure> {
    let before = run.broken_sessions();
    redis::master_killed(run).await?;
    let closed = run.broken_sessions() - before;
    if closed > 0 {
        return Err(Failure::new(format!("{closed} links were closed")));
    }
    Ok(())
}

pub(super) async fn drain(run: &mut Run) -> Result<(), Failure> {
    run.drains("node-1", "node-2").await?;
    run.gauge_falls("node-2", LINKS, 0.0).await?;
    for third in 0..3 {
        run.come_and_go(third).await?;
    }
    run.gauge_falls("node-2", LINKS, 0.0).await?;
    run.pushes(SOME).await?;
    run.started_again("node-2").await?;
    // One that dies: its terminals learn at once and come in elsewhere.
    run.with(Fault::kill("node-3"), async |run| run.pushes(SOME).await).await?;
    run.pushes(SOME).await
}
