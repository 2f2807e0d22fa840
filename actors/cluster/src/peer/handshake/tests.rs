//! Both ends of the handshake over a pipe, and ends that do not keep to it.

use tokio::io::DuplexStream;

use super::*;

fn identity(id: &str, boot: u64) -> NodeIdentity {
    NodeIdentity { id: id.into(), boot: BootId(boot), group: "default".into() }
}

struct End {
    identity: NodeIdentity,
    cluster: &'static str,
    wire: (u16, u16),
    cookie: Cookie,
    binding: &'static [u8],
}

fn end(id: &str, boot: u64) -> End {
    End {
        identity: identity(id, boot),
        cluster: "clarion",
        wire: (1, 2),
        cookie: Cookie::new("0123456789abcdef").unwrap(),
        binding: b"",
    }
}

fn clock() -> u64 {
    77
}

impl End {
    fn local(&self) -> Local<'_> {
        Local {
            identity: &self.identity,
            cluster: self.cluster,
            wire: self.wire,
            cookie: &self.cookie,
            clock_us: &clock,
            binding: self.binding,
        }
    }

    async fn dial(&self, mut stream: DuplexStream, want: &End) -> Result<Agreed, HandshakeError> {
        dial(&mut stream, &self.local(), (&want.identity.id, want.identity.boot)).await
    }

    async fn accept(&self, mut stream: DuplexStream) -> Result<Agreed, HandshakeError> {
        accept(&mut stream, &self.local(), |_| true, |_, _| true).await
    }
}

async fn meet(
    dialler: &End,
    acceptor: &End,
) -> (Result<Agreed, HandshakeError>, Result<Agreed, HandshakeError>) {
    let (near, far) = tokio::io::duplex(4096);
    tokio::join!(dialler.dial(near, acceptor), acceptor.accept(far))
}

fn refusal(result: Result<Agreed, HandshakeError>) -> (Refusal, bool) {
    match result {
        Err(HandshakeError::Refused { refusal, told, .. }) => (refusal, told),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_ends_agree() {
    let (a, b) = (End { wire: (1, 3), ..end("a", 1) }, End { wire: (2, 5), ..end("b", 2) });
    let (at_a, at_b) = meet(&a, &b).await;
    let (at_a, at_b) = (at_a.unwrap(), at_b.unwrap());
    assert_eq!((&*at_a.id, at_a.boot, at_a.wire), ("b", BootId(2), 3));
    assert_eq!((&*at_b.id, at_b.boot, at_b.wire), ("a", BootId(1), 3));
    assert_eq!(at_a.session, at_b.session);
    let (again, _) = meet(&a, &b).await;
    assert_ne!(again.unwrap().session, at_a.session);
}

#[tokio::test]
async fn without_a_common_version_both_hear_why() {
    let (a, b) = (End { wire: (1, 1), ..end("a", 1) }, End { wire: (2, 3), ..end("b", 2) });
    let (at_a, at_b) = meet(&a, &b).await;
    assert_eq!(refusal(at_b), (Refusal::Wire, false));
    let said = at_a.unwrap_err().to_string();
    assert_eq!(said, "refused by the peer: no common wire version (2 to 3 here, 1 to 1 there)");
}

#[tokio::test]
async fn another_cluster_node_or_boot_is_refused() {
    let (a, b) = (end("a", 1), End { cluster: "other", ..end("b", 2) });
    let (at_a, at_b) = meet(&a, &b).await;
    assert_eq!(refusal(at_a), (Refusal::Cluster, true));
    assert_eq!(refusal(at_b), (Refusal::Cluster, false));

    for (other, expected) in [(end("c", 2), Refusal::OtherNode), (end("b", 3), Refusal::OtherBoot)]
    {
        let (near, far) = tokio::io::duplex(4096);
        let b = end("b", 2);
        let (at_a, at_b) = tokio::join!(a.dial(near, &other), b.accept(far));
        assert_eq!(refusal(at_a), (expected, true));
        assert_eq!(refusal(at_b), (expected, false));
    }
}

#[tokio::test]
async fn another_cookie_or_another_tls_session_is_refused() {
    let a = end("a", 1);
    let cookie = Cookie::new("fedcba9876543210").unwrap();
    for b in [End { cookie, ..end("b", 2) }, End { binding: b"other", ..end("b", 2) }] {
        let (at_a, at_b) = meet(&a, &b).await;
        assert_eq!(refusal(at_a), (Refusal::Cookie, true));
        assert_eq!(refusal(at_b), (Refusal::Cookie, false));
    }
}

/// An acceptor that does not know the cookie cannot pass by giving the dialler's proof back.
#[tokio::test]
async fn a_proof_sent_back_proves_nothing() {
    let (a, b) = (end("a", 1), end("b", 2));
    let (near, mut far) = tokio::io::duplex(4096);
    let mirror = async {
        read_part(&mut far, HELLO).await.unwrap();
        let hello = Hello::of(&b.local(), ("", BootId(0))).encode();
        write_part(&mut far, HELLO, &hello).await.unwrap();
        let (proof, head) = read_part(&mut far, PROOF).await.unwrap();
        write_part(&mut far, PROOF, &proof[head..]).await.unwrap();
    };
    let (at_a, ()) = tokio::join!(a.dial(near, &b), mirror);
    assert_eq!(refusal(at_a), (Refusal::Cookie, false));
}

/// What one dialler has proved, another connection cannot use: the acceptor's nonce is fresh.
#[tokio::test]
async fn a_recorded_handshake_cannot_be_played_again() {
    let (a, b) = (end("a", 1), end("b", 2));
    let (mut near, mut middle_near) = tokio::io::duplex(4096);
    let (mut middle_far, far) = tokio::io::duplex(4096);
    let mut recorded = Vec::new();
    let relay = async {
        for _ in 0..2 {
            let kind = if recorded.is_empty() { HELLO } else { PROOF };
            let (part, _) = read_part(&mut middle_near, kind).await.unwrap();
            middle_far.write_all(&part).await.unwrap();
            recorded.extend_from_slice(&part);
            let (part, _) = read_part(&mut middle_far, kind).await.unwrap();
            middle_near.write_all(&part).await.unwrap();
        }
    };
    let (a, b) = (&a, &b);
    let dialled = async { dial(&mut near, &a.local(), ("b", BootId(2))).await };
    let (at_a, at_b, ()) = tokio::join!(dialled, b.accept(far), relay);
    assert_eq!(at_a.unwrap().session, at_b.unwrap().session);

    let (mut near, far) = tokio::io::duplex(4096);
    let replay = async {
        near.write_all(&recorded).await.unwrap();
        near
    };
    let (at_b, _near) = tokio::join!(b.accept(far), replay);
    assert_eq!(refusal(at_b), (Refusal::Cookie, false));
}

#[tokio::test]
async fn a_stranger_does_not_learn_whom_a_node_wants() {
    let (a, b) = (end("a", 1), end("b", 2));
    for (known, expected) in [(true, Refusal::NotWanted), (false, Refusal::Cookie)] {
        let a = if known {
            end("a", 1)
        } else {
            End { cookie: Cookie::new("fedcba9876543210").unwrap(), ..end("a", 1) }
        };
        let (near, mut far) = tokio::io::duplex(4096);
        let local = b.local();
        let accepting = accept(&mut far, &local, |_| true, |_, _| false);
        let (at_a, at_b) = tokio::join!(a.dial(near, &b), accepting);
        assert_eq!(refusal(at_a), (expected, true));
        assert_eq!(refusal(at_b), (expected, false));
    }
    let (near, mut far) = tokio::io::duplex(4096);
    let local = b.local();
    let accepting = accept(&mut far, &local, |id| id != "a", |_, _| true);
    let (at_a, _) = tokio::join!(a.dial(near, &b), accepting);
    assert_eq!(refusal(at_a), (Refusal::Certificate, true));
}

#[tokio::test]
async fn who_only_asks_proves_the_cookie_too_and_gets_no_link() {
    let (a, b) = (end("a", 1), end("b", 2));
    let other = End { cookie: Cookie::new("fedcba9876543210").unwrap(), ..end("a", 1) };
    for (asker, knows) in [(&a, true), (&other, false)] {
        let (mut near, mut far) = tokio::io::duplex(4096);
        let (local, asking) = (b.local(), asker.local());
        let nobody_is_wanted = accept(&mut far, &local, |_| true, |_, _| false);
        let (at_a, at_b) = tokio::join!(ask(&mut near, &asking), nobody_is_wanted);
        if knows {
            let there = at_a.unwrap();
            assert_eq!((&*there.id, there.boot), ("b", BootId(2)));
            assert!(matches!(at_b, Err(HandshakeError::Asked)), "{at_b:?}");
        } else {
            assert_eq!(refusal(at_a), (Refusal::Cookie, true));
            assert_eq!(refusal(at_b), (Refusal::Cookie, false));
        }
    }
}

#[tokio::test]
async fn noise_and_long_parts_end_it_at_once() {
    let b = end("b", 2);
    let mut long = MAGIC.to_vec();
    long.extend_from_slice(&[HELLO, 0xff, 0xff]);
    let mut empty = MAGIC.to_vec();
    empty.extend_from_slice(&[HELLO, 0, 0]);
    let http = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    for bytes in [long, empty, http] {
        let (mut near, far) = tokio::io::duplex(4096);
        near.write_all(&bytes).await.unwrap();
        let error = b.accept(far).await.unwrap_err();
        assert!(matches!(error, HandshakeError::Protocol), "{error:?}");
    }
}

#[test]
fn what_a_later_release_adds_to_a_hello_is_passed_over() {
    let hello = Hello::of(&end("a", 1).local(), ("b", BootId(2)));
    let mut bytes = hello.encode();
    bytes.extend_from_slice(b"more");
    assert_eq!(Hello::decode(&bytes), Some(hello));
    for length in 0..bytes.len() - 4 {
        assert_eq!(Hello::decode(&bytes[..length]), None);
    }
}

#[test]
fn versions_meet_at_the_highest_common_one() {
    assert_eq!(common_wire((1, 2), (1, 2)), Some(2));
    assert_eq!(common_wire((1, 2), (2, 3)), Some(2));
    assert_eq!(common_wire((2, 3), (1, 2)), Some(2));
    assert_eq!(common_wire((1, 1), (2, 2)), None);
    assert_eq!(common_wire((2, 2), (1, 1)), None);
}
