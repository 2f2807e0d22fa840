//! Within 3 s of detection all is healed (I12). On the clock of these tests, which stands still while
//! anything is left to do: what is asserted is how long the protocol waits, on any machine.

use std::sync::Arc;
use std::time::Duration;

use clarion_storage::memory::MemoryStore;
use tokio::time::Instant;

use crate::links::Flow;
use crate::store::Fails;
use crate::support::*;
use crate::world::*;

const ABC: [&str; 3] = ["a", "b", "c"];
const HEALED: Duration = Duration::from_secs(3);

/// The time of the store goes with that of the test.
fn keep_time(store: &Arc<MemoryStore>) {
    let store = Arc::downgrade(store);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let Some(store) = store.upgrade() else { return };
            store.advance_ms(1);
        }
    });
}

async fn world() -> World {
    let world = World::of(&ABC).await;
    keep_time(&world.store);
    for name in ABC {
        until_healed(&world, name).await;
    }
    world
}

/// What a node says of its healing.
async fn figure(node: &Member, of: &str) -> u64 {
    let status = node.system.status().await;
    status.pointer(&format!("/cluster/heals/{of}")).unwrap().as_u64().unwrap()
}

/// Returns how long its longest healing took, by its own figures, which is in time.
async fn until_healed(world: &World, name: &str) -> Duration {
    let node = world.node(name);
    node.until("it is healed", async || figure(node, "running").await == 0).await;
    assert!(figure(node, "count").await > 0, "{name} has healed nothing");
    let longest = Duration::from_millis(figure(node, "longest_ms").await);
    assert!(longest <= HEALED, "{name}: {longest:?}");
    longest
}

/// What `b` appended while nobody heard it, and nobody knew, comes within 3 s of the moment at which
/// they know; and so does what is appended from then on.
async fn heals_after(happens: impl AsyncFnOnce(&mut World)) {
    let mut world = world().await;
    let (terminal, news) = (terminal_of("b", &ABC), topic_of("b", &ABC));
    let mut links = Vec::new();
    for reader in ["a", "c"] {
        let name = format!("{terminal}-{reader}");
        links.push(world.node(reader).open_in(&name, &[news]).await.0);
    }
    for link in &mut links {
        link.settle().await;
    }
    world.node("b").accepted(to_topic(news), "heard").await;
    for link in &mut links {
        assert_eq!(read_all(link, 1).await, ["heard"]);
    }
    for other in ["a", "c"] {
        world.link_of("b", other).flow(Flow::Loses);
    }
    world.node("b").accepted(to_topic(news), "unheard").await;
    let known = Instant::now();
    happens(&mut world).await;
    for link in &mut links {
        assert_eq!(read_all(link, 1).await, ["unheard"]);
    }
    assert!(known.elapsed() <= HEALED, "{:?}", known.elapsed());
    world.node("a").accepted(to_topic(news), "after").await;
    for link in &mut links {
        assert_eq!(read_all(link, 1).await, ["after"]);
    }
    for name in ["a", "c"] {
        let longest = until_healed(&world, name).await;
        assert!(longest >= Duration::from_millis(1500), "{name} waited for what was under way");
    }
}

#[tokio::test(start_paused = true)]
async fn all_is_healed_3_s_after_an_owner_died_i12() {
    heals_after(async |world| {
        world.kill("b");
        world.sees("a", &["a", "c"]);
        world.sees("c", &["a", "c"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_is_healed_3_s_after_links_to_an_owner_ended_and_it_lives_i12() {
    heals_after(async |world| {
        world.cut("a", "b");
        world.cut("b", "c");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_is_healed_3_s_after_an_owner_vanished_without_a_word_i12() {
    heals_after(async |world| {
        world.sees("a", &["a", "c"]);
        world.sees("c", &["a", "c"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_is_healed_3_s_after_an_owner_was_started_again_under_its_name_i12() {
    heals_after(async |world| {
        world.kill("b");
        world.add("b", clarion_storage::DEFAULT_GROUP, &|_| {}).await;
        for other in ["a", "c"] {
            world.link("b", other);
        }
        world.all_see(&ABC);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_holds_up_healing_and_the_figure_tells() {
    let mut world = world().await;
    let (mut link, _) = world.node("a").open_in("t1", &[topic_of("b", &ABC)]).await;
    link.settle().await;
    let fail = |world: &World, fails: Option<Fails>| {
        // Another node would read for it.
        for name in ABC {
            *world.node(name).store.fails.lock().unwrap() = fails;
        }
    };
    fail(&world, Some(|_| true));
    let (before, began) = (figure(world.node("a"), "count").await, Instant::now());
    world.cut("a", "b");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let a = world.node("a");
    assert!(figure(a, "running").await > 0);
    fail(&world, None);
    a.until("it is healed", async || figure(a, "running").await == 0).await;
    assert!(figure(a, "count").await > before);
    let longest = Duration::from_millis(figure(a, "longest_ms").await);
    assert!((Duration::from_secs(10)..=began.elapsed()).contains(&longest), "{longest:?}");
}
