//! Placeholder.
use std::path::Path;
use super::OpenError;
pub(super) fn check(_path: &Path) -> Result<(), OpenError> { Ok(()) }
