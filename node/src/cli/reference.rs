//! The command reference of `README.md`: what `--help` says of every command, so that the two
//! cannot differ (a test compares them).

use clap::{Command, CommandFactory};

use super::Cli;

/// Width that help is wrapped at in the reference.
const COLUMNS: usize = 100;

/// The help of every command that is not hidden, as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::new();
    let mut root = Cli::command().term_width(COLUMNS);
    root.build();
    section(&mut text, &root);
    text
}

fn section(text: &mut String, command: &Command) {
    let mut command = command.clone().term_width(COLUMNS);
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!("### `{name}`\n\n```text\n{}\n```\n\n", lines.join("\n").trim()));
    for inner in command.get_subcommands() {
        if !inner.is_hide_set() && inner.get_name() != "help" {
            section(text, inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_the_reference_but_hidden_ones() {
        let text = reference();
        for name in ["clarion", "clarion dev", "clarion product create", "clarion bench all"] {
            assert!(text.contains(&format!("### `{name}`\n")), "{name} is not in\n{text}");
        }
        assert!(!text.contains("### `clarion bench load`"));
        assert!(!text.contains("### `clarion help"));
    }
}
