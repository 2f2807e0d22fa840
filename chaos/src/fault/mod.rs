//! What a run breaks, and how it mends it. A [`Fault`] is a component and what is done to it;
//! [`Run::begin`](crate::run::Run::begin) does it and [`Run::mend`](crate::run::Run::mend) takes the
//! hand off again. What this machine cannot do is skipped by name, never silently.

mod break_it;
mod expects;
mod members;
mod network;
pub mod proxy;
mod redis;
mod squeeze;

use std::fmt::{self, Display};
use std::time::Duration;

use crate::interruption::Expects;
use crate::workload::{FLOOD_PRODUCT, Rough};
use crate::world::Component;
pub use expects::{Redis, expects};
pub use proxy::{Damage, How, Proxy, Weather};

use members::Twin;
use network::{Cuts, Detour};
use squeeze::{Limited, Slowed};

/// What is done to a component.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// SIGKILL; started again when it is mended.
    Kill,
    /// SIGSTOP, SIGCONT when it is mended: it wakes with everything it had in its hands.
    Hang,
    /// Ended in good order; started again when it is mended.
    Stop,
    /// SIGKILL and started again at once.
    Restart,
    /// A node: it hangs, another process starts under its name and place, then the old one wakes.
    Twin,
    /// Packets are swallowed; whoever sends them learns nothing.
    CutOff(Cut),
    /// So many packets of a hundred are lost.
    Loss {
        /// Of a hundred.
        percent: u8,
    },
    /// Fewer bytes pass.
    Narrow {
        /// Bytes a second.
        bytes_per_s: u32,
    },
    /// What a node sends another through its peer link comes late, or damaged.
    Weather(Weather),
    /// Its wall clock says something else.
    Clock {
        /// Seconds forward, or back.
        step_s: i64,
    },
    /// Its data directory takes nothing more.
    DiskFull,
    /// Its data directory cannot be written.
    DiskReadOnly,
    /// It can open no more files and connections than it has.
    Descriptors,
    /// It gets no more memory than this besides what it has.
    Memory {
        /// MiB.
        more_mib: u64,
    },
    /// It runs for this part of the time only.
    Cpu {
        /// Of a hundred.
        percent: u8,
    },
    /// Its actors panic: the value of `CLARION_FAULTS`.
    Panics {
        /// `POINT=N` for the next N visits, `POINT=N%` for so many of a hundred; with commas.
        points: String,
    },
    /// Clients that do as they should not, at all nodes.
    Crowd(Crowd),
    /// A Redis server takes no writes.
    RedisReadOnly,
    /// A Redis server is killed and comes back without its data, before anybody could take its place:
    /// outside the fault model. Its last backup is put back when it is mended.
    RedisEmptied,
    /// A node with its own store is killed, and an older copy of its data is put back when it is mended:
    /// outside the fault model.
    SetBack,
    /// A node more joins; it leaves when it is mended.
    Grow,
    /// A node leaves in good order, for good.
    Shrink,
    /// A node is ended in good order and comes back as the next release.
    Upgrade,
}

/// In which direction nothing passes. A node that is cut off from all has no other side: `In` is what
/// it hears, `Out` what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Neither.
    Both,
    /// To the component; of a link, to its second end.
    In,
    /// From the component; of a link, from its second end.
    Out,
    /// Both, for a moment, again and again.
    Flapping {
        /// Milliseconds of each state.
        every_ms: u64,
    },
    /// A node and the other nodes only: clients and Redis reach it.
    Partial,
    /// What the component sends, or the first end of a link, waits, and is sent when the way is open
    /// again.
    Held,
}

/// Who comes to bother the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowd {
    /// A product that pushes as fast as it can.
    Flood,
    /// Terminals that do not behave.
    Rough(Rough),
}

/// What an act needs of the machine or the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// Network namespaces: root.
    Namespaces,
    /// A command, and the Debian package that brings it.
    Command(&'static str, &'static str),
    /// The program with the feature `fault-hooks`.
    FaultHooks,
    /// Mounting: root.
    Mount,
}

impl Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespaces => f.write_str("network namespaces (root)"),
            Self::Command(command, package) => write!(f, "`{command}` (Debian: {package})"),
            Self::FaultHooks => f.write_str("the program with the feature `fault-hooks`"),
            Self::Mount => f.write_str("mounting (root)"),
        }
    }
}

/// Something that is broken now, and how to mend it.
#[derive(Debug)]
#[must_use = "it stays broken"]
pub struct Broken {
    pub(crate) n: u32,
    pub(crate) fault: Fault,
    pub(crate) expects: Expects,
    pub(crate) undo: Undo,
    /// Pushes that were accepted before.
    pub(crate) accepted_before: u64,
}

/// How to take the hand off again.
#[derive(Debug)]
pub(crate) enum Undo {
    /// It is over already.
    Nothing,
    /// It is started again.
    Start,
    /// It goes on.
    Wake,
    /// The old one wakes, then the other one goes.
    Twin(Box<Twin>),
    /// The ways are opened.
    Open(Cuts),
    /// What goes the long way goes the short one again.
    Detour(Box<Detour>),
    /// No packets are lost.
    Keep,
    /// The way is as wide as before.
    Widen,
    /// Its clock is right again.
    SetClock,
    /// Its disk has room again and is repaired, and it is started again.
    Disk,
    /// The limit is lifted.
    Lift(Limited),
    /// It runs all the time.
    Run(Slowed),
    /// It is started again without faults of its own.
    Disarm,
    /// The crowd goes home.
    Disperse,
    /// It takes writes.
    TakeWrites,
    /// The last backup is put back.
    PutBack,
    /// The node leaves.
    Leave,
}

/// A component and what is done to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The component.
    pub on: Component,
    /// What is done.
    pub act: Act,
}

impl Fault {
    /// This is done to the component.
    #[must_use]
    pub const fn new(on: Component, act: Act) -> Self {
        Self { on, act }
    }

    /// A node is killed.
    #[must_use]
    pub fn kill(node: &str) -> Self {
        Self::new(Component::Node(node.to_owned()), Act::Kill)
    }

    /// A node hangs.
    #[must_use]
    pub fn hang(node: &str) -> Self {
        Self::new(Component::Node(node.to_owned()), Act::Hang)
    }

    /// Nothing passes between two nodes, or in one direction only.
    #[must_use]
    pub fn cut(from: &str, to: &str, cut: Cut) -> Self {
        Self::new(link(from, to), Act::CutOff(cut))
    }

    /// Whether it is outside the stated fault model: loss is allowed, if it is told.
    #[must_use]
    pub const fn outside_model(&self) -> bool {
        matches!(self.act, Act::RedisEmptied | Act::SetBack)
    }

    /// What the history calls the component: a flood is its product's.
    #[must_use]
    pub fn component(&self) -> String {
        match self.act {
            Act::Crowd(Crowd::Flood) => format!("product:{FLOOD_PRODUCT}"),
            _ => self.on.to_string(),
        }
    }
}

/// Both ends are nodes.
#[must_use]
pub fn link(from: &str, to: &str) -> Component {
    let node = |name: &str| Box::new(Component::Node(name.to_owned()));
    Component::Link(node(from), node(to))
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.on, self.act)
    }
}

impl Need {
    /// Whether this machine has it. What the world has is for the run to say.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self {
            Self::Namespaces | Self::Mount => rustix::process::geteuid().is_root(),
            Self::FaultHooks => true,
            Self::Command(name, _) => {
                let places = std::env::var_os("PATH").unwrap_or_default();
                let mut places: Vec<_> = std::env::split_paths(&places).collect();
                places.extend(["/usr/sbin".into(), "/sbin".into()]);
                places.iter().any(|place| place.join(name).is_file())
            }
        }
    }
}

impl Act {
    /// Whether it ends the process that is there.
    #[must_use]
    pub const fn ends_the_process(&self) -> bool {
        matches!(
            self,
            Self::Kill
                | Self::Stop
                | Self::Restart
                | Self::Twin
                | Self::Panics { .. }
                | Self::Shrink
                | Self::Upgrade
                | Self::SetBack
        )
    }

    /// Its name in tables.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Hang => "hung",
            Self::Stop => "stopped",
            Self::Restart | Self::Twin => "restarted",
            Self::CutOff(_) => "cut_off",
            Self::Loss { .. } | Self::Narrow { .. } => "slow",
            Self::Weather(Weather { damage: Some(_), .. }) => "corrupted",
            Self::Weather(_) => "slow",
            Self::Clock { .. } => "clock",
            Self::DiskFull | Self::DiskReadOnly => "disk",
            Self::Descriptors => "fds",
            Self::Memory { .. } => "memory",
            Self::Cpu { .. } => "cpu",
            Self::Panics { .. } => "panics",
            Self::Crowd(Crowd::Flood) => "flood",
            Self::Crowd(Crowd::Rough(Rough::Storm)) => "storm",
            Self::Crowd(Crowd::Rough(Rough::Slow)) => "slow_terminals",
            Self::Crowd(Crowd::Rough(Rough::Silent)) => "silent_terminals",
            Self::Crowd(Crowd::Rough(Rough::Malicious)) => "malicious_terminals",
            Self::RedisReadOnly => "read_only",
            Self::RedisEmptied => "emptied",
            Self::SetBack => "set_back",
            Self::Grow | Self::Shrink => "resized",
            Self::Upgrade => "upgraded",
        }
    }

    /// What it needs.
    #[must_use]
    pub fn needs(&self) -> Vec<Need> {
        const NFT: Need = Need::Command("nft", "nftables");
        match self {
            Self::CutOff(_) => vec![Need::Namespaces],
            Self::Loss { .. } | Self::Weather(_) => vec![Need::Namespaces, NFT],
            Self::Narrow { .. } => vec![Need::Namespaces, Need::Command("tc", "iproute2")],
            Self::Clock { .. } => vec![Need::Command("faketime", "faketime")],
            Self::DiskFull | Self::DiskReadOnly => vec![Need::Mount],
            Self::Panics { .. } | Self::Upgrade => vec![Need::FaultHooks],
            _ => Vec::new(),
        }
    }
}

impl Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => f.write_str("SIGKILL"),
            Self::Hang => f.write_str("SIGSTOP"),
            Self::Stop => f.write_str("ended in good order"),
            Self::Restart => f.write_str("SIGKILL and started at once"),
            Self::Twin => f.write_str("another of its name while it hangs"),
            Self::CutOff(Cut::Both) => f.write_str("nothing passes"),
            Self::CutOff(Cut::In) => f.write_str("nothing comes in"),
            Self::CutOff(Cut::Out) => f.write_str("nothing comes out"),
            Self::CutOff(Cut::Flapping { every_ms }) => {
                write!(f, "cut and mended each {every_ms} ms")
            }
            Self::CutOff(Cut::Held) => f.write_str("what is sent waits"),
            Self::CutOff(Cut::Partial) => f.write_str("nothing passes to other nodes"),
            Self::Loss { percent } => write!(f, "{percent} % of the packets are lost"),
            Self::Narrow { bytes_per_s } => write!(f, "{bytes_per_s} bytes/s pass"),
            Self::Weather(weather) => write!(f, "{weather}"),
            Self::Clock { step_s } => write!(f, "the clock steps by {step_s} s"),
            Self::DiskFull => f.write_str("the disk is full"),
            Self::DiskReadOnly => f.write_str("the disk cannot be written"),
            Self::Descriptors => f.write_str("no more descriptors"),
            Self::Memory { more_mib } => write!(f, "{more_mib} MiB more and no more"),
            Self::Cpu { percent } => write!(f, "runs {percent} % of the time"),
            Self::Panics { points } => write!(f, "actors panic: {points}"),
            Self::Crowd(Crowd::Flood) => f.write_str("a product pushes as fast as it can"),
            Self::Crowd(Crowd::Rough(Rough::Storm)) => {
                f.write_str("terminals come again and again")
            }
            Self::Crowd(Crowd::Rough(Rough::Slow)) => f.write_str("terminals that read slowly"),
            Self::Crowd(Crowd::Rough(Rough::Silent)) => f.write_str("terminals that say nothing"),
            Self::Crowd(Crowd::Rough(Rough::Malicious)) => {
                f.write_str("terminals that send nonsense")
            }
            Self::RedisReadOnly => f.write_str("takes no writes"),
            Self::RedisEmptied => f.write_str("comes back empty"),
            Self::SetBack => f.write_str("its store is replaced by an older copy"),
            Self::Grow => f.write_str("joins"),
            Self::Shrink => f.write_str("leaves"),
            Self::Upgrade => f.write_str("becomes the next release"),
        }
    }
}

impl Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_millis();
        write!(f, "{} ms late, {} ms jitter", ms(self.delay), ms(self.jitter))?;
        if let Some(bytes_per_s) = self.bytes_per_s {
            write!(f, ", {bytes_per_s} bytes/s")?;
        }
        if let Some(Damage { how, one_in }) = self.damage {
            let how = match how {
                How::Cut => "cut",
                How::Corrupt => "corrupted",
                How::Replay => "replayed",
            };
            write!(f, ", one chunk in {one_in} {how}")?;
        }
        Ok(())
    }
}
