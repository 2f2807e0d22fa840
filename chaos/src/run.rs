//! A run: a world of real processes under load, what is done to it, and the judgement of what came
//! of it. Scenarios are written in its words.

mod held;
mod options;
mod redis;
pub(crate) mod verdict;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use clarion_launch::{LaunchError, Node, wait};
use clarion_sdk::Backend;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::Failure;
use crate::fault::{Broken, Fault, expects};
use crate::history::{About, Event, FORMAT, History};
use crate::interruption::Expects;
use crate::sampler::{Api, Sampler, Watched};
use crate::scenario::{Outcome, Scenario};
use crate::settle::DEADLINE;
use crate::workload::Workload;
use crate::world::{Component, World};

use held::Held;
pub use options::{HINTS_OFF, Options, Profile, Setting};

/// The file of the history, in the directory of the run.
pub const HISTORY_FILE: &str = "history.jsonl";
/// Keeps the files of runs in which nothing was wrong, too.
pub const KEEP_VARIABLE: &str = "CLARION_CHAOS_KEEP";

/// The counter of what only the slow head check found.
const HEAD_CHECK: &str = "clarion_head_check_found_total";
/// Added to the number of a round, so that those terminals come in its end that are late.
const LATE_FROM: u32 = 2;
/// How long all may take to be whole again.
const WHOLE_DEADLINE: Duration = Duration::from_secs(90);

/// A running world with its load and history.
#[derive(Debug)]
pub struct Run {
    /// The processes.
    pub world: World,
    /// The load.
    pub load: Workload,
    pub(crate) history: Arc<History>,
    scenario: &'static Scenario,
    options: Options,
    setting: Setting,
    pub(crate) directory: PathBuf,
    faults: u32,
    /// Things that are broken now.
    broken: u32,
    /// Faults that are mended, and of which not all is whole again yet.
    open: Vec<u32>,
    /// Pushes that were accepted while something was broken, but for...
    overlapped: u64,
    /// ...those of the stretch that began when so many were accepted in all.
    broken_since: Option<u64>,
    before: Vec<Held>,
    sampler: Sampler,
}

impl Run {
    /// Builds the scenario's world, does what it says, and judges it.
    ///
    /// # Errors
    /// When a promise was broken or the run could not be made; the files are kept and named then,
    /// with the command that makes such a run again.
    pub(crate) async fn make(
        scenario: &'static Scenario,
        options: Options,
    ) -> Result<Outcome, Failure> {
        if let Some(missing) = scenario.needs.iter().find(|need| !need.is_met()) {
            return Ok(Outcome::Skipped(format!("{}: it needs {missing}", scenario.name)));
        }
        let (directory, temporary) = match &options.keep {
            Some(directory) => {
                if std::fs::read_dir(directory).is_ok_and(|mut files| files.next().is_some()) {
                    let used = directory.display();
                    return Err(Failure::new(format!("{used} is not empty: name another one")));
                }
                (directory.clone(), None)
            }
            None => {
                let made = TempDir::with_prefix("clarion-chaos-");
                let made = made.map_err(Failure::of("cannot make a directory"))?;
                (made.path().to_owned(), Some(made))
            }
        };
        let again = options.command(scenario);
        let done = Box::pin(Self::make_in(scenario, options, &directory)).await;
        let keep = done.is_err() || std::env::var_os(KEEP_VARIABLE).is_some();
        if let Some(temporary) = temporary
            && keep
        {
            println!("files                  {}", temporary.keep().display());
        }
        done.map_err(|failure| {
            Failure::new(format!("{failure}\nfiles: {}\nagain: {again}", directory.display()))
        })
    }

    async fn make_in(
        scenario: &'static Scenario,
        options: Options,
        directory: &Path,
    ) -> Result<Outcome, Failure> {
        std::fs::create_dir_all(directory).map_err(Failure::of("cannot make the directory"))?;
        let setting = Setting::of(scenario, &options)?;
        let mut world = World::build(setting.plan.clone(), directory).await?;
        let program = world.program(setting.plan.fault_hooks)?;
        let about = About {
            format: FORMAT,
            seed: options.seed,
            scenario: scenario.name.to_owned(),
            world: scenario.world.to_owned(),
            commit: said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "HEAD"]),
            program: said(&program, &["--version"]),
            again: options.arguments(scenario),
            heartbeat_ms: options::HEARTBEAT_MS,
            slack_ms: options::SLACK_MS,
            window: options::WINDOW,
        };
        let history = History::create(&directory.join(HISTORY_FILE), about);
        let history = Arc::new(history.map_err(Failure::of("cannot write the history"))?);
        for component in world.components() {
            let parts =
                World::parts(&component).iter().map(|part| part.to_string().into()).collect();
            let (name, class) = (component.to_string().into(), world.class(&component).into());
            history.add(Event::Component { name, class, parts });
        }
        let load = Workload::start(
            world.doors(),
            Arc::clone(&history),
            setting.size,
            directory,
            options.seed,
        );
        let load = match timeout(DEADLINE, load).await {
            Ok(Ok(load)) => load,
            Ok(Err(failure)) => return Err(world.told(&failure.to_string())),
            Err(_) => return Err(world.told("the load does not start in time")),
        };
        let sampler = Sampler::start(Arc::clone(&history));
        let mut run = Self {
            world,
            load,
            history,
            scenario,
            options,
            setting,
            directory: directory.to_owned(),
            faults: 0,
            broken: 0,
            open: Vec::new(),
            overlapped: 0,
            broken_since: None,
            before: Vec::new(),
            sampler,
        };
        run.watch();
        let done = run.live().await;
        let found = run.settle_and_judge(done).await;
        let Self { world, load, sampler, .. } = run;
        drop((load, sampler));
        let stopped = world.stop().await;
        let summary = found?;
        stopped?;
        Ok(Outcome::Kept(Box::new(summary)))
    }

    /// Warm-up, what the scenario does, and healing.
    async fn live(&mut self) -> Result<(), Failure> {
        self.history.add(Event::Baseline);
        self.pushes(self.options.profile.warm_up()).await?;
        self.before = Held::of(&mut self.world.cluster).await?;
        self.history.add(Event::Steady { from: self.history.clock().now() });
        (self.scenario.steps)(self).await?;
        self.whole().await
    }

    /// How the run was asked for.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// What its world is like.
    #[must_use]
    pub const fn setting(&self) -> &Setting {
        &self.setting
    }

    /// Breaks something. None when this machine cannot do it, which is recorded.
    ///
    /// # Errors
    /// When it should have been possible and was not.
    pub async fn begin(&mut self, fault: Fault) -> Result<Option<Broken>, Failure> {
        let expects = expects(&fault, self.redis_role(&fault.on).await);
        self.begin_expecting(fault, expects).await
    }

    /// The same, where it is known to the scenario alone how long the fault may interrupt.
    ///
    /// # Errors
    /// As above.
    pub async fn begin_expecting(
        &mut self,
        fault: Fault,
        expects: Expects,
    ) -> Result<Option<Broken>, Failure> {
        if let Some(why) = self.cannot(&fault) {
            let (component, kind) = (fault.component().into(), fault.act.kind().into());
            println!("skipped                {fault}: {why}");
            self.history.add(Event::Skipped { component, kind, why });
            return Ok(None);
        }
        if let Component::Node(name) = &fault.on
            && fault.act.ends_the_process()
        {
            self.head_check(&name.clone()).await?;
        }
        self.prepare(&fault).await?;
        self.faults += 1;
        let (n, accepted_before) = (self.faults, *self.history.accepted().borrow());
        self.broken += 1;
        self.broken_since.get_or_insert(accepted_before);
        self.history.add(Event::Fault {
            n,
            component: fault.component().into(),
            kind: fault.act.kind().into(),
            what: fault.act.to_string(),
            expects: expects.to_string(),
            outside_model: fault.outside_model(),
        });
        let undo = Box::pin(self.break_it(&fault)).await;
        let undo = undo.map_err(|error| Failure::new(format!("{fault}: {error}")))?;
        self.watch();
        Ok(Some(Broken { n, fault, expects, undo, accepted_before }))
    }

    /// Takes the hand off what was broken, once as many pushes overlapped it as is its share of what the
    /// run demands. What follows from it may take its time yet.
    ///
    /// # Errors
    /// When what was broken cannot be started, woken or connected again.
    pub async fn mend(&mut self, broken: Broken) -> Result<(), Failure> {
        let Broken { n, fault, expects, undo, accepted_before } = broken;
        if expects.lets_pushes_pass() {
            let share = self.setting.overlap_total_min.div_ceil(u64::from(self.scenario.faults));
            let share = a_tenth_more(share.max(self.setting.overlap_min));
            self.accepted(accepted_before + share).await?;
        }
        let mended = Box::pin(self.mend_it(&fault, undo)).await;
        mended.map_err(|error| Failure::new(format!("mending {fault}: {error}")))?;
        self.history.add(Event::Mended { n });
        self.open.push(n);
        self.broken -= 1;
        self.watch();
        Ok(())
    }

    /// Whether as many pushes were accepted while something was broken as the run demands.
    #[must_use]
    pub fn has_overlapped(&self) -> bool {
        let now = *self.history.accepted().borrow();
        let current = self.broken_since.map_or(0, |since| now - since);
        self.overlapped + current >= a_tenth_more(self.setting.overlap_total_min)
    }

    /// Waits until everything that was mended is whole again.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn whole(&mut self) -> Result<(), Failure> {
        self.world.whole(WHOLE_DEADLINE).await?;
        for n in self.open.drain(..) {
            self.history.add(Event::Healed { n });
        }
        if self.broken == 0
            && let Some(since) = self.broken_since.take()
        {
            self.overlapped += *self.history.accepted().borrow() - since;
        }
        Ok(())
    }

    /// Sends a third of the terminals away, breaks something, does something meanwhile, mends it, brings
    /// them back, and waits until all is whole and what had to wait is answered. Nothing is done when
    /// this machine cannot break it.
    ///
    /// # Errors
    /// When any of it fails.
    pub async fn with(
        &mut self,
        fault: Fault,
        meanwhile: impl AsyncFnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let third = self.faults;
        self.load.send_away(third);
        if let Some(broken) = self.begin(fault).await? {
            meanwhile(self).await?;
            self.mend(broken).await?;
        }
        // Those that are late come after the first fault.
        self.load.bring_back(third + LATE_FROM);
        self.whole().await?;
        self.answered().await
    }

    /// Waits until nobody waits for an answer any more who did when all was whole again: what one fault
    /// held up must not be taken for the work of the next.
    async fn answered(&self) -> Result<(), Failure> {
        let (history, now) = (Arc::clone(&self.history), self.history.clock().now());
        let answered = wait::until("all pushes are answered", DEADLINE, async || {
            match history.ledger(|ledger| ledger.waiting_since()) {
                Some(since) if since < now => Err(LaunchError::new("a push waits yet")),
                _ => Ok(()),
            }
        });
        Ok(answered.await?)
    }

    /// Samples are taken of the processes that are there now.
    fn watch(&mut self) {
        let mut watched = Vec::new();
        for component in self.world.processes() {
            let pid = self.world.process(&component).ok().and_then(|process| process.pid());
            let node = match &component {
                Component::Node(name) => self
                    .world
                    .node(name)
                    .ok()
                    .map(|node| Api { at: node.http_addr(), token: node.admin_token().to_owned() }),
                _ => None,
            };
            watched.push(Watched { process: component.to_string().into(), pid, node });
        }
        let own = self.load.processes().into_iter();
        watched.extend(own.map(|(process, pid)| Watched { process, pid: Some(pid), node: None }));
        self.sampler.watch(watched);
    }

    /// Why this machine or world cannot do it.
    fn cannot(&self, fault: &Fault) -> Option<String> {
        let network = self.world.network().is_some();
        let missing = fault.act.needs().into_iter().find(|need| match need {
            crate::fault::Need::Namespaces => !network,
            crate::fault::Need::FaultHooks => !self.setting.plan.fault_hooks,
            other => !other.is_met(),
        });
        missing.map(|need| format!("it needs {need}"))
    }

    /// Waits for so many more accepted pushes.
    ///
    /// # Errors
    /// When they are not accepted in time, or a client ended.
    pub async fn pushes(&mut self, more: u64) -> Result<(), Failure> {
        let until = *self.history.accepted().borrow() + more;
        self.accepted(until).await
    }

    /// Waits until so many pushes were accepted since the start of the run.
    async fn accepted(&mut self, until: u64) -> Result<(), Failure> {
        let mut accepted = self.history.accepted();
        let more = until.saturating_sub(*accepted.borrow());
        let failure = tokio::select! {
            reached = timeout(DEADLINE, accepted.wait_for(|accepted| *accepted >= until)) => {
                match reached {
                    Ok(_) => return Ok(()),
                    Err(_) => format!("no {more} pushes were accepted in time"),
                }
            }
            failure = self.load.ended() => failure.to_string(),
        };
        Err(Failure::new(failure))
    }

    /// Waits until some more pushes are refused.
    ///
    /// # Errors
    /// When all are accepted.
    pub async fn refused(&mut self) -> Result<(), Failure> {
        let history = Arc::clone(&self.history);
        let refused = move || {
            let figures = history.figures();
            figures.refused + figures.unknown
        };
        let before = refused();
        let seen = wait::until("a push is refused", DEADLINE, async || {
            if refused() > before { Ok(()) } else { Err(LaunchError::new("all are accepted")) }
        });
        Ok(seen.await?)
    }

    /// The node that owns the broadcast log of a product, as `asked` says.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn owner(&mut self, asked: &str, product: &str) -> Result<String, Failure> {
        let node = self.world.node(asked)?;
        let owner = wait::until("an owner", DEADLINE, async || {
            let answer = node.admin("GET", &format!("/v1/where?product={product}")).await?;
            let owner = answer.json()["owner"].as_str().map(str::to_owned);
            owner.ok_or_else(|| LaunchError::new(format!("{asked} says {}", answer.body)))
        });
        Ok(owner.await?)
    }

    /// A node other than this one.
    ///
    /// # Errors
    /// When there is none.
    pub fn another(&self, than: &str) -> Result<String, Failure> {
        let mut names = self.node_names().into_iter().filter(|name| name != than);
        names.next().ok_or_else(|| Failure::new("there is no other node"))
    }

    /// Waits until `asked` says of the cluster, in `GET /v1/cluster`, what `content` wants.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn sees(
        &mut self,
        asked: &str,
        what: &str,
        content: impl Fn(&Value) -> bool,
    ) -> Result<(), Failure> {
        let node = self.world.node(asked)?;
        let seen = wait::until(format!("{asked} sees {what}"), DEADLINE, async || {
            let answer = node.admin("GET", "/v1/cluster").await?;
            let state = answer.json();
            if content(&state) { Ok(()) } else { Err(LaunchError::new(answer.body)) }
        });
        Ok(seen.await?)
    }

    /// Asks one node to let another drain.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn drains(&mut self, asked: &str, which: &str) -> Result<(), Failure> {
        let path = format!("/v1/cluster/nodes/{which}/drain");
        Ok(self.world.node(asked)?.admin("POST", &path).await.map(drop)?)
    }

    /// Waits until a gauge of a node is so low, or the node has ended.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn gauge_falls(&mut self, node: &str, gauge: &str, to: f64) -> Result<(), Failure> {
        let node = self.world.node(node)?;
        let fallen = wait::until(format!("{gauge} at {to}"), DEADLINE, async || {
            if !node.process_mut().is_running() {
                return Ok(());
            }
            let now = node.metric(gauge).await?;
            if now <= to { Ok(()) } else { Err(LaunchError::new(format!("it is {now}"))) }
        });
        Ok(fallen.await?)
    }

    /// Ends a node in good order, if it has not ended, and starts it again.
    ///
    /// # Errors
    /// When it does not end, or is not ready in time.
    pub async fn started_again(&mut self, name: &str) -> Result<(), Failure> {
        self.world.node(name)?.stop().await?;
        self.world.node(name)?.restart().await?;
        self.whole().await
    }

    /// A counter or gauge of a node.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metric(&mut self, node: &str, name: &str) -> Result<f64, Failure> {
        Ok(self.world.node(node)?.metric(name).await?)
    }

    /// Resident memory of all nodes but this one, KiB.
    ///
    /// # Errors
    /// When one does not run.
    pub fn resident_besides(&mut self, name: &str) -> Result<Vec<u64>, Failure> {
        let names = self.node_names().into_iter().filter(|other| other != name);
        let resident = |name: String| Ok(self.world.node(&name)?.process().resources()?.rss_kib);
        names.map(resident).collect()
    }

    /// How many sessions have ended so far though nobody wanted it.
    #[must_use]
    pub fn broken_sessions(&self) -> u64 {
        self.history.figures().broken_sessions
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
            settled.map_err(|_| Failure::new("terminals do not settle in time"))??;
        }
        Ok(())
    }

    /// The names of all nodes.
    #[must_use]
    pub fn node_names(&self) -> Vec<String> {
        self.world.cluster.nodes.iter().map(|node| node.name().to_owned()).collect()
    }

    /// Those that run.
    fn running(&mut self) -> Vec<String> {
        let nodes = self.world.cluster.nodes.iter_mut();
        let running = nodes.filter_map(|node| {
            let runs = node.process_mut().is_running();
            runs.then(|| node.name().to_owned())
        });
        running.collect()
    }

    /// Back-ends at a proxy, or at a node that runs: the first may have left for good.
    fn backends(&mut self) -> Result<Vec<(String, Backend)>, Failure> {
        if self.world.cluster.haproxy().is_some() {
            return self.load.backends();
        }
        let running = self.running();
        let runs = |node: &&Node| running.iter().any(|name| name == node.name());
        let node = self.world.cluster.nodes.iter().filter(takes_pushes).find(runs);
        self.load.backends_at(&node.map(Node::http_url).unwrap_or_default())
    }

    /// Waits until those who would do something about it have noticed what was done to a component:
    /// another Redis server is master, other nodes have no link to it any more.
    ///
    /// # Errors
    /// When they have not in time.
    pub async fn noticed(&mut self, fault: &Noticed) -> Result<(), Failure> {
        match fault {
            Noticed::AtOnce => Ok(()),
            Noticed::Master(old) => self.redis_failed_over(old).await,
            Noticed::Node(name) => {
                let other = self.another(name)?;
                self.sees(&other, &format!("that {name} is away"), |state| {
                    says(state, name, "reachable") != true
                })
                .await
            }
        }
    }

    /// What will have to be noticed when this is broken; to be asked before it is.
    pub async fn to_notice(&self, fault: &Fault) -> Noticed {
        match &fault.on {
            Component::Node(name) => Noticed::Node(name.clone()),
            server @ Component::Redis { .. } if self.is_master(server).await => {
                Noticed::Master(server.clone())
            }
            _ => Noticed::AtOnce,
        }
    }

    /// Records what a node found by the slow head check alone.
    async fn head_check(&mut self, name: &str) -> Result<(), Failure> {
        // A counter is a whole number.
        let found = self.world.node(name)?.metric(HEAD_CHECK).await? as u64;
        self.history.add(Event::HeadChecked { found });
        Ok(())
    }
}

/// See [`Run::to_notice`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noticed {
    /// Whoever needs it notices by itself.
    AtOnce,
    /// Another is to be master.
    Master(Component),
    /// The other nodes are to have no link to it.
    Node(String),
}

/// Of the answers that are counted some are of pushes that were pushed again, or answered before.
const fn a_tenth_more(pushes: u64) -> u64 {
    pushes + pushes / 10
}

/// What a program says; nothing if it cannot be run.
fn said(program: impl AsRef<OsStr>, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.unwrap_or_default()
}

/// Whether a node takes pushes.
fn takes_pushes(node: &&Node) -> bool {
    let roles = node.spec().config.get("node").and_then(|node| node.get("roles"));
    let roles = roles.and_then(|roles| roles.as_array());
    roles.is_none_or(|roles| roles.iter().any(|role| role.as_str() == Some("push")))
}

/// What `GET /v1/cluster` of the node that was asked says of another.
#[must_use]
pub fn says(state: &Value, of: &str, what: &str) -> Value {
    let nodes = state["nodes"].as_array().into_iter().flatten();
    let mut nodes = nodes.filter(|node| node["node"] == of);
    nodes.next().map_or(Value::Null, |node| node[what].clone())
}
