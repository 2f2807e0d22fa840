//! The command reference in `README.md` is what the commands say of themselves. With
//! `UPDATE_DOCS=1` this test writes it. And its table of metrics leaves none out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

const BEGIN: &str =
    "<!-- commands: written by `UPDATE_DOCS=1 cargo test -p clarion --test reference` -->\n";
const END: &str = "<!-- end of commands -->";

#[test]
fn the_readme_has_the_help_of_every_command() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(file).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README has a begin mark");
    let (written, after) = rest.split_once(END).expect("the README has an end mark");
    let reference = format!("\n{}", clarion_node::cli::reference::reference());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(file, format!("{before}{BEGIN}{reference}{END}{after}")).unwrap();
    } else if written != reference {
        let differs = written.lines().zip(reference.lines()).find(|(a, b)| a != b);
        panic!("node/README.md is out of date at {differs:?}; run with UPDATE_DOCS=1");
    }
}

/// Metrics that only tests make.
const OF_TESTS: &str = "clarion_telemetry_test_";

#[test]
fn the_readme_names_every_metric() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut metrics = BTreeSet::new();
    for source in
        ["node/src", "actors/src", "actors/core/src", "actors/cluster/src", "actors/storage/src"]
    {
        collect(&crates.join(source), &mut metrics);
    }
    assert!(metrics.len() > 60, "{metrics:?}");
    let readme = std::fs::read_to_string(crates.join("node/README.md")).unwrap();
    let named: BTreeSet<&str> = readme.split('`').collect();
    let missing: Vec<&String> =
        metrics.iter().filter(|metric| !named.contains(metric.as_str())).collect();
    assert!(missing.is_empty(), "node/README.md does not say what these count: {missing:?}");
}

/// The names of metrics in the sources below `directory`: texts of letters and `_` that begin so.
fn collect(directory: &Path, metrics: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, metrics);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let texts = text.split('"').skip(1);
            let plain = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            let of_ours = |name: &&str| name.starts_with("clarion_") && !name.starts_with(OF_TESTS);
            // The crates are called so, too.
            let counted = |name: &&str| !["clarion_cluster", "clarion_node"].contains(name);
            metrics.extend(texts.filter(plain).filter(of_ours).filter(counted).map(str::to_owned));
        }
    }
}
