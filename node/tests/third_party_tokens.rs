//! Terminal tokens made by a library that is not ours: those of the product's keys are accepted,
//! whatever was forged, is too old or belongs elsewhere is refused with its own code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::http::now_s;
use support::{Client, Key, Node};

struct Tokens {
    node: Node,
    client: Client,
    demo: Key,
    other: Key,
    private: String,
    public: String,
    /// The key id of the Ed25519 key.
    kid: String,
}

impl Tokens {
    async fn start() -> Self {
        let node = Node::start("").await;
        let mut client = Client::python("tokens.py", &[]);
        let (demo, other) = (node.product("demo").await, node.product("other").await);
        let pair = client.ask(json!({ "keypair": true })).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (private, public) = (text(&pair["private"]), text(&pair["public"]));
        let key = json!({ "token_public_key_pem": public });
        let added = node.admin("POST", &demo.path("/token-keys"), Some(key)).await;
        assert_eq!(added["algorithm"], "EdDSA", "{added}");
        let kid = text(&added["kid"]);
        Self { node, client, demo, other, private, public, kid }
    }

    /// An HS256 token of the product for one of its terminals; `change` goes over the order.
    async fn answer(&mut self, change: Value) -> Value {
        let claims = claims();
        let mut order = json!({
            "url": self.node.link_url(), "product": "demo", "claims": claims,
            "algorithm": "HS256", "key": self.demo.token_secret, "kid": self.demo.kid,
        });
        order.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        self.client.ask(order).await
    }

    async fn refused(&mut self, what: &str, change: Value, code: u64, reason: &str) {
        let answer = self.answer(change).await;
        let frame = &answer["frame"];
        assert_eq!(frame["t"], "closed", "{what}: {answer}");
        assert_eq!(frame["code"], code, "{what}: {answer}");
        assert_eq!(frame["reason"], reason, "{what}: {answer}");
        assert_eq!(answer["close"], code, "{what}: {answer}");
    }
}

fn claims() -> Value {
    json!({ "aud": "demo", "sub": "phone-1", "kind": "pc", "exp": now_s() + 600 })
}

fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn claims_without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[tokio::test]
async fn tokens_of_the_products_keys_open_sessions() {
    let mut tokens = Tokens::start().await;
    let answer = tokens.answer(json!({})).await;
    assert_eq!(answer["frame"]["t"], "opened", "{answer}");
    let (key, kid) = (tokens.private.clone(), tokens.kid.clone());
    let mut full = claims_with("user", json!("alice"));
    full["topics"] = json!(["news", "weather:*"]);
    full["jti"] = json!("a7f3");
    full["of-the-app"] = json!({ "is": ["ignored"] });
    let signed = json!({ "algorithm": "EdDSA", "key": key, "kid": kid, "claims": full });
    let answer = tokens.answer(signed).await;
    assert_eq!(answer["frame"]["t"], "opened", "{answer}");
    let logs = answer["frame"]["logs"].as_array().unwrap();
    assert!(logs.iter().any(|log| log["log"] == "user"), "{answer}");
}

#[tokio::test]
async fn other_tokens_are_refused_by_code() {
    let mut tokens = Tokens::start().await;
    let other = tokens.other.clone();
    let (private, public, kid) =
        (tokens.private.clone(), tokens.public.clone(), tokens.kid.clone());
    let invalid: [(&str, Value); 13] = [
        // Another product's token, as it is, and with this product's names.
        (
            "foreign",
            json!({ "key": other.token_secret, "kid": other.kid,
            "claims": claims_with("aud", json!("other")) }),
        ),
        ("foreign key", json!({ "key": other.token_secret, "kid": other.kid })),
        ("foreign key under our id", json!({ "key": other.token_secret })),
        // The algorithm is bound to the key: what the token says about it is not believed.
        ("public key as secret", json!({ "forge": "hmac", "key": public, "kid": kid })),
        ("no signature", json!({ "forge": "none" })),
        ("no signature, Ed25519", json!({ "forge": "none", "kid": kid })),
        ("EdDSA under an HS256 id", json!({ "algorithm": "EdDSA", "key": private })),
        ("unknown kid", json!({ "kid": "nobody" })),
        ("no kid", json!({ "kid": "" })),
        ("no aud", json!({ "claims": claims_without("aud") })),
        ("a list as aud", json!({ "claims": claims_with("aud", json!(["demo"])) })),
        ("no sub", json!({ "claims": claims_without("sub") })),
        ("no exp", json!({ "claims": claims_without("exp") })),
    ];
    for (what, change) in invalid {
        tokens.refused(what, change, 4101, "token_invalid").await;
    }
    let expired = json!({ "claims": claims_with("exp", json!(now_s() - 120)) });
    tokens.refused("expired", expired, 4100, "token_expired").await;
    // A revoked key: its tokens are worth nothing from now on.
    let path = tokens.demo.path(&format!("/token-keys/{kid}"));
    tokens.node.admin("DELETE", &path, None).await;
    let revoked = json!({ "algorithm": "EdDSA", "key": private, "kid": kid });
    let answer = tokens.answer(revoked).await;
    assert_eq!(answer["frame"]["t"], "closed", "{answer}");
    assert!([4101, 4102].contains(&answer["frame"]["code"].as_u64().unwrap()), "{answer}");
    // None of them registered a terminal.
    let terminals = tokens.node.admin("GET", &tokens.demo.path("/terminals"), None).await;
    assert_eq!(terminals["items"], json!([]), "{terminals}");
}

#[tokio::test]
async fn a_kind_that_the_product_does_not_take_is_refused_by_code() {
    let mut tokens = Tokens::start().await;
    let phones = json!({ "product": "phones", "kinds": ["android", "ios"] });
    let phones = tokens.node.product_with(phones).await;
    let mut claims = claims_with("aud", json!("phones"));
    let order = |claims: &Value| json!({ "product": "phones", "key": phones.token_secret, "kid": phones.kid, "claims": claims });
    tokens.refused("a PC", order(&claims), 4202, "kind_not_accepted").await;
    claims["kind"] = json!("ios");
    let answer = tokens.answer(order(&claims)).await;
    assert_eq!(answer["frame"]["t"], "opened", "{answer}");
}
