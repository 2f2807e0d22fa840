//! The environment variables that matter to a config, taken once and passed on as a value.

use std::collections::BTreeMap;

/// What the names of Clarion's variables begin with.
pub(crate) const PREFIX: &str = "CLARION_";

/// Between section and key in the name of an override.
pub(crate) const SEPARATOR: &str = "__";

/// The variable that holds the admin token.
pub(crate) const ADMIN_TOKEN: &str = "CLARION_ADMIN_TOKEN";

/// The variable that holds the secret of the cluster.
pub(crate) const COOKIE: &str = "CLARION_COOKIE";

/// The variable that holds the password of the Redis servers.
pub(crate) const REDIS_PASSWORD: &str = "CLARION_REDIS_PASSWORD";

/// The variable that holds the password of the sentinels.
pub(crate) const REDIS_SENTINEL_PASSWORD: &str = "CLARION_REDIS_SENTINEL_PASSWORD";

/// The variables whose names begin with `CLARION_`.
///
/// `CLARION_<SECTION>__<KEY>` overrides a key of the file; every other name is left alone here.
/// `Debug` prints names only: a value may be a secret.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, Result<String, ()>>,
}

impl Environment {
    /// The variables of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .map(|(name, value)| (name, value.into_string().map_err(|_| ())))
            .collect();
        Self { variables }
    }

    /// The given variables; what does not begin with `CLARION_` is dropped.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), Ok(value.into())))
            .filter(|(name, _): &(String, _)| name.starts_with(PREFIX))
            .collect();
        Self { variables }
    }

    /// The value of a variable; `None` when it is unset or empty, `Some(Err)` when it is not UTF-8.
    pub(crate) fn get(&self, name: &str) -> Option<Result<&str, ()>> {
        match self.variables.get(name)? {
            Ok(value) if value.is_empty() => None,
            Ok(value) => Some(Ok(value)),
            Err(()) => Some(Err(())),
        }
    }

    /// The overrides: name, section and key in lower case, value (`Err` when it is not UTF-8).
    pub(crate) fn overrides(&self) -> impl Iterator<Item = Override<'_>> {
        self.variables.iter().filter_map(|(name, value)| {
            let (section, key) = name.strip_prefix(PREFIX)?.split_once(SEPARATOR)?;
            Some(Override {
                variable: name,
                section: section.to_lowercase(),
                key: key.to_lowercase(),
                value: value.as_ref().map(String::as_str).map_err(|&()| ()),
            })
        })
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// One override.
pub(crate) struct Override<'a> {
    pub(crate) variable: &'a str,
    pub(crate) section: String,
    pub(crate) key: String,
    pub(crate) value: Result<&'a str, ()>,
}
