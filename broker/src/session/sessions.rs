//! All sessions by whose they are, and who holds how many.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use super::Session;
use crate::{
    api::Identity,
    bounds::{Bound, network},
    settings::Limits,
    shared::SMALL_MAP,
};

/// Which session a client comes to. A client id is no proof of who one is, so the same one under
/// two users is two sessions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    user: Option<Box<str>>,
    pub(crate) client_id: Box<str>,
}

impl Key {
    pub(crate) fn new(user: Option<&str>, client_id: &str) -> Self {
        Self { user: user.map(Into::into), client_id: client_id.into() }
    }
}

/// Whom a session is counted for: the user, or without one where the client came from first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    User(Box<str>),
    Network(IpAddr),
}

impl Holder {
    fn of(who: &Identity) -> Self {
        match (&who.user, who.address) {
            (Some(user), _) => Self::User(user.clone()),
            (None, Some(address)) => Self::Network(network(address.ip())),
            (None, None) => Self::Network(Ipv4Addr::UNSPECIFIED.into()),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => user.fmt(f),
            Self::Network(ip) => ip.fmt(f),
        }
    }
}

/// The sessions there are, those of absent clients included.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_key: HashMap<Key, (Arc<Session>, Holder)>,
    /// Nobody who holds none is in here.
    held: HashMap<Holder, usize>,
}

impl Sessions {
    /// The session of this key, or a new one with this uid; else the bound and who reached it.
    pub(crate) fn find_or_make(
        &mut self,
        key: Key,
        who: &Identity,
        uid: u64,
        limits: &Limits,
    ) -> Result<Arc<Session>, (Bound, Holder)> {
        if let Some((session, _)) = self.by_key.get(&key) {
            return Ok(session.clone());
        }
        let holder = Holder::of(who);
        let (held, max) =
            (self.held.get(&holder).copied().unwrap_or(0), limits.sessions_per_identity_max);
        if max > 0 && held >= max {
            return Err((Bound::SessionsPerIdentity, holder));
        }
        if self.by_key.len() >= limits.sessions_max {
            return Err((Bound::Sessions, holder));
        }
        let session = Arc::new(Session::new(key.clone(), uid));
        self.held.insert(holder.clone(), held + 1);
        self.by_key.insert(key, (session.clone(), holder));
        Ok(session)
    }

    /// Takes this very session out; a later one of the same key stays.
    pub(crate) fn remove(&mut self, session: &Session) {
        if self.by_key.get(&session.key).is_some_and(|(known, _)| known.uid == session.uid)
            && let Some((_, holder)) = self.by_key.remove(&session.key)
            && let Some(held) = self.held.get_mut(&holder)
        {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&holder);
            }
        }
        if self.by_key.capacity() > SMALL_MAP && self.len() * 4 < self.by_key.capacity() {
            self.by_key.shrink_to_fit();
        }
        if self.held.capacity() > SMALL_MAP && self.held.len() * 4 < self.held.capacity() {
            self.held.shrink_to_fit();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.by_key.values().map(|(session, _)| session.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn come(
        sessions: &mut Sessions,
        user: Option<&str>,
        address: &str,
        id: &str,
    ) -> Result<Arc<Session>, Bound> {
        let limits = Limits { sessions_per_identity_max: 2, sessions_max: 5, ..Limits::default() };
        let who = Identity {
            client_id: id.into(),
            user: user.map(Into::into),
            address: Some(format!("{address}:1").parse().unwrap()),
            note: 0,
        };
        let uid = 1 + sessions.len() as u64;
        let found = sessions.find_or_make(Key::new(user, id), &who, uid, &limits);
        found.map_err(|(bound, _)| bound)
    }

    #[test]
    fn one_client_id_under_two_users_is_two_sessions() {
        let mut sessions = Sessions::default();
        let uids = [Some("anna"), Some("bert"), Some(""), None, Some("anna")]
            .map(|user| come(&mut sessions, user, "192.0.2.1", "id").unwrap().uid);
        assert_eq!(uids, [1, 2, 3, 4, 1]);
    }

    #[test]
    fn an_identity_holds_so_many_and_all_together_so_many() {
        let mut sessions = Sessions::default();
        let own = Some(Bound::SessionsPerIdentity);
        for (user, address, id, refused) in [
            (Some("anna"), "192.0.2.1", "1", None),
            (Some("anna"), "192.0.2.2", "2", None),
            (Some("anna"), "192.0.2.3", "3", own),
            (Some("anna"), "192.0.2.3", "2", None),
            (None, "192.0.2.1", "4", None),
            (None, "[::ffff:192.0.2.1]", "5", None),
            (None, "192.0.2.1", "6", own),
            (None, "[2001:db8::1]", "7", None),
            (None, "[2001:db8::2]", "8", Some(Bound::Sessions)),
        ] {
            assert_eq!(come(&mut sessions, user, address, id).err(), refused, "{id}");
        }
    }

    #[test]
    fn what_ended_is_counted_no_more() {
        let mut sessions = Sessions::default();
        for _ in 0..5 {
            for user in [Some("anna"), None] {
                let one = come(&mut sessions, user, "192.0.2.1", "1").unwrap();
                let two = come(&mut sessions, user, "192.0.2.1", "2").unwrap();
                assert!(come(&mut sessions, user, "192.0.2.1", "3").is_err());
                sessions.remove(&one);
                sessions.remove(&one);
                let newer = come(&mut sessions, user, "192.0.2.1", "4").unwrap();
                assert!(come(&mut sessions, user, "192.0.2.1", "3").is_err());
                [two, newer].iter().for_each(|session| sessions.remove(session));
            }
            assert!(sessions.held.is_empty());
            assert_eq!(sessions.len(), 0);
        }
    }
}
