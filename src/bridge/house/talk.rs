//! What a registered client does: join, part, speak, set a topic, leave.

use irc::proto::{Command, Response};
use jiff::Timestamp;

use super::state::{Room, RoomTopic, State, fold};
use crate::name::Channel;

/// Targets of one PRIVMSG or NOTICE, channels of one JOIN or PART.
const TARGETS_MAX: usize = 4;
/// Characters of a topic, of an away text, of a part or quit text.
const TEXT_MAX_CHARS: usize = 300;

impl State {
    /// A command of a registered client.
    pub(super) fn talk(&mut self, id: u64, command: &Command) {
        match command {
            Command::JOIN(channels, ..) if channels == "0" => self.part_all(id),
            Command::JOIN(channels, ..) => self.each(channels, |state, name| state.join(id, name)),
            Command::PART(channels, why) => {
                let why = short(why.as_deref().unwrap_or_default());
                self.each(channels, |state, name| state.part(id, name, &why));
            }
            Command::PRIVMSG(targets, text) => self.say(id, "PRIVMSG", targets, text),
            Command::NOTICE(targets, text) => self.say(id, "NOTICE", targets, text),
            Command::TOPIC(channel, text) => self.topic(id, channel, text.as_deref()),
            Command::NICK(nick) => self.nick(id, nick),
            Command::AWAY(text) => self.away(id, text.as_deref()),
            Command::CAP(_, sub, param, more) => {
                self.cap(id, *sub, more.as_deref().or(param.as_deref()));
            }
            Command::USER(..) | Command::PASS(_) => {
                self.numeric(id, Response::ERR_ALREADYREGISTRED, ":You are registered already");
            }
            Command::QUIT(why) => {
                let why = format!("Quit: {}", short(why.as_deref().unwrap_or_default()));
                self.close(id, why.trim_end_matches([':', ' ']));
            }
            Command::PING(token, _) => self.pong(id, token),
            Command::PONG(..) => {}
            other => self.query(id, other),
        }
    }

    /// Does something for each name of a comma list, as far as the bound goes.
    fn each(&mut self, names: &str, mut act: impl FnMut(&mut Self, &str)) {
        names.split(',').filter(|name| !name.is_empty()).take(TARGETS_MAX).for_each(|name| {
            act(self, name);
        });
    }

    fn join(&mut self, id: u64, name: &str) {
        let folded = fold(name);
        let Some(client) = self.clients.get(&id) else { return };
        if client.channels.contains(&folded) {
            return;
        }
        if client.channels.len() >= self.limits.channels_per_client {
            let rest = format!("{name} :You are in too many channels");
            return self.numeric(id, Response::ERR_TOOMANYCHANNELS, rest);
        }
        let mask = client.mask();
        if !self.rooms.contains_key(&folded) {
            if Channel::parse(name).is_err() {
                return self.no_channel(id, name);
            }
            if self.rooms.len() >= self.limits.channels_max {
                let rest = format!("{name} :There are too many channels");
                return self.numeric(id, Response::ERR_TOOMANYCHANNELS, rest);
            }
            let room = Room {
                name: name.to_owned(),
                topic: None,
                members: std::collections::BTreeSet::new(),
                permanent: false,
            };
            self.rooms.insert(folded.clone(), room);
        }
        let Some(room) = self.rooms.get_mut(&folded) else { return };
        room.members.insert(id);
        let name = room.name.clone();
        let has_topic = room.topic.is_some();
        if let Some(client) = self.clients.get_mut(&id) {
            client.channels.insert(folded.clone());
        }
        self.send_room(&folded, &format!(":{mask} JOIN {name}"), None);
        if has_topic {
            self.tell_topic(id, &folded);
        }
        self.names(id, &name);
    }

    fn part(&mut self, id: u64, name: &str, why: &str) {
        let folded = fold(name);
        let Some(name) = self.member_of(id, &folded, name) else { return };
        let Some(client) = self.clients.get(&id) else { return };
        let line = format!(":{} PART {name} :{why}", client.mask());
        self.send_room(&folded, &line, None);
        self.leave(id, &folded);
    }

    fn part_all(&mut self, id: u64) {
        let Some(client) = self.clients.get(&id) else { return };
        let channels: Vec<_> = client.channels.iter().cloned().collect();
        channels.iter().for_each(|name| self.part(id, name, ""));
    }

    fn say(&mut self, id: u64, verb: &str, targets: &str, text: &str) {
        if text.is_empty() {
            if verb == "PRIVMSG" {
                self.numeric(id, Response::ERR_NOTEXTTOSEND, ":No text to send");
            }
            return;
        }
        self.each(targets, |state, target| state.say_to(id, verb, target, text));
    }

    /// One message to one target. A NOTICE is never answered, so that two programs cannot
    /// send each other errors for ever.
    fn say_to(&mut self, id: u64, verb: &str, target: &str, text: &str) {
        let Some(client) = self.clients.get(&id) else { return };
        let (mask, folded, speaks) = (client.mask(), fold(target), verb == "PRIVMSG");
        let line = format!(":{mask} {verb} {target} :{text}");
        if client.channels.contains(&folded) {
            return self.send_room(&folded, &line, Some(id));
        }
        match self.nicks.get(&folded).copied().filter(|&to| self.is_registered(to)) {
            Some(to) => {
                let away = self.clients.get(&to).and_then(|client| client.away.clone());
                self.send(to, line);
                if let Some(away) = away.filter(|_| speaks) {
                    self.numeric(id, Response::RPL_AWAY, format!("{target} :{away}"));
                }
            }
            None if !speaks => {}
            None if self.rooms.contains_key(&folded) => {
                let rest = format!("{target} :Cannot send to channel, join it first");
                self.numeric(id, Response::ERR_CANNOTSENDTOCHAN, rest);
            }
            None if target.starts_with('#') => self.no_channel(id, target),
            None => self.no_nick_called(id, target),
        }
    }

    fn topic(&mut self, id: u64, name: &str, text: Option<&str>) {
        let folded = fold(name);
        let Some(name) = self.member_of(id, &folded, name) else { return };
        let Some(text) = text else { return self.tell_topic(id, &folded) };
        let Some(client) = self.clients.get(&id) else { return };
        let mask = client.mask();
        let text = short(text);
        let line = format!(":{mask} TOPIC {name} :{text}");
        if let Some(room) = self.rooms.get_mut(&folded) {
            let topic = RoomTopic { text, by: mask, at: Timestamp::now() };
            room.topic = (!topic.text.is_empty()).then_some(topic);
        }
        self.send_room(&folded, &line, None);
    }

    fn tell_topic(&mut self, id: u64, folded: &str) {
        let Some(room) = self.rooms.get(folded) else { return };
        let name = room.name.clone();
        match &room.topic {
            None => self.numeric(id, Response::RPL_NOTOPIC, format!("{name} :No topic is set")),
            Some(RoomTopic { text, by, at }) => {
                let who = format!("{name} {by} {}", at.as_second());
                let text = format!("{name} :{text}");
                self.numeric(id, Response::RPL_TOPIC, text);
                self.numeric(id, Response::RPL_TOPICWHOTIME, who);
            }
        }
    }

    fn away(&mut self, id: u64, text: Option<&str>) {
        let away = text.filter(|text| !text.is_empty()).map(short);
        let set = away.is_some();
        if let Some(client) = self.clients.get_mut(&id) {
            client.away = away;
        }
        if set {
            self.numeric(id, Response::RPL_NOWAWAY, ":You are marked as away");
        } else {
            self.numeric(id, Response::RPL_UNAWAY, ":You are no longer marked as away");
        }
    }

    /// The channel's own spelling if the client is in it; else the client is told.
    fn member_of(&mut self, id: u64, folded: &str, name: &str) -> Option<String> {
        match self.rooms.get(folded) {
            Some(room) if room.members.contains(&id) => return Some(room.name.clone()),
            Some(_) => {
                let rest = format!("{name} :You are not in that channel");
                self.numeric(id, Response::ERR_NOTONCHANNEL, rest);
            }
            None => self.no_channel(id, name),
        }
        None
    }

    pub(super) fn no_channel(&mut self, id: u64, name: &str) {
        self.numeric(id, Response::ERR_NOSUCHCHANNEL, format!("{name} :No such channel"));
    }

    pub(super) fn no_nick_called(&mut self, id: u64, name: &str) {
        self.numeric(id, Response::ERR_NOSUCHNICK, format!("{name} :No such nick or channel"));
    }
}

fn short(text: &str) -> String {
    text.chars().take(TEXT_MAX_CHARS).collect()
}
