//! The standard output of a load process: records, and how far it is.

use std::io::{Stdout, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::plan::State;
use crate::history::{Clock, Event, Name, Record};

/// Tells the driver what this process sees.
#[derive(Debug)]
pub(super) struct Teller {
    by: Name,
    clock: Clock,
    out: Mutex<Stdout>,
}

impl Teller {
    pub fn new(by: Name, clock: Clock) -> Self {
        Self { by, clock, out: Mutex::new(std::io::stdout()) }
    }

    /// Tells an event that happens now.
    pub fn add(&self, event: Event) {
        self.line(&Record { t: self.clock.now(), by: Name::clone(&self.by), event });
    }

    pub fn state(&self, state: State) {
        self.line(&state);
    }

    fn line(&self, line: &impl Serialize) {
        let Ok(mut text) = serde_json::to_string(line) else { return };
        text.push('\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody reads it any more when the driver is gone, and then this process ends, too.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// Tells whether a terminal is online.
#[derive(Debug)]
pub(super) struct Presence {
    teller: Arc<Teller>,
    place: usize,
    is: AtomicBool,
}

impl Presence {
    pub fn new(teller: Arc<Teller>, place: usize) -> Self {
        Self { teller, place, is: AtomicBool::new(false) }
    }

    pub fn set(&self, online: bool) {
        if self.is.swap(online, Ordering::Relaxed) != online {
            self.teller.state(State::Online { place: self.place, online });
        }
    }
}
