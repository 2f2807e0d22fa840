//! What a node tells of the others by gossip: whom it holds in quarantine and whom not.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::history::Vote;
use crate::identity::BootId;

/// Boots that one verdict names at most; 1,768 bytes of text. In a larger cluster those in
/// quarantine go first, and about who is left out the teller abstains.
const BOOTS_MAX: usize = 104;

/// Whom a node holds in quarantine, whom it holds to be well; it abstains about all others. As text:
/// each boot with `+` (well) or `-` (quarantine) before it, in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether in quarantine, by boot.
    boots: BTreeMap<BootId, bool>,
}

impl Verdict {
    pub(super) fn vote(&self, boot: BootId) -> Vote {
        match self.boots.get(&boot) {
            Some(true) => Vote::Quarantine,
            Some(false) => Vote::Cleared,
            None => Vote::Abstain,
        }
    }
}

impl FromIterator<(BootId, Vote)> for Verdict {
    fn from_iter<I: IntoIterator<Item = (BootId, Vote)>>(votes: I) -> Self {
        let (mut held, mut cleared) = (Vec::new(), Vec::new());
        for (boot, vote) in votes {
            match vote {
                Vote::Quarantine => held.push((boot, true)),
                Vote::Cleared => cleared.push((boot, false)),
                Vote::Abstain => {}
            }
        }
        held.sort_unstable();
        cleared.sort_unstable();
        Self { boots: held.into_iter().chain(cleared).take(BOOTS_MAX).collect() }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (boot, held) in &self.boots {
            let sign = if *held { '-' } else { '+' };
            write!(f, "{sign}{boot}")?;
        }
        Ok(())
    }
}

/// What is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a verdict is a list of at most {BOOTS_MAX} boots, each with + or - before it")]
pub struct NoVerdict;

impl FromStr for Verdict {
    type Err = NoVerdict;

    fn from_str(text: &str) -> Result<Self, NoVerdict> {
        const LENGTH: usize = 17;
        let entries = text.as_bytes().chunks_exact(LENGTH);
        if !entries.remainder().is_empty() || entries.len() > BOOTS_MAX {
            return Err(NoVerdict);
        }
        let entry = |entry: &[u8]| {
            let (sign, boot) = entry.split_first().ok_or(NoVerdict)?;
            let held = match sign {
                b'-' => true,
                b'+' => false,
                _ => return Err(NoVerdict),
            };
            let boot = std::str::from_utf8(boot).map_err(|_| NoVerdict)?;
            Ok((boot.parse().map_err(|_| NoVerdict)?, held))
        };
        Ok(Self { boots: entries.map(entry).collect::<Result<_, _>>()? })
    }
}
