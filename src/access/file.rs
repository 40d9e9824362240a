//! Reading `users.toml`.

use super::users::Users;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Largest file of users in bytes.
const FILE_MAX_BYTES: u64 = 16 << 20;

/// Why a file of users is not taken.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("could not write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says something that has no meaning.
    #[error("{}: {key}: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The key, or the line.
        key: String,
        /// Why, and what there is instead.
        why: String,
    },
    /// What is asked of it cannot be done.
    #[error("{}: {why}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The role of those without a name does not exist.
    #[error("bus.anonymous_role = {role:?}: there is no such role; there are {roles}, none")]
    NoSuchRole {
        /// The role asked for.
        role: Box<str>,
        /// Those that there are.
        roles: String,
    },
    /// The system has no random numbers.
    #[error("no random numbers: {why}")]
    NoRandom {
        /// What it says.
        why: String,
    },
}

/// The text of the file; `None` where there is no file.
pub(super) fn text(path: &Path) -> Result<Option<String>, UsersError> {
    let failed = |source| UsersError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() || found.len() > FILE_MAX_BYTES {
        return Err(failed(io::Error::other("not a file of at most 16 MiB")));
    }
    if found.mode() & 0o007 != 0 {
        tracing::warn!(path = %path.display(), "everybody on this machine can read the password hashes; chmod 640");
    }
    let mut text = String::new();
    file.take(FILE_MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// The users in the file; none where there is no file.
pub(super) fn load(path: &Path) -> Result<Users, UsersError> {
    let Some(text) = text(path)? else { return Ok(Users::default()) };
    Users::parse(&text).map_err(|fault| invalid(path, fault))
}

pub(super) fn invalid(path: &Path, fault: super::users::Fault) -> UsersError {
    UsersError::Invalid { path: path.to_owned(), key: fault.key, why: fault.why }
}
