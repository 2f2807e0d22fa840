//! Where terminals should connect: the order in which access points are told to one that asks, when a
//! node sends newcomers elsewhere, and when it sends away those it has.

mod balance;
mod overload;
mod rank;

pub use balance::{Balance, BalanceRules, rank_lacking};
pub use overload::{Overload, Strain};
pub use rank::{AccessPoint, rank, somewhere_better};
