#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![doc = include_str!("../README.md")]

pub mod check;
pub mod fault;
pub mod history;
pub mod interruption;
pub mod kill_loop;
pub mod mutants;
pub mod node_process;
pub mod report;
pub mod run;
pub mod sampler;
pub mod scenario;
pub mod settle;
pub mod summary;
pub mod target;
pub mod workload;
pub mod world;

mod failure;

pub use failure::Failure;
pub use world::binary;
