//! Who guesses passwords: wrong ones by address, so that nobody gets to try many.
//!
//! What counts is a wrong password that was not tried before: a service that repeats its mistake
//! learns nothing by it, and shuts nobody out who shares its address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// Different wrong passwords in one window after which an address is shut out.
pub(super) const WRONG_MAX: usize = 5;
/// How long a wrong password is remembered, and how long an address is shut out.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 4096;

/// A user and a password, told apart by a keyed hash.
pub(super) type Digest = [u8; 32];

/// How an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may try.
    Free,
    /// This very attempt has just been wrong.
    Known,
    /// It has tried too much; for so long.
    ShutOut(Duration),
}

#[derive(Debug)]
struct Record {
    wrong: Vec<(Digest, Instant)>,
    shut_out_until: Option<Instant>,
}

impl Record {
    /// False when nothing in it matters any more.
    fn tidy(&mut self, now: Instant) -> bool {
        self.wrong.retain(|(_, at)| now.saturating_duration_since(*at) < WINDOW);
        self.shut_out_until = self.shut_out_until.filter(|until| *until > now);
        !self.wrong.is_empty() || self.shut_out_until.is_some()
    }

    fn last(&self) -> Option<Instant> {
        self.shut_out_until.or_else(|| self.wrong.last().map(|(_, at)| *at))
    }
}

#[derive(Debug, Default)]
pub(super) struct Attempts(HashMap<IpAddr, Record>);

impl Attempts {
    pub(super) fn standing(&mut self, address: IpAddr, digest: &Digest, now: Instant) -> Standing {
        let Some(record) = self.0.get_mut(&network(address)) else { return Standing::Free };
        record.tidy(now);
        match record.shut_out_until {
            Some(until) => Standing::ShutOut(until - now),
            None if record.wrong.iter().any(|(wrong, _)| wrong == digest) => Standing::Known,
            None => Standing::Free,
        }
    }

    /// Takes down a wrong password; true when the address is shut out for it.
    pub(super) fn wrong(&mut self, address: IpAddr, digest: Digest, now: Instant) -> bool {
        let address = network(address);
        if !self.0.contains_key(&address) {
            self.make_room(now);
        }
        let fresh = || Record { wrong: Vec::new(), shut_out_until: None };
        let record = self.0.entry(address).or_insert_with(fresh);
        record.tidy(now);
        if record.shut_out_until.is_some() || record.wrong.iter().any(|(wrong, _)| *wrong == digest)
        {
            return false;
        }
        record.wrong.push((digest, now));
        if record.wrong.len() < WRONG_MAX {
            return false;
        }
        record.wrong.clear();
        record.shut_out_until = Some(now + WINDOW);
        true
    }

    /// What was wrong may be right now.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    fn make_room(&mut self, now: Instant) {
        if self.0.len() < ADDRESSES_MAX {
            return;
        }
        self.0.retain(|_, record| record.tidy(now));
        if self.0.len() >= ADDRESSES_MAX {
            let oldest = self.0.iter().min_by_key(|(_, record)| record.last());
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.0.remove(&oldest);
            }
        }
    }
}

/// What one attacker has: an address of version 4, a network of 64 bits of version 6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        // Every program here has all addresses of the machine's own network.
        IpAddr::V4(address) if address.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn digest(n: usize) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_le_bytes());
        digest
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn five_different_wrong_passwords_in_a_minute_shut_an_address_out_for_a_minute() {
        let (mut attempts, start, bad) = (Attempts::default(), Instant::now(), ip("192.0.2.1"));
        for n in 0..4 {
            assert!(!attempts.wrong(bad, digest(n), start));
        }
        assert_eq!(attempts.standing(bad, &digest(9), start), Standing::Free);
        assert!(attempts.wrong(bad, digest(4), start + SECOND));
        let standing = attempts.standing(bad, &digest(9), start + SECOND * 31);
        assert_eq!(standing, Standing::ShutOut(SECOND * 30));
        assert!(!attempts.wrong(bad, digest(5), start + SECOND * 31), "said once");
        assert_eq!(attempts.standing(ip("192.0.2.2"), &digest(9), start), Standing::Free);
        assert_eq!(attempts.standing(bad, &digest(9), start + SECOND * 61), Standing::Free);
    }

    #[test]
    fn the_same_mistake_again_is_no_guess() {
        let (mut attempts, start, clumsy) = (Attempts::default(), Instant::now(), ip("::1"));
        for n in 0..100 {
            let now = start + SECOND * n;
            assert!(!attempts.wrong(clumsy, digest(1), now));
            assert_eq!(attempts.standing(clumsy, &digest(1), now), Standing::Known);
            assert_eq!(attempts.standing(clumsy, &digest(2), now), Standing::Free);
        }
    }

    #[test]
    fn slow_mistakes_are_forgiven() {
        let (mut attempts, start, slow) = (Attempts::default(), Instant::now(), ip("192.0.2.1"));
        for n in 0..100 {
            assert!(!attempts.wrong(slow, digest(n), start + SECOND * 16 * n as u32));
        }
    }

    #[test]
    fn a_network_of_one_holder_is_one_guesser_and_a_mapped_address_is_its_own_self() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..5 {
            attempts.wrong(ip(&format!("2001:db8:0:1::{n}")), digest(n), now);
            attempts.wrong(ip("::ffff:192.0.2.1"), digest(n), now);
        }
        let shut_out = Standing::ShutOut(WINDOW);
        assert_eq!(attempts.standing(ip("2001:db8:0:1:ffff::"), &digest(9), now), shut_out);
        assert_eq!(attempts.standing(ip("2001:db8:0:2::"), &digest(9), now), Standing::Free);
        assert_eq!(attempts.standing(ip("192.0.2.1"), &digest(9), now), shut_out);
        for n in 1..6 {
            attempts.wrong(ip(&format!("127.0.0.{n}")), digest(n), now);
        }
        assert_eq!(attempts.standing(ip("127.9.9.9"), &digest(9), now), shut_out, "this machine");
    }

    #[test]
    fn no_more_addresses_are_remembered_than_there_is_room_for() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let bad = ip("192.0.2.1");
        for n in 0..5 {
            attempts.wrong(bad, digest(n), start + SECOND);
        }
        for n in 0..(ADDRESSES_MAX as u32 * 2) {
            attempts.wrong(IpAddr::V4((0x0a00_0000 + n).into()), digest(1), start);
        }
        assert_eq!(attempts.0.len(), ADDRESSES_MAX);
        let standing = attempts.standing(bad, &digest(9), start + SECOND);
        assert_eq!(standing, Standing::ShutOut(WINDOW), "who is shut out stays so longest");
        attempts.wrong(ip("192.0.2.9"), digest(1), start + WINDOW * 2);
        assert_eq!(attempts.0.len(), 1, "the past is cleared away");
    }
}
