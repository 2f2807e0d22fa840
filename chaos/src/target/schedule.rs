//! What is broken in which order: every fault that is allowed once, one at a time, then some of them
//! together, drawn from the seed, as long as the time lasts.

use std::fmt::Write as _;
use std::time::Duration;

use fastrand::Rng;

use super::TargetFile;
use super::command::shown;
use super::file::{Commands, ComponentPart, Kind};
use crate::fault::Fault;

/// How long a fault lasts that does not say so.
const FOR_S: u64 = 10;

/// See the module.
#[derive(Debug)]
pub struct Schedule {
    /// What may be done.
    pub steps: Vec<Step>,
    /// What may not, and why.
    pub skipped: Vec<Skipped>,
    broken_at_once: usize,
}

/// A fault that may be made.
#[derive(Debug, Clone)]
pub struct Step {
    /// As every run has it.
    pub fault: Fault,
    /// How.
    pub commands: Commands,
    /// How long.
    pub lasts: Duration,
}

/// A fault that may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Of which component.
    pub component: String,
    /// Which.
    pub kind: &'static str,
    /// Why.
    pub why: String,
}

impl Schedule {
    /// What a file allows.
    pub fn of(file: &TargetFile) -> Self {
        let (mut steps, mut skipped) = (Vec::new(), Vec::new());
        for part in &file.components {
            for kind in Kind::ALL {
                match allowed(file, part, kind) {
                    Ok(step) => steps.push(step),
                    Err(why) => skipped.push(Skipped {
                        component: part.name.clone(),
                        kind: kind.name(),
                        why: why.to_owned(),
                    }),
                }
            }
        }
        Self { steps, skipped, broken_at_once: file.limits.broken_at_once }
    }

    /// What is broken together in the n-th round.
    pub fn round(&self, n: usize, rng: &mut Rng) -> Vec<Step> {
        if let Some(step) = self.steps.get(n) {
            return vec![step.clone()];
        }
        let wanted = rng.usize(1..=self.broken_at_once);
        let mut all = self.steps.clone();
        rng.shuffle(&mut all);
        let mut together: Vec<Step> = Vec::new();
        for step in all {
            let other = |one: &Step| one.fault.on != step.fault.on;
            if together.len() < wanted && together.iter().all(other) {
                together.push(step);
            }
        }
        together
    }

    /// For people, before anything is done.
    pub fn shown(&self, file: &TargetFile) -> String {
        let (mut text, limits) = (String::new(), &file.limits);
        let names = |doors: Vec<&str>| doors.join(", ");
        let doors = names(file.doors.iter().map(|door| door.name.as_str()).collect());
        let load = &file.load;
        // Nothing is written but to the text.
        let _ = writeln!(text, "cluster   {}, by {doors}", file.cluster.name);
        let _ = writeln!(
            text,
            "load      {} products {}-…, {} terminals each, {} pushes a second",
            load.products, load.prefix, load.terminals, load.pushes_per_s
        );
        let _ = writeln!(
            text,
            "limits    {} minutes, {} broken at once, for {} s at most",
            limits.minutes, limits.broken_at_once, limits.broken_s
        );
        for Step { fault, commands, lasts } in &self.steps {
            let _ = writeln!(text, "would     {fault}, for {} s", lasts.as_secs());
            let _ = writeln!(text, "  break   {}", shown(&commands.make));
            if let Some(mend) = &commands.mend {
                let _ = writeln!(text, "  mend    {}", shown(mend));
            }
        }
        for Skipped { component, kind, why } in &self.skipped {
            let _ = writeln!(text, "skipped   {component} {kind}: {why}");
        }
        text
    }
}

fn allowed(file: &TargetFile, part: &ComponentPart, kind: Kind) -> Result<Step, &'static str> {
    if file.limits.never.contains(&part.name) {
        return Err("limits.never has it");
    }
    let commands = part.commands(kind).ok_or("the file has no commands for it")?;
    if !file.faults.allow.contains(&kind) {
        return Err("faults.allow has it not");
    }
    let fault = part.fault(kind).ok_or("it is no component")?;
    let for_s = commands.for_s.unwrap_or_else(|| FOR_S.min(file.limits.broken_s));
    Ok(Step { fault, commands: commands.clone(), lasts: Duration::from_secs(for_s) })
}
