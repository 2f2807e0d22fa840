//! The files that a config names: they must be there, be what they should be, and keep their
//! secrets.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::environment::{
    ADMIN_TOKEN, COOKIE, Environment, REDIS_PASSWORD, REDIS_SENTINEL_PASSWORD,
};
use crate::error::{ConfigError, Origin};
use crate::keys::Config;
use crate::load::{Draft, Name};
use crate::setting::Fault;

/// Shorter tokens can be guessed.
const TOKEN_CHARS_MIN: usize = 16;

/// Longer files are not what a config may name.
const BYTES_MAX: u64 = 1024 * 1024;

const TOKEN_FILE: Name = ("auth", "admin_token_file");
const COOKIE_FILE: Name = ("cluster", "cookie_file");
const PASSWORD_FILE: Name = ("store", "redis_password_file");
const SENTINEL_PASSWORD_FILE: Name = ("store", "redis_sentinel_password_file");

/// The token of the administrator. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(String);

impl AdminToken {
    /// The token itself, to be compared in constant time and written nowhere.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn check(text: &str) -> Result<Self, Fault> {
        let token = text.trim();
        if token.len() < TOKEN_CHARS_MIN {
            return Err(Fault::new(
                format!("the admin token is shorter than {TOKEN_CHARS_MIN} characters"),
                "make a random one, such as `openssl rand -hex 32` prints",
            ));
        }
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Fault::new(
                "the admin token holds a character that an HTTP header cannot carry",
                "use printable ASCII without spaces, such as `openssl rand -hex 32` prints",
            ));
        }
        Ok(Self(token.to_owned()))
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

impl Config {
    /// The admin token: from `CLARION_ADMIN_TOKEN`, else from the file that the config names, else
    /// none.
    ///
    /// # Errors
    /// When the variable or the file holds no usable token.
    pub fn admin_token(
        &self,
        environment: &Environment,
    ) -> Result<Option<AdminToken>, ConfigError> {
        if let Some(token) = token_of_environment(environment) {
            return token.map(Some);
        }
        let Some(file) = &self.auth.admin_token_file else { return Ok(None) };
        token_of_file(file).map(Some).map_err(|fault| {
            token_error(Origin::File { file: file.clone(), line: None, column: None }, fault)
        })
    }
}

fn token_error(origin: Origin, fault: Fault) -> ConfigError {
    error(TOKEN_FILE, origin, fault)
}

fn error(name: Name, origin: Origin, Fault { reason, mend }: Fault) -> ConfigError {
    ConfigError { origin, key: format!("{}.{}", name.0, name.1), reason, mend }
}

/// The token in the environment, if there is one.
pub(crate) fn token_of_environment(
    environment: &Environment,
) -> Option<Result<AdminToken, ConfigError>> {
    let token = match environment.get(ADMIN_TOKEN)? {
        Ok(text) => AdminToken::check(text),
        Err(()) => Err(Fault::new("the admin token is not UTF-8", "use printable ASCII")),
    };
    let origin = Origin::Environment { variable: ADMIN_TOKEN.to_owned() };
    Some(token.map_err(|fault| token_error(origin, fault)))
}

fn token_of_file(file: &Path) -> Result<AdminToken, Fault> {
    let text = read(file)?;
    keeps_secret(file)?;
    AdminToken::check(&text)
}

/// A cookie or password. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, to be written nowhere.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn cookie(text: &str) -> Result<Self, Fault> {
        let cookie = text.trim();
        if cookie.len() < TOKEN_CHARS_MIN {
            return Err(Fault::new(
                format!("the cookie is shorter than {TOKEN_CHARS_MIN} characters"),
                "make a random one, such as `openssl rand -hex 32` prints, for all nodes",
            ));
        }
        Ok(Self(cookie.to_owned()))
    }

    fn password(text: &str) -> Result<Self, Fault> {
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(Fault::new("the password is empty", "write it there, or remove the key"));
        }
        Ok(Self(password.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What Redis wants to know before it serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisSecrets {
    /// Password of the servers.
    pub password: Option<Secret>,
    /// Password of the sentinels.
    pub sentinel_password: Option<Secret>,
}

impl Config {
    /// The secret of the cluster: from `CLARION_COOKIE`, else from the file that the config names,
    /// else none.
    ///
    /// # Errors
    /// When the variable or the file holds no usable cookie.
    pub fn cluster_cookie(&self, environment: &Environment) -> Result<Option<Secret>, ConfigError> {
        secret(
            COOKIE_FILE,
            cookie_of_environment(environment),
            self.cluster.cookie_file.as_deref(),
            Secret::cookie,
        )
    }

    /// The passwords of Redis: from `CLARION_REDIS_PASSWORD` and
    /// `CLARION_REDIS_SENTINEL_PASSWORD`, else from the files that the config names, else none.
    ///
    /// # Errors
    /// When a variable or a file holds no usable password.
    pub fn redis_secrets(&self, environment: &Environment) -> Result<RedisSecrets, ConfigError> {
        let read = |name: Name, variable: &str, file: Option<&Path>| {
            let given = of_environment(environment, variable, name, Secret::password);
            secret(name, given, file, Secret::password)
        };
        let store = &self.store;
        Ok(RedisSecrets {
            password: read(PASSWORD_FILE, REDIS_PASSWORD, store.redis_password_file.as_deref())?,
            sentinel_password: read(
                SENTINEL_PASSWORD_FILE,
                REDIS_SENTINEL_PASSWORD,
                store.redis_sentinel_password_file.as_deref(),
            )?,
        })
    }
}

/// The cookie in the environment, if there is one.
pub(crate) fn cookie_of_environment(
    environment: &Environment,
) -> Option<Result<Secret, ConfigError>> {
    of_environment(environment, COOKIE, COOKIE_FILE, Secret::cookie)
}

/// What is wrong with the passwords in the environment.
pub(crate) fn passwords_of_environment(environment: &Environment) -> Vec<ConfigError> {
    [(REDIS_PASSWORD, PASSWORD_FILE), (REDIS_SENTINEL_PASSWORD, SENTINEL_PASSWORD_FILE)]
        .into_iter()
        .filter_map(|(variable, name)| {
            of_environment(environment, variable, name, Secret::password)?.err()
        })
        .collect()
}

type Check = fn(&str) -> Result<Secret, Fault>;

fn of_environment(
    environment: &Environment,
    variable: &str,
    name: Name,
    check: Check,
) -> Option<Result<Secret, ConfigError>> {
    let secret = match environment.get(variable)? {
        Ok(text) => check(text),
        Err(()) => Err(Fault::new("is not UTF-8", "give it as UTF-8")),
    };
    let origin = Origin::Environment { variable: variable.to_owned() };
    Some(secret.map_err(|fault| error(name, origin, fault)))
}

fn secret(
    name: Name,
    given: Option<Result<Secret, ConfigError>>,
    file: Option<&Path>,
    check: Check,
) -> Result<Option<Secret>, ConfigError> {
    if let Some(secret) = given {
        return secret.map(Some);
    }
    let Some(file) = file else { return Ok(None) };
    secret_of_file(file, check).map(Some).map_err(|fault| {
        error(name, Origin::File { file: file.to_owned(), line: None, column: None }, fault)
    })
}

fn secret_of_file(file: &Path, check: Check) -> Result<Secret, Fault> {
    let text = read(file)?;
    keeps_secret(file)?;
    check(&text)
}

/// Checks every file that the config names.
pub(crate) fn check(draft: &mut Draft) {
    let config = &draft.config;
    let (cluster, store) = (&config.cluster, &config.store);
    let tls: [(Name, Option<PathBuf>); 10] = [
        (("http", "tls_cert_file"), config.http.tls_cert_file.clone()),
        (("http", "tls_key_file"), config.http.tls_key_file.clone()),
        (("terminals", "tls_cert_file"), config.terminals.tls_cert_file.clone()),
        (("terminals", "tls_key_file"), config.terminals.tls_key_file.clone()),
        (("cluster", "tls_cert_file"), cluster.tls_cert_file.clone()),
        (("cluster", "tls_key_file"), cluster.tls_key_file.clone()),
        (("cluster", "tls_ca_file"), cluster.tls_ca_file.clone()),
        (("store", "redis_tls_ca_file"), store.redis_tls_ca_file.clone()),
        (("store", "redis_tls_cert_file"), store.redis_tls_cert_file.clone()),
        (("store", "redis_tls_key_file"), store.redis_tls_key_file.clone()),
    ];
    let mut faults: Vec<(Name, Fault)> =
        tls.into_iter().filter_map(|(name, file)| Some((name, pem(name, &file?).err()?))).collect();
    if let Some(file) = &config.auth.admin_token_file {
        faults.extend(token_of_file(file).err().map(|fault| (TOKEN_FILE, fault)));
    }
    let secrets: [(Name, Option<PathBuf>, Check); 3] = [
        (COOKIE_FILE, cluster.cookie_file.clone(), Secret::cookie),
        (PASSWORD_FILE, store.redis_password_file.clone(), Secret::password),
        (SENTINEL_PASSWORD_FILE, store.redis_sentinel_password_file.clone(), Secret::password),
    ];
    for (name, file, check) in secrets {
        let fault = file.and_then(|file| secret_of_file(&file, check).err());
        faults.extend(fault.map(|fault| (name, fault)));
    }
    faults.extend(directory(&config.store.path).err().map(|fault| (("store", "path"), fault)));
    for (name, Fault { reason, mend }) in faults {
        draft.fault(name, reason, mend);
    }
}

fn pem(name: Name, file: &Path) -> Result<(), Fault> {
    let text = read(file)?;
    let secret = name.1.ends_with("tls_key_file");
    let wanted = if secret { "PRIVATE KEY-----" } else { "-----BEGIN CERTIFICATE-----" };
    if !text.contains(wanted) {
        let what = if secret { "private key" } else { "certificate" };
        return Err(Fault::new(
            format!("{} holds no {what} in PEM", file.display()),
            format!("name the file that holds {wanted:?}"),
        ));
    }
    if secret { keeps_secret(file) } else { Ok(()) }
}

fn read(file: &Path) -> Result<String, Fault> {
    let fault = |error: std::io::Error| {
        Fault::new(
            format!("{} cannot be read: {error}", file.display()),
            "name a file that is there and that the node's user may read",
        )
    };
    let opened = std::fs::File::open(file).map_err(fault)?;
    let mut text = String::new();
    opened.take(BYTES_MAX).read_to_string(&mut text).map_err(fault)?;
    Ok(text)
}

#[cfg(unix)]
fn keeps_secret(file: &Path) -> Result<(), Fault> {
    use std::os::unix::fs::PermissionsExt;
    const OTHERS: u32 = 0o007;
    let shown = file.display();
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.permissions().mode() & OTHERS != 0 => Err(Fault::new(
            format!("{shown} holds a secret and every user of this machine may open it"),
            format!("chmod 600 {shown}"),
        )),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(not(unix))]
fn keeps_secret(_: &Path) -> Result<(), Fault> {
    Ok(())
}

fn directory(path: &Path) -> Result<(), Fault> {
    if path.exists() && !path.is_dir() {
        return Err(Fault::new(
            format!("{} is not a directory", path.display()),
            "name a directory, or a place where `clarion store init` may make one",
        ));
    }
    Ok(())
}
