//! The command reference in `README.md` is what the commands say of themselves. With
//! `UPDATE_DOCS=1` this test writes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

const BEGIN: &str =
    "<!-- commands: written by `UPDATE_DOCS=1 cargo test -p clarion --test reference` -->\n";
const END: &str = "<!-- end of commands -->";

#[test]
fn the_readme_has_the_help_of_every_command() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(file).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README has a begin mark");
    let (written, after) = rest.split_once(END).expect("the README has an end mark");
    let reference = format!("\n{}", clarion_node::cli::reference::reference());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(file, format!("{before}{BEGIN}{reference}{END}{after}")).unwrap();
    } else if written != reference {
        let differs = written.lines().zip(reference.lines()).find(|(a, b)| a != b);
        panic!("node/README.md is out of date at {differs:?}; run with UPDATE_DOCS=1");
    }
}
