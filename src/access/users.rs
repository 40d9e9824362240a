//! `users.toml`: who there is, and what each may do.

use super::password::Hashed;
use super::role::{self, ROLES};
use super::rule::{Rights, Rule, Who};
use crate::name::UserName;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use toml_edit::{DocumentMut, Item, TableLike};

/// Would have the answers of everybody as his own below `mesh/app/`.
const RESERVED: &str = "replies";

/// What is wrong in a file of users: where, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) key: String,
    pub(super) why: String,
}

type Parsed<T> = Result<T, Fault>;

/// Somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) password: Option<Hashed>,
    /// A verified client certificate of this name is proof enough.
    pub(super) certificate: bool,
    pub(super) role: Box<str>,
    rights: Arc<Rights>,
    more: Rights,
}

impl User {
    pub(super) fn may_publish(&self, who: Who<'_>, topic: &str) -> bool {
        self.rights.may_publish(who, topic) || self.more.may_publish(who, topic)
    }

    pub(super) fn may_publish_all(&self, who: Who<'_>, filter: &str) -> bool {
        self.rights.may_publish_all(who, filter) || self.more.may_publish_all(who, filter)
    }

    pub(super) fn may_subscribe(&self, who: Who<'_>, filter: &str) -> bool {
        self.rights.may_subscribe(who, filter) || self.more.may_subscribe(who, filter)
    }
}

/// Everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Users {
    pub(super) users: BTreeMap<UserName, User>,
    roles: HashMap<Box<str>, Arc<Rights>>,
}

impl Default for Users {
    fn default() -> Self {
        let built_in = ROLES.iter().map(|(name, publish, subscribe)| {
            ((*name).into(), Arc::new(role::rights(publish, subscribe)))
        });
        Self { users: BTreeMap::new(), roles: built_in.collect() }
    }
}

impl Users {
    /// Reads a whole file.
    pub(super) fn parse(text: &str) -> Parsed<Self> {
        let document: DocumentMut = text.parse().map_err(|e| syntax(text, &e))?;
        Self::read(&document)
    }

    pub(super) fn read(document: &DocumentMut) -> Parsed<Self> {
        let mut all = Self::default();
        known_keys("", document.as_table(), &["users", "roles"])?;
        for (name, table) in tables(document.get("roles"), "roles")? {
            let at = format!("roles.{name}");
            if all.roles.contains_key(name) {
                return Err(fault(&at, "there is a built-in role of this name"));
            }
            if UserName::parse(name).is_err() || name == "none" {
                return Err(fault(&at, "use letters, digits, '.', '_' and '-', and not \"none\""));
            }
            known_keys(&at, table, &["publish", "subscribe"])?;
            all.roles.insert(name.into(), Arc::new(rights(&at, table)?));
        }
        for (name, table) in tables(document.get("users"), "users")? {
            let at = format!("users.{name}");
            let name = UserName::parse(name).map_err(|e| fault(&at, &e.to_string()))?;
            if name.as_str() == RESERVED {
                return Err(fault(
                    &at,
                    "everybody's answers are below mesh/app/replies/: take another name",
                ));
            }
            let user = all.read_user(&at, table)?;
            all.users.insert(name, user);
        }
        Ok(all)
    }

    fn read_user(&self, at: &str, table: &dyn TableLike) -> Parsed<User> {
        known_keys(at, table, &["password", "certificate", "role", "publish", "subscribe"])?;
        let key = |name: &str| format!("{at}.{name}");
        let password = match table.get("password") {
            None => None,
            Some(item) => {
                let text =
                    item.as_str().ok_or_else(|| fault(&key("password"), "must be a string"))?;
                Some(Hashed::parse(text).map_err(|why| fault(&key("password"), &why))?)
            }
        };
        let certificate = match table.get("certificate") {
            None => false,
            Some(item) => {
                item.as_bool().ok_or_else(|| fault(&key("certificate"), "must be true or false"))?
            }
        };
        let role = table.get("role").and_then(Item::as_str);
        let role = role.ok_or_else(|| fault(&key("role"), "must name a role"))?;
        let rights_of_role = self.roles.get(role).cloned();
        let rights_of_role = rights_of_role.ok_or_else(|| {
            let why = format!("there is no role {role:?}; there are {}", self.role_names());
            fault(&key("role"), &why)
        })?;
        let more = rights(at, table)?;
        Ok(User { password, certificate, role: role.into(), rights: rights_of_role, more })
    }

    /// What a role may do, if there is one of this name.
    pub(super) fn role(&self, name: &str) -> Option<&Arc<Rights>> {
        self.roles.get(name)
    }

    pub(super) fn role_names(&self) -> String {
        let mut names: Vec<_> = self.roles.keys().map(|name| name.as_ref()).collect();
        names.sort_unstable();
        names.join(", ")
    }

    pub(super) fn user(&self, name: &str) -> Option<&User> {
        UserName::parse(name).ok().and_then(|name| self.users.get(&name))
    }
}

fn fault(key: &str, why: &str) -> Fault {
    Fault { key: key.to_owned(), why: why.to_owned() }
}

/// A file that is no TOML. The line is named and not shown: it may hold a password hash.
fn syntax(text: &str, error: &toml_edit::TomlError) -> Fault {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(0, |before| before.matches('\n').count()) + 1;
    fault(&format!("line {line}"), error.message())
}

/// The tables of a section, by name; none where the section is not there.
fn tables<'a>(section: Option<&'a Item>, name: &str) -> Parsed<Vec<(&'a str, &'a dyn TableLike)>> {
    let Some(section) = section else { return Ok(Vec::new()) };
    let section = section.as_table_like();
    let section = section.ok_or_else(|| fault(name, &format!("must be [{name}.<name>]")))?;
    let table = |(key, item): (&'a str, &'a Item)| {
        let table = item.as_table_like();
        let table = table.ok_or_else(|| fault(&format!("{name}.{key}"), "must be a table"));
        table.map(|table| (key, table))
    };
    section.iter().map(table).collect()
}

fn known_keys(at: &str, table: &dyn TableLike, known: &[&str]) -> Parsed<()> {
    match table.iter().find(|(key, _)| !known.contains(key)) {
        Some((key, _)) => {
            let key = if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
            Err(fault(&key, &format!("there is no such key; there are {}", known.join(", "))))
        }
        None => Ok(()),
    }
}

fn rights(at: &str, table: &dyn TableLike) -> Parsed<Rights> {
    let rules = |key: &str| -> Parsed<Vec<Rule>> {
        let at = format!("{at}.{key}");
        let Some(item) = table.get(key) else { return Ok(Vec::new()) };
        let list = item.as_array().ok_or_else(|| fault(&at, "must be a list of topic filters"))?;
        let rule = |value: &toml_edit::Value| {
            let text = value.as_str().ok_or_else(|| fault(&at, "must be a list of strings"))?;
            Rule::parse(text).map_err(|why| fault(&at, &why))
        };
        list.iter().map(rule).collect()
    };
    Ok(Rights { publish: rules("publish")?, subscribe: rules("subscribe")? })
}

#[cfg(test)]
mod tests {
    use super::super::role::OWN_REPLIES;
    use super::*;

    #[test]
    fn users_have_a_role_and_rules_of_their_own() {
        let users = Users::parse(
            "[roles.backup]\npublish = [\"mesh/app/backup/%u/#\"]\n\
             [users.nas]\nrole = \"backup\"\ncertificate = true\nsubscribe = [\"mesh/app/x\"]\n\
             [users.web1]\nrole = 'node'\n",
        );
        let users = users.unwrap();
        let nas = users.user("nas").unwrap();
        let who = Who { user: Some("nas"), client: "c" };
        assert!(nas.certificate && nas.password.is_none());
        assert!(nas.may_publish(who, "mesh/app/backup/nas/1"));
        assert!(!nas.may_publish(who, "mesh/app/backup/web1/1"));
        assert!(nas.may_subscribe(who, "mesh/app/x"));
        assert_eq!(users.user("web1").unwrap().role.as_ref(), "node");
        assert!(users.user("nobody").is_none() && users.user("a/b").is_none());
        assert_eq!(users.role_names(), "backup, dashboard, node, operator, service");
    }

    #[test]
    fn an_empty_file_has_no_users_and_the_built_in_roles() {
        let users = Users::parse("# nobody yet\n").unwrap();
        assert!(users.users.is_empty() && users.role("node").is_some());
    }

    #[test]
    fn a_fault_names_the_key_and_the_reason_and_no_secret() {
        let secret = "$argon2i$v=19$m=1,t=1,p=1$c2VjcmV0c2FsdA$aGFzaGhhc2hoYXNo";
        for (text, key, why) in [
            ("user = 1", "user", "users, roles"),
            ("users = 1", "users", "[users.<name>]"),
            ("[users]\na = 1", "users.a", "table"),
            ("[users.a]\nrole = \"nod\"", "users.a.role", "node, operator"),
            ("[users.a]\n", "users.a.role", "must name"),
            ("[users.a]\nrole = \"node\"\npasword = \"x\"", "users.a.pasword", "password"),
            (
                &format!("[users.a]\nrole=\"node\"\npassword=\"{secret}\""),
                "users.a.password",
                "argon2id",
            ),
            ("[users.a]\nrole=\"node\"\npassword=7", "users.a.password", "string"),
            ("[users.a]\nrole=\"node\"\ncertificate=\"yes\"", "users.a.certificate", "true"),
            ("[users.a]\nrole=\"node\"\npublish=\"x\"", "users.a.publish", "list"),
            ("[users.a]\nrole=\"node\"\npublish=[\"a/#/b\"]", "users.a.publish", "filter"),
            ("[users.\"a/b\"]\nrole=\"node\"", "users.a/b", "letters"),
            ("[roles.node]\npublish=[]", "roles.node", "built-in"),
            ("[roles.none]\npublish=[]", "roles.none", "none"),
            ("[roles.x]\nsubscribe=[\"%x\"]", "roles.x.subscribe", "%"),
            ("[roles.x]\nallow=[]", "roles.x.allow", "publish"),
            (&format!("[users.a]\npassword = \"{secret}"), "line 2", ""),
            ("[users.a]\nrole=\"node\"\n[users.a]\nrole=\"node\"", "line 3", "duplicate"),
        ] {
            let fault = Users::parse(text).expect_err(text);
            assert_eq!(fault.key, key, "{text}: {fault:?}");
            assert!(fault.why.contains(why), "{text}: {fault:?}");
            assert!(!fault.why.contains("aGFzaGhh"), "{fault:?}");
        }
    }

    #[test]
    fn everybody_who_may_announce_may_hear_his_answers() {
        let users = Users::default();
        for (name, rights) in &users.roles {
            let who = Who { user: Some("anna"), client: "c" };
            if rights.may_publish(who, "mesh/announce") {
                let own = OWN_REPLIES.replace("%u", "anna");
                assert!(rights.may_subscribe(who, &own), "{name}");
            }
        }
    }
}
