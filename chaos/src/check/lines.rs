//! Where in its file a record stands: readers sort records, so only the text itself can say.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use super::Violation;

/// Looks up the lines of the proofs of `violations` in the history that they were found in.
///
/// # Errors
/// When the file cannot be read.
pub fn find(path: &Path, violations: &mut [Violation]) -> io::Result<()> {
    let proofs = || violations.iter().flat_map(|violation| &violation.proof);
    let texts = proofs().filter_map(|proof| serde_json::to_string(&proof.record).ok());
    let mut wanted: HashMap<String, Option<usize>> = texts.map(|text| (text, None)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut file = BufReader::new(File::open(path)?);
    let (mut line, mut number) = (String::new(), 0);
    while file.read_line(&mut line)? > 0 {
        number += 1;
        if let Some(place) = wanted.get_mut(line.trim_end()) {
            place.get_or_insert(number);
        }
        line.clear();
    }
    for proof in violations.iter_mut().flat_map(|violation| &mut violation.proof) {
        let text = serde_json::to_string(&proof.record).unwrap_or_default();
        proof.line = wanted.get(&text).copied().flatten();
    }
    Ok(())
}
