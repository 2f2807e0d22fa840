//! The load: back-ends that push, terminals that receive, and the history of both.

mod doors;
mod payload;
mod pushers;
mod raw_terminal;
mod sdk_terminal;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clarion_protocol::http::{ProductCreate, TokenRequest};
use clarion_protocol::{LogName, ProductId, TerminalId, TopicName, TopicPattern, UserId};
use clarion_sdk::{Admin, Backend};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Failure;
use crate::history::{Client, Event, History, Name};

pub use doors::{Doors, Patience};
pub use payload::{hash, key_of};

/// The topic that terminals join by themselves.
const TOPIC_OWN: &str = "news";
/// The topic that the back-end fills.
const TOPIC_FILLED: &str = "staff";
/// A user's terminals.
const TERMINALS_PER_USER: usize = 3;
/// Every so manieth terminal connects for the first time in the middle of the run.
const LATE_EVERY: usize = 7;

/// How large the load is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Products.
    pub products: usize,
    /// Terminals of each.
    pub terminals: usize,
    /// Pushes a second, all pushers together.
    pub pushes_per_s: u32,
}

/// A product, and what its back-end needs.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    name: String,
    key: String,
    secret: String,
    terminals: Vec<String>,
    users: Vec<String>,
    topics: Vec<String>,
}

/// One terminal, and whether it is to be online.
#[derive(Debug)]
pub struct Terminal {
    who: Name,
    online: watch::Sender<bool>,
    /// What it is now: set to true before it connects, to false once it has left.
    is_online: watch::Receiver<bool>,
    late: bool,
}

/// What a terminal's task needs.
pub(crate) struct TerminalTask {
    who: Name,
    product: String,
    doors: Arc<Doors>,
    /// Which door it tries first.
    first_door: usize,
    token: String,
    topics: Vec<String>,
    cursor_file: PathBuf,
    wanted: watch::Receiver<bool>,
    is_online: watch::Sender<bool>,
    history: Arc<History>,
    seed: u64,
    /// Handles each message for a moment before it acknowledges.
    slow: bool,
    client: Client,
}

/// A running load.
#[derive(Debug)]
pub struct Workload {
    products: Vec<Product>,
    terminals: Vec<Terminal>,
    history: Arc<History>,
    doors: Arc<Doors>,
    stop: watch::Sender<bool>,
    pushers: JoinSet<Result<(), Failure>>,
    clients: JoinSet<Result<(), Failure>>,
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
        let first = doors.http.first().map_or("", String::as_str);
        let admin = Admin::new(first, &doors.admin_token)
            .map_err(Failure::of("cannot make the administrator"))?;
        let mut load = Self {
            products: Vec::new(),
            terminals: Vec::new(),
            history,
            doors: Arc::new(doors),
            stop: watch::Sender::new(false),
            pushers: JoinSet::new(),
            clients: JoinSet::new(),
        };
        for index in 0..size.products {
            let product = load.product(&admin, &format!("product-{index}"), size).await?;
            for number in 0..size.terminals {
                load.terminal(&admin, &product, number, directory, seed).await?;
            }
            load.fill_topic(&product).await?;
            load.products.push(product);
        }
        load.set_online(|terminal| !terminal.late);
        load.settled().await?;
        load.push(size, seed)?;
        Ok(load)
    }

    async fn product(&self, admin: &Admin, name: &str, size: Size) -> Result<Product, Failure> {
        let product = ProductId::new(name).map_err(Failure::of("the product"))?;
        let create = ProductCreate {
            product,
            kinds: None,
            allow_sha1_body_hash: None,
            pushes_per_s_max: None,
            isolation_group: None,
            token_public_key_pem: None,
        };
        let info = admin.create_product(&create).await;
        let info = info.map_err(Failure::of("cannot create a product"))?;
        let key = info.api_keys.into_iter().next();
        let key = key.ok_or_else(|| Failure::new("the product has no key"))?;
        let users = size.terminals.div_ceil(TERMINALS_PER_USER);
        Ok(Product {
            name: name.to_owned(),
            key: key.key.to_string(),
            secret: key.secret.unwrap_or_default(),
            terminals: (0..size.terminals).map(terminal_name).collect(),
            users: (0..users).map(user_name).collect(),
            topics: vec![TOPIC_OWN.to_owned(), TOPIC_FILLED.to_owned()],
        })
    }

    async fn terminal(
        &mut self,
        admin: &Admin,
        product: &Product,
        number: usize,
        directory: &Path,
        seed: u64,
    ) -> Result<(), Failure> {
        let name = terminal_name(number);
        let user = user_name(number / TERMINALS_PER_USER);
        // Two of four have the SDK, one of those is slow.
        let client = match number % 4 {
            0 | 1 => Client::Sdk,
            2 => Client::RawCursors,
            _ => Client::RawPlain,
        };
        let bad = Failure::of::<clarion_protocol::IdError>;
        let request = TokenRequest {
            terminal: TerminalId::new(&name).map_err(bad("the terminal"))?,
            user: Some(UserId::new(&user).map_err(bad("the user"))?),
            kind: None,
            topics: vec![TopicPattern::new(TOPIC_OWN).map_err(bad("the topic"))?],
            ttl_s: Some(30 * 24 * 3600),
        };
        let id = ProductId::new(&product.name).map_err(bad("the product"))?;
        let minted = admin.mint_token(&id, &request).await;
        let minted = minted.map_err(Failure::of("cannot make a token"))?;
        let who: Name = format!("{}/{name}", product.name).into();
        let (online, wanted) = watch::channel(false);
        let (is, is_online) = watch::channel(false);
        let late = number % LATE_EVERY == LATE_EVERY - 1;
        self.history.add(Event::Terminal { who: who.clone(), user: Some(user), client });
        let task = TerminalTask {
            who: who.clone(),
            product: product.name.clone(),
            doors: Arc::clone(&self.doors),
            first_door: self.terminals.len(),
            token: minted.token,
            topics: if number.is_multiple_of(2) { vec![TOPIC_OWN.to_owned()] } else { Vec::new() },
            cursor_file: directory.join(format!("{}-{name}.cursors", product.name)),
            wanted,
            is_online: is,
            history: Arc::clone(&self.history),
            seed: seed ^ (self.terminals.len() as u64) << 32,
            slow: number % 4 == 1,
            client,
        };
        match client {
            Client::Sdk => self.clients.spawn(sdk_terminal::run(task)),
            Client::RawCursors | Client::RawPlain => self.clients.spawn(raw_terminal::run(task)),
        };
        self.terminals.push(Terminal { who, online, is_online, late });
        Ok(())
    }

    /// The back-end puts every third terminal into its topic, whether it ever connected or not.
    async fn fill_topic(&self, product: &Product) -> Result<(), Failure> {
        let topic = TopicName::new(TOPIC_FILLED).map_err(Failure::of("the topic"))?;
        let log = LogName::Topic(topic.clone());
        let names: Vec<_> = product.terminals.iter().step_by(3).collect();
        let who = |name: &str| Name::from(format!("{}/{name}", product.name));
        for name in &names {
            self.history.add(Event::Joining { who: who(name), log: log.clone() });
        }
        let ids = names.iter().map(|name| TerminalId::new(name)).collect::<Result<Vec<_>, _>>();
        let ids = ids.map_err(Failure::of("a terminal"))?;
        let outcomes = self.backend(product)?.put_members(&topic, ids).await;
        let outcomes = outcomes.map_err(Failure::of("cannot fill a topic"))?;
        if outcomes.iter().any(|outcome| !outcome.member) {
            return Err(Failure::new("a terminal was not put into a topic"));
        }
        for name in &names {
            self.history.add(Event::Joined { who: who(name), log: log.clone() });
        }
        Ok(())
    }

    fn push(&mut self, size: Size, seed: u64) -> Result<(), Failure> {
        for (index, product) in self.products.iter().enumerate() {
            let common = pushers::Common {
                product: product.clone(),
                doors: Arc::clone(&self.doors),
                history: Arc::clone(&self.history),
                stop: self.stop.subscribe(),
                every: pushers::pace(size.pushes_per_s, self.products.len()),
                seed: seed ^ index as u64,
            };
            pushers::start(common, &mut self.pushers)?;
        }
        Ok(())
    }

    fn backend(&self, product: &Product) -> Result<Backend, Failure> {
        let first = self.doors.http.first().map_or("", String::as_str);
        Self::backend_at(first, product)
    }

    fn backend_at(http: &str, product: &Product) -> Result<Backend, Failure> {
        Backend::builder(http, &product.name, &product.key, &product.secret)
            .build()
            .map_err(Failure::of("cannot make a back-end"))
    }

    /// A back-end of each product, by its name.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn backends(&self) -> Result<Vec<(String, Backend)>, Failure> {
        self.backends_at(self.doors.http.first().map_or("", String::as_str))
    }

    /// The same at another node than the first.
    ///
    /// # Errors
    /// When a client cannot be made.
    pub fn backends_at(&self, http: &str) -> Result<Vec<(String, Backend)>, Failure> {
        let products = self.products.iter();
        products.map(|p| Ok((p.name.clone(), Self::backend_at(http, p)?))).collect()
    }

    /// How many terminals there are.
    #[must_use]
    pub const fn terminals(&self) -> usize {
        self.terminals.len()
    }

    /// Sends every third terminal away, those whose turn it is in this round; the others stay as
    /// they are.
    pub fn send_away(&self, round: u32) {
        for (index, terminal) in self.terminals.iter().enumerate() {
            if index % 3 == round as usize % 3 {
                terminal.online.send_replace(false);
            }
        }
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
        for terminal in &self.terminals {
            if online(terminal) {
                terminal.online.send_replace(true);
            }
        }
    }

    /// Waits until every terminal is what it is to be.
    ///
    /// # Errors
    /// When one of them ended instead.
    pub async fn settled(&self) -> Result<(), Failure> {
        for terminal in &self.terminals {
            let wanted = *terminal.online.borrow();
            let mut is_online = terminal.is_online.clone();
            if is_online.wait_for(|is| *is == wanted).await.is_err() {
                return Err(Failure::new(format!("terminal {} ended", terminal.who)));
            }
        }
        Ok(())
    }

    /// Ends the pushers, after the pushes they have under way.
    ///
    /// # Errors
    /// When one of them failed.
    pub async fn stop_pushing(&mut self) -> Result<(), Failure> {
        self.stop.send_replace(true);
        while let Some(ended) = self.pushers.join_next().await {
            ended.map_err(Failure::of("a pusher"))??;
        }
        Ok(())
    }

    /// Why a client or pusher ended before it was to.
    pub async fn ended(&mut self) -> Failure {
        let ended = tokio::select! {
            Some(ended) = self.pushers.join_next() => ended,
            Some(ended) = self.clients.join_next() => ended,
            else => return Failure::new("nobody is left"),
        };
        match ended {
            Ok(Ok(())) => Failure::new("a client or pusher ended by itself"),
            Ok(Err(failure)) => failure,
            Err(error) => Failure::new(format!("a client or pusher: {error}")),
        }
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
