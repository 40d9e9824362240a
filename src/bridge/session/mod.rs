//! One connection's side of the IRC protocol, from the first line to the last. Pure: lines and
//! times come in, [`Action`]s go out; the connection does the I/O.
//!
//! Invariants:
//! - Nothing is joined or said before the server has welcomed us.
//! - A command is obeyed only if somebody typed it in a wanted channel just now.

mod hear;
mod register;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use irc::proto::{Command, Message, Response};
use tokio::time::Instant;

use super::authority::ModeOutcome;
use super::command::Request;
use super::isupport::Isupport;
use super::limit::RateLimit;
use super::line::{clean, room};
use super::membership::Membership;
use super::{ConnectionError, Link, Timing};
use crate::name::Channel;

/// Prefix length to count with until the server has shown ours.
const PREFIX_GUESS_BYTES: usize = 100;
/// Bytes of a server's PING that are given back.
const TOKEN_MAX_BYTES: usize = 400;

/// Somebody who spoke in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Speaker {
    pub(super) channel: Channel,
    pub(super) nick: String,
    /// `nick!user@host`
    pub(super) mask: String,
}

/// What a line or a time leads to.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) enum Action {
    /// Write this line at once.
    Write(String),
    /// Answer with this text when the pace allows.
    Reply { target: String, text: String },
    /// Somebody who may announces this.
    Announce { by: Speaker, reason: String },
    /// Somebody asks something that the view answers.
    Ask { by: Speaker, request: Request },
    /// Somebody said something.
    Said { by: Speaker, text: String },
    /// The server has welcomed us.
    Welcomed,
    /// What we said to this channel was not passed on.
    Rejected(Channel),
    /// The server answered the PING with this number, or one that has lost it.
    Answered(Option<u64>),
    /// The connection is of no more use.
    End(ConnectionError),
}

/// The protocol state of one connection.
#[derive(Debug)]
pub(super) struct Session {
    link: Arc<Link>,
    timing: Timing,
    nick: String,
    nick_tries: u32,
    welcomed: bool,
    deadline: Instant,
    join_from: Option<Instant>,
    isupport: Isupport,
    pub(super) membership: Membership,
    prefix_bytes: usize,
    offered: BTreeSet<String>,
    server_time: bool,
    history: BTreeSet<String>,
    limit: RateLimit,
    ctcp_from: Instant,
    heard_at: Instant,
    asked_at: Option<Instant>,
    regain_at: Instant,
}

impl Session {
    pub(super) fn new(link: Arc<Link>, timing: Timing, now: Instant) -> Self {
        Self {
            nick: link.nick.to_string(),
            nick_tries: 0,
            welcomed: false,
            deadline: now + timing.registration,
            join_from: None,
            isupport: Isupport::default(),
            membership: Membership::new(&link.channels, &timing, now),
            prefix_bytes: PREFIX_GUESS_BYTES,
            offered: BTreeSet::new(),
            server_time: false,
            history: BTreeSet::new(),
            limit: RateLimit::default(),
            ctcp_from: now,
            heard_at: now,
            asked_at: None,
            regain_at: now + timing.regain,
            link,
            timing,
        }
    }

    /// Whether the server has welcomed us.
    pub(super) const fn is_welcomed(&self) -> bool {
        self.welcomed
    }

    /// The nick we have.
    pub(super) fn nick(&self) -> &str {
        &self.nick
    }

    /// Bytes of text for one line to a channel we may speak in.
    pub(super) fn room(&self, channel: &Channel, now: Instant) -> Option<usize> {
        let wanted = self.membership.iter().find(|wanted| &wanted.channel == channel)?;
        wanted.may_speak(now).then(|| self.room_for(channel.as_str()))
    }

    /// Bytes of text for one line to this target.
    pub(super) fn room_for(&self, target: &str) -> usize {
        room(self.prefix_bytes, target)
    }

    /// A PING left that the server has to answer.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked_at.get_or_insert(now);
    }

    /// When [`Session::tick`] has something to do.
    pub(super) fn due_at(&self) -> Instant {
        if !self.welcomed {
            return self.deadline;
        }
        let silence = match self.asked_at {
            Some(asked) => asked.max(self.heard_at) + self.timing.ping_answer,
            None => self.heard_at + self.timing.ping_idle,
        };
        let join = self.membership.due_at().zip(self.join_from).map(|(due, from)| due.max(from));
        let regain = (self.nick != self.link.nick.as_str()).then_some(self.regain_at);
        [join, regain, self.probe_limit()].into_iter().flatten().fold(silence, Instant::min)
    }

    /// A time has come.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Action> {
        if !self.welcomed {
            let late = self.deadline <= now;
            return late
                .then_some(Action::End(ConnectionError::Registration))
                .into_iter()
                .collect();
        }
        let mut actions = Vec::new();
        match self.asked_at {
            Some(asked) => {
                let silent = asked.max(self.heard_at) + self.timing.ping_answer <= now;
                if silent || self.probe_limit().is_some_and(|limit| limit <= now) {
                    return vec![Action::End(ConnectionError::Silent)];
                }
            }
            None if self.heard_at + self.timing.ping_idle <= now => {
                self.asked_at = Some(now);
                actions.push(Action::Write("PING :meshfs-0".to_owned()));
            }
            None => {}
        }
        if self.join_from.is_some_and(|from| from <= now) {
            actions.extend(self.membership.join(&self.timing, now).into_iter().map(Action::Write));
        }
        if self.nick != self.link.nick.as_str() && self.regain_at <= now {
            actions.push(self.regain(now));
        }
        actions
    }

    /// A server that talks but never answers a PING does not read what we write.
    fn probe_limit(&self) -> Option<Instant> {
        self.asked_at.map(|asked| asked + self.timing.ping_answer * 4)
    }

    fn regain(&mut self, now: Instant) -> Action {
        self.regain_at = now + self.timing.regain;
        Action::Write(format!("NICK {}", self.link.nick))
    }

    /// A line of the server; `None` for one that is none, which still shows that it lives.
    pub(super) fn receive(&mut self, message: Option<&Message>, now: Instant) -> Vec<Action> {
        self.heard_at = now;
        let Some(message) = message else { return Vec::new() };
        match &message.command {
            Command::PING(token, _) => {
                let token = clean(&token[..token.floor_char_boundary(TOKEN_MAX_BYTES)]);
                vec![Action::Write(format!("PONG :{token}"))]
            }
            Command::PONG(server, token) => {
                self.asked_at = None;
                let token = token.as_ref().unwrap_or(server);
                let number = token.strip_prefix("meshfs-").and_then(|number| number.parse().ok());
                vec![Action::Answered(number)]
            }
            Command::ERROR(text) => vec![Action::End(self.ended(text))],
            _ if !self.welcomed => self.register(message, now),
            Command::PRIVMSG(target, text) => self.hear(message, target, text, now),
            Command::BATCH(..) => {
                self.batch(message);
                Vec::new()
            }
            Command::Response(response, params) => self.numeric(*response, params, now),
            _ => self.channel_event(message, now),
        }
    }

    fn ended(&self, text: &str) -> ConnectionError {
        let text = super::line::shorten(&clean(text), 200);
        // ngircd answers a wrong password with nothing but this.
        let refused = !self.welcomed && text.to_ascii_lowercase().contains("denied");
        if refused { ConnectionError::Refused(text) } else { ConnectionError::Server(text) }
    }

    fn is_me(&self, nick: &str) -> bool {
        self.isupport.fold(nick) == self.isupport.fold(&self.nick)
    }

    fn numeric(&mut self, response: Response, params: &[String], now: Instant) -> Vec<Action> {
        use Response as R;
        match response {
            R::RPL_ISUPPORT => self.isupport.apply(params),
            R::RPL_ENDOFMOTD | R::ERR_NOMOTD => return self.ready(now),
            // Our host as others see it changed: the length of our prefix is unknown again.
            R::RPL_HOSTHIDDEN => self.prefix_bytes = self.prefix_bytes.max(PREFIX_GUESS_BYTES),
            R::RPL_NAMREPLY => {
                if let [.., channel, names] = params
                    && let Some(wanted) = self.membership.find(channel, &self.isupport)
                {
                    wanted.authority.names(names, &self.isupport);
                }
            }
            R::RPL_ENDOFNAMES => {
                if let Some(channel) = params.get(1)
                    && let Some(wanted) = self.membership.find(channel, &self.isupport)
                {
                    wanted.authority.names_end();
                }
            }
            R::ERR_CANNOTSENDTOCHAN | R::ERR_CHANOPRIVSNEEDED => return self.muted(params, now),
            // "You need a registered nick": to join, or, once we are in, to speak.
            R::ERR_NOCHANMODES if self.is_in(params) => return self.muted(params, now),
            R::ERR_NOTONCHANNEL
            | R::ERR_NOSUCHCHANNEL
            | R::ERR_TOOMANYCHANNELS
            | R::ERR_UNAVAILRESOURCE
            | R::ERR_CHANNELISFULL
            | R::ERR_INVITEONLYCHAN
            | R::ERR_BANNEDFROMCHAN
            | R::ERR_BADCHANNELKEY
            | R::ERR_BADCHANMASK
            | R::ERR_NOCHANMODES => return self.out(params, now),
            _ => {}
        }
        Vec::new()
    }

    fn is_in(&mut self, params: &[String]) -> bool {
        let wanted = params.get(1).and_then(|name| self.membership.find(name, &self.isupport));
        wanted.is_some_and(|wanted| wanted.in_since().is_some())
    }

    /// We may not speak in a channel: nothing is sent there until something changed.
    fn muted(&mut self, params: &[String], now: Instant) -> Vec<Action> {
        let Some(name) = params.get(1) else { return Vec::new() };
        let Some(wanted) = self.membership.find(name, &self.isupport) else { return Vec::new() };
        wanted.mute(now + self.timing.muted);
        vec![Action::Rejected(wanted.channel.clone())]
    }

    /// We are not, or not let into, a channel.
    fn out(&mut self, params: &[String], now: Instant) -> Vec<Action> {
        let Some(name) = params.get(1) else { return Vec::new() };
        let Some(wanted) = self.membership.find(name, &self.isupport) else { return Vec::new() };
        wanted.out(&self.timing, fastrand::f64(), now);
        vec![Action::Rejected(wanted.channel.clone())]
    }

    /// Somebody, perhaps we, came, went, was renamed or given a rank.
    fn channel_event(&mut self, message: &Message, now: Instant) -> Vec<Action> {
        let who = message.source_nickname().unwrap_or_default().to_owned();
        match &message.command {
            Command::JOIN(channel, ..) => return self.joined(message, &who, channel, now),
            Command::PART(channel, _) => self.left(&who, channel, now),
            Command::KICK(channel, nick, _) => self.left(nick, channel, now),
            Command::QUIT(_) => {
                for wanted in self.membership.iter_mut() {
                    wanted.authority.gone(&who, &self.isupport);
                }
                return self.nick_freed(&who, now);
            }
            Command::NICK(to) => {
                for wanted in self.membership.iter_mut() {
                    wanted.authority.renamed(&who, to, &self.isupport);
                }
                if self.is_me(&who) {
                    self.prefix_bytes = self.prefix_bytes.max(PREFIX_GUESS_BYTES);
                    self.nick.clone_from(to);
                } else {
                    return self.nick_freed(&who, now);
                }
            }
            Command::INVITE(nick, channel) if self.is_me(nick) => {
                if let Some(wanted) = self.membership.find(channel, &self.isupport) {
                    wanted.invited(now);
                }
            }
            Command::Raw(verb, params) if verb == "MODE" => return self.mode(params),
            // Some servers' own numeric for "cannot send to this channel".
            Command::Raw(verb, params) if verb == "531" => return self.muted(params, now),
            _ => {}
        }
        Vec::new()
    }

    /// The nick we want may be free now.
    fn nick_freed(&mut self, who: &str, now: Instant) -> Vec<Action> {
        let wanted = self.link.nick.as_str();
        let freed = self.nick != wanted && self.isupport.fold(who) == self.isupport.fold(wanted);
        freed.then(|| self.regain(now)).into_iter().collect()
    }

    fn joined(&mut self, message: &Message, who: &str, channel: &str, now: Instant) -> Vec<Action> {
        let me = self.is_me(who);
        let Some(wanted) = self.membership.find(channel, &self.isupport) else {
            // A server may move us to another channel than we asked for.
            let line = me.then(|| Action::Write(format!("PART {}", clean(channel))));
            return line.into_iter().collect();
        };
        if me {
            let mask = message.prefix.as_ref().map(ToString::to_string).unwrap_or_default();
            let known = mask.contains('@');
            self.prefix_bytes = if known { mask.len() } else { PREFIX_GUESS_BYTES };
            let time = hear::server_time(message).filter(|_| self.server_time);
            wanted.joined(now, time);
        } else {
            wanted.authority.gone(who, &self.isupport);
        }
        Vec::new()
    }

    fn left(&mut self, who: &str, channel: &str, now: Instant) {
        let me = self.is_me(who);
        if let Some(wanted) = self.membership.find(channel, &self.isupport) {
            if me {
                wanted.out(&self.timing, fastrand::f64(), now);
            } else {
                wanted.authority.gone(who, &self.isupport);
            }
        }
    }

    fn mode(&mut self, params: &[String]) -> Vec<Action> {
        let Some((target, change)) = params.split_first() else { return Vec::new() };
        let Some(wanted) = self.membership.find(target, &self.isupport) else { return Vec::new() };
        wanted.unmute();
        match wanted.authority.mode(change, &self.isupport) {
            ModeOutcome::Read => Vec::new(),
            ModeOutcome::Unreadable => {
                vec![Action::Write(format!("NAMES {}", wanted.channel))]
            }
        }
    }
}
