//! The root of the actors of a node: starts them, and starts them again as the kind table says.
//!
//! Receives: requests to start an actor, and ractor's supervision events. Sends: nothing. Parent:
//! none; if it crashed itself the node would report itself as not alive. Holds no data that a
//! restart of a child needs: children recover by themselves.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, Message, SpawnErr, SupervisionEvent,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::kinds::{Escalation, Kind, Restart};
use crate::task;

/// Where the current incarnation of an actor is found. Callers keep the slot; the supervisor fills
/// it. What is cast into an empty slot is lost, and the caller knows.
pub(crate) struct Slot<M: Message> {
    current: RwLock<Option<ActorRef<M>>>,
    incarnation: AtomicU32,
}

impl<M: Message> Slot<M> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { current: RwLock::new(None), incarnation: AtomicU32::new(0) })
    }

    /// Sends to the current incarnation; gives the message back if there is none.
    pub(crate) fn cast(&self, message: M) -> Result<(), ()> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref() {
            Some(actor) => actor.send_message(message).map_err(|_| ()),
            None => Err(()),
        }
    }

    pub(crate) fn is_filled(&self) -> bool {
        self.current.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn fill(&self, actor: ActorRef<M>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }

    fn empty_if(&self, id: ActorId) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|actor| actor.get_id() == id) {
            *current = None;
        }
    }
}

/// Something the supervisor can start, again and again.
pub(crate) trait Child: Send + Sync + 'static {
    fn kind(&self) -> Kind;
    /// For logs: which of its kind.
    fn label(&self) -> String;
    fn start(&self, supervisor: ActorCell) -> BoxFuture<'_, Result<ActorCell, SpawnErr>>;
    fn ended(&self, id: ActorId);
    /// Tells one child from another, whatever their labels.
    fn identity(&self) -> usize;
    /// It stopped because it was idle: forget it.
    fn forgotten(&self);
    /// It will not start again for a while: whoever waits for it is to be told.
    fn quarantined(&self);
}

/// A [`Child`] made of closures.
pub(crate) struct ChildOf<A: Actor, F> {
    pub(crate) kind: Kind,
    pub(crate) label: String,
    pub(crate) slot: Arc<Slot<A::Msg>>,
    /// Gets the incarnation, from 1.
    pub(crate) make: F,
    /// After every start, once the slot is filled; gets the incarnation: neighbours announce
    /// themselves again (I12).
    pub(crate) started: Box<dyn Fn(u32) + Send + Sync>,
    /// After it stopped by itself.
    pub(crate) forgotten: Box<dyn Fn() + Send + Sync>,
    /// When its budget is used up.
    pub(crate) quarantined: Box<dyn Fn() + Send + Sync>,
}

impl<A, F> Child for ChildOf<A, F>
where
    A: Actor,
    F: Fn(u32) -> (A, A::Arguments) + Send + Sync + 'static,
{
    fn kind(&self) -> Kind {
        self.kind
    }

    fn label(&self) -> String {
        self.label.clone()
    }

    fn start(&self, supervisor: ActorCell) -> BoxFuture<'_, Result<ActorCell, SpawnErr>> {
        Box::pin(async move {
            let incarnation = self.slot.incarnation.fetch_add(1, Ordering::Relaxed) + 1;
            let (actor, arguments) = (self.make)(incarnation);
            let (actor, _) = Actor::spawn_linked(None, actor, arguments, supervisor).await?;
            let cell = actor.get_cell();
            self.slot.fill(actor);
            (self.started)(incarnation);
            Ok(cell)
        })
    }

    fn ended(&self, id: ActorId) {
        self.slot.empty_if(id);
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.slot).addr()
    }

    fn forgotten(&self) {
        (self.forgotten)();
    }

    fn quarantined(&self) {
        (self.quarantined)();
    }
}

/// The way to the supervisor.
#[derive(Clone)]
pub(crate) struct SupervisorHandle {
    actor: ActorRef<SupervisorMessage>,
    unhealthy_until: Arc<Mutex<Option<Instant>>>,
}

impl SupervisorHandle {
    pub(crate) async fn start() -> Result<Self, SpawnErr> {
        let unhealthy_until = Arc::new(Mutex::new(None));
        let (actor, _) = Supervisor::spawn(None, Supervisor, Arc::clone(&unhealthy_until)).await?;
        Ok(Self { actor, unhealthy_until })
    }

    /// Starts `child` unless it runs already. `false`: it is quarantined, or the node stops.
    pub(crate) async fn ensure(&self, child: Arc<dyn Child>) -> bool {
        let (reply, answer) = oneshot::channel();
        if self.actor.send_message(SupervisorMessage::Ensure { child, reply }).is_err() {
            return false;
        }
        answer.await.unwrap_or(false)
    }

    /// Whether no kind is beyond its budget and the supervisor itself runs.
    pub(crate) fn healthy(&self) -> bool {
        let until = *self.unhealthy_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_none_or(|until| Instant::now() >= until)
            && self.actor.get_status() == ractor::ActorStatus::Running
    }

    /// Stops every actor, kind by kind in stop order.
    pub(crate) async fn stop(&self) {
        let (reply, answer) = oneshot::channel();
        if self.actor.send_message(SupervisorMessage::StopAll { reply }).is_ok() {
            let _ = answer.await;
        }
        self.actor.stop(None);
    }
}

enum SupervisorMessage {
    /// Start a child unless it runs.
    Ensure { child: Arc<dyn Child>, reply: oneshot::Sender<bool> },
    /// A back-off ended.
    StartAgain { child: Arc<dyn Child> },
    /// Stop everything.
    StopAll { reply: oneshot::Sender<()> },
}

impl ractor::Message for SupervisorMessage {}

struct Supervisor;

struct SupervisorState {
    running: HashMap<ActorId, (Arc<dyn Child>, ActorCell)>,
    /// Identities of what runs or waits for its back-off.
    known: HashSet<usize>,
    /// Crash times of children within their window, by [`key`]; dropped when it has passed. At
    /// most one more than the budget allows for each.
    crashes: HashMap<String, VecDeque<Instant>>,
    unhealthy_until: Arc<Mutex<Option<Instant>>>,
    stopping: bool,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = Arc<Mutex<Option<Instant>>>;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        unhealthy_until: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(SupervisorState {
            running: HashMap::new(),
            known: HashSet::new(),
            crashes: HashMap::new(),
            unhealthy_until,
            stopping: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Ensure { child, reply } => {
                let _ = reply.send(state.ensure(&myself, child).await);
            }
            SupervisorMessage::StartAgain { child } => {
                state.start_again(&myself, &child).await;
            }
            SupervisorMessage::StopAll { reply } => {
                state.stop_all().await;
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, _, _) => {
                state.ended(&myself, cell.get_id(), None)
            }
            SupervisionEvent::ActorFailed(cell, error) => {
                state.ended(&myself, cell.get_id(), Some(error.to_string()));
            }
            _ => {}
        }
        Ok(())
    }
}

impl SupervisorState {
    async fn ensure(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        child: Arc<dyn Child>,
    ) -> bool {
        if self.known.contains(&child.identity()) {
            return true;
        }
        if self.stopping || self.over_budget(&child) {
            return false;
        }
        self.start(myself, &child).await
    }

    /// A back-off or a quarantine is over.
    async fn start_again(&mut self, myself: &ActorRef<SupervisorMessage>, child: &Arc<dyn Child>) {
        let runs = self.running.values().any(|(known, _)| known.identity() == child.identity());
        if !self.stopping && !runs {
            self.start(myself, child).await;
        }
    }

    async fn start(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        child: &Arc<dyn Child>,
    ) -> bool {
        match child.start(myself.get_cell()).await {
            Ok(cell) => {
                child.kind().figures().on_start(child.kind());
                self.known.insert(child.identity());
                self.running.insert(cell.get_id(), (Arc::clone(child), cell));
                true
            }
            Err(error) => {
                tracing::error!(actor = child.label(), %error, "an actor did not start");
                self.note_crash(child);
                self.start_later(myself, child);
                false
            }
        }
    }

    fn ended(&mut self, myself: &ActorRef<SupervisorMessage>, id: ActorId, crash: Option<String>) {
        let Some((child, _)) = self.running.remove(&id) else { return };
        let kind = child.kind();
        kind.figures().on_end(kind, crash.is_some());
        child.ended(id);
        self.known.remove(&child.identity());
        let Some(reason) = crash else {
            child.forgotten();
            return;
        };
        tracing::error!(
            kind = kind.policy().name,
            actor = child.label(),
            reason,
            "an actor crashed"
        );
        self.note_crash(&child);
        if !self.stopping {
            self.start_later(myself, &child);
        }
    }

    /// Back-off 0, 20, 40 … 1000 ms with the crashes in the window; in quarantine until the
    /// budget allows it again.
    fn start_later(&mut self, myself: &ActorRef<SupervisorMessage>, child: &Arc<dyn Child>) {
        let policy = child.kind().policy();
        if policy.restart != Restart::Always {
            return;
        }
        let crashes = self.crashes.get(&key(child)).map_or(0, VecDeque::len) as u32;
        let mut pause = Duration::from_millis(match crashes {
            0 | 1 => 0,
            n => (10_u64 << (n - 1).min(7)).min(1000),
        });
        let quarantined = match self.over_budget_until(child) {
            None => false,
            Some(until) if policy.escalation == Escalation::NodeUnhealthy => {
                tracing::error!(
                    kind = policy.name,
                    "crash budget used up: the node is not healthy"
                );
                *self.unhealthy_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
                false
            }
            Some(until) => {
                tracing::error!(kind = policy.name, actor = child.label(), "quarantined");
                child.quarantined();
                pause = until.saturating_duration_since(Instant::now());
                true
            }
        };
        if !quarantined {
            self.known.insert(child.identity());
        }
        let (myself, child) = (myself.clone(), Arc::clone(child));
        task::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = myself.send_message(SupervisorMessage::StartAgain { child });
        });
    }

    fn note_crash(&mut self, child: &Arc<dyn Child>) {
        let window = Duration::from_millis(child.kind().policy().window_ms);
        self.crashes.retain(|_, times| times.back().is_some_and(|last| last.elapsed() < window));
        let kept = child.kind().policy().crashes_max as usize + 1;
        let times = self.crashes.entry(key(child)).or_default();
        times.retain(|at| at.elapsed() < window);
        if times.len() >= kept {
            times.pop_front();
        }
        times.push_back(Instant::now());
    }

    fn over_budget(&self, child: &Arc<dyn Child>) -> bool {
        self.over_budget_until(child).is_some()
    }

    /// When the budget of a child that used it up allows it to run again.
    fn over_budget_until(&self, child: &Arc<dyn Child>) -> Option<Instant> {
        let policy = child.kind().policy();
        let times = self.crashes.get(&key(child))?;
        let oldest = times.get(times.len().checked_sub(policy.crashes_max as usize + 1)?)?;
        let until = *oldest + Duration::from_millis(policy.window_ms);
        (until > Instant::now()).then_some(until)
    }

    async fn stop_all(&mut self) {
        self.stopping = true;
        for kind in Kind::ALL {
            let of_kind: Vec<_> = self
                .running
                .values()
                .filter(|(child, _)| child.kind() == kind)
                .map(|(_, cell)| cell.clone())
                .collect();
            for cell in of_kind {
                let _ = cell.stop_and_wait(None, Some(Duration::from_secs(1))).await;
            }
        }
    }
}

fn key(child: &Arc<dyn Child>) -> String {
    format!("{} {}", child.kind().policy().name, child.label())
}

#[cfg(test)]
mod tests;
