use super::*;
use crate::kinds::Kind;
use std::sync::atomic::AtomicUsize;

/// An actor that panics when told to.
struct Frail;

impl Actor for Frail {
    type Msg = bool;
    type State = ();
    type Arguments = ();

    async fn pre_start(
        &self,
        _myself: ActorRef<bool>,
        _arguments: (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<bool>,
        panics: bool,
        _state: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if panics {
            return Err("told to fail".into()); // the same to a supervisor as a panic
        }
        myself.stop(None);
        Ok(())
    }
}

struct Fixture {
    supervisor: SupervisorHandle,
    slot: Arc<Slot<bool>>,
    child: Arc<dyn Child>,
    starts: Arc<AtomicUsize>,
    forgotten: Arc<AtomicUsize>,
}

async fn spawn_frail(kind: Kind, label: &str) -> Fixture {
    let slot = Slot::new();
    let (starts, forgotten) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (started, gone) = (Arc::clone(&starts), Arc::clone(&forgotten));
    let child: Arc<dyn Child> = Arc::new(ChildOf {
        kind,
        label: label.to_owned(),
        slot: Arc::clone(&slot),
        make: |_| (Frail, ()),
        started: Box::new(move |_| {
            started.fetch_add(1, Ordering::SeqCst);
        }),
        forgotten: Box::new(move || {
            gone.fetch_add(1, Ordering::SeqCst);
        }),
        quarantined: Box::new(|| {}),
    });
    let supervisor = SupervisorHandle::start().await.unwrap();
    assert!(supervisor.ensure(Arc::clone(&child)).await);
    Fixture { supervisor, slot, child, starts, forgotten }
}

impl Fixture {
    /// Fails the present incarnation and waits until it is gone.
    async fn crash(&self) {
        while self.slot.cast(true).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The time is paused: it goes on when everybody has done what there was to do.
        tokio::time::sleep(Duration::from_micros(1)).await;
    }

    async fn until_started(&self, times: usize) {
        while self.starts.load(Ordering::SeqCst) < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_always_needed_starts_again_with_back_off() {
    let frail = spawn_frail(Kind::Relay, "back-off").await;
    let mut pauses = Vec::new();
    for crash in 1..=8 {
        let begun = Instant::now();
        frail.crash().await;
        frail.until_started(crash + 1).await;
        pauses.push(begun.elapsed());
    }
    let ms = Duration::from_millis;
    assert!(pauses[0] <= ms(5), "{pauses:?}");
    assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1] + ms(5)), "{pauses:?}");
    assert!(pauses[7] >= ms(1000) && pauses[7] <= ms(1010), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_starts_with_its_next_use() {
    let frail = spawn_frail(Kind::Lane, "on-use").await;
    frail.crash().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(frail.starts.load(Ordering::SeqCst), 1);
    assert!(frail.supervisor.ensure(Arc::clone(&frail.child)).await);
    assert_eq!(frail.starts.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn beyond_its_budget_a_virtual_actor_is_quarantined_until_the_window_has_passed() {
    let frail = spawn_frail(Kind::Topic, "quarantine").await;
    for crash in 1..=20 {
        frail.crash().await;
        frail.until_started(crash + 1).await;
    }
    frail.crash().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!frail.supervisor.ensure(Arc::clone(&frail.child)).await, "refused");
    assert!(frail.supervisor.healthy(), "the fault stays where it is");
    tokio::time::sleep(Duration::from_secs(60)).await;
    frail.until_started(22).await;
    assert!(frail.supervisor.ensure(Arc::clone(&frail.child)).await);
}

#[tokio::test(start_paused = true)]
async fn beyond_its_budget_a_fixed_actor_makes_the_node_unhealthy_until_the_budget_holds_again() {
    let frail = spawn_frail(Kind::InboxShard, "unhealthy").await;
    for crash in 1..=21 {
        assert!(frail.supervisor.healthy(), "crash {crash}");
        frail.crash().await;
        frail.until_started(crash + 1).await;
    }
    assert!(!frail.supervisor.healthy());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(frail.supervisor.healthy(), "and back again");
}

#[tokio::test(start_paused = true)]
async fn what_stops_by_itself_is_forgotten_and_can_be_started_again() {
    let frail = spawn_frail(Kind::Topic, "idle").await;
    frail.slot.cast(false).unwrap();
    while frail.forgotten.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!frail.slot.is_filled());
    assert!(frail.supervisor.ensure(Arc::clone(&frail.child)).await);
    assert_eq!(frail.starts.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn two_children_of_one_name_are_two_children() {
    // One that stopped because it was idle may be started through an old handle just when its
    // successor is: both must run, or one of them is waited for in vain.
    let first = spawn_frail(Kind::Topic, "same").await;
    let second = spawn_frail(Kind::Topic, "same").await;
    assert!(first.supervisor.ensure(Arc::clone(&second.child)).await);
    assert!(second.slot.is_filled());
}

#[tokio::test(start_paused = true)]
async fn doors_stop_before_owners_and_nothing_starts_again() {
    let orders: Vec<u8> = Kind::ALL.iter().map(|kind| kind.policy().stop_order).collect();
    assert!(orders.is_sorted(), "`ALL` is in stop order: {orders:?}");
    let frail = spawn_frail(Kind::Relay, "stop").await;
    frail.supervisor.stop().await;
    assert!(!frail.slot.is_filled() || frail.slot.cast(true).is_err());
    assert!(!frail.supervisor.ensure(Arc::clone(&frail.child)).await);
    assert!(!frail.supervisor.healthy());
}
