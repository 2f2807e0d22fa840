//! JSON Schemas of everything the API takes and gives. The types in `clarion_protocol` are the
//! truth; the tests hold each schema against what its type writes and reads.

use clarion_protocol::http::{
    CONTENT_TYPE_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, TARGETS_MAX, TOKEN_TTL_S_MAX, TTL_S_DEFAULT,
    TTL_S_MAX,
};
use clarion_protocol::ids::{ID_BYTES_MAX, OFFSET_END};
use serde_json::{Map, Value, json};

/// Every schema by its name.
pub(super) fn all() -> Map<String, Value> {
    let groups = [basics(), pushes(), messages(), terminals(), products(), node(), cluster()];
    groups.into_iter().flatten().collect()
}

type Group = Vec<(String, Value)>;

/// An object: its fields, and which of them are always there.
fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "properties": properties, "required": required })
}

/// An object that takes no other fields.
fn closed(required: &[&str], properties: Value) -> Value {
    let mut schema = object(required, properties);
    schema["additionalProperties"] = json!(false);
    schema
}

fn r(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn list(schema: &str) -> Value {
    json!({ "type": "array", "items": r(schema) })
}

fn number() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

fn page(of: &str) -> (String, Value) {
    let items = object(&["items"], json!({ "items": list(of), "next": text() }));
    (format!("{of}Page"), items)
}

fn named(schemas: impl IntoIterator<Item = (&'static str, Value)>) -> Group {
    schemas.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

fn basics() -> Group {
    let id = json!({
        "type": "string", "minLength": 1, "maxLength": ID_BYTES_MAX,
        "pattern": "^[A-Za-z0-9._:@~-]+$",
    });
    let message_id =
        json!({ "type": "string", "pattern": "^[0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{26}$" });
    let offset = json!({ "type": "integer", "minimum": 0, "exclusiveMaximum": OFFSET_END });
    let one = |name: &str, schema: Value| {
        json!({ "type": "object", "properties": { name: schema }, "required": [name],
            "additionalProperties": false })
    };
    let target = json!({ "oneOf": [
        { "const": "all" }, one("terminal", r("Id")), one("user", r("Id")), one("topic", r("Id")),
    ] });
    let problem = object(
        &["type", "title", "status", "code", "retryable", "doc_url"],
        json!({
            "type": text(), "title": text(), "status": number(), "detail": text(), "code": text(),
            "retryable": flag(), "retry_after_s": number(), "request_id": text(),
            "doc_url": text(), "targets": list("TargetOutcome"),
        }),
    );
    let kind = json!({ "enum": ["android", "ios", "pc", "web", "device"] });
    named([
        ("Any", json!({})),
        ("Id", id),
        ("MessageId", message_id),
        ("Offset", offset),
        ("Target", target),
        ("Problem", problem),
        ("TerminalKind", kind),
    ])
}

fn pushes() -> Group {
    let names = |name: &str| {
        json!({ "type": "object", "additionalProperties": false, "required": [name],
            "properties": { name: { "type": "array", "items": r("Id"), "minItems": 1,
                "maxItems": TARGETS_MAX, "uniqueItems": true } } })
    };
    let topic = json!({ "type": "object", "additionalProperties": false, "required": ["topic"],
        "properties": { "topic": r("Id") } });
    let audience = json!({
        "oneOf": [{ "const": "all" }, names("terminals"), names("users"), topic],
    });
    let mut request = closed(
        &["audience"],
        json!({
            "audience": r("Audience"),
            "payload": { "description": "Any JSON; passed on as it is written." },
            "payload_base64": { "type": "string", "contentEncoding": "base64" },
            "content_type": { "type": "string", "maxLength": CONTENT_TYPE_BYTES_MAX },
            "ttl": { "type": "integer", "minimum": 0, "maximum": TTL_S_MAX,
                "default": TTL_S_DEFAULT },
            "idempotency_key": { "type": "string", "minLength": 1,
                "maxLength": IDEMPOTENCY_KEY_BYTES_MAX, "pattern": "^[!-~]+$" },
        }),
    );
    request["oneOf"] = json!([{ "required": ["payload"] }, { "required": ["payload_base64"] }]);
    let accepted = object(
        &["id", "expires_at_ms", "targets"],
        json!({ "id": r("MessageId"), "expires_at_ms": number(), "replayed": flag(),
            "targets": list("TargetOutcome") }),
    );
    let outcome = object(
        &["target"],
        json!({ "target": r("Target"), "position": r("Position"), "error": r("TargetError") }),
    );
    let error = object(
        &["code", "retryable"],
        json!({ "code": text(), "retryable": flag(), "detail": text() }),
    );
    let position =
        object(&["epoch", "offset"], json!({ "epoch": number(), "offset": r("Offset") }));
    named([
        ("Audience", audience),
        ("PushRequest", request),
        ("PushAccepted", accepted),
        ("TargetOutcome", outcome),
        ("TargetError", error),
        ("Position", position),
    ])
}

fn messages() -> Group {
    let counts = [
        "audience",
        "delivered",
        "acknowledged",
        "expired",
        "undeliverable",
        "suppressed",
        "evicted",
        "pending",
    ];
    let fields: Map<String, Value> =
        counts.iter().map(|name| ((*name).to_owned(), number())).collect();
    named([
        ("Counts", object(&counts, Value::Object(fields))),
        (
            "MessageState",
            object(
                &["id", "accepted_at_ms", "expires_at_ms", "counts", "targets"],
                json!({ "id": r("MessageId"), "accepted_at_ms": number(),
                    "expires_at_ms": number(), "counts": r("Counts"),
                    "targets": list("TargetState") }),
            ),
        ),
        (
            "TargetState",
            object(
                &["target", "position", "counts"],
                json!({ "target": r("Target"), "position": r("Position"),
                    "counts": r("Counts") }),
            ),
        ),
    ])
}

fn terminals() -> Group {
    let members = closed(
        &["terminals"],
        json!({ "terminals": { "type": "array", "items": r("Id"), "minItems": 1,
            "maxItems": TARGETS_MAX } }),
    );
    let outcome = object(
        &["terminal", "member"],
        json!({ "terminal": r("Id"), "member": flag(), "error": r("TargetError") }),
    );
    let info = object(
        &["terminal", "online", "registered_at_ms", "last_seen_ms", "generation", "cursors"],
        json!({ "terminal": r("Id"), "user": r("Id"), "kind": r("TerminalKind"),
            "online": flag(), "registered_at_ms": number(), "last_seen_ms": number(),
            "generation": number(), "cursors": list("CursorInfo") }),
    );
    let cursor = object(
        &["log", "epoch", "offset"],
        json!({ "log": text(), "epoch": number(), "offset": r("Offset") }),
    );
    let mut group = named([
        ("TopicMembers", members),
        ("MemberOutcome", outcome),
        ("TopicMember", object(&["terminal"], json!({ "terminal": r("Id") }))),
        ("TerminalInfo", info),
        ("CursorInfo", cursor),
        ("KickOutcome", object(&["kicked"], json!({ "kicked": flag() }))),
    ]);
    group.extend([page("TopicMember"), page("TerminalInfo"), page("MemberOutcome")]);
    group
}

fn products() -> Group {
    let kinds = json!({ "type": "array", "items": r("TerminalKind"), "minItems": 1 });
    let create = closed(
        &["product"],
        json!({ "product": r("Id"), "kinds": kinds, "allow_sha1_body_hash": flag(),
            "pushes_per_s_max": { "type": "integer", "minimum": 1, "maximum": u32::MAX },
            "isolation_group": r("Id"), "token_public_key_pem": text() }),
    );
    let info = object(
        &[
            "product",
            "created_at_ms",
            "kinds",
            "allow_sha1_body_hash",
            "isolation_group",
            "terminals",
            "api_keys",
            "token_keys",
        ],
        json!({ "product": r("Id"), "created_at_ms": number(), "kinds": kinds,
            "allow_sha1_body_hash": flag(), "pushes_per_s_max": number(), "isolation_group": r("Id"),
            "terminals": number(),
            "api_keys": list("ApiKeyInfo"), "token_keys": list("TokenKeyInfo") }),
    );
    let api_key = object(
        &["key", "created_at_ms"],
        json!({ "key": r("Id"), "secret": text(), "created_at_ms": number(),
            "revoked_at_ms": number() }),
    );
    let token_key = object(
        &["kid", "algorithm", "created_at_ms"],
        json!({ "kid": r("Id"), "algorithm": { "enum": ["HS256", "EdDSA"] }, "secret": text(),
            "created_at_ms": number(), "revoked_at_ms": number() }),
    );
    let token = closed(
        &["terminal"],
        json!({ "terminal": r("Id"), "user": r("Id"), "kind": r("TerminalKind"),
            "topics": { "type": "array", "items": text() },
            "ttl_s": { "type": "integer", "minimum": 1, "maximum": TOKEN_TTL_S_MAX } }),
    );
    let mut group = named([
        ("ProductCreate", create),
        ("ProductChange", closed(&[], json!({ "isolation_group": r("Id") }))),
        ("ProductInfo", info),
        ("ApiKeyInfo", api_key),
        ("TokenKeyInfo", token_key),
        ("TokenKeyCreate", closed(&[], json!({ "token_public_key_pem": text() }))),
        ("TokenRequest", token),
        (
            "MintedToken",
            object(
                &["token", "expires_at_s"],
                json!({ "token": text(), "expires_at_s": number() }),
            ),
        ),
    ]);
    group.push(page("ProductInfo"));
    group
}

fn node() -> Group {
    let door = object(&["ready"], json!({ "ready": flag(), "reason": text() }));
    let readiness = object(
        &["ready", "doors"],
        json!({ "ready": flag(), "doors": { "type": "object", "additionalProperties": door } }),
    );
    let status = object(
        &["node", "version", "features", "uptime_s", "time_ms"],
        json!({ "node": text(), "version": text(),
            "features": { "type": "array", "items": text() },
            "uptime_s": number(), "time_ms": number() }),
    );
    named([
        ("Liveness", object(&["alive"], json!({ "alive": flag() }))),
        ("Readiness", readiness),
        ("Status", status),
    ])
}

fn cluster() -> Group {
    let gateway = object(&["url", "node"], json!({ "url": text(), "node": text() }));
    let gateways =
        object(&["gateways", "ttl_s"], json!({ "gateways": list("Gateway"), "ttl_s": number() }));
    let load = ["links", "links_max", "sessions", "cpu_permille"];
    let fields: Map<String, Value> =
        load.iter().map(|name| ((*name).to_owned(), number())).collect();
    let node = object(
        &[
            "node",
            "boot",
            "version",
            "roles",
            "isolation_group",
            "http_url",
            "reachable",
            "owns",
            "why",
            "draining",
            "sick",
            "flaps",
            "slots",
            "load",
        ],
        json!({ "node": text(), "boot": text(), "version": text(),
            "roles": { "type": "array", "items": text() }, "isolation_group": r("Id"),
            "address": text(), "http_url": text(), "terminals_url": text(), "reachable": flag(),
            "owns": flag(), "why": text(), "draining": flag(), "sick": flag(),
            "quarantined_until_ms": number(), "flaps": number(), "slots": number(),
            "load": r("Load"), "status": r("Any") }),
    );
    let status = object(
        &["node", "nodes"],
        json!({ "node": text(), "cluster": text(), "nodes": list("ClusterNode") }),
    );
    let place = object(
        &["log", "isolation_group", "slot", "why", "order", "readers"],
        json!({ "log": text(), "isolation_group": r("Id"), "slot": number(), "owner": text(),
            "why": text(), "order": list("WhereNode"),
            "readers": { "type": "array", "items": text() } }),
    );
    named([
        ("Gateway", gateway),
        ("Gateways", gateways),
        ("Load", object(&load, Value::Object(fields))),
        ("ClusterNode", node),
        ("ClusterStatus", status),
        (
            "DrainStarted",
            object(&["node", "started"], json!({ "node": text(), "started": flag() })),
        ),
        ("Where", place),
        (
            "WhereNode",
            object(&["node", "reachable"], json!({ "node": text(), "reachable": flag() })),
        ),
    ])
}

#[cfg(test)]
mod tests;
