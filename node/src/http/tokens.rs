//! Terminal tokens, minted for the command line, for tests and for products without a back-end
//! that signs its own.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clarion_protocol::Code;
use clarion_protocol::http::{
    MintedToken, TOKEN_TTL_S_DEFAULT, TOKEN_TTL_S_MAX, TerminalKind, TokenAlgorithm, TokenClaims,
    TokenRequest,
};
use clarion_storage::ProductRecord;
use rand::Rng as _;

use super::problem::{Answer, Refusal};
use super::request::{Call, json};

/// Most patterns of topics in a token.
const TOPICS_MAX: usize = 64;

/// `POST /v1/products/{product}/tokens`.
pub(super) async fn mint(call: Call) -> Answer {
    let product = call.product_id()?;
    let record = call.app.system.product(&product).await?.ok_or(Code::ProductUnknown)?;
    let claims = claims(&record, call.json()?, call.app.system.time_ms() / 1000)?;
    let token = call.app.system.mint_token(&record, &claims)?;
    json(StatusCode::OK, &MintedToken { token, expires_at_s: claims.exp })
}

fn claims(
    product: &ProductRecord,
    request: TokenRequest,
    now_s: u64,
) -> Result<TokenClaims, Refusal> {
    let signs = |key: &&clarion_storage::TokenKey| {
        key.revoked_at_ms.is_none() && key.algorithm == TokenAlgorithm::HS256
    };
    if !product.token_keys.iter().any(|key| signs(&key)) {
        return Err((Code::NotFound, "the product has no live HS256 key to sign with").into());
    }
    let ttl_s = request.ttl_s.unwrap_or(TOKEN_TTL_S_DEFAULT);
    if !(1..=TOKEN_TTL_S_MAX).contains(&ttl_s) {
        let detail = format!("ttl_s: a number from 1 to {TOKEN_TTL_S_MAX}");
        return Err((Code::InvalidField, detail).into());
    }
    if request.topics.len() > TOPICS_MAX {
        let detail = format!("topics: at most {TOPICS_MAX} patterns");
        return Err((Code::InvalidField, detail).into());
    }
    let kind = kind(product, request.kind)?;
    Ok(TokenClaims {
        aud: product.product.to_string(),
        sub: request.terminal.to_string(),
        user: request.user.map(|user| user.to_string()),
        kind,
        topics: request.topics.into_iter().map(String::from).collect(),
        exp: now_s + ttl_s,
        jti: Some(URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 16]>())),
    })
}

fn kind(product: &ProductRecord, asked: Option<TerminalKind>) -> Result<TerminalKind, Refusal> {
    let kinds = &product.kinds;
    match asked {
        Some(kind) if kinds.contains(&kind) => Ok(kind),
        Some(_) => Err((Code::InvalidField, "kind: the product does not accept it").into()),
        None if kinds.contains(&TerminalKind::Pc) => Ok(TerminalKind::Pc),
        None => Ok(kinds.first().copied().unwrap_or(TerminalKind::Pc)),
    }
}

#[cfg(test)]
mod tests {
    use clarion_protocol::ProductId;

    use super::super::keys::new_token_key;
    use super::*;

    fn product(kinds: &[TerminalKind]) -> ProductRecord {
        let product = ProductId::new("demo").unwrap();
        ProductRecord {
            created_at_ms: 1,
            kinds: kinds.to_vec(),
            allow_sha1_body_hash: true,
            pushes_per_s_max: None,
            isolation_group: clarion_storage::DEFAULT_GROUP.into(),
            api_keys: vec![],
            token_keys: vec![new_token_key(&product, 1)],
            product,
        }
    }

    fn asked(product: &ProductRecord, body: &str) -> Result<TokenClaims, Code> {
        claims(product, serde_json::from_str(body).unwrap(), 1000).map_err(|r| r.code())
    }

    #[test]
    fn a_token_says_what_was_asked_for() {
        let product = product(&[TerminalKind::Web, TerminalKind::Pc]);
        let body = r#"{"terminal":"t","user":"u","kind":"web","topics":["news*"],"ttl_s":60}"#;
        let claims = asked(&product, body).unwrap();
        assert_eq!((claims.aud.as_str(), claims.sub.as_str()), ("demo", "t"));
        assert_eq!((claims.user.as_deref(), claims.exp), (Some("u"), 1060));
        assert_eq!((claims.kind, claims.topics), (TerminalKind::Web, vec!["news*".to_owned()]));
        let default = asked(&product, r#"{"terminal":"t"}"#).unwrap();
        assert_eq!((default.kind, default.exp), (TerminalKind::Pc, 1000 + 86_400));
        assert_ne!(default.jti, claims.jti);
    }

    #[test]
    fn what_a_token_cannot_say_is_refused() {
        let mut product = product(&[TerminalKind::Web]);
        for bad in [r#""ttl_s":0"#, r#""ttl_s":99999999999"#, r#""kind":"pc""#] {
            let body = format!(r#"{{"terminal":"t",{bad}}}"#);
            assert_eq!(asked(&product, &body).unwrap_err(), Code::InvalidField, "{bad}");
        }
        assert_eq!(asked(&product, r#"{"terminal":"t"}"#).unwrap().kind, TerminalKind::Web);
        product.token_keys[0].revoked_at_ms = Some(1);
        assert_eq!(asked(&product, r#"{"terminal":"t"}"#).unwrap_err(), Code::NotFound);
    }
}
