//! What the checks found.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// The node works; something is worth a look.
    Warn,
    /// The node does not start with it, or does not keep its promises.
    Fail,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(message: impl Into<String>) -> Self {
        Self { level: Level::Ok, message: message.into(), mend: None }
    }

    pub(super) fn warn(message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warn, message: message.into(), mend: Some(mend.into()) }
    }

    pub(super) fn fail(message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Fail, message: message.into(), mend: Some(mend.into()) }
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

/// All findings, in the order of the checks.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn add(&mut self, check: &'static str, finding: Finding) {
        self.checks.push(Check { check, finding });
    }

    pub(super) fn failures(&self) -> usize {
        self.checks.iter().filter(|check| check.finding.level == Level::Fail).count()
    }

    /// Puts the name of the config file where a mend says `FILE`.
    pub(super) fn name_file(&mut self, file: &str) {
        for check in &mut self.checks {
            let mend = check.finding.mend.take();
            // `LimitNOFILE` and the like are other words.
            let words = |mend: String| {
                let named = |word: &str| match word.trim_end_matches(['`', ';', ',', '.']) {
                    "FILE" => word.replace("FILE", file),
                    _ => word.to_owned(),
                };
                mend.split(' ').map(named).collect::<Vec<_>>().join(" ")
            };
            check.finding.mend = mend.map(words);
        }
    }

    pub(super) fn shown(&self) -> String {
        let width = self.checks.iter().map(|check| check.check.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Check { check, finding } in &self.checks {
            let level = match finding.level {
                Level::Ok => "ok  ",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            text.push_str(&format!("{level}  {check:width$}  {}\n", finding.message));
            if let Some(mend) = &finding.mend {
                text.push_str(&format!("      {:width$}  mend: {mend}\n", ""));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_a_line_with_its_mend_below() {
        let mut report = Report::default();
        report.add("config", Finding::ok("n.toml is fine"));
        report.add(
            "open files",
            Finding::warn("1024 for 5000 links", "raise LimitNOFILE= of systemd"),
        );
        report.add("store", Finding::fail("no store", "`clarion store init FILE`; else"));
        report.name_file("n.toml");
        assert_eq!(report.failures(), 1);
        insta::assert_snapshot!(report.shown());
    }
}
