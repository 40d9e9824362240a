//! What people say: what is history, what is a command, and who may give it.

use irc::proto::{BatchSubCommand, Command, Message};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Action, Session, Speaker};
use crate::bridge::command::{NO_FLUSH, NO_REASON, Request};
use crate::bridge::line::{clean, shorten, strip};

/// Batches of history open at once; a server that opens more has lost its way.
const HISTORY_MAX: usize = 32;
/// Bytes of a CTCP PING that are given back.
const CTCP_MAX_CHARS: usize = 64;

impl Session {
    /// Remembers batches that replay history, those inside them included.
    pub(super) fn batch(&mut self, message: &Message) {
        let Command::BATCH(reference, kind, _) = &message.command else { return };
        if let Some(reference) = reference.strip_prefix('-') {
            self.history.remove(reference);
        } else if let Some(reference) = reference.strip_prefix('+') {
            let replays = match kind {
                Some(BatchSubCommand::CUSTOM(kind)) => {
                    let kind = kind.to_ascii_lowercase();
                    kind.contains("chathistory") || kind.contains("playback")
                }
                _ => false,
            };
            let inside = tag(message, "batch").is_some_and(|outer| self.history.contains(outer));
            if (replays || inside) && self.history.len() < HISTORY_MAX {
                self.history.insert(reference.to_owned());
            }
        }
    }

    /// A PRIVMSG.
    pub(super) fn hear(
        &mut self,
        message: &Message,
        target: &str,
        text: &str,
        now: Instant,
    ) -> Vec<Action> {
        let Some(nick) = message.source_nickname().map(str::to_owned) else { return Vec::new() };
        if self.is_me(&nick) {
            return Vec::new();
        }
        if let Some(ctcp) = text.strip_prefix('\x01') {
            return self.ctcp(&nick, target, ctcp.trim_end_matches('\x01'), now);
        }
        let mask = message.prefix.as_ref().map(ToString::to_string).unwrap_or_default();
        let Some(wanted) = self.membership.find(target, &self.isupport) else {
            return self.private(&nick, &mask, target, text, now);
        };
        let by = Speaker { channel: wanted.channel.clone(), nick, mask };
        let joined = (wanted.in_since(), wanted.joined_wall);
        if self.is_history(message, joined, now) {
            return Vec::new();
        }
        let said = Action::Said { by: by.clone(), text: strip(text) };
        let asked = Request::parse(text).and_then(|request| self.obey(by, request, now));
        [Some(said), asked].into_iter().flatten().collect()
    }

    /// Whether the server replays what was said before we came.
    fn is_history(
        &self,
        message: &Message,
        (in_since, joined_wall): (Option<Instant>, Option<Timestamp>),
        now: Instant,
    ) -> bool {
        let Some(in_since) = in_since else { return true };
        if tag(message, "batch").is_some_and(|batch| self.history.contains(batch)) {
            return true;
        }
        match (server_time(message), joined_wall) {
            (Some(said), Some(joined)) => said < joined,
            // Without times only a pause tells; the house server replays nothing.
            _ => !self.link.house && now < in_since + self.timing.quarantine,
        }
    }

    /// What to do about a command; `None` once somebody asks too often.
    fn obey(&mut self, by: Speaker, request: Request, now: Instant) -> Option<Action> {
        if !self.limit.allows(&self.person(&by.mask), now) {
            return None;
        }
        let target = by.channel.to_string();
        let reply = |text: String| Some(Action::Reply { target, text });
        match request {
            Request::Flush => reply(format!("{}: {NO_FLUSH}", by.nick)),
            Request::Snapshot(_) if !self.may_announce(&by) => reply(format!(
                "{}: only channel operators and voiced users may !snapshot here",
                by.nick
            )),
            Request::Snapshot(reason) if reason.is_empty() => {
                reply(format!("{}: {NO_REASON}", by.nick))
            }
            Request::Snapshot(reason) => Some(Action::Announce { by, reason }),
            request => Some(Action::Ask { by, request }),
        }
    }

    fn may_announce(&mut self, by: &Speaker) -> bool {
        let house = self.link.house;
        let wanted = self.membership.find(by.channel.as_str(), &self.isupport);
        house || wanted.is_some_and(|wanted| wanted.authority.trusts(&by.nick, &self.isupport))
    }

    /// A command outside a channel is not obeyed, but its sender is told where to give it.
    fn private(
        &mut self,
        nick: &str,
        mask: &str,
        target: &str,
        text: &str,
        now: Instant,
    ) -> Vec<Action> {
        let to_me = self.is_me(target) && Request::parse(text).is_some();
        if !to_me || !self.limit.allows(&self.person(mask), now) {
            return Vec::new();
        }
        let channels: Vec<_> = self.link.channels.iter().map(ToString::to_string).collect();
        let text = format!("I take commands in {} only", channels.join(", "));
        vec![Action::Reply { target: nick.to_owned(), text }]
    }

    /// Answers a few CTCP questions, to the sender alone and seldom: a question to a channel
    /// answered there would let anybody make us flood it.
    fn ctcp(&mut self, nick: &str, target: &str, ctcp: &str, now: Instant) -> Vec<Action> {
        if !self.is_me(target) || now < self.ctcp_from {
            return Vec::new();
        }
        let (verb, rest) = ctcp.split_once(' ').unwrap_or((ctcp, ""));
        let answer = match verb {
            "VERSION" => concat!("VERSION meshfs ", env!("CARGO_PKG_VERSION")).to_owned(),
            "PING" => format!("PING {}", shorten(&clean(rest), CTCP_MAX_CHARS)),
            _ => return Vec::new(),
        };
        self.ctcp_from = now + self.timing.ctcp;
        vec![Action::Write(format!("NOTICE {nick} :\x01{answer}\x01"))]
    }

    /// A person for the rate limit: the user and host, which a change of nick does not change. In
    /// the house all may be of one user on one host, so there it is all of the mask.
    fn person(&self, mask: &str) -> Box<str> {
        if self.link.house {
            return self.isupport.fold(mask);
        }
        self.isupport.fold(mask.split_once('!').map_or(mask, |(_, rest)| rest))
    }
}

/// When the server received the message.
pub(super) fn server_time(message: &Message) -> Option<Timestamp> {
    tag(message, "time")?.parse().ok()
}

fn tag<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let tags = message.tags.as_ref()?;
    tags.iter().find(|tag| tag.0 == name).and_then(|tag| tag.1.as_deref())
}
