//! Looks through the journals before the database does. On its own the database takes a journal
//! that it cannot read on for the torn tail of a crash, and drops what follows. Here the commit
//! markers tell: if a batch behind the damage says that the damaged one had been synced, then it
//! was promised durable, and the store is not opened. Otherwise it is a torn tail, which is cut off.

use std::path::{Path, PathBuf};

use super::OpenError;
use super::marker::{MARKER_KEY, Mark, decode_mark};

/// Ends every batch (journal format 3 of `fjall` 3.1).
const TRAILER: &[u8] = b"FJL\x03";
const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;

/// Reads little-endian numbers off the front.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self, len: usize) -> Option<u64> {
        let bytes = self.take(len)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| (number << 8) | u64::from(byte)))
    }
}

/// A batch that is whole: where it ends, and its marker if it has one.
struct Batch {
    end: usize,
    mark: Option<Mark>,
}

fn parse_batch(bytes: &[u8], at: usize) -> Option<Batch> {
    let mut cursor = Cursor { bytes, at };
    if cursor.number(1)? != u64::from(TAG_START) {
        return None;
    }
    let items = cursor.number(4)?;
    let _seqno = cursor.number(8)?;
    let body = cursor.at;
    let mut mark = None;
    for _ in 0..items {
        match cursor.number(1)? as u8 {
            TAG_ITEM => {
                let value_type = cursor.number(1)?;
                let compression = cursor.number(1)?;
                if value_type > 4 || compression != 0 {
                    return None;
                }
                let _keyspace = cursor.number(8)?;
                let key_len = cursor.number(2)? as usize;
                let value_len = cursor.number(4)?;
                if cursor.number(4)? != value_len {
                    return None;
                }
                let key = cursor.take(key_len)?;
                let value = cursor.take(value_len as usize)?;
                if key == MARKER_KEY {
                    mark = decode_mark(value);
                }
            }
            TAG_CLEAR => {
                cursor.number(8)?;
            }
            _ => return None,
        }
    }
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes[body..cursor.at]);
    if cursor.number(1)? != u64::from(TAG_END) || cursor.number(8)? != sum {
        return None;
    }
    (cursor.take(TRAILER.len())? == TRAILER).then_some(Batch { end: cursor.at, mark })
}

/// What a journal holds from its beginning, and where that ends.
struct Scan {
    end: usize,
    /// Number of the last batch that has a marker.
    last: Option<u64>,
}

fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan { end: 0, last: None };
    while let Some(batch) = parse_batch(bytes, scan.end) {
        scan.end = batch.end;
        scan.last = batch.mark.map(|mark| mark.number).or(scan.last);
    }
    scan
}

/// The highest number that whole batches somewhere behind `from` say was synced before them.
fn durable_behind(bytes: &[u8], from: usize) -> Option<u64> {
    let mut highest = None;
    let mut at = from;
    while let Some(found) = find(bytes, at, TRAILER) {
        at = found + TRAILER.len();
        while let Some(batch) = parse_batch(bytes, at) {
            highest = highest.max(batch.mark.map(|mark| mark.durable));
            at = batch.end;
        }
    }
    highest
}

fn find(bytes: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    let mut at = from;
    loop {
        let next = bytes.get(at..)?.iter().position(|&byte| byte == needle[0])?;
        at += next;
        if bytes[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Journals, oldest first.
fn journals(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for file in std::fs::read_dir(path)? {
        let path = file?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// Refuses journals with damage in what was promised durable; cuts off a torn tail.
pub(super) fn check(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let corrupt = |journal: &Path, at: usize| OpenError::Corrupt {
        path: path.to_owned(),
        what: format!(
            "{} cannot be read at byte {at}, and what was written there had been acknowledged",
            journal.display()
        ),
    };
    let journals = journals(path).map_err(io)?;
    let mut last = None;
    for (number, journal) in journals.iter().enumerate() {
        let bytes = std::fs::read(journal).map_err(io)?;
        let scan = scan(&bytes);
        last = scan.last.or(last);
        // A journal is allocated ahead: zeros are no damage.
        if is_zero(&bytes[scan.end..]) {
            continue;
        }
        let missing = last.map_or(0, |last| last + 1);
        let promised = durable_behind(&bytes, scan.end).is_some_and(|durable| durable >= missing);
        // One that was followed by another was synced as a whole before.
        let sealed = number + 1 < journals.len();
        if promised || sealed {
            return Err(corrupt(journal, scan.end));
        }
        tracing::warn!(
            journal = %journal.display(),
            at = scan.end,
            bytes = bytes.len() - scan.end,
            "the journal ends in a batch that was cut off by a crash; it is dropped"
        );
        let file = std::fs::OpenOptions::new().write(true).open(journal).map_err(io)?;
        file.set_len(scan.end as u64).and_then(|()| file.sync_all()).map_err(io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needles_are_found_also_behind_their_own_beginning() {
        assert_eq!(find(b"FFJL\x03", 0, TRAILER), Some(1));
        assert_eq!(find(b"FJFJL\x03", 0, TRAILER), Some(2));
        assert_eq!(find(b"FJL", 0, TRAILER), None);
        assert_eq!(find(b"FJL\x03", 1, TRAILER), None);
    }
}
