//! How the keys of a cluster and of its Redis fit together.

use crate::check::{collide, number};
use crate::environment::{COOKIE, Environment};
use crate::files;
use crate::load::{Draft, Mode, Name};
use crate::setting::{RedisMode, Role, StoreKind};

const LISTEN: Name = ("cluster", "listen");
const ROLES: Name = ("node", "roles");
const KIND: Name = ("store", "kind");

/// What a message between nodes holds beside the payload: names, positions, attributes.
const MESSAGE_ENVELOPE_BYTES: u64 = 2048;

/// The longest message between nodes.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024 - 4096;

pub(crate) fn check(draft: &mut Draft, environment: &Environment, mode: Mode) {
    roles(draft);
    if draft.config.cluster.listen.is_some() {
        in_cluster(draft, environment, mode);
    } else {
        alone(draft);
    }
    tls_triple(draft);
    redis(draft, environment);
}

fn roles(draft: &mut Draft) {
    if !draft.sound(&[ROLES]) {
        return;
    }
    let roles = &draft.config.node.roles;
    if roles.is_empty() {
        draft.fault(ROLES, "is empty: the node would do nothing", ALL_ROLES);
        return;
    }
    let twice = Role::ALL.into_iter().find(|role| roles.iter().filter(|r| *r == role).count() > 1);
    if let Some(role) = twice {
        draft.fault(ROLES, format!("names {:?} twice", role.as_str()), "name every role once");
    }
    let missing: Vec<&str> = Role::ALL
        .into_iter()
        .filter(|role| !draft.config.node.roles.contains(role))
        .map(Role::as_str)
        .collect();
    if draft.config.cluster.listen.is_none() && !missing.is_empty() && draft.sound(&[LISTEN]) {
        draft.fault(
            ROLES,
            format!("lacks {}, and without cluster.listen nobody else does it", missing.join(", ")),
            "remove node.roles, or set cluster.listen to join the nodes that do",
        );
    }
}

const ALL_ROLES: &str = "remove it, or name some of \"push\", \"gateway\", \"broker\"";

/// What is set for a cluster says that one is meant.
fn alone(draft: &mut Draft) {
    const MEANT: [&str; 6] =
        ["advertise", "seeds", "cookie_file", "tls_cert_file", "tls_key_file", "tls_ca_file"];
    for key in MEANT {
        let name = ("cluster", key);
        if differs(draft, name) && draft.sound(&[LISTEN]) {
            draft.fault(
                name,
                "is set, but without cluster.listen this node is in no cluster",
                format!("set cluster.listen, or remove cluster.{key}"),
            );
        }
    }
}

fn in_cluster(draft: &mut Draft, environment: &Environment, mode: Mode) {
    if mode == Mode::Dev {
        draft.fault(
            LISTEN,
            "`clarion dev` is one node alone",
            "use `clarion cluster up PROFILE` for a cluster on this machine, or `clarion start`",
        );
        return;
    }
    if draft.sound(&[KIND]) && draft.config.store.kind == StoreKind::Embedded {
        draft.fault(
            KIND,
            "the embedded store belongs to one node, and cluster.listen makes this one of several",
            "set store.kind = \"redis\" and store.redis_nodes, or remove cluster.listen",
        );
    }
    names(draft);
    addresses(draft);
    cookie(draft, environment);
    sizes(draft);
}

/// Certificates between nodes are made of these names, and host names hold less than ids.
fn names(draft: &mut Draft) {
    const ID: Name = ("node", "id");
    const CLUSTER: Name = ("cluster", "name");
    let fits = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let (id, cluster) = (fits(&draft.config.node.id), fits(&draft.config.cluster.name));
    for (name, fits) in [(ID, id), (CLUSTER, cluster)] {
        if !fits && draft.sound(&[name]) {
            draft.fault(
                name,
                "holds a character that names in a cluster do not have",
                "use letters, digits, `-`, `_` and `.` only",
            );
        }
    }
}

fn addresses(draft: &mut Draft) {
    const ADVERTISE: Name = ("cluster", "advertise");
    let cluster = &draft.config.cluster;
    let Some(listen) = cluster.listen else { return };
    match cluster.advertise {
        None if listen.ip().is_unspecified() => draft.fault(
            LISTEN,
            format!("{listen} is no address that other nodes can use"),
            "set cluster.advertise to the address of this machine, with the port",
        ),
        Some(advertise) if advertise.ip().is_unspecified() || advertise.port() == 0 => draft.fault(
            ADVERTISE,
            format!("{advertise} is no address that other nodes can use"),
            "give the address of this machine and the port at which others reach it",
        ),
        None | Some(_) => {}
    }
    let config = &draft.config;
    let gateway = config.node.roles.contains(&Role::Gateway);
    let others = [
        (("http", "listen"), "the API", Some(config.http.listen)),
        (("terminals", "listen"), "the terminals", gateway.then_some(config.terminals.listen)),
    ];
    for (name, what, other) in others {
        if let Some(other) = other
            && draft.sound(&[LISTEN, name])
            && collide(listen, other)
        {
            draft.fault(
                LISTEN,
                format!("other nodes ({listen}) and {what} ({other}) want the same port"),
                format!("give cluster.listen and {}.{} different ports", name.0, name.1),
            );
        }
    }
}

fn cookie(draft: &mut Draft, environment: &Environment) {
    const FILE: Name = ("cluster", "cookie_file");
    let in_environment = files::cookie_of_environment(environment);
    let given = in_environment.is_some() || draft.config.cluster.cookie_file.is_some();
    if let Some(Err(error)) = in_environment {
        draft.add(error);
    }
    if !given && draft.sound(&[FILE]) {
        draft.fault(
            FILE,
            "there is no cookie, the secret by which nodes of a cluster know each other",
            format!("set cluster.cookie_file, or {COOKIE} in the environment, alike on all nodes"),
        );
    }
}

fn sizes(draft: &mut Draft) {
    const FRAME: Name = ("cluster", "frame_bytes_max");
    const PAYLOAD: Name = ("limits", "payload_bytes_max");
    let cluster = &draft.config.cluster;
    let frame = number(cluster.frame_bytes_max);
    let payload = number(draft.config.limits.payload_bytes_max);
    let lanes = [
        (("cluster", "lane_credit_bytes"), cluster.lane_credit_bytes),
        (("cluster", "lane_queue_bytes"), cluster.lane_queue_bytes),
    ];
    if payload + MESSAGE_ENVELOPE_BYTES > MESSAGE_BYTES_MAX && draft.sound(&[PAYLOAD]) {
        let room = MESSAGE_BYTES_MAX - MESSAGE_ENVELOPE_BYTES;
        draft.fault(
            PAYLOAD,
            format!("messages between nodes have room for a payload of {room} bytes"),
            "lower limits.payload_bytes_max",
        );
    }
    for (name, bytes) in lanes {
        if bytes < frame && draft.sound(&[FRAME, name]) {
            draft.fault(
                if draft.is_set(name) { name } else { FRAME },
                format!("{} ({bytes}) must be at least frame_bytes_max ({frame})", name.1),
                format!("raise cluster.{}, or lower cluster.frame_bytes_max", name.1),
            );
        }
    }
}

/// Mutual TLS needs all three files.
fn tls_triple(draft: &mut Draft) {
    let cluster = &draft.config.cluster;
    let files = [
        ("tls_cert_file", cluster.tls_cert_file.is_some()),
        ("tls_key_file", cluster.tls_key_file.is_some()),
        ("tls_ca_file", cluster.tls_ca_file.is_some()),
    ];
    let Some(&(has, _)) = files.iter().find(|(_, set)| *set) else { return };
    let lacks: Vec<String> =
        files.iter().filter(|(_, set)| !set).map(|(key, _)| format!("cluster.{key}")).collect();
    if !lacks.is_empty() && draft.sound(&files.map(|(key, _)| ("cluster", key))) {
        draft.fault(
            ("cluster", has),
            format!("is set without {}", lacks.join(" and ")),
            "set all three of tls_cert_file, tls_key_file and tls_ca_file, or none",
        );
    }
}

fn redis(draft: &mut Draft, environment: &Environment) {
    const NODES: Name = ("store", "redis_nodes");
    const MODE: Name = ("store", "redis_mode");
    if !draft.sound(&[KIND]) {
        return;
    }
    if draft.config.store.kind != StoreKind::Redis {
        foreign_keys(draft, "redis_", KIND, "\"redis\"");
        return;
    }
    for error in files::passwords_of_environment(environment) {
        draft.add(error);
    }
    let store = &draft.config.store;
    if store.redis_nodes.is_empty() && draft.sound(&[NODES]) {
        draft.fault(
            NODES,
            "is empty: the store has no server",
            "name the Redis server, the sentinels or the nodes of the Redis Cluster as HOST:PORT",
        );
    }
    if !draft.sound(&[MODE]) {
        return;
    }
    if draft.config.store.redis_mode == RedisMode::Sentinel {
        masters(draft);
    } else {
        for key in ["redis_masters", "redis_sentinel_username", "redis_sentinel_password_file"] {
            only_with(draft, ("store", key), "store.redis_mode = \"sentinel\"");
        }
    }
    redis_tls(draft);
}

fn masters(draft: &mut Draft) {
    const MASTERS: Name = ("store", "redis_masters");
    let masters = &draft.config.store.redis_masters;
    let distinct: std::collections::BTreeSet<&String> = masters.iter().collect();
    let (empty, twice) = (masters.is_empty(), distinct.len() < masters.len());
    if draft.sound(&[MASTERS]) && (empty || twice) {
        let reason = if empty { "is empty" } else { "names a master twice" };
        draft.fault(MASTERS, reason, "name every master that the sentinels watch once");
    }
}

fn redis_tls(draft: &mut Draft) {
    const CERT: Name = ("store", "redis_tls_cert_file");
    const KEY: Name = ("store", "redis_tls_key_file");
    let store = &draft.config.store;
    let (cert, key) = (store.redis_tls_cert_file.is_some(), store.redis_tls_key_file.is_some());
    if !store.redis_tls {
        foreign_keys(draft, "redis_tls_", ("store", "redis_tls"), "true");
    } else if cert != key && draft.sound(&[CERT, KEY]) {
        let (has, lacks) = if cert { (CERT, KEY) } else { (KEY, CERT) };
        draft.fault(
            has,
            format!("is set without {}", lacks.1),
            format!("set store.{} too, or neither", lacks.1),
        );
    }
}

/// Keys with this prefix that somebody set although another key makes them mean nothing.
fn foreign_keys(draft: &mut Draft, prefix: &str, needs: Name, value: &str) {
    let section = crate::keys::SECTIONS.iter().find(|section| section.name == "store");
    for key in section.into_iter().flat_map(|section| section.keys) {
        if key.name.starts_with(prefix) {
            only_with(draft, ("store", key.name), &format!("{}.{} = {value}", needs.0, needs.1));
        }
    }
}

fn only_with(draft: &mut Draft, name: Name, setting: &str) {
    if differs(draft, name) {
        draft.fault(
            name,
            format!("means nothing without {setting}"),
            format!("set {setting}, or remove {}.{}", name.0, name.1),
        );
    }
}

/// Whether somebody chose something. The printed form of a config sets every key, to its default
/// where nobody chose another.
fn differs(draft: &Draft, name: Name) -> bool {
    let default = crate::keys::Config::default().get(name.0, name.1);
    draft.is_set(name) && draft.sound(&[name]) && draft.config.get(name.0, name.1) != default
}
