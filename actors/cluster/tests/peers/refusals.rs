//! Who gets no link, and that the node stays up for the others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clarion_cluster::Cookie;
use clarion_cluster::peer::{AskError, Asked, Asker, PeerTls};
use serde_json::{Value, json};

use crate::support::{Node, config, linked, with};

/// `a` tries in vain; then `c`, who may, has a link with `b`. `a` would have been first.
fn refused(a: &Value, b: &Value, c: &Value) -> String {
    let (mut a, mut b, mut c) = (Node::start(a), Node::start(b), Node::start(c));
    b.want(&[a.target(), c.target()]);
    a.want(&[b.target()]);
    // Twice told to be refused before the other comes.
    let said = a.failures(2);
    c.want(&[b.target()]);
    c.up("b");
    b.up("c");
    assert!(!a.has("up") && !b.has("up"));
    assert_eq!(a.status("b")["peers"], 0);
    said
}

#[test]
fn a_wrong_cookie_is_refused() {
    let other = json!({"cookie": "the cookie of another"});
    let said = refused(&with(config("a"), other), &config("b"), &config("c"));
    assert!(said.contains("cookies differ"), "{said}");
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let other = json!({"cluster": "other"});
    let said = refused(&with(config("a"), other), &config("b"), &config("c"));
    assert!(said.contains("another cluster"), "{said}");
}

#[test]
fn versions_meet_at_the_highest_common_one_or_not_at_all() {
    let speaks = |id: &str, low: u16, high: u16| {
        with(config(id), json!({"wire_min": low, "wire_max": high}))
    };
    let said = refused(&speaks("a", 1, 1), &speaks("b", 2, 3), &speaks("c", 1, 2));
    assert!(said.contains("no common wire version"), "{said}");
    let (mut a, mut b) = (Node::start(&speaks("a", 1, 2)), Node::start(&speaks("b", 2, 4)));
    a.want(&[b.target()]);
    b.want(&[a.target()]);
    assert_eq!(a.up("b")["wire"], 2);
    assert_eq!(b.up("a")["wire"], 2);
}

#[test]
fn clients_that_say_nothing_or_nonsense_hold_up_nobody() {
    let mut b = Node::start(&with(config("b"), json!({"handshake_timeout_ms": 60_000})));
    // More than may be in a handshake at once, none of which ends by its deadline.
    let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(b.addr).unwrap()).collect();
    let mut noisy = TcpStream::connect(b.addr).unwrap();
    noisy.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(noisy.read_to_end(&mut Vec::new()).unwrap_or_default(), 0);
    let mut a = Node::start(&config("a"));
    b.want(&[a.target()]);
    a.want(&[b.target()]);
    a.up("b");
    b.up("a");
    // Those that were given up are closed.
    let mut first = silent.first().unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap_or_default(), 0);
}

#[test]
fn a_silent_client_is_closed_at_its_deadline() {
    let b = Node::start(&with(config("b"), json!({"handshake_timeout_ms": 300})));
    let mut silent = TcpStream::connect(b.addr).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or_default(), 0);
}

struct Authority {
    dir: tempfile::TempDir,
}

fn openssl(dir: &Path, arguments: &str) {
    let output =
        Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        openssl(
            dir.path(),
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
             -subj /CN=test-authority -keyout ca.key -out ca.pem",
        );
        Self { dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The settings of a node whose certificate is for `name` and signed by this authority.
    fn sign(&self, name: &str) -> Value {
        let file = name.replace('*', "any");
        openssl(
            self.dir.path(),
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                 -subj /CN=node -addext subjectAltName=DNS:{name} \
                 -addext basicConstraints=critical,CA:FALSE \
                 -CA ca.pem -CAkey ca.key -keyout {file}.key -out {file}.pem"
            ),
        );
        self.files(&file, &self.file("ca.pem"))
    }

    fn files(&self, file: &str, ca: &Path) -> Value {
        json!({"tls": {
            "cert": self.file(&format!("{file}.pem")),
            "key": self.file(&format!("{file}.key")),
            "ca": ca,
        }})
    }
}

#[test]
fn mutual_tls_carries_messages() {
    let authority = Authority::new();
    let any = authority.sign("*.test.peer");
    let (mut a, mut b) =
        linked(&with(config("a"), any), &with(config("b"), authority.sign("b.test.peer")));
    assert_eq!(a.send("b", 1, 20_000, 100)["sent"], 20_000);
    b.handled("a", 1, 20_000);
}

#[test]
fn a_wrong_certificate_is_refused() {
    let authority = Authority::new();
    let right = |id: &str| with(config(id), authority.sign(&format!("{id}.test.peer")));
    // Of another authority, which the node itself believes.
    let stranger = Authority::new();
    stranger.sign("a.test.peer");
    let foreign = stranger.files("a.test.peer", &authority.file("ca.pem"));
    refused(&with(config("a"), foreign), &right("b"), &right("c"));
    // Of another node, right cookie or not.
    let said = refused(&with(config("a"), authority.sign("d.test.peer")), &right("b"), &right("c"));
    assert!(said.contains("not for that node"), "{said}");
    // None at all.
    refused(&config("a"), &right("b"), &right("c"));
}

#[test]
fn a_dialler_refuses_a_wrong_certificate_too() {
    let authority = Authority::new();
    let right = |id: &str| with(config(id), authority.sign(&format!("{id}.test.peer")));
    let (mut a, mut b) =
        (Node::start(&right("a")), Node::start(&with(config("b"), authority.sign("d.test.peer"))));
    b.want(&[a.target()]);
    a.want(&[b.target()]);
    let said = a.failures(2);
    assert!(said.contains("certificate"), "{said}");
    assert!(!a.has("up") && !b.has("up"));
}

/// What one who asks as node `a` with these settings is told by whoever is at `addr`.
async fn asked(settings: &Value, addr: std::net::SocketAddr) -> Result<Asked, AskError> {
    let text = |field: &str| settings[field].as_str().unwrap().to_owned();
    let tls = settings.get("tls").map(|files| {
        let file = |name: &str| PathBuf::from(files[name].as_str().unwrap());
        PeerTls { cert_file: file("cert"), key_file: file("key"), ca_file: file("ca") }
    });
    let wire = (0, settings["wire_max"].as_u64().map_or(u16::MAX, |max| max.try_into().unwrap()));
    let cookie = Cookie::new(&text("cookie")).unwrap();
    let asker = Asker::new("a", &text("cluster"), wire, cookie, tls.as_ref()).unwrap();
    asker.ask(addr, Duration::from_secs(2)).await
}

#[tokio::test]
async fn who_only_asks_is_told_who_is_there_or_what_stands_in_the_way() {
    let mut b = Node::start(&with(config("b"), json!({"wire_min": 2, "wire_max": 3})));
    let there = asked(&config("a"), b.addr).await.unwrap();
    assert_eq!((&*there.id, there.boot.to_string(), there.wire), ("b", b.boot.clone(), 3));
    let otherwise = |change: Value| with(config("a"), change);
    let told = asked(&otherwise(json!({"cookie": "the cookie of another"})), b.addr).await;
    assert!(matches!(told, Err(AskError::Cookie)), "{told:?}");
    let told = asked(&otherwise(json!({"cluster": "other"})), b.addr).await;
    assert!(matches!(told, Err(AskError::Cluster)), "{told:?}");
    let told = asked(&otherwise(json!({"wire_max": 1})), b.addr).await;
    assert!(matches!(told, Err(AskError::Wire)), "{told:?}");

    // It has noticed nothing: no link, and it takes one.
    assert_eq!(b.status("a")["peers"], 0);
    let mut a = Node::start(&otherwise(json!({"wire_max": 2})));
    b.want(&[a.target()]);
    a.want(&[b.target()]);
    a.up("b");
    b.up("a");
}

#[tokio::test]
async fn what_is_no_node_is_told_from_nobody_and_from_silence() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let told = asked(&config("a"), addr).await;
    assert!(matches!(told, Err(AskError::Silent)), "{told:?}");
    std::thread::spawn(move || {
        // The one that was left above, then one that is answered.
        for stream in listener.incoming().take(2) {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let told = asked(&config("a"), addr).await;
    assert!(matches!(told, Err(AskError::Foreign { tls: false })), "{told:?}");
    // Bound and never listened on: nobody else gets the port, and connections are refused.
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let told = asked(&config("a"), taken.local_addr().unwrap().as_socket().unwrap()).await;
    assert!(matches!(told, Err(AskError::Connect(_))), "{told:?}");
}

#[tokio::test]
async fn who_only_asks_is_told_whose_certificate_is_wrong() {
    let authority = Authority::new();
    let right = |id: &str| with(config(id), authority.sign(&format!("{id}.test.peer")));
    let (a, b) = (right("a"), Node::start(&right("b")));
    assert_eq!(&*asked(&a, b.addr).await.unwrap().id, "b");
    let told = |settings: Value, addr| async move {
        match asked(&settings, addr).await {
            Err(AskError::Certificate(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let other_name = with(config("a"), authority.sign("d.test.peer"));
    let why = told(other_name, b.addr).await;
    assert_eq!(why, "this node's certificate is not for a.test.peer");
    let stranger = Authority::new();
    stranger.sign("a.test.peer");
    let foreign = stranger.files("a.test.peer", &authority.file("ca.pem"));
    let why = told(with(config("a"), foreign), b.addr).await;
    assert!(why.starts_with("this node's certificate is not taken there"), "{why}");
    let distrusts = with(config("a"), stranger.files("a.test.peer", &stranger.file("ca.pem")));
    let why = told(distrusts, b.addr).await;
    assert!(why.starts_with("its certificate is not taken here"), "{why}");
    let misnamed = Node::start(&with(config("b"), authority.sign("e.test.peer")));
    let why = told(a.clone(), misnamed.addr).await;
    assert_eq!(why, "its certificate is not for b.test.peer");

    // One end with TLS, the other without.
    let plain = Node::start(&config("c"));
    let one_sided = asked(&a, plain.addr).await;
    assert!(matches!(one_sided, Err(AskError::Foreign { tls: true })), "{one_sided:?}");
    let one_sided = asked(&config("a"), b.addr).await;
    assert!(matches!(one_sided, Err(AskError::Foreign { tls: false })), "{one_sided:?}");
}
