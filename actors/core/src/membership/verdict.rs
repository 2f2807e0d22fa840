//! What a node tells of the others by gossip: whom it holds in quarantine and whom not, and to whom
//! it never had a link.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::history::Vote;
use crate::identity::BootId;

/// Boots that one verdict names at most; 1,768 bytes of text. In a larger cluster those in
/// quarantine go first, then those never linked, and about who is left out the teller abstains.
const BOOTS_MAX: usize = 104;

/// Whom a node holds in quarantine, whom it holds to be well, to whom it never had a link; it
/// abstains about all others. As text: each boot with `+` (well), `-` (quarantine) or `?` (never
/// linked) before it, in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Never [`Vote::Abstain`].
    boots: BTreeMap<BootId, Vote>,
}

impl Verdict {
    pub(super) fn vote(&self, boot: BootId) -> Vote {
        self.boots.get(&boot).copied().unwrap_or(Vote::Abstain)
    }
}

impl FromIterator<(BootId, Vote)> for Verdict {
    fn from_iter<I: IntoIterator<Item = (BootId, Vote)>>(votes: I) -> Self {
        let mut votes: Vec<_> =
            votes.into_iter().filter(|(_, vote)| *vote != Vote::Abstain).collect();
        votes.sort_unstable_by_key(|(boot, vote)| (rank(*vote), *boot));
        Self { boots: votes.into_iter().take(BOOTS_MAX).collect() }
    }
}

/// What is told first where there is not room for all.
const fn rank(vote: Vote) -> u8 {
    match vote {
        Vote::Quarantine => 0,
        Vote::NeverLinked => 1,
        Vote::Cleared | Vote::Abstain => 2,
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (boot, vote) in &self.boots {
            let sign = match vote {
                Vote::Quarantine => '-',
                Vote::NeverLinked => '?',
                Vote::Cleared | Vote::Abstain => '+',
            };
            write!(f, "{sign}{boot}")?;
        }
        Ok(())
    }
}

/// What is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a verdict is a list of at most {BOOTS_MAX} boots, each with +, - or ? before it")]
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
            let vote = match sign {
                b'-' => Vote::Quarantine,
                b'?' => Vote::NeverLinked,
                b'+' => Vote::Cleared,
                _ => return Err(NoVerdict),
            };
            let boot = std::str::from_utf8(boot).map_err(|_| NoVerdict)?;
            Ok((boot.parse().map_err(|_| NoVerdict)?, vote))
        };
        Ok(Self { boots: entries.map(entry).collect::<Result<_, _>>()? })
    }
}
