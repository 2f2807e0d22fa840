//! Who checks the checker, with a real node: a program with `fault-hooks` that breaks one promise on
//! purpose must be found out, by that promise. Each mutant has a run in which it shows.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::check::{self, Invariant};
use crate::history::{self, Event};
use crate::run::{HISTORY_FILE, Options};
use crate::scenario::{self, Outcome};
use crate::{Failure, kill_loop};

/// A node that breaks a promise.
#[derive(Debug)]
pub struct Mutant {
    /// Its name in the program.
    pub name: &'static str,
    /// What it does, in a line.
    pub breaks: &'static str,
    /// The run in which that shows.
    pub shown_by: ShownBy,
    /// What the run is made from.
    pub seed: u64,
    /// The numbers of the invariants that may find it; one of them must.
    pub found_by: &'static [u8],
}

/// The run in which a mutant shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownBy {
    /// That of the embedded node, with this many kills.
    KillLoop {
        /// At least.
        kills: u32,
    },
    /// A scenario as tests run it: without the slow head check.
    Scenario(&'static str),
    /// A scenario without hints.
    WithoutHints(&'static str),
}

const CUT_OFF: &str = "redis-cut-off";
const COME_AND_GO: &str = "come-and-go";

/// All of them.
pub const ALL: &[Mutant] = &[
    Mutant {
        name: "answer-before-commit",
        breaks: "the embedded store answers before it commits",
        shown_by: ShownBy::KillLoop { kills: 6 },
        seed: 1,
        found_by: &[1, 12],
    },
    Mutant {
        name: "skip-wait",
        breaks: "no fence and no `WAIT` after what is to be durable in Redis",
        shown_by: ShownBy::Scenario(CUT_OFF),
        seed: 1,
        found_by: &[1, 12],
    },
    Mutant {
        name: "unconfirmed-read",
        breaks: "a read of Redis gives what no replica has confirmed",
        shown_by: ShownBy::WithoutHints(CUT_OFF),
        seed: 1,
        found_by: &[1, 12, 13],
    },
    Mutant {
        name: "ignore-predecessor",
        breaks: "a session takes a hint whatever its predecessor is",
        shown_by: ShownBy::Scenario("links"),
        seed: 1,
        found_by: &[1],
    },
    Mutant {
        name: "forget-cursor",
        breaks: "cursors are not written",
        shown_by: ShownBy::Scenario(COME_AND_GO),
        seed: 1,
        found_by: &[11],
    },
    Mutant {
        name: "stale-cursor",
        breaks: "a session writes its cursor when there was a newer one",
        shown_by: ShownBy::Scenario(COME_AND_GO),
        seed: 1,
        found_by: &[11],
    },
    Mutant {
        name: "blind-retry",
        breaks: "a second attempt to append does not look for what the first one did",
        shown_by: ShownBy::Scenario("answers-lost"),
        seed: 1,
        found_by: &[12],
    },
    Mutant {
        name: "wall-clock",
        breaks: "sessions judge expiry by the wall clock",
        shown_by: ShownBy::Scenario("clocks"),
        seed: 1,
        found_by: &[14, 15],
    },
    Mutant {
        name: "count-twice",
        breaks: "what cursors passed in Redis is counted again, without its ticket",
        shown_by: ShownBy::Scenario("node-killed"),
        seed: 1,
        found_by: &[17],
    },
    Mutant {
        name: "silent-hand-over",
        breaks: "a new owner is not told who reads its logs",
        shown_by: ShownBy::Scenario("node-killed"),
        seed: 1,
        found_by: &[1, 18],
    },
    Mutant {
        name: "false-accept",
        breaks: "a push that could not be appended is answered 202",
        shown_by: ShownBy::Scenario("redis-master-killed"),
        seed: 1,
        found_by: &[1],
    },
    Mutant {
        name: "wrong-terminal",
        breaks: "a push to a terminal goes to another one",
        shown_by: ShownBy::Scenario(COME_AND_GO),
        seed: 1,
        found_by: &[2],
    },
    Mutant {
        name: "lose-order",
        breaks: "what goes out together goes out backwards",
        shown_by: ShownBy::Scenario(COME_AND_GO),
        seed: 1,
        found_by: &[6],
    },
    Mutant {
        name: "leak-files",
        breaks: "every link keeps a file open for good",
        shown_by: ShownBy::Scenario(COME_AND_GO),
        seed: 1,
        found_by: &[21],
    },
];

/// The mutants of these names; all if there is none.
///
/// # Errors
/// When there is no such mutant; names those that there are.
pub fn named(names: &[String]) -> Result<Vec<&'static Mutant>, Failure> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let find = |name: &String| {
        ALL.iter().find(|mutant| mutant.name == *name).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|mutant| mutant.name).collect();
            Failure::new(format!("there is no mutant {name}; there are {}", names.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

/// How the program is told to be one: a part of `CLARION_FAULTS`.
#[must_use]
pub fn fault(name: &str) -> String {
    format!("mutant:{name}")
}

/// The mutants as a table of the README.
#[must_use]
pub fn table() -> String {
    let mut text =
        String::from("| mutant | what it does | run | found by |\n| --- | --- | --- | --- |\n");
    for Mutant { name, breaks, shown_by, found_by, .. } in ALL {
        let found_by: Vec<String> = found_by.iter().map(|number| format!("C{number:02}")).collect();
        text += &format!("| `{name}` | {breaks} | {shown_by} | {} |\n", found_by.join(", "));
    }
    text
}

/// What became of a mutant.
#[derive(Debug)]
pub enum End {
    /// Found, by these of its invariants; others may have been broken besides.
    Found(Vec<&'static Invariant>),
    /// Nothing that it should be found by was broken; these were.
    Survived(Vec<&'static Invariant>),
    /// Its run cannot be made on this machine.
    Skipped(String),
}

impl End {
    /// Whether nothing speaks against the checker.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        !matches!(self, Self::Survived(_))
    }
}

impl Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |of: &[&Invariant]| {
            of.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Found(by) => write!(f, "found by {}", list(by)),
            Self::Survived(others) if others.is_empty() => f.write_str("SURVIVED"),
            Self::Survived(others) => write!(f, "SURVIVED; broken was {}", list(others)),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

impl Display for ShownBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillLoop { .. } => f.write_str("`kill-loop`"),
            Self::Scenario(name) => write!(f, "`{name}`"),
            Self::WithoutHints(name) => write!(f, "`{name} --no-hints`"),
        }
    }
}

/// Makes the run in which the mutant shows, and judges its history. The files are kept in `keep`, and
/// of a mutant that survives also without.
///
/// # Errors
/// When the run did not come to its end: then the history says nothing of the mutant.
pub async fn run(mutant: &Mutant, keep: Option<PathBuf>) -> Result<End, Failure> {
    let temporary = TempDir::with_prefix("clarion-mutant-");
    let temporary = temporary.map_err(Failure::of("cannot make a directory"))?;
    let directory = keep.unwrap_or_else(|| temporary.path().join(mutant.name));
    let made = Box::pin(make(mutant, &directory)).await;
    if let Ok(Some(why)) = made {
        return Ok(End::Skipped(why));
    }
    let judged = judge(mutant, &directory);
    if !matches!(judged, Ok(End::Found(_))) {
        println!("files                  {}", directory.display());
        let _ = temporary.keep();
    }
    judged.map_err(|failure| match made {
        Err(why) => Failure::new(format!("{}: {failure}: {why}", mutant.name)),
        Ok(_) => failure,
    })
}

/// Makes the run; a failure is of no interest unless it keeps the history from being judged. Some
/// text says why it cannot be made here.
async fn make(mutant: &Mutant, directory: &Path) -> Result<Option<String>, Failure> {
    let keep = Some(directory.to_owned());
    let (name, no_hints) = match mutant.shown_by {
        ShownBy::KillLoop { kills } => {
            let settings = kill_loop::Settings {
                kills,
                accepted: 0,
                faults: Some(fault(mutant.name)),
                directory: keep,
                ..kill_loop::Settings::short(mutant.seed)
            };
            return kill_loop::run(&settings).await.map(|_| None);
        }
        ShownBy::Scenario(name) => (name, false),
        ShownBy::WithoutHints(name) => (name, true),
    };
    let options = Options {
        seed: mutant.seed,
        keep,
        no_hints,
        no_head_check: !no_hints,
        mutant: Some(mutant.name.to_owned()),
        ..Options::default()
    };
    match scenario::run(scenario::named(name)?, options).await? {
        Outcome::Kept(_) => Ok(None),
        Outcome::Skipped(why) => Ok(Some(why)),
    }
}

fn judge(mutant: &Mutant, directory: &Path) -> Result<End, Failure> {
    let file = directory.join(HISTORY_FILE);
    let contents = history::read(&file).map_err(Failure::of("its history"))?;
    // What is counted last has seen everything before: the run was whole.
    if !contents.records.iter().any(|record| matches!(record.event, Event::Counting { .. })) {
        return Err(Failure::new("its run did not come to its end"));
    }
    let verdict = check::judge(&contents.records, &check::Options::beside(&file)?);
    let broken = verdict.counts.iter().filter(|(_, count)| *count > 0).map(|(one, _)| *one);
    let (found, others): (Vec<_>, Vec<_>) =
        broken.partition(|invariant| mutant.found_by.contains(&invariant.number));
    Ok(if found.is_empty() { End::Survived(others) } else { End::Found(found) })
}
