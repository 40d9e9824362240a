//! From the first line to the welcome: password, capabilities, nick.

use irc::proto::{CapSubCommand, Command, Message, Response};
use tokio::time::Instant;

use super::{Action, Session};
use crate::bridge::ConnectionError;
use crate::bridge::line::{clean, shorten};

/// What we can use: both mark replayed history, the last shows all ranks in NAMES.
const CAPABILITIES: [&str; 3] = ["batch", "server-time", "multi-prefix"];
/// Capabilities of one offer that are looked at.
const OFFERED_MAX: usize = 200;
/// Nicks tried before the connection is given up.
const NICK_TRIES_MAX: u32 = 8;
/// The shortest limit a server has for nicks.
const NICK_SURE_BYTES: usize = 9;

impl Session {
    /// The lines that open a connection.
    pub(in crate::bridge) fn open(&self) -> Vec<String> {
        let mut lines = vec!["CAP LS 302".to_owned()];
        if let Some(password) = &self.link.password {
            lines.insert(0, format!("PASS :{}", clean(password)));
        }
        lines.push(format!("NICK {}", self.nick));
        lines.push("USER meshfs 0 * :meshfs hub, say !help".to_owned());
        lines
    }

    pub(super) fn register(&mut self, message: &Message, now: Instant) -> Vec<Action> {
        use Response as R;
        match &message.command {
            Command::CAP(_, sub, param, more) => {
                self.capabilities(*sub, param.as_deref(), more.as_deref())
            }
            Command::Response(R::RPL_WELCOME, params) => self.welcome(params, now),
            Command::Response(
                R::ERR_NICKNAMEINUSE
                | R::ERR_ERRONEOUSNICKNAME
                | R::ERR_NICKCOLLISION
                | R::ERR_UNAVAILRESOURCE,
                _,
            ) => vec![self.next_nick()],
            Command::Response(
                R::ERR_PASSWDMISMATCH | R::ERR_YOUREBANNEDCREEP | R::ERR_NOPERMFORHOST,
                params,
            ) => {
                let why = params.last().map(|why| shorten(&clean(why), 200)).unwrap_or_default();
                vec![Action::End(ConnectionError::Refused(why))]
            }
            _ => Vec::new(),
        }
    }

    /// Asks for what is offered and of use; a server refuses a whole request for one unknown name.
    fn capabilities(
        &mut self,
        sub: CapSubCommand,
        param: Option<&str>,
        more: Option<&str>,
    ) -> Vec<Action> {
        let list = more.or(param).unwrap_or_default();
        match sub {
            CapSubCommand::LS => {
                let names = list.split(' ').filter_map(|offer| offer.split('=').next());
                for name in names.take(OFFERED_MAX) {
                    if CAPABILITIES.contains(&name) {
                        self.offered.insert(name.to_owned());
                    }
                }
                if more.is_some() && param == Some("*") {
                    return Vec::new(); // the list goes on in another line
                }
                if self.offered.is_empty() {
                    return vec![Action::Write("CAP END".to_owned())];
                }
                let wanted: Vec<&str> = self.offered.iter().map(String::as_str).collect();
                vec![Action::Write(format!("CAP REQ :{}", wanted.join(" ")))]
            }
            CapSubCommand::ACK => {
                self.server_time = list.split(' ').any(|name| name == "server-time");
                vec![Action::Write("CAP END".to_owned())]
            }
            CapSubCommand::NAK => vec![Action::Write("CAP END".to_owned())],
            _ => Vec::new(),
        }
    }

    fn welcome(&mut self, params: &[String], now: Instant) -> Vec<Action> {
        if let Some(nick) = params.first().filter(|nick| !nick.is_empty()) {
            self.nick.clone_from(nick);
        }
        self.welcomed = true;
        // What follows the welcome tells what the server understands; joins wait for its end.
        self.join_from = Some(now + self.timing.motd);
        self.regain_at = now + self.timing.regain;
        vec![Action::Welcomed]
    }

    /// The server has said all it says at the start.
    pub(super) fn ready(&mut self, now: Instant) -> Vec<Action> {
        let waiting = self.join_from.is_some_and(|from| from > now);
        if !waiting {
            return Vec::new();
        }
        self.join_from = Some(now);
        let bot = self.isupport.bot.map(|bot| Action::Write(format!("MODE {} +{bot}", self.nick)));
        let joins = self.membership.join(&self.timing, now).into_iter().map(Action::Write);
        bot.into_iter().chain(joins).collect()
    }

    /// Another nick: first with `_`, then one that every server's limit lets through.
    fn next_nick(&mut self) -> Action {
        self.nick_tries += 1;
        if self.nick_tries > NICK_TRIES_MAX {
            return Action::End(ConnectionError::Nick(self.link.nick.to_string()));
        }
        let wanted = self.link.nick.as_str();
        self.nick = if self.nick_tries <= 2 {
            format!("{wanted}{}", "_".repeat(self.nick_tries as usize))
        } else {
            let keep = wanted.len().min(NICK_SURE_BYTES - 3);
            format!("{}{:03}", &wanted[..keep], fastrand::u16(0..1_000))
        };
        Action::Write(format!("NICK {}", self.nick))
    }
}
