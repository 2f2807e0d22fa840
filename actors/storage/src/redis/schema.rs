//! Where records are: hash tags and keys. Identifiers hold none of `/ { }`, so these separate. Every
//! record of one tag is on one shard, and scripts change them together; the table of all records is
//! in the README of this crate.

use clarion_core::{LogKey, LogKind};
use clarion_protocol::{LogName, MessageId, ProductId};
use sha2::{Digest, Sha256};

/// Indexes of what a product has are spread over this many tags.
pub(super) const BUCKETS: u8 = 16;

/// Nonces of a product are spread over this many tags.
pub(super) const NONCE_TAGS: u64 = 16;

/// The tag of all products.
pub(super) const PRODUCTS_TAG: &str = "products";

/// The tag of the lease on upkeep.
pub(super) const UPKEEP_TAG: &str = "upkeep";

/// What an index lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    /// Terminals that are registered.
    Terminals,
    /// Terminals that were pushed to before they were registered.
    Inboxes,
    /// Users with an inbox.
    Users,
    /// Topics.
    Topics,
}

impl Index {
    pub(super) const ALL: [Self; 4] = [Self::Terminals, Self::Inboxes, Self::Users, Self::Topics];

    const fn letter(self) -> char {
        match self {
            Self::Terminals => 'T',
            Self::Inboxes => 'I',
            Self::Users => 'U',
            Self::Topics => 'S',
        }
    }

    /// The kind of the logs it lists.
    pub(super) const fn kind(self) -> LogKind {
        match self {
            Self::Terminals | Self::Inboxes => LogKind::Terminal,
            Self::Users => LogKind::User,
            Self::Topics => LogKind::Topic,
        }
    }
}

/// A log's kind as scripts know it.
pub(super) const fn kind_letter(kind: LogKind) -> char {
    match kind {
        LogKind::Terminal => 't',
        LogKind::User => 'u',
        LogKind::Topic => 's',
        LogKind::Broadcast => 'b',
    }
}

/// The kind behind a letter.
pub(super) fn kind_of(letter: u8) -> Option<LogKind> {
    [LogKind::Terminal, LogKind::User, LogKind::Topic, LogKind::Broadcast]
        .into_iter()
        .find(|kind| kind_letter(*kind) as u8 == letter)
}

/// The tag of a log; that of a terminal's inbox is the terminal's.
pub(super) fn log_tag(log: &LogKey) -> String {
    tag_of(&log.product, log.kind, &log.name)
}

pub(super) fn tag_of(product: &ProductId, kind: LogKind, name: &str) -> String {
    format!("{product}/{}/{name}", kind_letter(kind))
}

pub(super) fn message_tag(product: &ProductId, message: MessageId) -> String {
    format!("{product}/m/{message}")
}

/// Keys of callers may hold anything: their hash is used.
pub(super) fn claim_tag(product: &ProductId, key: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    let mut tag = format!("{product}/c/");
    for byte in &digest[..16] {
        tag.push_str(&format!("{byte:02x}"));
    }
    tag
}

pub(super) fn nonce_tag(product: &ProductId, share: u64) -> String {
    format!("{product}/n/{share}")
}

pub(super) fn index_tag(product: &ProductId, index: Index, bucket: u8) -> String {
    format!("{product}/{}/{bucket}", index.letter())
}

/// In which bucket of an index a name is. Part of what is stored: never to change.
pub(super) fn bucket_of(name: &str) -> u8 {
    (crc32c::crc32c(name.as_bytes()) % u32::from(BUCKETS)) as u8
}

/// The tag of the note that a holder of claims is gone.
pub(super) fn gone_tag(holder: &[u8]) -> String {
    let mut tag = String::from("gone/");
    for byte in holder {
        tag.push_str(&format!("{byte:02x}"));
    }
    tag
}

/// A terminal's name for a log, as its record has it.
pub(super) fn stored_name(name: &LogName) -> Vec<u8> {
    match name {
        LogName::Terminal => b"t".to_vec(),
        LogName::User => b"u".to_vec(),
        LogName::Broadcast => b"b".to_vec(),
        LogName::Topic(topic) => [b"s", topic.as_str().as_bytes()].concat(),
    }
}

/// Makes keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The main key of a tag.
    pub(super) fn main(&self, tag: &str) -> Vec<u8> {
        self.with(tag, "")
    }

    /// A key beside the main one.
    pub(super) fn with(&self, tag: &str, suffix: &str) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.prefix.len() + tag.len() + suffix.len() + 3);
        key.extend_from_slice(self.prefix.as_bytes());
        key.extend_from_slice(b":{");
        key.extend_from_slice(tag.as_bytes());
        key.push(b'}');
        key.extend_from_slice(suffix.as_bytes());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_records_are_does_not_change_between_releases() {
        let product = ProductId::new("demo").unwrap();
        let keys = Keys::new("clarion");
        let tag = tag_of(&product, LogKind::Terminal, "a");
        assert_eq!(keys.with(&tag, ":c"), b"clarion:{demo/t/a}:c");
        let buckets: Vec<u8> = ["a", "terminal", "t-0001"].map(bucket_of).to_vec();
        assert_eq!(buckets, [0, 7, 6]);
        assert_eq!(claim_tag(&product, "}{ any key"), "demo/c/06e45354cfb78375713236bc999ae9e3");
    }
}
