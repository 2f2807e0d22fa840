//! C21: nothing is held for good.

use super::facts::{At, Facts, Held, Sample, ms};
use super::{Findings, Invariant};

/// Samples at the beginning and at the end that are looked at together.
const TOGETHER: usize = 5;
/// A life of a process at least this long has a slope.
const SLOPE_MIN: At = ms(20 * 60 * 1000);
const HOUR: At = ms(3_600_000);
/// Samples of one turn are taken within this.
const SAME_TURN: At = ms(400);

pub static INVARIANT: Invariant = Invariant {
    number: 21,
    name: "leaks",
    proves: "everything is bounded",
    promise: "at the end no process holds more memory, files and sockets (besides its links) or \
              threads than when the load was steady, proxies taken together; over a long run its \
              memory does not rise",
    check,
};

fn check(facts: &Facts<'_>, findings: &mut Findings<'_>) {
    let Some(steady) = facts.steady else { return };
    for (process, samples) in facts.processes() {
        // Who came later is compared with the largest of its kind, and so is a Redis server: it may be
        // master by now, whom all nodes have connections to.
        let own = life_from(samples, steady).filter(|_| kind(process) != "redis");
        let others = facts.processes().filter(|(other, _)| kind(other) == kind(process));
        let before = own.or_else(|| {
            let firsts = others.filter_map(|(_, samples)| life_from(samples, steady));
            firsts.reduce(Most::max)
        });
        let (Some(before), Some((after, record))) = (before, at_end(until(facts, samples))) else {
            continue;
        };
        let options = findings.options;
        let mut pairs = vec![("threads", before.threads, after.threads, options.threads_slack)];
        // The links of a proxy go from one to the other: all of them together are looked at.
        if kind(process) != "proxy" {
            pairs.push(("files and sockets", before.files, after.files, options.fds_slack));
        }
        // What a Redis server has grown by is what it was given to keep.
        if kind(process) != "redis" {
            pairs.push(("KiB of memory", before.rss_kib, after.rss_kib, options.rss_slack_kib));
        }
        for (what, before, after, slack) in pairs {
            if after > before.saturating_add(slack) {
                findings.say(
                    || format!("{process} holds {after} {what} at the end, {before} before"),
                    &[record],
                );
            }
        }
        if let Some((kib, record)) = rise(samples, steady)
            && kind(process) != "redis"
            && kib > options.rss_slack_kib as f64
        {
            findings.say(|| format!("{process} grows by {kib:.0} KiB an hour"), &[record]);
        }
    }
    proxies(facts, steady, findings);
}

/// What all proxies hold together, besides two sockets for each link that nodes have.
fn proxies(facts: &Facts<'_>, steady: At, findings: &mut Findings<'_>) {
    let of = |wanted: &'static str| {
        let all = facts.processes().filter(move |(process, _)| kind(process) == wanted);
        all.map(|(_, samples)| until(facts, samples)).collect::<Vec<_>>()
    };
    let (proxies, nodes) = (of("proxy"), of("node"));
    let Some(turns) = proxies.first() else { return };
    let now = |samples: &[Sample], at: At| {
        let next = samples.partition_point(|sample| sample.at <= at.saturating_add(SAME_TURN));
        samples[..next].last().and_then(|sample| sample.held)
    };
    let files = |turn: &Sample| {
        let held = proxies.iter().map(|samples| now(samples, turn.at).map(|held| held.fds));
        let links = nodes.iter().filter_map(|samples| now(samples, turn.at));
        let links: u64 = links.map(|held| held.links).sum();
        Some(held.sum::<Option<u64>>()?.saturating_sub(2 * links))
    };
    let first = turns.partition_point(|turn| turn.at < steady);
    let before = turns[first..].iter().take(TOGETHER).filter_map(files).max();
    let after = turns.iter().rev().take(TOGETHER).map_while(files).min();
    let (Some(before), Some(after), Some(last)) = (before, after, turns.last()) else { return };
    if after > before + findings.options.fds_slack * proxies.len() as u64 {
        findings.say(
            || {
                format!(
                    "all proxies hold {after} files and sockets at the end, {before} before, \
                     besides links"
                )
            },
            &[last.record],
        );
    }
}

/// What a process holds at most, or at least, in some samples.
#[derive(Clone, Copy)]
struct Most {
    rss_kib: u64,
    files: u64,
    threads: u64,
}

impl Most {
    fn of(held: &Held) -> Self {
        let files = held.fds.saturating_sub(held.links);
        Self { rss_kib: held.rss_kib, files, threads: held.threads }
    }

    fn max(self, other: Self) -> Self {
        Self {
            rss_kib: self.rss_kib.max(other.rss_kib),
            files: self.files.max(other.files),
            threads: self.threads.max(other.threads),
        }
    }

    fn min(self, other: Self) -> Self {
        Self {
            rss_kib: self.rss_kib.min(other.rss_kib),
            files: self.files.min(other.files),
            threads: self.threads.min(other.threads),
        }
    }
}

/// `node` of `node:node-1`.
pub fn kind(process: &str) -> &str {
    process.split(':').next().unwrap_or(process)
}

/// The most that a process held in its first samples from `steady` on, if it ran then.
fn life_from(samples: &[Sample], steady: At) -> Option<Most> {
    let first = samples.partition_point(|sample| sample.at < steady);
    let soon = samples.get(first)?.at <= steady.saturating_add(ms(5_000));
    let held = samples[first..].iter().take(TOGETHER).filter_map(|sample| sample.held);
    held.map(|held| Most::of(&held)).reduce(Most::max).filter(|_| soon)
}

/// The samples before the server is asked for its counts: whoever asks has connections of its own.
fn until<'f>(facts: &Facts<'_>, samples: &'f [Sample]) -> &'f [Sample] {
    let asked = facts.counting.map_or(u32::MAX, |counting| counting.record);
    let before = samples.partition_point(|sample| sample.record < asked);
    // Whoever had no sample before is looked at as it is.
    if before == 0 { samples } else { &samples[..before] }
}

/// The least that it held in its last samples, if it runs at the end.
fn at_end(samples: &[Sample]) -> Option<(Most, u32)> {
    let last = samples.last()?;
    last.held?;
    let held = samples.iter().rev().take(TOGETHER).map_while(|sample| sample.held);
    Some((held.map(|held| Most::of(&held)).reduce(Most::min)?, last.record))
}

/// KiB of memory that a process gains an hour, over the later half of its last life, if that was
/// long; by least squares.
fn rise(samples: &[Sample], steady: At) -> Option<(f64, u32)> {
    let life: Vec<(At, u64)> = samples
        .iter()
        .rev()
        .map_while(|sample| Some((sample.at, sample.held?.rss_kib)))
        .take_while(|(at, _)| *at >= steady)
        .collect();
    let ((to, _), (from, _)) = (*life.first()?, *life.last()?);
    if to.saturating_sub(from) < SLOPE_MIN {
        return None;
    }
    let later: Vec<(f64, f64)> = life
        .into_iter()
        .filter(|(at, _)| *at >= from.midpoint(to))
        .map(|(at, kib)| ((at - from) as f64 / HOUR as f64, kib as f64))
        .collect();
    let count = later.len() as f64;
    let (x, y) = later.iter().fold((0.0, 0.0), |(x, y), (a, b)| (x + a / count, y + b / count));
    let (xy, xx) = later
        .iter()
        .fold((0.0, 0.0), |(xy, xx), (a, b)| (xy + (a - x) * (b - y), xx + (a - x) * (a - x)));
    (xx > 0.0).then(|| (xy / xx, samples.last().map_or(0, |sample| sample.record)))
}
