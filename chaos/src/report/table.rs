//! The table that answers the question: which component is a single point of failure?

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::measure::{Quiet, Window};
use super::{Limit, measure};
use crate::check::Violation;
use crate::history::Name;

/// The invariant whose violations are lost messages, and that of repeated ones.
const LOST: &str = "accepted-arrives";
const REPEATED: &str = "at-most-once";

/// What happened while one component was broken, in each way in which it was.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub component: String,
    /// What it is.
    pub class: String,
    /// One for each kind of fault.
    pub cells: Vec<Cell>,
}

/// All faults of one kind of one component.
#[derive(Debug, Serialize)]
pub struct Cell {
    /// `killed`, `hung`, `cut_off`, …
    pub kind: String,
    /// How many there were.
    pub faults: usize,
    /// The longest interruption of pushes, milliseconds.
    pub push_ms: u64,
    /// The longest interruption of deliveries to terminals elsewhere, milliseconds.
    pub delivery_ms: u64,
    /// The same for the component's own terminals; none if it had none.
    pub own_ms: Option<u64>,
    /// Accepted messages that were lost.
    pub lost: u64,
    /// Messages that users of the SDK were given again.
    pub repeated: u64,
    /// What is expected.
    pub limit: Limit,
    /// Whether that was met.
    pub is_good: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within =
            |limit: Option<f64>| limit.map_or_else(String::new, |ms| format!(" of {ms:.0}"));
        let Self { push_ms, delivery_ms, own_ms, lost, repeated, limit, .. } = self;
        write!(f, "pushes {push_ms}{} ms", within(limit.push_ms))?;
        write!(f, ", deliveries {delivery_ms}{} ms", within(limit.delivery_ms))?;
        if let Some(own_ms) = own_ms {
            write!(f, ", its own {own_ms}{} ms", within(limit.own_ms))?;
        }
        if *lost > 0 || *repeated > 0 {
            write!(f, ", {lost} lost, {repeated} again")?;
        }
        Ok(())
    }
}

/// Counts what was lost and repeated for the fault in which it began: the last one before the first
/// record that proves it.
pub(super) fn blame(windows: &mut [Window], violations: &[Violation]) {
    for violation in violations {
        let Some(at) = violation.proof.iter().map(|proof| proof.record.t).max() else { continue };
        let began = windows.iter_mut().rev().find(|window| window.from <= at);
        let Some(window) = began else { continue };
        match violation.invariant.name {
            LOST => window.lost += 1,
            REPEATED => window.repeated += 1,
            _ => {}
        }
    }
}

pub(super) fn rows(
    components: &[(&Name, &Name)],
    windows: &[Window],
    quiet: &Quiet,
    heartbeat_ms: u64,
) -> Vec<Row> {
    let mut of: BTreeMap<&str, BTreeMap<&str, Vec<&Window>>> = BTreeMap::new();
    for window in windows {
        let kinds = of.entry(&window.component).or_default();
        kinds.entry(&window.kind).or_default().push(window);
    }
    let class = |name: &str| {
        let known = components.iter().find(|(component, _)| ***component == *name);
        known.map_or_else(String::new, |(_, class)| class.to_string())
    };
    let row = |(component, kinds): (&str, BTreeMap<&str, Vec<&Window>>)| Row {
        component: component.to_owned(),
        class: class(component),
        cells: kinds.into_iter().map(|(kind, all)| cell(kind, &all, quiet, heartbeat_ms)).collect(),
    };
    of.into_iter().map(row).collect()
}

fn cell(kind: &str, windows: &[&Window], quiet: &Quiet, heartbeat_ms: u64) -> Cell {
    let longest = |of: &dyn Fn(&Window) -> u64| {
        measure::ms(windows.iter().map(|window| of(window)).max().unwrap_or(0))
    };
    let sum = |of: &dyn Fn(&Window) -> u64| windows.iter().map(|window| of(window)).sum();
    let expects = windows.first().map_or("", |window| window.expects.as_str());
    let limit = Limit::parse(expects, quiet, heartbeat_ms);
    let own = windows.iter().filter_map(|window| window.own).max();
    let mut cell = Cell {
        kind: kind.to_owned(),
        faults: windows.len(),
        push_ms: longest(&|window| window.push),
        delivery_ms: longest(&|window| window.delivery),
        own_ms: own.map(measure::ms),
        lost: sum(&|window| window.lost),
        repeated: sum(&|window| window.repeated),
        limit,
        is_good: true,
    };
    let within = |ms: u64, limit: Option<f64>| limit.is_none_or(|limit| ms as f64 <= limit);
    cell.is_good = within(cell.push_ms, limit.push_ms)
        && within(cell.delivery_ms, limit.delivery_ms)
        && cell.own_ms.is_none_or(|own_ms| within(own_ms, limit.own_ms))
        && cell.lost == 0
        && cell.repeated == 0;
    cell
}

/// The rows as a Markdown table; times in seconds.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| component | broken | pushes, s | deliveries, s | its own terminals, s | lost | SDK again | |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let seconds = |ms: u64, limit: Option<f64>| {
        let within = limit.map_or_else(String::new, |limit| format!(" of {:.1}", limit / 1000.0));
        format!("{:.2}{within}", ms as f64 / 1000.0)
    };
    for row in rows {
        for cell in &row.cells {
            let Cell { kind, faults, push_ms, delivery_ms, own_ms, lost, repeated, limit, .. } =
                cell;
            let kind = if *faults > 1 { format!("{kind} x{faults}") } else { kind.clone() };
            let push = seconds(*push_ms, limit.push_ms);
            let delivery = seconds(*delivery_ms, limit.delivery_ms);
            let own = own_ms.map_or_else(String::new, |own_ms| seconds(own_ms, limit.own_ms));
            let good = if cell.is_good { "" } else { "**too long**" };
            text += &format!(
                "| {} | {kind} | {push} | {delivery} | {own} | {lost} | {repeated} | {good} |\n",
                row.component
            );
        }
    }
    text
}
