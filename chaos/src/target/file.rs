//! What somebody allows to be done to a cluster. `example.toml` has every key.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::Misuse;
use crate::fault::{Act, Cut, Fault};
use crate::workload::{Door, Doors, Patience, Size};
use crate::world::Component;

/// A minute, and a day: what limits may be.
const MINUTES_MAX: f64 = 24.0 * 60.0;

/// See the module.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetFile {
    /// Which cluster.
    pub cluster: ClusterPart,
    /// Where pushes and terminals go.
    pub doors: Vec<DoorPart>,
    /// The load.
    #[serde(default)]
    pub load: Load,
    /// The blast radius.
    pub limits: Limits,
    /// What may be done at all.
    pub faults: Allowed,
    /// What may be broken, and how.
    pub components: Vec<ComponentPart>,
}

/// Which cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterPart {
    /// Its name.
    pub name: String,
    /// The variable that holds the administrator's token...
    pub admin_token_env: Option<String>,
    /// ...or the file.
    pub admin_token_file: Option<PathBuf>,
    /// The longest heartbeat that terminals are told.
    #[serde(default = "heartbeat_ms")]
    pub heartbeat_ms: u64,
    /// Messages of a log that a session may have unacknowledged.
    #[serde(default = "window")]
    pub window: u32,
}

/// A node or a proxy, as clients have it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoorPart {
    /// Its name in the history.
    pub name: String,
    /// Its API, if it takes pushes.
    pub http: Option<String>,
    /// Its listener for terminals, if it has one.
    pub terminals: Option<String>,
}

/// The load.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    /// How the names of its products begin.
    pub prefix: String,
    /// Products.
    pub products: usize,
    /// Terminals of each.
    pub terminals: usize,
    /// Pushes a second.
    pub pushes_per_s: u32,
    /// Pushes before anything is broken.
    pub warm_up: u64,
}

/// The blast radius.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// How long things may be broken, all in all.
    pub minutes: f64,
    /// Components at a time.
    pub broken_at_once: usize,
    /// Seconds a component may be broken.
    #[serde(default = "broken_s")]
    pub broken_s: u64,
    /// Components that are not touched.
    #[serde(default)]
    pub never: Vec<String>,
    /// Pushes a second, bursts included.
    pub pushes_per_s: u32,
    /// Terminals of all products.
    pub terminals: usize,
    /// Seconds that a command may take.
    #[serde(default = "command_timeout_s")]
    pub command_timeout_s: u64,
    /// Seconds until all is whole after a mend.
    #[serde(default = "whole_timeout_s")]
    pub whole_timeout_s: u64,
}

/// What may be done at all.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// These.
    pub allow: BTreeSet<Kind>,
}

/// What is done to a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// SIGKILL.
    Killed,
    /// SIGSTOP.
    Hung,
    /// Nothing passes.
    CutOff,
    /// Ended and started again.
    Restarted,
}

/// A component, and what may be done to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentPart {
    /// Its name.
    pub name: String,
    /// How it is killed...
    pub killed: Option<Commands>,
    /// ...hung...
    pub hung: Option<Commands>,
    /// ...cut off...
    pub cut_off: Option<Commands>,
    /// ...restarted.
    pub restarted: Option<Commands>,
    /// Succeeds when it is whole.
    pub check: Option<Vec<String>>,
}

/// A fault, as commands.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commands {
    /// Makes it.
    #[serde(rename = "break")]
    pub make: Vec<String>,
    /// Mends it; a restart has none.
    pub mend: Option<Vec<String>>,
    /// Seconds that it lasts.
    pub for_s: Option<u64>,
}

const fn heartbeat_ms() -> u64 {
    600_000
}
const fn window() -> u32 {
    64
}
const fn broken_s() -> u64 {
    20
}
const fn command_timeout_s() -> u64 {
    30
}
const fn whole_timeout_s() -> u64 {
    120
}

impl Default for Load {
    fn default() -> Self {
        Self {
            prefix: "chaos".to_owned(),
            products: 2,
            terminals: 12,
            pushes_per_s: 50,
            warm_up: 500,
        }
    }
}

impl Kind {
    /// All, in the order in which they are made.
    pub const ALL: [Self; 4] = [Self::Killed, Self::Hung, Self::CutOff, Self::Restarted];

    /// What it is called in every run.
    #[must_use]
    pub const fn act(self) -> Act {
        match self {
            Self::Killed => Act::Kill,
            Self::Hung => Act::Hang,
            Self::CutOff => Act::CutOff(Cut::Both),
            Self::Restarted => Act::Restart,
        }
    }

    /// Its name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.act().kind()
    }
}

impl ComponentPart {
    /// The commands of a fault.
    #[must_use]
    pub const fn commands(&self, kind: Kind) -> Option<&Commands> {
        match kind {
            Kind::Killed => self.killed.as_ref(),
            Kind::Hung => self.hung.as_ref(),
            Kind::CutOff => self.cut_off.as_ref(),
            Kind::Restarted => self.restarted.as_ref(),
        }
    }

    /// The fault of a run that it is.
    #[must_use]
    pub fn fault(&self, kind: Kind) -> Option<Fault> {
        let component: Component = self.name.parse().ok()?;
        Some(Fault::new(component, kind.act()))
    }
}

impl TargetFile {
    /// Reads a file and looks whether it can be meant.
    ///
    /// # Errors
    /// When it cannot.
    pub fn read(path: &Path) -> Result<Self, Misuse> {
        let name = path.display();
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| Misuse::File(format!("{name}: {error}")))?;
        Self::parse(&text)
    }

    /// The same of its text.
    ///
    /// # Errors
    /// When it cannot be meant.
    pub fn parse(text: &str) -> Result<Self, Misuse> {
        let file: Self =
            toml::from_str(text).map_err(|error| Misuse::File(error.to_string().trim().into()))?;
        file.limits_are_limits()?;
        file.load_is_within()?;
        file.doors_are_doors()?;
        file.components_are_known()?;
        Ok(file)
    }

    fn limits_are_limits(&self) -> Result<(), Misuse> {
        let Limits { minutes, broken_at_once, broken_s, command_timeout_s, .. } = self.limits;
        let wrong = |what: String| Err(Misuse::Limit(format!("limits.{what}")));
        if !(minutes > 0.0 && minutes <= MINUTES_MAX) {
            return wrong(format!("minutes is {minutes}: more than 0 and at most {MINUTES_MAX}"));
        }
        if broken_at_once == 0 || broken_at_once >= self.components.len().max(2) {
            let count = self.components.len();
            return wrong(format!(
                "broken_at_once is {broken_at_once}: at least 1, and fewer than the {count} components"
            ));
        }
        if broken_s == 0 || command_timeout_s == 0 {
            return wrong("broken_s and limits.command_timeout_s must be at least 1".to_owned());
        }
        Ok(())
    }

    fn load_is_within(&self) -> Result<(), Misuse> {
        let (load, limits) = (&self.load, &self.limits);
        let too_much = |what: String| Err(Misuse::TooMuchLoad(what));
        let terminals = load.products.saturating_mul(load.terminals);
        if terminals > limits.terminals || terminals == 0 {
            let most = limits.terminals;
            return too_much(format!("{terminals} terminals are asked for: 1 to {most} may be"));
        }
        let (mean, most) = (load.pushes_per_s, limits.pushes_per_s);
        let bursts = u64::from(mean) * 7 / 4;
        if mean == 0 || bursts > u64::from(most) {
            return too_much(format!(
                "{mean} pushes a second are {bursts} in bursts: 1 to {most} may be"
            ));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if load.prefix.is_empty() || load.prefix.len() > 32 || !load.prefix.chars().all(fits) {
            let prefix = &load.prefix;
            return too_much(format!("load.prefix is {prefix:?}: 1 to 32 letters, digits, `-`"));
        }
        Ok(())
    }

    fn doors_are_doors(&self) -> Result<(), Misuse> {
        let wrong = |what: String| Err(Misuse::Door(what));
        for DoorPart { name, http, terminals } in &self.doors {
            for (url, schemes) in [(http, ["http", "https"]), (terminals, ["ws", "wss"])] {
                let Some(url) = url else { continue };
                let is = Url::parse(url).is_ok_and(|url| schemes.contains(&url.scheme()));
                if !is {
                    return wrong(format!("{name}: {url:?} is no URL of {}", schemes.join(" or ")));
                }
            }
        }
        match (self.http().next(), self.terminals().next()) {
            (None, _) => wrong("no door has `http`: pushes go nowhere".to_owned()),
            (_, None) => wrong("no door has `terminals`: they have nowhere to go".to_owned()),
            _ => Ok(()),
        }
    }

    fn components_are_known(&self) -> Result<(), Misuse> {
        let mut names = BTreeSet::new();
        for part in &self.components {
            let name = &part.name;
            if name.parse::<Component>().is_err() {
                return Err(Misuse::Component(format!(
                    "{name:?} is no component: node:NAME, redis:SHARD/INDEX, sentinel:N, proxy:N or \
                     link:FROM>TO"
                )));
            }
            if !names.insert(name.as_str()) {
                return Err(Misuse::Component(format!("{name} is there twice")));
            }
            for kind in Kind::ALL {
                if let Some(commands) = part.commands(kind) {
                    commands
                        .can_be_made(kind, self.limits.broken_s)
                        .map_err(|what| Misuse::Fault(format!("{name} {}: {what}", kind.name())))?;
                }
            }
        }
        let unknown = self.limits.never.iter().find(|name| !names.contains(name.as_str()));
        match unknown {
            // Somebody means to protect what has another name here.
            Some(name) => Err(Misuse::Component(format!(
                "limits.never has {name}, which is no component here"
            ))),
            None => Ok(()),
        }
    }

    /// That this cluster is meant.
    ///
    /// # Errors
    /// When it is not.
    pub fn confirmed(&self, said: Option<&str>) -> Result<(), Misuse> {
        let name = &self.cluster.name;
        if said == Some(name.as_str()) {
            return Ok(());
        }
        Err(Misuse::NotConfirmed { name: name.clone(), said: said.map(str::to_owned) })
    }

    /// The administrator's token.
    ///
    /// # Errors
    /// When there is none.
    pub fn admin_token(&self) -> Result<String, Misuse> {
        let token = match (&self.cluster.admin_token_env, &self.cluster.admin_token_file) {
            (Some(variable), None) => std::env::var(variable)
                .map_err(|_| Misuse::NoToken(format!("the variable {variable} is not set"))),
            (None, Some(file)) => std::fs::read_to_string(file)
                .map_err(|error| Misuse::NoToken(format!("{}: {error}", file.display()))),
            _ => Err(Misuse::NoToken(
                "one of cluster.admin_token_env and cluster.admin_token_file is needed".to_owned(),
            )),
        };
        let token = token?.trim().to_owned();
        if token.is_empty() {
            return Err(Misuse::NoToken("it is empty".to_owned()));
        }
        Ok(token)
    }

    fn http(&self) -> impl Iterator<Item = Door> {
        let door = |door: &DoorPart| Some(Door::new(&*door.name, door.http.as_deref()?));
        self.doors.iter().filter_map(door)
    }

    fn terminals(&self) -> impl Iterator<Item = Door> {
        let door = |door: &DoorPart| Some(Door::new(&*door.name, door.terminals.as_deref()?));
        self.doors.iter().filter_map(door)
    }

    /// Where the load goes.
    #[must_use]
    pub fn doors(&self, admin_token: &str) -> Doors {
        let (http, terminals): (Vec<_>, Vec<_>) =
            (self.http().collect(), self.terminals().collect());
        let several = http.len() > 1 && terminals.len() > 1;
        let patience = if several { Patience::SEVERAL_NODES } else { Patience::ONE_NODE };
        Doors { http, terminals, admin_token: admin_token.to_owned(), patience }
    }

    /// How large the load is.
    #[must_use]
    pub const fn size(&self) -> Size {
        let Load { products, terminals, pushes_per_s, .. } = self.load;
        Size { products, terminals, pushes_per_s, members_change: false }
    }

    /// How long a command may take.
    #[must_use]
    pub const fn command_timeout(&self) -> Duration {
        Duration::from_secs(self.limits.command_timeout_s)
    }
}

impl Commands {
    fn can_be_made(&self, kind: Kind, broken_s: u64) -> Result<(), String> {
        let empty = |words: &Vec<String>| words.first().is_none_or(String::is_empty);
        if empty(&self.make) || self.mend.as_ref().is_some_and(empty) {
            return Err("a command without words".to_owned());
        }
        if self.mend.is_none() && kind != Kind::Restarted {
            return Err("there is no `mend`: it would stay so".to_owned());
        }
        match self.for_s {
            Some(for_s) if for_s > broken_s => {
                Err(format!("for_s is {for_s}: limits.broken_s allows {broken_s}"))
            }
            _ => Ok(()),
        }
    }
}
