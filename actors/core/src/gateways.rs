//! Where terminals should connect: the order in which access points are told to one that asks, and
//! when a node sends newcomers elsewhere.

mod overload;
mod rank;

pub use overload::{Overload, Strain};
pub use rank::{AccessPoint, rank, somewhere_better};
