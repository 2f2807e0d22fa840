//! What sentinels say, and what follows from it. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ::redis::Value;
use tokio::time::Instant;

/// One sentinel's word on one master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// `host:port` of the master it names.
    pub(super) address: Arc<str>,
    /// It reaches the master itself, or did within its `down-after`.
    pub(super) up: bool,
    /// How long before it said so the master had last answered it.
    pub(super) silent: Duration,
    /// After how long of silence it takes the master for down.
    pub(super) down_after: Duration,
    /// Sentinels of this master, itself included.
    pub(super) sentinels: usize,
    /// It leads a fail-over right now.
    pub(super) failing_over: bool,
    /// Which fail-over made this the master.
    pub(super) epoch: u64,
}

impl Word {
    /// Until when it vouches. When the master has been silent for `down-after`, a sentinel may begin
    /// to replace it, which takes it some hundred milliseconds; the half allows for a master that is
    /// asked no more often than `down-after`.
    fn until(&self, asked: Instant) -> Option<Instant> {
        let left = self.down_after.saturating_sub(self.silent).max(self.down_after / 2);
        self.up.then(|| asked + left)
    }
}

/// `host:port`, with brackets where a host needs them.
pub(super) fn address(host: &str, port: &str) -> Arc<str> {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }.into()
}

fn text(value: &Value) -> &str {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        _ => "",
    }
}

fn fields(answer: &Value) -> HashMap<&str, &str> {
    let Value::Array(items) = answer else { return HashMap::new() };
    items.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

/// The answer to `SENTINEL MASTER name`.
pub(super) fn parse_master(answer: &Value) -> Option<Word> {
    let fields = fields(answer);
    let number = |name| fields.get(name).and_then(|text| text.parse::<u64>().ok());
    let flags = fields.get("flags")?;
    let down = |flag| matches!(flag, "s_down" | "o_down" | "slave");
    Some(Word {
        address: address(fields.get("ip")?, fields.get("port")?),
        up: !flags.split(',').any(down),
        silent: Duration::from_millis(number("last-ok-ping-reply").unwrap_or(0)),
        down_after: Duration::from_millis(number("down-after-milliseconds")?),
        sentinels: number("num-other-sentinels").unwrap_or(0) as usize + 1,
        failing_over: flags.split(',').any(|flag| flag == "failover_in_progress"),
        epoch: number("config-epoch").unwrap_or(0),
    })
}

/// The answer to `SENTINEL SENTINELS name`: the addresses of the others.
pub(super) fn parse_others(answer: &Value) -> Vec<Arc<str>> {
    let Value::Array(items) = answer else { return Vec::new() };
    let of = |item| {
        let fields = fields(item);
        Some(address(fields.get("ip")?, fields.get("port")?))
    };
    items.iter().filter_map(of).collect()
}

/// The words of all sentinels on one master.
#[derive(Debug, Default)]
pub(super) struct Words(BTreeMap<Arc<str>, (Instant, Word)>);

/// What a majority says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The master.
    pub(super) address: Arc<str>,
    /// Until when it may be trusted to still be the master; `None`: not now.
    pub(super) until: Option<Instant>,
}

impl Words {
    /// `sentinel` was asked at that time.
    pub(super) fn heard(&mut self, sentinel: &Arc<str>, asked: Instant, word: Word) {
        self.0.insert(Arc::clone(sentinel), (asked, word));
    }

    /// The shortest `down-after-milliseconds` of any sentinel.
    pub(super) fn down_after(&self) -> Option<Duration> {
        self.0.values().map(|(_, word)| word.down_after).min()
    }

    /// Sentinels that there are, as far as anyone knows: those that are dead count.
    pub(super) fn sentinels(&self) -> usize {
        let told = self.0.values().map(|(_, word)| word.sentinels).max().unwrap_or(0);
        told.max(self.0.len())
    }

    /// What a majority of all sentinels, also of those that do not answer, says. It does not vouch
    /// while a single one knows better: that one leads a fail-over, or knows the end of one. Replicas
    /// of the old master confirm to it until they are told, so WAIT alone would be fooled.
    pub(super) fn verdict(&self, now: Instant) -> Option<Verdict> {
        let majority = self.sentinels() / 2 + 1;
        let down_after = self.down_after()?;
        let fresh = || self.0.values().filter(|(asked, _)| *asked + down_after > now);
        let mut votes: HashMap<&Arc<str>, usize> = HashMap::new();
        fresh().for_each(|(_, word)| *votes.entry(&word.address).or_default() += 1);
        let (address, _) = votes.into_iter().find(|(_, votes)| *votes >= majority)?;
        let own = || fresh().filter(|(_, word)| word.address == *address);
        let epoch = own().map(|(_, word)| word.epoch).max()?;
        let knows_better = |(_, word): &(Instant, Word)| {
            if word.address == *address { word.failing_over } else { word.epoch > epoch }
        };
        let mut until: Vec<_> = own().filter_map(|(asked, word)| word.until(*asked)).collect();
        until.sort_unstable_by(|a, b| b.cmp(a));
        let until = until.get(majority - 1).copied().filter(|_| !fresh().any(knows_better));
        Some(Verdict { address: Arc::clone(address), until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(address: &str, up: bool, sentinels: usize) -> Word {
        let down_after = Duration::from_millis(1000);
        let (silent, failing_over, epoch) = (Duration::ZERO, false, 0);
        Word { address: address.into(), up, silent, down_after, sentinels, failing_over, epoch }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_majority_of_all_sentinels_vouches_until_its_oldest_word_is_too_old() {
        let (mut words, now) = (Words::default(), Instant::now());
        words.heard(&"s1".into(), now, word("a", true, 3));
        assert_eq!(words.verdict(now), None, "one of three");
        words.heard(&"s2".into(), now + ms(100), word("a", true, 3));
        let until = Some(now + ms(1000));
        assert_eq!(words.verdict(now + ms(100)), Some(Verdict { address: "a".into(), until }));
        words.heard(&"s3".into(), now + ms(200), word("a", true, 3));
        let until = Some(now + ms(1100));
        assert_eq!(words.verdict(now + ms(200)), Some(Verdict { address: "a".into(), until }));
        assert_eq!(words.verdict(now + ms(1150)), None, "two of the three are too old");
    }

    #[test]
    fn a_master_that_has_been_silent_is_vouched_for_less_long() {
        let (mut words, now) = (Words::default(), Instant::now());
        for (sentinel, silent) in [("s1", 200), ("s2", 400), ("s3", 900)] {
            words.heard(&sentinel.into(), now, Word { silent: ms(silent), ..word("a", true, 3) });
        }
        assert_eq!(words.verdict(now).unwrap().until, Some(now + ms(600)));
        words.heard(&"s2".into(), now, Word { silent: ms(990), ..word("a", true, 3) });
        assert_eq!(words.verdict(now).unwrap().until, Some(now + ms(500)));
    }

    #[test]
    fn sentinels_that_do_not_reach_the_master_do_not_vouch() {
        let (mut words, now) = (Words::default(), Instant::now());
        words.heard(&"s1".into(), now, word("a", true, 3));
        words.heard(&"s2".into(), now, word("a", false, 3));
        assert_eq!(words.verdict(now), Some(Verdict { address: "a".into(), until: None }));
    }

    #[test]
    fn a_minority_that_still_names_the_old_master_is_outvoted() {
        let (mut words, now) = (Words::default(), Instant::now());
        words.heard(&"s1".into(), now, word("old", true, 3));
        words.heard(&"s2".into(), now, word("new", true, 3));
        assert_eq!(words.verdict(now), None);
        words.heard(&"s3".into(), now, word("new", true, 3));
        assert_eq!(&*words.verdict(now).unwrap().address, "new");
    }

    #[test]
    fn one_sentinel_that_knows_better_is_enough_to_stop() {
        let (mut words, now) = (Words::default(), Instant::now());
        let until = |words: &Words| words.verdict(now).unwrap().until.is_some();
        for sentinel in ["s1", "s2", "s3"] {
            words.heard(&sentinel.into(), now, word("old", true, 3));
        }
        assert!(until(&words));
        let leads = Word { failing_over: true, ..word("old", true, 3) };
        words.heard(&"s1".into(), now, leads);
        assert!(!until(&words), "a fail-over has begun");
        words.heard(&"s1".into(), now, Word { epoch: 1, ..word("new", true, 3) });
        assert!(!until(&words), "it is over and the others do not know yet");
        words.heard(&"s1".into(), now, word("lost", true, 3));
        assert!(until(&words), "a sentinel that was left behind knows nothing better");
        let tells_replicas = Word { failing_over: true, ..word("older", true, 3) };
        words.heard(&"s1".into(), now, tells_replicas);
        assert!(until(&words), "the fail-over was to this one");
    }

    #[test]
    fn the_answer_of_a_sentinel_is_read() {
        let text = |text: &str| Value::BulkString(text.into());
        let pairs = [
            ("name", "clarion"),
            ("ip", "10.0.0.1"),
            ("port", "6379"),
            ("flags", "master,s_down"),
            ("num-slaves", "2"),
            ("num-other-sentinels", "2"),
            ("down-after-milliseconds", "500"),
            ("config-epoch", "7"),
            ("last-ok-ping-reply", "40"),
        ];
        let answer = |flags: &'static str| {
            let value =
                |(name, value)| [text(name), text(if name == "flags" { flags } else { value })];
            Value::Array(pairs.into_iter().flat_map(value).collect())
        };
        let word = parse_master(&answer("master")).unwrap();
        assert!(word.up && word.sentinels == 3 && &*word.address == "10.0.0.1:6379");
        assert_eq!((word.down_after, word.epoch, word.failing_over), (ms(500), 7, false));
        assert_eq!(word.silent, ms(40));
        assert!(!parse_master(&answer("master,s_down")).unwrap().up);
        assert!(parse_master(&answer("master,failover_in_progress")).unwrap().failing_over);
        assert_eq!(&*address("::1", "1"), "[::1]:1");
    }
}
