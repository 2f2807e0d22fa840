//! The files that a config names are looked at before a node starts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clarion_config::{Config, Environment, Mode};

const CERT: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn errors(&self, config: &str) -> Vec<String> {
        let path = self.file("node.toml", config, 0o644);
        match Config::load(&path, &Environment::default(), Mode::Start) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }
}

fn shown(path: &Path) -> String {
    toml::Value::String(path.to_str().unwrap().to_owned()).to_string()
}

#[test]
fn good_files_pass_and_the_token_is_read() {
    let place = Place::new();
    let token = place.file("token", "  0123456789abcdef0123\n", 0o600);
    let cert = place.file("cert.pem", CERT, 0o644);
    let key = place.file("key.pem", KEY, 0o600);
    let text = format!(
        "[auth]\nadmin_token_file = {}\n[http]\ntls_cert_file = {}\ntls_key_file = {}\n",
        shown(&token),
        shown(&cert),
        shown(&key)
    );
    assert_eq!(place.errors(&text), [""; 0]);
    let path = place.file("node.toml", &text, 0o644);
    let none = Environment::default();
    let config = Config::load(&path, &none, Mode::Start).unwrap();
    assert_eq!(config.admin_token(&none).unwrap().unwrap().expose(), "0123456789abcdef0123");
    let environment = Environment::from_pairs([("CLARION_ADMIN_TOKEN", "fedcba9876543210")]);
    assert_eq!(
        config.admin_token(&environment).unwrap().unwrap().expose(),
        "fedcba9876543210",
        "the variable goes before the file"
    );
}

#[test]
fn files_that_are_missing_wrong_or_open_to_all_are_told() {
    let place = Place::new();
    let token = place.file("token", "0123456789abcdef0123", 0o644);
    let not_pem = place.file("not.pem", "hello", 0o600);
    let open_key = place.file("open.pem", KEY, 0o644);
    let cert = place.file("cert.pem", CERT, 0o644);
    let missing = place.directory.path().join("missing.pem");
    let text = format!(
        "[auth]\nadmin_token_file = {}\n\
         [http]\ntls_cert_file = {}\ntls_key_file = {}\n\
         [terminals]\ntls_cert_file = {}\ntls_key_file = {}\n\
         [store]\npath = {}\n",
        shown(&token),
        shown(&cert),
        shown(&open_key),
        shown(&missing),
        shown(&not_pem),
        shown(&cert),
    );
    let errors = place.errors(&text);
    let expected = [
        (2, "auth.admin_token_file", "chmod 600"),
        (5, "http.tls_key_file", "chmod 600"),
        (7, "terminals.tls_cert_file", "cannot be read"),
        (8, "terminals.tls_key_file", "holds no private key in PEM"),
        (10, "store.path", "is not a directory"),
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, (line, key, told)) in errors.iter().zip(expected) {
        assert!(error.contains(&format!(":{line}:")), "{error}");
        assert!(error.contains(key) && error.contains(told), "{error}");
    }
}

#[test]
fn a_short_token_in_the_file_is_told_without_showing_it() {
    let place = Place::new();
    let token = place.file("token", "hunter2", 0o600);
    let errors = place.errors(&format!("[auth]\nadmin_token_file = {}\n", shown(&token)));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("shorter than 16 characters"), "{errors:#?}");
    assert!(!errors[0].contains("hunter2"), "{errors:#?}");
}
