//! A run against a cluster that somebody else runs: staging. Nothing is started here but the load.
//! What may be broken, how, and how it is mended are commands that a [file](TargetFile) allows;
//! the load, the history, the checker and the report are those of every run.

mod clear;
mod command;
mod file;
mod mender;
mod misuse;
mod run;
mod schedule;
mod watch;

use std::path::{Path, PathBuf};

use crate::Failure;
use crate::summary::Summary;

pub use file::TargetFile;
pub use misuse::Misuse;
use schedule::Schedule;

/// A file that has everything there is, with comments.
pub const EXAMPLE: &str = include_str!("example.toml");

/// How such a run is asked for.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Arguments {
    /// What may be broken, and how
    #[arg(value_name = "FILE", required_unless_present = "example")]
    pub file: Option<PathBuf>,
    /// Show a file with everything that there is
    #[arg(long)]
    pub example: bool,
    /// The name of the cluster: that you mean this one
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// What everything random is made from; a random one if absent
    #[arg(long)]
    pub seed: Option<u64>,
    /// Keep the files of the run in this directory, also when nothing is wrong
    #[arg(long, value_name = "DIRECTORY")]
    pub keep: Option<PathBuf>,
}

/// Why there is no good outcome.
#[derive(Debug)]
pub enum Refused {
    /// It was not begun: what is asked for is not to be done.
    Misuse(Misuse),
    /// A promise was broken, or the run could not be made.
    Failed(Failure),
}

impl From<Misuse> for Refused {
    fn from(misuse: Misuse) -> Self {
        Self::Misuse(misuse)
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Makes the run, or says what it would be. None when nothing was to be done.
///
/// # Errors
/// See [`Refused`].
pub async fn run(arguments: &Arguments) -> Result<Option<Summary>, Refused> {
    let Some(path) = arguments.file.as_deref().filter(|_| !arguments.example) else {
        print!("{EXAMPLE}");
        return Ok(None);
    };
    let file = TargetFile::read(path)?;
    let schedule = Schedule::of(&file);
    if arguments.dry_run {
        print!("{}", schedule.shown(&file));
        return Ok(None);
    }
    file.confirmed(arguments.confirm.as_deref())?;
    let token = file.admin_token()?;
    if schedule.steps.is_empty() {
        return Err(Misuse::NothingToBreak.into());
    }
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let (directory, temporary) = match &arguments.keep {
        Some(directory) => {
            if std::fs::read_dir(directory).is_ok_and(|mut files| files.next().is_some()) {
                let used = directory.display();
                return Err(Misuse::File(format!("{used} is not empty: name another one")).into());
            }
            (directory.clone(), None)
        }
        None => {
            let made = tempfile::TempDir::with_prefix("clarion-chaos-");
            let made = made.map_err(Failure::of("cannot make a directory"))?;
            (made.path().to_owned(), Some(made))
        }
    };
    let again = again(path, &file, seed);
    println!("== {} (seed {seed}): against a running cluster", file.cluster.name);
    let asked = run::Asked { token, seed, directory: directory.clone(), again };
    let done = run::make(&file, &schedule, asked).await;
    if matches!(done, Err(Refused::Failed(_))) {
        // Kept for whoever looks for the cause.
        let _ = temporary.map(tempfile::TempDir::keep);
    }
    done.map(Some).map_err(|refused| match refused {
        Refused::Failed(failure) => {
            Refused::Failed(Failure::new(format!("{failure}\nfiles: {}", directory.display())))
        }
        misuse @ Refused::Misuse(_) => misuse,
    })
}

/// The arguments of `clarion-chaos` that make such a run again.
fn again(path: &Path, file: &TargetFile, seed: u64) -> String {
    format!("target {} --confirm {} --seed {seed}", path.display(), file.cluster.name)
}
