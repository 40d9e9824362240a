//! Who holds operator or voice in one channel, by what the server said and nothing else.
//!
//! Only members with a rank are kept, so the map is as small as the trust is.
//!
//! Invariants:
//! - Whoever is not known to hold a rank holds none: before NAMES is complete that is everybody.
//! - A rank never outlives the membership it was given to: part, kick, quit and rejoin end it.
//! - A nick change carries the rank along; the old nick keeps nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::isupport::{Isupport, ModeKind};

/// Members with a rank that are kept; the rest of a bigger crowd may do nothing.
const RANKED_MAX: usize = 4_096;

type Ranked = BTreeMap<Box<str>, BTreeSet<char>>;

/// What came of a MODE line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModeOutcome {
    /// Every letter was understood.
    Read,
    /// A letter was not; nobody holds a rank until NAMES has been asked again.
    Unreadable,
}

/// The ranked members of one channel.
#[derive(Clone, Debug, Default)]
pub(super) struct Authority {
    ranked: Ranked,
    /// The NAMES answer that is coming in, until its 366.
    incoming: Option<Ranked>,
}

impl Authority {
    /// We have just joined: nothing known from before counts.
    pub(super) fn joined(&mut self) {
        *self = Self::default();
    }

    /// One 353 line: the names after the channel.
    pub(super) fn names(&mut self, names: &str, isupport: &Isupport) {
        let incoming = self.incoming.get_or_insert_default();
        for name in names.split_ascii_whitespace() {
            let (ranks, rest) = isupport.ranked(name);
            let nick = rest.split('!').next().unwrap_or(rest);
            if !ranks.is_empty() && incoming.len() < RANKED_MAX {
                incoming.insert(isupport.fold(nick), ranks.chars().collect());
            }
        }
    }

    /// The 366 that ends NAMES: what it said replaces what was known.
    pub(super) fn names_end(&mut self) {
        self.ranked = self.incoming.take().unwrap_or_default();
    }

    /// Somebody joined anew, left or was thrown out.
    pub(super) fn gone(&mut self, nick: &str, isupport: &Isupport) {
        let nick = isupport.fold(nick);
        self.maps(|map| {
            map.remove(&nick);
        });
    }

    /// Somebody changed nick.
    pub(super) fn renamed(&mut self, from: &str, to: &str, isupport: &Isupport) {
        let (from, to) = (isupport.fold(from), isupport.fold(to));
        self.maps(|map| {
            let ranks = map.remove(&from);
            map.remove(&to);
            if let Some(ranks) = ranks {
                map.insert(to.clone(), ranks);
            }
        });
    }

    /// A MODE of the channel: its letters and their arguments.
    pub(super) fn mode(&mut self, params: &[String], isupport: &Isupport) -> ModeOutcome {
        let Some((letters, arguments)) = params.split_first() else { return ModeOutcome::Read };
        let mut arguments = arguments.iter();
        let mut set = true;
        for letter in letters.chars() {
            let kind = match letter {
                '+' | '-' => {
                    set = letter == '+';
                    continue;
                }
                other => isupport.mode(other),
            };
            let takes = matches!(kind, ModeKind::Rank | ModeKind::Argument)
                || (kind == ModeKind::ArgumentWhenSet && set);
            let argument = if takes { arguments.next() } else { None };
            match (kind, argument) {
                (ModeKind::Unknown, _) | (ModeKind::Rank, None) => {
                    self.joined();
                    return ModeOutcome::Unreadable;
                }
                (ModeKind::Rank, Some(nick)) => self.rank(nick, letter, set, isupport),
                _ => {}
            }
        }
        ModeOutcome::Read
    }

    /// Whether this nick is a channel operator, voiced, or of a rank between or above.
    pub(super) fn trusts(&self, nick: &str, isupport: &Isupport) -> bool {
        self.ranked.contains_key(&isupport.fold(nick))
    }

    fn rank(&mut self, nick: &str, letter: char, set: bool, isupport: &Isupport) {
        let nick = isupport.fold(nick);
        self.maps(|map| {
            if set && (map.len() < RANKED_MAX || map.contains_key(&nick)) {
                map.entry(nick.clone()).or_default().insert(letter);
            } else if let Some(ranks) = map.get_mut(&nick) {
                ranks.remove(&letter);
                if ranks.is_empty() {
                    map.remove(&nick);
                }
            }
        });
    }

    /// A change counts for what is known and for the NAMES answer under way.
    fn maps(&mut self, mut change: impl FnMut(&mut Ranked)) {
        change(&mut self.ranked);
        if let Some(incoming) = &mut self.incoming {
            change(incoming);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn isupport() -> Isupport {
        let mut isupport = Isupport::default();
        isupport.apply(&["PREFIX=(qaohv)~&@%+".into(), "CHANMODES=beI,k,Hl,imn".into()]);
        isupport
    }

    fn named(names: &str) -> Authority {
        let mut authority = Authority::default();
        authority.joined();
        authority.names(names, &isupport());
        authority.names_end();
        authority
    }

    fn mode(authority: &mut Authority, line: &str) -> ModeOutcome {
        let params: Vec<String> = line.split(' ').map(String::from).collect();
        authority.mode(&params, &isupport())
    }

    #[test]
    fn operators_and_voiced_are_trusted_and_nobody_else() {
        let authority = named("@op +voice %half ~@owner!o@h plain @Nick[x]");
        for nick in ["op", "VOICE", "half", "owner", "nick{X}"] {
            assert!(authority.trusts(nick, &isupport()), "{nick}");
        }
        for nick in ["plain", "@op", "stranger", ""] {
            assert!(!authority.trusts(nick, &isupport()), "{nick}");
        }
    }

    #[test]
    fn nobody_is_trusted_before_names_is_complete() {
        let mut authority = named("@op");
        authority.joined();
        authority.names("@op", &isupport());
        assert!(!authority.trusts("op", &isupport()));
        authority.names_end();
        assert!(authority.trusts("op", &isupport()));
    }

    #[test]
    fn a_rank_ends_with_the_membership() {
        let mut authority = named("@op");
        authority.gone("OP", &isupport());
        assert!(!authority.trusts("op", &isupport()));
        let mut authority = named("@op @bob");
        authority.names("bob", &isupport());
        authority.names_end();
        assert!(!authority.trusts("bob", &isupport()));
    }

    #[test]
    fn a_nick_change_carries_the_rank_and_leaves_none_behind() {
        let mut authority = named("@op +bob");
        authority.renamed("op", "Chief", &isupport());
        assert!(authority.trusts("chief", &isupport()) && !authority.trusts("op", &isupport()));
        authority.renamed("plain", "bob", &isupport());
        assert!(!authority.trusts("bob", &isupport()));
    }

    #[test]
    fn mode_gives_and_takes_ranks_past_other_arguments() {
        let mut authority = named("@alice");
        assert_eq!(mode(&mut authority, "+Hvk-o 10:1h bob secret alice"), ModeOutcome::Read);
        assert!(authority.trusts("bob", &isupport()) && !authority.trusts("alice", &isupport()));
        assert_eq!(mode(&mut authority, "-H+o alice"), ModeOutcome::Read);
        assert!(authority.trusts("alice", &isupport()));
        assert_eq!(mode(&mut authority, "+b *!*@evil"), ModeOutcome::Read);
        assert!(!authority.trusts("*!*@evil", &isupport()));
        mode(&mut authority, "+v alice");
        mode(&mut authority, "-o alice");
        assert!(authority.trusts("alice", &isupport()), "still voiced");
    }

    #[test]
    fn a_mode_that_cannot_be_read_ends_all_trust() {
        for line in ["+Zo x", "-o", "+X"] {
            let mut authority = named("@op");
            assert_eq!(mode(&mut authority, line), ModeOutcome::Unreadable);
            assert!(!authority.trusts("op", &isupport()), "{line}");
        }
    }

    #[test]
    fn a_change_during_names_is_not_undone_by_its_end() {
        let mut authority = Authority::default();
        authority.names("@op @bob", &isupport());
        mode(&mut authority, "-o bob");
        authority.gone("op", &isupport());
        authority.names_end();
        assert!(!authority.trusts("bob", &isupport()) && !authority.trusts("op", &isupport()));
    }

    #[test]
    fn the_map_is_bounded() {
        let mut authority = Authority::default();
        let crowd: String = (0..RANKED_MAX + 10).map(|i| format!("+n{i} ")).collect();
        authority.names(&crowd, &isupport());
        authority.names_end();
        mode(&mut authority, "+v late");
        assert_eq!(authority.ranked.len(), RANKED_MAX);
    }
}
