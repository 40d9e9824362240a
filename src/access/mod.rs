//! Who may come in, and what each may do.
//!
//! Everything is denied that no rule of `users.toml` or of a built-in role grants. What only the
//! hub publishes is no matter of rules: the door keeps that, whatever stands here.
//!
//! Invariants:
//! - An identity is a user name that was proved. A client id is none, it is chosen freely.
//! - A password is never kept, logged or shown; a right one is remembered under a keyed hash.
//! - A broken file changes nothing.

mod attempts;
mod checks;
mod edit;
mod file;
mod filter;
mod password;
mod role;
mod rule;
mod users;

pub use edit::{Login, UsersFile};
pub use file::UsersError;
pub use rule::Who;

use checks::{Attempt, Checks};
use password::{Hashed, PASSWORD_MAX_BYTES};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use users::Users;

/// What the configuration says about who may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The file of users; it may be missing.
    pub users: PathBuf,
    /// Lets anybody in without a name, from wherever he comes; otherwise only from this machine.
    pub allow_anonymous: bool,
    /// What those may do: the name of a role, or `none`.
    pub anonymous_role: Box<str>,
}

/// Who somebody says he is.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    /// The user name.
    pub user: Option<&'a str>,
    /// The password.
    pub password: Option<&'a [u8]>,
    /// The name in a client certificate that was verified.
    pub certificate: Option<&'a str>,
    /// Where he comes from.
    pub address: IpAddr,
}

impl std::fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no such user, or this is not his password.
    #[error("wrong user name or password")]
    Wrong,
    /// No name was given, and without one nobody comes in from there.
    #[error("a user name and password are needed")]
    Anonymous,
    /// Too many wrong passwords from this address; it may try again after so long.
    #[error("too many wrong passwords from this address; try again in {} s", .0.as_secs() + 1)]
    ShutOut(Duration),
    /// Too many passwords are being checked.
    #[error("too many logins at the moment; try again")]
    Busy,
}

/// What is in force.
#[derive(Debug)]
struct Rules {
    users: Users,
    decoys: Vec<Hashed>,
    /// How many times the file has been read.
    reading: u64,
    /// Of whom the proof that counted before some reading has not counted since.
    ousted: HashMap<Box<str>, u64>,
}

/// Somebody who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The user; `None` is nobody in particular.
    pub user: Option<Box<str>>,
    /// Which rules let him in, for [`Access::may_stay`].
    pub reading: u64,
}

/// The keeper of the rules.
pub struct Access {
    policy: Policy,
    rules: RwLock<Arc<Rules>>,
    checks: Checks,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the file of users. `on_shut_out` is told of each address that guessed too
    /// much, and how long it may guess no more.
    ///
    /// # Errors
    /// The file cannot be read or says something that has no meaning.
    pub fn open(
        policy: Policy,
        on_shut_out: impl Fn(IpAddr, Duration) + Send + Sync + 'static,
    ) -> Result<Self, UsersError> {
        let users = file::load(&policy.users)?;
        policy.check(&users)?;
        let rules = Rules::new(users, 0, HashMap::new());
        let checks = Checks::new(on_shut_out).map_err(|why| UsersError::NoRandom { why })?;
        Ok(Self { policy, rules: RwLock::new(Arc::new(rules?)), checks })
    }

    /// Reads the file again; gives in a few words what is in force.
    ///
    /// # Errors
    /// As for [`Access::open`]; then everything stays as it was.
    pub fn reload(&self) -> Result<String, UsersError> {
        let users = file::load(&self.policy.users)?;
        self.policy.check(&users)?;
        let old = self.rules();
        let ousted = old.users.users.iter().filter(|(name, was)| {
            let is = users.users.get(name);
            is.is_none_or(|is| is.password != was.password || is.certificate != was.certificate)
        });
        let ousted: Vec<Box<str>> = ousted.map(|(name, _)| name.as_str().into()).collect();
        let said = format!("{} users, {} ousted", users.users.len(), ousted.len());
        let reading = old.reading + 1;
        let ousted = ousted.into_iter().map(|name| (name, reading));
        let ousted = old.ousted.clone().into_iter().chain(ousted).collect();
        let rules = Arc::new(Rules::new(users, reading, ousted)?);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        self.checks.forget();
        Ok(said)
    }

    /// Settles who somebody is.
    ///
    /// # Errors
    /// He is not let in.
    pub async fn admit(&self, claim: Claim<'_>) -> Result<Guest, Denied> {
        let rules = self.rules();
        let user = self.prove(&rules, claim).await?;
        Ok(Guest { user: user.map(Into::into), reading: rules.reading })
    }

    async fn prove<'a>(&self, rules: &Rules, claim: Claim<'a>) -> Result<Option<&'a str>, Denied> {
        let certifies = |name: &&str| rules.users.user(name).is_some_and(|user| user.certificate);
        let certified = claim.certificate.filter(certifies);
        let Some(name) = claim.user.filter(|_| !rules.users.users.is_empty()) else {
            // A name that nothing can prove is not believed.
            return match certified {
                Some(name) => Ok(Some(name)),
                None if self.takes_anonymous(claim.address) => Ok(None),
                None => Err(Denied::Anonymous),
            };
        };
        if claim.password.is_none() && certified == Some(name) {
            return Ok(Some(name));
        }
        let password = claim.password.filter(|password| password.len() <= PASSWORD_MAX_BYTES);
        let stored = rules.users.user(name).and_then(|user| user.password.as_ref());
        let attempt = Attempt {
            user: name,
            password: password.unwrap_or_default(),
            address: claim.address,
            stored,
            decoy: rules.decoy(name),
        };
        self.checks.check(attempt).await?;
        Ok(Some(name))
    }

    /// True if somebody may publish to a topic, as far as rules go.
    #[must_use]
    pub fn may_publish(&self, who: Who<'_>, topic: &str) -> bool {
        let rules = self.rules();
        match who.user {
            Some(name) => rules.users.user(name).is_some_and(|user| user.may_publish(who, topic)),
            None => self.anonymous(&rules).is_some_and(|role| role.may_publish(who, topic)),
        }
    }

    /// True if somebody may publish to every topic that a filter selects, as far as rules go.
    #[must_use]
    pub fn may_publish_all(&self, who: Who<'_>, filter: &str) -> bool {
        let rules = self.rules();
        match who.user {
            Some(name) => {
                rules.users.user(name).is_some_and(|user| user.may_publish_all(who, filter))
            }
            None => self.anonymous(&rules).is_some_and(|role| role.may_publish_all(who, filter)),
        }
    }

    /// True if somebody may subscribe to a filter: one rule covers it.
    #[must_use]
    pub fn may_subscribe(&self, who: Who<'_>, filter: &str) -> bool {
        let rules = self.rules();
        match who.user {
            Some(name) => {
                rules.users.user(name).is_some_and(|user| user.may_subscribe(who, filter))
            }
            None => self.anonymous(&rules).is_some_and(|role| role.may_subscribe(who, filter)),
        }
    }

    /// True if somebody may have an answer published to a topic: it is his own for that, or one
    /// that he could publish to himself. Else the hub would write where he may not.
    #[must_use]
    pub fn may_be_answered(&self, who: Who<'_>, topic: &str) -> bool {
        let own = role::rights(&[role::OWN_REPLIES], &[]);
        own.may_publish(who, topic) || self.may_publish(who, topic)
    }

    /// False for a user whose proof of himself does not count any more: since he was let in he was
    /// removed, or got another password.
    #[must_use]
    pub fn may_stay(&self, user: Option<&str>, reading: u64) -> bool {
        let rules = self.rules();
        user.and_then(|user| rules.ousted.get(user)).is_none_or(|ousted| reading >= *ousted)
    }

    /// How many users there are.
    #[must_use]
    pub fn users(&self) -> usize {
        self.rules().users.users.len()
    }

    /// Passwords refused so far.
    #[must_use]
    pub fn logins_refused(&self) -> u64 {
        self.checks.wrong()
    }

    /// True if somebody without a name comes in from there.
    #[must_use]
    pub fn takes_anonymous(&self, address: IpAddr) -> bool {
        let here = self.policy.allow_anonymous || address.to_canonical().is_loopback();
        here && self.policy.anonymous_role.as_ref() != NONE
    }

    fn anonymous<'a>(&self, rules: &'a Rules) -> Option<&'a rule::Rights> {
        rules.users.role(&self.policy.anonymous_role).map(Arc::as_ref)
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// No role: nobody comes in without a name.
const NONE: &str = "none";

impl Policy {
    /// Reads the file of users and gives how many there are.
    ///
    /// # Errors
    /// As for [`Access::open`].
    pub fn look(&self) -> Result<usize, UsersError> {
        let users = file::load(&self.users)?;
        self.check(&users)?;
        Ok(users.users.len())
    }

    fn check(&self, users: &Users) -> Result<(), UsersError> {
        if self.anonymous_role.as_ref() == NONE || users.role(&self.anonymous_role).is_some() {
            return Ok(());
        }
        let (role, roles) = (self.anonymous_role.clone(), users.role_names());
        Err(UsersError::NoSuchRole { role, roles })
    }
}

impl Rules {
    fn new(users: Users, reading: u64, ousted: HashMap<Box<str>, u64>) -> Result<Self, UsersError> {
        let kept = users.users.values().filter_map(|user| user.password.clone());
        let mut decoys: Vec<_> = kept.collect();
        if decoys.is_empty() {
            let decoy = Hashed::make("of nobody whatsoever");
            decoys.push(decoy.map_err(|why| UsersError::NoRandom { why })?);
        }
        Ok(Self { users, decoys, reading, ousted })
    }

    /// What an unknown name is checked against: always the same, as for a known one.
    fn decoy(&self, name: &str) -> &Hashed {
        use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(name);
        let at = usize::try_from(hash % self.decoys.len() as u64).unwrap_or(0);
        &self.decoys[at]
    }
}

#[cfg(test)]
mod tests;
