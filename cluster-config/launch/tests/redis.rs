//! Redis as it is launched here is what it says to be, survives what it is to survive, and is gone
//! afterwards.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use clarion_launch::redis::TlsFiles;
use clarion_launch::{Redis, RedisCluster, RedisOptions, RedisSentinel, RedisServer, Signal};

async fn get(server: &RedisServer, key: &str) -> String {
    server.command(&["GET", key]).await.unwrap().text().to_owned()
}

async fn config(server: &RedisServer, key: &str) -> String {
    let answer = server.command(&["CONFIG", "GET", key]).await.unwrap();
    answer.items().get(1).map_or_else(String::new, |value| value.text().to_owned())
}

#[tokio::test]
async fn one_server_keeps_its_data_and_address_over_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let options = RedisOptions {
        password: Some("the-password".to_owned()),
        user: Some(("clarion".to_owned(), "the-users-password".to_owned())),
        ..RedisOptions::default()
    };
    let options = options.setting("appendfsync", "always");
    let mut redis = Redis::standalone_with(directory.path(), &options).await.unwrap();
    let at = redis.addr();
    assert_eq!(config(&redis.server, "maxmemory-policy").await, "noeviction");
    assert_eq!(config(&redis.server, "appendonly").await, "yes");
    redis.server.command(&["SET", "a", "1"]).await.unwrap();
    let user = redis.server.command(&["ACL", "GETUSER", "clarion"]).await.unwrap();
    assert!(!user.items().is_empty());
    redis.server.kill().await.unwrap();
    assert!(redis.server.command(&["PING"]).await.is_err());
    redis.server.restart().await.unwrap();
    assert_eq!(redis.addr(), at);
    assert_eq!(get(&redis.server, "a").await, "1");
    let pid = redis.server.pid().unwrap();
    redis.server.signal(Signal::Stop).unwrap();
    drop(redis);
    let gone = async || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) if !stat.contains(") Z ") => Err(clarion_launch::LaunchError::new(stat)),
        _ => Ok(()),
    };
    let deadline = std::time::Duration::from_secs(20);
    clarion_launch::wait::until("the end", deadline, gone).await.unwrap();
}

#[tokio::test]
async fn kill_of_a_master_makes_sentinels_choose_another_and_it_returns_as_a_replica() {
    let directory = tempfile::tempdir().unwrap();
    let mut group = RedisSentinel::start(directory.path(), 1, 2, 3).await.unwrap();
    assert_eq!(group.names(), ["clarion"]);
    let old = group.master_index(0).await.unwrap();
    assert_eq!(old, 0);
    group.shards[0].servers[0].command(&["SET", "a", "1"]).await.unwrap();
    group.shards[0].servers[0].command(&["WAIT", "2", "1000"]).await.unwrap();
    group.shards[0].servers[0].kill().await.unwrap();
    let new = group.wait_master_other_than(0, old).await.unwrap();
    assert_eq!(get(&group.shards[0].servers[new], "a").await, "1");
    group.shards[0].servers[0].restart().await.unwrap();
    group.wait_settled().await.unwrap();
    // Sentinels that were kept from voting in time vote again, and may choose the third server then.
    assert_ne!(group.master_index(0).await.unwrap(), old);
}

#[tokio::test]
async fn kill_of_a_cluster_master_makes_its_replica_serve() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = RedisCluster::start(directory.path(), 3, 1).await.unwrap();
    assert_eq!(cluster.masters().await.unwrap(), [0, 1, 2]);
    cluster.servers[1].kill().await.unwrap();
    cluster.wait_failed_over(1).await.unwrap();
    assert_eq!(cluster.masters().await.unwrap(), [0, 2, 4]);
    cluster.servers[1].restart().await.unwrap();
    cluster.wait_settled().await.unwrap();
}

#[tokio::test]
async fn a_directory_is_used_again_with_its_data_ports_and_roles() {
    let directory = tempfile::tempdir().unwrap();
    let (at, of_cluster) = (directory.path().join("group"), directory.path().join("cluster"));
    let mut addresses = Vec::new();
    for round in 0..2 {
        let group = RedisSentinel::start(&at, 1, 1, 1).await.unwrap();
        let cluster = RedisCluster::start(&of_cluster, 3, 0).await.unwrap();
        let all: Vec<_> = group.sentinel_addrs().into_iter().chain(cluster.addrs()).collect();
        let master = group.master(0).await.unwrap();
        if round == 0 {
            master.command(&["SET", "a", "1"]).await.unwrap();
            // Until it is in the file.
            master.command(&["CONFIG", "SET", "appendfsync", "always"]).await.unwrap();
            master.command(&["SET", "b", "2"]).await.unwrap();
            addresses = all;
        } else {
            assert_eq!((get(master, "a").await, get(master, "b").await), ("1".into(), "2".into()));
            assert_eq!(addresses, all);
        }
    }
}

#[tokio::test]
async fn two_shards_have_names_of_their_own_and_passwords_reach_everybody() {
    let directory = tempfile::tempdir().unwrap();
    let options = RedisOptions {
        password: Some("the-password".to_owned()),
        sentinel_password: Some("the-sentinels-password".to_owned()),
        ..RedisOptions::default()
    };
    let group = RedisSentinel::start_with(directory.path(), 2, 1, 1, &options).await.unwrap();
    assert_eq!(group.names(), ["clarion-0", "clarion-1"]);
    for shard in 0..2 {
        assert_eq!(group.master_index(shard).await.unwrap(), 0);
    }
}

/// An authority, and a certificate of it for this machine.
fn certificates(directory: &Path) -> TlsFiles {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A leaf of the same name would look self-signed to OpenSSL.
    params.distinguished_name.push(DnType::CommonName, "test authority");
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    TlsFiles {
        certificate: write("server.pem", leaf.pem()),
        key: write("server.key", key.serialize_pem()),
        authority: write("authority.pem", authority.pem()),
        clients: false,
    }
}

#[tokio::test]
async fn servers_sentinels_and_cluster_speak_tls() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let options =
        RedisOptions { tls: Some(certificates(directory.path())), ..RedisOptions::default() };
    let redis = Redis::standalone_with(&at("one"), &options).await.unwrap();
    assert_ne!(redis.server.addr(), redis.server.plain_addr());
    let group = RedisSentinel::start_with(&at("group"), 1, 1, 1, &options).await.unwrap();
    assert_eq!(group.master(0).await.unwrap().addr(), group.shards[0].servers[0].addr());
    let cluster = RedisCluster::start_with(&at("cluster"), 3, 1, &options).await.unwrap();
    assert_eq!(cluster.masters().await.unwrap().len(), 3);
    // By the outside client: its answer tells that TLS is what is spoken there.
    let tls = options.tls.unwrap();
    for at in [redis.addr(), group.sentinel_addrs()[0], cluster.addrs()[0]] {
        let said = tokio::process::Command::new("redis-cli")
            .args(["--tls", "--cacert", tls.authority.to_str().unwrap()])
            .args(["-h", "127.0.0.1", "-p", &at.port().to_string(), "PING"])
            .output()
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "PONG", "{said:?}");
    }
}
