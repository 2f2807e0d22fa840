//! What the tests of whole clusters share.
#![allow(dead_code, reason = "no test uses all of it")]

use clarion_chaos::scene::{Scene, Setting};
use clarion_chaos::summary::Summary;
use clarion_launch::{RedisCluster, RedisGroup, RedisSentinel};

/// Pushes that show that everything works.
pub const SOME: u64 = 60;

pub async fn shipped(profile: &str, seed: u64) -> Scene {
    start(Setting::shipped(profile, seed).unwrap()).await
}

pub async fn start(setting: Setting) -> Scene {
    Scene::start(setting).await.unwrap_or_else(|failure| panic!("{failure}"))
}

/// Everything is judged; nothing may have been found by the slow head check, which is off.
pub async fn finish(scene: Scene) -> Summary {
    let summary = scene.finish().await.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(summary.head_check_found, 0, "I12");
    summary
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

pub fn sentinel(scene: &mut Scene) -> &mut RedisSentinel {
    match &mut scene.cluster.redis {
        RedisGroup::Sentinel(group) => group,
        other => panic!("{other:?}"),
    }
}

pub fn redis_cluster(scene: &mut Scene) -> &mut RedisCluster {
    match &mut scene.cluster.redis {
        RedisGroup::Cluster(group) => group,
        other => panic!("{other:?}"),
    }
}
