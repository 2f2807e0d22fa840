//! Faults drawn from the seed, several at a time, never more than the fault model allows: one node
//! at a time, one server or sentinel of Redis at a time and the next after resync, one proxy of two.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::spof;
use crate::Failure;
use crate::fault::{Act, Crowd, Cut, Damage, Fault, How, Weather};
use crate::run::{Noticed, Run, Setting};
use crate::workload::Rough;
use crate::world::Component;

/// Faults at a time, one of each domain.
const AT_ONCE_MAX: usize = 3;
/// Pushes between two steps.
const PUSHES: std::ops::Range<u64> = 20..120;

/// What fails together counts as one; of one domain one thing is broken at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Domain {
    Nodes,
    Store,
    Proxies,
}

/// A few faults that begin one after the other and end in another order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Round {
    /// What is broken, and after how many pushes.
    begin: Vec<(u64, Fault)>,
    /// Which of them is mended, and after how many pushes.
    mend: Vec<(u64, usize)>,
    /// The third of the terminals that is away meanwhile.
    away: u32,
}

/// Nodes that do one thing each, with sentinels that make another master: what is killed is replaced.
pub(super) fn on_roles(setting: Setting) -> Result<Setting, Failure> {
    spof::setting(setting)?.redis_of("sentinel")
}

pub(super) async fn schedule(run: &mut Run) -> Result<(), Failure> {
    let mut rng = Rng::with_seed(run.options().seed);
    let components = run.world.components();
    let minutes = run.options().minutes.or(run.options().profile.minutes());
    let (until, rounds) = match minutes {
        Some(minutes) => (Duration::from_secs_f64(minutes * 60.0), 0),
        None => (Duration::ZERO, run.options().profile.rounds()),
    };
    let (began, mut round) = (Instant::now(), 0);
    while round < rounds || began.elapsed() < until || !run.has_overlapped() {
        let drawn = draw(&components, &mut rng);
        live_through(run, drawn).await?;
        round += 1;
    }
    Ok(())
}

async fn live_through(run: &mut Run, round: Round) -> Result<(), Failure> {
    run.load.send_away(round.away);
    let mut broken = Vec::new();
    for (pushes, fault) in round.begin {
        let replaced = must_be_replaced(run, &fault).await;
        let begun = run.begin(fault).await?;
        if begun.is_some() {
            run.noticed(&replaced).await?;
        }
        broken.push(begun);
        run.pushes(pushes).await?;
    }
    run.load.bring_back(round.away);
    for (pushes, which) in round.mend {
        if let Some(broken) = broken.get_mut(which).and_then(Option::take) {
            run.mend(broken).await?;
        }
        run.pushes(pushes).await?;
    }
    run.whole().await?;
    run.pushes(PUSHES.start).await
}

/// A master that is killed and back before another one took its place is outside the model.
async fn must_be_replaced(run: &Run, fault: &Fault) -> Noticed {
    match (&fault.on, &fault.act) {
        (Component::Redis { .. }, Act::Kill) => run.to_notice(fault).await,
        _ => Noticed::AtOnce,
    }
}

/// The next round.
fn draw(components: &[Component], rng: &mut Rng) -> Round {
    let mut domains = vec![Domain::Nodes, Domain::Store, Domain::Proxies];
    domains.retain(|domain| components.iter().any(|c| domain_of(c) == *domain));
    rng.shuffle(&mut domains);
    domains.truncate(rng.usize(1..=AT_ONCE_MAX));
    let begin: Vec<(u64, Fault)> = domains
        .into_iter()
        .filter_map(|domain| {
            let of: Vec<_> = components.iter().filter(|c| domain_of(c) == domain).collect();
            let on = (*rng.choice(&of)?).clone();
            let act = act_on(&on, rng)?;
            Some((rng.u64(PUSHES), Fault::new(on, act)))
        })
        .collect();
    let mut order: Vec<usize> = (0..begin.len()).collect();
    rng.shuffle(&mut order);
    let mend = order.into_iter().map(|which| (rng.u64(PUSHES), which)).collect();
    Round { begin, mend, away: rng.u32(0..3) }
}

/// A link belongs to the domain in which it does the greater harm.
fn domain_of(component: &Component) -> Domain {
    match component {
        Component::Node(_) => Domain::Nodes,
        Component::Redis { .. } | Component::Sentinel(_) => Domain::Store,
        Component::Proxy(_) | Component::Client => Domain::Proxies,
        Component::Link(from, to) => {
            let ends = [domain_of(from), domain_of(to)];
            if ends.contains(&Domain::Store) { Domain::Store } else { ends[0].min(ends[1]) }
        }
    }
}

fn act_on(component: &Component, rng: &mut Rng) -> Option<Act> {
    let ms = Duration::from_millis;
    let cuts = [Cut::Both, Cut::In, Cut::Out, Cut::Flapping { every_ms: rng.u64(200..1500) }];
    let cut = Act::CutOff(*rng.choice(&cuts)?);
    let common = [Act::Kill, Act::Hang, Act::Restart, cut.clone()];
    let acts: Vec<Act> = match component {
        Component::Node(_) => {
            let more = [
                Act::Stop,
                Act::Twin,
                Act::CutOff(Cut::Partial),
                Act::Cpu { percent: rng.u8(20..60) },
                Act::Descriptors,
                Act::Crowd(Crowd::Rough(Rough::Storm)),
            ];
            common.into_iter().chain(more).collect()
        }
        // A master that is back before anybody has noticed is outside the model.
        Component::Redis { .. } => vec![Act::Kill, Act::Hang, cut],
        Component::Sentinel(_) | Component::Proxy(_) => vec![Act::Kill, Act::Hang, cut],
        // Nobody kills the clients.
        Component::Client => return None,
        Component::Link(from, to) => {
            let mut acts = vec![cut, Act::Loss { percent: rng.u8(1..10) }];
            if matches!((&**from, &**to), (Component::Node(_), Component::Node(_))) {
                let how = *rng.choice(&[How::Cut, How::Corrupt, How::Replay])?;
                let damage = Some(Damage { how, one_in: rng.u32(10..60) });
                acts.push(Act::Weather(Weather { damage, ..Weather::default() }));
                let (delay, jitter) = (ms(rng.u64(5..50)), ms(rng.u64(0..80)));
                acts.push(Act::Weather(Weather { delay, jitter, ..Weather::default() }));
            }
            acts
        }
    };
    rng.choice(&acts).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::link;

    fn components() -> Vec<Component> {
        let node = |n: u32| Component::Node(format!("node-{n}"));
        let mut all = vec![node(1), node(2), node(3)];
        all.extend((0..3).map(|index| Component::Redis { shard: 0, index }));
        all.extend((0..3).map(Component::Sentinel));
        all.extend((0..2).map(Component::Proxy));
        all.push(link("node-1", "node-2"));
        let redis = Box::new(Component::Redis { shard: 0, index: 0 });
        all.push(Component::Link(Box::new(node(1)), redis));
        all
    }

    #[test]
    fn a_seed_is_a_schedule() {
        let rounds = |seed| -> Vec<Round> {
            let mut rng = Rng::with_seed(seed);
            (0..20).map(|_| draw(&components(), &mut rng)).collect()
        };
        assert_eq!(rounds(7), rounds(7));
        assert_ne!(rounds(7), rounds(8));
    }

    #[test]
    fn no_more_is_broken_at_a_time_than_the_model_allows() {
        let mut rng = Rng::with_seed(1);
        let (mut together, mut seen) = (0, std::collections::BTreeSet::new());
        for _ in 0..2000 {
            let round = draw(&components(), &mut rng);
            let mut domains: Vec<_> = round.begin.iter().map(|(_, f)| domain_of(&f.on)).collect();
            domains.sort_unstable();
            together += usize::from(domains.len() > 1);
            domains.dedup();
            assert_eq!(domains.len(), round.begin.len(), "{round:?}");
            assert!(!round.begin.is_empty() && round.begin.len() == round.mend.len());
            assert!(round.begin.iter().all(|(_, fault)| !fault.outside_model()), "{round:?}");
            seen.extend(round.begin.iter().map(|(_, fault)| fault.act.kind()));
        }
        assert!(together > 500, "faults are combined");
        for kind in ["killed", "hung", "cut_off", "stopped", "restarted", "slow", "corrupted"] {
            assert!(seen.contains(kind), "{kind} is never drawn");
        }
    }
}
