//! What the driver and a load process say to each other, a line of JSON each: the plan on the
//! process's standard input first, then what is wanted of it whenever that changes; on its standard
//! output the records of the history, and between them how far it is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Doors;
use crate::history::{Client, Clock, Name};

/// What a load process is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Its name in the history.
    pub by: Name,
    pub clock: Clock,
    pub seed: u64,
    pub doors: Doors,
    pub part: Part,
}

/// What it does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    /// The back-ends of all products.
    BackEnds { products: Vec<Product>, pushes_per_s: u32, members_change: bool },
    /// Terminals.
    Terminals(Vec<TerminalPlan>),
    /// Terminals that do not behave, at doors of their own choice.
    Rough(RoughPlan),
}

/// A product, and what its back-end needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Product {
    pub name: Name,
    pub key: String,
    pub secret: String,
    pub terminals: Vec<String>,
    pub users: Vec<String>,
    pub topics: Vec<String>,
    /// Those of `terminals` that the back-end has put into [`TOPIC_FILLED`](super::TOPIC_FILLED).
    pub filled: Vec<String>,
}

/// A terminal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct TerminalPlan {
    pub who: Name,
    pub product: Name,
    pub token: String,
    /// It joins these whenever it connects.
    pub topics: Vec<String>,
    /// It joins and leaves this one while it is connected.
    pub flips: Option<String>,
    pub cursor_file: PathBuf,
    pub keeps_cursors: bool,
    pub client: Client,
    /// Handles each message for a moment before it acknowledges.
    pub slow: bool,
    /// Which door it tries first.
    pub first_door: usize,
    pub seed: u64,
}

/// How terminals misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rough {
    /// They read a frame now and then, and much is pushed to them.
    Slow,
    /// They connect and say nothing, or open a session and acknowledge nothing.
    Silent,
    /// They send what is not of the protocol, too much of it, or acknowledge what they were not
    /// sent.
    Malicious,
    /// They connect, open a session, drop the connection, and come again at once.
    Storm,
}

/// Terminals that do not behave. What is pushed to their product is no part of the history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RoughPlan {
    pub how: Rough,
    pub product: Product,
    /// The token of each terminal of the product.
    pub tokens: Vec<String>,
}

/// What is wanted of a load process from now on. The latest counts, so none has to be queued.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// Of each of its terminals, in the order of the plan: whether it is to be online.
    pub online: Vec<bool>,
    /// The back-ends end, after the pushes they have under way.
    pub stop: bool,
    /// A product whose back-end pushes as fast as this, whatever it is answered.
    pub flood: Option<Flood>,
}

/// A flood.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Flood {
    pub product: Product,
    pub pushes_per_s: u32,
}

impl PartialEq for Flood {
    fn eq(&self, other: &Self) -> bool {
        self.product.name == other.product.name && self.pushes_per_s == other.pushes_per_s
    }
}

impl Eq for Flood {}

/// How far a load process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum State {
    /// A terminal, by its place in the plan, is online or has left.
    Online { place: usize, online: bool },
    /// The back-ends have ended.
    Stopped,
    /// How often rough terminals have connected.
    Rough { connected: u64 },
}

/// How a [`State`] begins; records begin otherwise.
pub(super) const STATE_START: &str = "{\"state\":";
