//! Chitchat, as the keeper uses it: says what changed of this node, listens to what is known of the
//! others, and begins anew, under a new generation of the same boot, when chitchat has stopped or
//! what it holds of ourselves was falsified. Its lock is held for microseconds, its commands are
//! posted: nothing here waits for the network.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState,
    spawn_chitchat,
};
use clarion_core::membership::Verdict;
use tokio::sync::watch;

use super::facts::{self, FACTS, Facts, LOAD, Load, MARKS, Marks, UNLINKED, VERDICT};
use super::seats::Heard;
use super::transport::{SignedUdp, unix_ms};

/// Rounds of gossip without a heartbeat after which a node is dead: phi here is silence over the
/// mean of a few intervals, which are about one round.
pub(super) const PHI_MAX: u32 = 12;
/// Few, and chitchat weighs in five rounds as if they had been seen: so neither a fast network makes
/// the detector nervous nor one slow second makes it numb.
const INTERVALS: usize = 2;
/// How long chitchat remembers the dead.
const DEAD_KEPT: Duration = Duration::from_secs(120);
/// We delete no keys; chitchat wants to know how long it would remember that.
const DELETED_KEPT: Duration = Duration::from_secs(3_600);
/// Load is told at most this often.
const LOAD_EVERY_MS: u64 = 1_000;
/// What chitchat remembers is looked over this often.
const LOOK_OVER_MS: u64 = 5_000;
/// Gossip begins anew at most this often.
const ANEW_EVERY_MS: u64 = 5_000;

/// What gossip starts with.
pub(super) struct Plan {
    pub(super) id: Arc<str>,
    pub(super) facts: Facts,
    pub(super) cluster: String,
    pub(super) every: Duration,
    pub(super) udp: SignedUdp,
}

/// One incarnation with what it says of itself.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) heard: Heard,
    pub(super) facts: Arc<Facts>,
    pub(super) marks: Marks,
    pub(super) load: Load,
    pub(super) verdict: Verdict,
}

impl Told {
    fn of(id: &ChitchatId, state: &NodeState, live: bool, facts: Arc<Facts>) -> Self {
        let marks: Marks = facts::read(state, MARKS).unwrap_or_default();
        let load = facts::read(state, LOAD).unwrap_or_default();
        let verdict = facts::verdict(state);
        let heard = Heard {
            id: Arc::clone(&id.node_id),
            generation: id.generation_id,
            addr: id.gossip_advertise_addr,
            boot: facts.boot,
            heartbeat: state.heartbeat().into(),
            live,
            left: marks.left,
        };
        Self { heard, facts, marks, load, verdict }
    }
}

type News = watch::Receiver<BTreeMap<ChitchatId, NodeState>>;
type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// See the head of this file.
pub(super) struct Gossip {
    plan: Plan,
    chitchat: ChitchatHandle,
    news: News,
    ended: Ended,
    stopped: bool,
    generation: u64,
    anew_ms: u64,
    /// The first facts of every incarnation that chitchat remembers.
    facts: HashMap<ChitchatId, Arc<Facts>>,
    looked_over_ms: u64,
    marks: Marks,
    load: Load,
    load_told_ms: Option<u64>,
}

impl Gossip {
    pub(super) async fn start(plan: Plan) -> anyhow::Result<Self> {
        let generation = unix_ms();
        let (marks, load) = (Marks::default(), Load::default());
        let chitchat = spawn(&plan, generation, marks, load).await?;
        Ok(Self {
            news: chitchat.chitchat().lock().await.live_nodes_watcher(),
            ended: ended(&chitchat),
            chitchat,
            stopped: false,
            generation,
            anew_ms: 0,
            facts: HashMap::new(),
            looked_over_ms: 0,
            marks,
            load,
            load_told_ms: None,
            plan,
        })
    }

    /// Until there is news other than heartbeats. May be dropped while it waits.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.news.changed() => {}
            () = &mut self.ended, if !self.stopped => self.stopped = true,
            else => std::future::pending().await,
        }
    }

    /// Whether chitchat is gone.
    pub(super) const fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// Says of this node what changed: marks at once, load by steps and not too often.
    pub(super) async fn say(&mut self, now_ms: u64, load: Load, marks: Marks, verdict: &Verdict) {
        let chitchat = self.chitchat.chitchat();
        let mut chitchat = chitchat.lock().await;
        let state = chitchat.self_node_state();
        // Sets nothing that is the same.
        state.set(VERDICT, verdict.judged());
        state.set(UNLINKED, verdict.unlinked());
        let is_due = self.load_told_ms.is_none_or(|at| now_ms >= at + LOAD_EVERY_MS);
        if is_due && load.is_a_step_from(&self.load) {
            state.set(LOAD, facts::text(&load));
            (self.load, self.load_told_ms) = (load, Some(now_ms));
        }
        if marks != self.marks {
            state.set(MARKS, facts::text(&marks));
            self.marks = marks;
        }
    }

    /// What is known of everybody, and whether what is known of ourselves was falsified.
    pub(super) async fn listen(&mut self, now_ms: u64) -> (Vec<Told>, bool) {
        let chitchat = self.chitchat.chitchat();
        let mut chitchat = chitchat.lock().await;
        let mut told = Vec::with_capacity(chitchat.node_states().len());
        let mut swollen = Vec::new();
        let mut all_facts = HashMap::with_capacity(self.facts.len());
        let live: HashSet<&ChitchatId> = chitchat.live_nodes().collect();
        for (id, state) in chitchat.node_states() {
            if facts::is_swollen(state) {
                swollen.push(id.clone());
                continue;
            }
            // Facts are for life: who says otherwise later is not the node.
            let known = self.facts.get(id).cloned().or_else(|| facts::facts(state).map(Arc::new));
            if let Some(facts) = known {
                told.push(Told::of(id, state, live.contains(id), Arc::clone(&facts)));
                all_facts.insert(id.clone(), facts);
            }
        }
        self.facts = all_facts;
        let me = chitchat.self_chitchat_id();
        let mine = chitchat.node_state(me).and_then(facts::facts);
        let falsified = swollen.contains(me) || mine.as_ref() != Some(&self.plan.facts);
        for id in &swollen {
            tracing::error!(node = %id.node_id, addr = %id.gossip_advertise_addr,
                "a node's gossip is too large to be honest: forgotten");
            empty(&mut chitchat, id);
        }
        if now_ms >= self.looked_over_ms + LOOK_OVER_MS {
            self.looked_over_ms = now_ms;
            let ids = chitchat.node_states().keys().cloned();
            self.plan.udp.known.lock().unwrap_or_else(PoisonError::into_inner).refresh(ids);
        }
        (told, falsified)
    }

    /// Gossips with that address soon.
    pub(super) fn knock(&self, addr: SocketAddr) {
        // An error means that chitchat has stopped, which is noticed elsewhere.
        let _ = self.chitchat.gossip(addr);
    }

    /// Begins anew; false if that is too early after the last time, or fails.
    pub(super) async fn begin_anew(&mut self, now_ms: u64) -> bool {
        if now_ms < self.anew_ms {
            return false;
        }
        self.anew_ms = now_ms.saturating_add(ANEW_EVERY_MS);
        metrics::counter!("clarion_cluster_gossip_restarts_total").increment(1);
        self.chitchat.abort();
        self.generation = unix_ms().max(self.generation + 1);
        match spawn(&self.plan, self.generation, self.marks, self.load).await {
            Ok(chitchat) => {
                self.news = chitchat.chitchat().lock().await.live_nodes_watcher();
                self.ended = ended(&chitchat);
                self.stopped = false;
                self.chitchat = chitchat;
                true
            }
            Err(error) => {
                tracing::error!(%error, "gossip does not start");
                false
            }
        }
    }

    pub(super) fn stop(&self) {
        let _ = self.chitchat.initiate_shutdown();
    }
}

/// Chitchat with this node's state, on the socket that stays.
async fn spawn(
    plan: &Plan,
    generation: u64,
    marks: Marks,
    load: Load,
) -> anyhow::Result<ChitchatHandle> {
    let advertise = plan.facts.peer_addr;
    let config = ChitchatConfig {
        chitchat_id: ChitchatId::new(Arc::clone(&plan.id), generation, advertise),
        cluster_id: plan.cluster.clone(),
        gossip_interval: plan.every,
        listen_addr: advertise,
        // Chitchat would wait for their look-up: `contacts` knocks instead.
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig::new(
            f64::from(PHI_MAX),
            INTERVALS,
            plan.every * 8,
            plan.every,
            DEAD_KEPT,
        ),
        marked_for_deletion_grace_period: DELETED_KEPT,
        catchup_callback: None,
        extra_liveness_predicate: None,
    };
    let values = vec![
        (FACTS.to_owned(), facts::text(&plan.facts)),
        (MARKS.to_owned(), facts::text(&marks)),
        (LOAD.to_owned(), facts::text(&load)),
    ];
    spawn_chitchat(config, values, &plan.udp).await
}

fn ended(chitchat: &ChitchatHandle) -> Ended {
    let end = chitchat.termination_watcher();
    Box::pin(async move {
        let _ = end.await;
    })
}

/// Takes all keys of a node away and passes for having seen their deletion, so that nobody's gossip
/// brings them back.
fn empty(chitchat: &mut Chitchat, id: &ChitchatId) {
    let Some(state) = chitchat.node_state(id) else { return };
    let (version, deleted) = (state.max_version(), state.last_gc_version());
    let deleted = version.max(deleted.saturating_add(1));
    chitchat.reset_node_state_if_update(id, std::iter::empty(), version, deleted);
}
