//! Reads histories that were written before.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use super::{Event, FORMAT, Name, Record};

/// A history, in the order of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// The records, sorted by [`Record::t`]; those of the same time as they stand in the file.
    pub records: Vec<Record>,
    /// The last line, if whoever wrote it was ended in the middle of it.
    pub torn: Option<String>,
}

/// Reads a history.
///
/// # Errors
/// When the file cannot be read, does not begin with a run of this format, or a line but a last one
/// that does not end is no record.
pub fn read(path: &Path) -> io::Result<Contents> {
    let mut lines = BufReader::new(File::open(path)?);
    let (mut records, mut names) = (Vec::new(), Names::default());
    let (mut line, mut number) = (String::new(), 0_usize);
    let torn = loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            break None;
        }
        number += 1;
        if !line.ends_with('\n') {
            break Some(line);
        }
        if number == 1 {
            is_read(&line)?;
        }
        let mut record = serde_json::from_str(&line)
            .map_err(|error| io::Error::other(format!("line {number}: {error}")))?;
        names.share(&mut record);
        records.push(record);
    };
    if records.is_empty() {
        return Err(io::Error::other("no history: its first line is missing"));
    }
    // Nearly sorted before, which this makes use of; and it is stable.
    records.sort_by_key(|record: &Record| record.t);
    Ok(Contents { records, torn })
}

/// That the first line is of this format. Others may differ in every record, the first one too.
fn is_read(line: &str) -> io::Result<()> {
    let first: serde_json::Value = serde_json::from_str(line)
        .map_err(|error| io::Error::other(format!("no history: {error}")))?;
    if first["e"] != "run" {
        return Err(io::Error::other("no history: its first line is not of the run"));
    }
    match first["format"].as_u64() {
        Some(format) if format == u64::from(FORMAT) => Ok(()),
        Some(format) => {
            Err(io::Error::other(format!("this is of format {format}, and {FORMAT} is read")))
        }
        None => Err(io::Error::other("the first line names no format")),
    }
}

/// Makes records share the names that are the same: a long history has millions of few.
#[derive(Default)]
struct Names(HashSet<Name>);

impl Names {
    fn share(&mut self, record: &mut Record) {
        self.one(&mut record.by);
        match &mut record.event {
            Event::Component { name, class, parts } => {
                self.all([name, class]);
                self.all(parts);
            }
            Event::Terminal { who, product, .. } => self.all([who, product]),
            Event::Invoke { key, product, hash, lane, door, .. } => {
                self.all([key, product, hash, lane, door]);
            }
            Event::Accepted { key, door, .. } => self.all([key, door]),
            Event::Opened { who, door, node, .. } => self.all([who, door, node]),
            Event::Delivered { who, key, hash, .. } => self.all([who, key, hash]),
            Event::ToldGap { who, reason, .. } => self.all([who, reason]),
            Event::Joining { who, .. }
            | Event::Joined { who, .. }
            | Event::Leaving { who, .. }
            | Event::LeftTopic { who, .. }
            | Event::Acknowledged { who, .. }
            | Event::Left { who, .. }
            | Event::LostCursors { who }
            | Event::Trouble { who, .. } => self.one(who),
            Event::Refused { key, .. }
            | Event::Unknown { key, .. }
            | Event::Counted { key, .. } => self.one(key),
            Event::Fault { component, kind, .. } | Event::Skipped { component, kind, .. } => {
                self.all([component, kind]);
            }
            Event::Sample(sample) => self.one(&mut sample.process),
            Event::Phase { name } => self.one(name),
            Event::Run(_)
            | Event::Mended { .. }
            | Event::Healed { .. }
            | Event::Baseline
            | Event::Steady { .. }
            | Event::HeadChecked { .. }
            | Event::Stalled { .. }
            | Event::Machine { .. }
            | Event::Counting { .. } => {}
        }
    }

    fn all<'n>(&mut self, names: impl IntoIterator<Item = &'n mut Name>) {
        for name in names {
            self.one(name);
        }
    }

    fn one(&mut self, name: &mut Name) {
        if let Some(known) = self.0.get(name) {
            *name = Name::clone(known);
        } else {
            self.0.insert(Name::clone(name));
        }
    }
}
