//! What a node tells of the others by gossip: whom it holds in quarantine and whom not, and to whom
//! it never had a link.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::history::Vote;
use crate::identity::BootId;

/// Boots that one verdict names at most; 1,768 bytes of text. In a larger cluster those in
/// quarantine go first, then those never linked, and about who is left out the teller abstains.
const BOOTS_MAX: usize = 104;

/// Whom a node holds in quarantine, whom it holds to be well, to whom it never had a link; it
/// abstains about all others. It travels as two texts of one form, each boot with a sign before it, in
/// ascending order: [`Verdict::judged`] with `+` (well) and `-` (quarantine), [`Verdict::unlinked`] with
/// `?` (never linked). Releases that know of no links that never came up read the first alone, and for
/// them the teller abstains about the others. Signs that only later releases know are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Never [`Vote::Abstain`].
    boots: BTreeMap<BootId, Vote>,
}

impl Verdict {
    pub(super) fn vote(&self, boot: BootId) -> Vote {
        self.boots.get(&boot).copied().unwrap_or(Vote::Abstain)
    }

    /// Whom it holds to be well or in quarantine, as text.
    #[must_use]
    pub fn judged(&self) -> String {
        self.text(|vote| vote != Vote::NeverLinked)
    }

    /// To whom it never had a link, as text.
    #[must_use]
    pub fn unlinked(&self) -> String {
        self.text(|vote| vote == Vote::NeverLinked)
    }

    /// Both together; what the first says of a boot counts.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        for (boot, vote) in other.boots {
            self.boots.entry(boot).or_insert(vote);
        }
        self
    }

    fn text(&self, is_meant: impl Fn(Vote) -> bool) -> String {
        let mut text = String::new();
        for (boot, vote) in self.boots.iter().filter(|(_, vote)| is_meant(**vote)) {
            let sign = match vote {
                Vote::Quarantine => '-',
                Vote::NeverLinked => '?',
                Vote::Cleared | Vote::Abstain => '+',
            };
            text.push(sign);
            text.push_str(&boot.to_string());
        }
        text
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

/// What is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a verdict is a list of at most {BOOTS_MAX} boots, each with a sign before it")]
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
                _ => Vote::Abstain,
            };
            let boot = std::str::from_utf8(boot).map_err(|_| NoVerdict)?;
            Ok((boot.parse().map_err(|_| NoVerdict)?, vote))
        };
        let mut boots: BTreeMap<_, _> = entries.map(entry).collect::<Result<_, _>>()?;
        boots.retain(|_, vote| *vote != Vote::Abstain);
        Ok(Self { boots })
    }
}
