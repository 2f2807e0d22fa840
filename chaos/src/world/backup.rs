//! A copy of what a store holds, and what an operator does with it once the store has lost more: the
//! README of the node has the steps.

use std::path::{Path, PathBuf};

use clarion_launch::{RedisGroup, Signal};

use super::{Component, World, unknown};
use crate::Failure;
use crate::settle::DEADLINE;

/// Where a Redis server keeps its data.
const REDIS_DATA: &str = "appendonlydir";

impl World {
    /// Copies the data of a Redis server, or of a node with its own store, as a snapshot of its file
    /// system would: it stands still for the moment that it takes.
    ///
    /// # Errors
    /// When it does not run, or its files cannot be copied.
    pub fn back_up(&mut self, of: &Component) -> Result<(), Failure> {
        let (data, backup) = (self.data(of)?, self.backup());
        self.process(of)?.signal(Signal::Stop)?;
        let copied = replace(&data, &backup);
        self.process(of)?.signal(Signal::Continue)?;
        copied
    }

    /// Puts the copy back where it was taken from, of Redis into every server of the shard, gives the
    /// store a new lineage (`clarion store restored`), and starts all nodes.
    ///
    /// # Errors
    /// When there is no copy, or something does not end or start.
    pub async fn put_back(&mut self, of: &Component) -> Result<(), Failure> {
        let nodes: Vec<String> =
            self.cluster.nodes.iter().map(|node| node.name().to_owned()).collect();
        for name in &nodes {
            // Some have ended by themselves: a node does not go on with a store that is not its own.
            self.node(name)?.process_mut().terminate(DEADLINE).await?;
        }
        let shared = |one: &Component| match (one, of) {
            (Component::Redis { shard, .. }, Component::Redis { shard: lost, .. }) => shard == lost,
            _ => false,
        };
        let servers: Vec<Component> = self.processes().into_iter().filter(shared).collect();
        for server in &servers {
            self.process(server)?.kill().await?;
        }
        let keepers = if servers.is_empty() { std::slice::from_ref(of) } else { &servers };
        for keeper in keepers {
            replace(&self.backup(), &self.data(keeper)?)?;
        }
        for server in &servers {
            self.process(server)?.start()?;
        }
        for server in &servers {
            self.redis(server)?.wait_ready().await?;
        }
        match &self.cluster.redis {
            RedisGroup::Sentinel(group) => group.wait_settled().await?,
            RedisGroup::Cluster(group) => group.wait_settled().await?,
            RedisGroup::None | RedisGroup::Standalone(_) => {}
        }
        let first = nodes.first().ok_or_else(|| Failure::new("there is no node"))?;
        self.node(first)?.store_restored().await?;
        for name in &nodes {
            self.node(name)?.start()?;
        }
        for name in &nodes {
            self.node(name)?.wait_ready().await?;
        }
        Ok(())
    }

    /// Where the copy is.
    fn backup(&self) -> PathBuf {
        self.directory.join("backup")
    }

    /// Where a component keeps its data.
    fn data(&mut self, of: &Component) -> Result<PathBuf, Failure> {
        match of {
            Component::Redis { .. } => Ok(self.redis(of)?.directory().join(REDIS_DATA)),
            Component::Node(name) => {
                let config = &self.node(name)?.spec().config;
                let path = config.get("store").and_then(|store| store.get("path"));
                let path = path.and_then(|path| path.as_str());
                path.map(PathBuf::from)
                    .ok_or_else(|| Failure::new(format!("{of} has no store of its own")))
            }
            other => Err(unknown(other)),
        }
    }
}

/// Makes one directory what the other is.
fn replace(from: &Path, to: &Path) -> Result<(), Failure> {
    let what = format!("cannot copy {} to {}", from.display(), to.display());
    if to.exists() {
        std::fs::remove_dir_all(to).map_err(Failure::of(&what))?;
    }
    copy(from, to).map_err(Failure::of(&what))
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_directory_becomes_what_the_other_was() {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("old/deep")).unwrap();
        std::fs::write(at("old/deep/file"), "old").unwrap();
        replace(&at("old"), &at("backup")).unwrap();
        std::fs::write(at("old/deep/file"), "new").unwrap();
        std::fs::write(at("old/more"), "new").unwrap();
        replace(&at("backup"), &at("old")).unwrap();
        assert_eq!(std::fs::read_to_string(at("old/deep/file")).unwrap(), "old");
        assert!(!at("old/more").exists());
        assert!(replace(&at("none"), &at("old")).is_err());
    }
}
