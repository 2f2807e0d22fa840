//! Finds the `clarion` program to run, and builds it when that is needed. A package's tests cannot
//! name another package's binary, so cargo is asked: what is built already costs it a moment.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::Failure;

/// Names a program to use instead of building one.
pub const BINARY_VARIABLE: &str = "CLARION_BIN";

/// The same for a program with the feature `fault-hooks`.
pub const FAULTS_BINARY_VARIABLE: &str = "CLARION_FAULTS_BIN";

/// What cargo sets for the tests and programs it runs. Handed on to another cargo, build scripts
/// that watch these would run again.
const OF_OUTER_CARGO: [&str; 5] =
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];

/// A line of `--message-format=json`, as far as it matters here.
#[derive(Deserialize)]
struct CargoLine {
    reason: String,
    executable: Option<PathBuf>,
}

/// Puts the program into `directory`, built with the same profile as this one. The copy stays what
/// it is while others build: both variants have the same place in the target directory.
///
/// # Errors
/// When it cannot be built or copied.
pub fn provide(fault_hooks: bool, directory: &Path) -> Result<PathBuf, Failure> {
    let variable = if fault_hooks { FAULTS_BINARY_VARIABLE } else { BINARY_VARIABLE };
    let binary = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => build(fault_hooks)?,
    };
    let copy = directory.join("clarion");
    std::fs::copy(&binary, &copy)
        .map_err(Failure::of(&format!("cannot copy {}", binary.display())))?;
    if fault_hooks && std::env::var_os(variable).is_none() {
        // What others expect in that place.
        build(false)?;
    }
    Ok(copy)
}

fn build(fault_hooks: bool) -> Result<PathBuf, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--package", "clarion", "--bin", "clarion"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    command.arg("--manifest-path");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    if fault_hooks {
        command.args(["--features", "clarion/fault-hooks"]);
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    for (name, _) in std::env::vars_os() {
        if OF_OUTER_CARGO.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(&name);
        }
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Failure::of("cannot run cargo"))?;
    if !output.status.success() {
        return Err(Failure::new(format!("cargo could not build clarion: {}", output.status)));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<CargoLine>(line).ok())
        .filter(|line| line.reason == "compiler-artifact")
        .filter_map(|line| line.executable)
        .next_back()
        .ok_or_else(|| Failure::new("cargo built clarion but does not say where it is"))
}
