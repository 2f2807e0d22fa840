//! Ordered tables of bytes: what the engine needs of a back end, and a transaction on top of it in
//! which later operations of a group see what earlier ones wrote.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Keys and values. Cheap to clone; short ones are stored inline.
pub(crate) use fjall::Slice;

use crate::StoreResult;

/// The tables. The README lists what each holds, for how long and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Meta,
    Entries,
    Logs,
    Messages,
    Counts,
    Terminals,
    Users,
    Members,
    Claims,
    Nonces,
    Products,
}

impl Table {
    pub(crate) const ALL: [Self; 11] = [
        Self::Meta,
        Self::Entries,
        Self::Logs,
        Self::Messages,
        Self::Counts,
        Self::Terminals,
        Self::Users,
        Self::Members,
        Self::Claims,
        Self::Nonces,
        Self::Products,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Entries => "entries",
            Self::Logs => "logs",
            Self::Messages => "messages",
            Self::Counts => "counts",
            Self::Terminals => "terminals",
            Self::Users => "users",
            Self::Members => "members",
            Self::Claims => "claims",
            Self::Nonces => "nonces",
            Self::Products => "products",
        }
    }
}

/// A range of keys.
pub(crate) type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// A key with its value.
pub(crate) type Row = (Slice, Slice);

/// Rows in order.
pub(crate) type Rows<'a> = Box<dyn Iterator<Item = StoreResult<Row>> + 'a>;

/// A consistent view of the tables.
pub(crate) trait View {
    fn get(&self, table: Table, key: &[u8]) -> StoreResult<Option<Slice>>;
    /// Rows of a range in the order of their keys.
    fn scan(&self, table: Table, range: Range) -> Rows<'_>;
    /// The last row of a range.
    fn last(&self, table: Table, range: Range) -> StoreResult<Option<Row>>;

    fn contains(&self, table: Table, key: &[u8]) -> StoreResult<bool> {
        Ok(self.get(table, key)?.is_some())
    }
}

/// All keys that begin with `prefix`.
pub(crate) fn prefixed(prefix: &[u8]) -> Range {
    (Bound::Included(prefix.to_vec()), end_of(prefix))
}

/// Keys that begin with `prefix` and come behind `after`.
pub(crate) fn prefixed_after(prefix: &[u8], after: Vec<u8>) -> Range {
    (Bound::Excluded(after), end_of(prefix))
}

fn end_of(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

/// Whether no key can be in the range (which `BTreeMap` answers with a panic).
fn is_empty(range: &Range) -> bool {
    match (&range.0, &range.1) {
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a), Bound::Excluded(b)) | (Bound::Excluded(a), Bound::Included(b)) => {
            a >= b
        }
        (Bound::Excluded(a), Bound::Excluded(b)) => a >= b,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

fn borrowed(range: &Range) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice))
}

/// What a transaction wrote: `None` is a removal.
pub(crate) type Writes = BTreeMap<Slice, Option<Slice>>;

/// A view with uncommitted writes on top.
pub(crate) struct Txn<B> {
    pub(crate) base: B,
    writes: [Writes; Table::ALL.len()],
    bytes: u64,
}

impl<B: View> Txn<B> {
    pub(crate) fn new(base: B) -> Self {
        Self { base, writes: Default::default(), bytes: 0 }
    }

    pub(crate) fn put(&mut self, table: Table, key: impl Into<Slice>, value: impl Into<Slice>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += (key.len() + value.len()) as u64;
        self.writes[table as usize].insert(key, Some(value));
    }

    pub(crate) fn remove(&mut self, table: Table, key: impl Into<Slice>) {
        self.writes[table as usize].insert(key.into(), None);
    }

    /// Takes the writes, for the back end to make them durable, and their size in bytes.
    pub(crate) fn take(&mut self) -> ([Writes; Table::ALL.len()], u64) {
        (std::mem::take(&mut self.writes), std::mem::take(&mut self.bytes))
    }
}

impl<B: View> View for Txn<B> {
    fn get(&self, table: Table, key: &[u8]) -> StoreResult<Option<Slice>> {
        match self.writes[table as usize].get(key) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(table, key),
        }
    }

    fn scan(&self, table: Table, range: Range) -> Rows<'_> {
        if is_empty(&range) {
            return Box::new(std::iter::empty());
        }
        let mut written = self.writes[table as usize].range::<[u8], _>(borrowed(&range)).peekable();
        if written.peek().is_none() {
            return self.base.scan(table, range);
        }
        let mut base = self.base.scan(table, range).peekable();
        Box::new(std::iter::from_fn(move || {
            loop {
                let ours = match (base.peek(), written.peek()) {
                    (None, None) => return None,
                    (Some(Ok((base_key, _))), Some((key, _))) => {
                        if base_key == *key {
                            base.next();
                        } else if base_key < *key {
                            return base.next();
                        }
                        written.next()
                    }
                    (Some(_), _) => return base.next(),
                    (None, Some(_)) => written.next(),
                };
                if let Some((key, Some(value))) = ours {
                    return Some(Ok((key.clone(), value.clone())));
                }
            }
        }))
    }

    fn last(&self, table: Table, range: Range) -> StoreResult<Option<Row>> {
        if is_empty(&range) {
            return Ok(None);
        }
        let touched =
            self.writes[table as usize].range::<[u8], _>(borrowed(&range)).next().is_some();
        if !touched {
            return self.base.last(table, range);
        }
        self.scan(table, range).last().transpose()
    }
}

/// Tables in memory.
#[derive(Default)]
pub(crate) struct MemoryTables([BTreeMap<Slice, Slice>; Table::ALL.len()]);

impl MemoryTables {
    pub(crate) fn apply(&mut self, writes: [Writes; Table::ALL.len()]) {
        for (table, writes) in self.0.iter_mut().zip(writes) {
            for (key, value) in writes {
                match value {
                    Some(value) => table.insert(key, value),
                    None => table.remove(&key),
                };
            }
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }
}

impl View for MemoryTables {
    fn get(&self, table: Table, key: &[u8]) -> StoreResult<Option<Slice>> {
        Ok(self.0[table as usize].get(key).cloned())
    }

    fn scan(&self, table: Table, range: Range) -> Rows<'_> {
        if is_empty(&range) {
            return Box::new(std::iter::empty());
        }
        let rows = self.0[table as usize].range::<[u8], _>(borrowed(&range));
        Box::new(rows.map(|(key, value)| Ok((key.clone(), value.clone()))))
    }

    fn last(&self, table: Table, range: Range) -> StoreResult<Option<Row>> {
        if is_empty(&range) {
            return Ok(None);
        }
        let mut rows = self.0[table as usize].range::<[u8], _>(borrowed(&range));
        Ok(rows.next_back().map(|(key, value)| (key.clone(), value.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(view: &impl View, range: Range) -> Vec<String> {
        view.scan(Table::Meta, range)
            .map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn a_scan_merges_what_the_group_wrote() {
        let mut base = MemoryTables::default();
        let mut first = Txn::new(MemoryTables::default());
        for key in ["a", "c", "e", "g"] {
            first.put(Table::Meta, key, "old");
        }
        base.apply(first.take().0);
        let mut txn = Txn::new(base);
        txn.put(Table::Meta, "b", "new");
        txn.put(Table::Meta, "c", "new");
        txn.remove(Table::Meta, "e");
        txn.remove(Table::Meta, "g");
        txn.remove(Table::Meta, "x");
        assert_eq!(keys(&txn, prefixed(b"")), ["a", "b", "c"]);
        assert_eq!(keys(&txn, (Bound::Excluded(b"a".to_vec()), Bound::Unbounded)), ["b", "c"]);
        assert_eq!(&*txn.last(Table::Meta, prefixed(b"")).unwrap().unwrap().0, b"c");
        assert!(txn.last(Table::Meta, prefixed(b"g")).unwrap().is_none());
        assert_eq!(&*txn.get(Table::Meta, b"c").unwrap().unwrap(), b"new");
        assert!(txn.get(Table::Meta, b"e").unwrap().is_none());
    }

    #[test]
    fn a_prefix_of_highest_bytes_has_no_end() {
        assert_eq!(prefixed(&[1, 255]).1, Bound::Excluded(vec![2]));
        assert_eq!(prefixed(&[255, 255]).1, Bound::Unbounded);
    }
}
