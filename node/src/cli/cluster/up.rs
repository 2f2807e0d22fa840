//! `clarion cluster up`: all processes of a launch profile on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clarion_launch::{Cause, Cluster, Profile, Up};
use clarion_protocol::ProductId;
use clarion_protocol::http::ProductCreate;
use serde_json::json;
use tokio::time::timeout;

use super::up_log::CombinedLog;
use crate::cli::connection::Connection;
use crate::cli::credentials::Credentials;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::cli::product::keys_of;
use crate::run::{self, Signals};

pub(super) const EXAMPLES: &str = "\
Examples:
  clarion cluster up cluster-config/profiles/three-nodes.toml
  clarion cluster up cluster-config/profiles/sentinel.toml --nodes 5 --dir /tmp/five
  clarion cluster up my-profile.toml --port 0        any free ports

Everything listens on 127.0.0.1 and keeps its data in --dir: keys, configs, logs, Redis. Started again
with the same --dir it goes on with that data. Ctrl-C, SIGTERM or SIGHUP ends all of it: the nodes drain,
then Redis stops. A process that dies meanwhile is told and not replaced: kill some and see what happens.
Needs `redis-server` when the profile asks for Redis, `haproxy` when it asks for HAProxy.
cluster-config/profiles/README.md describes the format of a profile.";

/// How long everything may take to end in good order.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Where the sources keep launch profiles.
const PROFILES: &str = "cluster-config/profiles";

/// The product that is there from the start.
const PRODUCT: &str = "demo";

/// `clarion cluster up`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The launch profile
    profile: PathBuf,
    /// Directory of everything it makes; made if it does not exist [default: clarion-data/PROFILE]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How many nodes, in place of the profile's number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: Option<u16>,
    /// Port of the first node's API, in place of the profile's; the others follow; 0 for any free
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), Failure> {
    let name = arguments.profile.file_stem().map_or("cluster".into(), |n| n.to_string_lossy());
    let directory = arguments.dir.clone().unwrap_or_else(|| Path::new("clarion-data").join(&*name));
    let path = &arguments.profile;
    let mut profile = Profile::load(path)
        .map_err(|error| if path.is_file() { unusable(error) } else { not_there(path, &error) })?;
    if let Some(count) = arguments.nodes {
        profile.set_count(usize::from(count)).map_err(unusable)?;
    }
    run::runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        output.note(&format!("starting {name}: {}", profile.profile.about));
        let program = std::env::current_exe()
            .map_err(|error| Failure::local("cannot find this program", error))?;
        let mut up = Up::new(&directory, &program);
        up.first_port = arguments.port;
        // Ctrl-C comes to this process alone, which ends the others in order.
        up.own_group = true;
        let mut cluster = tokio::select! {
            up = Cluster::up(&profile, up) => up.map_err(not_started)?,
            _ = signals.next() => return Err(Failure::interrupted()),
        };
        let credentials = demo_product(&cluster).await?;
        announce(&name, &cluster, &credentials, output)?;
        let mut log = CombinedLog::of(&cluster, output);
        loop {
            tokio::select! {
                lines = log.next() => log.show(lines),
                signal = signals.next() => {
                    output.note(&format!("{signal}: stopping; again to kill"));
                    break;
                }
            }
            log.show_ends(&mut cluster);
        }
        stop(cluster, log, signals, output).await
    })
}

/// Ends everything in good order; when that takes too long, or is asked for again, at once.
async fn stop(
    cluster: Cluster,
    mut log: CombinedLog,
    mut signals: Signals,
    output: Output,
) -> Result<(), Failure> {
    let stopped = {
        // Dropped, it kills what is left.
        let stopping = timeout(STOP_WITHIN, cluster.stop());
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                stopped = &mut stopping => break stopped,
                lines = log.next() => log.show(lines),
                _ = signals.next() => return Err(Failure::interrupted()),
            }
        }
    };
    log.show_rest();
    match stopped {
        Ok(Ok(())) => {
            output.note("stopped");
            Ok(())
        }
        Ok(Err(error)) => Err(Failure::new(Exit::Failed, error.to_string())),
        Err(_) => Err(Failure::new(
            Exit::Failed,
            format!("not all processes ended within {} s; they were killed", STOP_WITHIN.as_secs()),
        )),
    }
}

/// Makes the product once; its keys and the admin token are kept where commands look for them.
async fn demo_product(cluster: &Cluster) -> Result<Credentials, Failure> {
    let credentials = Credentials::in_directory(&cluster.directory().join("credentials"));
    credentials.keep_admin_token(cluster.admin_token())?;
    let product = ProductId::new(PRODUCT)
        .map_err(|error| Failure::new(Exit::Failed, format!("the product {PRODUCT} {error}")))?;
    if credentials.product(&product)?.is_some() {
        return Ok(credentials);
    }
    let Some(node) = cluster.nodes.iter().find(|node| takes_pushes(node)) else {
        return Ok(credentials);
    };
    let (http, terminals) = (node.http_url(), node.terminals_url());
    let connection = Connection::to(&http, &terminals, cluster.admin_token().to_owned());
    let create = ProductCreate {
        product,
        kinds: None,
        allow_sha1_body_hash: None,
        pushes_per_s_max: None,
        isolation_group: None,
        token_public_key_pem: None,
    };
    let info = connection.admin()?.create_product(&create).await?;
    credentials.keep_product(&keys_of(&info)?)?;
    Ok(credentials)
}

fn takes_pushes(node: &clarion_launch::Node) -> bool {
    has_role(node, "push")
}

/// Whether the node's config gives it the role; a config that names none gives all.
fn has_role(node: &clarion_launch::Node, role: &str) -> bool {
    let roles = node.spec().config.get("node").and_then(|section| section.get("roles"));
    let Some(roles) = roles.and_then(|roles| roles.as_array()) else { return true };
    roles.iter().any(|known| known.as_str() == Some(role))
}

fn announce(
    name: &str,
    cluster: &Cluster,
    credentials: &Credentials,
    output: Output,
) -> Result<(), Failure> {
    let nodes: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| {
            let gateway = node.terminals_addr().is_some();
            json!({
                "node": node.name(), "http": node.http_url(),
                "terminals": gateway.then(|| node.terminals_url()),
                "pid": node.process().pid(), "config": node.config_file(),
            })
        })
        .collect();
    let proxy = cluster.haproxy().map(|proxy| {
        let (http, terminals) = (proxy.http_addr(), proxy.terminals_addr());
        json!({"http": format!("http://{http}"), "terminals": format!("ws://{terminals}")})
    });
    let document = json!({
        "ready": true, "profile": name, "directory": cluster.directory(), "nodes": nodes,
        "haproxy": proxy, "credentials": credentials.directory(),
        "admin_token_file": credentials.admin_token_file(), "pid": std::process::id(),
    });
    output.result(&document, || announcement(name, cluster, credentials))
}

fn announcement(name: &str, cluster: &Cluster, credentials: &Credentials) -> String {
    let directory = cluster.directory().display();
    let mut text = format!("\n{name} is ready; everything is in {directory}. Ctrl-C stops it.\n\n");
    let width = cluster.processes().map(|process| process.name().len()).max().unwrap_or(0);
    if let Some(proxy) = cluster.haproxy() {
        let (http, terminals) = (proxy.http_addr(), proxy.terminals_addr());
        text.push_str(&format!("  {:width$}  http://{http}  ws://{terminals}\n", "haproxy"));
    }
    for node in &cluster.nodes {
        let terminals = match node.terminals_addr() {
            Some(_) => node.terminals_url(),
            None => "no terminals".to_owned(),
        };
        let pid = node.process().pid().unwrap_or(0);
        text.push_str(&format!(
            "  {:width$}  {}  {terminals}  pid {pid}\n",
            node.name(),
            node.http_url(),
        ));
    }
    for process in cluster.processes() {
        let of_redis = cluster.nodes.iter().all(|node| node.name() != process.name());
        if let (true, Some(pid)) = (of_redis && process.name() != "haproxy", process.pid()) {
            text.push_str(&format!("  {:width$}  pid {pid}\n", process.name()));
        }
    }
    let (token, keys) = (credentials.admin_token_file(), credentials.directory().display());
    text.push_str(&format!("\n  admin token  {}\n  keys         {keys}\n", token.display()));
    text.push_str(&try_it(cluster, credentials));
    text
}

/// Commands to paste into another window.
fn try_it(cluster: &Cluster, credentials: &Credentials) -> String {
    let clarion = crate::cli::dev::invocation();
    let keys = format!("--credentials {}", credentials.directory().display());
    let Some(push) = cluster.nodes.iter().find(|node| takes_pushes(node)) else {
        return String::new();
    };
    let server = cluster
        .haproxy()
        .map_or_else(|| push.http_url(), |proxy| format!("http://{}", proxy.http_addr()));
    let terminals = match cluster.haproxy() {
        Some(proxy) => format!("--terminals ws://{}", proxy.terminals_addr()),
        None => cluster
            .nodes
            .iter()
            .take(3)
            .map(|node| format!("--gateways {}", node.http_url()))
            .collect::<Vec<_>>()
            .join(" "),
    };
    format!(
        "\nTry it from other windows:\n\
         \n  {clarion} listen phone-1 {terminals} --server {server} {keys}\
         \n  {clarion} push --terminal phone-1 --text hello --server {server} {keys}\
         \n  {clarion} cluster status --server {server} {keys}\
         \n  {clarion} where terminal phone-1 --server {server} {keys}\n\n"
    )
}

/// No such file: names those that there are.
fn not_there(path: &Path, error: &clarion_launch::LaunchError) -> Failure {
    let failure = Failure::new(Exit::Config, error.to_string());
    let beside = if path.is_dir() { Some(path) } else { path.parent() };
    let places = [beside.unwrap_or(Path::new("")), Path::new(PROFILES)];
    match places.into_iter().map(profiles_in).find(|names| !names.is_empty()) {
        Some(names) => failure.hint(format!("there are {}", names.join(", "))),
        None => failure.hint(format!("name a launch profile; the sources have some in {PROFILES}")),
    }
}

/// The launch profiles of a directory, by their paths.
fn profiles_in(directory: &Path) -> Vec<String> {
    let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let entries = std::fs::read_dir(here).into_iter().flatten().map_while(Result::ok);
    let paths = entries.map(|entry| directory.join(entry.file_name()));
    let tables = paths.filter(|path| path.extension().is_some_and(|known| known == "toml"));
    let mut names: Vec<String> = tables
        .filter(|path| Profile::load(path).is_ok())
        .map(|path| path.display().to_string())
        .collect();
    names.sort_unstable();
    names
}

fn unusable(error: clarion_launch::LaunchError) -> Failure {
    Failure::new(Exit::Config, error.to_string())
        .hint("cluster-config/profiles/README.md describes the format of a profile")
}

fn not_started(error: clarion_launch::LaunchError) -> Failure {
    let failure = Failure::new(Exit::Failed, error.to_string());
    match error.cause() {
        Cause::PortTaken => failure.hint("give --port another one, or --port 0 for any free ones"),
        // A node that ends at its start has said why; its config stays, and can be looked at.
        Cause::Other if failure.message.contains("ended by itself") => {
            failure.hint("`clarion doctor DIR/NODE/node.toml` looks at all that a node needs")
        }
        Cause::DirectoryInUse | Cause::Other => failure,
    }
}
