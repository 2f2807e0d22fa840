//! The table: every section and key of the config file. This is the only place that knows them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;
use toml::de::DeValue;

use crate::setting::Bounds::{Any, HostPort, Id, LogFilter, Range, Url};
use crate::setting::{Bounds, Fault, LogFormat, RedisMode, Role, Setting, StoreKind};
use crate::table::{Key, Section, config};

/// A value before it has a type.
#[derive(Clone, Copy)]
pub(crate) enum Raw<'a, 'i> {
    /// From the file.
    Toml(&'a DeValue<'i>),
    /// From the environment.
    Text(&'a str),
}

impl Raw<'_, '_> {
    fn read<T: Setting>(self, bounds: Bounds) -> Result<T, Fault> {
        match self {
            Self::Toml(value) => T::from_toml(value, bounds),
            Self::Text(text) => T::from_text(text, bounds),
        }
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

config! {
    /// The node itself.
    node: NodeConfig {
        /// Name of the node, unique among the nodes that share products.
        id: String = "node-1".to_owned(), Id;
        /// How long a node that was told to stop may take to say goodbye to its terminals and
        /// write down what they acknowledged.
        drain_timeout_ms: u64 = 10_000, Range(0, HOUR_MS);
        /// Terminals that a draining node sends elsewhere in a second, more only if
        /// `drain_timeout_ms` is too short for all of them; 0 spreads them over that time.
        drain_links_per_s: u32 = 0, Range(0, 10_000_000);
        /// What the node does: `push` takes pushes and administration over HTTP, `gateway` holds
        /// the links of terminals, `broker` owns logs. A node without a cluster needs all of them.
        roles: Vec<Role> = Role::ALL.to_vec(), Any;
        /// The group whose products this node serves as gateway and broker.
        isolation_group: String = "default".to_owned(), Id;
    }

    /// The other nodes. Without `listen` the node is alone.
    cluster: ClusterConfig {
        /// Where other nodes reach this one: links over TCP and gossip over UDP, on the same port
        /// number. Setting it makes the node part of a cluster.
        listen: Option<SocketAddr> = None, Any;
        /// The address that other nodes are told; needed when `listen` is no address they can use.
        advertise: Option<SocketAddr> = None, Any;
        /// Nodes to ask first, as `HOST:PORT` of their `listen`; one that answers is enough.
        seeds: Vec<String> = Vec::new(), HostPort;
        /// Name of the cluster; nodes of another name are not heard.
        name: String = "clarion".to_owned(), Id;
        /// File with the secret that all nodes share, at least 16 characters, readable by its owner
        /// only. The environment variable `CLARION_COOKIE` goes before it; a cluster needs one of
        /// the two.
        cookie_file: Option<PathBuf> = None, Any;
        /// Certificate chain of this node in PEM; with `tls_key_file` and `tls_ca_file` the links
        /// between nodes are TLS with certificates on both ends.
        tls_cert_file: Option<PathBuf> = None, Any;
        /// Private key of the certificate in PEM.
        tls_key_file: Option<PathBuf> = None, Any;
        /// Certificates of the authorities that sign the nodes' certificates, in PEM.
        tls_ca_file: Option<PathBuf> = None, Any;
        /// How often a node tells a few others what it knows.
        gossip_ms: u64 = 250, Range(10, 10_000);
        /// How often a link between nodes shows a sign of life; after three missing ones it is closed.
        heartbeat_ms: u64 = 750, Range(10, MINUTE_MS);
        /// How long the handshake of a link between nodes may take.
        handshake_timeout_ms: u64 = 5000, Range(10, MINUTE_MS);
        /// How long a push waits for the owner on another node before the next in order serves.
        forward_timeout_ms: u64 = 1000, Range(10, MINUTE_MS);
        /// How long a node that came back must be stable before it owns anything; doubles with each
        /// time it fails again.
        quarantine_ms: u64 = 10_000, Range(0, HOUR_MS);
        /// Bytes sent to another node, on each of the four lanes, that it has not yet handled.
        lane_credit_bytes: u64 = 4 * MIB, Range(4096, GIB);
        /// Bytes that wait for another node on each of the four lanes; beyond them messages are
        /// dropped, and what they told is read from the store.
        lane_queue_bytes: u64 = 4 * MIB, Range(4096, GIB);
        /// Bytes that a frame between nodes collects before it is sent; a larger message goes alone.
        frame_bytes_max: usize = 65_536, Range(16_384, 524_288);
        /// Messages that a frame collects before it is sent.
        frame_messages_max: usize = 128, Range(1, 65_536);
        /// How long a message waits for others that share its frame.
        frame_delay_us: u64 = 1000, Range(0, 1_000_000);
        /// How often the logs of an owner that lives but cannot be reached are compared with the
        /// store.
        poll_ms: u64 = 1000, Range(10, MINUTE_MS);
    }

    /// The HTTP API: pushes, administration, health, metrics.
    http: HttpConfig {
        /// Where the API listens.
        listen: SocketAddr = loopback(8080), Any;
        /// What back-ends call the API when a proxy stands before it: the base of the URL that
        /// OAuth signatures are made of. Without it the request's own host counts.
        external_url: Option<String> = None, Url("http", "https");
        /// How other nodes and operators reach the API of this very node; told in the cluster's
        /// status. Without it the address it listens on.
        advertise_url: Option<String> = None, Url("http", "https");
        /// Certificate chain in PEM; with it the API speaks TLS.
        tls_cert_file: Option<PathBuf> = None, Any;
        /// Private key of the certificate in PEM.
        tls_key_file: Option<PathBuf> = None, Any;
        /// Connections at the same time; further ones wait in the kernel.
        connections_max: usize = 10_000, Range(1, 1_000_000);
    }

    /// The listener that terminals hold their links to.
    terminals: TerminalsConfig {
        /// Where terminals connect.
        listen: SocketAddr = loopback(8081), Any;
        /// What terminals call the listener: told to those that ask for an access point. Without it
        /// the address it listens on.
        external_url: Option<String> = None, Url("ws", "wss");
        /// Certificate chain in PEM; with it the listener speaks TLS.
        tls_cert_file: Option<PathBuf> = None, Any;
        /// Private key of the certificate in PEM.
        tls_key_file: Option<PathBuf> = None, Any;
        /// Connections that the kernel holds until they are accepted.
        backlog: u32 = 4096, Range(1, 65_535);
        /// Links at the same time on this node.
        links_max: usize = 1_000_000, Range(1, 100_000_000);
        /// Links at the same time from one IP address; 0 is no limit.
        links_per_ip_max: usize = 20_000, Range(0, 100_000_000);
        /// Links at the same time of one product on this node; 0 is no limit.
        links_per_product_max: usize = 0, Range(0, 100_000_000);
        /// New links accepted in a second; the rest waits in the kernel.
        accepts_per_s_max: u32 = 10_000, Range(1, 10_000_000);
        /// Terminals that this node sends to other gateways of its group in a second while it holds
        /// clearly more than its share of them, as after a rolling upgrade; 0 leaves them where they are,
        /// which is right where terminals have one fixed address: they would only come back.
        rebalance_links_per_s: u32 = 0, Range(0, 1_000_000);
        /// It begins above so many hundredths of its share, and `rebalance_over_links` above it.
        rebalance_over_percent: u32 = 125, Range(101, 100_000);
        /// It begins above its share and so many more, and `rebalance_over_percent` of it.
        rebalance_over_links: u64 = 100, Range(1, 100_000_000);
        /// It begins when it has held so many for so long, and meanwhile no node drained, was sick,
        /// overloaded, in quarantine or out of reach.
        rebalance_calm_s: u32 = 30, Range(1, 86_400);
        /// Links in their TLS or WebSocket handshake at the same time, half of them from one address
        /// at most; the rest wait.
        handshakes_max: usize = 256, Range(1, 1_000_000);
        /// How long TLS and WebSocket handshake of a link may take.
        handshake_timeout_ms: u64 = 10_000, Range(100, 10 * MINUTE_MS);
        /// How long a link may have no session before it is closed.
        open_timeout_ms: u64 = 10_000, Range(100, 10 * MINUTE_MS);
        /// Read buffer of a link, held while it is idle; it grows for larger frames.
        read_buffer_bytes: usize = 256, Range(128, MIB);
        /// How much is collected before it is written to the socket.
        write_buffer_bytes: usize = 4096, Range(0, MIB);
        /// Send buffer of the socket in the kernel (SO_SNDBUF); 0 leaves it to the kernel.
        send_buffer_bytes: usize = 65_536, Range(0, 64 * MIB);
        /// How long a write may wait for a terminal that does not read.
        flush_timeout_ms: u64 = 30_000, Range(100, HOUR_MS);
        /// Frames of a link that are read in a second, twice as many in a burst; a terminal that
        /// sends more is read no faster.
        frames_per_s_max: u32 = 200, Range(1, 1_000_000);
        /// Sessions that share one link.
        sessions_per_link_max: u32 = 8, Range(1, 1024);
        /// Actors that supervise the links; 0 is four for each core.
        shards: usize = 0, Range(0, 4096);
    }

    /// What a terminal's session may do and hold.
    session: SessionConfig {
        /// Entries of one log on their way to a terminal without its acknowledgement.
        window_entries: u32 = 64, Range(1, 65_536);
        /// Payload bytes of all logs on their way to a terminal without its acknowledgement.
        window_bytes: u32 = 65_536, Range(1024, GIB);
        /// The part of `window_bytes` that only private messages may use.
        unicast_reserve_bytes: u32 = 16_384, Range(0, GIB);
        /// How long an acknowledgement may take before the entry is sent again.
        ack_timeout_ms: u64 = 30_000, Range(10, HOUR_MS);
        /// Deliveries of one entry, over all sessions, before it counts as undeliverable.
        attempts_max: u8 = 10, Range(1, 255);
        /// Entries that one read of a log returns at most.
        page_entries: u32 = 64, Range(1, 4096);
        /// Payload bytes that one read of a log returns at most; the first entry always fits.
        page_bytes: u32 = 65_536, Range(1024, 64 * MIB);
        /// Topics that a terminal may subscribe to.
        topics_max: u32 = 64, Range(0, 4096);
        /// Hints that wait for a session; when it is full the session reads the log instead.
        inbox_items_max: usize = 256, Range(1, 65_536);
        /// Shortest time between two signs of life that a terminal is asked for; new links start so.
        heartbeat_min_ms: u64 = 30_000, Range(100, HOUR_MS);
        /// Longest time between two signs of life, reached by links that prove stable.
        heartbeat_max_ms: u64 = 600_000, Range(100, 24 * HOUR_MS);
        /// How much later than the heartbeat a sign of life may come.
        heartbeat_grace_ms: u64 = 10_000, Range(10, HOUR_MS);
        /// How long an acknowledged position may wait before it is written to the store.
        cursor_flush_ms: u64 = 1000, Range(1, MINUTE_MS);
        /// How often an idle session makes sure that no newer one has taken its place.
        generation_check_ms: u64 = 60_000, Range(10, HOUR_MS);
        /// Crashes of the sessions of one link within `crash_window_ms`; one more closes the link.
        crashes_max: u32 = 5, Range(0, 1000);
        /// The time in which crashes are counted together.
        crash_window_ms: u64 = 60_000, Range(100, 24 * HOUR_MS);
        /// How long a terminal that does not connect is remembered, with its positions.
        terminal_retention_days: u32 = 90, Range(1, 3650);
    }

    /// The bounds of the API.
    limits: LimitsConfig {
        /// Longest body of a request.
        body_bytes_max: usize = 262_144, Range(1024, 64 * MIB);
        /// Longest payload of a push.
        payload_bytes_max: usize = 4096, Range(1, MIB);
        /// How long a request may take, its body included.
        request_timeout_ms: u64 = 30_000, Range(100, HOUR_MS);
        /// How long an append to a log may take before its outcome counts as unknown.
        append_timeout_ms: u64 = 1000, Range(10, 10 * MINUTE_MS);
        /// How far the timestamp of a signature may be off.
        oauth_window_s: u64 = 300, Range(1, 86_400);
        /// Nonces remembered against replay; when it is full, signed requests are refused for a
        /// while.
        nonces_max: usize = 4_000_000, Range(1000, 1_000_000_000);
        /// Pushes at the same time, for each product and mode.
        pushes_in_flight_max: usize = 4096, Range(1, 1_000_000);
        /// Push connections (WebSocket) of one product at the same time.
        push_connections_max: usize = 256, Range(1, 1_000_000);
        /// Pushes that a push connection may have unanswered.
        push_window: u32 = 1024, Range(1, 65_536);
    }

    /// How much the logs hold before they refuse (inboxes) or drop the oldest (topics, broadcast).
    logs: LogsConfig {
        /// Entries of an inbox; a full one refuses the push for that target.
        inbox_entries_max: u32 = 256, Range(1, 1_000_000);
        /// Payload bytes of an inbox; a full one refuses the push for that target.
        inbox_bytes_max: u64 = 131_072, Range(1024, 64 * GIB);
        /// Entries of a topic; beyond them the oldest go.
        topic_entries_max: u32 = 10_000, Range(1, 100_000_000);
        /// Payload bytes of a topic; beyond them the oldest go.
        topic_bytes_max: u64 = 16_777_216, Range(1024, 1024 * GIB);
        /// Entries of a product's broadcast log; beyond them the oldest go.
        broadcast_entries_max: u32 = 10_000, Range(1, 100_000_000);
        /// Payload bytes of a product's broadcast log; beyond them the oldest go.
        broadcast_bytes_max: u64 = 16_777_216, Range(1024, 1024 * GIB);
    }

    /// Where the logs are kept.
    store: StoreConfig {
        /// What keeps them.
        kind: StoreKind = StoreKind::Embedded, Any;
        /// Directory of the embedded store, made by `clarion store init`.
        path: PathBuf = PathBuf::from("clarion-data"), Any;
        /// Below this much free space on its disk the store refuses pushes.
        free_bytes_min: u64 = 268_435_456, Range(0, 1024 * GIB);
        /// Memory for what was read before.
        cache_bytes: u64 = 67_108_864, Range(MIB, 1024 * GIB);
        /// Threads that read.
        readers: usize = 2, Range(1, 256);
        /// Operations that wait for the writer; beyond them the store answers "unavailable".
        queue_max: usize = 65_536, Range(1, 16_777_216);
        /// Operations made durable together with one fsync.
        batch_max: usize = 4096, Range(1, 1_048_576);
        /// How the Redis servers stand together.
        redis_mode: RedisMode = RedisMode::Standalone, Any;
        /// The Redis server, the sentinels, or some nodes of the Redis Cluster, as `HOST:PORT`.
        redis_nodes: Vec<String> = Vec::new(), HostPort;
        /// Names under which the sentinels know the masters, one for each shard.
        redis_masters: Vec<String> = vec!["clarion".to_owned()], Id;
        /// ACL user of the Redis servers.
        redis_username: Option<String> = None, Any;
        /// File with the password of the Redis servers, readable by its owner only. The environment
        /// variable `CLARION_REDIS_PASSWORD` goes before it.
        redis_password_file: Option<PathBuf> = None, Any;
        /// ACL user of the sentinels.
        redis_sentinel_username: Option<String> = None, Any;
        /// File with the password of the sentinels, readable by its owner only. The environment
        /// variable `CLARION_REDIS_SENTINEL_PASSWORD` goes before it.
        redis_sentinel_password_file: Option<PathBuf> = None, Any;
        /// Whether the servers and sentinels are reached over TLS.
        redis_tls: bool = false, Any;
        /// Certificates of the authorities that sign the servers' certificates, in PEM; without it
        /// the public ones.
        redis_tls_ca_file: Option<PathBuf> = None, Any;
        /// Certificate of this node for the servers in PEM.
        redis_tls_cert_file: Option<PathBuf> = None, Any;
        /// Private key of that certificate in PEM.
        redis_tls_key_file: Option<PathBuf> = None, Any;
        /// What all keys begin with; nodes of one cluster share it.
        redis_prefix: String = "clarion".to_owned(), Id;
        /// Connections that write, for each shard.
        redis_lanes: usize = 2, Range(1, 4);
        /// How long Redis may take to answer before its connections are made anew.
        redis_timeout_ms: u64 = 1000, Range(10, MINUTE_MS);
        /// Replicas that confirm every append before it counts as durable. 0 is for a Redis without
        /// replicas: what it acknowledged is lost with its machine.
        redis_replicas_min: u32 = 1, Range(0, 8);
        /// Whether a start checks that Redis keeps what it acknowledges: append-only file,
        /// no eviction, replicas, sentinels.
        redis_check: bool = true, Any;
    }

    /// How many actors there are.
    actors: ActorsConfig {
        /// Actors that own the inboxes of terminals and users.
        inbox_shards: u32 = 64, Range(1, 65_536);
        /// Actors that hand entries to sessions, for each mode; 0 is one for each core.
        relays: usize = 0, Range(0, 1024);
        /// Entries of a topic that its actor keeps in memory for sessions that catch up.
        topic_ring_entries: usize = 256, Range(0, 65_536);
        /// How often the head of every log that is read here is compared with the store: the last
        /// net under lost hints.
        head_check_ms: u64 = 60_000, Range(50, HOUR_MS);
        /// How long a product or topic actor may be idle before it is stopped.
        idle_stop_ms: u64 = 60_000, Range(10, 24 * HOUR_MS);
    }

    /// Who may administer the node.
    auth: AuthConfig {
        /// File with the admin token, at least 16 characters, readable by its owner only. The
        /// environment variable `CLARION_ADMIN_TOKEN` goes before it; `clarion start` needs one of
        /// the two.
        admin_token_file: Option<PathBuf> = None, Any;
    }

    /// What the node says about itself.
    log: LogConfig {
        /// For people or for machines.
        format: LogFormat = LogFormat::Human, Any;
        /// From which level on: one level, or parts such as `info,clarion_actors=debug`.
        level: String = "info".to_owned(), LogFilter;
    }
}
