//! The run itself: load, warm-up, one round after the other, and whatever happens, everything mended,
//! keys revoked, and the history judged.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clarion_launch::{LaunchError, wait};
use clarion_sdk::Admin;
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::mender::{BROKEN_FILE, Mender};
use super::schedule::{Schedule, Skipped, Step};
use super::{Misuse, Refused, TargetFile, clear, command, watch};
use crate::Failure;
use crate::check;
use crate::fault::{Redis, expects};
use crate::history::{About, Event, FORMAT, History};
use crate::run::{HISTORY_FILE, verdict};
use crate::sampler::{Sampler, Watched};
use crate::settle::{self, CountsNearFaults, DEADLINE};
use crate::summary::Summary;
use crate::workload::{Door, Doors, Workload};
use crate::world::interrupted;

/// Pushes between two rounds that show that everything works.
const SOME: u64 = 60;
/// Accepted pushes that must overlap each fault.
const OVERLAP_MIN: u64 = 50;
/// The counter of what only the slow head check found.
const HEAD_CHECK: &str = "clarion_head_check_found_total";
/// How long the state of the cluster may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What is not in the file.
pub struct Asked {
    /// The administrator's.
    pub token: String,
    /// What everything random is made from.
    pub seed: u64,
    /// Where the files go.
    pub directory: PathBuf,
    /// What makes such a run again.
    pub again: String,
}

struct TargetRun<'a> {
    file: &'a TargetFile,
    doors: Doors,
    admins: &'a [(String, Admin)],
    /// The nodes that there were before.
    nodes: BTreeSet<String>,
    load: Workload,
    history: Arc<History>,
    mender: Mender,
    rng: Rng,
    faults: u32,
    /// Faults that are not mended yet, and those that are, of which not all is whole yet.
    broken: Vec<u32>,
    mended: Vec<u32>,
}

/// Makes it.
pub async fn make(
    file: &TargetFile,
    schedule: &Schedule,
    asked: Asked,
) -> Result<Summary, Refused> {
    let doors = file.doors(&asked.token);
    let admin = |door: &Door| {
        let admin = Admin::new(&door.url, &asked.token);
        Ok((door.name.to_string(), admin.map_err(|error| Misuse::NoToken(error.to_string()))?))
    };
    let admins = doors.http.iter().map(admin).collect::<Result<Vec<_>, Misuse>>()?;
    let nodes = is_meant(file, &admins).await?;
    for part in &file.components {
        if let Some(words) = &part.check {
            let checked = command::run(words, file.command_timeout()).await;
            checked.map_err(|failure| Misuse::NotWhole(format!("{}: {failure}", part.name)))?;
        }
    }
    let history = history(file, schedule, &asked)?;
    // Not from the seed: a second run must not meet what is left of the first.
    let random: String = (0..10).map(|_| fastrand::lowercase()).collect();
    let names = format!("{}-{random}", file.load.prefix);
    let started = tokio::select! {
        started = start(&names, file, doors.clone(), &asked, &history) => started,
        failure = interrupted() => Err(failure),
    };
    let lived = match started {
        Ok(load) => {
            let run = TargetRun {
                file,
                doors,
                admins: &admins,
                nodes,
                load,
                history: Arc::clone(&history),
                mender: Mender::new(asked.directory.join(BROKEN_FILE), file.command_timeout()),
                rng: Rng::with_seed(asked.seed),
                faults: 0,
                broken: Vec::new(),
                mended: Vec::new(),
            };
            run.make(schedule).await
        }
        Err(failure) => Lived { faults: 0, whole: false, complaints: vec![failure.to_string()] },
    };
    let Lived { faults, whole, mut complaints } = lived;
    let cleared = clear::away(&admins, &names, file.load.products).await;
    complaints.extend(cleared.err().map(|failure| failure.to_string()));
    if whole {
        return Ok(verdict::judge(&history, &judged(faults), &asked.directory, complaints)?);
    }
    // Of half a run there is nothing to judge; its history is there.
    history.flush().map_err(Failure::of("cannot write the history"))?;
    Err(Failure::new(complaints.join("\n")).into())
}

/// What came of it.
struct Lived {
    faults: u32,
    /// It was made to its end: there is something to judge.
    whole: bool,
    complaints: Vec<String>,
}

/// That the cluster is the one that is meant, and whole; its nodes.
async fn is_meant(
    file: &TargetFile,
    admins: &[(String, Admin)],
) -> Result<BTreeSet<String>, Misuse> {
    let mut nodes = BTreeSet::new();
    for (door, admin) in admins {
        let state = timeout(ANSWER, admin.cluster()).await;
        let state = state.map_err(|_| Misuse::NotWhole(format!("{door} does not answer")))?;
        let state = state.map_err(|error| Misuse::NotWhole(format!("{door}: {error}")))?;
        let answers = state.cluster.clone().unwrap_or_else(|| state.node.clone());
        if answers != file.cluster.name {
            return Err(Misuse::OtherCluster { name: file.cluster.name.clone(), answers });
        }
        let away = state.nodes.iter().find(|node| !node.reachable || node.sick || node.draining);
        if let Some(away) = away {
            let node = &away.node;
            return Err(Misuse::NotWhole(format!(
                "{door} says that {node} is away, sick or leaving"
            )));
        }
        nodes.extend(state.nodes.into_iter().map(|node| node.node));
    }
    Ok(nodes)
}

fn history(file: &TargetFile, schedule: &Schedule, asked: &Asked) -> Result<Arc<History>, Failure> {
    let directory = &asked.directory;
    std::fs::create_dir_all(directory).map_err(Failure::of("cannot make the directory"))?;
    let about = About {
        format: FORMAT,
        seed: asked.seed,
        scenario: "target".to_owned(),
        world: file.cluster.name.clone(),
        again: asked.again.clone(),
        heartbeat_ms: file.cluster.heartbeat_ms,
        window: file.cluster.window,
        ..About::default()
    };
    let history = History::create(&directory.join(HISTORY_FILE), about);
    let history = history.map_err(Failure::of("cannot write the history"))?;
    for Step { fault, .. } in &schedule.steps {
        let (name, class) = (fault.component().into(), fault.on.class().into());
        history.add(Event::Component { name, class, parts: Vec::new() });
    }
    for Skipped { component, kind, why } in &schedule.skipped {
        println!("skipped                {component} {kind}: {why}");
        let (component, kind) = (component.as_str().into(), (*kind).into());
        history.add(Event::Skipped { component, kind, why: why.clone() });
    }
    Ok(Arc::new(history))
}

async fn start(
    names: &str,
    file: &TargetFile,
    doors: Doors,
    asked: &Asked,
    history: &Arc<History>,
) -> Result<Workload, Failure> {
    let history = Arc::clone(history);
    let load = Workload::start_as(names, doors, history, file.size(), &asked.directory, asked.seed);
    let load = timeout(DEADLINE, load).await;
    load.map_err(|_| Failure::new("the load does not start in time"))?
}

/// How the history is judged. Whatever else uses the cluster may be found by its head check.
fn judged(faults: u32) -> check::Options {
    check::Options {
        head_check_may_find: true,
        overlap_min: OVERLAP_MIN,
        overlap_total_min: OVERLAP_MIN * u64::from(faults.max(1)),
        ..check::Options::default()
    }
}

impl TargetRun<'_> {
    /// All of it; whatever happens, everything is mended.
    async fn make(mut self, schedule: &Schedule) -> Lived {
        let (samples, lived) = match self.samples() {
            Ok(samples) => {
                let lived = tokio::select! {
                    lived = self.live(schedule) => lived,
                    failure = interrupted() => Err(failure),
                };
                (Some(samples), lived)
            }
            Err(failure) => (None, Err(failure)),
        };
        // From here on no signal keeps anything from being mended.
        let mut complaints = self.mender.mend_all().await;
        let (whole, settled) = match lived {
            Ok(()) => tokio::select! {
                settled = self.settle() => (true, settled),
                failure = interrupted() => (false, Err(failure)),
            },
            Err(failure) => (false, Err(failure)),
        };
        drop(samples);
        complaints.extend(settled.err().map(|failure| failure.to_string()));
        Lived { faults: self.faults, whole, complaints }
    }

    /// Of the nodes by their doors, and of the load's own processes.
    fn samples(&self) -> Result<(Sampler, JoinSet<()>), Failure> {
        let sampler = Sampler::start(Arc::clone(&self.history));
        let own = self.load.processes().into_iter();
        let watched = |(process, pid)| Watched { process, pid: Some(pid), node: None };
        sampler.watch(own.map(watched).collect());
        Ok((sampler, watch::start(&self.doors, &self.history)?))
    }

    /// Warm-up, and rounds until the time is over or, once every fault was made, it would be.
    async fn live(&mut self, schedule: &Schedule) -> Result<(), Failure> {
        self.history.add(Event::Baseline);
        self.pushes(self.file.load.warm_up).await?;
        self.history.add(Event::Steady { from: self.history.clock().now() });
        let until = Instant::now() + Duration::from_secs_f64(self.file.limits.minutes * 60.0);
        for n in 0.. {
            let round = schedule.round(n, &mut self.rng);
            let needs = round.iter().map(|step| step.lasts).max().unwrap_or_default();
            if Instant::now() + needs >= until {
                self.not_reached(schedule.steps.get(n..).unwrap_or_default());
                break;
            }
            match timeout_at(until, self.round(round)).await {
                Ok(done) => done?,
                // What is broken now is mended; that may take its time.
                Err(_) => break,
            }
        }
        self.mend().await?;
        self.pushes(SOME).await
    }

    fn not_reached(&self, steps: &[Step]) {
        for Step { fault, .. } in steps {
            println!("skipped                {fault}: the time is over");
            let (component, kind) = (fault.component().into(), fault.act.kind().into());
            self.history.add(Event::Skipped { component, kind, why: "the time is over".into() });
        }
    }

    async fn round(&mut self, round: Vec<Step>) -> Result<(), Failure> {
        let lasts = round.iter().map(|step| step.lasts).max().unwrap_or_default();
        for step in round {
            self.begin(step).await?;
        }
        sleep(lasts).await;
        self.mend().await?;
        self.pushes(SOME).await
    }

    /// Mends everything, and waits until all is whole.
    async fn mend(&mut self) -> Result<(), Failure> {
        while let Some(n) = self.broken.last().copied() {
            self.mender.mend(n).await?;
            self.broken.pop();
            self.history.add(Event::Mended { n });
            self.mended.push(n);
        }
        self.whole().await?;
        for n in self.mended.drain(..) {
            self.history.add(Event::Healed { n });
        }
        Ok(())
    }

    async fn begin(&mut self, Step { fault, commands, .. }: Step) -> Result<(), Failure> {
        self.faults += 1;
        let n = self.faults;
        println!("breaking               {fault}");
        if let Some(mend) = commands.mend {
            self.mender.owes(n, fault.to_string(), mend)?;
        }
        self.history.add(Event::Fault {
            n,
            component: fault.component().into(),
            kind: fault.act.kind().into(),
            what: fault.act.to_string(),
            // Who is master is not asked: it may be this one.
            expects: expects(&fault, Redis::Master).to_string(),
            outside_model: fault.outside_model(),
        });
        self.broken.push(n);
        command::run(&commands.make, self.file.command_timeout()).await
    }

    /// Waits until all nodes see each other again, and every check is good.
    async fn whole(&self) -> Result<(), Failure> {
        let deadline = Duration::from_secs(self.file.limits.whole_timeout_s);
        let whole = wait::until("everything whole", deadline, async || {
            let nodes = is_meant(self.file, self.admins).await.map_err(LaunchError::of("nodes"))?;
            if nodes != self.nodes {
                return Err(LaunchError::new(format!("{nodes:?} of {:?}", self.nodes)));
            }
            for part in &self.file.components {
                let Some(words) = &part.check else { continue };
                let checked = command::run(words, self.file.command_timeout()).await;
                checked.map_err(LaunchError::of(&part.name))?;
            }
            Ok(())
        });
        Ok(whole.await?)
    }

    async fn pushes(&mut self, more: u64) -> Result<(), Failure> {
        let mut accepted = self.history.accepted();
        let until = *accepted.borrow() + more;
        tokio::select! {
            reached = timeout(DEADLINE * 2, accepted.wait_for(|accepted| *accepted >= until)) => {
                let late = |_| Failure::new(format!("no {more} pushes were accepted in time"));
                reached.map(drop).map_err(late)
            }
            failure = self.load.ended() => Err(failure),
        }
    }

    /// Everything that is owed arrives, and is counted.
    async fn settle(&mut self) -> Result<(), Failure> {
        let stopped = timeout(DEADLINE * 2, self.load.stop_pushing()).await;
        stopped.map_err(|_| Failure::new("the pushers do not end in time"))??;
        self.load.all_online();
        let online = timeout(DEADLINE, self.load.settled()).await;
        online.map_err(|_| Failure::new("terminals do not connect in time"))??;
        settle::everything_arrived(&self.history).await;
        for door in &self.doors.http {
            let found = watch::metric(&door.url, HEAD_CHECK).await?;
            self.history.add(Event::HeadChecked { found });
        }
        settle::count(&self.history, &self.load.backends()?, CountsNearFaults::MayLack).await
    }
}
