//! Keys of the tables. Identifiers never hold a zero byte, so zero separates them.

use clarion_core::{LogKey, LogKind};
use clarion_protocol::http::Target;
use clarion_protocol::{MessageId, Offset, ProductId, TerminalId, TopicName, UserId};

use super::tables::Slice;

/// What all keys of one log begin with: product, 0, kind, name, 0.
pub(crate) fn log(buffer: &mut Vec<u8>, log: &LogKey) {
    buffer.clear();
    log_parts(buffer, log.product.as_str(), log.kind, &log.name);
}

fn log_parts(buffer: &mut Vec<u8>, product: &str, kind: LogKind, name: &str) {
    buffer.extend_from_slice(product.as_bytes());
    buffer.push(0);
    buffer.push(kind as u8);
    buffer.extend_from_slice(name.as_bytes());
    buffer.push(0);
}

pub(crate) fn log_of(product: &ProductId, kind: LogKind, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(product.as_str().len() + name.len() + 11);
    log_parts(&mut key, product.as_str(), kind, name);
    key
}

/// An entry, and the counts of one.
pub(crate) fn entry(log: &[u8], offset: Offset) -> Vec<u8> {
    let mut key = Vec::with_capacity(log.len() + 8);
    key.extend_from_slice(log);
    key.extend_from_slice(&offset.0.to_be_bytes());
    key
}

pub(crate) fn offset_of(key: &[u8]) -> Option<Offset> {
    let tail = key.len().checked_sub(8)?;
    Some(Offset(u64::from_be_bytes(key[tail..].try_into().ok()?)))
}

/// What all places of a message begin with: product, 0, message.
pub(crate) fn message(product: &ProductId, message: MessageId) -> Vec<u8> {
    let mut key = Vec::with_capacity(product.as_str().len() + 17 + 66);
    key.extend_from_slice(product.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(&message.0.to_be_bytes());
    key
}

/// The place of a message in one log: product, 0, message, kind, name.
pub(crate) fn placed(log: &[u8], product_len: usize, message: MessageId) -> Slice {
    let mut key = Vec::with_capacity(log.len() + 16);
    key.extend_from_slice(&log[..=product_len]);
    key.extend_from_slice(&message.0.to_be_bytes());
    key.extend_from_slice(&log[product_len + 1..log.len() - 1]);
    Slice::from(key)
}

/// Log and target of a message's place.
pub(crate) struct Place {
    pub(crate) kind: LogKind,
    pub(crate) target: Target,
    /// As [`log`] makes it.
    pub(crate) log: Vec<u8>,
}

pub(crate) fn place_of(key: &[u8]) -> Option<Place> {
    let product_len = key.iter().position(|&byte| byte == 0)?;
    let (product, rest) = (&key[..product_len], &key[product_len + 1..]);
    let (_message, log) = rest.split_at_checked(16)?;
    let (&kind, name) = log.split_first()?;
    let name = std::str::from_utf8(name).ok()?;
    let kind = kind_of(kind)?;
    let target = match kind {
        LogKind::Terminal => Target::Terminal(TerminalId::new(name).ok()?),
        LogKind::User => Target::User(UserId::new(name).ok()?),
        LogKind::Topic => Target::Topic(TopicName::new(name).ok()?),
        LogKind::Broadcast => Target::All,
    };
    let mut prefix = Vec::with_capacity(key.len());
    log_parts(&mut prefix, std::str::from_utf8(product).ok()?, kind, name);
    Some(Place { kind, target, log: prefix })
}

fn kind_of(byte: u8) -> Option<LogKind> {
    [LogKind::Terminal, LogKind::User, LogKind::Topic, LogKind::Broadcast]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
}

/// Kind of the log whose key this is.
pub(crate) fn kind_of_log(log: &[u8], product_len: usize) -> Option<LogKind> {
    kind_of(*log.get(product_len + 1)?)
}

/// `a`, 0.
pub(crate) fn first(a: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(a.len() + 1);
    key.extend_from_slice(a.as_bytes());
    key.push(0);
    key
}

/// `a`, 0, `b`: products' terminals and claims.
pub(crate) fn pair(a: &str, b: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(a.len() + b.len() + 2);
    key.extend_from_slice(a.as_bytes());
    key.push(0);
    key.extend_from_slice(b.as_bytes());
    key
}

/// `a`, 0, `b`, 0: what the terminals of a user and the members of a topic begin with.
pub(crate) fn list(a: &str, b: &str) -> Vec<u8> {
    let mut key = pair(a, b);
    key.push(0);
    key
}

/// `a`, 0, `b`, 0, `c`: one terminal of a user, one member of a topic.
pub(crate) fn listed(a: &str, b: &str, c: &str) -> Vec<u8> {
    let mut key = list(a, b);
    key.extend_from_slice(c.as_bytes());
    key
}

/// The text behind the last zero of a key.
pub(crate) fn tail(key: &[u8]) -> Option<&str> {
    let zero = key.iter().rposition(|&byte| byte == 0)?;
    std::str::from_utf8(&key[zero + 1..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_names_its_log() {
        let product = ProductId::new("demo").unwrap();
        let terminal = TerminalId::new(&"t".repeat(64)).unwrap();
        for log in [
            LogKey::terminal(&product, &terminal),
            LogKey::topic(&product, &TopicName::new("news").unwrap()),
            LogKey::broadcast(&product),
        ] {
            let mut prefix = Vec::new();
            super::log(&mut prefix, &log);
            let key = placed(&prefix, 4, MessageId(0x00ff_0000));
            assert!(key.starts_with(&message(&product, MessageId(0x00ff_0000))));
            let place = place_of(&key).unwrap();
            assert_eq!(place.kind, log.kind);
            assert_eq!(place.log, prefix);
            assert_eq!(kind_of_log(&prefix, 4), Some(log.kind));
        }
    }
}
