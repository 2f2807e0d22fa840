//! What a person who writes a config file can rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use clarion_config::{Config, ConfigError, Environment, LogFormat, Mode, Origin, report};

fn none() -> Environment {
    Environment::default()
}

fn dev(text: &str) -> Result<Config, Vec<ConfigError>> {
    Config::parse(Path::new("test.toml"), text, &none(), Mode::Dev)
}

fn errors(text: &str) -> Vec<String> {
    dev(text).expect_err("no mistake was found").iter().map(ToString::to_string).collect()
}

fn only_error(text: &str) -> String {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.into_iter().next().unwrap()
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(dev("").unwrap(), Config::default());
    assert_eq!(Config::from_environment(&none(), Mode::Dev).unwrap(), Config::default());
}

#[test]
fn keys_are_read_in_every_way_toml_writes_them() {
    let config = dev(concat!(
        "terminals.backlog = 0x100\n",
        "log = { format = \"json\" }\n",
        "[http]\nlisten = '[::1]:9000'\nconnections_max = 1_000\n",
        "[store]\npath = \"\"\"/var/lib/clarion\"\"\"\r\n",
    ))
    .unwrap();
    assert_eq!(config.terminals.backlog, 256);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.http.listen, "[::1]:9000".parse().unwrap());
    assert_eq!(config.http.connections_max, 1000);
    assert_eq!(config.store.path, Path::new("/var/lib/clarion"));
}

#[test]
fn every_error_is_told_at_once_in_the_order_of_the_file() {
    let text = r#"
[http]
listn = "127.0.0.1:9000"
connections_max = "many"
[htpp]
[session]
window_entries = 0
attempts_max = 256
heartbeat_min_ms = 20_000
heartbeat_max_ms = 15_000
window_bytes = 2048
[log]
format = "xml"
"#;
    assert_eq!(
        errors(text),
        [
            "test.toml:3:1: http.listn: unknown key `listn`; did you mean `listen`?",
            "test.toml:4:19: http.connections_max: must be a whole number, not a string; remove the quotes",
            "test.toml:5:2: htpp: unknown section `htpp`; did you mean `http`?",
            "test.toml:7:18: session.window_entries: 0 is out of bounds; give a whole number from 1 to 65536",
            "test.toml:8:16: session.attempts_max: 256 is out of bounds; give a whole number from 1 to 255",
            "test.toml:9:20: session.heartbeat_min_ms: heartbeat_min_ms (20000) must be at most \
             heartbeat_max_ms (15000); lower session.heartbeat_min_ms or raise session.heartbeat_max_ms",
            "test.toml:11:16: session.window_bytes: unicast_reserve_bytes (16384) must be below \
             window_bytes (2048); lower session.unicast_reserve_bytes or raise session.window_bytes",
            "test.toml:11:16: session.window_bytes: session.window_bytes has no room for the payload, \
             beside unicast_reserve_bytes (limits.payload_bytes_max is 4096); raise \
             session.window_bytes by 4096, or lower limits.payload_bytes_max",
            "test.toml:13:10: log.format: \"xml\" is not one of its values; give one of: human json",
        ]
    );
}

#[test]
fn every_line_that_is_not_toml_is_told_beside_the_other_errors() {
    let text = "[http]\nlisten = \nconnections_max = 0\nexternal_url = \"unclosed\n[log]\nlevel = \"loud\"\n";
    let errors = dev(text).unwrap_err();
    let lines: Vec<Option<u32>> = errors.iter().map(|e| e.origin.line()).collect();
    assert_eq!(lines, [Some(2), Some(3), Some(4), Some(6)], "{}", report(&errors));
    assert!(errors[0].reason.starts_with("not TOML: "), "{errors:#?}");
    assert!(errors[2].reason.starts_with("not TOML: "), "{errors:#?}");
}

#[test]
fn a_key_given_twice_is_an_error() {
    let error = only_error("[log]\nlevel = \"info\"\nlevel = \"warn\"\n");
    assert!(error.starts_with("test.toml:3:1: not TOML: duplicate key"), "{error}");
}

/// The other kind of file: not a word about its sections, nor about what a node would lack.
#[test]
fn a_launch_profile_is_recognised() {
    let error = only_error("[profile]\nabout = \"x\"\n[common.log]\n[[nodes]]\nname = \"a\"\n");
    assert!(error.starts_with("test.toml:1:2: this is a launch profile"), "{error}");
    assert!(error.contains("`clarion cluster up`"), "{error}");
}

#[test]
fn unknown_names_come_with_the_nearest_known_one() {
    for (text, told) in [
        ("[terminal]\n", "unknown section `terminal`; did you mean `terminals`?"),
        (
            "[cache]\n",
            "unknown section `cache`; the sections are node, cluster, http, terminals, session",
        ),
        ("[log]\nlewel = 1\n", "unknown key `lewel`; did you mean `level`?"),
        ("[log]\nzzz = 1\n", "unknown key `zzz`; remove it; the reference lists the keys of [log]"),
        ("[http]\nbacklog = 1\n", "unknown key `backlog`; it belongs to [terminals]"),
        (
            "listen = 1\n",
            "`listen` stands outside its section; put it under [cluster] or [http] or [terminals]",
        ),
        ("http = 1\n", "must be a section; write [http] on a line of its own"),
        ("[[http]]\n", "must be a section; write [http] on a line of its own"),
    ] {
        let error = only_error(text);
        assert!(error.contains(told), "{text:?} gave {error}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_says_what_is_wanted() {
    for (text, told) in [
        ("[log]\nlevel = 3\n", "must be a string, not a whole number"),
        ("[log]\nlevel = \"chatty\"\n", "is not a log filter"),
        ("[node]\nid = \"\"\n", "is empty"),
        ("[node]\nid = \"a b\"\n", "holds a character outside"),
        ("[http]\nlisten = \"localhost:80\"\n", "give an IP address and a port"),
        ("[http]\nlisten = \"127.0.0.1\"\n", "give an IP address and a port"),
        ("[store]\nreaders = 1.5\n", "not a number with a fraction"),
        ("[store]\nreaders = -1\n", "-1 is out of bounds"),
        ("[store]\nreaders = 99999999999999999999999\n", "is out of bounds"),
        ("[store]\nreaders = true\n", "not true or false"),
        ("[store]\nreaders = [1]\n", "not an array"),
        ("[store]\nreaders = {}\n", "not a table"),
        ("[store]\nreaders = 2026-01-01\n", "not a date"),
        ("[store]\nkind = \"memory\"\n", "give one of: embedded redis"),
        ("[store]\npath = \"\"\n", "is not a path"),
        ("[http]\nexternal_url = \"push.example.com\"\n", "is not a URL"),
        ("[http]\nexternal_url = \"ftp://x\"\n", "is neither http:// nor https://"),
        ("[http]\nexternal_url = \"https://u:p@x\"\n", "holds credentials"),
        ("[http]\nexternal_url = \"https://x/?a\"\n", "has a query or fragment"),
        ("[http]\nexternal_url = \"https://x/y/\"\n", "ends with a slash"),
        ("[terminals]\nexternal_url = \"https://x\"\n", "is neither ws:// nor wss://"),
    ] {
        let error = only_error(text);
        assert!(error.contains(told), "{text:?} gave {error}");
    }
}

#[test]
fn values_that_do_not_fit_together_are_told() {
    for (text, at, told) in [
        (
            "[http]\ntls_cert_file = \"c\"\n",
            "test.toml:2:17: http.tls_cert_file",
            "is set without tls_key_file",
        ),
        (
            "[terminals]\ntls_key_file = \"k\"\n",
            "test.toml:2:16: terminals.tls_key_file",
            "is set without tls_cert_file",
        ),
        (
            "[terminals]\nlisten = \"127.0.0.1:8080\"\n",
            "test.toml:2:10: terminals.listen",
            "want the same port",
        ),
        (
            "[http]\nlisten = \"127.0.0.1:8081\"\n",
            "test.toml:2:10: http.listen",
            "want the same port",
        ),
        (
            "[session]\nheartbeat_max_ms = 20_000\n",
            "test.toml:2:20: session.heartbeat_max_ms",
            "heartbeat_min_ms (30000) must be at most heartbeat_max_ms (20000)",
        ),
        (
            "[session]\nunicast_reserve_bytes = 65_536\nwindow_bytes = 65_536\n[limits]\npayload_bytes_max = 1\n[logs]\n",
            "test.toml:2:25: session.unicast_reserve_bytes",
            "must be below window_bytes",
        ),
        (
            "[limits]\nappend_timeout_ms = 31_000\n",
            "test.toml:2:21: limits.append_timeout_ms",
            "must be at most request_timeout_ms (30000)",
        ),
        (
            "[store]\nqueue_max = 10\n",
            "test.toml:2:13: store.queue_max",
            "batch_max (4096) must be at most queue_max (10)",
        ),
        (
            "[limits]\nbody_bytes_max = 20_000\n",
            "test.toml:2:18: limits.body_bytes_max",
            "has no room for the payload in base64",
        ),
        (
            "[logs]\ninbox_bytes_max = 4095\n",
            "test.toml:2:19: logs.inbox_bytes_max",
            "has no room for the payload",
        ),
    ] {
        let errors = errors(text);
        let found = errors.iter().any(|error| error.starts_with(at) && error.contains(told));
        assert!(found, "{text:?} gave {errors:#?}");
    }
    let any_port = "[http]\nlisten = \"127.0.0.1:0\"\n[terminals]\nlisten = \"127.0.0.1:0\"\n";
    assert!(dev(any_port).is_ok());
}

#[test]
fn dev_listens_on_loopback_only() {
    let error = only_error("[http]\nlisten = \"0.0.0.0:8080\"\n");
    assert!(error.contains("can be reached from other machines"), "{error}");
}

#[test]
fn start_needs_an_admin_token_and_dev_does_not() {
    let start = |environment: &Environment| {
        Config::parse(Path::new("t.toml"), "", environment, Mode::Start)
    };
    let errors = start(&none()).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].to_string(),
        "t.toml: auth.admin_token_file: there is no admin token; \
         set auth.admin_token_file, or CLARION_ADMIN_TOKEN in the environment"
    );
    let environment = Environment::from_pairs([("CLARION_ADMIN_TOKEN", "0123456789abcdef")]);
    let config = start(&environment).unwrap();
    let token = config.admin_token(&environment).unwrap().unwrap();
    assert_eq!(token.expose(), "0123456789abcdef");
    assert_eq!(format!("{token:?}"), "AdminToken(…)");
    assert!(!format!("{environment:?}").contains("0123456789abcdef"));
    for weak in ["hunter2", "0123456789 abcdef"] {
        let environment = Environment::from_pairs([("CLARION_ADMIN_TOKEN", weak)]);
        let error = config.admin_token(&environment).unwrap_err();
        assert!(!error.to_string().contains(weak), "{error}");
        assert_eq!(start(&environment).unwrap_err(), [error]);
    }
}

#[test]
fn the_environment_goes_before_the_file() {
    let environment = Environment::from_pairs([
        ("CLARION_HTTP__LISTEN", "127.0.0.1:9000"),
        ("CLARION_SESSION__WINDOW_ENTRIES", "7"),
        ("CLARION_ADMIN_TOKEN", "0123456789abcdef"),
        ("CLARION_TEST_PYTHON", "/usr/bin/python3"),
        ("PATH", "/usr/bin"),
    ]);
    let text = "[http]\nlisten = \"127.0.0.1:8000\"\n";
    let config = Config::parse(Path::new("t.toml"), text, &environment, Mode::Dev).unwrap();
    assert_eq!(config.http.listen, "127.0.0.1:9000".parse().unwrap());
    assert_eq!(config.session.window_entries, 7);
}

#[test]
fn a_wrong_variable_is_told_by_name() {
    for (variable, value, told) in [
        ("CLARION_HTTP__LISTN", "x", "http.listn: unknown key `listn`; did you mean `listen`?"),
        ("CLARION_HTPP__LISTEN", "x", "htpp: unknown section `htpp`; did you mean `http`?"),
        ("CLARION_STORE__READERS", "two", "store.readers: \"two\" is not a whole number"),
        ("CLARION_STORE__READERS", "0", "store.readers: 0 is out of bounds"),
        ("CLARION_STORE__READERS", "", "store.readers: \"\" is not a whole number"),
        ("CLARION_http__listen", "127.0.0.1:1", "write it CLARION_HTTP__LISTEN"),
        ("CLARION_SESSION__HEARTBEAT_MAX_MS", "1000", "must be at most heartbeat_max_ms (1000)"),
    ] {
        let environment = Environment::from_pairs([(variable, value)]);
        let errors = Config::parse(Path::new("t.toml"), "", &environment, Mode::Dev).unwrap_err();
        assert_eq!(errors.len(), 1, "{variable}: {errors:#?}");
        let error = errors[0].to_string();
        assert!(error.starts_with(&format!("environment variable {variable}: ")), "{error}");
        assert!(error.contains(told), "{error}");
        assert_eq!(errors[0].origin, Origin::Environment { variable: variable.to_owned() });
    }
}

#[test]
fn a_missing_or_unreadable_file_is_one_error() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("no.toml");
    let binary = directory.path().join("binary.toml");
    std::fs::write(&binary, b"[http]\n\xff\n").unwrap();
    let huge = directory.path().join("huge.toml");
    std::fs::write(&huge, vec![b'\n'; 1024 * 1024 + 1]).unwrap();
    for (path, told) in [
        (missing.as_path(), "cannot be read"),
        (directory.path(), "cannot be read"),
        (&binary, "line 2 is not UTF-8"),
        (&huge, "is longer than"),
    ] {
        let errors = Config::load(path, &none(), Mode::Dev).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].reason.contains(told), "{errors:#?}");
    }
}

#[test]
fn errors_are_json_for_scripts() {
    let errors = dev("[http]\nlistn = 1\n").unwrap_err();
    // Serialize is what `check-config --json` prints; TOML shows it here as well as JSON would.
    let value = toml::Value::try_from(&errors[0]).unwrap();
    assert_eq!(value["origin"]["file"]["line"].as_integer(), Some(2));
    assert_eq!(value["key"].as_str(), Some("http.listn"));
}
