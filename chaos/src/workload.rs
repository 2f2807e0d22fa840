//! The load: back-ends that push, terminals that receive, in processes of their own, and what they
//! tell the history.
//!
//! [`Workload`] is how a run has them. A load process is this program's hidden subcommand `load`,
//! which is [`process::main`].

mod backends;
mod child;
mod doors;
mod flood;
mod payload;
mod plan;
pub mod process;
mod pushers;
mod raw_terminal;
mod rough;
mod sdk_terminal;
mod setup;
mod teller;
mod terminal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clarion_sdk::Backend;
use fastrand::Rng;
use futures_util::future::{select_all, try_join_all};
use tokio::sync::watch;

use crate::Failure;
use crate::history::{History, Name};
use child::LoadProcess;
use plan::{Flood, Part, Plan, Product, RoughPlan, TerminalPlan};
use setup::{Setup, Wish};

pub use child::PROGRAM_VARIABLE;
pub use doors::{Door, Doors, Patience};
pub use payload::{hash, key_of};
pub use plan::Rough;

/// The topic that terminals join by themselves, whenever they connect.
const TOPIC_OWN: &str = "news";
/// The topic that the back-end fills, and takes terminals out of again.
const TOPIC_FILLED: &str = "staff";
/// The topic that terminals join and leave while they are connected.
const TOPIC_FLIPPED: &str = "flash";
/// A user's terminals.
const TERMINALS_PER_USER: usize = 3;
/// Every so manieth terminal connects for the first time in the middle of the run.
const LATE_EVERY: usize = 7;
/// Processes that terminals are spread over.
const TERMINAL_PROCESSES: usize = 2;
/// How long a terminal stays in a topic, or out of it, milliseconds.
const FLIP_MS: std::ops::Range<u64> = 2_000..8_000;
/// The product that floods, and its terminals.
pub(crate) const FLOOD_PRODUCT: &str = "flood";
const FLOOD_TERMINALS: usize = 3;
/// How products of rough terminals begin.
const ROUGH_PRODUCT: &str = "rough";
/// How the names of the other products begin.
const PRODUCT: &str = "product";

/// How large the load is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Products.
    pub products: usize,
    /// Terminals of each.
    pub terminals: usize,
    /// Pushes a second, all pushers together.
    pub pushes_per_s: u32,
    /// Terminals join and leave a topic while they are connected, and back-ends take some out of
    /// another one and put them back.
    pub members_change: bool,
}

/// A terminal: in which process, and where there.
#[derive(Debug, Clone, Copy)]
struct Terminal {
    process: usize,
    place: usize,
    late: bool,
}

/// A running load.
#[derive(Debug)]
pub struct Workload {
    products: Vec<Product>,
    terminals: Vec<Terminal>,
    /// The process of the back-ends, once it runs.
    back_ends: Option<LoadProcess>,
    receivers: Vec<LoadProcess>,
    rough: Vec<LoadProcess>,
    /// The product that floods, once there is one.
    flood: Option<Product>,
    /// Load processes that were started.
    started: usize,
    common: Common,
}

/// What every load process is told.
#[derive(Debug)]
struct Common {
    history: Arc<History>,
    doors: Doors,
    directory: PathBuf,
    seed: u64,
}

impl Workload {
    /// Makes products, topics and terminals, connects all terminals but the late ones, and starts
    /// to push once they are online.
    ///
    /// # Errors
    /// When the node refuses any of it.
    pub async fn start(
        doors: Doors,
        history: Arc<History>,
        size: Size,
        directory: &Path,
        seed: u64,
    ) -> Result<Self, Failure> {
        Self::start_as(PRODUCT, doors, history, size, directory, seed).await
    }

    /// The same with products whose names begin so.
    ///
    /// # Errors
    /// When the node refuses any of it.
    pub async fn start_as(
        names: &str,
        doors: Doors,
        history: Arc<History>,
        size: Size,
        directory: &Path,
        seed: u64,
    ) -> Result<Self, Failure> {
        let mut load = Self {
            products: Vec::new(),
            terminals: Vec::new(),
            back_ends: None,
            receivers: Vec::new(),
            rough: Vec::new(),
            flood: None,
            started: 0,
            common: Common { history, doors, directory: directory.to_owned(), seed },
        };
        let plans = load.make(names, size).await?;
        for process in plans {
            let process = load.launch(Part::Terminals(process)).await?;
            load.receivers.push(process);
        }
        load.set_online(|terminal| !terminal.late);
        load.settled().await?;
        let Size { pushes_per_s, members_change, .. } = size;
        let products = load.products.clone();
        let part = Part::BackEnds { products, pushes_per_s, members_change };
        load.back_ends = Some(load.launch(part).await?);
        Ok(load)
    }

    /// Makes products and their terminals: those of each process.
    async fn make(&mut self, names: &str, size: Size) -> Result<Vec<Vec<TerminalPlan>>, Failure> {
        let Common { history, doors, directory, seed } = &self.common;
        let setup = Setup::new(doors, history)?;
        let mut processes = vec![Vec::new(); TERMINAL_PROCESSES];
        for index in 0..size.products {
            let name = format!("{names}-{index}");
            let wish = Wish { name: &name, terminals: size.terminals, pushes_per_s_max: None };
            let mut product = setup.product(wish).await?;
            for number in 0..size.terminals {
                let index = self.terminals.len();
                let own = (directory.as_path(), *seed);
                let mut plan = setup.terminal(&product, number, index, own).await?;
                if !size.members_change {
                    plan.flips = None;
                }
                let process = index % TERMINAL_PROCESSES;
                let (place, late) = (processes[process].len(), setup::is_late(number));
                processes[process].push(plan);
                self.terminals.push(Terminal { process, place, late });
            }
            setup.fill_topic(&mut product).await?;
            self.products.push(product);
        }
        Ok(processes)
    }

    async fn launch(&mut self, part: Part) -> Result<LoadProcess, Failure> {
        let Common { history, doors, directory, seed } = &self.common;
        let plan = Plan {
            by: format!("load-{}", self.started).into(),
            clock: history.clock(),
            seed: seed ^ (self.started as u64) << 48,
            doors: doors.clone(),
            part,
        };
        self.started += 1;
        LoadProcess::start(&plan, history, directory).await
    }

    /// A back-end of each product, by its name.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn backends(&self) -> Result<Vec<(String, Backend)>, Failure> {
        self.backends_at(self.common.doors.http.first().map_or("", |door| door.url.as_str()))
    }

    /// The same at another node than the first.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn backends_at(&self, http: &str) -> Result<Vec<(String, Backend)>, Failure> {
        let backend = |p: &Product| Ok((p.name.to_string(), setup::backend_at(http, p)?));
        self.products.iter().map(backend).collect()
    }

    /// How many terminals there are.
    #[must_use]
    pub const fn terminals(&self) -> usize {
        self.terminals.len()
    }

    /// The load processes that run, by their names in the history.
    #[must_use]
    pub fn processes(&self) -> Vec<(Name, u32)> {
        let named = |process: &LoadProcess| Some((Name::clone(process.name()), process.pid()?));
        self.all().filter_map(named).collect()
    }

    /// Sends every third terminal away, those whose turn it is in this round; the others stay as
    /// they are.
    pub fn send_away(&self, round: u32) {
        self.change(|index, _| (index % 3 == round as usize % 3).then_some(false));
    }

    /// Brings back who was sent away; from `round` 2 on also the late ones.
    pub fn bring_back(&self, round: u32) {
        self.set_online(|terminal| !terminal.late || round >= 2);
    }

    /// Brings everybody online, for good.
    pub fn all_online(&self) {
        self.set_online(|_| true);
    }

    fn set_online(&self, online: impl Fn(&Terminal) -> bool) {
        self.change(|_, terminal| online(terminal).then_some(true));
    }

    /// Changes what terminals are to be, where there is an answer.
    fn change(&self, online: impl Fn(usize, &Terminal) -> Option<bool>) {
        for (number, process) in self.receivers.iter().enumerate() {
            process.want(|wanted| {
                let terminals = self.terminals.iter().enumerate();
                for (index, terminal) in terminals.filter(|(_, all)| all.process == number) {
                    if let Some(online) = online(index, terminal) {
                        wanted.online[terminal.place] = online;
                    }
                }
            });
        }
    }

    /// Waits until every terminal is what it is to be.
    ///
    /// # Errors
    /// When one of their processes ended instead.
    pub async fn settled(&self) -> Result<(), Failure> {
        let settled = self.receivers.iter().map(LoadProcess::settled);
        try_join_all(settled).await.map(drop)
    }

    /// Ends the pushers, after the pushes they have under way.
    ///
    /// # Errors
    /// When one of them failed.
    pub async fn stop_pushing(&mut self) -> Result<(), Failure> {
        let Some(back_ends) = &self.back_ends else { return Ok(()) };
        back_ends.want(|wanted| wanted.stop = true);
        back_ends.stopped().await
    }

    /// Why a load process ended before it was to.
    pub async fn ended(&mut self) -> Failure {
        let ended: Vec<_> = self.all().map(|process| Box::pin(process.ended())).collect();
        if ended.is_empty() {
            return Failure::new("nobody is left");
        }
        select_all(ended).await.0
    }

    fn all(&self) -> impl Iterator<Item = &LoadProcess> {
        self.back_ends.iter().chain(&self.receivers).chain(&self.rough)
    }

    /// A product floods from now on: it pushes as fast as this, whatever it is answered, and may
    /// push as fast as `allowed_per_s`. Its pushes are part of the history.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn flood(&mut self, pushes_per_s: u32, allowed_per_s: u32) -> Result<(), Failure> {
        let product = match &self.flood {
            Some(product) => product.clone(),
            None => self.make_flood(allowed_per_s).await?,
        };
        if let Some(back_ends) = &self.back_ends {
            back_ends.want(|wanted| wanted.flood = Some(Flood { product, pushes_per_s }));
        }
        Ok(())
    }

    /// It stops; its terminals stay.
    pub fn flood_ends(&self) {
        if let Some(back_ends) = &self.back_ends {
            back_ends.want(|wanted| wanted.flood = None);
        }
    }

    async fn make_flood(&mut self, allowed_per_s: u32) -> Result<Product, Failure> {
        let Common { history, doors, directory, seed } = &self.common;
        let setup = Setup::new(doors, history)?;
        let product = setup
            .product(Wish {
                name: FLOOD_PRODUCT,
                terminals: FLOOD_TERMINALS,
                pushes_per_s_max: Some(allowed_per_s),
            })
            .await?;
        let mut plans = Vec::new();
        for number in 0..FLOOD_TERMINALS {
            let index = self.terminals.len() + number;
            let own = (directory.as_path(), *seed);
            plans.push(setup.terminal(&product, number, index, own).await?);
        }
        let process = self.receivers.len();
        self.terminals.extend((0..plans.len()).map(|place| {
            // Not sent away by its number: a flood is short.
            Terminal { process, place, late: false }
        }));
        let receiver = self.launch(Part::Terminals(plans)).await?;
        receiver.want(|wanted| wanted.online.fill(true));
        receiver.settled().await?;
        self.receivers.push(receiver);
        self.products.push(product.clone());
        self.flood = Some(product.clone());
        Ok(product)
    }

    /// So many terminals of a product of their own misbehave from now on, in a process of their
    /// own. Says how often they have connected, which goes on growing.
    ///
    /// # Errors
    /// When they cannot be made.
    pub async fn rough(
        &mut self,
        how: Rough,
        count: usize,
    ) -> Result<watch::Receiver<u64>, Failure> {
        let name = format!("{ROUGH_PRODUCT}-{}", self.started);
        let setup = Setup::new(&self.common.doors, &self.common.history)?;
        let wish = Wish { name: &name, terminals: count, pushes_per_s_max: None };
        let product = setup.product(wish).await?;
        let mut tokens = Vec::with_capacity(count);
        for terminal in &product.terminals {
            tokens.push(setup.token(&product, terminal, None).await?);
        }
        let part = Part::Rough(RoughPlan { how, product, tokens });
        let process = self.launch(part).await?;
        let connected = process.connected();
        self.rough.push(process);
        Ok(connected)
    }

    /// All terminals that misbehave are gone.
    pub fn rough_ends(&mut self) {
        self.rough.clear();
    }
}

/// Waits for `value`; false when nobody is left to give it.
async fn until(watched: &mut watch::Receiver<bool>, value: bool) -> bool {
    watched.wait_for(|now| *now == value).await.is_ok()
}

fn terminal_name(number: usize) -> String {
    format!("t{number}")
}

fn user_name(number: usize) -> String {
    format!("u{number}")
}

/// The time until the next change of a topic's members.
fn flip_pause(rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.u64(FLIP_MS))
}
