//! Passwords: kept as argon2id, in the PHC string format.

use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::{Output, PasswordHash};
use argon2::{Algorithm, Argon2, Block, Params, Version};

/// Longest password in bytes.
pub(super) const PASSWORD_MAX_BYTES: usize = 1024;
/// Shortest password in characters.
const PASSWORD_MIN_CHARS: usize = 8;
/// The most that checking one password may cost: whoever writes more has mistyped it, and the hub
/// would spend it on every attempt of a stranger.
const MEMORY_MAX_KIB: u32 = 256 << 10;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 8;
/// Blocks of a kilobyte that are reserved, though fewer are used: the C library hands memory of
/// more than 32 MiB back to the system, and keeps smaller pieces for each thread that had one.
const BLOCKS_RESERVED: usize = 34 << 10;

/// A password as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hashed(Box<str>);

impl std::fmt::Debug for Hashed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hashed(…)")
    }
}

impl Hashed {
    /// Checks a text; the error does not repeat it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let way_out = "`meshfs user passwd` writes it";
        let bad = |why: &dyn std::fmt::Display| {
            format!("not an argon2id password hash ({why}); {way_out}")
        };
        let hash = PasswordHash::new(text).map_err(|e| bad(&e))?;
        if hash.algorithm.as_str() != Algorithm::Argon2id.as_str() {
            return Err(bad(&"another algorithm"));
        }
        if hash.hash.is_none() || hash.salt.is_none() {
            return Err(bad(&"no salt or no hash"));
        }
        let cost = Params::try_from(&hash).map_err(|e| bad(&e))?;
        if cost.m_cost() > MEMORY_MAX_KIB || cost.t_cost() > PASSES_MAX || cost.p_cost() > LANES_MAX
        {
            let most = format!("at most m={MEMORY_MAX_KIB},t={PASSES_MAX},p={LANES_MAX}");
            return Err(format!("costs too much to check ({most}); {way_out}"));
        }
        Ok(Self(text.into()))
    }

    /// Makes a hash with a fresh salt and the crate's parameters (OWASP's: 19 MiB, 2 passes).
    pub(super) fn make(password: &str) -> Result<Self, String> {
        if password.chars().count() < PASSWORD_MIN_CHARS {
            return Err(format!("a password has at least {PASSWORD_MIN_CHARS} characters"));
        }
        if password.len() > PASSWORD_MAX_BYTES {
            return Err(format!("a password has at most {PASSWORD_MAX_BYTES} bytes"));
        }
        let hash = Argon2::default().hash_password(password.as_bytes());
        hash.map(|hash| Self(hash.to_string().into())).map_err(|e| e.to_string())
    }

    /// True for the password it was made of. Takes tens of milliseconds and as many megabytes.
    pub(super) fn fits(&self, password: &[u8]) -> bool {
        self.computed(password).is_some_and(|(computed, kept)| computed == kept)
    }

    /// The hash of another password under the same salt and cost, and the one that is kept.
    fn computed(&self, password: &[u8]) -> Option<(Output, Output)> {
        let hash = PasswordHash::new(&self.0).ok()?;
        let (kept, salt) = (hash.hash?, hash.salt?);
        let cost = Params::try_from(&hash).ok()?;
        let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
        let mut blocks = Vec::with_capacity(BLOCKS_RESERVED.max(cost.block_count()));
        blocks.resize(cost.block_count(), Block::default());
        let mut bytes = [0; Output::MAX_LENGTH];
        let bytes = bytes.get_mut(..kept.len())?;
        Argon2::new(Algorithm::Argon2id, version, cost)
            .hash_password_into_with_memory(password, &salt, bytes, &mut blocks)
            .ok()?;
        // The comparison of two outputs takes the same time wherever they differ.
        Some((Output::new(bytes).ok()?, kept))
    }

    /// The text to keep.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_only() {
        let hashed = Hashed::make("correct horse").unwrap();
        assert!(hashed.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(hashed.fits(b"correct horse"));
        for wrong in [&b"correct horsf"[..], b"", b"correct horse ", b"\xff\0"] {
            assert!(!hashed.fits(wrong));
        }
        assert_ne!(hashed, Hashed::make("correct horse").unwrap(), "the salt is fresh");
        assert_eq!(Hashed::parse(hashed.as_str()), Ok(hashed.clone()));
        assert!(!format!("{hashed:?}").contains("argon2"), "it is a secret");
    }

    #[test]
    fn what_is_no_password_or_no_hash_is_refused_without_being_repeated() {
        assert!(Hashed::make("short").is_err());
        assert!(Hashed::make(&"x".repeat(1025)).is_err());
        let salted = "$c29tZXNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaA";
        for (bad, why) in [
            ("plain text", "not an argon2id"),
            ("$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaA", "another"),
            ("$argon2id$v=19$m=19456,t=2,p=1", "no salt"),
            (&format!("$argon2id$v=19$m=4194304,t=2,p=1{salted}"), "too much"),
            (&format!("$argon2id$v=19$m=19456,t=1000,p=1{salted}"), "too much"),
        ] {
            let error = Hashed::parse(bad).unwrap_err();
            assert!(error.contains(why) && error.contains("passwd"), "{error}");
            assert!(!error.contains("aGFzaGhh") && !error.contains("plain"), "{error}");
        }
    }
}
