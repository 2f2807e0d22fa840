//! A cluster of real processes under load, for tests: they break something, and the scene says
//! whether a promise was broken with it.

mod held;

use std::path::Path;
use std::sync::Arc;

use clarion_launch::{Cluster, LaunchError, Node, Profile, Signal, Up, wait};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::check::{self, Violation};
use crate::history::{Ending, Event, History};
use crate::kill_loop::HISTORY_FILE;
use crate::settle::{self, DEADLINE};
use crate::summary::Summary;
use crate::workload::{Doors, Patience, Size, Workload};
use crate::{Failure, binary};

use held::Held;

/// Keeps the files of scenes in which nothing was wrong, too.
pub const KEEP_VARIABLE: &str = "CLARION_CHAOS_KEEP";

/// The counter of what only the slow head check found.
const HEAD_CHECK: &str = "clarion_head_check_found_total";
/// Lines of each log that a failure quotes.
const TAIL_LINES: usize = 25;
/// Violations that a failure quotes.
const VIOLATIONS: usize = 30;
/// Pushes before anything is measured.
const WARM_UP: u64 = 100;

/// What every scene changes in its profile: times as short as a test wants them (a push that was
/// under way in a node that died can be repeated after the time of its request), and no slow head
/// check that would find what hints and hand-overs did not bring (I12).
const COMMON: &str = "
[node]
drain_timeout_ms = 3000
[session]
heartbeat_min_ms = 1000
heartbeat_max_ms = 2000
heartbeat_grace_ms = 1000
[actors]
head_check_ms = 3600000
[cluster]
quarantine_ms = 2000
[limits]
request_timeout_ms = 5000
";

/// How a scene is to be.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The launch profile.
    pub profile: Profile,
    /// What everything random is made from.
    pub seed: u64,
    /// The load.
    pub size: Size,
    /// The value of `CLARION_FAULTS` for every node.
    pub faults: Option<String>,
    /// Where the nodes run, if not on loopback.
    pub places: Vec<clarion_launch::Place>,
    /// What Redis servers are to be like.
    pub redis: clarion_launch::RedisOptions,
}

impl Setting {
    /// A cluster of this profile of `cluster-config/profiles`, with the usual load.
    ///
    /// # Errors
    /// When there is no such profile.
    pub fn shipped(name: &str, seed: u64) -> Result<Self, Failure> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-config/profiles");
        let profile = Profile::load(&directory.join(format!("{name}.toml")))?;
        let setting = Self {
            profile,
            seed,
            size: Size { products: 2, terminals: 12, pushes_per_s: 60 },
            faults: None,
            places: Vec::new(),
            redis: clarion_launch::RedisOptions::default(),
        };
        setting.common(COMMON)
    }

    /// Adds sections to the config of all nodes.
    ///
    /// # Errors
    /// When `sections` is not TOML.
    pub fn common(mut self, sections: &str) -> Result<Self, Failure> {
        self.profile.add_common(&clarion_launch::cluster::sections(sections)?);
        Ok(self)
    }
}

/// A running cluster with its load and history.
#[derive(Debug)]
pub struct Scene {
    /// The processes.
    pub cluster: Cluster,
    /// The load.
    pub load: Workload,
    history: Arc<History>,
    faults: u32,
    before: Vec<Held>,
    directory: TempDir,
}

impl Scene {
    /// Starts the cluster, then the load, and waits until both are in full swing.
    ///
    /// # Errors
    /// When that does not come about in time.
    pub async fn start(setting: Setting) -> Result<Self, Failure> {
        let made = TempDir::with_prefix("clarion-scene-");
        let directory = made.map_err(Failure::of("cannot make a directory"))?;
        match Self::start_in(setting, directory.path()).await {
            Ok((cluster, load, history)) => {
                let (faults, before) = (0, Vec::new());
                let mut scene = Self { cluster, load, history, faults, before, directory };
                scene.pushes(WARM_UP).await?;
                scene.before = Held::of(&mut scene.cluster).await?;
                Ok(scene)
            }
            Err(failure) => {
                let kept = directory.keep();
                Err(Failure::new(format!("{failure}\nfiles: {}", kept.display())))
            }
        }
    }

    async fn start_in(
        setting: Setting,
        directory: &Path,
    ) -> Result<(Cluster, Workload, Arc<History>), Failure> {
        let program = binary::provide(setting.faults.is_some(), directory)?;
        let mut up = Up::new(&directory.join("cluster"), &program);
        up.first_port = Some(0);
        (up.places, up.redis) = (setting.places, setting.redis);
        up.environment.extend(setting.faults.map(|faults| ("CLARION_FAULTS".to_owned(), faults)));
        let cluster = Cluster::up(&setting.profile, up).await?;
        let history = History::create(&directory.join(HISTORY_FILE), setting.seed);
        let history = Arc::new(history.map_err(Failure::of("cannot write the history"))?);
        history.add(Event::Ready { n: 0 });
        let doors = doors(&cluster);
        let (size, seed) = (setting.size, setting.seed);
        let load = Workload::start(doors, Arc::clone(&history), size, directory, seed);
        match timeout(DEADLINE, load).await {
            Ok(Ok(load)) => Ok((cluster, load, history)),
            Ok(Err(failure)) => Err(told(&cluster, &failure.to_string())),
            Err(_) => Err(told(&cluster, "the load does not start in time")),
        }
    }

    /// Waits for so many more accepted pushes.
    ///
    /// # Errors
    /// When they are not accepted in time, or a client ended.
    pub async fn pushes(&mut self, more: u64) -> Result<(), Failure> {
        let mut accepted = self.history.accepted();
        let until = *accepted.borrow() + more;
        let failure = tokio::select! {
            reached = timeout(DEADLINE, accepted.wait_for(|accepted| *accepted >= until)) => {
                match reached {
                    Ok(_) => return Ok(()),
                    Err(_) => format!("no {more} pushes were accepted in time"),
                }
            }
            failure = self.load.ended() => failure.to_string(),
        };
        Err(told(&self.cluster, &failure))
    }

    /// Records what is about to be broken.
    pub fn fault(&mut self, what: &str) {
        self.faults += 1;
        self.history.add(Event::Fault { n: self.faults, what: what.to_owned() });
    }

    /// Kills a node (SIGKILL).
    ///
    /// # Errors
    /// When there is no such node, or it was gone before.
    pub async fn kill(&mut self, name: &str) -> Result<(), Failure> {
        let node = self.cluster.node(name)?;
        node.process_mut().must_run()?;
        self.head_check(name).await?;
        self.fault(&format!("kill -9 of {name}"));
        Ok(self.cluster.node(name)?.kill().await?)
    }

    /// Stops a node where it stands (SIGSTOP).
    ///
    /// # Errors
    /// When there is no such node, or it does not run.
    pub fn hang(&mut self, name: &str) -> Result<(), Failure> {
        self.fault(&format!("SIGSTOP of {name}"));
        Ok(self.cluster.node(name)?.signal(Signal::Stop)?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When there is no such node, or it does not run.
    pub fn wake(&mut self, name: &str) -> Result<(), Failure> {
        self.fault(&format!("SIGCONT of {name}"));
        Ok(self.cluster.node(name)?.signal(Signal::Continue)?)
    }

    /// Starts a node again after it ended, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn restart(&mut self, name: &str) -> Result<(), Failure> {
        Ok(self.cluster.node(name)?.restart().await?)
    }

    /// The node that owns the broadcast log of a product, as `asked` says.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn owner(&mut self, asked: &str, product: &str) -> Result<String, Failure> {
        let node: &Node = self.cluster.node(asked)?;
        let owner = wait::until("an owner", DEADLINE, async || {
            let answer = node.admin("GET", &format!("/v1/where?product={product}")).await?;
            let owner = answer.json()["owner"].as_str().map(str::to_owned);
            owner.ok_or_else(|| LaunchError::new(format!("{asked} says {}", answer.body)))
        });
        Ok(owner.await?)
    }

    /// Waits until `asked` says of itself, in `GET /v1/cluster`, what `content` wants.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn sees(
        &mut self,
        asked: &str,
        what: &str,
        content: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<(), Failure> {
        let node: &Node = self.cluster.node(asked)?;
        let seen = wait::until(format!("{asked} sees {what}"), DEADLINE, async || {
            let answer = node.admin("GET", "/v1/cluster").await?;
            let state = answer.json();
            if content(&state) { Ok(()) } else { Err(LaunchError::new(answer.body)) }
        });
        Ok(seen.await?)
    }

    /// How many sessions have ended so far though nobody wanted it.
    #[must_use]
    pub fn broken_sessions(&self) -> usize {
        let broken = |event: &Event| matches!(event, Event::Left { how: Ending::Broken, .. });
        self.history.look(|all| all.iter().filter(|record| broken(&record.event)).count())
    }

    /// Sends a third of the terminals away and brings them back, to wherever that is.
    ///
    /// # Errors
    /// When they do not go, or come, in time.
    pub async fn come_and_go(&mut self, third: u32) -> Result<(), Failure> {
        for online in [false, true] {
            if online {
                self.load.bring_back(third);
            } else {
                self.load.send_away(third);
            }
            let settled = timeout(DEADLINE, self.load.settled()).await;
            settled.map_err(|_| told(&self.cluster, "terminals do not settle in time"))??;
        }
        Ok(())
    }

    /// Records what a node found by the slow head check alone.
    async fn head_check(&mut self, name: &str) -> Result<(), Failure> {
        // A counter is a whole number.
        let found = self.cluster.node(name)?.metric(HEAD_CHECK).await? as u64;
        self.history.add(Event::HeadChecked { found });
        Ok(())
    }

    /// Nothing is pushed any more and everybody comes online; then everything must arrive, be
    /// counted, and be let go of. Everything broken must have been mended.
    ///
    /// # Errors
    /// When a promise was broken, or something was not let go of; the files are kept then.
    pub async fn finish(self) -> Result<Summary, Failure> {
        let mut scene = self;
        let found = scene.settle().await;
        let written = scene.history.flush().map_err(Failure::of("cannot write the history"));
        let (summary, violations) =
            scene.history.look(|records| (Summary::of(records), check::check(records)));
        println!("{summary}");
        let done = found.and(written).and_then(|()| judge(&scene.cluster, &violations));
        let Self { cluster, load, directory, .. } = scene;
        drop(load);
        let stopped = cluster.stop().await.map_err(Failure::from);
        match done.and(stopped) {
            Ok(()) => {
                if std::env::var_os(KEEP_VARIABLE).is_some() {
                    println!("files                  {}", directory.keep().display());
                }
                Ok(summary)
            }
            Err(failure) => {
                let kept = directory.keep();
                Err(Failure::new(format!("{failure}\nfiles: {}", kept.display())))
            }
        }
    }

    async fn settle(&mut self) -> Result<(), Failure> {
        let stopped = timeout(DEADLINE * 2, self.load.stop_pushing()).await;
        stopped.map_err(|_| told(&self.cluster, "the pushers do not end in time"))??;
        self.load.all_online();
        let online = timeout(DEADLINE, self.load.settled()).await;
        online.map_err(|_| told(&self.cluster, "terminals do not connect in time"))??;
        settle::everything_arrived(&self.history).await;
        let running: Vec<String> = self.running();
        for name in &running {
            self.head_check(name).await?;
        }
        // Not the first, which may have left for good; but a proxy stays.
        let backends = match self.cluster.haproxy() {
            Some(_) => self.load.backends()?,
            None => {
                let runs = |node: &&Node| running.iter().any(|name| name == node.name());
                let node = self.cluster.nodes.iter().filter(pushes).find(runs);
                self.load.backends_at(&node.map(Node::http_url).unwrap_or_default())?
            }
        };
        settle::count(&self.history, &backends).await?;
        held::let_go(&mut self.cluster, &self.before, self.load.terminals()).await
    }

    fn running(&mut self) -> Vec<String> {
        let nodes = self.cluster.nodes.iter_mut();
        let running = nodes.filter_map(|node| {
            let runs = node.process_mut().is_running();
            runs.then(|| node.name().to_owned())
        });
        running.collect()
    }
}

/// How the load reaches a cluster: by its proxy if there is one, else by every node.
fn doors(cluster: &Cluster) -> Doors {
    let admin_token = cluster.admin_token().to_owned();
    let patience = Patience::SEVERAL_NODES;
    if let Some(proxy) = cluster.haproxy() {
        let http = vec![format!("http://{}", proxy.http_addr())];
        let terminals = vec![format!("ws://{}", proxy.terminals_addr())];
        return Doors { http, terminals, admin_token, patience };
    }
    let gateways = cluster.nodes.iter().filter(|node| node.terminals_addr().is_some());
    Doors {
        http: cluster.nodes.iter().filter(pushes).map(Node::http_url).collect(),
        terminals: gateways.map(Node::terminals_url).collect(),
        admin_token,
        patience,
    }
}

/// Whether a node takes pushes.
fn pushes(node: &&Node) -> bool {
    let roles = node.spec().config.get("node").and_then(|node| node.get("roles"));
    let roles = roles.and_then(|roles| roles.as_array());
    roles.is_none_or(|roles| roles.iter().any(|role| role.as_str() == Some("push")))
}

fn judge(cluster: &Cluster, violations: &[Violation]) -> Result<(), Failure> {
    if violations.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = violations.iter().take(VIOLATIONS).map(ToString::to_string).collect();
    let count = violations.len();
    Err(told(cluster, &format!("{count} promises were broken:\n{}", shown.join("\n"))))
}

/// A failure with the end of every process's log.
fn told(cluster: &Cluster, what: &str) -> Failure {
    let mut text = what.to_owned();
    for process in cluster.processes() {
        let pid = process.pid().map_or_else(|| "down".to_owned(), |pid| format!("pid {pid}"));
        text += &format!("\n---- {} ({pid})\n{}", process.name(), process.log_tail(TAIL_LINES));
    }
    Failure::new(text)
}
