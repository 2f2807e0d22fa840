//! Nodes that end at their start are told at once, with what they said. A script stands for the node.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clarion_launch::cluster::sections;
use clarion_launch::{Cause, Cluster, LaunchError, Profile, Up, port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const PROFILE: &str = "[profile]\nabout = \"two\"\n[[nodes]]\nname = \"n\"\ncount = 2";

/// A node whose `start` is this script; `$2` is its config.
fn node_that(directory: &Path, start: &str) -> PathBuf {
    let program = directory.join("program");
    let script = format!("#!/bin/sh\n[ \"$1\" = start ] || exit 0\n{start}\n");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

async fn up(directory: &Path, program: &Path, first_port: u16) -> Result<Cluster, LaunchError> {
    let profile = Profile::parse(PROFILE, directory).unwrap();
    let mut up = Up::new(&directory.join("cluster"), program);
    up.first_port = Some(first_port);
    Cluster::up(&profile, up).await
}

#[tokio::test]
async fn a_node_that_ends_at_once_is_told_though_another_one_is_not_ready_yet() {
    let directory = tempfile::tempdir().unwrap();
    let start = "case $2 in */n-1/*) exec sleep 600;; esac; echo no luck >&2; exit 3";
    let program = node_that(directory.path(), start);
    let error = up(directory.path(), &program, 0).await.unwrap_err().to_string();
    assert!(error.starts_with("n-2 ended by itself: exit status: 3"), "{error}");
    assert!(error.ends_with("no luck"), "{error}");
}

#[tokio::test]
async fn a_node_is_not_started_where_another_process_listens() {
    let directory = tempfile::tempdir().unwrap();
    let program = node_that(directory.path(), "echo started >&2; exit 3");
    // The first port of the second node.
    let taken = port::free().unwrap();
    let held = TcpListener::bind(taken).await.unwrap();
    let error = up(directory.path(), &program, taken.port() - 10).await.unwrap_err();
    assert_eq!(error.cause(), Cause::PortTaken);
    assert!(error.to_string().starts_with(&format!("n-2 is to listen on {taken}")), "{error}");
    assert!(!directory.path().join("cluster/n-1").exists(), "looked at too late");
    drop(held);
}

#[tokio::test]
async fn a_directory_is_one_clusters_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let program = node_that(directory.path(), ": > $(dirname $2)/started; exec sleep 600");
    let cluster = directory.path().join("cluster");
    {
        let first = up(directory.path(), &program, 0);
        tokio::pin!(first);
        while !cluster.join("n-2/started").exists() {
            let pause = Duration::from_millis(5);
            assert!(tokio::time::timeout(pause, &mut first).await.is_err(), "not ready yet");
        }
        let config = std::fs::read_to_string(cluster.join("n-1/node.toml")).unwrap();
        let error = up(directory.path(), &program, 0).await.unwrap_err();
        assert_eq!(error.cause(), Cause::DirectoryInUse);
        let says = format!("a cluster runs in {} already", cluster.display());
        assert!(error.to_string().starts_with(&says), "{error}");
        assert_eq!(config, std::fs::read_to_string(cluster.join("n-1/node.toml")).unwrap());
    }
    let program = node_that(directory.path(), "exit 3");
    let error = up(directory.path(), &program, 0).await.unwrap_err().to_string();
    assert!(error.contains("ended by itself"), "{error}");
}

/// Answers in the place of a node: it is ready, but of another cluster. Says so in `asked`.
async fn stranger(at: SocketAddr, asked: PathBuf) {
    let listener = TcpListener::bind(at).await.unwrap();
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let read = socket.read(&mut request).await.unwrap_or(0);
        let ready = request[..read].starts_with(b"GET /readyz");
        if !ready {
            std::fs::write(&asked, "").unwrap();
        }
        let status = if ready { "200 OK" } else { "401 Unauthorized" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = socket.write_all(answer.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_node_that_ends_while_another_process_answers_in_its_place_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let start = "d=$(dirname $2); : > $d/started
        while ! [ -e $d/asked ]; do sleep 0.01; done; echo no luck >&2; exit 3";
    let program = node_that(directory.path(), start);
    let mut strangers = tokio::task::JoinSet::new();
    for name in ["n-1", "n-2"] {
        let node = directory.path().join("cluster").join(name);
        strangers.spawn(async move {
            while !node.join("started").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let config = std::fs::read_to_string(node.join("node.toml")).unwrap();
            let at = sections(&config).unwrap()["http"]["listen"].as_str().unwrap().to_owned();
            stranger(at.parse().unwrap(), node.join("asked")).await;
        });
    }
    let error = up(directory.path(), &program, 0).await.unwrap_err().to_string();
    assert!(error.starts_with("n-1 ended by itself: exit status: 3"), "{error}");
    assert!(error.ends_with("no luck"), "{error}");
}
