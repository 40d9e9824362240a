//! From a connection to a registered client: CAP, NICK, USER, and the welcome.

use irc::proto::{CapSubCommand, Command, Response};

use super::state::{SERVER, State, fold};
use crate::name::Nick;

/// Characters of the name a client gives itself in USER.
const USER_MAX_CHARS: usize = 16;
/// Characters of a real name.
const REALNAME_MAX_CHARS: usize = 128;

impl State {
    /// A command of a client that is not registered yet.
    pub(super) fn register(&mut self, id: u64, command: &Command) {
        match command {
            Command::CAP(_, sub, param, more) => {
                self.cap(id, *sub, more.as_deref().or(param.as_deref()));
            }
            Command::NICK(nick) => self.nick(id, nick),
            Command::USER(user, _, realname) => self.user(id, user, realname),
            Command::Raw(verb, params) if verb.eq_ignore_ascii_case("USER") => match &params[..] {
                [user, _, _, realname, ..] => self.user(id, user, realname),
                _ => self.need_more(id, "USER"),
            },
            Command::Raw(verb, _) if verb.eq_ignore_ascii_case("NICK") => self.no_nick(id),
            Command::PASS(_) | Command::PONG(..) => {}
            Command::PING(token, _) => self.pong(id, token),
            Command::QUIT(_) => self.close(id, "Quit"),
            _ => self.numeric(id, Response::ERR_NOTREGISTERED, ":You have not registered"),
        }
        self.welcome_if_complete(id);
    }

    /// Capabilities: there are none, and saying so is all a client needs.
    pub(super) fn cap(&mut self, id: u64, sub: CapSubCommand, wanted: Option<&str>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let nick = client.nick().to_owned();
        match sub {
            CapSubCommand::LS | CapSubCommand::LIST => {
                client.negotiating = !client.registered && sub == CapSubCommand::LS;
                self.send(id, format!(":{SERVER} CAP {nick} {} :", sub.to_str()));
            }
            CapSubCommand::REQ => {
                client.negotiating = !client.registered;
                let wanted = wanted.unwrap_or_default();
                self.send(id, format!(":{SERVER} CAP {nick} NAK :{wanted}"));
            }
            CapSubCommand::END => client.negotiating = false,
            _ => {}
        }
    }

    /// NICK, before and after registration.
    pub(super) fn nick(&mut self, id: u64, wanted: &str) {
        if Nick::parse(wanted).is_err() {
            let shown = if wanted.is_empty() { "*" } else { wanted };
            let rest = format!("{shown} :Erroneous nickname");
            return self.numeric(id, Response::ERR_ERRONEOUSNICKNAME, rest);
        }
        if self.nicks.get(&fold(wanted)).is_some_and(|&owner| owner != id) {
            let rest = format!("{wanted} :Nickname is already in use");
            return self.numeric(id, Response::ERR_NICKNAMEINUSE, rest);
        }
        let Some(client) = self.clients.get_mut(&id) else { return };
        let line = format!(":{} NICK :{wanted}", client.mask());
        let registered = client.registered;
        if let Some(old) = client.nick.replace(wanted.to_owned()) {
            self.nicks.remove(&fold(&old));
        }
        self.nicks.insert(fold(wanted), id);
        if registered {
            let mut told = self.neighbours(id);
            told.insert(id);
            told.into_iter().for_each(|other| self.send(other, line.clone()));
        }
    }

    pub(super) fn no_nick(&mut self, id: u64) {
        self.numeric(id, Response::ERR_NONICKNAMEGIVEN, ":No nickname given");
    }

    pub(super) fn need_more(&mut self, id: u64, verb: &str) {
        let rest = format!("{verb} :Not enough parameters");
        self.numeric(id, Response::ERR_NEEDMOREPARAMS, rest);
    }

    pub(super) fn pong(&mut self, id: u64, token: &str) {
        self.send(id, format!(":{SERVER} PONG {SERVER} :{token}"));
    }

    fn user(&mut self, id: u64, user: &str, realname: &str) {
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let name: String = user.chars().filter(plain).take(USER_MAX_CHARS).collect();
        if name.is_empty() {
            return self.need_more(id, "USER");
        }
        if let Some(client) = self.clients.get_mut(&id) {
            // The tilde says what it says everywhere: nobody has checked this name.
            client.user = Some(format!("~{name}"));
            client.realname = realname.chars().take(REALNAME_MAX_CHARS).collect();
        }
    }

    fn welcome_if_complete(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.registered || client.negotiating || client.nick.is_none() || client.user.is_none()
        {
            return;
        }
        client.registered = true;
        let mask = client.mask();
        let (network, started) = (self.network.clone(), self.started);
        let version = concat!("meshfs-", env!("CARGO_PKG_VERSION"));
        self.numeric(id, Response::RPL_WELCOME, format!(":Welcome to {network}, {mask}"));
        let host = format!(":Your host is {SERVER}, running {version}");
        self.numeric(id, Response::RPL_YOURHOST, host);
        let created =
            format!(":This server was started {}", started.strftime("%Y-%m-%d %H:%M:%SZ"));
        self.numeric(id, Response::RPL_CREATED, created);
        self.numeric(id, Response::RPL_MYINFO, format!("{SERVER} {version} i bnt"));
        let facts = format!(
            "NETWORK={network} CASEMAPPING=ascii CHANTYPES=# CHANMODES=b,,,nt PREFIX=(ov)@+ \
             NICKLEN=32 CHANNELLEN=64 TOPICLEN=300 AWAYLEN=200 MAXTARGETS=4 :are supported here"
        );
        self.numeric(id, Response::RPL_ISUPPORT, facts);
        self.motd(id);
    }

    pub(super) fn motd(&mut self, id: u64) {
        let home = self.home.clone();
        self.numeric(id, Response::RPL_MOTDSTART, format!(":- {SERVER}"));
        let lines = [
            "This is the IRC server of a meshfs hub.".to_owned(),
            format!("Announcements and snapshots are told in {home}: /join {home}"),
            "Say !help there to see what you can ask.".to_owned(),
        ];
        for line in lines {
            self.numeric(id, Response::RPL_MOTD, format!(":- {line}"));
        }
        self.numeric(id, Response::RPL_ENDOFMOTD, ":End of MOTD");
    }
}
