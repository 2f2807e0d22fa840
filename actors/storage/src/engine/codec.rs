//! Values of the tables, all in this file. Every value is a version byte, a CRC32C over the version,
//! the key and the body, and the body: a value that is damaged or under the wrong key is found out.
//! Entries have a layout of their own (`entries.rs`); everything else is `bincode` (varint, little endian).

use bincode::config::{Configuration, Limit, LittleEndian, Varint, standard};
use bincode::{Decode, Encode};
use clarion_protocol::http::{TerminalKind, TokenAlgorithm};
use clarion_protocol::{Epoch, KeyId, LogName, Offset, ProductId, TerminalId, TopicName, UserId};

use super::tables::{Slice, Table};
use crate::record::{ApiKey, DEFAULT_GROUP, ProductRecord, TokenKey};
use crate::{StoreError, StoreResult};

const VERSION: u8 = 1;
pub(crate) const HEADER_BYTES: usize = 5;

/// Longest body that is decoded: a damaged length must not allocate.
const BODY_BYTES_MAX: usize = 16 << 20;

const CONFIG: Configuration<LittleEndian, Varint, Limit<BODY_BYTES_MAX>> =
    standard().with_limit::<BODY_BYTES_MAX>();

/// Tells of a record that cannot be read, once to the operator and once to the caller.
pub(crate) fn damaged(table: Table, key: &[u8], what: &str) -> StoreError {
    metrics::counter!("clarion_store_corrupt_records_total", "table" => table.name()).increment(1);
    let key = key.escape_ascii().to_string();
    tracing::error!(table = table.name(), key, what, "a stored record is damaged");
    StoreError::Fatal(format!("a record of table {} is damaged: {what}", table.name()))
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&[VERSION]), key), body)
}

/// Puts version and checksum in front of the body, for which `buffer` has left [`HEADER_BYTES`].
pub(crate) fn seal(buffer: &mut [u8], key: &[u8]) {
    let sum = checksum(key, &buffer[HEADER_BYTES..]);
    buffer[0] = VERSION;
    buffer[1..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
}

pub(crate) fn open<'a>(table: Table, key: &[u8], value: &'a [u8]) -> StoreResult<&'a [u8]> {
    let Some((header, body)) = value.split_at_checked(HEADER_BYTES) else {
        return Err(damaged(table, key, "it is too short"));
    };
    if header[0] != VERSION {
        return Err(damaged(table, key, "its version is unknown"));
    }
    if header[1..] != checksum(key, body).to_le_bytes() {
        return Err(damaged(table, key, "its checksum does not match"));
    }
    Ok(body)
}

/// Encodes any record but an entry.
pub(crate) fn encode(record: &impl Encode, key: &[u8]) -> Slice {
    let mut buffer = Vec::with_capacity(128);
    buffer.resize(HEADER_BYTES, 0);
    if let Err(error) = bincode::encode_into_std_write(record, &mut buffer, CONFIG) {
        unreachable!("encoding into memory failed: {error}");
    }
    seal(&mut buffer, key);
    Slice::from(buffer)
}

/// Decodes any record but an entry.
pub(crate) fn decode<T: Decode<()>>(table: Table, key: &[u8], value: &[u8]) -> StoreResult<T> {
    let body = open(table, key, value)?;
    match bincode::decode_from_slice(body, CONFIG) {
        Ok((record, len)) if len == body.len() => Ok(record),
        Ok(_) => Err(damaged(table, key, "it is too long")),
        Err(error) => Err(damaged(table, key, &error.to_string())),
    }
}

/// Decodes what may well be something else.
pub(crate) fn decode_quietly<T: Decode<()>>(key: &[u8], value: &[u8]) -> Option<T> {
    let (header, body) = value.split_at_checked(HEADER_BYTES)?;
    let fits = header[0] == VERSION && header[1..] == checksum(key, body).to_le_bytes();
    let (record, len) = fits.then(|| bincode::decode_from_slice(body, CONFIG).ok()).flatten()?;
    (len == body.len()).then_some(record)
}

/// Per-log state that its entries do not tell. Written with every change of user inboxes, topics
/// and broadcasts; of a terminal's inbox only when something else than its cursor removed entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct LogRow {
    /// Offset of the last entry ever appended.
    pub(crate) last: u64,
    /// No live entry is below.
    pub(crate) first: u64,
    /// Highest offset that was evicted.
    pub(crate) evicted_to: u64,
    /// Live entries.
    pub(crate) count: u64,
    /// Their payload bytes.
    pub(crate) bytes: u64,
    /// Terminals that read the log: the audience of the next entry.
    pub(crate) readers: u64,
}

/// How an entry in a terminal's inbox was settled otherwise than by acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Outcome {
    Acknowledged,
    Expired,
    Undeliverable,
    Suppressed,
    Evicted,
}

/// The place of a message in one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct PlaceRow {
    pub(crate) offset: u64,
    pub(crate) expires_at_ms: u64,
    /// Only in terminal inboxes; an entry that is gone without one was acknowledged.
    pub(crate) outcome: Option<Outcome>,
    /// It was written to the terminal before it got that outcome.
    pub(crate) delivered: bool,
}

/// Whether an entry is still in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Stay {
    Live,
    Expired,
    Evicted,
    /// Every reader has passed it.
    Passed,
}

/// Counts of an entry with many readers. Outlives the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct CountRow {
    pub(crate) stay: Stay,
    pub(crate) bytes: u32,
    pub(crate) expires_at_ms: u64,
    pub(crate) audience: u64,
    pub(crate) delivered: u64,
    pub(crate) acknowledged: u64,
    pub(crate) expired: u64,
    pub(crate) undeliverable: u64,
    pub(crate) suppressed: u64,
    pub(crate) evicted: u64,
}

#[derive(Debug, Clone, Encode, Decode)]
enum StoredName {
    Terminal,
    User,
    Topic(String),
    Broadcast,
}

#[derive(Debug, Clone, Encode, Decode)]
struct StoredSub {
    log: StoredName,
    banned: bool,
    epoch: u64,
    cursor: u64,
    counted: u64,
    attempts: u8,
}

#[derive(Debug, Clone, Encode, Decode)]
struct StoredTerminal {
    user: Option<String>,
    kind: Option<u8>,
    registered_at_ms: u64,
    last_seen_ms: u64,
    generation: u64,
    heartbeat_ms: Option<u64>,
    subs: Vec<StoredSub>,
}

/// A subscription as the engine holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sub {
    pub(crate) log: LogName,
    pub(crate) banned: bool,
    pub(crate) epoch: Epoch,
    pub(crate) cursor: Offset,
    /// Entries up to here are counted, or were never this terminal's, though the cursor is lower.
    pub(crate) counted: Offset,
    pub(crate) attempts: u8,
}

impl Sub {
    pub(crate) const fn reading(log: LogName, epoch: Epoch, cursor: Offset) -> Self {
        Self { log, banned: false, epoch, cursor, counted: Offset::ZERO, attempts: 0 }
    }

    /// Entries behind this are still to be counted for this reader.
    pub(crate) fn settled(&self) -> Offset {
        self.cursor.max(self.counted)
    }
}

/// A terminal as the engine holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TerminalRow {
    pub(crate) user: Option<UserId>,
    pub(crate) kind: Option<TerminalKind>,
    pub(crate) registered_at_ms: u64,
    pub(crate) last_seen_ms: u64,
    pub(crate) generation: u64,
    pub(crate) heartbeat_ms: Option<u64>,
    pub(crate) subs: Vec<Sub>,
}

impl TerminalRow {
    pub(crate) fn sub(&self, log: &LogName) -> Option<&Sub> {
        self.subs.iter().find(|sub| sub.log == *log)
    }

    pub(crate) fn topics(&self) -> usize {
        self.subs.iter().filter(|sub| !sub.banned && matches!(sub.log, LogName::Topic(_))).count()
    }

    pub(crate) fn encode(&self, key: &[u8]) -> Slice {
        let subs = self.subs.iter().map(|sub| StoredSub {
            log: match &sub.log {
                LogName::Terminal => StoredName::Terminal,
                LogName::User => StoredName::User,
                LogName::Topic(topic) => StoredName::Topic(topic.as_str().to_owned()),
                LogName::Broadcast => StoredName::Broadcast,
            },
            banned: sub.banned,
            epoch: sub.epoch.0,
            cursor: sub.cursor.0,
            counted: sub.counted.0,
            attempts: sub.attempts,
        });
        let stored = StoredTerminal {
            user: self.user.as_ref().map(|user| user.as_str().to_owned()),
            kind: self.kind.map(encode_kind),
            registered_at_ms: self.registered_at_ms,
            last_seen_ms: self.last_seen_ms,
            generation: self.generation,
            heartbeat_ms: self.heartbeat_ms,
            subs: subs.collect(),
        };
        encode(&stored, key)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> StoreResult<Self> {
        let stored: StoredTerminal = decode(Table::Terminals, key, value)?;
        let bad = |_| damaged(Table::Terminals, key, "it holds a wrong name");
        let mut subs = Vec::with_capacity(stored.subs.len());
        for sub in stored.subs {
            let log = match sub.log {
                StoredName::Terminal => LogName::Terminal,
                StoredName::User => LogName::User,
                StoredName::Topic(topic) => LogName::Topic(TopicName::new(&topic).map_err(bad)?),
                StoredName::Broadcast => LogName::Broadcast,
            };
            subs.push(Sub {
                log,
                banned: sub.banned,
                epoch: Epoch(sub.epoch),
                cursor: Offset(sub.cursor),
                counted: Offset(sub.counted),
                attempts: sub.attempts,
            });
        }
        Ok(Self {
            user: stored.user.as_deref().map(UserId::new).transpose().map_err(bad)?,
            kind: stored.kind.and_then(decode_kind),
            registered_at_ms: stored.registered_at_ms,
            last_seen_ms: stored.last_seen_ms,
            generation: stored.generation,
            heartbeat_ms: stored.heartbeat_ms,
            subs,
        })
    }
}

const KINDS: [TerminalKind; 5] = [
    TerminalKind::Android,
    TerminalKind::Ios,
    TerminalKind::Pc,
    TerminalKind::Web,
    TerminalKind::Device,
];

pub(crate) fn encode_kind(kind: TerminalKind) -> u8 {
    match kind {
        TerminalKind::Android => 0,
        TerminalKind::Ios => 1,
        TerminalKind::Pc => 2,
        TerminalKind::Web => 3,
        TerminalKind::Device => 4,
    }
}

pub(crate) fn decode_kind(kind: u8) -> Option<TerminalKind> {
    KINDS.get(usize::from(kind)).copied()
}

/// A caller's idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ClaimRow {
    pub(crate) message: u128,
    pub(crate) body_hash: [u8; 32],
    pub(crate) expires_at_ms: u64,
    /// Zero once the claimant gave an outcome.
    pub(crate) until_ms: u64,
    pub(crate) keep_until_ms: u64,
    pub(crate) first_attempt_ms: u64,
    pub(crate) done: bool,
    pub(crate) outcome: Option<Vec<u8>>,
}

#[derive(Encode, Decode)]
struct StoredKey {
    id: String,
    algorithm: u8,
    secret: Vec<u8>,
    created_at_ms: u64,
    revoked_at_ms: Option<u64>,
}

#[derive(Encode, Decode)]
struct StoredProduct {
    created_at_ms: u64,
    kinds: Vec<u8>,
    allow_sha1_body_hash: bool,
    pushes_per_s_max: Option<u32>,
    api_keys: Vec<StoredKey>,
    token_keys: Vec<StoredKey>,
    /// Records written before there were groups end here; see [`decode_product`].
    isolation_group: String,
}

/// A product as it was stored before there were groups.
#[derive(Encode, Decode)]
struct StoredProductUngrouped {
    created_at_ms: u64,
    kinds: Vec<u8>,
    allow_sha1_body_hash: bool,
    pushes_per_s_max: Option<u32>,
    api_keys: Vec<StoredKey>,
    token_keys: Vec<StoredKey>,
}

impl From<StoredProductUngrouped> for StoredProduct {
    fn from(former: StoredProductUngrouped) -> Self {
        Self {
            created_at_ms: former.created_at_ms,
            kinds: former.kinds,
            allow_sha1_body_hash: former.allow_sha1_body_hash,
            pushes_per_s_max: former.pushes_per_s_max,
            api_keys: former.api_keys,
            token_keys: former.token_keys,
            isolation_group: DEFAULT_GROUP.to_owned(),
        }
    }
}

pub(crate) fn encode_product(product: &ProductRecord, key: &[u8]) -> Slice {
    let api_keys = product.api_keys.iter().map(|key| StoredKey {
        id: key.key.as_str().to_owned(),
        algorithm: 0,
        secret: key.secret.clone().into_bytes(),
        created_at_ms: key.created_at_ms,
        revoked_at_ms: key.revoked_at_ms,
    });
    let token_keys = product.token_keys.iter().map(|key| StoredKey {
        id: key.kid.as_str().to_owned(),
        algorithm: match key.algorithm {
            TokenAlgorithm::HS256 => 0,
            TokenAlgorithm::EdDSA => 1,
        },
        secret: key.key.clone(),
        created_at_ms: key.created_at_ms,
        revoked_at_ms: key.revoked_at_ms,
    });
    let stored = StoredProduct {
        created_at_ms: product.created_at_ms,
        kinds: product.kinds.iter().copied().map(encode_kind).collect(),
        allow_sha1_body_hash: product.allow_sha1_body_hash,
        pushes_per_s_max: product.pushes_per_s_max,
        api_keys: api_keys.collect(),
        token_keys: token_keys.collect(),
        isolation_group: product.isolation_group.as_ref().to_owned(),
    };
    encode(&stored, key)
}

pub(crate) fn decode_product(key: &[u8], value: &[u8]) -> StoreResult<ProductRecord> {
    // The body of a former record is that of a present one without its last field, so it never
    // passes for one.
    let former = decode_quietly::<StoredProductUngrouped>(key, value);
    let stored = match former {
        Some(former) => former.into(),
        None => decode::<StoredProduct>(Table::Products, key, value)?,
    };
    let bad = |what| damaged(Table::Products, key, what);
    let product = std::str::from_utf8(key).ok().and_then(|name| ProductId::new(name).ok());
    let mut record = ProductRecord {
        product: product.ok_or_else(|| bad("its key is no product"))?,
        created_at_ms: stored.created_at_ms,
        kinds: stored.kinds.into_iter().filter_map(decode_kind).collect(),
        allow_sha1_body_hash: stored.allow_sha1_body_hash,
        pushes_per_s_max: stored.pushes_per_s_max,
        isolation_group: stored.isolation_group.into(),
        api_keys: Vec::new(),
        token_keys: Vec::new(),
    };
    for key in stored.api_keys {
        record.api_keys.push(ApiKey {
            key: KeyId::new(&key.id).map_err(|_| bad("it holds a wrong key id"))?,
            secret: String::from_utf8(key.secret).map_err(|_| bad("it holds a wrong secret"))?,
            created_at_ms: key.created_at_ms,
            revoked_at_ms: key.revoked_at_ms,
        });
    }
    for key in stored.token_keys {
        record.token_keys.push(TokenKey {
            kid: KeyId::new(&key.id).map_err(|_| bad("it holds a wrong key id"))?,
            algorithm: match key.algorithm {
                0 => TokenAlgorithm::HS256,
                1 => TokenAlgorithm::EdDSA,
                _ => return Err(bad("it holds an unknown algorithm")),
            },
            key: key.secret,
            created_at_ms: key.created_at_ms,
            revoked_at_ms: key.revoked_at_ms,
        });
    }
    Ok(record)
}

pub(crate) fn terminal_id(key: &[u8]) -> StoreResult<TerminalId> {
    super::keys::tail(key)
        .and_then(|name| TerminalId::new(name).ok())
        .ok_or_else(|| damaged(Table::Terminals, key, "its key is no terminal"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn terminals_come_back_and_hostile_bytes_are_told(
            cursors in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u8>()), 0..20),
            generation: u64,
            hostile in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let subs = cursors.into_iter().enumerate().map(|(n, (cursor, counted, attempts))| Sub {
                log: LogName::Topic(TopicName::new(&format!("t{n}")).unwrap()),
                banned: n % 3 == 0,
                epoch: Epoch(n as u64),
                cursor: Offset(cursor),
                counted: Offset(counted),
                attempts,
            });
            let row = TerminalRow {
                user: Some(UserId::new("u").unwrap()),
                kind: Some(TerminalKind::Pc),
                registered_at_ms: 1,
                last_seen_ms: 2,
                generation,
                heartbeat_ms: None,
                subs: subs.collect(),
            };
            let value = row.encode(b"key");
            prop_assert_eq!(TerminalRow::decode(b"key", &value).unwrap(), row);
            prop_assert!(TerminalRow::decode(b"key", &hostile).is_err());
            // Also with a checksum that fits, nothing panics.
            let mut sealed = vec![0; HEADER_BYTES];
            sealed.extend_from_slice(&hostile);
            seal(&mut sealed, b"key");
            let _ = TerminalRow::decode(b"key", &sealed);
            let _ = decode_product(b"key", &sealed);
        }
    }

    #[test]
    fn a_product_from_before_there_were_groups_is_of_the_default_one() {
        let former = StoredProductUngrouped {
            created_at_ms: 7,
            kinds: vec![2],
            allow_sha1_body_hash: true,
            pushes_per_s_max: Some(3),
            api_keys: Vec::new(),
            token_keys: Vec::new(),
        };
        let record = decode_product(b"demo", &encode(&former, b"demo")).unwrap();
        assert_eq!(&*record.isolation_group, DEFAULT_GROUP);
        let gold = ProductRecord { isolation_group: "gold".into(), ..record };
        let stored = encode_product(&gold, b"demo");
        assert_eq!(decode_product(b"demo", &stored).unwrap(), gold);
    }

    #[test]
    fn another_version_is_told() {
        let mut value = encode(&7_u64, b"k").to_vec();
        assert_eq!(decode::<u64>(Table::Meta, b"k", &value), Ok(7));
        value[0] = 2;
        assert!(decode::<u64>(Table::Meta, b"k", &value).is_err());
    }
}
