//! What one value cannot show: how the values fit together.

use std::net::SocketAddr;

use crate::check_cluster;
use crate::environment::{ADMIN_TOKEN, Environment};
use crate::files;
use crate::load::{Draft, Mode, Name};
use crate::setting::Role;

/// Room in a request for what is not payload: a hundred targets, names, the rest of the JSON.
pub(crate) const ENVELOPE_BYTES: usize = 16 * 1024;

pub(crate) fn check(draft: &mut Draft, environment: &Environment, mode: Mode) {
    listeners(draft, mode);
    tls_pair(draft, "http");
    tls_pair(draft, "terminals");
    order(draft);
    payload_fits(draft);
    admin_token(draft, environment, mode);
    check_cluster::check(draft, environment, mode);
}

fn listeners(draft: &mut Draft, mode: Mode) {
    const HTTP: Name = ("http", "listen");
    const TERMINALS: Name = ("terminals", "listen");
    if mode == Mode::Dev {
        for (name, listen) in
            [(HTTP, draft.config.http.listen), (TERMINALS, draft.config.terminals.listen)]
        {
            if draft.sound(&[name]) && !listen.ip().is_loopback() {
                draft.fault(
                    name,
                    format!("{listen} can be reached from other machines, with made-up keys"),
                    "listen on 127.0.0.1 or [::1], or use `clarion start`",
                );
            }
        }
    }
    let (http, terminals) = (draft.config.http.listen, draft.config.terminals.listen);
    // Without the role nobody listens for terminals.
    let gateway = draft.config.node.roles.contains(&Role::Gateway);
    if gateway && draft.sound(&[HTTP, TERMINALS]) && collide(http, terminals) {
        // The one that was set is the one to mend.
        let name = if draft.is_set(TERMINALS) { TERMINALS } else { HTTP };
        draft.fault(
            name,
            format!("the API ({http}) and the terminals ({terminals}) want the same port"),
            "give http.listen and terminals.listen different ports",
        );
    }
}

pub(crate) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && overlap
}

fn tls_pair(draft: &mut Draft, section: &'static str) {
    const CERT: &str = "tls_cert_file";
    const KEY: &str = "tls_key_file";
    let files = match section {
        "http" => (&draft.config.http.tls_cert_file, &draft.config.http.tls_key_file),
        _ => (&draft.config.terminals.tls_cert_file, &draft.config.terminals.tls_key_file),
    };
    let (has, lacks) = match (files.0.is_some(), files.1.is_some()) {
        (true, false) => (CERT, KEY),
        (false, true) => (KEY, CERT),
        (true, true) | (false, false) => return,
    };
    if draft.sound(&[(section, has), (section, lacks)]) {
        draft.fault(
            (section, has),
            format!("is set without {lacks}"),
            format!("set {section}.{lacks} too, or neither"),
        );
    }
}

/// The first key must not exceed the second.
fn order(draft: &mut Draft) {
    let config = &draft.config;
    let (session, limits, store) = (&config.session, &config.limits, &config.store);
    let pairs: [(Name, u64, Name, u64); 5] = [
        (
            ("session", "heartbeat_min_ms"),
            session.heartbeat_min_ms,
            ("session", "heartbeat_max_ms"),
            session.heartbeat_max_ms,
        ),
        (
            ("session", "heartbeat_grace_ms"),
            session.heartbeat_grace_ms,
            ("session", "heartbeat_min_ms"),
            session.heartbeat_min_ms,
        ),
        (
            ("limits", "append_timeout_ms"),
            limits.append_timeout_ms,
            ("limits", "request_timeout_ms"),
            limits.request_timeout_ms,
        ),
        (
            ("store", "batch_max"),
            number(store.batch_max),
            ("store", "queue_max"),
            number(store.queue_max),
        ),
        (
            // A reserve as large as the window would leave topics nothing at all (I9).
            ("session", "unicast_reserve_bytes"),
            u64::from(session.unicast_reserve_bytes) + 1,
            ("session", "window_bytes"),
            u64::from(session.window_bytes),
        ),
    ];
    for (small, low, large, high) in pairs {
        if low > high && draft.sound(&[small, large]) {
            let shown = |name: Name| draft.config.get(name.0, name.1).unwrap_or_default();
            let (small_text, large_text) = (shown(small), shown(large));
            let relation = if small.1 == "unicast_reserve_bytes" { "below" } else { "at most" };
            let name = if draft.is_set(small) { small } else { large };
            draft.fault(
                name,
                format!("{} ({small_text}) must be {relation} {} ({large_text})", small.1, large.1),
                format!("lower {}.{} or raise {}.{}", small.0, small.1, large.0, large.1),
            );
        }
    }
}

/// A payload that is accepted must have room wherever it goes.
fn payload_fits(draft: &mut Draft) {
    const PAYLOAD: Name = ("limits", "payload_bytes_max");
    let config = &draft.config;
    let payload = number(config.limits.payload_bytes_max);
    let encoded = payload.div_ceil(3) * 4 + number(ENVELOPE_BYTES);
    let shared_window =
        config.session.window_bytes.saturating_sub(config.session.unicast_reserve_bytes);
    let rooms: [(Name, u64, u64, &str); 5] = [
        (
            ("limits", "body_bytes_max"),
            number(config.limits.body_bytes_max),
            encoded,
            "the payload in base64 and 16 KiB for the rest of the request",
        ),
        (
            ("session", "window_bytes"),
            u64::from(shared_window),
            payload,
            "the payload, beside unicast_reserve_bytes",
        ),
        (("logs", "inbox_bytes_max"), config.logs.inbox_bytes_max, payload, "the payload"),
        (("logs", "topic_bytes_max"), config.logs.topic_bytes_max, payload, "the payload"),
        (("logs", "broadcast_bytes_max"), config.logs.broadcast_bytes_max, payload, "the payload"),
    ];
    for (name, room, needed, what) in rooms {
        let reserve = ("session", "unicast_reserve_bytes");
        if room < needed && draft.sound(&[PAYLOAD, name, reserve]) {
            let place = if draft.is_set(name) { name } else { PAYLOAD };
            let lack = needed - room;
            let (section, key) = name;
            draft.fault(
                place,
                format!(
                    "{section}.{key} has no room for {what} (limits.payload_bytes_max is {payload})"
                ),
                format!("raise {section}.{key} by {lack}, or lower limits.payload_bytes_max"),
            );
        }
    }
}

fn admin_token(draft: &mut Draft, environment: &Environment, mode: Mode) {
    const FILE: Name = ("auth", "admin_token_file");
    let in_environment = files::token_of_environment(environment);
    let given = in_environment.is_some() || draft.config.auth.admin_token_file.is_some();
    if let Some(Err(error)) = in_environment {
        draft.add(error);
    }
    if mode == Mode::Start && !given && draft.sound(&[FILE]) {
        draft.fault(
            FILE,
            "there is no admin token",
            format!("set auth.admin_token_file, or {ADMIN_TOKEN} in the environment"),
        );
    }
}

pub(crate) fn number(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
