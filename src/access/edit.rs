//! Changing `users.toml` as its owner would: comments and order stay, and the file is replaced
//! whole or not at all.

use super::file::{self, UsersError, invalid};
use super::password::Hashed;
use super::users::Users;
use crate::name::UserName;
use rustix::fs::{FlockOperation, Gid, Mode, Uid, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item, RawString, Table, value};

/// What a new file begins with.
const HEADING: &str = "\
# Who may connect, and as what: `meshfs user add NAME --role ROLE` writes here.
# After a change: systemctl reload meshfs, or kill -HUP of the hub.
# Roles: node, service, dashboard, operator, or your own:
#   [roles.backup]
#   publish = [\"mesh/app/backup/%u/#\"]     # %u: the user, %c: the client id
#   subscribe = [\"mesh/announce/+\"]
";

/// A user in a list.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Login {
    /// The name.
    pub user: UserName,
    /// The role.
    pub role: Box<str>,
    /// True if there is a password.
    pub password: bool,
    /// True if a client certificate of this name will do.
    pub certificate: bool,
}

/// The file, held so that nobody else changes it meanwhile.
#[derive(Debug)]
pub struct UsersFile {
    path: PathBuf,
    document: DocumentMut,
    _folder: File,
}

impl UsersFile {
    /// Opens the file to change it; it and its folder may still be missing.
    ///
    /// # Errors
    /// It or its folder cannot be read, or it says something that has no meaning.
    pub fn open(path: &Path) -> Result<Self, UsersError> {
        let failed = |source| UsersError::Read { path: path.to_owned(), source };
        // A link stays one: it is what it leads to that is replaced.
        let path = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(failed(error)),
        };
        // On a fresh machine there is not even the folder.
        std::fs::create_dir_all(folder_of(&path)).map_err(failed)?;
        let folder = File::open(folder_of(&path)).map_err(failed)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        let text = file::text(&path)?.unwrap_or_else(|| HEADING.to_owned());
        Users::parse(&text).map_err(|fault| invalid(&path, fault))?;
        let document = text.parse().map_err(|e: toml_edit::TomlError| UsersError::Refused {
            path: path.clone(),
            why: e.message().to_owned(),
        })?;
        Ok(Self { path, document, _folder: folder })
    }

    /// Everybody in the file, by name.
    ///
    /// # Errors
    /// The file cannot be read, or says something that has no meaning.
    pub fn list(path: &Path) -> Result<Vec<Login>, UsersError> {
        let users = file::load(path)?.users.into_iter();
        let login = |(user, known): (UserName, super::users::User)| Login {
            user,
            role: known.role,
            password: known.password.is_some(),
            certificate: known.certificate,
        };
        Ok(users.map(login).collect())
    }

    /// Adds a user. Without a password he can only come by certificate.
    ///
    /// # Errors
    /// There is one of this name already, there is no such role, the password is too short or too
    /// long, or the file cannot be written.
    pub fn add(
        mut self,
        user: &UserName,
        role: &str,
        password: Option<&str>,
        certificate: bool,
    ) -> Result<(), UsersError> {
        self.may_add(user, role)?;
        let mut table = Table::new();
        table.insert("role", value(role));
        if let Some(password) = password {
            table.insert("password", value(self.hash(password)?));
        }
        if certificate {
            table.insert("certificate", value(true));
        }
        // What stands at the end of the file, or alone in it, stays before what is added.
        let end = self.document.trailing().as_str().unwrap_or_default().trim_end().to_owned();
        self.document.set_trailing("");
        if !end.is_empty() {
            table.decor_mut().set_prefix(format!("{end}\n\n"));
        }
        if self.document.get("users").is_none() {
            let mut users = Table::new();
            users.set_implicit(true);
            self.document.insert("users", Item::Table(users));
        }
        if let Some(users) = self.users() {
            users.insert(user.as_str(), Item::Table(table));
        }
        self.save()
    }

    /// Says whether a user may be added, so that nobody is asked for a password in vain.
    ///
    /// # Errors
    /// There is one of this name already, or no such role.
    pub fn may_add(&mut self, user: &UserName, role: &str) -> Result<(), UsersError> {
        let users = Users::read(&self.document).map_err(|fault| invalid(&self.path, fault))?;
        if users.users.contains_key(user) {
            return Err(self.refused(format!("there is a user {user} already")));
        }
        if users.role(role).is_none() {
            let roles = users.role_names();
            return Err(self.refused(format!("there is no role {role:?}; there are {roles}")));
        }
        Ok(())
    }

    /// Says whether there is a user.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn must_have(&mut self, user: &UserName) -> Result<(), UsersError> {
        match self.user(user) {
            Some(_) => Ok(()),
            None => Err(self.refused(format!("there is no user {user}"))),
        }
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// There is none of this name, the password is too short or too long, or the file cannot be
    /// written.
    pub fn set_password(mut self, user: &UserName, password: &str) -> Result<(), UsersError> {
        self.must_have(user)?;
        let hash = self.hash(password)?;
        if let Some(table) = self.user(user).and_then(Item::as_table_like_mut) {
            table.insert("password", value(hash));
        }
        self.save()
    }

    /// Removes a user.
    ///
    /// # Errors
    /// There is none of this name, or the file cannot be written.
    pub fn remove(mut self, user: &UserName) -> Result<(), UsersError> {
        self.must_have(user)?;
        let removed = self.users().and_then(|users| users.remove(user.as_str()));
        self.keep_what_stood_before(removed.as_ref());
        self.save()
    }

    /// Comments that an empty line sets apart from a table are not about it, and stay when it goes:
    /// before the next table, or at the end.
    fn keep_what_stood_before(&mut self, removed: Option<&Item>) {
        let Some(removed) = removed.and_then(Item::as_table) else { return };
        let prefix = removed.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
        let Some((kept, _)) = prefix.rsplit_once("\n\n").filter(|(kept, _)| kept.contains('#'))
        else {
            return;
        };
        let kept = format!("{}\n\n", kept.trim_end());
        let after = removed.position();
        let root = self.document.as_table_mut();
        let tables = root.iter_mut().filter_map(|(_, section)| section.as_table_mut());
        let tables = tables.flat_map(|section| section.iter_mut());
        let later = tables.filter_map(|(_, item)| item.as_table_mut());
        let next = later.filter(|t| t.position() > after).min_by_key(|table| table.position());
        match next {
            Some(next) => {
                let own = next.decor().prefix().and_then(RawString::as_str).unwrap_or_default();
                let both = format!("{kept}{}", own.trim_start_matches('\n'));
                next.decor_mut().set_prefix(both);
            }
            None => {
                let end = self.document.trailing().as_str().unwrap_or_default().to_owned();
                self.document.set_trailing(format!("{kept}{end}"));
            }
        }
    }

    fn users(&mut self) -> Option<&mut dyn toml_edit::TableLike> {
        self.document.get_mut("users")?.as_table_like_mut()
    }

    fn user(&mut self, user: &UserName) -> Option<&mut Item> {
        self.users()?.get_mut(user.as_str())
    }

    fn refused(&self, why: String) -> UsersError {
        UsersError::Refused { path: self.path.clone(), why }
    }

    fn hash(&self, password: &str) -> Result<String, UsersError> {
        let hash = Hashed::make(password).map_err(|why| self.refused(why))?;
        Ok(hash.as_str().to_owned())
    }

    fn save(self) -> Result<(), UsersError> {
        let text = self.document.to_string();
        Users::parse(&text).map_err(|fault| invalid(&self.path, fault))?;
        let failed = |source| UsersError::Write { path: self.path.clone(), source };
        replace(&self.path, text.as_bytes()).map_err(failed)
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes beside the file and renames. A new file is its owner's alone; one that is there keeps
/// its owner and group, or the hub could not read it after the next change, and is never readable
/// for more than these.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("not the name of a file"))?;
    let mut beside = name.to_owned();
    beside.push(".new");
    let beside = folder_of(path).join(beside);
    // Left over from a run that was ended: we hold the lock, so it is nobody's.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = (|| {
        if let Ok(old) = path.metadata() {
            let new = file.metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                let owner = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
                rustix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(old.mode() & 0o640 | 0o600))?;
        }
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
        return written;
    }
    File::open(folder_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UserName {
        UserName::parse(text).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn a_new_file_explains_itself_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config/users.toml");
        let file = UsersFile::open(&path).unwrap();
        file.add(&name("web1"), "node", Some("long enough"), false).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with(HEADING) && text.contains("[users.web1]\nrole = \"node\""),
            "{text}"
        );
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(Users::parse(HEADING.replace("# ", "").as_str()).is_err(), "it is all comment");
    }

    #[test]
    fn what_the_owner_wrote_stays_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        let text = "# mine\n[users.b]  # the second\nrole = 'node' # why\n\n[users.a]\nrole = \"operator\"\n";
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o664))
            .unwrap();
        UsersFile::open(&path).unwrap().add(&name("c"), "service", None, true).unwrap();
        let added = std::fs::read_to_string(&path).unwrap();
        assert_eq!(added, format!("{text}\n[users.c]\nrole = \"service\"\ncertificate = true\n"));
        assert_eq!(mode(&path), 0o640, "the group stays, the world does not, nor writing");
        UsersFile::open(&path).unwrap().remove(&name("c")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        UsersFile::open(&path).unwrap().set_password(&name("b"), "long enough").unwrap();
        let logins = UsersFile::list(&path).unwrap();
        let b = &logins[1];
        assert_eq!((b.user.as_str(), b.role.as_ref(), b.password), ("b", "node", true));
        assert!(std::fs::read_to_string(&path).unwrap().contains("# why"));
    }

    #[test]
    fn only_what_is_said_of_a_user_goes_with_him() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        let b = "[users.b]\nrole = \"node\"\n";
        let a = "# about a\n[users.a]\nrole = \"node\"\n";
        std::fs::write(&path, format!("# about all\n\n{a}\n{b}")).unwrap();
        UsersFile::open(&path).unwrap().remove(&name("a")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("# about all\n\n{b}"));
        UsersFile::open(&path).unwrap().remove(&name("b")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim_end(), "# about all");
        UsersFile::open(&path).unwrap().add(&name("c"), "node", None, true).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# about all\n\n[users.c]\n"), "{text}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_leaves_the_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        let open = || UsersFile::open(&path).unwrap();
        open().add(&name("a"), "node", Some("long enough"), false).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let refused = |done: Result<(), UsersError>, why: &str| {
            let error = done.unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("users.toml"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        };
        refused(open().add(&name("a"), "node", None, true), "already");
        refused(open().add(&name("b"), "nod", None, true), "there is no role");
        refused(open().add(&name("b"), "node", Some("short"), true), "at least 8");
        refused(open().set_password(&name("b"), "long enough"), "no user b");
        refused(open().remove(&name("b")), "no user b");
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (link, real) = (dir.path().join("users.toml"), dir.path().join("real.toml"));
        std::fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        UsersFile::open(&link).unwrap().add(&name("a"), "node", None, true).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(UsersFile::list(&real).unwrap().len(), 1);
    }
}
