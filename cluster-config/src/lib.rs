//! The config file of a node: every key with its type, default, bounds and meaning in one table
//! ([`keys`]), from which the structs, the reader, the checks, the printed form and the reference in
//! `README.md` come. A config with mistakes is refused with all of them at once, each with the
//! place, the reason and the mend ([`ConfigError`]).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod check;
mod check_cluster;
mod environment;
mod error;
mod files;
pub mod keys;
mod load;
mod reference;
pub mod setting;
mod table;

pub use environment::Environment;
pub use error::{ConfigError, Origin, report};
pub use files::{AdminToken, RedisSecrets, Secret};
pub use keys::{
    ActorsConfig, AuthConfig, ClusterConfig, Config, HttpConfig, LimitsConfig, LogConfig,
    LogsConfig, NodeConfig, SessionConfig, StoreConfig, TerminalsConfig,
};
pub use load::Mode;
pub use reference::reference;
pub use setting::{LogFormat, RedisMode, Role, StoreKind};
pub use table::{Key, Section};
