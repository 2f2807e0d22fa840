//! What a person who makes a node part of a cluster can rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clarion_config::{Config, Environment, Mode, RedisMode, Role, StoreKind};

const CLUSTER: &str = "[cluster]\nlisten = \"127.0.0.1:7946\"\n";
const REDIS: &str = "[store]\nkind = \"redis\"\nredis_nodes = [\"127.0.0.1:6379\"]\n";

fn secrets() -> Environment {
    Environment::from_pairs([
        ("CLARION_ADMIN_TOKEN", "0123456789abcdef"),
        ("CLARION_COOKIE", "fedcba9876543210"),
    ])
}

fn start(text: &str) -> Result<Config, Vec<String>> {
    Config::parse(Path::new("n.toml"), text, &secrets(), Mode::Start)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn only_error(text: &str) -> String {
    let errors = start(text).expect_err("no mistake was found");
    assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
    errors.into_iter().next().unwrap()
}

#[test]
fn a_node_of_a_cluster_is_read() {
    let text = "[node]\nid = \"a\"\nisolation_group = \"gold\"\nroles = [\"gateway\", \"broker\"]\n\
         [cluster]\nlisten = \"0.0.0.0:7946\"\nadvertise = \"10.0.0.1:7946\"\n\
         seeds = [\"node-2.example.com:7946\", \"[fd00::2]:7946\"]\n\
         [store]\nkind = \"redis\"\nredis_mode = \"sentinel\"\n\
         redis_nodes = [\"10.0.0.5:26379\"]\nredis_masters = [\"a\", \"b\"]\nredis_tls = true\n";
    let config = start(text).unwrap();
    assert_eq!(config.node.roles, [Role::Gateway, Role::Broker]);
    assert_eq!(config.cluster.seeds, ["node-2.example.com:7946", "[fd00::2]:7946"]);
    assert_eq!(config.store.kind, StoreKind::Redis);
    assert_eq!(config.store.redis_mode, RedisMode::Sentinel);
    assert_eq!(config.store.redis_masters, ["a", "b"]);
    assert!(config.store.redis_tls);
    assert_eq!(start(&config.to_toml()).unwrap(), config);
    assert_eq!(config.cluster_cookie(&secrets()).unwrap().unwrap().expose(), "fedcba9876543210");
}

#[test]
fn lists_come_from_the_environment_with_commas() {
    let environment = Environment::from_pairs([
        ("CLARION_ADMIN_TOKEN", "0123456789abcdef"),
        ("CLARION_COOKIE", "fedcba9876543210"),
        ("CLARION_NODE__ROLES", "push, broker"),
        ("CLARION_CLUSTER__LISTEN", "127.0.0.1:7946"),
        ("CLARION_CLUSTER__SEEDS", "a:1,b:2"),
        ("CLARION_STORE__KIND", "redis"),
        ("CLARION_STORE__REDIS_NODES", "127.0.0.1:6379"),
        ("CLARION_STORE__REDIS_CHECK", "false"),
    ]);
    let config = Config::from_environment(&environment, Mode::Start).unwrap();
    assert_eq!(config.node.roles, [Role::Push, Role::Broker]);
    assert_eq!(config.cluster.seeds, ["a:1", "b:2"]);
    assert!(!config.store.redis_check);
}

#[test]
fn a_cluster_on_embedded_stores_says_what_to_do() {
    assert_eq!(
        only_error(&format!("{CLUSTER}[store]\nkind = \"embedded\"\n")),
        "n.toml:4:8: store.kind: the embedded store belongs to one node, and cluster.listen makes \
         this one of several; set store.kind = \"redis\" and store.redis_nodes, or remove \
         cluster.listen"
    );
    assert!(only_error(CLUSTER).contains("the embedded store belongs to one node"));
}

#[test]
fn a_cluster_needs_a_cookie_of_sixteen_characters() {
    let text = format!("{CLUSTER}{REDIS}");
    let with = |cookie: Option<&str>| {
        let token = [("CLARION_ADMIN_TOKEN", "0123456789abcdef")];
        let cookie = cookie.map(|cookie| ("CLARION_COOKIE", cookie));
        let environment = Environment::from_pairs(token.into_iter().chain(cookie));
        match Config::parse(Path::new("n.toml"), &text, &environment, Mode::Start) {
            Ok(_) => String::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    };
    assert_eq!(with(Some("0123456789abcdef")), "");
    assert!(with(None).contains("there is no cookie"));
    let weak = with(Some("hunter2"));
    assert!(weak.contains("shorter than 16 characters") && !weak.contains("hunter2"), "{weak}");
}

#[test]
fn values_that_do_not_fit_together_are_told() {
    let cluster = |more: &str| format!("{CLUSTER}{more}{REDIS}");
    let redis = |more: &str| format!("{REDIS}{more}");
    for (text, at, told) in [
        ("[node]\nroles = []\n".to_owned(), "n.toml:2:9: node.roles", "the node would do nothing"),
        (
            format!("[node]\nroles = [\"push\", \"push\"]\n{CLUSTER}{REDIS}"),
            "n.toml:2:9: node.roles",
            "names \"push\" twice",
        ),
        (
            "[node]\nroles = [\"gateway\"]\n".to_owned(),
            "n.toml:2:9: node.roles",
            "lacks push, broker, and without cluster.listen nobody else does it",
        ),
        (
            "[node]\nroles = [\"pusher\"]\n".to_owned(),
            "n.toml:2:9: node.roles",
            "give one of: push gateway broker",
        ),
        (
            "[cluster]\nseeds = [\"a:1\"]\n".to_owned(),
            "n.toml:2:9: cluster.seeds",
            "without cluster.listen this node is in no cluster",
        ),
        (cluster("seeds = [\"a\"]\n"), "n.toml:3:9: cluster.seeds", "is not a host with a port"),
        (cluster("seeds = [\"a:0\"]\n"), "n.toml:3:9: cluster.seeds", "is not a host with a port"),
        (cluster("seeds = \"a:1\"\n"), "n.toml:3:9: cluster.seeds", "put it in square brackets"),
        (
            format!("[node]\nid = \"a:b\"\n{CLUSTER}{REDIS}"),
            "n.toml:2:6: node.id",
            "holds a character that names in a cluster do not have",
        ),
        (cluster("name = \"a@b\"\n"), "n.toml:3:8: cluster.name", "use letters, digits"),
        (
            cluster("tls_key_file = \"k\"\n"),
            "n.toml:3:16: cluster.tls_key_file",
            "is set without cluster.tls_cert_file and cluster.tls_ca_file",
        ),
        (
            cluster("advertise = \"0.0.0.0:1\"\n"),
            "n.toml:3:13: cluster.advertise",
            "is no address that other nodes can use",
        ),
        (
            format!("[cluster]\nlisten = \"0.0.0.0:7946\"\n{REDIS}"),
            "n.toml:2:10: cluster.listen",
            "set cluster.advertise",
        ),
        (
            format!("[cluster]\nlisten = \"127.0.0.1:8081\"\n{REDIS}"),
            "n.toml:2:10: cluster.listen",
            "want the same port",
        ),
        (
            cluster("lane_queue_bytes = 5000\n"),
            "n.toml:3:20: cluster.lane_queue_bytes",
            "must be at least frame_bytes_max",
        ),
        (
            cluster("[limits]\npayload_bytes_max = 1_048_576\nbody_bytes_max = 2_000_000\n"),
            "n.toml:4:21: limits.payload_bytes_max",
            "messages between nodes have room for a payload of 1042432 bytes",
        ),
        (
            "[store]\nredis_lanes = 3\n".to_owned(),
            "n.toml:2:15: store.redis_lanes",
            "means nothing without store.kind = \"redis\"",
        ),
        (
            "[store]\nkind = \"redis\"\n".to_owned(),
            "n.toml: store.redis_nodes",
            "the store has no server",
        ),
        (
            redis("redis_masters = [\"a\"]\n"),
            "n.toml:4:17: store.redis_masters",
            "means nothing without store.redis_mode = \"sentinel\"",
        ),
        (
            redis("redis_mode = \"sentinel\"\nredis_masters = []\n"),
            "n.toml:5:17: store.redis_masters",
            "is empty",
        ),
        (
            redis("redis_tls_ca_file = \"ca\"\n"),
            "n.toml:4:21: store.redis_tls_ca_file",
            "means nothing without store.redis_tls = true",
        ),
        (
            redis("redis_tls = true\nredis_tls_cert_file = \"c\"\n"),
            "n.toml:5:23: store.redis_tls_cert_file",
            "is set without redis_tls_key_file",
        ),
        (redis("redis_tls = \"yes\"\n"), "n.toml:4:13: store.redis_tls", "remove the quotes"),
    ] {
        let errors = start(&text).expect_err(&text);
        let found = errors.iter().any(|error| error.starts_with(at) && error.contains(told));
        assert!(found, "{text}\n{errors:#?}");
    }
}

#[test]
fn a_node_without_the_gateway_role_has_no_terminal_listener_to_collide_with() {
    let text = format!(
        "[node]\nroles = [\"push\", \"broker\"]\n[http]\nlisten = \"127.0.0.1:8081\"\n\
         [cluster]\nlisten = \"127.0.0.1:7946\"\n{REDIS}"
    );
    assert!(start(&text).is_ok(), "{:?}", start(&text));
}

#[test]
fn dev_is_one_node() {
    let text = format!("{CLUSTER}{REDIS}");
    let errors = Config::parse(Path::new("n.toml"), &text, &secrets(), Mode::Dev).unwrap_err();
    assert!(errors[0].mend.contains("clarion cluster up"), "{errors:?}");
}

#[test]
fn files_with_secrets_are_read_checked_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        toml::Value::String(path.to_str().unwrap().to_owned()).to_string()
    };
    let cookie = file("cookie", " 0123456789abcdef\n", 0o600);
    let password = file("password", "pass word\n", 0o600);
    let open = file("open", "pass word\n", 0o644);
    let config = format!(
        "{CLUSTER}cookie_file = {cookie}\n{REDIS}redis_password_file = {password}\n[auth]\n\
         admin_token_file = {cookie}\n"
    );
    let none = Environment::default();
    let load = |text: &str| {
        let path = directory.path().join("node.toml");
        fs::write(&path, text).unwrap();
        Config::load(&path, &none, Mode::Start)
    };
    let config = load(&config).unwrap();
    assert_eq!(config.cluster_cookie(&none).unwrap().unwrap().expose(), "0123456789abcdef");
    let secrets = config.redis_secrets(&none).unwrap();
    assert_eq!(secrets.password.as_ref().unwrap().expose(), "pass word");
    assert_eq!(secrets.sentinel_password, None);
    assert!(!format!("{secrets:?}").contains("pass word"), "{secrets:?}");
    let environment = Environment::from_pairs([("CLARION_REDIS_PASSWORD", "other")]);
    let secrets = config.redis_secrets(&environment).unwrap();
    assert_eq!(secrets.password.unwrap().expose(), "other");

    let errors = load(&format!(
        "{CLUSTER}cookie_file = {open}\n{REDIS}redis_password_file = {open}\n[auth]\n\
         admin_token_file = {cookie}\n"
    ))
    .unwrap_err();
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().all(|error| error.contains("chmod 600")), "{told:#?}");
}
