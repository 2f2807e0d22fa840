//! The reference of all keys, made from the table. `README.md` holds it between two markers.

use crate::keys::{Config, SECTIONS};

/// The reference as Markdown: one table for each section.
#[must_use]
pub fn reference() -> String {
    let defaults = Config::default();
    let mut text = String::new();
    for section in SECTIONS {
        let about = join(section.doc);
        text.push_str(&format!("### `[{}]`\n\n{about}\n\n", section.name));
        text.push_str("| key | type | default | unit | bounds | meaning |\n");
        text.push_str("| --- | --- | --- | --- | --- | --- |\n");
        for key in section.keys {
            let default = match defaults.get(section.name, key.name) {
                Some(value) => format!("`{value}`"),
                None => "not set".to_owned(),
            };
            text.push_str(&format!(
                "| `{}` | {} | {default} | {} | {} | {} |\n",
                key.name,
                key.kind,
                key.unit(),
                key.bounds.describe(),
                join(key.doc),
            ));
        }
        text.push('\n');
    }
    text
}

fn join(doc: &[&str]) -> String {
    let lines: Vec<&str> = doc.iter().map(|line| line.trim()).collect();
    lines.join(" ").replace('|', "\\|")
}
