//! How a run is asked for, and what its world is to be like.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;

use crate::Failure;
use crate::check;
use crate::scenario::Scenario;
use crate::workload::Size;
use crate::world::WorldPlan;

/// The fault that drops every hint between actors.
pub const HINTS_OFF: &str = "hints=off";

/// What every run changes in its profile: times as short as a test wants them (a push that was under
/// way in a node that died can be repeated after the time of its request).
const COMMON: &str = "
[node]
drain_timeout_ms = 3000
[session]
heartbeat_min_ms = 1000
heartbeat_max_ms = 2000
heartbeat_grace_ms = 1000
[cluster]
quarantine_ms = 2000
[limits]
request_timeout_ms = 5000
";
/// No slow head check that would find what hints and hand-overs did not bring (I12).
const HEAD_CHECK_OFF: &str = "[actors]\nhead_check_ms = 3600000";
/// Nothing but the slow head check finds what is new.
const HEAD_CHECK_ALONE: &str = "[actors]\nhead_check_ms = 300";

/// How much longer than expected a fault may interrupt: without optimisation every process takes several
/// times as long, sentinels and proxies wait for processors, too, and a run measures that.
pub(super) const SLACK_MS: u64 = if cfg!(debug_assertions) { 2_000 } else { 0 };
/// What terminals are told at most, as above.
pub(super) const HEARTBEAT_MS: u64 = 2_000;
/// Messages of a log that a session may have unacknowledged, as the nodes' config has it by default.
pub(super) const WINDOW: u32 = 64;

/// How long and how thoroughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Profile {
    /// Minutes, on every change; one link of each class.
    #[default]
    Ci,
    /// The table of single points of failure, every link in it.
    Spof,
    /// An hour or more, before a release.
    Soak,
}

impl Profile {
    /// The tag of its scenarios.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Ci => "ci",
            Self::Spof => "spof",
            Self::Soak => "soak",
        }
    }

    /// Whether every link has a row of its own.
    #[must_use]
    pub const fn all_links(self) -> bool {
        !matches!(self, Self::Ci)
    }

    /// Pushes before anything is broken: what is measured in them stands for a run without faults.
    #[must_use]
    pub const fn warm_up(self) -> u64 {
        match self {
            Self::Ci => 1000,
            Self::Spof | Self::Soak => 3000,
        }
    }

    /// Accepted pushes that must overlap each fault...
    #[must_use]
    pub const fn overlap_min(self) -> u64 {
        match self {
            Self::Ci => 50,
            Self::Spof | Self::Soak => 200,
        }
    }

    /// Rounds of a random schedule that is not bounded by time.
    #[must_use]
    pub const fn rounds(self) -> u32 {
        match self {
            Self::Ci => 6,
            Self::Spof | Self::Soak => 20,
        }
    }

    /// How long a random schedule goes on, if that is not asked for.
    #[must_use]
    pub const fn minutes(self) -> Option<f64> {
        match self {
            Self::Ci | Self::Spof => None,
            Self::Soak => Some(30.0),
        }
    }
}

/// The load of a run that asks for no other: bursts make it three quarters more.
const PUSHES_PER_S: u32 = 100;
/// ...and all faults of a run together, or it has proved nothing.
const OVERLAP_TOTAL_MIN: u64 = 1000;

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag())
    }
}

/// How a run is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What everything random is made from.
    pub seed: u64,
    /// How long and how thoroughly.
    pub profile: Profile,
    /// How long scenarios without an end go on.
    pub minutes: Option<f64>,
    /// Where the files are kept, also when nothing is wrong.
    pub keep: Option<PathBuf>,
    /// Every hint is dropped.
    pub no_hints: bool,
    /// The slow head check is off.
    pub no_head_check: bool,
    /// The nodes break a promise: the name of a [mutant](crate::mutants).
    pub mutant: Option<String>,
}

impl Options {
    /// As tests run scenarios: the slow head check is off.
    #[must_use]
    pub fn test(seed: u64) -> Self {
        Self { seed, no_head_check: true, ..Self::default() }
    }

    /// The arguments of `clarion-chaos` that make such a run again.
    #[must_use]
    pub fn arguments(&self, scenario: &Scenario) -> String {
        let Self { seed, profile, .. } = self;
        let minutes = self.minutes.map_or_else(String::new, |m| format!(" --minutes {m}"));
        let hints = if self.no_hints { " --no-hints" } else { "" };
        let head_check = if self.no_head_check { " --no-head-check" } else { "" };
        let mutant = self.mutant.as_ref().map_or_else(String::new, |m| format!(" --mutant {m}"));
        let name = scenario.name;
        format!("run {name} --profile {profile} --seed {seed}{minutes}{hints}{head_check}{mutant}")
    }

    /// The command that makes such a run again.
    #[must_use]
    pub fn command(&self, scenario: &Scenario) -> String {
        let release = if cfg!(debug_assertions) { "" } else { " --release" };
        format!("cargo run{release} -p clarion-chaos -- {}", self.arguments(scenario))
    }
}

/// What a world and its load are to be like.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The world.
    pub plan: WorldPlan,
    /// The load.
    pub size: Size,
    /// Accepted pushes that must overlap each fault.
    pub overlap_min: u64,
    /// Accepted pushes that must overlap any.
    pub overlap_total_min: u64,
    /// The components to each of which everything must be done.
    pub rows: check::Rows,
    /// How long after its expiry an application may be shown a message, if longer than usual: where
    /// slow ones have a load that makes them fall behind.
    pub expiry_slack_ms: Option<u64>,
}

impl Setting {
    /// That of a scenario.
    ///
    /// # Errors
    /// When there is no such world, or the scenario cannot have it so.
    pub(crate) fn of(scenario: &Scenario, options: &Options) -> Result<Self, Failure> {
        let plan = WorldPlan::named(scenario.world)?.common(COMMON)?;
        let size =
            Size { products: 2, terminals: 12, pushes_per_s: PUSHES_PER_S, members_change: true };
        let mut setting = (scenario.setting)(Self {
            plan,
            size,
            overlap_min: options.profile.overlap_min(),
            overlap_total_min: OVERLAP_TOTAL_MIN,
            rows: check::Rows::None,
            expiry_slack_ms: None,
        })?;
        if let Some(mutant) = &options.mutant {
            setting.commit(&crate::mutants::fault(mutant));
        }
        if options.no_hints {
            setting.commit(HINTS_OFF);
            setting.plan = setting.plan.common(HEAD_CHECK_ALONE)?;
        } else if options.no_head_check {
            setting.plan = setting.plan.common(HEAD_CHECK_OFF)?;
        }
        Ok(setting)
    }

    /// Its nodes commit this fault by themselves, besides others.
    fn commit(&mut self, fault: &str) {
        let faults = self.plan.faults.get_or_insert_default();
        if !faults.is_empty() {
            faults.push(',');
        }
        faults.push_str(fault);
        self.plan.fault_hooks = true;
    }

    /// With the Redis of another world.
    ///
    /// # Errors
    /// When there is no such world.
    pub fn redis_of(mut self, world: &str) -> Result<Self, Failure> {
        self.plan.profile.redis = WorldPlan::named(world)?.profile.redis;
        Ok(self)
    }
}
