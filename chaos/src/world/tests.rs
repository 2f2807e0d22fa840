//! Real worlds of real processes.

use clarion_launch::Signal;

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);

async fn world(plan: WorldPlan, directory: &Path) -> World {
    World::build(plan, directory).await.unwrap_or_else(|failure| panic!("{failure}"))
}

fn component(text: &str) -> Component {
    text.parse().unwrap()
}

/// The place of every process of it, as the kernel tells.
fn spaces(world: &mut World) -> std::collections::BTreeSet<PathBuf> {
    let all = world.processes().into_iter();
    all.map(|component| {
        let pid = world.process(&component).unwrap().pid().unwrap();
        std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_one_of_each_sort_in_a_world_with_proxies_and_it_is_whole_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = world(WorldPlan::named("proxies").unwrap(), directory.path()).await;
    world.whole(DEADLINE).await.unwrap();
    let processes = world.processes();
    assert_eq!(processes.len(), 11);
    assert_eq!(spaces(&mut world).len(), 11, "each has a host of its own");
    assert_eq!(world.class(&component("node:node-1")), "node:gateway+push+broker");
    assert_eq!(world.doors().http.len(), 2);
    let components = world.components();
    for link in ["link:node-1>node-2", "link:node-2>redis-0/1", "link:client>proxy-1"] {
        assert!(components.contains(&component(link)), "{components:?}");
    }
    let killed = ["node:node-2", "redis:0/0", "redis:0/1", "sentinel:1", "proxy:0"];
    for component in &killed.map(component) {
        let begun = std::time::Instant::now();
        let process = world.process(component).unwrap();
        process.signal(Signal::Stop).unwrap();
        process.kill().await.unwrap();
        assert!(world.whole(DEADLINE).await.is_err(), "{component} is missing");
        assert_eq!(world.resources()[component], None);
        // A master that is back at once is outside the model, but here nothing is stored.
        world.restart(component).await.unwrap();
        world.whole(DEADLINE).await.unwrap();
        println!("{component}: whole after {:?}", begun.elapsed());
    }
    assert!(world.resources().values().all(Option::is_some));
    // Cut off, a server is missing though it runs; the run itself reaches everybody.
    let (replica, network) = (component("redis:0/2"), world.network().unwrap());
    network.cut_off(&replica, Direction::Both).unwrap();
    while world.whole(Duration::ZERO).await.is_ok() {}
    world.network().unwrap().reconnect(&replica, Direction::Both).unwrap();
    world.whole(DEADLINE).await.unwrap();
    world.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_redis_cluster_and_roles_have_hosts_of_their_own() {
    for (name, count) in [("redis-cluster", 12), ("roles-apart", 10)] {
        let directory = tempfile::tempdir().unwrap();
        let mut world = world(WorldPlan::named(name).unwrap(), directory.path()).await;
        world.whole(DEADLINE).await.unwrap();
        assert_eq!(spaces(&mut world).len(), count);
        world.add_node("more").await.unwrap();
        world.whole(DEADLINE).await.unwrap();
        assert_eq!(spaces(&mut world).len(), count + 1);
        world.node("more").unwrap().stop().await.unwrap();
        world.remove_node("more").unwrap();
        world.whole(DEADLINE).await.unwrap();
        world.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_single_node_has_a_disk_and_a_clock_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut plan = WorldPlan::named("single").unwrap();
    let node = component("node:node-1");
    plan.disks.insert(node.clone(), 64);
    plan.clocks = true;
    let mut world = world(plan, directory.path()).await;
    world.whole(DEADLINE).await.unwrap();
    assert_eq!(world.components(), [node.clone(), component("link:client>node-1")]);
    let mounted = world.disk(&node).unwrap().point().to_owned();
    assert!(mounted.read_dir().unwrap().count() > 0, "it keeps its data there");
    world.clock("node-1").unwrap().step(7200).unwrap();
    let disk = world.disk(&node).unwrap();
    disk.read_only().unwrap();
    let process = world.process(&node).unwrap();
    process.kill().await.unwrap();
    world.disk(&node).unwrap().restore().unwrap();
    world.restart(&node).await.unwrap();
    world.whole(DEADLINE).await.unwrap();
    world.stop().await.unwrap();
    assert_eq!(mounted.read_dir().unwrap().count(), 0, "it is not mounted any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_without_hosts_of_their_own_all_is_on_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let mut plan = WorldPlan::named("proxies").unwrap();
    plan.isolated = false;
    let mut world = world(plan, directory.path()).await;
    assert!(world.network().is_none() && world.no_network().is_some());
    world.whole(DEADLINE).await.unwrap();
    assert_eq!(world.client(), Place::default());
    world.stop().await.unwrap();
}
