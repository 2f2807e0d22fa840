//! A snapshot as bytes: magic, version, counts and items in little-endian, CRC-32C of all before.

use clarion_protocol::terminal::Cursor;
use clarion_protocol::{Epoch, LogName, MessageId, Offset};

use super::{Owner, Snapshot};

const MAGIC: [u8; 4] = *b"CLCU";
const VERSION: u8 = 1;

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// They are something else.
    #[error("these are no cursors")]
    Foreign,
    /// A newer release wrote them.
    #[error("written in format {0}, this release reads 1")]
    Version(u8),
    /// They are cut off or changed.
    #[error("the checksum is wrong")]
    Checksum,
    /// The checksum is right, the content is not.
    #[error("the content is malformed")]
    Malformed,
}

impl Snapshot {
    /// The snapshot as bytes, for a store of one's own.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.cursors.len() * 48 + self.seen.len() * 16);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        match &self.owner {
            None => out.push(0),
            Some(owner) => {
                out.push(1);
                put_text(&mut out, &owner.product);
                put_optional(&mut out, owner.terminal.as_deref());
                put_optional(&mut out, owner.user.as_deref());
            }
        }
        put_count(&mut out, self.cursors.len());
        for (log, Cursor(epoch, offset)) in &self.cursors {
            put_text(&mut out, &log.to_string());
            out.extend_from_slice(&epoch.0.to_le_bytes());
            out.extend_from_slice(&offset.0.to_le_bytes());
        }
        put_count(&mut out, self.seen.len());
        for id in &self.seen {
            out.extend_from_slice(&id.0.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// What [`Snapshot::to_bytes`] wrote.
    ///
    /// # Errors
    /// When the bytes are damaged, of something else, or of a newer release.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() < MAGIC.len() + 1 || bytes[..4] != MAGIC {
            return Err(DecodeError::Foreign);
        }
        let (content, checksum) = bytes.split_last_chunk::<4>().ok_or(DecodeError::Checksum)?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*checksum) {
            return Err(DecodeError::Checksum);
        }
        if content.get(4) != Some(&VERSION) {
            return Err(DecodeError::Version(content.get(4).copied().unwrap_or(0)));
        }
        let mut rest = Reader(&content[5..]);
        let snapshot = rest.snapshot().ok_or(DecodeError::Malformed)?;
        if rest.0.is_empty() { Ok(snapshot) } else { Err(DecodeError::Malformed) }
    }
}

// Texts here are identifiers of at most some hundred bytes, counts at most some thousand: what
// does not fit the width is cut, and the checksum still covers what was written.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
}

fn put_optional(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    if let Some(text) = text {
        put_text(out, text);
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn snapshot(&mut self) -> Option<Snapshot> {
        let owner = match self.take::<1>()?[0] {
            0 => None,
            1 => Some(Owner {
                product: self.text()?,
                terminal: self.optional()?,
                user: self.optional()?,
            }),
            _ => return None,
        };
        let mut cursors = Vec::new();
        for _ in 0..self.count()? {
            let log: LogName = self.text()?.parse().ok()?;
            let epoch = Epoch(u64::from_le_bytes(self.take()?));
            let offset = Offset(u64::from_le_bytes(self.take()?));
            cursors.push((log, Cursor(epoch, offset)));
        }
        let mut seen = Vec::new();
        for _ in 0..self.count()? {
            seen.push(MessageId(u128::from_le_bytes(self.take()?)));
        }
        Some(Snapshot { owner, cursors, seen })
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn count(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(u16::from_le_bytes(self.take()?));
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(std::str::from_utf8(head).ok()?.to_owned())
    }

    fn optional(&mut self) -> Option<Option<String>> {
        match self.take::<1>()?[0] {
            0 => Some(None),
            1 => self.text().map(Some),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clarion_protocol::TopicName;
    use proptest::prelude::*;

    use super::*;

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        let id = "[a-z0-9:]{1,20}";
        let owner = (id, proptest::option::of(id), proptest::option::of(id))
            .prop_map(|(product, terminal, user)| Owner { product, terminal, user });
        let log = prop_oneof![
            Just(LogName::Terminal),
            Just(LogName::User),
            Just(LogName::Broadcast),
            id.prop_map(|name| LogName::Topic(TopicName::new(&name).unwrap())),
        ];
        let cursor = (log, any::<u64>(), any::<u64>())
            .prop_map(|(log, epoch, offset)| (log, Cursor(Epoch(epoch), Offset(offset))));
        let cursors = proptest::collection::vec(cursor, 0..8);
        let seen = proptest::collection::vec(any::<u128>().prop_map(MessageId), 0..40);
        (proptest::option::of(owner), cursors, seen).prop_map(|(owner, cursors, seen)| Snapshot {
            owner,
            cursors,
            seen,
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(snapshot in snapshots()) {
            prop_assert_eq!(Snapshot::from_bytes(&snapshot.to_bytes()), Ok(snapshot));
        }

        #[test]
        fn a_changed_byte_is_noticed(snapshot in snapshots(), at: prop::sample::Index, bit in 0_u8..8) {
            let mut bytes = snapshot.to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Snapshot::from_bytes(&bytes).is_err());
        }

        #[test]
        fn a_cut_is_noticed(snapshot in snapshots(), at: prop::sample::Index) {
            let bytes = snapshot.to_bytes();
            prop_assert!(Snapshot::from_bytes(&bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Snapshot::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut bytes = Snapshot::default().to_bytes();
        bytes[4] = 9;
        let end = bytes.len() - 4;
        let checksum = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Snapshot::from_bytes(&bytes), Err(DecodeError::Version(9)));
    }
}
