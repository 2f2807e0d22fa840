//! The files that a config names: they must be there, be what they should be, and keep their
//! secrets.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::environment::{ADMIN_TOKEN, Environment};
use crate::error::{ConfigError, Origin};
use crate::keys::Config;
use crate::load::{Draft, Name};
use crate::setting::Fault;

/// Shorter tokens can be guessed.
const TOKEN_CHARS_MIN: usize = 16;

/// Longer files are not what a config may name.
const BYTES_MAX: u64 = 1024 * 1024;

const TOKEN_FILE: Name = ("auth", "admin_token_file");

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

fn token_error(origin: Origin, Fault { reason, mend }: Fault) -> ConfigError {
    ConfigError { origin, key: format!("{}.{}", TOKEN_FILE.0, TOKEN_FILE.1), reason, mend }
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

/// Checks every file that the config names.
pub(crate) fn check(draft: &mut Draft) {
    let config = &draft.config;
    let tls: [(Name, Option<PathBuf>); 4] = [
        (("http", "tls_cert_file"), config.http.tls_cert_file.clone()),
        (("http", "tls_key_file"), config.http.tls_key_file.clone()),
        (("terminals", "tls_cert_file"), config.terminals.tls_cert_file.clone()),
        (("terminals", "tls_key_file"), config.terminals.tls_key_file.clone()),
    ];
    let mut faults: Vec<(Name, Fault)> =
        tls.into_iter().filter_map(|(name, file)| Some((name, pem(name, &file?).err()?))).collect();
    if let Some(file) = &config.auth.admin_token_file {
        faults.extend(token_of_file(file).err().map(|fault| (TOKEN_FILE, fault)));
    }
    faults.extend(directory(&config.store.path).err().map(|fault| (("store", "path"), fault)));
    for (name, Fault { reason, mend }) in faults {
        draft.fault(name, reason, mend);
    }
}

fn pem(name: Name, file: &Path) -> Result<(), Fault> {
    let text = read(file)?;
    let secret = name.1 == "tls_key_file";
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
