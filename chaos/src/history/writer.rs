//! Writes a history, and knows what of it is still open. The records themselves stay in the file:
//! a long run has millions.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{About, Clock, DRIVER, Event, FORMAT, Figures, Name, Record, read};
use crate::settle::Ledger;

/// Takes the records of all processes, and writes each to a file as one line of JSON.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    clock: Clock,
    by: Name,
    inner: Mutex<Inner>,
    accepted: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    file: BufWriter<File>,
    /// The first that could not be written.
    error: Option<io::Error>,
    figures: Figures,
    ledger: Ledger,
}

impl History {
    /// A history that is written to `path`; the run starts now.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, about: About) -> io::Result<Self> {
        let inner = Inner {
            file: BufWriter::new(File::create(path)?),
            error: None,
            figures: Figures::default(),
            ledger: Ledger::default(),
        };
        let history = Self {
            path: path.to_owned(),
            clock: Clock::start(),
            by: DRIVER.into(),
            inner: Mutex::new(inner),
            accepted: watch::Sender::new(0),
        };
        history.add(Event::Run(Box::new(About { format: FORMAT, ..about })));
        Ok(history)
    }

    /// The clock of its times.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Where it is written.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends what the driver does or sees now.
    pub fn add(&self, event: Event) {
        let record = Record { t: self.clock.now(), by: Name::clone(&self.by), event };
        let line = serde_json::to_string(&record).map_err(io::Error::from);
        self.append(&record, line.as_deref().unwrap_or_default());
        if let Err(error) = line {
            self.lock().error.get_or_insert(error);
        }
    }

    /// Appends what another process saw, as it wrote it.
    pub(crate) fn append(&self, record: &Record, line: &str) {
        let accepted = {
            let mut inner = self.lock();
            let Inner { file, error, figures, ledger } = &mut *inner;
            let written = file.write_all(line.as_bytes()).and_then(|()| file.write_all(b"\n"));
            if let Err(failed) = written {
                error.get_or_insert(failed);
            }
            figures.add(&record.event);
            ledger.note(record);
            figures.accepted
        };
        if matches!(record.event, Event::Accepted { .. }) {
            // Others may be further by now.
            self.accepted.send_modify(|known| *known = accepted.max(*known));
        }
    }

    /// How many pushes were accepted, to wait for more.
    #[must_use]
    pub fn accepted(&self) -> watch::Receiver<u64> {
        self.accepted.subscribe()
    }

    /// What has happened so far, in figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.lock().figures
    }

    /// Looks at all records up to now, in the order of time. They are read from the file: this is
    /// for the end of a run, not for polling.
    ///
    /// # Errors
    /// When they cannot be written or read.
    pub fn look<T>(&self, look: impl FnOnce(&[Record]) -> T) -> io::Result<T> {
        self.flush()?;
        Ok(look(&read(&self.path)?.records))
    }

    /// Looks at what is open.
    pub(crate) fn ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.lock().ledger)
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// When this or an earlier write failed.
    pub fn flush(&self) -> io::Result<()> {
        let mut inner = self.lock();
        match inner.error.take() {
            Some(error) => Err(error),
            None => inner.file.flush(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
