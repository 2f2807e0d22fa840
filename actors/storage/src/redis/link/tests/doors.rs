//! TLS with certificates on both sides, ACL users, passwords of sentinels.

use std::path::Path;

use clarion_launch::redis::TlsFiles;
use clarion_launch::{RedisCluster, RedisOptions, RedisSentinel};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::super::{RedisLogin, RedisTls, Secret};
use super::*;

/// An authority, and a certificate of it for this machine.
fn certificates(directory: &Path) -> TlsFiles {
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    TlsFiles {
        certificate: write("server.pem", leaf.pem()),
        key: write("server.key", key.serialize_pem()),
        authority: write("authority.pem", authority.pem()),
        clients: true,
    }
}

fn login(user: Option<&str>, password: &str) -> RedisLogin {
    RedisLogin { username: user.map(str::to_owned), password: Some(Secret::new(password)) }
}

#[tokio::test]
async fn a_user_with_no_more_rights_than_documented_is_enough_with_tls_and_sentinel_passwords() {
    let directory = tempfile::tempdir().unwrap();
    let tls = certificates(directory.path());
    let options = RedisOptions {
        tls: Some(tls.clone()),
        password: Some("for-servers".into()),
        sentinel_password: Some("for-sentinels".into()),
        ..RedisOptions::default()
    }
    .setting("user clarion", RIGHTS);
    let redis = RedisSentinel::start_with(directory.path(), 1, 1, 1, &options).await.unwrap();
    let mut settings = settings(RedisMode::Sentinel, &redis.sentinel_addrs(), 1);
    settings.login = login(Some("clarion"), "for-clarion");
    settings.sentinel_login = login(None, "for-sentinels");
    let own = RedisTls { ca_file: Some(tls.authority), ..RedisTls::default() };
    settings.tls = Some(own.clone());
    let refused = Shards::connect(&settings).await.err().unwrap().to_string();
    assert!(refused.contains("ertificate"), "{refused}: we showed no certificate");
    settings.tls =
        Some(RedisTls { cert_file: Some(tls.certificate), key_file: Some(tls.key), ..own });
    let shards = Shards::connect(&settings).await.unwrap();
    writable(&shards).await;
    shards.write("a", push("a", 1)).await.unwrap();
    shards.confirm(shards.term("a")).await.unwrap();
    assert_eq!(items(&shards, "a").await.unwrap(), [1]);
    settings.tls = Some(RedisTls::default());
    let refused = Shards::connect(&settings).await.err().unwrap().to_string();
    assert!(refused.contains("ertificate"), "{refused}: the public authorities did not sign this");
}

/// As in the README of this crate.
const RIGHTS: &str = "on >for-clarion ~clarion:* ~test:* -@all +@read +@write +@scripting \
    +@connection +wait +time +info +role +config|get +cluster|nodes -flushall -flushdb";

#[tokio::test]
async fn a_cluster_speaks_tls() {
    let directory = tempfile::tempdir().unwrap();
    let tls = TlsFiles { clients: false, ..certificates(directory.path()) };
    let options = RedisOptions { tls: Some(tls.clone()), ..RedisOptions::default() };
    let redis = RedisCluster::start_with(directory.path(), 3, 1, &options).await.unwrap();
    let mut settings = settings(RedisMode::Cluster, &redis.addrs(), 1);
    settings.tls = Some(RedisTls { ca_file: Some(tls.authority), ..RedisTls::default() });
    let shards = Shards::connect(&settings).await.unwrap();
    writable(&shards).await;
    for tag in ["a", "b", "c", "d", "e"] {
        shards.write(tag, push(tag, 1)).await.unwrap();
        assert_eq!(items(&shards, tag).await.unwrap(), [1]);
    }
}

#[test]
fn files_that_do_not_do_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (empty, absent) = (directory.path().join("empty.pem"), directory.path().join("absent"));
    std::fs::write(&empty, "nothing").unwrap();
    let error = |ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>| {
        let path = |path: Option<&Path>| path.map(Path::to_owned);
        let tls = RedisTls { ca_file: path(ca), cert_file: path(cert), key_file: path(key) };
        super::super::tls::client_config(&tls).err().unwrap_or_default()
    };
    assert_eq!(error(None, None, None), "");
    assert!(error(Some(&absent), None, None).contains("cannot be read"));
    assert!(error(Some(&empty), None, None).contains("holds no certificate"));
    assert!(error(None, Some(&empty), None).contains("go together"));
    assert!(error(None, Some(&empty), Some(&empty)).contains("holds no private key"));
}
