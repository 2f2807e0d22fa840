//! Many terminals with the SDK that look for access points themselves, on a cluster of real
//! processes; what they were given is kept in memory.
#![allow(dead_code, reason = "no test uses all of it")]

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clarion_chaos::binary;
use clarion_launch::{Cluster, LaunchError, Node, Profile, Up, wait};
use clarion_protocol::http::{ProductCreate, TokenRequest};
use clarion_protocol::{ProductId, TerminalId};
use clarion_sdk::terminal::Why;
use clarion_sdk::transport::{Connector, Tcp};
use clarion_sdk::{Admin, Backend, Event, Push, Terminal};
use futures_util::{StreamExt as _, stream};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::scenes::OrTold as _;

/// How long anything that is waited for may take.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// Tokens that are asked for at the same time.
const TOKENS_AT_ONCE: usize = 8;
/// Terminals that share an address: nodes bound what one address may ask and hold.
const PER_ADDRESS: usize = 20;
const PRODUCT: &str = "swarm";

/// A cluster of this profile with these sections in the config of all nodes.
pub async fn cluster(profile: &str, common: &str) -> (Cluster, TempDir) {
    let directory = TempDir::with_prefix("clarion-swarm-").unwrap();
    let profiles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-config/profiles");
    let mut profile = Profile::load(&profiles.join(format!("{profile}.toml"))).or_told();
    profile.add_common(&clarion_launch::cluster::sections(common).or_told());
    let program = binary::provide(false, directory.path()).or_told();
    let mut up = Up::new(&directory.path().join("cluster"), &program);
    up.first_port = Some(0);
    (Cluster::up(&profile, up).await.or_told(), directory)
}

/// What became of a terminal.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Where its session is now.
    pub node: Option<String>,
    /// Sessions so far.
    pub sessions: u32,
    /// Why it lost a link, or could not make one.
    pub lost: Vec<Why>,
    /// What it was given, and how often.
    pub given: BTreeMap<String, u32>,
    /// What must not happen to it: a gap, an end for good.
    pub trouble: Option<String>,
}

/// Where terminals connect.
#[derive(Debug, Clone)]
pub enum At {
    /// To what these APIs list.
    Listed(Vec<String>),
    /// Always there.
    Fixed(String),
}

/// See the module.
pub struct Swarm {
    admin: Admin,
    key: (String, String),
    seen: Arc<Mutex<Vec<Seen>>>,
    // Terminals end when these do.
    clients: JoinSet<()>,
}

impl Swarm {
    /// No terminals yet; the product is made at this node.
    pub async fn new(node: &Node) -> Self {
        let admin = Admin::new(&node.http_url(), node.admin_token()).unwrap();
        let create = ProductCreate {
            product: ProductId::new(PRODUCT).unwrap(),
            kinds: None,
            allow_sha1_body_hash: None,
            pushes_per_s_max: None,
            isolation_group: None,
            token_public_key_pem: None,
        };
        let made = admin.create_product(&create).await.or_told();
        let key = made.api_keys.into_iter().next().unwrap();
        let key = (key.key.to_string(), key.secret.unwrap());
        Self { admin, key, seen: Arc::default(), clients: JoinSet::new() }
    }

    /// The name of the n-th terminal.
    pub fn name(n: usize) -> String {
        format!("t{n}")
    }

    pub async fn token(&self, terminal: &str) -> String {
        let request = TokenRequest {
            terminal: TerminalId::new(terminal).unwrap(),
            user: None,
            kind: None,
            topics: Vec::new(),
            ttl_s: None,
        };
        self.admin.mint_token(&ProductId::new(PRODUCT).unwrap(), &request).await.or_told().token
    }

    /// Starts so many more terminals; their numbers.
    pub async fn add(&mut self, count: usize, at: &At) -> Vec<usize> {
        let first = self.all(<[Seen]>::len);
        let numbers: Vec<usize> = (first..first + count).collect();
        self.seen.lock().unwrap().resize(first + count, Seen::default());
        let tokens = stream::iter(&numbers).map(async |n| self.token(&Self::name(*n)).await);
        let tokens: Vec<String> = tokens.buffered(TOKENS_AT_ONCE).collect().await;
        let mut connectors: HashMap<usize, Arc<dyn Connector>> = HashMap::new();
        for (n, token) in numbers.iter().copied().zip(tokens) {
            let connector = connectors.entry(n / PER_ADDRESS).or_insert_with(|| connector(n));
            let builder = match at {
                At::Fixed(url) => Terminal::builder(url, PRODUCT, token),
                At::Listed(urls) => {
                    let mut urls = urls.iter().cycle().skip(n % urls.len()).take(urls.len());
                    let first = urls.next().unwrap();
                    let builder = Terminal::discovering(first, PRODUCT, token);
                    urls.fold(builder, |builder, url| builder.gateways_url(url))
                }
            };
            let builder = builder.shared_connector(Arc::clone(connector));
            let seen = Arc::clone(&self.seen);
            self.clients.spawn(async move {
                let (_handle, mut events) = builder.connect().await.or_told();
                while let Some(event) = events.next().await {
                    seen.lock().unwrap()[n].take(event);
                }
            });
        }
        numbers
    }

    /// Looks at all of them.
    pub fn all<T>(&self, look: impl FnOnce(&[Seen]) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// Waits until `content` says of none of these terminals what is missing.
    pub async fn wait(&self, what: &str, of: &[usize], content: impl Fn(&Seen) -> bool) {
        let waited = wait::until(what, DEADLINE, async || {
            self.all(|all| {
                let trouble = all.iter().find(|seen| seen.trouble.is_some());
                assert!(trouble.is_none(), "{trouble:?}");
                let mut rest = of.iter().filter(|n| !content(&all[**n]));
                let Some(one) = rest.next() else { return Ok(()) };
                let more = rest.count();
                Err(LaunchError::new(format!("{:?} and {more} more", all[*one])))
            })
        });
        waited.await.or_told();
    }

    /// The terminals that are on this node now.
    pub fn on(&self, node: &str) -> Vec<usize> {
        let is = |seen: &Seen| seen.node.as_deref() == Some(node);
        self.all(|all| (0..all.len()).filter(|n| is(&all[*n])).collect())
    }

    pub async fn push_to_all(&self, node: &Node, text: &str) {
        self.backend(node).push(Push::to_all().json(text).unwrap()).await.or_told();
    }

    /// The same message to each of them alone.
    pub async fn push_to_each(&self, node: &Node, of: &[usize], text: &str) {
        for some in of.chunks(100) {
            let names = some.iter().map(|n| Self::name(*n));
            let push = Push::to_terminals(names).json(text).unwrap();
            let accepted = self.backend(node).push(push).await.or_told();
            assert!(accepted.targets.iter().all(|one| one.error.is_none()), "{accepted:?}");
        }
    }

    fn backend(&self, node: &Node) -> Backend {
        let (key, secret) = &self.key;
        Backend::builder(&node.http_url(), PRODUCT, key, secret).build().unwrap()
    }
}

impl Seen {
    fn take(&mut self, event: Event) {
        match event {
            Event::Opened(opened) => {
                self.node = Some(opened.node);
                self.sessions += 1;
            }
            Event::Disconnected { why, .. } => {
                self.node = None;
                self.lost.push(why);
            }
            Event::Message(message) => {
                let text: String = message.json().unwrap();
                *self.given.entry(text).or_default() += 1;
                message.ack();
            }
            trouble @ (Event::Gap(_) | Event::Closed(_)) => {
                self.trouble = Some(format!("{trouble:?}"));
            }
            _ => {}
        }
    }
}

fn connector(n: usize) -> Arc<dyn Connector> {
    let n = u16::try_from(n / PER_ADDRESS).unwrap();
    let [high, low] = n.to_be_bytes();
    let address = Ipv4Addr::new(127, 3, high, low.max(1));
    Arc::new(Tcp::new().unwrap().from_address(IpAddr::V4(address)))
}

/// All samples of a node's metrics, by name and labels as they stand on the page.
pub async fn samples(node: &Node) -> BTreeMap<String, f64> {
    let page = node.get("/metrics").await.or_told().body;
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// How much more is counted under a name (with some labels) than before.
pub fn more(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>, name: &str) -> f64 {
    let sum = |of: &BTreeMap<String, f64>| -> f64 {
        let is = |sample: &str| sample == name || sample.starts_with(&format!("{name}{{"));
        of.iter().filter(|(sample, _)| is(sample)).map(|(_, value)| value).sum()
    };
    sum(now) - sum(before)
}
