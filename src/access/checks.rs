//! Checking passwords, which is expensive by design: away from the tasks that carry messages, a
//! few at once, and once only for a password that has been right.

use super::Denied;
use super::attempts::{Attempts, Digest, Standing, WINDOW};
use super::password::Hashed;
use blake2::Blake2sMac256;
use blake2::digest::{KeyInit as _, Mac as _};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Passwords checked at the same moment: each takes a core and 19 MiB.
const AT_ONCE: usize = 2;
/// Attempts that may wait for their turn; one more is told that the hub is busy.
const WAITING_MAX: usize = 1024;
/// Of these from one address, so that nobody fills the queue alone.
const WAITING_PER_ADDRESS_MAX: usize = 256;

/// An attempt to be somebody.
pub(super) struct Attempt<'a> {
    pub(super) user: &'a str,
    pub(super) password: &'a [u8],
    pub(super) address: IpAddr,
    /// The password of the user; `None`: there is no such user, or he has none.
    pub(super) stored: Option<&'a Hashed>,
    /// What is checked instead, so that an unknown user takes as long as a known one.
    pub(super) decoy: &'a Hashed,
}

pub(super) struct Checks(Arc<Inner>);

struct Inner {
    key: [u8; 32],
    turn: Arc<Semaphore>,
    waiting: Mutex<HashMap<IpAddr, usize>>,
    /// Of each user the last password that was right, and what it was checked against.
    right: Mutex<HashMap<Box<str>, (Digest, Hashed)>>,
    attempts: Mutex<Attempts>,
    wrong: AtomicU64,
    on_shut_out: Box<dyn Fn(IpAddr, Duration) + Send + Sync>,
}

impl Checks {
    pub(super) fn new(
        on_shut_out: impl Fn(IpAddr, Duration) + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|e| e.to_string())?;
        Ok(Self(Arc::new(Inner {
            key,
            turn: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Mutex::default(),
            right: Mutex::default(),
            attempts: Mutex::default(),
            wrong: AtomicU64::new(0),
            on_shut_out: Box::new(on_shut_out),
        })))
    }

    /// Refusals of a password so far.
    pub(super) fn wrong(&self) -> u64 {
        self.0.wrong.load(Relaxed)
    }

    /// Forgets what was right and what was wrong: other passwords count now.
    pub(super) fn forget(&self) {
        lock(&self.0.right).clear();
        lock(&self.0.attempts).forget();
    }

    pub(super) async fn check(&self, attempt: Attempt<'_>) -> Result<(), Denied> {
        let inner = &self.0;
        let Attempt { user, password, address, stored, decoy } = attempt;
        let digest = inner.digest(user, password);
        // Also before a password that was right before is believed: else whoever is shut out
        // could go on guessing until he hits one of these.
        inner.standing(address, &digest)?;
        if stored.is_some_and(|stored| inner.was_right(user, &digest, stored)) {
            return Ok(());
        }
        let waiting = Waiting::enter(inner, address).ok_or(Denied::Busy)?;
        let turn = inner.turn.clone().acquire_owned().await.map_err(|_| Denied::Busy)?;
        // Others from the same address may have been wrong meanwhile.
        inner.standing(address, &digest)?;
        let (known, hashed) = (stored.is_some(), stored.unwrap_or(decoy).clone());
        let (user, password, inner) = (Box::<str>::from(user), password.to_vec(), inner.clone());
        // Whoever asked may be gone before the answer; his guess counts all the same, and the
        // turn is over when it has been taken down.
        let work = move || {
            let _held = (turn, waiting);
            let fits = hashed.fits(&password) && known;
            if fits {
                lock(&inner.right).insert(user, (digest, hashed));
                return Ok(());
            }
            inner.wrong.fetch_add(1, Relaxed);
            // A name that nobody has may be a password in the wrong place.
            let user = if known { &*user } else { "unknown" };
            tracing::warn!(%address, user, "wrong user name or password");
            if lock(&inner.attempts).wrong(address, digest, Instant::now()) {
                tracing::warn!(%address, "too many wrong passwords, address shut out for a minute");
                (inner.on_shut_out)(address, WINDOW);
            }
            Err(Denied::Wrong)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(Denied::Busy))
    }
}

impl Inner {
    fn digest(&self, user: &str, password: &[u8]) -> Digest {
        let mut mac = Blake2sMac256::new(&self.key.into());
        mac.update(&(user.len() as u64).to_le_bytes());
        mac.update(user.as_bytes());
        mac.update(password);
        mac.finalize().into_bytes().into()
    }

    fn was_right(&self, user: &str, digest: &Digest, stored: &Hashed) -> bool {
        // A comparison that ends early tells nothing about a digest under a secret key.
        lock(&self.right).get(user).is_some_and(|right| right.0 == *digest && right.1 == *stored)
    }

    fn standing(&self, address: IpAddr, digest: &Digest) -> Result<(), Denied> {
        let standing = lock(&self.attempts).standing(address, digest, Instant::now());
        match standing {
            Standing::Free => Ok(()),
            Standing::Known => {
                self.wrong.fetch_add(1, Relaxed);
                Err(Denied::Wrong)
            }
            Standing::ShutOut(still) => {
                self.wrong.fetch_add(1, Relaxed);
                Err(Denied::ShutOut(still))
            }
        }
    }
}

/// A place in the queue.
struct Waiting {
    inner: Arc<Inner>,
    address: IpAddr,
}

impl Waiting {
    fn enter(inner: &Arc<Inner>, address: IpAddr) -> Option<Self> {
        let mut waiting = lock(&inner.waiting);
        let all: usize = waiting.values().sum();
        let own = waiting.get(&address).copied().unwrap_or(0);
        if all >= WAITING_MAX || own >= WAITING_PER_ADDRESS_MAX {
            return None;
        }
        waiting.insert(address, own + 1);
        Some(Self { inner: inner.clone(), address })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = lock(&self.inner.waiting);
        match waiting.get_mut(&self.address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(waiting.remove(&self.address)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn checks() -> (Checks, Arc<AtomicUsize>) {
        let shut_out = Arc::new(AtomicUsize::new(0));
        let counted = shut_out.clone();
        let checks = Checks::new(move |_, _| {
            counted.fetch_add(1, Relaxed);
        });
        (checks.unwrap(), shut_out)
    }

    async fn attempt(
        checks: &Checks,
        password: &str,
        stored: Option<&Hashed>,
        decoy: &Hashed,
    ) -> Result<(), Denied> {
        let password = password.as_bytes();
        checks.check(Attempt { user: "anna", password, address: HERE, stored, decoy }).await
    }

    #[tokio::test]
    async fn a_right_password_is_checked_once_and_only_against_what_is_stored_now() {
        let (checks, _) = checks();
        let (old, new) =
            (Hashed::make("old password").unwrap(), Hashed::make("new password").unwrap());
        assert_eq!(attempt(&checks, "old password", Some(&old), &new).await, Ok(()));
        // All turns are taken: only what needs no check comes through.
        let turns = checks.0.turn.clone().acquire_many_owned(AT_ONCE as u32).await.unwrap();
        assert_eq!(attempt(&checks, "old password", Some(&old), &new).await, Ok(()));
        drop(turns);
        assert_eq!(attempt(&checks, "old password", Some(&new), &old).await, Err(Denied::Wrong));
        checks.forget();
        assert_eq!(attempt(&checks, "new password", Some(&new), &old).await, Ok(()));
    }

    #[tokio::test]
    async fn an_unknown_user_is_wrong_even_with_the_password_of_the_decoy() {
        let (checks, _) = checks();
        let decoy = Hashed::make("the decoy's own").unwrap();
        let denied = attempt(&checks, "the decoy's own", None, &decoy).await;
        assert_eq!(denied, Err(Denied::Wrong));
        assert_eq!(checks.wrong(), 1);
    }

    #[tokio::test]
    async fn guessing_ends_after_five_also_for_who_guesses_right_then() {
        let (checks, shut_out) = checks();
        let stored = Hashed::make("the right one").unwrap();
        for n in 0..5 {
            let denied = attempt(&checks, &format!("guess {n}"), Some(&stored), &stored).await;
            assert_eq!(denied, Err(Denied::Wrong));
        }
        for password in ["guess 0", "the right one"] {
            let denied = attempt(&checks, password, Some(&stored), &stored).await;
            assert!(matches!(denied, Err(Denied::ShutOut(_))), "{denied:?}");
        }
        assert_eq!(shut_out.load(Relaxed), 1);
        assert_eq!(checks.wrong(), 7);
    }

    #[tokio::test]
    async fn a_hundred_guesses_at_once_are_no_more_than_a_few() {
        let (checks, _) = checks();
        let (checks, stored) = (Arc::new(checks), Hashed::make("the right one").unwrap());
        let guess = |n: usize| {
            let (checks, stored) = (checks.clone(), stored.clone());
            tokio::spawn(async move {
                attempt(&checks, &format!("guess {n}"), Some(&stored), &stored).await
            })
        };
        let guesses: Vec<_> = (0..100).map(guess).collect();
        let mut checked = 0;
        for guess in guesses {
            match guess.await.unwrap() {
                Err(Denied::Wrong) => checked += 1,
                Err(Denied::ShutOut(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!((5..5 + AT_ONCE).contains(&checked), "{checked}");
        assert!(lock(&checks.0.waiting).is_empty(), "nobody waits any more");
    }

    #[tokio::test]
    async fn a_full_queue_says_so_and_one_address_does_not_fill_it() {
        let (checks, _) = checks();
        let inner = &checks.0;
        let other = |n: u32| IpAddr::V4((0x0a00_0000 + n).into());
        let mut places: Vec<_> =
            (0..WAITING_PER_ADDRESS_MAX).map(|_| Waiting::enter(inner, HERE).unwrap()).collect();
        assert!(Waiting::enter(inner, HERE).is_none());
        let rest = (WAITING_MAX - WAITING_PER_ADDRESS_MAX) as u32;
        places.extend((0..rest).map(|n| Waiting::enter(inner, other(n)).unwrap()));
        assert!(Waiting::enter(inner, other(rest)).is_none());
        let stored = Hashed::make("the right one").unwrap();
        let denied = attempt(&checks, "the right one", Some(&stored), &stored).await;
        assert_eq!(denied, Err(Denied::Busy));
        drop(places);
        assert!(lock(&inner.waiting).is_empty());
        assert_eq!(attempt(&checks, "the right one", Some(&stored), &stored).await, Ok(()));
    }
}
