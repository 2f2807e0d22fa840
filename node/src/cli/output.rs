//! What a command writes: for people, or JSON for scripts.

use std::io::{ErrorKind, Write};

use serde::Serialize;
use serde_json::json;

use super::exit::{Exit, Failure};

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether a script reads.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// Writes a result: the value as one line of JSON, or the text for people.
    pub(crate) fn result(
        self,
        value: &impl Serialize,
        human: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let line = serde_json::to_string(value)
                .map_err(|error| Failure::local("cannot write JSON", error))?;
            write_out(&format!("{line}\n"))
        } else {
            write_out(&human())
        }
    }

    /// Says on stderr what happens meanwhile.
    pub(crate) fn note(self, text: &str) {
        if self.json {
            to_stderr(&format!("{}\n", json!({"note": text})));
        } else {
            to_stderr(&format!("{text}\n"));
        }
    }

    /// Says on stderr how the command ended badly.
    pub(crate) fn failure(self, failure: &Failure) {
        if self.json {
            let document = json!({"error": failure, "exit_code": failure.exit.number()});
            to_stderr(&format!("{document}\n"));
        } else if failure.exit != Exit::Interrupted {
            let mut text = format!("error: {}\n", failure.message.trim_end());
            if let Some(hint) = &failure.hint {
                text.push_str(&format!(
                    "  hint: {}\n",
                    hint.trim_end().replace('\n', "\n        ")
                ));
            }
            if let Some(id) = &failure.request_id {
                text.push_str(&format!("  request id: {id}\n"));
            }
            to_stderr(&text);
        }
    }
}

/// Writes to stdout at once. A reader that went away (`| head`) is no failure: the process ends.
fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::local("cannot write to stdout", error)),
    }
}

fn to_stderr(text: &str) {
    // When stderr is gone nobody is left to tell.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Columns under headings, as wide as they must be.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.iter().map(|text| (*text).to_uppercase()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = width(column).unwrap_or(0).saturating_sub(cell.chars().count());
                line.push_str(cell);
                line.push_str(&" ".repeat(pad + 2));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A moment as people read it: UTC, to the millisecond.
pub(crate) fn time(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Civil from days (Howard Hinnant): years that begin in March put the leap day last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let fraction = ms % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(1_735_689_599_999), "2024-12-31T23:59:59.999Z");
        assert_eq!(time(1_763_830_156_007), "2025-11-22T16:49:16.007Z");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["a", "bcd"]);
        table.row(["long".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_string(), "A     BCD\nlong  x\n");
    }
}
