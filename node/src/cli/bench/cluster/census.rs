//! What every key of a Redis server weighs, by kind of record, and how long it stays.

use std::collections::{BTreeMap, HashMap};

use clarion_launch::redis::info_field;
use clarion_launch::resp::Connection;
use clarion_launch::{LaunchError, RedisServer};

use super::super::stage::float;
use super::ground::launch;
use crate::cli::exit::Failure;

/// Seconds of a day.
pub(super) const DAY_S: f64 = 86_400.0;

/// Keys that one `SCAN` looks at.
const PAGE: &str = "1000";

/// The kind of inboxes.
pub(super) const INBOXES: &str = "inboxes with cursors of their terminals";

/// The kind of idempotency keys.
pub(super) const IDEMPOTENCY: &str = "idempotency";

/// What came of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Weight {
    /// Bytes, as `MEMORY USAGE` has them.
    pub(super) bytes: f64,
    /// How long they live from now on, in seconds, on the average; a day when they live on.
    pub(super) kept_s: f64,
}

/// What there is in a server.
pub(super) struct Census {
    keys: HashMap<String, Key>,
    /// Memory of the server without buffers of clients, replicas and the append-only file.
    pub(super) used_bytes: f64,
}

#[derive(Debug, Clone, Copy)]
struct Key {
    bytes: f64,
    kept_s: f64,
}

impl Census {
    /// Weighs every key.
    pub(super) async fn take(server: &RedisServer) -> Result<Self, Failure> {
        let mut connection = Connection::open(server.plain_addr(), None).await.map_err(launch)?;
        let memory = connection.command(&["INFO", "memory"]).await.map_err(launch)?;
        let used_bytes = used(memory.text());
        let mut keys = HashMap::new();
        let mut cursor = "0".to_owned();
        loop {
            let page = connection.command(&["SCAN", &cursor, "COUNT", PAGE]).await;
            let page = page.map_err(launch)?;
            let [next, names] = page.items() else {
                return Err(launch(LaunchError::new("SCAN answers something else")));
            };
            for name in names.items() {
                let key = weigh(&mut connection, name.text()).await.map_err(launch)?;
                keys.insert(name.text().to_owned(), key);
            }
            next.text().clone_into(&mut cursor);
            if cursor == "0" {
                return Ok(Self { keys, used_bytes });
            }
        }
    }

    /// What came since `before`, by kind; kinds that did not grow are left out.
    pub(super) fn since(&self, before: &Self) -> Vec<(&'static str, Weight)> {
        let mut kinds: BTreeMap<&'static str, (Weight, f64)> = BTreeMap::new();
        for (name, now) in &self.keys {
            let grown = now.bytes - before.keys.get(name).map_or(0.0, |key| key.bytes);
            let (weight, new_bytes) = kinds.entry(kind_of(name)).or_default();
            weight.bytes += grown;
            weight.kept_s += grown.max(0.0) * now.kept_s;
            *new_bytes += grown.max(0.0);
        }
        for (name, gone) in before.keys.iter().filter(|(name, _)| !self.keys.contains_key(*name)) {
            kinds.entry(kind_of(name)).or_default().0.bytes -= gone.bytes;
        }
        let mean = |(kind, (weight, new_bytes)): (&'static str, (Weight, f64))| {
            (kind, Weight { kept_s: weight.kept_s / new_bytes, ..weight })
        };
        kinds.into_iter().filter(|(_, (weight, _))| weight.bytes > 0.0).map(mean).collect()
    }
}

/// One that has ended meanwhile weighs nothing.
async fn weigh(connection: &mut Connection, name: &str) -> Result<Key, LaunchError> {
    let bytes = connection.command(&["MEMORY", "USAGE", name, "SAMPLES", "0"]).await?.number();
    let kept_ms = connection.command(&["PTTL", name]).await?.number();
    Ok(Key {
        bytes: float(bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)),
        kept_s: kept_ms
            .and_then(|ms| u64::try_from(ms).ok())
            .map_or(DAY_S, |ms| float(ms) / 1000.0),
    })
}

fn used(info: &str) -> f64 {
    let field = |name| info_field(info, name).and_then(|text| text.parse::<f64>().ok());
    let buffers = [
        "mem_clients_normal",
        "mem_clients_slaves",
        "mem_aof_buffer",
        "mem_total_replication_buffers",
    ];
    let beside: f64 = buffers.into_iter().filter_map(field).sum();
    field("used_memory").unwrap_or(0.0) - beside
}

/// The kind of record that a key holds: `PREFIX:{PRODUCT/KIND/NAME}SUFFIX`, as in the table of records
/// in the store's README.
fn kind_of(key: &str) -> &'static str {
    let inside = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let Some((tag, suffix)) = inside else { return "other" };
    let kind = tag.split('/').nth(1).unwrap_or_default();
    match (kind, suffix) {
        ("t", "") => INBOXES,
        ("u", "") => "inboxes of users",
        ("t" | "u" | "s" | "b", ":c" | ":o") => "message records (places, outcomes, counts)",
        ("t" | "u", ":m") => "members",
        ("t" | "u", _) => "long payloads",
        ("s" | "b", _) => "topics and broadcasts",
        ("m", _) => "messages",
        ("c", _) => IDEMPOTENCY,
        ("n", _) => "nonces",
        ("T" | "I" | "U" | "S", _) => "indexes",
        _ => "products and upkeep",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_kinds() {
        for (key, kind) in [
            ("clarion:{p/t/t1}", INBOXES),
            ("clarion:{p/t/t1}:c", "message records (places, outcomes, counts)"),
            ("clarion:{p/t/t1}:6193024", "long payloads"),
            ("clarion:{p/u/u1}:m", "members"),
            ("clarion:{p/b/}:e", "topics and broadcasts"),
            ("clarion:{p/c/00ff}", IDEMPOTENCY),
            ("clarion:{p/n/3}:29384", "nonces"),
            ("clarion:{p/T/11}", "indexes"),
            ("clarion:{products}:known", "products and upkeep"),
            ("foreign", "other"),
        ] {
            assert_eq!(kind_of(key), kind, "{key}");
        }
    }

    fn census(keys: &[(&str, f64, f64)]) -> Census {
        let key = |(name, bytes, kept_s): &(&str, f64, f64)| {
            ((*name).to_owned(), Key { bytes: *bytes, kept_s: *kept_s })
        };
        Census { keys: keys.iter().map(key).collect(), used_bytes: 0.0 }
    }

    #[test]
    fn what_came_is_kept_as_long_as_its_own_bytes_are() {
        let (old, new) = ("c:{p/c/1}", "c:{p/c/2}");
        let before =
            census(&[(old, 100.0, 900.0), ("c:{p/n/1}:1", 50.0, 1.0), ("c:{p/t/a}", 80.0, 5.0)]);
        let after = census(&[(old, 100.0, 800.0), (new, 300.0, 7200.0), ("c:{p/t/a}", 120.0, 9.0)]);
        let expected = [
            (IDEMPOTENCY, Weight { bytes: 300.0, kept_s: 7200.0 }),
            (INBOXES, Weight { bytes: 40.0, kept_s: 9.0 }),
        ];
        assert_eq!(after.since(&before), expected);
    }

    #[test]
    fn memory_is_counted_without_buffers() {
        let info = "# Memory\r\nused_memory:1000\r\nmem_clients_normal:100\r\nmem_aof_buffer:8\r\n";
        assert!((used(info) - 892.0).abs() < 1e-9);
    }
}
