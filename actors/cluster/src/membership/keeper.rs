//! The task that keeps the view. Each half round of gossip, and whenever something is told: say what
//! changed of ourselves, listen, decide, and hand out a new view if anything is different.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::Desk;
use super::assembly::{Assembly, say_changes};
use super::contacts::Contacts;
use super::facts::Marks;
use super::gossip::{Gossip, PHI_MAX, Told};
use super::seats::{Heard, Seats};
use super::view::View;

/// Members that hear a farewell from us; they tell the rest.
const FAREWELLS_MAX: usize = 64;
/// Rounds of gossip that this task has to miss before it says that it stood still.
const STILL_ROUNDS: u32 = 4;

/// See the head of this file.
pub(super) struct Keeper {
    gossip: Gossip,
    every: Duration,
    seats: Seats,
    assembly: Assembly,
    contacts: Contacts,
    desk: Arc<Desk>,
    view: watch::Sender<Arc<View>>,
    zero: Instant,
    round_ms: u64,
    /// Until when silence says nothing.
    grace_until_ms: u64,
    /// What was told when gossip began anew: stands in until it is told again or grace ends.
    before: Vec<Told>,
}

impl Keeper {
    /// The first view holds this node alone.
    pub(super) async fn start(
        gossip: Gossip,
        every: Duration,
        seats: Seats,
        assembly: Assembly,
        contacts: Contacts,
        desk: Arc<Desk>,
    ) -> (Self, watch::Sender<Arc<View>>) {
        let mut keeper = Self {
            gossip,
            every,
            seats,
            assembly,
            contacts,
            desk,
            view: watch::Sender::new(Arc::new(Assembly::nothing())),
            zero: Instant::now(),
            round_ms: 0,
            grace_until_ms: 0,
            before: Vec::new(),
        };
        keeper.round().await;
        let view = keeper.view.clone();
        (keeper, view)
    }

    /// Until a farewell is asked for.
    pub(super) async fn run(mut self, mut farewells: mpsc::Receiver<oneshot::Sender<()>>) {
        let desk = Arc::clone(&self.desk);
        let mut tick = tokio::time::interval((self.every / 2).max(Duration::from_millis(10)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = desk.rung.notified() => {}
                () = self.gossip.changed() => {}
                Some(done) = farewells.recv() => {
                    self.farewell().await;
                    let _ = done.send(());
                    return;
                }
            }
            self.notice_stall();
            if self.gossip.has_stopped() {
                self.begin_anew("it stopped").await;
            }
            if self.round().await {
                self.begin_anew("others changed what it holds of ourselves").await;
            }
        }
    }

    fn now_ms(&self) -> u64 {
        ms(self.zero.elapsed())
    }

    /// About how long the dead stay undetected.
    fn dead_ms(&self) -> u64 {
        ms(self.every * PHI_MAX)
    }

    /// Rounds that come far too late mean that this process stood still, and chitchat too: then
    /// everybody else looks dead for a moment.
    fn notice_stall(&mut self) {
        let now_ms = self.now_ms();
        let late_ms = now_ms.saturating_sub(self.round_ms);
        if late_ms > ms(self.every * STILL_ROUNDS) {
            tracing::warn!(late_ms, "membership stood still; nobody is declared dead for a while");
            self.grace_until_ms = now_ms.saturating_add(self.dead_ms());
        }
    }

    /// True if what chitchat holds of ourselves is not what we said.
    async fn round(&mut self) -> bool {
        let now_ms = self.now_ms();
        let (load, marks, links) = self.desk.take();
        for (id, boot, state) in &links {
            self.seats.link(now_ms, id, *boot, *state);
        }
        self.gossip.say(now_ms, load, marks, &self.assembly.verdict(now_ms)).await;
        let (mut told, falsified) = self.gossip.listen(now_ms).await;
        let steady = now_ms >= self.grace_until_ms;
        if steady {
            self.before.clear();
        } else {
            let missing = |old: &&Told| !told.iter().any(|new| new.facts.boot == old.facts.boot);
            let stand_in: Vec<_> = self.before.iter().filter(missing).cloned().collect();
            told.extend(stand_in);
        }
        let heard: Vec<Heard> = told.iter().map(|one| one.heard.clone()).collect();
        let seating = self.seats.seat(now_ms, &heard, steady);
        let former = Arc::clone(&self.view.borrow());
        if let Some(view) = self.assembly.view(now_ms, &former, &told, seating) {
            self.hand_out(now_ms, &former, view, &told);
        }
        self.knock(now_ms, &told);
        self.round_ms = now_ms;
        falsified
    }

    fn hand_out(&mut self, now_ms: u64, former: &View, view: View, told: &[Told]) {
        say_changes(former, &view);
        for gone in former.members.iter().filter(|gone| view.member(&gone.id).is_none()) {
            let left = told.iter().any(|one| one.facts.boot == gone.boot && one.marks.left);
            if !left {
                self.contacts.lose(now_ms, gone.peer_addr);
            }
        }
        let members = u32::try_from(view.members.len()).unwrap_or(u32::MAX);
        metrics::gauge!("clarion_cluster_members").set(members);
        self.view.send_replace(Arc::new(view));
    }

    fn knock(&mut self, now_ms: u64, told: &[Told]) {
        let live = told.iter().filter(|one| one.heard.live).map(|one| one.heard.addr);
        let live: Vec<SocketAddr> = live.collect();
        for addr in self.contacts.due(now_ms, ms(self.every), &live) {
            self.gossip.knock(addr);
        }
    }

    async fn begin_anew(&mut self, why: &str) {
        let now_ms = self.now_ms();
        let (mut before, _) = self.gossip.listen(now_ms).await;
        for one in &mut before {
            one.heard.live = false;
        }
        if self.gossip.begin_anew(now_ms).await {
            tracing::error!(why, "gossip began anew");
            self.before = before;
            self.grace_until_ms = now_ms.saturating_add(self.dead_ms());
        }
    }

    /// Tells everybody that this is the end, and stops gossip.
    async fn farewell(&mut self) {
        let now_ms = self.now_ms();
        let (load, marks, _) = self.desk.take();
        let last_word = Marks { left: true, ..marks };
        self.gossip.say(now_ms, load, last_word, &self.assembly.verdict(now_ms)).await;
        let view = Arc::clone(&self.view.borrow());
        let me = &view.me().id;
        let mut others: Vec<_> = view.members.iter().filter(|one| one.id != *me).collect();
        fastrand::shuffle(&mut others);
        // A round is a datagram there, one back, and our state there: twice, as one may be lost.
        for _ in 0..2 {
            for one in others.iter().take(FAREWELLS_MAX) {
                self.gossip.knock(one.peer_addr);
            }
            tokio::time::sleep(self.every).await;
        }
        self.gossip.stop();
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
