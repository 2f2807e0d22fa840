//! Figures for the README, printed: `cargo test -p clarion-storage figures_ -- --ignored --nocapture`.

use clarion_launch::{RedisSentinel, Signal};
use tokio::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures_of_an_outage() {
    for signal in [Signal::Kill, Signal::Stop] {
        for _ in 0..5 {
            let directory = tempfile::tempdir().unwrap();
            let redis = RedisSentinel::start(directory.path(), 1, 2, 3).await.unwrap();
            let settings = settings(RedisMode::Sentinel, &redis.sentinel_addrs(), 1);
            let shards = Shards::connect(&settings).await.unwrap();
            writable(&shards).await;
            shards.write("a", push("a", 0)).await.unwrap();
            redis.shards[0].servers[0].signal(signal).unwrap();
            let began = Instant::now();
            let mut first_error = None;
            let mut item = 1;
            loop {
                match shards.write("a", push("a", item)).await {
                    Ok(_) if first_error.is_some() => break,
                    Ok(_) => {}
                    Err(_) => {
                        first_error.get_or_insert_with(|| began.elapsed());
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                item += 1;
            }
            println!(
                "{signal:?}: first error {first_error:?}, written again {:?}",
                began.elapsed()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn figures_of_writes() {
    let directory = tempfile::tempdir().unwrap();
    let redis = RedisSentinel::start(directory.path(), 1, 2, 3).await.unwrap();
    for lanes in [1, 2, 4] {
        let mut settings = settings(RedisMode::Sentinel, &redis.sentinel_addrs(), 1);
        settings.lanes = lanes;
        let shards = Shards::connect(&settings).await.unwrap();
        writable(&shards).await;
        for callers in [1, 64, 512] {
            let end = Instant::now() + Duration::from_secs(5);
            let mut tasks = tokio::task::JoinSet::new();
            for caller in 0..callers {
                let shards = Arc::clone(&shards);
                tasks.spawn(async move {
                    let mut took = Vec::new();
                    while Instant::now() < end {
                        let tag = format!("{caller}-{}", fastrand::u32(..200));
                        let began = Instant::now();
                        let set = Request::command([&b"SET"[..], &key(&tag), &[0; 200]]);
                        shards.write(&tag, set).await.unwrap();
                        took.push(began.elapsed());
                    }
                    took
                });
            }
            let mut took: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
            took.sort_unstable();
            let at = |part: usize| took[took.len() * part / 1000];
            println!(
                "{lanes} lanes, {callers} callers: {}/s, p50 {:?}, p99 {:?}, p99.9 {:?}",
                took.len() / 5,
                at(500),
                at(990),
                at(999)
            );
        }
    }
}
