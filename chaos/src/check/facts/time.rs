//! Times of a run, and when it was disturbed.

/// Nanoseconds since the start of the run, by the one clock of the machine.
pub type At = u64;

/// Milliseconds as a span of [`At`].
pub const fn ms(ms: u64) -> At {
    ms.saturating_mul(1_000_000)
}

/// A time for people.
pub fn seconds(at: At) -> String {
    format!("{}.{:06} s", at / 1_000_000_000, at / 1000 % 1_000_000)
}

/// Stretches of time in which something was broken, apart from each other and in order.
#[derive(Debug, Default)]
pub struct Busy {
    stretches: Vec<(At, At)>,
}

impl Busy {
    /// What `stretches` cover together.
    pub fn of(mut stretches: Vec<(At, At)>) -> Self {
        stretches.sort_unstable();
        let mut apart: Vec<(At, At)> = Vec::new();
        for (from, to) in stretches {
            match apart.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => apart.push((from, to)),
            }
        }
        Self { stretches: apart }
    }

    /// Whether nothing was broken between the two times.
    pub fn is_quiet(&self, from: At, to: At) -> bool {
        let next = self.stretches.partition_point(|(_, end)| *end < from);
        self.stretches.get(next).is_none_or(|(begin, _)| *begin > to)
    }

    /// When all was whole from for what began at `from` and ended at `to`: the end of the last
    /// stretch in between, `from` if there is none, nothing if something was broken at the end.
    pub fn whole_since(&self, from: At, to: At) -> Option<At> {
        let after = self.stretches.partition_point(|(begin, _)| *begin <= to);
        match after.checked_sub(1).and_then(|last| self.stretches.get(last)) {
            Some((_, end)) if *end >= to => None,
            Some((_, end)) => Some(from.max(*end)),
            None => Some(from),
        }
    }

    /// The longest time between the two in which nothing was broken.
    pub fn longest_quiet(&self, from: At, to: At) -> At {
        let (mut since, mut longest) = (from, 0);
        let next = self.stretches.partition_point(|(_, end)| *end < from);
        for (begin, end) in &self.stretches[next..] {
            if *begin >= to {
                break;
            }
            longest = longest.max(begin.saturating_sub(since));
            since = since.max(*end);
        }
        longest.max(to.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::Busy;

    #[test]
    fn what_lies_between_faults_is_quiet() {
        let busy = Busy::of(vec![(30, 40), (10, 20), (15, 25)]);
        assert!(busy.is_quiet(0, 9) && busy.is_quiet(26, 29) && busy.is_quiet(41, 1000));
        assert!(!busy.is_quiet(0, 10) && !busy.is_quiet(20, 22) && !busy.is_quiet(40, 41));
        assert_eq!(busy.whole_since(0, 5), Some(0));
        assert_eq!(busy.whole_since(0, 12), None);
        assert_eq!(busy.whole_since(0, 28), Some(25));
        assert_eq!(busy.whole_since(28, 29), Some(28));
        assert_eq!(busy.whole_since(12, 1000), Some(40));
        assert_eq!(busy.longest_quiet(0, 100), 60);
        assert_eq!(busy.longest_quiet(0, 35), 10);
        assert_eq!(busy.longest_quiet(12, 18), 0);
        assert_eq!(Busy::default().longest_quiet(3, 8), 5);
    }
}
