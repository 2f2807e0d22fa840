#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
#![doc = include_str!("../README.md")]

pub mod binary;
pub mod check;
pub mod history;
pub mod kill_loop;
pub mod network;
pub mod node_process;
pub mod scene;
pub mod settle;
pub mod summary;
pub mod workload;

mod failure;

pub use failure::Failure;
