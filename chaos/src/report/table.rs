//! The table that answers the question: which component is a single point of failure?

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::check::Violation;
use crate::history::Name;
use crate::interruption::{Judged, Limit, Window, ms};

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
    /// Whether that could not be told: it is a comparison, and others used the machine.
    pub is_busy: bool,
}

impl Cell {
    /// Whether it was met, in a word; nothing if it was.
    #[must_use]
    pub const fn verdict(&self) -> &'static str {
        match (self.lost + self.repeated, self.is_good, self.is_busy) {
            (1.., ..) => "wrong",
            (0, false, _) => "too long",
            (0, true, true) => "not comparable: the machine was busy",
            (0, true, false) => "",
        }
    }
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

/// What became of one fault.
struct Of<'a> {
    window: &'a Window,
    limit: Limit,
    is_too_long: bool,
    is_busy: bool,
}

pub(super) fn rows(components: &[(&Name, &Name)], windows: &[Window], judged: &Judged) -> Vec<Row> {
    let mut of: BTreeMap<&str, BTreeMap<&str, Vec<Of<'_>>>> = BTreeMap::new();
    for (index, window) in windows.iter().enumerate() {
        let kinds = of.entry(&window.component).or_default();
        let is_of = |excused: bool| {
            let concerns = |(concerned, _): &(usize, _)| *concerned == index;
            let mut too_long = judged.too_long.iter();
            too_long.any(|one| one.is_excused == excused && one.of.iter().any(concerns))
        };
        kinds.entry(&window.kind).or_default().push(Of {
            window,
            limit: judged.limits.get(index).copied().unwrap_or_default(),
            is_too_long: is_of(false),
            is_busy: is_of(true),
        });
    }
    let class = |name: &str| {
        let known = components.iter().find(|(component, _)| ***component == *name);
        known.map_or_else(String::new, |(_, class)| class.to_string())
    };
    let row = |(component, kinds): (&str, BTreeMap<&str, Vec<Of<'_>>>)| Row {
        component: component.to_owned(),
        class: class(component),
        cells: kinds.into_iter().map(|(kind, all)| cell(kind, &all)).collect(),
    };
    of.into_iter().map(row).collect()
}

fn cell(kind: &str, faults: &[Of<'_>]) -> Cell {
    let windows = || faults.iter().map(|of| of.window);
    let longest = |of: &dyn Fn(&Window) -> u64| ms(windows().map(of).max().unwrap_or(0));
    let sum = |of: &dyn Fn(&Window) -> u64| windows().map(of).sum();
    let own = windows().filter_map(|window| window.own).max();
    // Redis servers change places: the widest limit is shown, and each was judged by its own.
    let widest = |of: fn(&Limit) -> Option<f64>| {
        let limits: Option<Vec<f64>> = faults.iter().map(|fault| of(&fault.limit)).collect();
        limits.map(|limits| limits.into_iter().fold(0.0, f64::max))
    };
    let limit = Limit {
        push_ms: widest(|limit| limit.push_ms),
        delivery_ms: widest(|limit| limit.delivery_ms),
        own_ms: widest(|limit| limit.own_ms),
    };
    let mut cell = Cell {
        kind: kind.to_owned(),
        faults: faults.len(),
        push_ms: longest(&|window| window.push),
        delivery_ms: longest(&|window| window.delivery),
        own_ms: own.map(ms),
        lost: sum(&|window| window.lost),
        repeated: sum(&|window| window.repeated),
        limit,
        is_good: true,
        is_busy: faults.iter().any(|of| of.is_busy),
    };
    let too_long = faults.iter().any(|of| of.is_too_long);
    cell.is_good = !too_long && cell.lost == 0 && cell.repeated == 0;
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
            let verdict = match cell.verdict() {
                "" => String::new(),
                verdict => format!("**{verdict}**"),
            };
            text += &format!(
                "| {} | {kind} | {push} | {delivery} | {own} | {lost} | {repeated} | {verdict} |\n",
                row.component
            );
        }
    }
    text
}
