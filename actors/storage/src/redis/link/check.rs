//! Whether servers are what the fault model needs: each finding says what to change.

use std::fmt;
use std::time::Duration;

use ::redis::Value;
use tokio::time::Instant;

use super::Shards;
use super::clock::Sample;
use super::connection::{Connection, LinkError};
use super::info::Info;
use super::probe;
use super::settings::{RedisMode, RedisSettings};
use super::shard::{SKEW_MS_MAX, wall_clock};
use super::topology::Book;
use crate::{StoreError, StoreResult};

/// Inbox hashes stay compact up to fields of this size, bytes.
const LISTPACK_VALUE_MIN: u64 = 4096;
/// And up to so many fields.
const LISTPACK_ENTRIES_MIN: u64 = 512;
/// Deadlines of appends are told by one clock and judged by another: a server that is this far ahead
/// takes that much off them.
const SKEW_MS_TOLD: i64 = 250;
/// A fail-over that begins later than this leaves users waiting.
const DOWN_AFTER_MAX: Duration = Duration::from_secs(10);

/// Something about the servers that should be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The store does not start with it; otherwise it is said and that is all.
    pub refuses: bool,
    /// What is wrong and what to change.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn refuse(text: String) -> Finding {
    Finding { refuses: true, text }
}

fn warn(text: String) -> Finding {
    Finding { refuses: false, text }
}

/// Settings of a server that INFO does not tell; `None` where CONFIG is not allowed.
#[derive(Debug, Default)]
struct Config {
    listpack_value: Option<u64>,
    listpack_entries: Option<u64>,
    appendfsync: Option<String>,
    full_coverage: Option<String>,
    /// How far its clock is from ours.
    skew_ms: i64,
}

/// Looks at every server that can be reached.
pub(super) async fn look(shards: &Shards) -> Vec<Finding> {
    let settings = &shards.settings;
    let mut findings = Vec::new();
    if settings.replicas_min == 0 {
        findings.push(no_replicas(settings.mode));
    }
    if let Some(topology) = &shards.topology {
        findings.extend(of_sentinels(&topology.book()));
    }
    for entry in &shards.map().shards {
        let Some(master) = entry.shard.master().borrow().address.clone() else { continue };
        let info = match ask(shards, &master).await {
            Ok((info, config)) => {
                findings.extend(of_server(&master, &info, &config));
                info
            }
            Err(error) => {
                findings.push(warn(format!("{master} could not be checked: {error}")));
                continue;
            }
        };
        findings.extend(of_copies(&entry.shard.name, &info, settings));
        for replica in info.replicas() {
            match ask(shards, &replica.address).await {
                Ok((info, config)) => findings.extend(of_server(&replica.address, &info, &config)),
                Err(error) => findings.push(warn(format!(
                    "replica {} could not be checked: {error}",
                    replica.address
                ))),
            }
        }
    }
    findings
}

/// Says what is found; an error if the store must not start with it.
pub(super) fn tell(findings: &[Finding]) -> StoreResult<()> {
    let mut refused = Vec::new();
    for finding in findings {
        if finding.refuses {
            tracing::error!(%finding, "Redis is not as it must be");
            refused.push(finding.text.as_str());
        } else {
            tracing::warn!(%finding, "Redis is not as it should be");
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(StoreError::Fatal(refused.join("; "))) }
}

async fn ask(shards: &Shards, address: &str) -> Result<(Info, Config), LinkError> {
    let dialer = &shards.common.dialer;
    let mut connection = dialer.dial(address).await?;
    let sections: [&[u8]; 5] = [b"INFO", b"server", b"memory", b"persistence", b"replication"];
    let info = Info::parse(&connection.ask(&sections, dialer.timeout).await?);
    let timeout = dialer.timeout;
    let asked = Instant::now();
    let time = connection.ask(&[b"TIME"], timeout).await?;
    let sample = |server| Sample { server, asked, answered: Instant::now() };
    let skew_ms = probe::parse_time(&time).map_or(0, |time| sample(time).skew_ms(wall_clock()));
    let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
    let config = Config {
        listpack_value: number(get(&mut connection, "hash-max-listpack-value", timeout).await?),
        listpack_entries: number(get(&mut connection, "hash-max-listpack-entries", timeout).await?),
        appendfsync: get(&mut connection, "appendfsync", timeout).await?,
        full_coverage: match shards.settings.mode {
            RedisMode::Cluster => {
                get(&mut connection, "cluster-require-full-coverage", timeout).await?
            }
            RedisMode::Standalone | RedisMode::Sentinel => None,
        },
        skew_ms,
    };
    Ok((info, config))
}

/// A setting; `None` if it may not be asked for.
async fn get(
    connection: &mut Connection,
    name: &str,
    timeout: Duration,
) -> Result<Option<String>, LinkError> {
    match connection.ask(&[b"CONFIG", b"GET", name.as_bytes()], timeout).await {
        Ok(Value::Array(items)) => match items.as_slice() {
            [_, Value::BulkString(value)] => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            _ => Ok(None),
        },
        Ok(_) | Err(LinkError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn no_replicas(mode: RedisMode) -> Finding {
    match mode {
        RedisMode::Standalone => warn(
            "redis_replicas_min is 0: what is accepted is on one Redis server only and is lost \
             with it, and up to a second of it when its machine loses power"
                .into(),
        ),
        RedisMode::Sentinel | RedisMode::Cluster => refuse(
            "redis_replicas_min is 0, but servers fail over: what was accepted would be lost with \
             every fail-over; set it to 1 or more"
                .into(),
        ),
    }
}

fn of_sentinels(book: &Book) -> Vec<Finding> {
    let mut findings = Vec::new();
    match book {
        Book::Sentinels(masters) => {
            let sentinels =
                masters.iter().map(super::sentinel::Words::sentinels).max().unwrap_or(0);
            if sentinels < 3 {
                findings.push(warn(format!(
                    "there are {sentinels} sentinels: with less than 3 none may die; run 3"
                )));
            }
            let down_after = masters.iter().filter_map(super::sentinel::Words::down_after).max();
            findings.extend(down_after.and_then(|after| slow(after, "down-after-milliseconds")));
        }
        Book::Cluster(pictures) => {
            findings.extend(
                pictures.node_timeout.and_then(|after| slow(after, "cluster-node-timeout")),
            );
        }
    }
    findings
}

fn slow(after: Duration, setting: &str) -> Option<Finding> {
    let ms = after.as_millis();
    (after > DOWN_AFTER_MAX).then(|| {
        warn(format!(
            "{setting} is {ms} ms: pushes are refused for longer than that when a master dies; \
             set it to 1000"
        ))
    })
}

fn of_server(address: &str, info: &Info, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let version = info.text("redis_version").unwrap_or("0");
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major < 7 {
        findings.push(refuse(format!("{address} runs Redis {version}: use 7.0 or newer")));
    }
    if info.text("aof_enabled") != Some("1") {
        findings.push(refuse(format!(
            "{address} has no append-only file: a master that restarts without one loses what was \
             accepted; set `appendonly yes`"
        )));
    }
    let policy = info.text("maxmemory_policy").unwrap_or("unknown");
    if policy != "noeviction" {
        findings.push(refuse(format!(
            "{address} throws data away when its memory is full (`maxmemory-policy {policy}`); set \
             `maxmemory-policy noeviction`"
        )));
    }
    if config.full_coverage.as_deref() == Some("yes") {
        findings.push(refuse(format!(
            "{address} stops all of the cluster when some slots have no server; set \
             `cluster-require-full-coverage no`"
        )));
    }
    if config.appendfsync.as_deref() == Some("no") {
        findings.push(warn(format!(
            "{address} leaves syncing its append-only file to the kernel; set `appendfsync everysec`"
        )));
    }
    if config.skew_ms.abs() > SKEW_MS_TOLD {
        findings.push(warn(format!(
            "the clocks of {address} and of this node are {} ms apart: synchronise them; from {} ms on \
             nothing is written",
            config.skew_ms, SKEW_MS_MAX
        )));
    }
    let compact = [
        ("hash-max-listpack-value", config.listpack_value, LISTPACK_VALUE_MIN),
        ("hash-max-listpack-entries", config.listpack_entries, LISTPACK_ENTRIES_MIN),
    ];
    for (name, value, least) in compact {
        if let Some(value) = value.filter(|value| *value < least) {
            findings.push(warn(format!(
                "{address} has `{name} {value}`: inboxes take several times the memory; set \
                 `{name} {least}`"
            )));
        }
    }
    findings
}

fn of_copies(name: &str, info: &Info, settings: &RedisSettings) -> Option<Finding> {
    let (min, replicas) = (u64::from(settings.replicas_min), info.number("connected_slaves"));
    let copies = replicas + 1;
    if replicas < min {
        return Some(warn(format!(
            "shard {name} has {replicas} replicas and redis_replicas_min is {min}: pushes are refused \
             until there are more"
        )));
    }
    let fails_over = settings.mode != RedisMode::Standalone;
    if fails_over && min > 0 && (min + 1) * 2 <= copies {
        return Some(refuse(format!(
            "shard {name} has {copies} copies and {} of them confirm, which is no majority: a replica \
             that lacks what was accepted could become master; set redis_replicas_min to {}",
            min + 1,
            copies / 2
        )));
    }
    (fails_over && replicas == min).then(|| {
        warn(format!(
            "shard {name} has {replicas} replicas, all of which must confirm: pushes are refused as \
             soon as one is gone, so after every fail-over; run one more"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Info {
        Info::parse(&Value::BulkString(text.replace(' ', "\r\n").into()))
    }

    fn good() -> Info {
        info("redis_version:7.0.15 aof_enabled:1 maxmemory_policy:noeviction connected_slaves:2")
    }

    #[test]
    fn a_good_server_is_not_complained_about() {
        let config = Config {
            listpack_value: Some(4096),
            listpack_entries: Some(512),
            appendfsync: Some("everysec".into()),
            full_coverage: Some("no".into()),
            skew_ms: 200,
        };
        assert_eq!(of_server("a", &good(), &config), []);
        assert_eq!(of_server("a", &good(), &Config::default()), [], "CONFIG may be forbidden");
        assert_eq!(of_copies("a", &good(), &RedisSettings::new(RedisMode::Sentinel, ["a"])), None);
    }

    #[test]
    fn each_fault_says_what_to_change() {
        let bad = info("redis_version:6.2.1 aof_enabled:0 maxmemory_policy:allkeys-lru");
        let config = Config {
            listpack_value: Some(64),
            listpack_entries: Some(128),
            appendfsync: Some("no".into()),
            full_coverage: Some("yes".into()),
            skew_ms: -700,
        };
        let findings = of_server("a", &bad, &config);
        let refused: Vec<bool> = findings.iter().map(|finding| finding.refuses).collect();
        assert_eq!(refused, [true, true, true, true, false, false, false, false]);
        let text: String = findings.iter().map(ToString::to_string).collect();
        for change in [
            "7.0 or newer",
            "`appendonly yes`",
            "`maxmemory-policy noeviction`",
            "`cluster-require-full-coverage no`",
            "`appendfsync everysec`",
            "-700 ms apart",
            "`hash-max-listpack-value 4096`",
            "`hash-max-listpack-entries 512`",
        ] {
            assert!(text.contains(change), "{change}: {text}");
        }
        let error = tell(&findings).unwrap_err();
        assert!(matches!(error, StoreError::Fatal(why) if why.contains("appendonly")));
    }

    #[test]
    fn what_confirms_must_be_a_majority_of_the_copies() {
        let found = |replicas: u32, min: u32, mode| {
            let settings = RedisSettings { replicas_min: min, ..RedisSettings::new(mode, ["a"]) };
            of_copies("a", &info(&format!("connected_slaves:{replicas}")), &settings)
        };
        let refuses = |replicas, min| found(replicas, min, RedisMode::Sentinel).map(|f| f.refuses);
        assert_eq!(refuses(0, 1), Some(false), "told, and health says so");
        assert_eq!(refuses(1, 1), Some(false), "none may die");
        assert_eq!(refuses(2, 1), None);
        assert_eq!(refuses(3, 1), Some(true));
        assert_eq!(refuses(3, 2), None);
        assert_eq!(found(3, 1, RedisMode::Standalone), None, "nobody fails over");
        assert!(no_replicas(RedisMode::Cluster).refuses);
        assert!(!no_replicas(RedisMode::Standalone).refuses);
    }
}
