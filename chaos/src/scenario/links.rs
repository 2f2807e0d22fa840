//! Ways that nothing passes, and ways that pass things on badly. Root.

use std::time::Duration;

use super::SOME;
use super::nodes::reachable;
use crate::Failure;
use crate::fault::{Act, Cut, Damage, Fault, How, Weather, link};
use crate::run::Run;
use crate::world::Component;

pub(super) async fn between_nodes(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    let other = run.another(&owner)?;
    for cut in [Cut::Both, Cut::In, Cut::Out] {
        run.with(Fault::cut(&owner, &other, cut), async |run| {
            run.pushes(SOME).await?;
            run.sees(&other, "no owner", |state| !reachable(state, &owner)).await?;
            run.pushes(SOME).await
        })
        .await?;
        run.pushes(SOME / 2).await?;
    }
    let flapping = Fault::cut(&owner, &other, Cut::Flapping { every_ms: 700 });
    run.with(flapping, async |run| run.pushes(5 * SOME).await).await?;
    run.pushes(SOME).await
}

pub(super) async fn alone(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    let other = run.another(&owner)?;
    let node = Component::Node(owner.clone());
    let partial = Fault::new(node.clone(), Act::CutOff(Cut::Partial));
    run.with(partial, async |run| {
        run.pushes(SOME).await?;
        run.sees(&other, "no owner", |state| !reachable(state, &owner)).await?;
        run.pushes(SOME).await
    })
    .await?;
    let all = Fault::new(node.clone(), Act::CutOff(Cut::Both));
    run.with(all, async |run| run.pushes(2 * SOME).await).await?;
    // It hears nothing of what Redis answers. Then what it appends gets stuck in its sockets; the
    // pushes are made elsewhere; it comes loose: too late to count (I2).
    let master = run.redis_master(0).await?;
    for cut in [Cut::Out, Cut::Held] {
        let way = Component::Link(Box::new(node.clone()), Box::new(master.clone()));
        run.with(Fault::new(way, Act::CutOff(cut)), async |run| run.pushes(2 * SOME).await).await?;
        run.pushes(SOME).await?;
    }
    Ok(())
}

pub(super) async fn weather(run: &mut Run) -> Result<(), Failure> {
    let owner = run.owner("node-1", "product-0").await?;
    let other = run.another(&owner)?;
    let ms = Duration::from_millis;
    let late = Weather { delay: ms(30), jitter: ms(40), ..Weather::default() };
    let mut acts = vec![
        Act::Weather(late),
        Act::Weather(Weather { bytes_per_s: Some(20_000), ..Weather::default() }),
        Act::Loss { percent: 5 },
        Act::Narrow { bytes_per_s: 30_000 },
    ];
    for how in [How::Cut, How::Corrupt, How::Replay] {
        let damage = Some(Damage { how, one_in: 20 });
        acts.push(Act::Weather(Weather { damage, ..Weather::default() }));
    }
    for act in acts {
        let fault = Fault::new(link(&owner, &other), act);
        run.with(fault, async |run| run.pushes(3 * SOME).await).await?;
        run.pushes(SOME / 2).await?;
    }
    run.pushes(SOME).await
}
