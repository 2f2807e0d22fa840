//! The question that the table answers: which component is a single point of failure? Every one of
//! a deployment is killed, hung and cut off, one after the other, while the deployment lives on.

use std::collections::BTreeSet;

use crate::Failure;
use crate::check::Rows;
use crate::fault::{Act, Cut, Fault};
use crate::run::{Run, Setting};
use crate::world::Component;

/// Pushes that overlap a fault that is noticed at once.
const OVERLAP: u64 = 60;

/// Three nodes, a Redis with replicas and sentinels, two proxies.
pub(super) fn setting(mut setting: Setting) -> Result<Setting, Failure> {
    setting.size.pushes_per_s = 100;
    Ok(setting)
}

/// The same, and every component must have its row.
pub(super) fn complete(setting: Setting) -> Result<Setting, Failure> {
    let mut setting = self::setting(setting)?;
    setting.rows = Rows::EveryClass;
    Ok(setting)
}

/// What is done to a component; a link can only be cut.
pub(super) fn acts(component: &Component) -> Vec<Act> {
    match component {
        Component::Link(..) => vec![Act::CutOff(Cut::Both)],
        _ => vec![Act::Kill, Act::Hang, Act::CutOff(Cut::Both)],
    }
}

/// The components that get a row: all of them but links, of which one of each class will do, unless
/// all are wanted.
pub(super) fn rows(components: &[Component], all_links: bool) -> Vec<Component> {
    let mut classes = BTreeSet::new();
    let chosen = components.iter().filter(|component| match component {
        Component::Link(..) => all_links || classes.insert(component.class()),
        _ => true,
    });
    chosen.cloned().collect()
}

pub(super) async fn every_component(run: &mut Run) -> Result<(), Failure> {
    let rows = rows(&run.world.components(), run.options().profile.all_links());
    for component in &rows {
        for act in acts(component) {
            let fault = Fault::new(component.clone(), act);
            let noticed = run.to_notice(&fault).await;
            run.with(fault, async |run| {
                run.noticed(&noticed).await?;
                run.pushes(OVERLAP).await
            })
            .await?;
        }
    }
    Ok(())
}
