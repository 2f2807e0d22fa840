//! Tokens of terminals (RFC 7519): who a terminal is, signed by its product. The algorithm is
//! bound to the key, and `kid` is looked up within the product only, so no token of one product
//! and no confusion of algorithms opens another.

use clarion_protocol::http::{TerminalKind, TokenAlgorithm, TokenClaims};
use clarion_protocol::{Code, KeyId, ProductId, TerminalId, TopicPattern, UserId};
use clarion_storage::{ProductRecord, TokenKey};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};

use crate::failure::Failure;

/// Longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;
/// Most patterns in the `topics` claim.
const PATTERNS_MAX: usize = 64;
/// How far the clocks of a product's back-end and the node may differ, in seconds.
const LEEWAY_S: u64 = 5;

/// Who a terminal proved to be.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) product: ProductId,
    pub(crate) terminal: TerminalId,
    pub(crate) user: Option<UserId>,
    pub(crate) kind: TerminalKind,
    pub(crate) topics: Box<[TopicPattern]>,
    /// When the token ends, Unix seconds.
    pub(crate) exp_s: u64,
}

impl Identity {
    /// Whether `other` speaks of the same product, terminal and user.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.product, &self.terminal, &self.user)
            == (&other.product, &other.terminal, &other.user)
    }
}

/// The live token keys of a product, ready for use.
pub(crate) struct TokenKeys {
    product: ProductId,
    keys: Vec<(KeyId, Algorithm, DecodingKey, bool)>,
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.keys.iter().map(|(kid, ..)| kid);
        f.debug_list().entries(names).finish()
    }
}

impl TokenKeys {
    pub(crate) fn of(record: &ProductRecord) -> Self {
        let keys = record.token_keys.iter().filter_map(|key| {
            let (algorithm, decoding) = decoding_key(key)?;
            Some((key.kid.clone(), algorithm, decoding, key.revoked_at_ms.is_some()))
        });
        Self { product: record.product.clone(), keys: keys.collect() }
    }

    /// Verifies a token at `now_ms` (Unix milliseconds of the store, I11).
    ///
    /// # Errors
    /// `TokenExpired`, `TokenRevoked` (its key was), or `TokenInvalid` for everything else: what
    /// exactly is wrong with a forged token is nobody's business.
    pub(crate) fn verify(&self, token: &str, now_ms: u64) -> Result<Identity, Code> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Code::TokenInvalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Code::TokenInvalid)?;
        let (_, algorithm, key, revoked) = self.key(header.kid.as_deref())?;
        if header.alg != *algorithm {
            return Err(Code::TokenInvalid);
        }
        let mut validation = Validation::new(*algorithm);
        validation.set_audience(&[self.product.as_str()]);
        validation.set_required_spec_claims(&["aud", "sub", "exp"]);
        validation.validate_exp = false; // judged below, by the store's time
        let claims = jsonwebtoken::decode::<TokenClaims>(token, key, &validation)
            .map_err(|_| Code::TokenInvalid)?
            .claims;
        if *revoked {
            return Err(Code::TokenRevoked);
        }
        if claims.exp.saturating_add(LEEWAY_S) <= now_ms / 1000 {
            return Err(Code::TokenExpired);
        }
        self.identity(claims).ok_or(Code::TokenInvalid)
    }

    /// The key named by `kid`; without one, the only live key.
    fn key(&self, kid: Option<&str>) -> Result<&(KeyId, Algorithm, DecodingKey, bool), Code> {
        if let Some(kid) = kid {
            return self.keys.iter().find(|key| key.0.as_str() == kid).ok_or(Code::TokenInvalid);
        }
        let mut live = self.keys.iter().filter(|key| !key.3);
        match (live.next(), live.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(Code::TokenInvalid),
        }
    }

    fn identity(&self, claims: TokenClaims) -> Option<Identity> {
        if claims.topics.len() > PATTERNS_MAX {
            return None;
        }
        let topics: Result<Vec<_>, _> =
            claims.topics.iter().map(|t| TopicPattern::new(t)).collect();
        Some(Identity {
            product: self.product.clone(),
            terminal: TerminalId::new(&claims.sub).ok()?,
            user: claims.user.as_deref().map(UserId::new).transpose().ok()?,
            kind: claims.kind,
            topics: topics.ok()?.into_boxed_slice(),
            exp_s: claims.exp,
        })
    }
}

fn decoding_key(key: &TokenKey) -> Option<(Algorithm, DecodingKey)> {
    match key.algorithm {
        TokenAlgorithm::HS256 => Some((Algorithm::HS256, DecodingKey::from_secret(&key.key))),
        TokenAlgorithm::EdDSA => {
            let decoding = DecodingKey::from_ed_pem(&key.key).ok()?;
            Some((Algorithm::EdDSA, decoding))
        }
    }
}

/// Whether `pem` is an Ed25519 public key that tokens can be verified with.
#[must_use]
pub fn is_ed25519_public_key(pem: &str) -> bool {
    DecodingKey::from_ed_pem(pem.as_bytes()).is_ok()
}

/// Signs a token with the product's newest live HS256 key.
pub(crate) fn mint(record: &ProductRecord, claims: &TokenClaims) -> Result<String, Failure> {
    let live =
        |key: &&TokenKey| key.algorithm == TokenAlgorithm::HS256 && key.revoked_at_ms.is_none();
    let Some(key) = record.token_keys.iter().rev().find(live) else {
        return Err(Failure::new(Code::InvalidField)
            .detail("the product has no HS256 token key: its own back-end signs its tokens"));
    };
    let header = Header { kid: Some(key.kid.to_string()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(&key.key))
        .map_err(|error| Failure::new(Code::Internal).detail(error.to_string()))
}
