//! What goes on beside the doors for as long as the node runs: its readiness, the upkeep of the
//! store.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clarion_cluster::membership::Load;
use clarion_storage::{StoreError, StoreResult};

use super::Inner;

/// How often the readiness of the doors is judged, and how many good judgements in a row it takes
/// to become ready again (hysteresis).
const JUDGE_EVERY: Duration = Duration::from_millis(500);
const GOOD_JUDGEMENTS: u32 = 3;
/// How often it is asked whether the parts of the node make progress, and how long they may take.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
const PROGRESS_PATIENCE: Duration = Duration::from_secs(2);
/// How long the store must have been away before a node owns nothing for it: longer than its
/// fail-over, which every node sees.
const STORE_AWAY: Duration = Duration::from_secs(5);
/// Ticks of processor time in a second, on every Linux there is.
const TICKS_PER_S: f64 = 100.0;
/// Records that one round of upkeep looks at, and the pause between rounds. A store that is smaller than
/// the most allows for is gone over within [`UPKEEP_PASS_ROUNDS`]: nothing is gained by doing it sooner.
const UPKEEP_BUDGET: std::ops::RangeInclusive<u64> = 250..=2000;
const UPKEEP_PAUSE: Duration = Duration::from_secs(1);
const UPKEEP_PASS_ROUNDS: u64 = 60;

/// Judges the push door. Bad news counts at once, good news when it lasts.
pub(super) async fn judge(inner: std::sync::Weak<Inner>) {
    let mut good = GOOD_JUDGEMENTS;
    loop {
        tokio::time::sleep(JUDGE_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let now = match inner.store.health().writable {
            Err(error) => Err(error.to_string()),
            Ok(()) if !inner.supervisor.healthy() => Err("actors crash beyond their budget".into()),
            Ok(()) => Ok(()),
        };
        good = if now.is_ok() { good.saturating_add(1) } else { 0 };
        if now.is_err() || good >= GOOD_JUDGEMENTS {
            *inner.push_ready.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
    }
}

/// Tells the cluster each second how busy this node is, and whether it works: a node whose parts stand
/// still, though its sockets answer, whose own pushes do not come through, or that alone lost its way to
/// the store must not own anything.
/// (What most suffer from is no sickness: then membership leaves everything as it is.)
pub(super) async fn watch_over(inner: std::sync::Weak<Inner>) {
    let mut cpu = Cpu::default();
    let mut away = Away::default();
    let mut sick = false;
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.stopped.load(Ordering::Acquire) {
            return;
        }
        inner.cluster.tick();
        let Some(joined) = inner.joined.get() else { continue };
        joined.membership.set_load(inner.load(cpu.permille()));
        let moves = tokio::time::timeout(PROGRESS_PATIENCE, inner.progress()).await.is_ok();
        let reached = !away.is_long(&inner.store.health().writable, Instant::now());
        let heard = !inner.canary.is_missed();
        let well = moves && reached && heard;
        if sick == well {
            sick = !well;
            match (moves, reached) {
                (true, true) if heard => tracing::info!("this node is well again"),
                (true, true) => tracing::warn!(
                    "sick: pushes of this node's own do not come through. Until \
                    they do it owns nothing, unless most nodes are sick"
                ),
                (false, _) => tracing::warn!(
                    "sick: parts of this node take no messages. Until they \
                    do it owns nothing, unless most nodes are sick"
                ),
                (true, false) => tracing::warn!(
                    "sick: this node does not reach the store. Until it \
                    does it owns nothing, unless most nodes are sick"
                ),
            }
            joined.membership.set_sick(sick);
        }
    }
}

/// For how long the store has been away.
#[derive(Default)]
struct Away {
    since: Option<Instant>,
}

impl Away {
    /// A store that is full is there: no other node could write either.
    fn is_long(&mut self, writable: &StoreResult<()>, now: Instant) -> bool {
        self.since = match writable {
            Ok(()) | Err(StoreError::Full(_)) => None,
            Err(_) => self.since.or(Some(now)),
        };
        self.since.is_some_and(|since| now.duration_since(since) >= STORE_AWAY)
    }
}

impl Inner {
    /// What this node carries.
    pub(super) fn load(&self, cpu_permille: u32) -> Load {
        let links = self.links.load(Ordering::Relaxed) as u64;
        let gateway = self.config.node.roles.contains(&clarion_config::Role::Gateway);
        let links_max = if gateway { self.config.terminals.links_max as u64 } else { 0 };
        let sessions = self.context.session_count() as u64;
        Load { links, links_max, sessions, cpu_permille }
    }

    /// Returns once every part that is always there has taken a message from its mailbox.
    async fn progress(&self) {
        let shards = async {
            for shard in &self.shards {
                shard.progress().await;
            }
        };
        let owners = self.router.owners.progress();
        tokio::join!(self.relays.progress(), owners, shards, self.pushes.progress());
    }
}

/// Processor time of this process, as Linux tells it.
#[derive(Default)]
struct Cpu {
    before: Option<(Instant, u64)>,
}

impl Cpu {
    /// Thousandths of all the cores that it may use, since it was asked last.
    fn permille(&mut self) -> u32 {
        let Some(ticks) = ticks() else { return 0 };
        let now = Instant::now();
        let Some((then, before)) = self.before.replace((now, ticks)) else { return 0 };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let possible = now.duration_since(then).as_secs_f64() * TICKS_PER_S * cores as f64;
        let permille = 1000.0 * ticks.saturating_sub(before) as f64 / possible.max(1.0);
        permille.min(1000.0) as u32
    }
}

fn ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may hold blanks: the 12th and 13th field are user and system time.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// Removes what expired, a little at a time.
pub(super) async fn upkeep(inner: std::sync::Weak<Inner>) {
    let mut failing = false;
    let mut pace = Pace::default();
    loop {
        tokio::time::sleep(UPKEEP_PAUSE).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.stopped.load(Ordering::Acquire) {
            return;
        }
        match inner.store.upkeep(pace.budget()).await {
            Ok(done) => {
                failing = false;
                pace.went(done.examined, done.complete);
                metrics::counter!("clarion_store_expired_entries_total")
                    .increment(done.expired_entries);
                metrics::counter!("clarion_store_expired_records_total")
                    .increment(done.expired_records);
            }
            // Said once for as long as it lasts: the store says itself what ails it.
            Err(error) if failing => tracing::debug!(%error, "upkeep of the store failed"),
            Err(error) => {
                failing = true;
                tracing::warn!(%error, "upkeep of the store failed; it is tried again");
            }
        }
    }
}

/// How fast upkeep goes.
#[derive(Debug, Default)]
struct Pace {
    /// Records that this pass has looked at, in so many rounds.
    examined: u64,
    rounds: u64,
    /// Records of the last whole pass.
    last: Option<u64>,
}

impl Pace {
    /// Records to look at in the next round: as many as may be while the size of the store is not known,
    /// or when there is so much more than the last time that the pass takes too long.
    fn budget(&self) -> usize {
        let (least, most) = (*UPKEEP_BUDGET.start(), *UPKEEP_BUDGET.end());
        let last = self.last.filter(|_| self.rounds < UPKEEP_PASS_ROUNDS);
        let budget = last.map(|last| last.div_ceil(UPKEEP_PASS_ROUNDS).clamp(least, most));
        budget.unwrap_or(most) as usize
    }

    fn went(&mut self, examined: u64, complete: bool) {
        self.examined += examined;
        self.rounds += 1;
        if complete {
            // Nothing at all: another node does it.
            let last = Some(self.examined).filter(|examined| *examined > 0);
            *self = Self { last, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_store_is_gone_over_in_a_minute_and_a_large_one_as_fast_as_may_be() {
        let mut pace = Pace::default();
        assert_eq!(pace.budget(), 2000, "nobody knows how much there is");
        pace.went(100, true);
        assert_eq!(pace.budget(), 250);
        pace.went(20_000, false);
        assert_eq!(pace.budget(), 250, "as was planned");
        pace.went(10_000, true);
        assert_eq!(pace.budget(), 500);
        (0..UPKEEP_PASS_ROUNDS).for_each(|_| pace.went(500, false));
        assert_eq!(pace.budget(), 2000, "there is more than the last time");
        pace.went(1_000_000, true);
        assert_eq!(pace.budget(), 2000, "more than that it never is");
    }

    #[test]
    fn a_store_is_away_for_long_once_it_was_without_a_break_and_not_because_it_is_full() {
        let (mut away, began) = (Away::default(), Instant::now());
        let mut at = |ms, writable| away.is_long(&writable, began + Duration::from_millis(ms));
        let gone = || Err(StoreError::Unavailable("gone".into()));
        assert!(!at(0, gone()) && !at(4999, gone()), "a fail-over");
        assert!(at(5000, gone()) && at(60_000, gone()));
        assert!(!at(60_001, Ok(())) && !at(60_002, gone()) && !at(65_001, gone()), "anew");
        assert!(at(65_002, gone()));
        assert!(!at(70_000, Err(StoreError::Full("full".into()))));
    }
}
