//! The profiles in `cluster-config/profiles` are launch profiles, but for those that are a node's
//! config.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use clarion_launch::Profile;

#[test]
fn every_profile_can_be_read_and_what_it_names_is_there() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles");
    let mut read = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".toml") {
            continue;
        }
        let profile = Profile::load(&path);
        if matches!(&*name, "single.toml" | "cluster-node.toml") {
            assert!(profile.unwrap_err().to_string().contains("clarion start"));
            continue;
        }
        let profile = profile.unwrap_or_else(|error| panic!("{error}"));
        assert!(!profile.names().is_empty());
        if let Some(proxy) = &profile.haproxy {
            assert!(profile.base.join(&proxy.config).exists(), "{name}");
        }
        read += 1;
    }
    assert!(read >= 6, "{read}");
}

#[test]
fn haproxy_takes_the_shipped_config_as_it_is() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiles/haproxy.cfg");
    let mut command = std::process::Command::new("haproxy");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin")).arg("-c").arg("-f").arg(config);
    command.env("PROXY_HTTP", "127.0.0.1:1").env("PROXY_TERMINALS", "127.0.0.1:2");
    for node in 1..=3 {
        command.env(format!("NODE_{node}_HTTP"), "127.0.0.1:3");
        command.env(format!("NODE_{node}_TERMINALS"), "127.0.0.1:4");
        command.env(format!("NODE_{node}_HTTP_PORT"), "3");
    }
    let said = command.output().expect("haproxy is installed (Debian: apt install haproxy)");
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && !text.contains("WARNING"), "{text}");
}
