//! What a server says of itself in numeric 005, as far as the bridge leans on it.

use std::collections::BTreeMap;

/// Which letters a server takes for the same (005 `CASEMAPPING`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Casemapping {
    Ascii,
    Rfc1459,
    StrictRfc1459,
}

/// Whether a channel mode letter takes an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModeKind {
    /// Gives a member of the channel a rank; always with a nick.
    Rank,
    /// Always with an argument (lists and keys).
    Argument,
    /// With an argument only when it is set.
    ArgumentWhenSet,
    /// Never with an argument.
    Flag,
    /// The server never told us: what follows cannot be read.
    Unknown,
}

/// The facts of 005; the RFC's own values until the server has spoken.
#[derive(Clone, Debug)]
pub(super) struct Isupport {
    casemapping: Casemapping,
    ranks: Vec<(char, char)>,
    modes: BTreeMap<char, ModeKind>,
    /// Longest nick the server takes, in bytes.
    pub(super) nick_max_bytes: Option<usize>,
    /// The user mode that marks a bot.
    pub(super) bot: Option<char>,
}

impl Default for Isupport {
    fn default() -> Self {
        let mut isupport = Self {
            casemapping: Casemapping::Rfc1459,
            ranks: vec![('o', '@'), ('v', '+')],
            modes: BTreeMap::new(),
            nick_max_bytes: None,
            bot: None,
        };
        isupport.set_modes("b,k,l,imnpst");
        isupport
    }
}

impl Isupport {
    /// Takes in the parameters of one 005.
    pub(super) fn apply(&mut self, params: &[String]) {
        for param in params {
            let (key, value) = param.split_once('=').unwrap_or((param, ""));
            match key {
                "CASEMAPPING" => self.casemapping = casemapping(value),
                "PREFIX" => self.set_ranks(value),
                "CHANMODES" => self.set_modes(value),
                "NICKLEN" => self.nick_max_bytes = value.parse().ok().filter(|&bytes| bytes > 0),
                "BOT" => self.bot = value.chars().next().filter(char::is_ascii_alphabetic),
                _ => {}
            }
        }
    }

    /// The name as the server compares it.
    pub(super) fn fold(&self, name: &str) -> Box<str> {
        let fold = |c: char| match (c, self.casemapping) {
            ('[' | ']' | '\\', Casemapping::Rfc1459 | Casemapping::StrictRfc1459) => {
                char::from(c as u8 + 0x20)
            }
            ('~', Casemapping::Rfc1459) => '^',
            _ => c.to_ascii_lowercase(),
        };
        name.chars().map(fold).collect::<String>().into()
    }

    /// What the mode letter takes.
    pub(super) fn mode(&self, letter: char) -> ModeKind {
        if self.ranks.iter().any(|&(rank, _)| rank == letter) {
            return ModeKind::Rank;
        }
        self.modes.get(&letter).copied().unwrap_or(ModeKind::Unknown)
    }

    /// The rank letters before a nick in NAMES, and the nick.
    pub(super) fn ranked<'a>(&self, name: &'a str) -> (String, &'a str) {
        let rank = |c: char| self.ranks.iter().find(|&&(_, sign)| sign == c).map(|&(rank, _)| rank);
        let nick = name.trim_start_matches(|c| rank(c).is_some());
        (name[..name.len() - nick.len()].chars().filter_map(rank).collect(), nick)
    }

    fn set_ranks(&mut self, value: &str) {
        let parts = value.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        self.ranks = parts.map(|(r, s)| r.chars().zip(s.chars()).collect()).unwrap_or_default();
    }

    fn set_modes(&mut self, value: &str) {
        use ModeKind::{Argument, ArgumentWhenSet, Flag};
        let kinds = [Argument, Argument, ArgumentWhenSet, Flag];
        let letters = value.split(',').zip(kinds);
        self.modes = letters.flat_map(|(all, kind)| all.chars().map(move |c| (c, kind))).collect();
    }
}

fn casemapping(value: &str) -> Casemapping {
    match value {
        "rfc1459" => Casemapping::Rfc1459,
        "rfc1459-strict" | "strict-rfc1459" => Casemapping::StrictRfc1459,
        _ => Casemapping::Ascii,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(param: &str) -> Isupport {
        let mut isupport = Isupport::default();
        isupport.apply(&[param.into()]);
        isupport
    }

    #[test]
    fn names_are_compared_as_the_server_says() {
        assert_eq!(&*Isupport::default().fold("Bob[\\]~É"), "bob{|}^É");
        assert_eq!(&*told("CASEMAPPING=rfc1459-strict").fold("Bob[~"), "bob{~");
        assert_eq!(&*told("CASEMAPPING=ascii").fold("Bob[~"), "bob[~");
        assert_eq!(&*told("CASEMAPPING=new-one").fold("Bob["), "bob[");
    }

    #[test]
    fn ranks_are_read_off_a_name() {
        let isupport = told("PREFIX=(qohv)~@%+");
        assert_eq!(isupport.ranked("~@bob"), ("qo".into(), "bob"));
        assert_eq!(isupport.ranked("bob"), (String::new(), "bob"));
        assert_eq!(Isupport::default().ranked("~bob"), (String::new(), "~bob"));
        assert_eq!(told("PREFIX=").ranked("@bob"), (String::new(), "@bob"));
    }

    #[test]
    fn every_mode_letter_has_the_kind_the_server_gave_it() {
        let isupport = told("CHANMODES=be,k,lH,imn");
        let kinds = ['o', 'e', 'k', 'H', 'm', 'Z'].map(|letter| isupport.mode(letter));
        use ModeKind::*;
        assert_eq!(kinds, [Rank, Argument, Argument, ArgumentWhenSet, Flag, Unknown]);
    }
}
