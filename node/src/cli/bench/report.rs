//! What a bench found.

use std::fmt;

use serde::Serialize;

/// The figures of one bench.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// The bench.
    pub(super) bench: &'static str,
    /// What was done.
    pub(super) setup: String,
    /// What came out.
    pub(super) figures: Vec<Figure>,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    /// What was measured.
    pub(super) name: String,
    /// The value; none when it could not be measured (no process id, for one).
    pub(super) value: Option<f64>,
    /// Its unit.
    pub(super) unit: &'static str,
    /// What it is to reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reach: Option<Reach>,
}

/// What a figure is to reach, in its unit.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reach {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Report {
    pub(super) fn new(bench: &'static str, setup: String) -> Self {
        Self { bench, setup, figures: Vec::new() }
    }

    /// Adds a figure.
    pub(super) fn figure(
        &mut self,
        name: impl Into<String>,
        value: impl Into<Option<f64>>,
        unit: &'static str,
        reach: impl Into<Option<Reach>>,
    ) {
        let (value, reach) = (value.into().filter(|value| value.is_finite()), reach.into());
        self.figures.push(Figure { name: name.into(), value, unit, reach });
    }
}

impl Figure {
    /// Whether it reaches what it is to; none where nothing is asked or measured.
    pub(super) fn reached(&self) -> Option<bool> {
        let value = self.value?;
        self.reach.map(|reach| match reach {
            Reach::AtMost(most) => value <= most,
            Reach::AtLeast(least) => value >= least,
        })
    }

    pub(super) fn shown(&self) -> String {
        self.value.map_or_else(
            || "not measured".to_owned(),
            |value| format!("{} {}", number(value), self.unit).trim_end().to_owned(),
        )
    }

    pub(super) fn reach_shown(&self) -> String {
        match self.reach {
            None => String::new(),
            Some(Reach::AtMost(most)) => format!("at most {}", number(most)),
            Some(Reach::AtLeast(least)) => format!("at least {}", number(least)),
        }
    }
}

/// A number with some three digits that count, and thousands apart.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let plain = format!("{value:.decimals$}");
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() {
        format!("{sign}{grouped}")
    } else {
        format!("{sign}{grouped}.{fraction}")
    }
}

/// Several reports, for people.
#[derive(Debug, Serialize)]
pub(super) struct Reports(pub(super) Vec<Report>);

impl fmt::Display for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in &self.0 {
            writeln!(f, "{}: {}", report.bench, report.setup)?;
            let width = |cell: &dyn Fn(&Figure) -> String| {
                report.figures.iter().map(|figure| cell(figure).chars().count()).max().unwrap_or(0)
            };
            let names = width(&|figure| figure.name.clone());
            let values = width(&Figure::shown);
            for figure in &report.figures {
                let verdict = match figure.reached() {
                    Some(true) => format!("({}: yes)", figure.reach_shown()),
                    Some(false) => format!("({}: NO)", figure.reach_shown()),
                    None => String::new(),
                };
                let line =
                    format!("  {:names$}  {:>values$}  {verdict}", figure.name, figure.shown());
                writeln!(f, "{}", line.trim_end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let shown: Vec<String> =
            [0.0, 0.1234, 1.5, 12.34, 123.4, 1_234.5, 1_234_567.0, -1234.0].map(number).into();
        assert_eq!(shown, ["0", "0.123", "1.50", "12.3", "123", "1,234", "1,234,567", "-1,234"]);
    }

    #[test]
    fn a_figure_that_was_not_measured_is_neither_reached_nor_missed() {
        let mut report = Report::new("x", "y".to_owned());
        report.figure("a", 5.0, "ms", Reach::AtMost(5.0));
        report.figure("b", None, "ms", Reach::AtMost(5.0));
        report.figure("c", 4.0, "/s", Reach::AtLeast(5.0));
        let reached: Vec<_> = report.figures.iter().map(Figure::reached).collect();
        assert_eq!(reached, [Some(true), None, Some(false)]);
        assert!(Reports(vec![report]).to_string().contains("at least 5.00: NO"));
    }
}
