//! One line for each act: how it is done, and how it is mended.

use super::members::Twin;
use super::network::{Cuts, Detour};
use super::squeeze::{Limited, Slowed};
use super::{Act, Crowd, Fault, Undo, network, redis};
use crate::Failure;
use crate::run::Run;
use crate::world::{Clock, Component, Disk};
use clarion_launch::Signal;
use tokio::time::timeout;

use crate::settle::DEADLINE;

/// What a flooding product pushes, and what it may.
const FLOOD_PER_S: u32 = 500;
const FLOOD_ALLOWED_PER_S: u32 = 50;
/// Terminals that do not behave, at a time.
const ROUGH_TERMINALS: usize = 40;
/// Arms the points of a program with `fault-hooks`.
const FAULTS_VARIABLE: &str = "CLARION_FAULTS";
/// What such a program stands for.
const WIRE_VARIABLE: &str = "CLARION_FAULT_WIRE";

impl Run {
    /// Does it.
    pub(crate) async fn break_it(&mut self, fault: &Fault) -> Result<Undo, Failure> {
        let on = &fault.on;
        Ok(match &fault.act {
            Act::Kill => {
                self.world.process(on)?.must_run()?;
                self.world.process(on)?.kill().await?;
                Undo::Start
            }
            Act::Hang => {
                self.world.process(on)?.signal(Signal::Stop)?;
                Undo::Wake
            }
            Act::Stop => {
                self.stop(on).await?;
                Undo::Start
            }
            Act::Shrink => {
                self.stop(on).await?;
                self.world.remove_node(name_of(on)?)?;
                Undo::Nothing
            }
            Act::Restart => {
                self.world.process(on)?.kill().await?;
                self.world.restart(on).await?;
                Undo::Nothing
            }
            Act::Twin => {
                self.world.process(on)?.signal(Signal::Stop)?;
                Undo::Twin(Box::new(Twin::start(&mut self.world, name_of(on)?).await?))
            }
            Act::CutOff(cut) => Undo::Open(Cuts::make(&self.world, on, *cut)?),
            Act::Loss { percent } => {
                network::lose(&self.world, on, *percent)?;
                Undo::Keep
            }
            Act::Narrow { bytes_per_s } => {
                network::narrow(&self.world, on, Some(*bytes_per_s))?;
                Undo::Widen
            }
            Act::Weather(weather) => {
                let seed = self.options().seed;
                Undo::Detour(Box::new(Detour::make(&mut self.world, on, *weather, seed).await?))
            }
            Act::Clock { step_s } => {
                self.clock(on)?.step(*step_s)?;
                Undo::SetClock
            }
            Act::DiskFull => {
                self.disk(on)?.fill()?;
                Undo::Disk
            }
            Act::DiskReadOnly => {
                self.disk(on)?.read_only()?;
                Undo::Disk
            }
            Act::Descriptors => Undo::Lift(Limited::descriptors(self.pid(on)?)?),
            Act::Memory { more_mib } => Undo::Lift(Limited::memory(self.pid(on)?, *more_mib)?),
            Act::Cpu { percent } => Undo::Run(Slowed::start(self.pid(on)?, *percent)?),
            Act::Panics { points } => {
                let always = self.setting().plan.faults.iter();
                let all: Vec<&str> = always.chain([points]).map(String::as_str).collect();
                let all = all.join(",");
                self.start_with(on, FAULTS_VARIABLE, Some(&all)).await?;
                Undo::Disarm
            }
            Act::Crowd(crowd) => {
                self.gather(*crowd).await?;
                Undo::Disperse
            }
            Act::RedisReadOnly => {
                redis::refuse_writes(&mut self.world, on).await?;
                Undo::TakeWrites
            }
            Act::RedisEmptied => {
                redis::empty(&mut self.world, on).await?;
                Undo::PutBack
            }
            Act::SetBack => {
                self.world.process(on)?.kill().await?;
                Undo::PutBack
            }
            Act::Grow => {
                self.world.add_node(name_of(on)?).await?;
                Undo::Leave
            }
            Act::Upgrade => {
                self.again_with(on, WIRE_VARIABLE, Some("2")).await?;
                Undo::Nothing
            }
        })
    }

    /// What has to be before it is broken, and is not part of that: a node learns of its panics as it
    /// starts.
    pub(crate) async fn prepare(&mut self, fault: &Fault) -> Result<(), Failure> {
        match fault.act {
            Act::Panics { .. } => self.stop(&fault.on).await,
            _ => Ok(()),
        }
    }

    /// Mends it.
    pub(crate) async fn mend_it(&mut self, fault: &Fault, undo: Undo) -> Result<(), Failure> {
        let on = &fault.on;
        match undo {
            Undo::Nothing => Ok(()),
            Undo::Start => self.world.restart(on).await,
            Undo::Wake => Ok(self.world.process(on)?.signal(Signal::Continue)?),
            Undo::Twin(twin) => twin.end(self.world.node(name_of(on)?)?).await,
            Undo::Open(cuts) => cuts.open(&self.world).await,
            Undo::Detour(detour) => detour.end(&self.world),
            Undo::Keep => network::lose(&self.world, on, 0),
            Undo::Widen => network::narrow(&self.world, on, None),
            Undo::SetClock => self.clock(on)?.step(0),
            Undo::Disk => {
                // A store that could not write ends its node, soon or later; and of a disk that
                // failed everybody must let go. Whoever looks after the node starts it again.
                self.world.process(on)?.kill().await?;
                self.disk(on)?.restore()?;
                self.world.restart(on).await
            }
            Undo::Lift(limited) => {
                limited.lift();
                self.started_if_ended(on).await
            }
            Undo::Run(slowed) => {
                slowed.stop();
                Ok(())
            }
            Undo::Disarm => {
                let always = self.setting().plan.faults.clone();
                self.again_with(on, FAULTS_VARIABLE, always.as_deref()).await
            }
            Undo::Disperse => {
                self.disperse();
                Ok(())
            }
            Undo::TakeWrites => redis::take_writes(&mut self.world, on).await,
            Undo::PutBack => self.world.put_back(on).await,
            Undo::Leave => {
                self.stop(on).await?;
                self.world.remove_node(name_of(on)?).map(drop)
            }
        }
    }

    fn clock(&self, on: &Component) -> Result<&Clock, Failure> {
        let clock = self.world.clock(name_of(on)?);
        clock.ok_or_else(|| Failure::new(format!("{on} has the clock of the machine")))
    }

    fn disk(&self, on: &Component) -> Result<&Disk, Failure> {
        let disk = self.world.disk(on);
        disk.ok_or_else(|| Failure::new(format!("{on} has the disk of the machine")))
    }

    fn pid(&mut self, on: &Component) -> Result<u32, Failure> {
        let pid = self.world.process(on)?.pid();
        pid.ok_or_else(|| Failure::new(format!("{on} does not run")))
    }

    /// Ends it in good order.
    async fn stop(&mut self, on: &Component) -> Result<(), Failure> {
        match on {
            Component::Node(name) => Ok(self.world.node(name)?.stop().await?),
            other => Ok(self.world.process(other)?.terminate(DEADLINE).await.map(drop)?),
        }
    }

    /// Ends a node in good order and starts it again with another environment.
    async fn again_with(
        &mut self,
        on: &Component,
        variable: &str,
        value: Option<&str>,
    ) -> Result<(), Failure> {
        self.stop(on).await?;
        self.start_with(on, variable, value).await
    }

    async fn start_with(
        &mut self,
        on: &Component,
        variable: &str,
        value: Option<&str>,
    ) -> Result<(), Failure> {
        self.world.process(on)?.set_environment(variable, value);
        self.world.restart(on).await
    }

    /// A process that lacked something may have ended over it.
    async fn started_if_ended(&mut self, on: &Component) -> Result<(), Failure> {
        if self.world.process(on)?.is_running() {
            return Ok(());
        }
        self.world.restart(on).await
    }

    async fn gather(&mut self, crowd: Crowd) -> Result<(), Failure> {
        match crowd {
            Crowd::Flood => self.load.flood(FLOOD_PER_S, FLOOD_ALLOWED_PER_S).await,
            Crowd::Rough(how) => {
                let mut connected = self.load.rough(how, ROUGH_TERMINALS).await?;
                let some = connected.wait_for(|connected| *connected > 0);
                let came = timeout(DEADLINE, some).await;
                came.map(drop).map_err(|_| Failure::new("none of them comes"))
            }
        }
    }

    fn disperse(&mut self) {
        self.load.flood_ends();
        self.load.rough_ends();
    }
}

fn name_of(on: &Component) -> Result<&str, Failure> {
    match on {
        Component::Node(name) => Ok(name),
        other => Err(Failure::new(format!("{other} is no node"))),
    }
}
