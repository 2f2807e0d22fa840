//! What happens to a cluster from outside, as a list: everything that is left to chance is in it, so
//! the same list gives the same run, and a shorter one a simpler run.

use std::fmt;

/// What is done, with up to three numbers that say where and how; each is taken modulo what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A back-end pushes: to log `a`, at node `b`; `c` says the TTL and whether it repeats.
    Push,
    /// Node `a` is killed and starts again after `c`.
    Kill,
    /// Node `a` hangs for `c`.
    Hang,
    /// What `a` sends to `b` is held up for `c`, as by a cut; in the end lost, if the link is given up.
    Cut,
    /// What `a` sends to `b` takes longer for `c`: lanes overtake each other.
    Slow,
    /// The lanes from `a` to `b` take nothing for `c`.
    Full,
    /// The next message with entries from `a` to `b` comes twice, out of its order.
    Double,
    /// The link between `a` and `b` breaks and is made again.
    Reset,
    /// The owner of log `b` on node `a` crashes: it knows of no interest.
    CrashOwner,
    /// The relays of node `a` crash.
    CrashRelay,
    /// The session of terminal `a` crashes and is opened again on its link, as the real one rebuilds.
    CrashSession,
    /// The master of the store dies; `a` says how much of what is unconfirmed survives.
    FailOver,
    /// Copies confirm nothing for `c`.
    Lag,
    /// What node `a` asks of the store lies in a socket for `c`.
    Stall,
    /// The answers to what node `a` asked of the store in the next moment are lost.
    LoseAnswers,
    /// The store comes back from a backup, while all nodes are down.
    Restore,
    /// The link of terminal `a` breaks; `b` says whether it loses its cursors, `c` how long it is away.
    Leave,
    /// Terminal `a` goes to another node, and its former link hears nothing of it.
    Roam,
    /// Terminal `a` acknowledges nothing for `c`.
    Silent,
    /// Terminal `a` gives its next delivery up.
    Skip,
    /// Hints to terminal `a` find no room for `c`.
    NoRoom,
    /// Message `b` of those in log `a` is taken back.
    Recall,
    /// Nothing, for a while: what is asked of a calm cluster is asked now.
    Calm,
}

pub const ALL: [(u32, What); 23] = [
    (60, What::Push),
    (4, What::Kill),
    (4, What::Hang),
    (4, What::Cut),
    (6, What::Slow),
    (4, What::Full),
    (4, What::Double),
    (4, What::Reset),
    (3, What::CrashOwner),
    (2, What::CrashRelay),
    (3, What::CrashSession),
    (2, What::FailOver),
    (5, What::Lag),
    (4, What::Stall),
    (3, What::LoseAnswers),
    (1, What::Restore),
    (6, What::Leave),
    (4, What::Roam),
    (2, What::Silent),
    (2, What::Skip),
    (3, What::NoRoom),
    (2, What::Recall),
    (6, What::Calm),
];

/// One decision, so many milliseconds after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub after_ms: u32,
    pub what: What,
    pub a: u32,
    pub b: u32,
    pub c: u32,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}:{}:{}:{}", self.after_ms, self.what, self.a, self.b, self.c)
    }
}

/// As `CLARION_SIMULATION_SCHEDULE` has it: decisions with blanks between.
pub fn parse(text: &str) -> Vec<Decision> {
    let decision = |text: &str| {
        let parts: Vec<_> = text.split(':').collect();
        let [after, what, a, b, c] = parts[..] else { panic!("no decision: {text}") };
        let number = |text: &str| text.parse::<u32>().expect("a number");
        let named = |(_, known): &&(u32, What)| format!("{known:?}") == what;
        let what = ALL.iter().find(named).unwrap_or_else(|| panic!("no such decision: {what}")).1;
        Decision { after_ms: number(after), what, a: number(a), b: number(b), c: number(c) }
    };
    text.split_whitespace().map(decision).collect()
}

/// Random numbers that are the same everywhere.
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as u32
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }
}

/// The schedule of a seed: bursts of trouble with quiet between.
pub fn generate(seed: u64, length: usize) -> Vec<Decision> {
    let mut random = Random::new(seed);
    // Each seed leaves some kinds of trouble out, so that the rest is met in every mixture.
    let weights: Vec<u32> = ALL
        .iter()
        .map(|(weight, what)| match what {
            What::Push | What::Calm => *weight,
            _ if random.below(3) == 0 => 0,
            _ => *weight,
        })
        .collect();
    let total: u32 = weights.iter().sum();
    let one = |_| {
        let mut pick = random.below(total);
        let mut what = What::Push;
        for (weight, (_, named)) in weights.iter().zip(&ALL) {
            if pick < *weight {
                what = *named;
                break;
            }
            pick -= weight;
        }
        let after_ms = match random.below(8) {
            0..=3 => random.below(4),
            4..=6 => random.below(60),
            _ => random.below(900),
        };
        Decision {
            after_ms,
            what,
            a: random.next() & 0xff,
            b: random.next() & 0xff,
            c: random.next() & 0xff,
        }
    };
    (0..length).map(one).collect()
}

/// Takes decisions out of a failing schedule for as long as it still fails, then makes what is left as
/// early and as small as it goes. `fails` is asked at most `runs` times.
pub fn shrink(
    mut schedule: Vec<Decision>,
    mut runs: usize,
    mut fails: impl FnMut(&[Decision]) -> bool,
) -> Vec<Decision> {
    let mut ask = |candidate: &[Decision]| {
        let left = runs > 0;
        runs = runs.saturating_sub(1);
        left && fails(candidate)
    };
    let mut size = (schedule.len() / 2).max(1);
    loop {
        let (mut from, mut smaller) = (0, false);
        while from < schedule.len() {
            let to = (from + size).min(schedule.len());
            let mut candidate = schedule.clone();
            let gone: Vec<_> = candidate.drain(from..to).collect();
            let mut kept = candidate.clone();
            // Once as it is, once with the time that goes with it kept.
            if let Some(next) = kept.get_mut(from) {
                next.after_ms += gone.iter().map(|decision| decision.after_ms).sum::<u32>();
            }
            if ask(&kept) {
                (schedule, smaller) = (kept, true);
            } else if ask(&candidate) {
                (schedule, smaller) = (candidate, true);
            } else {
                from = to;
            }
        }
        if size > 1 {
            size = (size / 2).max(1);
        } else if !smaller {
            return schedule;
        }
    }
}
