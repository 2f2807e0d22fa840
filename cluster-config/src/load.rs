//! From a file and the environment to a config, or to all that is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::environment::{Environment, Override, PREFIX, SEPARATOR};
use crate::error::{ConfigError, Origin};
use crate::keys::{Config, Raw, SECTIONS};
use crate::setting::Fault;
use crate::table::Section;
use crate::{check, files};

/// No config is longer; a longer file is something else.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The section that launch profiles have, and node configs never.
const PROFILE_SECTION: &str = "profile";
const PROFILE_MEND: &str = "`clarion cluster up` with this file brings its cluster up on this machine, \
                            and writes the config of each node as NODE/node.toml into its directory";

/// What a config is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `clarion dev`: loopback only, the admin token is made up.
    Dev,
    /// `clarion start`: an admin token must be given.
    Start,
}

impl Config {
    /// Reads the file, applies the environment and checks everything, files it names included.
    ///
    /// # Errors
    /// All mistakes at once, in the order of the file.
    pub fn load(
        path: &Path,
        environment: &Environment,
        mode: Mode,
    ) -> Result<Self, Vec<ConfigError>> {
        let text = read(path).map_err(|error| vec![error])?;
        let mut draft = Draft::new(Some(path));
        draft.apply_toml(&text);
        draft.apply_environment(environment);
        draft.check(environment, mode);
        files::check(&mut draft);
        draft.finish()
    }

    /// Like [`Config::load`], of a text that is at hand; `name` stands for the file in errors.
    /// Files that the config names are not looked at.
    ///
    /// # Errors
    /// All mistakes at once, in the order of the text.
    pub fn parse(
        name: &Path,
        text: &str,
        environment: &Environment,
        mode: Mode,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut draft = Draft::new(Some(name));
        draft.apply_toml(text);
        draft.apply_environment(environment);
        draft.check(environment, mode);
        draft.finish()
    }

    /// The defaults with the environment applied: a node without a config file.
    ///
    /// # Errors
    /// All mistakes in the environment at once.
    pub fn from_environment(
        environment: &Environment,
        mode: Mode,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut draft = Draft::new(None);
        draft.apply_environment(environment);
        draft.check(environment, mode);
        files::check(&mut draft);
        draft.finish()
    }

    /// The whole config as a TOML file; reading it gives the same config again.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for section in SECTIONS {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("[{}]\n", section.name));
            for key in section.keys {
                match self.get(section.name, key.name) {
                    Some(value) => text.push_str(&format!("{} = {value}\n", key.name)),
                    None => text.push_str(&format!("# {} is not set\n", key.name)),
                }
            }
        }
        text
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let fault = |reason: String, mend: &str| ConfigError {
        origin: Origin::File { file: path.to_owned(), line: None, column: None },
        key: String::new(),
        reason,
        mend: mend.to_owned(),
    };
    let cannot_read = |error: &std::io::Error| {
        fault(format!("cannot be read: {error}"), "name a config file that this user may read")
    };
    let metadata = std::fs::metadata(path).map_err(|error| cannot_read(&error))?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(fault(
            format!("is longer than {FILE_BYTES_MAX} bytes"),
            "name a config file; this is something else",
        ));
    }
    let bytes = std::fs::read(path).map_err(|error| cannot_read(&error))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes().iter().take(valid).filter(|b| **b == b'\n').count();
        fault(format!("line {line} is not UTF-8"), "save the file as UTF-8")
    })
}

/// A section and key of the table.
pub(crate) type Name = (&'static str, &'static str);

/// A config while it is being read: where each value came from, and what was wrong so far.
pub(crate) struct Draft {
    pub(crate) config: Config,
    file: Option<PathBuf>,
    origins: BTreeMap<Name, Origin>,
    refused: BTreeSet<Name>,
    errors: Vec<ConfigError>,
    /// The file could not be taken as a config, or only half of it.
    half_read: bool,
}

impl Draft {
    fn new(file: Option<&Path>) -> Self {
        Self {
            config: Config::default(),
            file: file.map(Path::to_owned),
            origins: BTreeMap::new(),
            refused: BTreeSet::new(),
            errors: Vec::new(),
            half_read: false,
        }
    }

    /// Records a mistake of a key, at the place where its value came from.
    pub(crate) fn fault(&mut self, name: Name, reason: impl Into<String>, mend: impl Into<String>) {
        let origin = self.origins.get(&name).cloned().unwrap_or_else(|| self.whole());
        self.push(origin, format!("{}.{}", name.0, name.1), reason, mend);
    }

    /// Records that a value was refused: the key keeps its default, which says nothing about what
    /// was meant.
    fn refuse(&mut self, name: Name, Fault { reason, mend }: Fault) {
        self.refused.insert(name);
        self.fault(name, reason, mend);
    }

    /// Records a mistake that is no key's.
    pub(crate) fn add(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// Whether the values of these keys can be judged: none of them was refused before.
    pub(crate) fn sound(&self, names: &[Name]) -> bool {
        !names.iter().any(|name| self.refused.contains(name))
    }

    /// Whether somebody set the key.
    pub(crate) fn is_set(&self, name: Name) -> bool {
        self.origins.contains_key(&name)
    }

    fn whole(&self) -> Origin {
        match &self.file {
            Some(file) => Origin::File { file: file.clone(), line: None, column: None },
            None => Origin::Default,
        }
    }

    fn push(
        &mut self,
        origin: Origin,
        key: String,
        reason: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.errors.push(ConfigError { origin, key, reason: reason.into(), mend: mend.into() });
    }

    fn place(&self, text: &str, span: Range<usize>) -> Origin {
        let before = text.get(..span.start).unwrap_or(text);
        let line = 1 + before.bytes().filter(|b| *b == b'\n').count();
        let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
        Origin::File {
            file: self.file.clone().unwrap_or_default(),
            line: u32::try_from(line).ok(),
            column: u32::try_from(column).ok(),
        }
    }

    fn apply_toml(&mut self, text: &str) {
        let (document, syntax) = DeTable::parse_recoverable(text);
        let mut bad_lines = BTreeSet::new();
        for error in &syntax {
            let origin = self.place(text, error.span().unwrap_or(0..0));
            // The reader stumbles on after a mistake; only its first complaint about a line helps.
            if bad_lines.insert(origin.line()) {
                let reason = error.message().replace('\n', ", ");
                let mend = "correct the TOML: `[section]`, `key = number`, `key = \"text\"`";
                self.push(origin, String::new(), format!("not TOML: {reason}"), mend);
            }
        }
        self.half_read = !syntax.is_empty();
        if let Some((key, _)) = document.get_ref().get_key_value(PROFILE_SECTION) {
            // Another kind of file: what its sections lack says nothing.
            let origin = self.place(text, key.span());
            self.push(
                origin,
                String::new(),
                "this is a launch profile, no node's config",
                PROFILE_MEND,
            );
            self.half_read = true;
            return;
        }
        let before = self.errors.len();
        for (key, value) in document.get_ref() {
            let name = key.get_ref().as_ref();
            match SECTIONS.iter().find(|section| section.name == name) {
                None => {
                    let origin = self.place(text, key.span());
                    let (reason, mend) = unknown_section(name);
                    self.push(origin, name.to_owned(), reason, mend);
                }
                Some(section) => match value.get_ref() {
                    DeValue::Table(table) => self.apply_section(text, section, table),
                    _ => {
                        let origin = self.place(text, key.span());
                        let mend = format!("write [{name}] on a line of its own");
                        self.push(origin, name.to_owned(), "must be a section", mend);
                    }
                },
            }
        }
        // What is found on a line that is not TOML says nothing.
        let found = self.errors.split_off(before);
        self.errors
            .extend(found.into_iter().filter(|error| !bad_lines.contains(&error.origin.line())));
    }

    fn apply_section(&mut self, text: &str, section: &'static Section, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match section.keys.iter().find(|known| known.name == name) {
                None => {
                    let origin = self.place(text, key.span());
                    let (reason, mend) = unknown_key(section, name);
                    self.push(origin, format!("{}.{name}", section.name), reason, mend);
                }
                Some(known) => {
                    let name = (section.name, known.name);
                    let origin = self.place(text, value.span());
                    self.set(name, origin, Raw::Toml(value.get_ref()));
                }
            }
        }
    }

    fn set(&mut self, name: Name, origin: Origin, value: Raw<'_, '_>) {
        self.origins.insert(name, origin);
        if let Err(fault) = self.config.set(name.0, name.1, value) {
            self.refuse(name, fault);
        }
    }

    fn apply_environment(&mut self, environment: &Environment) {
        for Override { variable, section, key, value } in environment.overrides() {
            let origin = Origin::Environment { variable: variable.to_owned() };
            let Some(known_section) = SECTIONS.iter().find(|known| known.name == section) else {
                let (reason, mend) = unknown_section(&section);
                self.push(origin, section, reason, mend);
                continue;
            };
            let Some(known) = known_section.keys.iter().find(|known| known.name == key) else {
                let (reason, mend) = unknown_key(known_section, &key);
                self.push(origin, format!("{section}.{key}"), reason, mend);
                continue;
            };
            let name = (known_section.name, known.name);
            let spelled = format!("{PREFIX}{section}{SEPARATOR}{key}").to_uppercase();
            if variable != spelled {
                let mend = format!("write it {spelled}");
                self.push(origin, format!("{section}.{key}"), "is not in capitals", mend);
                continue;
            }
            self.origins.insert(name, origin.clone());
            match value {
                Ok(text) => self.set(name, origin, Raw::Text(text)),
                Err(()) => self.refuse(name, Fault::new("is not UTF-8", "give it as UTF-8")),
            }
        }
    }

    fn check(&mut self, environment: &Environment, mode: Mode) {
        // With half the file unread, what is missing or does not match says nothing.
        if !self.half_read {
            check::check(self, environment, mode);
        }
    }

    fn finish(mut self) -> Result<Config, Vec<ConfigError>> {
        if self.errors.is_empty() {
            return Ok(self.config);
        }
        self.errors.sort_by_key(|error| match &error.origin {
            Origin::File { line, column, .. } => {
                (0, line.unwrap_or(u32::MAX), column.unwrap_or(u32::MAX))
            }
            Origin::Environment { .. } => (1, 0, 0),
            Origin::Default => (2, 0, 0),
        });
        Err(self.errors)
    }
}

fn unknown_section(name: &str) -> (String, String) {
    let homes: Vec<String> = SECTIONS
        .iter()
        .filter(|section| section.keys.iter().any(|key| key.name == name))
        .map(|section| format!("[{}]", section.name))
        .collect();
    if !homes.is_empty() {
        let reason = format!("`{name}` stands outside its section");
        return (reason, format!("put it under {}", homes.join(" or ")));
    }
    let mend = match nearest(name, SECTIONS.iter().map(|section| section.name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let names: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
            format!("the sections are {}", names.join(", "))
        }
    };
    (format!("unknown section `{name}`"), mend)
}

fn unknown_key(section: &Section, name: &str) -> (String, String) {
    let reason = format!("unknown key `{name}`");
    let home = SECTIONS.iter().find(|other| other.keys.iter().any(|key| key.name == name));
    if let Some(home) = home {
        return (reason, format!("it belongs to [{}]", home.name));
    }
    let mend = match nearest(name, section.keys.iter().map(|key| key.name)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("remove it; the reference lists the keys of [{}]", section.name),
    };
    (reason, mend)
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any key: not a slip of the fingers, and not worth comparing.
    const NAME_CHARS_MAX: usize = 64;
    if name.chars().count() > NAME_CHARS_MAX {
        return None;
    }
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
