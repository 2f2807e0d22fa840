//! Credentials in files: one directory holds the admin token and one file of keys for each
//! product, readable by their owner only. `clarion dev` makes one, `clarion product create --save`
//! adds to one, every client command looks into one.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clarion_protocol::{KeyId, ProductId};
use serde::{Deserialize, Serialize};

use super::exit::Failure;

const ADMIN_TOKEN: &str = "admin-token";

/// The keys of a product, as the node told them once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProductKeys {
    /// The product.
    pub(crate) product: ProductId,
    /// `oauth_consumer_key`.
    pub(crate) api_key: KeyId,
    /// `oauth_consumer_secret`.
    pub(crate) api_secret: String,
    /// The `kid` of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_key: Option<KeyId>,
    /// The HS256 secret that signs tokens, base64url without padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_secret: Option<String>,
}

impl std::fmt::Debug for ProductKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProductKeys").field("product", &self.product).finish_non_exhaustive()
    }
}

/// A directory of credentials.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    directory: PathBuf,
}

impl Credentials {
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn admin_token_file(&self) -> PathBuf {
        self.directory.join(ADMIN_TOKEN)
    }

    pub(crate) fn product_file(&self, product: &ProductId) -> PathBuf {
        // `.` and `..` are product names; neither may be a path.
        self.directory.join(format!("{product}.json"))
    }

    /// The admin token, if it is kept here.
    pub(crate) fn admin_token(&self) -> Result<Option<String>, Failure> {
        let text = read(&self.admin_token_file())?;
        Ok(text.map(|text| text.trim().to_owned()))
    }

    /// The keys of a product, if they are kept here.
    pub(crate) fn product(&self, product: &ProductId) -> Result<Option<ProductKeys>, Failure> {
        let file = self.product_file(product);
        let Some(text) = read(&file)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::local(format!("{} does not hold keys", file.display()), error)
                .hint("remove it and make new keys with `clarion product add-key --save`")
        })
    }

    /// Keeps the admin token in place of the one kept before.
    pub(crate) fn keep_admin_token(&self, token: &str) -> Result<(), Failure> {
        self.write(&self.admin_token_file(), format!("{token}\n").as_bytes(), true)
    }

    /// Keeps the keys of a product in place of those kept before.
    pub(crate) fn keep_product(&self, keys: &ProductKeys) -> Result<PathBuf, Failure> {
        let file = self.product_file(&keys.product);
        let mut text = serde_json::to_vec_pretty(keys)
            .map_err(|error| Failure::local("cannot write JSON", error))?;
        text.push(b'\n');
        self.write(&file, &text, true)?;
        Ok(file)
    }

    /// Writes beside the place and moves there: a crash leaves the old file or the new one.
    fn write(&self, file: &Path, bytes: &[u8], replace: bool) -> Result<(), Failure> {
        let failed = |error| Failure::local(format!("cannot write {}", file.display()), error);
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.directory).map_err(failed)?;
        let draft = file.with_extension(format!("draft-{}", std::process::id()));
        let mut opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .map_err(failed)?;
        opened.write_all(bytes).and_then(|()| opened.sync_all()).map_err(failed)?;
        let placed = if replace {
            std::fs::rename(&draft, file)
        } else {
            let linked = std::fs::hard_link(&draft, file);
            std::fs::remove_file(&draft).and(linked)
        };
        placed.map_err(failed)
    }
}

fn read(file: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::local(format!("cannot read {}", file.display()), error)),
    }
}

/// 256 random bits, base64url without padding.
pub(crate) fn random_secret() -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_kept_for_their_owner_only_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let credentials = Credentials::in_directory(&directory.path().join("dev"));
        assert_eq!(credentials.admin_token().unwrap(), None);
        credentials.keep_admin_token("0123456789abcdef").unwrap();
        assert_eq!(credentials.admin_token().unwrap().as_deref(), Some("0123456789abcdef"));
        credentials.keep_admin_token("fedcba9876543210").unwrap();
        assert_eq!(credentials.admin_token().unwrap().as_deref(), Some("fedcba9876543210"));
        let keys = ProductKeys {
            product: ProductId::new("demo").unwrap(),
            api_key: KeyId::new("k").unwrap(),
            api_secret: random_secret(),
            token_key: None,
            token_secret: None,
        };
        let file = credentials.keep_product(&keys).unwrap();
        assert_eq!(credentials.product(&keys.product).unwrap().as_ref(), Some(&keys));
        for file in [file, credentials.admin_token_file()] {
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
        assert!(!format!("{keys:?}").contains(&keys.api_secret));
        assert_eq!(std::fs::read_dir(credentials.directory()).unwrap().count(), 2, "no drafts");
    }
}
