//! Vectors from the RFC and from the libraries that push in practice, and every refusal.

use super::*;
use crate::codes::Code;

/// RFC 5849, section 3.4.1.1, with the parameters of its form body given as parameters.
#[test]
fn base_string_of_the_rfc() {
    let base = signature_base_string(
        "post",
        "http://EXAMPLE.com:80/request?b5=%3D%253D&a3=a&c%40=&a2=r%20b",
        [
            ("c2", ""),
            ("a3", "2 q"),
            ("oauth_consumer_key", "9djdj82h48djs9d2"),
            ("oauth_token", "kkk9d7dh3k39sjv7"),
            ("oauth_signature_method", "HMAC-SHA1"),
            ("oauth_timestamp", "137131201"),
            ("oauth_nonce", "7d8f3e4a"),
        ],
    );
    assert_eq!(
        base,
        "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q\
         %26a3%3Da%26b5%3D%253D%25253D%26c%2540%3D%26c2%3D%26oauth_consumer_\
         key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a%26oauth_signature_m\
         ethod%3DHMAC-SHA1%26oauth_timestamp%3D137131201%26oauth_token%3Dkkk\
         9d7dh3k39sjv7"
    );
}

#[test]
fn base_uri_is_normalised() {
    let base = |url| {
        let text = signature_base_string("GET", url, []);
        let encoded = text.split('&').nth(1).unwrap().to_owned();
        percent_encoding::percent_decode_str(&encoded).decode_utf8().unwrap().into_owned()
    };
    // RFC 5849, section 3.4.1.2
    assert_eq!(base("https://www.example.net:8080/?q=1"), "https://www.example.net:8080/");
    assert_eq!(base("http://EXAMPLE.COM:80/r%20v/X?id=123"), "http://example.com/r%20v/X");
    assert_eq!(base("HTTPS://Example.com:443"), "https://example.com/");
    assert_eq!(base("https://example.com:80/a#f"), "https://example.com:80/a");
    assert_eq!(base("http://[::1]:80/a"), "http://[::1]/a");
    assert_eq!(base("http://[::80]/a"), "http://[::80]/a");
    assert_eq!(base("ws://example.com:80/a"), "http://example.com/a");
    assert_eq!(base("wss://example.com/a"), "https://example.com/a");
    assert_eq!(base("no url"), "no url");
}

/// Python, oauthlib 4.0.1: `Client("key-1", client_secret=…, signature_method="HMAC-SHA256",
/// nonce="nonce-123", timestamp="1750000000").sign(…)`.
const OAUTHLIB_SECRET: &str = "s3cr&t/+=~ü";
const OAUTHLIB_POST: &str = r#"OAuth oauth_nonce="nonce-123", oauth_timestamp="1750000000", oauth_version="1.0", oauth_signature_method="HMAC-SHA256", oauth_consumer_key="key-1", oauth_body_hash="CPxgSOuW8u7orzn75kP0pB6XHdU%3D", oauth_signature="AKtiXGamdpJPxD5pP3Mv2ag5Xxjf4tX4ZW%2FyGdydGTw%3D""#;
const OAUTHLIB_POST_URL: &str = "http://127.0.0.1:8080/v1/products/demo/messages";
const OAUTHLIB_POST_BODY: &str = r#"{"audience":"all","payload":{"hello":"wörld"}}"#;
const OAUTHLIB_GET: &str = r#"OAuth oauth_nonce="nonce-123", oauth_timestamp="1750000000", oauth_version="1.0", oauth_signature_method="HMAC-SHA256", oauth_consumer_key="key-1", oauth_signature="ySB62WKlHV6EK4fqinRzkiD%2Bi8vbTMGjYwWNedAV3JA%3D""#;
const OAUTHLIB_GET_URL: &str = "https://Push.Example.COM:443/v1/products/demo/terminals?limit=10&after=a%2Fb+c&x=&x=2&x=1%20&plain=&%C3%BC=%E2%98%83&q=%3D%2526";

#[test]
fn verifies_what_oauthlib_signs() {
    let post = Signed::parse(OAUTHLIB_POST).unwrap();
    assert_eq!((post.key(), post.nonce(), post.timestamp()), ("key-1", "nonce-123", 1_750_000_000));
    assert_eq!(post.verify("POST", OAUTHLIB_POST_URL, OAUTHLIB_SECRET), Ok(()));
    assert_eq!(post.check_body(OAUTHLIB_POST_BODY.as_bytes(), true), Ok(()));
    let get = Signed::parse(OAUTHLIB_GET).unwrap();
    assert_eq!(get.verify("GET", OAUTHLIB_GET_URL, OAUTHLIB_SECRET), Ok(()));
    assert_eq!(get.check_body(b"", false), Ok(()));
}

/// The same request signed here has oauthlib's signature.
#[test]
fn signs_what_oauthlib_signs() {
    let header = sign(&SignRequest {
        method: "GET",
        url: OAUTHLIB_GET_URL,
        body: None,
        key: "key-1",
        secret: OAUTHLIB_SECRET,
        nonce: "nonce-123",
        timestamp: 1_750_000_000,
    });
    assert!(
        header.ends_with(r#"oauth_signature="ySB62WKlHV6EK4fqinRzkiD%2Bi8vbTMGjYwWNedAV3JA%3D""#)
    );
}

/// JavaScript, oauth-1.0a 2.2.6 with `body_hash_function` SHA-256 and `includeBodyHash`.
const NPM_POST: &str = r#"OAuth oauth_body_hash="ZPjX7xUyNuWh6I3MeCrWpd%2FNEJJjgvFkxXMcPTV1oLM%3D", oauth_consumer_key="key-1", oauth_nonce="nonce123", oauth_signature="wSHWEPGFMQLYLbfaSv%2BozhOZeF5y3AJAbetBbh2mv9o%3D", oauth_signature_method="HMAC-SHA256", oauth_timestamp="1750000000", oauth_version="1.0""#;
const NPM_BODY: &str = r#"{"audience":{"terminals":["phone-1"]},"payload":{"hello":"wörld"}}"#;

#[test]
fn agrees_with_oauth_1_0a_of_npm() {
    let signed = Signed::parse(NPM_POST).unwrap();
    assert_eq!(signed.verify("POST", OAUTHLIB_POST_URL, "secret"), Ok(()));
    assert_eq!(signed.check_body(NPM_BODY.as_bytes(), false), Ok(()));
    let ours = sign(&SignRequest {
        method: "POST",
        url: OAUTHLIB_POST_URL,
        body: Some(NPM_BODY.as_bytes()),
        key: "key-1",
        secret: "secret",
        nonce: "nonce123",
        timestamp: 1_750_000_000,
    });
    assert!(
        ours.ends_with(r#"oauth_signature="wSHWEPGFMQLYLbfaSv%2BozhOZeF5y3AJAbetBbh2mv9o%3D""#)
    );
}

#[test]
fn refuses_what_was_tampered_with() {
    let signed = Signed::parse(OAUTHLIB_POST).unwrap();
    let invalid = Err(Code::SignatureInvalid);
    assert_eq!(signed.verify("POST", OAUTHLIB_POST_URL, "other"), invalid);
    assert_eq!(signed.verify("PUT", OAUTHLIB_POST_URL, OAUTHLIB_SECRET), invalid);
    let other = "http://127.0.0.1:8080/v1/products/demo2/messages";
    assert_eq!(signed.verify("POST", other, OAUTHLIB_SECRET), invalid);
    let more = "http://127.0.0.1:8080/v1/products/demo/messages?x";
    assert_eq!(signed.verify("POST", more, OAUTHLIB_SECRET), invalid);
    let twice = "http://127.0.0.1:8080/v1/products/demo/messages?oauth_nonce=2";
    assert_eq!(signed.verify("POST", twice, OAUTHLIB_SECRET), Err(Code::SignatureMalformed));
    assert_eq!(signed.check_body(b"{}", true), Err(Code::BodyHashMismatch));
    assert_eq!(signed.check_body(b"", true), Err(Code::BodyHashMismatch));
}

#[test]
fn a_body_needs_its_hash() {
    let get = Signed::parse(OAUTHLIB_GET).unwrap();
    assert_eq!(get.check_body(b"{}", true), Err(Code::BodyHashMissing));
    let sha1 = Signed::parse(OAUTHLIB_POST).unwrap();
    let body = OAUTHLIB_POST_BODY.as_bytes();
    assert_eq!(sha1.check_body(body, false), Err(Code::BodyHashMethodForbidden));
    let sha256 = Signed::parse(NPM_POST).unwrap();
    assert_eq!(
        sha256.check_body(OAUTHLIB_POST_BODY.as_bytes(), false),
        Err(Code::BodyHashMismatch)
    );
    assert_eq!(sha256.check_body(b"", false), Err(Code::BodyHashMismatch));
}

/// The code of each refused header, and the word its detail holds.
#[test]
fn refuses_malformed_headers() {
    let change = |from: &str, to: &str| {
        assert!(NPM_POST.contains(from), "{from}");
        NPM_POST.replace(from, to)
    };
    let many: String = (0..32).map(|n| format!(", p{n}=\"\"")).collect();
    let cases = [
        (String::new(), Code::SignatureMissing, "scheme"),
        ("Bearer abc".to_owned(), Code::SignatureMissing, "scheme"),
        ("OAuth".to_owned(), Code::SignatureMalformed, "oauth_signature_method: is missing"),
        (change("HMAC-SHA256", "HMAC-SHA1"), Code::SignatureMethodUnsupported, "HMAC-SHA256"),
        (change("HMAC-SHA256", "PLAINTEXT"), Code::SignatureMethodUnsupported, "HMAC-SHA256"),
        (change("\"1.0\"", "\"1.1\""), Code::SignatureMalformed, "oauth_version"),
        (
            change("oauth_version=\"1.0\"", "oauth_token=\"x\""),
            Code::SignatureMalformed,
            "oauth_token",
        ),
        (change("key-1", ""), Code::SignatureMalformed, "oauth_consumer_key"),
        (change("key-1", &"k".repeat(65)), Code::SignatureMalformed, "oauth_consumer_key"),
        (change("key-1", "key%201"), Code::SignatureMalformed, "oauth_consumer_key"),
        (change("nonce123", ""), Code::SignatureMalformed, "oauth_nonce"),
        (change("nonce123", &"n".repeat(129)), Code::SignatureMalformed, "oauth_nonce"),
        (change("oauth_nonce", "nonce"), Code::SignatureMalformed, "oauth_nonce: is missing"),
        (change("1750000000", "%2B175000000"), Code::SignatureMalformed, "oauth_timestamp"),
        (change("1750000000", "1750000000000"), Code::SignatureMalformed, "oauth_timestamp"),
        (change("1750000000", ""), Code::SignatureMalformed, "oauth_timestamp"),
        (change("wSHW", "****"), Code::SignatureMalformed, "oauth_signature"),
        (change("wSHW", ""), Code::SignatureMalformed, "oauth_signature"),
        (change("9o%3D", "9p%3D"), Code::SignatureMalformed, "oauth_signature"),
        (change("ZPjX7", "7"), Code::SignatureMalformed, "oauth_body_hash"),
        (change("key-1", "key%2"), Code::SignatureMalformed, "percent-encoded"),
        (change("key-1", "key%FF"), Code::SignatureMalformed, "percent-encoded"),
        (change("key-1", "key-ü"), Code::SignatureMalformed, "percent-encoded"),
        (change("oauth_version=\"1.0\"", "oauth_nonce=\"x\""), Code::SignatureMalformed, "twice"),
        (change("\", oauth_nonce", "\" oauth_nonce"), Code::SignatureMalformed, "comma"),
        (change("\"1.0\"", "1.0"), Code::SignatureMalformed, "quotes"),
        (change("\"1.0\"", "\"1.0"), Code::SignatureMalformed, "closing quote"),
        (format!("{NPM_POST}, x"), Code::SignatureMalformed, "list"),
        (format!("{NPM_POST}{many}"), Code::SignatureMalformed, "32 parameters"),
        (
            format!("{NPM_POST}, p=\"{}\"", "x".repeat(HEADER_BYTES_MAX)),
            Code::SignatureMalformed,
            "8192",
        ),
    ];
    for (header, code, word) in cases {
        let (refused, detail) = Signed::parse(&header).expect_err(&header);
        assert_eq!(refused, code, "{header}");
        assert!(detail.contains(word), "{header}: {detail}");
    }
}

#[test]
fn realm_case_and_space_do_not_matter() {
    let realm = r#"oauth realm="a, \"b\" c=d" , "#;
    let header = NPM_POST.replacen("OAuth ", realm, 1).replace(", ", " ,\t");
    let signed = Signed::parse(&header).unwrap();
    assert_eq!(
        signed.verify("post", "HTTP://127.0.0.1:8080/v1/products/demo/messages#x", "secret"),
        Ok(())
    );
    assert!(!format!("{signed:?}").contains("signature"));
}

/// Other parameters of the header are signed too.
#[test]
fn every_parameter_is_signed() {
    let signed = Signed::parse(&format!("{NPM_POST}, extra=\"1\"")).unwrap();
    assert_eq!(signed.verify("POST", OAUTHLIB_POST_URL, "secret"), Err(Code::SignatureInvalid));
}
