//! The table of keys, what is made from it, and hostile texts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use clarion_config::keys::SECTIONS;
use clarion_config::setting::Bounds;
use clarion_config::{Config, Environment, Mode, reference};
use proptest::prelude::*;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn token() -> Environment {
    Environment::from_pairs([("CLARION_ADMIN_TOKEN", "0123456789abcdef")])
}

/// The node configs among the profiles; files with a `[profile]` section describe whole clusters.
fn profiles() -> Vec<(PathBuf, String)> {
    let mut found: Vec<_> = std::fs::read_dir(here("profiles"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .filter(|(_, text)| !text.contains("\n[profile]\n"))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

#[test]
fn every_profile_loads_and_differs_from_the_defaults() {
    for (path, text) in profiles() {
        let config = Config::parse(&path, &text, &Environment::default(), Mode::Start).unwrap();
        assert_ne!(config, Config::default(), "{}", path.display());
    }
}

#[test]
fn what_profiles_leave_as_comments_are_known_keys() {
    for (path, text) in profiles() {
        let uncommented: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") && !key.contains("listen") => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        Config::parse(&path, &uncommented, &Environment::default(), Mode::Start).unwrap();
    }
}

#[test]
fn the_reference_in_the_readme_is_fresh() {
    const BEGIN: &str = "<!-- keys: made from src/keys.rs, do not edit -->\n";
    const END: &str = "<!-- keys: end -->";
    let path = here("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let fresh = format!("{before}{BEGIN}\n{}{END}{after}", reference());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, fresh).unwrap();
    } else {
        assert!(text == fresh, "README.md is stale: UPDATE_DOCS=1 cargo test -p clarion-config");
    }
}

#[test]
fn every_default_is_within_its_bounds() {
    let defaults = Config::default();
    let again = Config::parse(Path::new("x"), &defaults.to_toml(), &token(), Mode::Start).unwrap();
    assert_eq!(again, defaults);
    for section in SECTIONS {
        for key in section.keys {
            if let Bounds::Range(min, max) = key.bounds {
                let text = defaults.get(section.name, key.name).unwrap();
                let value: u64 = text.parse().unwrap();
                assert!((min..=max).contains(&value), "{}.{}", section.name, key.name);
                assert!(max <= i64::MAX.unsigned_abs(), "{}.{}", section.name, key.name);
            }
        }
    }
}

#[test]
fn every_number_carries_its_unit_or_counts_something() {
    for key in SECTIONS.iter().flat_map(|section| section.keys) {
        assert_eq!(key.kind == "number", key.unit() != "", "{}", key.name);
        assert!(!key.doc.is_empty(), "{}", key.name);
    }
}

/// One value for each key, in bounds or wild.
fn values() -> impl Strategy<Value = Vec<(usize, u64)>> {
    let keys: usize = SECTIONS.iter().map(|section| section.keys.len()).sum();
    prop::collection::vec((0..keys, any::<u64>()), 0..20)
}

fn key(index: usize) -> (&'static str, &'static clarion_config::Key) {
    SECTIONS
        .iter()
        .flat_map(|section| section.keys.iter().map(move |key| (section.name, key)))
        .nth(index)
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = Config::parse(Path::new("x"), &text, &Environment::default(), Mode::Start);
    }

    #[test]
    fn no_almost_toml_makes_the_reader_panic(
        text in r#"([\[\]{}=".',#\n a-z0-9_\\é-]|\[http\]|listen = |"""|session\.){0,200}"#,
    ) {
        let _ = Config::parse(Path::new("x"), &text, &Environment::default(), Mode::Start);
    }

    #[test]
    fn a_mutated_profile_is_read_or_refused_with_a_place(
        at in 0.0..1.0f64, cut in 0usize..20, insert in r#"[\x00-\x7fé]{0,8}"#,
    ) {
        for (path, text) in profiles() {
            let chars: Vec<char> = text.chars().collect();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let at = (at * chars.len() as f64) as usize;
            let mutated: String = chars[..at]
                .iter()
                .copied()
                .chain(insert.chars())
                .chain(chars[chars.len().min(at + cut)..].iter().copied())
                .collect();
            let lines = mutated.split('\n').count();
            if let Err(errors) = Config::parse(&path, &mutated, &token(), Mode::Start) {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    prop_assert!(!error.reason.is_empty() && !error.mend.is_empty());
                    let line = error.origin.line().unwrap_or(1);
                    prop_assert!(line >= 1 && line as usize <= lines, "{error}");
                }
            }
        }
    }

    #[test]
    fn no_variable_makes_the_reader_panic(
        section in r"[A-Za-z_]{0,12}|HTTP|SESSION", key in r"\PC{0,20}|LISTEN", value in any::<String>(),
    ) {
        let environment = Environment::from_pairs([(format!("CLARION_{section}__{key}"), value)]);
        let _ = Config::parse(Path::new("x"), "", &environment, Mode::Dev);
    }

    #[test]
    fn what_is_printed_reads_back_the_same(values in values()) {
        // Numbers within bounds, one override each; what does not fit together is refused and skipped.
        let pairs = values.iter().filter_map(|(index, wild)| {
            let (section, key) = key(*index);
            let Bounds::Range(min, max) = key.bounds else { return None };
            let value = min + wild % (max - min + 1);
            Some((format!("CLARION_{section}__{}", key.name).to_uppercase(), value.to_string()))
        });
        let environment = Environment::from_pairs(pairs);
        if let Ok(config) = Config::parse(Path::new("x"), "", &environment, Mode::Dev) {
            let again = Config::parse(Path::new("x"), &config.to_toml(), &Environment::default(), Mode::Dev);
            prop_assert_eq!(again.unwrap(), config);
        }
    }

    #[test]
    fn texts_read_back_the_same(path in r"[^\x00]{1,40}", host in "[a-z]{1,20}") {
        let environment = Environment::from_pairs([
            ("CLARION_STORE__PATH", path.clone()),
            ("CLARION_HTTP__EXTERNAL_URL", format!("https://{host}.example")),
        ]);
        let config = Config::parse(Path::new("x"), "", &environment, Mode::Dev).unwrap();
        prop_assert_eq!(&config.store.path, Path::new(&path));
        let again = Config::parse(Path::new("x"), &config.to_toml(), &Environment::default(), Mode::Dev);
        prop_assert_eq!(again.unwrap(), config);
    }
}

#[test]
fn deep_nesting_is_refused_without_exhausting_the_stack() {
    for text in ["[".repeat(100_000), "a=".to_owned() + &"[".repeat(100_000), "a.".repeat(100_000)]
    {
        let errors = Config::parse(Path::new("x"), &text, &Environment::default(), Mode::Dev);
        assert!(errors.is_err());
    }
    let inline = "a=".to_owned() + &"{a=".repeat(100_000);
    assert!(Config::parse(Path::new("x"), &inline, &Environment::default(), Mode::Dev).is_err());
}
