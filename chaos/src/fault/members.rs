//! A node that is there twice.

use clarion_launch::{Node, Signal, wait};

use crate::Failure;
use crate::settle::DEADLINE;
use crate::world::World;

/// A second process under the name of a node that hangs.
#[derive(Debug)]
pub(crate) struct Twin {
    node: Node,
}

impl Twin {
    /// Starts it, and waits until it is ready.
    pub async fn start(world: &mut World, name: &str) -> Result<Self, Failure> {
        let mut node = world.twin(name)?;
        node.restart().await?;
        Ok(Self { node })
    }

    /// The first one wakes and meets the other; then whoever looks after the nodes ends both, and
    /// starts the first again.
    pub async fn end(mut self, first: &mut Node) -> Result<(), Failure> {
        first.signal(Signal::Continue)?;
        wait::until("the first one answers", DEADLINE, async || {
            // It may have ended itself, too: somebody else has its name.
            if !first.process_mut().is_running() {
                return Ok(());
            }
            first.get("/livez").await.map(drop)
        })
        .await?;
        first.kill().await?;
        self.node.stop().await?;
        Ok(first.restart().await?)
    }
}
