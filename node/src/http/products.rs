//! Products and their keys. Secrets are in the answer that made them and in no other.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clarion_protocol::http::{
    ApiKeyInfo, Page, ProductChange, ProductCreate, ProductInfo, TerminalKind, TokenAlgorithm,
    TokenKeyCreate, TokenKeyInfo,
};
use clarion_protocol::{Code, IsolationGroup, KeyId};
use clarion_storage::{ApiKey, ProductRecord, TokenKey};

use super::keys::{self, new_api_key, new_token_key, public_token_key};
use super::problem::{Answer, Refusal};
use super::request::{Call, json, no_content};

const ALL_KINDS: [TerminalKind; 5] = [
    TerminalKind::Android,
    TerminalKind::Ios,
    TerminalKind::Pc,
    TerminalKind::Web,
    TerminalKind::Device,
];

/// Whether an answer made the keys that it shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Secrets {
    Shown,
    Hidden,
}

/// `POST /v1/products`.
pub(super) async fn create(call: Call) -> Answer {
    let record = record(call.json()?, call.app.system.time_ms())?;
    call.app.system.create_product(record.clone()).await?;
    tracing::info!(product = %record.product, "a product was created");
    json(StatusCode::CREATED, &info(record, 0, Secrets::Shown))
}

/// `GET /v1/products`.
pub(super) async fn list(call: Call) -> Answer {
    let (after, limit) = (call.query.id("after")?, call.query.limit()?);
    let Page { items: records, next } = call.app.system.products(after, limit).await?;
    let mut items = Vec::with_capacity(records.len());
    for record in records {
        let terminals = call.app.system.terminal_count(&record.product).await?;
        items.push(info(record, terminals, Secrets::Hidden));
    }
    json(StatusCode::OK, &Page { items, next })
}

/// `GET /v1/products/{product}`.
pub(super) async fn get(call: Call) -> Answer {
    let product = call.product_id()?;
    let record = call.app.system.product(&product).await?.ok_or(Code::ProductUnknown)?;
    let terminals = call.app.system.terminal_count(&product).await?;
    json(StatusCode::OK, &info(ProductRecord::clone(&record), terminals, Secrets::Hidden))
}

/// `PATCH /v1/products/{product}`.
pub(super) async fn change(call: Call) -> Answer {
    let product = call.product_id()?;
    let ProductChange { isolation_group } = call.json()?;
    let Some(group) = isolation_group else {
        return Err((Code::InvalidField, "isolation_group: nothing else can be changed").into());
    };
    let change = |record: &mut ProductRecord| {
        record.isolation_group = group.as_str().into();
        Ok(record.clone())
    };
    let record = call.app.system.change_product(&product, change).await?;
    tracing::info!(%product, %group, "a product was changed");
    let terminals = call.app.system.terminal_count(&product).await?;
    json(StatusCode::OK, &info(record, terminals, Secrets::Hidden))
}

/// `POST /v1/products/{product}/keys`.
pub(super) async fn create_key(call: Call) -> Answer {
    let product = call.product_id()?;
    let key = new_api_key(&product, call.app.system.time_ms());
    let added = key.clone();
    let change = |record: &mut ProductRecord| keys::add(&mut record.api_keys, added);
    call.app.system.change_product(&product, change).await?;
    tracing::info!(%product, key = %key.key, "a key was made");
    json(StatusCode::CREATED, &api_key_info(key, Secrets::Shown))
}

/// `DELETE /v1/products/{product}/keys/{key}`.
pub(super) async fn revoke_key(call: Call) -> Answer {
    let product = call.product_id()?;
    let key: KeyId = call.params.id("key")?;
    let now_ms = call.app.system.time_ms();
    let change = |record: &mut ProductRecord| keys::revoke(&mut record.api_keys, &key, now_ms);
    call.app.system.change_product(&product, change).await?;
    tracing::info!(%product, %key, "a key was revoked");
    Ok(no_content())
}

/// `POST /v1/products/{product}/token-keys`.
pub(super) async fn create_token_key(call: Call) -> Answer {
    let product = call.product_id()?;
    let request: TokenKeyCreate =
        if call.body.is_empty() { TokenKeyCreate::default() } else { call.json()? };
    let now_ms = call.app.system.time_ms();
    let key = match request.token_public_key_pem {
        Some(pem) => public_token_key(&product, &pem, now_ms)?,
        None => new_token_key(&product, now_ms),
    };
    let added = key.clone();
    let change = |record: &mut ProductRecord| keys::add(&mut record.token_keys, added);
    call.app.system.change_product(&product, change).await?;
    tracing::info!(%product, kid = %key.kid, "a token key was made");
    json(StatusCode::CREATED, &token_key_info(key, Secrets::Shown))
}

/// `DELETE /v1/products/{product}/token-keys/{kid}`.
pub(super) async fn revoke_token_key(call: Call) -> Answer {
    let product = call.product_id()?;
    let kid: KeyId = call.params.id("kid")?;
    let now_ms = call.app.system.time_ms();
    let change = |record: &mut ProductRecord| keys::revoke(&mut record.token_keys, &kid, now_ms);
    call.app.system.change_product(&product, change).await?;
    tracing::info!(%product, %kid, "a token key was revoked");
    Ok(no_content())
}

fn record(request: ProductCreate, now_ms: u64) -> Result<ProductRecord, Refusal> {
    let group = request.isolation_group.unwrap_or_default();
    let ProductCreate { product, kinds, allow_sha1_body_hash, pushes_per_s_max, .. } = request;
    let mut kinds = kinds.unwrap_or_else(|| ALL_KINDS.to_vec());
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        return Err((Code::InvalidField, "kinds: names none").into());
    }
    if pushes_per_s_max == Some(0) {
        return Err((Code::InvalidField, "pushes_per_s_max: at least 1").into());
    }
    let token_key = match request.token_public_key_pem {
        Some(pem) => public_token_key(&product, &pem, now_ms)?,
        None => new_token_key(&product, now_ms),
    };
    Ok(ProductRecord {
        created_at_ms: now_ms,
        kinds,
        allow_sha1_body_hash: allow_sha1_body_hash.unwrap_or(true),
        pushes_per_s_max,
        isolation_group: group.as_str().into(),
        api_keys: vec![new_api_key(&product, now_ms)],
        token_keys: vec![token_key],
        product,
    })
}

fn info(record: ProductRecord, terminals: u64, secrets: Secrets) -> ProductInfo {
    let api_keys = record.api_keys.into_iter().map(|key| api_key_info(key, secrets));
    let token_keys = record.token_keys.into_iter().map(|key| token_key_info(key, secrets));
    ProductInfo {
        product: record.product,
        created_at_ms: record.created_at_ms,
        kinds: record.kinds,
        allow_sha1_body_hash: record.allow_sha1_body_hash,
        pushes_per_s_max: record.pushes_per_s_max,
        // Only what passed as such was ever stored.
        isolation_group: IsolationGroup::new(&record.isolation_group).unwrap_or_default(),
        terminals,
        api_keys: api_keys.collect(),
        token_keys: token_keys.collect(),
    }
}

fn api_key_info(key: ApiKey, secrets: Secrets) -> ApiKeyInfo {
    ApiKeyInfo {
        key: key.key,
        secret: (secrets == Secrets::Shown).then_some(key.secret),
        created_at_ms: key.created_at_ms,
        revoked_at_ms: key.revoked_at_ms,
    }
}

fn token_key_info(key: TokenKey, secrets: Secrets) -> TokenKeyInfo {
    let shown = secrets == Secrets::Shown && key.algorithm == TokenAlgorithm::HS256;
    TokenKeyInfo {
        kid: key.kid,
        algorithm: key.algorithm,
        secret: shown.then(|| URL_SAFE_NO_PAD.encode(&key.key)),
        created_at_ms: key.created_at_ms,
        revoked_at_ms: key.revoked_at_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(body: &str) -> Result<ProductRecord, Code> {
        let request = serde_json::from_str(body).unwrap();
        record(request, 7).map_err(|refusal| refusal.code())
    }

    #[test]
    fn a_product_is_created_with_defaults_and_one_key_of_each_sort() {
        let record = create(r#"{"product":"demo"}"#).unwrap();
        assert_eq!(record.kinds, ALL_KINDS);
        assert!(record.allow_sha1_body_hash);
        assert_eq!((record.api_keys.len(), record.token_keys.len()), (1, 1));
        assert_eq!(record.token_keys[0].algorithm, TokenAlgorithm::HS256);
        assert_eq!(&*record.isolation_group, IsolationGroup::DEFAULT);
        let gold = create(r#"{"product":"demo","isolation_group":"gold"}"#).unwrap();
        assert_eq!(info(gold, 0, Secrets::Hidden).isolation_group.as_str(), "gold");
    }

    #[test]
    fn fields_of_a_product_are_checked() {
        let kinds = create(r#"{"product":"demo","kinds":["web","pc","web"]}"#).unwrap().kinds;
        assert_eq!(kinds, [TerminalKind::Pc, TerminalKind::Web]);
        for bad in [r#""kinds":[]"#, r#""pushes_per_s_max":0"#, r#""token_public_key_pem":"x""#] {
            let body = format!(r#"{{"product":"demo",{bad}}}"#);
            assert_eq!(create(&body).unwrap_err(), Code::InvalidField, "{bad}");
        }
    }

    #[test]
    fn secrets_are_shown_once() {
        let record = create(r#"{"product":"demo"}"#).unwrap();
        let shown = info(record.clone(), 0, Secrets::Shown);
        assert_eq!(shown.api_keys[0].secret.as_ref(), Some(&record.api_keys[0].secret));
        let secret = URL_SAFE_NO_PAD.decode(shown.token_keys[0].secret.as_ref().unwrap()).unwrap();
        assert_eq!(secret, record.token_keys[0].key);
        let hidden = info(record, 3, Secrets::Hidden);
        assert_eq!(hidden.terminals, 3);
        assert!(hidden.api_keys[0].secret.is_none() && hidden.token_keys[0].secret.is_none());
    }
}
