//! The command line without a node: usage, exit codes, config files, the store's lineage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod command;

use std::net::TcpListener;

use command::{ADMIN_TOKEN, clarion, code, config_in, json, run, stderr, stdout};

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [
        vec!["frobnicate"],
        vec!["push", "--terminal", "t"],
        vec!["push", "--terminal", "t", "--all", "--text", "x"],
        vec!["push", "--terminal", "not an id", "--text", "x"],
        vec!["push", "--all", "--text", "x", "--ttl", "5"],
        vec!["dev", "--http", "0.0.0.0:8080"],
        vec!["bench", "push", "--pid", "1"],
    ] {
        let output = run(directory.path(), &arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: "), "{arguments:?}: {}", stderr(&output));
    }
    let help = run(directory.path(), &["push", "--help"]);
    assert_eq!(code(&help), 0);
    assert!(stdout(&help).contains("Examples:"), "{}", stdout(&help));
}

#[test]
fn a_node_that_is_not_there_is_5_and_missing_credentials_are_2() {
    let directory = tempfile::tempdir().unwrap();
    // Bound and never listened on: nobody else gets the port, and connections are refused.
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let server = format!("http://{}", taken.local_addr().unwrap().as_socket().unwrap());
    let output = clarion()
        .current_dir(directory.path())
        .args(["--json", "status", "--server", &server])
        .env("CLARION_ADMIN_TOKEN", ADMIN_TOKEN)
        .output()
        .unwrap();
    assert_eq!(code(&output), 5, "{}", stderr(&output));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["exit_code"], 5);
    assert_eq!(error["error"]["exit"], "unreachable");

    let output = run(directory.path(), &["status"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("hint: set CLARION_ADMIN_TOKEN"), "{}", stderr(&output));
    let output = run(directory.path(), &["push", "--all", "--text", "x"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("CLARION_API_KEY"), "{}", stderr(&output));
}

#[test]
fn check_config_tells_every_error_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.toml");
    std::fs::write(
        &file,
        "[http]\nlisten = \"nowhere\"\nlistne = 1\n[limits]\npayload_bytes_max = 0\n[nonsense]\n",
    )
    .unwrap();
    let output = run(directory.path(), &["check-config", "node.toml"]);
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    for part in [
        "node.toml:2:10: http.listen",
        "node.toml:3:1: http.listne",
        "did you mean `listen`?",
        "node.toml:5:21: limits.payload_bytes_max",
        "node.toml:6:2: nonsense",
        "auth.admin_token_file",
    ] {
        assert!(stderr(&output).contains(part), "{part} is not in\n{}", stderr(&output));
    }
    let output = run(directory.path(), &["--json", "check-config", "node.toml"]);
    assert_eq!(code(&output), 3);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["ok"], false);
    assert_eq!(document["errors"].as_array().unwrap().len(), 5, "{document:#}");
    assert_eq!(code(&run(directory.path(), &["start", "node.toml"])), 3, "start checks it, too");
    assert_eq!(code(&run(directory.path(), &["check-config", "missing.toml"])), 3);
}

#[test]
fn check_config_prints_the_config_in_force_which_reads_back_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let file = config_in(directory.path(), "[node]\nid = \"n7\"");
    let check = |file: &std::path::Path, arguments: &[&str]| {
        clarion()
            .args(arguments)
            .arg(file)
            .env("CLARION_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("CLARION_LIMITS__PAYLOAD_BYTES_MAX", "1234")
            .output()
            .unwrap()
    };
    let output = check(&file, &["check-config", "--print"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("payload_bytes_max = 1234"), "{}", stdout(&output));
    assert!(!stdout(&output).contains(ADMIN_TOKEN));
    let again = directory.path().join("again.toml");
    std::fs::write(&again, &output.stdout).unwrap();
    assert_eq!(stdout(&check(&again, &["check-config", "--print"])), stdout(&output));
    let document = json(&check(&file, &["--json", "check-config"]));
    assert_eq!(document["config"]["node"]["id"], "n7");
    assert!(stdout(&run(directory.path(), &["config", "reference"])).contains("drain_timeout_ms"));
}

/// I5: a lineage is made by `store init` only, never over something, never silently.
#[test]
fn a_store_gets_its_lineage_from_init_only() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let file = config_in(directory.path(), &format!("[store]\npath = {data:?}"));
    let file = file.to_str().unwrap();
    let admin = |arguments: &[&str]| {
        clarion().args(arguments).env("CLARION_ADMIN_TOKEN", ADMIN_TOKEN).output().unwrap()
    };
    let output = admin(&["start", file]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let wanted = format!("`clarion store init {file}`");
    assert!(stderr(&output).contains(&wanted), "{wanted} is not in\n{}", stderr(&output));
    assert!(!data.exists(), "starting makes nothing");

    let first = json(&admin(&["--json", "store", "init", file]));
    let output = admin(&["store", "init", file]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("is not empty"), "{}", stderr(&output));
    let restored = json(&admin(&["--json", "store", "restored", file]));
    assert_ne!(first["epoch"], restored["epoch"]);

    std::fs::remove_dir_all(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "mine").unwrap();
    assert_eq!(code(&admin(&["store", "init", file])), 1, "never over somebody's files");
    assert_eq!(code(&admin(&["store", "restored", file])), 1);
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "mine");
}

#[test]
fn a_port_in_use_names_the_flag_or_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let output = run(directory.path(), &["dev", "--http", "127.0.0.1:0", "--terminals", &address]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("--terminals"), "{}", stderr(&output));
    assert!(stderr(&output).contains("another process listens there"), "{}", stderr(&output));

    let data = directory.path().join("data");
    let file = directory.path().join("node.toml");
    let text = format!("[http]\nlisten = \"{address}\"\n[store]\npath = {data:?}\n");
    std::fs::write(&file, text).unwrap();
    let admin = |arguments: &[&str]| {
        clarion().args(arguments).arg(&file).env("CLARION_ADMIN_TOKEN", ADMIN_TOKEN).output()
    };
    assert_eq!(code(&admin(&["store", "init"]).unwrap()), 0);
    let output = admin(&["start"]).unwrap();
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("`http.listen`"), "{}", stderr(&output));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
}

#[test]
fn dev_does_not_make_a_store_where_one_went_missing() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("clarion-data")).unwrap();
    let output =
        run(directory.path(), &["dev", "--http", "127.0.0.1:0", "--terminals", "127.0.0.1:0"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("holds no store"), "{}", stderr(&output));
}
