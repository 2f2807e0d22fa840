use super::*;

const A: &str = "127.0.0.1:7001";
const B: &str = "127.0.0.1:7002";

/// Incarnations of one node, `n`, whose heartbeats the test moves.
struct Table {
    seats: Seats,
    heard: Vec<Heard>,
    now_ms: u64,
    steady: bool,
}

impl Table {
    fn new() -> Self {
        Self {
            seats: Seats::new("me".into(), BootId(99)),
            heard: Vec::new(),
            now_ms: 0,
            steady: true,
        }
    }

    fn add(&mut self, boot: u64, generation: u64, addr: &str) -> usize {
        self.heard.push(Heard {
            id: "n".into(),
            generation,
            addr: addr.parse().unwrap(),
            boot: BootId(boot),
            heartbeat: 1,
            live: true,
            left: false,
        });
        self.heard.len() - 1
    }

    fn link(&mut self, boot: u64, state: LinkState) {
        self.seats.link(self.now_ms, &"n".into(), BootId(boot), state);
    }

    /// Time passes in steps of 100 ms, in which these incarnations beat.
    fn pass(&mut self, ms: u64, beating: &[usize]) -> Seating {
        let mut seating = Seating::default();
        for _ in 0..ms.div_ceil(100) {
            self.now_ms += 100;
            for at in beating {
                self.heard[*at].heartbeat += 1;
            }
            seating = self.seats.seat(self.now_ms, &self.heard, self.steady);
        }
        seating
    }

    /// The boot that holds the seat, and whether it lives.
    fn holder(&mut self, ms: u64, beating: &[usize]) -> (u64, bool) {
        let seated = self.pass(ms, beating).seated.remove("n").unwrap();
        (seated.boot.0, seated.alive)
    }
}

#[test]
fn a_restart_at_the_same_address_takes_the_seat_at_once() {
    let mut table = Table::new();
    let old = table.add(1, 10, A);
    assert_eq!(table.holder(1_000, &[old]), (1, true));
    let new = table.add(2, 20, A);
    assert_eq!(table.holder(100, &[new]), (2, true), "though phi still calls the former one live");
}

#[test]
fn the_former_boot_is_dead_even_before_the_new_one_lives() {
    let mut table = Table::new();
    let old = table.add(1, 10, A);
    table.pass(1_000, &[old]);
    let new = table.add(2, 20, A);
    table.heard[new].live = false;
    assert_eq!(table.holder(100, &[]), (2, false));
}

#[test]
fn a_restart_after_the_clock_was_set_back_waits_for_silence() {
    let mut table = Table::new();
    let old = table.add(1, 20, A);
    table.pass(1_000, &[old]);
    let new = table.add(2, 10, A);
    assert_eq!(table.holder(QUIET_MS - 100, &[new]), (1, true));
    assert_eq!(table.holder(200, &[new]), (2, true));
    table.heard[old].live = false;
    assert_eq!(table.holder(1_000, &[new]), (2, true));
}

#[test]
fn a_restart_at_another_address_waits_for_silence() {
    let mut table = Table::new();
    let old = table.add(1, 10, A);
    table.pass(1_000, &[old]);
    let new = table.add(2, 20, B);
    assert_eq!(table.holder(QUIET_MS - 100, &[new]), (1, true));
    assert_eq!(table.holder(100, &[new]), (2, true));
}

#[test]
fn two_nodes_under_one_name_are_told_and_the_first_stays() {
    let mut table = Table::new();
    let first = table.add(1, 10, A);
    table.pass(1_000, &[first]);
    let second = table.add(2, 20, B);
    assert!(table.pass(2_000, &[first, second]).conflicts.is_empty());
    let seating = table.pass(2_000, &[first, second]);
    assert_eq!(seating.seated["n"].boot, BootId(1));
    let (kept, other) = (A.parse().unwrap(), B.parse().unwrap());
    let conflict = Conflict { id: "n".into(), kept, other, second: other };
    assert_eq!(seating.conflicts, std::slice::from_ref(&conflict));
    let told = conflict.told(false);
    assert!(told.contains(&format!("{A} came first, {B} second")), "{told}");
    assert!(conflict.told(true).contains(&format!("{B} needs an id of its own")), "to the first");
    let at_second = Conflict { kept: other, other: kept, ..conflict };
    let told = at_second.told(true);
    assert!(told.contains(&format!("this node ({B}) came second")), "{told}");
    table.link(2, LinkState::Up);
    assert_eq!(table.holder(100, &[first, second]), (2, true), "only the other has a link");
    table.link(1, LinkState::Up);
    assert_eq!(table.holder(100, &[first, second]), (2, true), "both have: no change");
}

#[test]
fn gossip_started_anew_keeps_its_seat() {
    let mut table = Table::new();
    let old = table.add(1, 10, A);
    table.pass(1_000, &[old]);
    let new = table.add(1, 20, A);
    table.heard[new].live = false;
    let seating = table.pass(100, &[new]);
    let expected = Seated { boot: BootId(1), heard: new, alive: true, link: LinkState::Down };
    assert_eq!(seating.seated["n"], expected);
}

#[test]
fn a_refused_link_kills_at_once_and_an_echo_does_not_revive() {
    let mut table = Table::new();
    let node = table.add(1, 10, A);
    table.link(1, LinkState::Up);
    assert_eq!(table.holder(1_000, &[node]), (1, true));
    // As links tell it: the link ends, and its redial is refused a moment later.
    table.link(1, LinkState::Down);
    assert_eq!(table.holder(20, &[node]), (1, true), "it may be cut off");
    table.link(1, LinkState::Refused);
    assert_eq!(table.holder(100, &[]), (1, false));
    assert_eq!(table.holder(2_000, &[node]), (1, false), "heartbeats still on their way");
    table.link(1, LinkState::Refused);
    assert_eq!(table.holder(500, &[]), (1, false));
}

#[test]
fn who_goes_on_beating_after_a_refusal_was_cut_off() {
    let mut table = Table::new();
    let node = table.add(1, 10, A);
    table.link(1, LinkState::Up);
    table.pass(1_000, &[node]);
    table.link(1, LinkState::Refused);
    let seated = table.pass(REFUSED_MS, &[node]).seated.remove("n").unwrap();
    assert_eq!((seated.alive, seated.link), (true, LinkState::Down));
    table.link(1, LinkState::Refused);
    assert_eq!(table.holder(100, &[node]), (1, true), "without a link in between it is no news");
}

#[test]
fn a_link_or_a_new_boot_ends_a_refusal() {
    let mut table = Table::new();
    let node = table.add(1, 10, A);
    table.link(1, LinkState::Up);
    table.pass(1_000, &[node]);
    table.link(1, LinkState::Refused);
    assert_eq!(table.holder(100, &[node]), (1, false));
    table.link(1, LinkState::Up);
    assert_eq!(table.holder(100, &[node]), (1, true));
    table.link(1, LinkState::Refused);
    let new = table.add(2, 20, A);
    assert_eq!(table.holder(100, &[new]), (2, true));
}

#[test]
fn a_link_may_come_before_gossip() {
    let mut table = Table::new();
    table.link(1, LinkState::Up);
    table.pass(100, &[]);
    let node = table.add(1, 10, A);
    assert_eq!(table.pass(100, &[node]).seated["n"].link, LinkState::Up);
}

#[test]
fn silence_says_nothing_while_we_were_stopped() {
    let mut table = Table::new();
    let node = table.add(1, 10, A);
    table.pass(1_000, &[node]);
    table.heard[node].live = false;
    table.steady = false;
    assert_eq!(table.holder(1_000, &[]), (1, true));
    table.steady = true;
    assert_eq!(table.holder(100, &[]), (1, false));
}

#[test]
fn who_left_is_dead_at_once() {
    let mut table = Table::new();
    let node = table.add(1, 10, A);
    table.pass(1_000, &[node]);
    table.heard[node].left = true;
    assert_eq!(table.holder(100, &[node]), (1, false));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut table = Table::new();
    for boot in 0..2 * LINKS_MAX as u64 {
        table.link(boot, LinkState::Up);
    }
    assert_eq!(table.seats.links.len(), LINKS_MAX);
    let mut table = Table::new();
    for boot in 0..10 {
        table.link(boot, LinkState::Down);
    }
    let node = table.add(1, 10, A);
    table.pass(100, &[node]);
    assert_eq!(table.seats.links.len(), 1, "those never heard of are forgotten");
    table.heard.clear();
    table.pass(100, &[]);
    assert!(table.seats.seats.is_empty() && table.seats.pulses.is_empty());
}

#[test]
fn nobody_takes_our_own_seat() {
    let mut table = Table::new();
    table.seats.me = ("n".into(), BootId(1));
    let me = table.add(1, 10, A);
    table.heard[me].live = false;
    table.pass(100, &[]);
    let other = table.add(2, 20, B);
    table.link(2, LinkState::Up);
    let seating = table.pass(5_000, &[me, other]);
    assert_eq!(seating.seated["n"].boot, BootId(1));
    assert!(seating.seated["n"].alive);
    assert_eq!(seating.conflicts.len(), 1);
}

#[test]
fn a_link_that_is_up_keeps_alive() {
    let mut table = Table::new();
    let node = table.add(1, 10, A);
    table.link(1, LinkState::Up);
    table.pass(1_000, &[node]);
    table.heard[node].live = false;
    assert_eq!(table.holder(5_000, &[]), (1, true));
    table.link(1, LinkState::Down);
    assert_eq!(table.holder(100, &[]), (1, false));
}
