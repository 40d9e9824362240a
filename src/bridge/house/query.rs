//! What a registered client asks: who is where, and what this server is.

use irc::proto::{Command, Response};

use super::state::{Client, SERVER, State, fold};

/// Bytes of names in one line of NAMES, ISON or USERHOST.
const NAMES_MAX_BYTES: usize = 400;
/// Nicks asked for at once.
const ASKED_MAX: usize = 16;

impl State {
    /// A command that only asks, or one that is not here.
    pub(super) fn query(&mut self, id: u64, command: &Command) {
        match command {
            Command::NAMES(Some(channels), _) => {
                channels.split(',').take(ASKED_MAX).for_each(|name| self.names(id, name));
            }
            Command::NAMES(None, _) => {
                self.numeric(id, Response::RPL_ENDOFNAMES, "* :End of /NAMES list");
            }
            Command::WHO(mask, _) => self.who(id, mask.as_deref().unwrap_or("*")),
            Command::WHOIS(_, nicks) => self.whois(id, nicks),
            Command::WHOWAS(nick, ..) => {
                self.no_nick_called(id, nick);
                self.numeric(id, Response::RPL_ENDOFWHOWAS, format!("{nick} :End of WHOWAS"));
            }
            Command::LIST(wanted, _) => self.list(id, wanted.as_deref()),
            Command::USERHOST(nicks) => self.present(id, nicks, Response::RPL_USERHOST, |client| {
                let here = if client.away.is_some() { '-' } else { '+' };
                format!("{}={here}{}@{}", client.nick(), client.user(), client.host)
            }),
            Command::MOTD(_) => self.motd(id),
            Command::LUSERS(..) => {
                let clients = self.nicks.len();
                let rest = format!(":There are {clients} users on 1 server");
                self.numeric(id, Response::RPL_LUSERCLIENT, rest);
            }
            Command::VERSION(_) => {
                let rest = concat!("meshfs-", env!("CARGO_PKG_VERSION"), " house.meshfs :");
                self.numeric(id, Response::RPL_VERSION, rest);
            }
            Command::TIME(_) => {
                let rest = format!("{SERVER} :{:.0}", jiff::Timestamp::now());
                self.numeric(id, Response::RPL_TIME, rest);
            }
            Command::Raw(verb, params) => self.raw(id, &verb.to_ascii_uppercase(), params),
            other => {
                let line = String::from(other);
                self.unknown(id, line.split(' ').next().unwrap_or_default());
            }
        }
    }

    /// Commands the crate leaves as they came: MODE on purpose, others for want of parameters.
    fn raw(&mut self, id: u64, verb: &str, params: &[String]) {
        match (verb, params) {
            ("MODE", [target, rest @ ..]) => self.mode(id, target, rest),
            ("ISON", nicks) => {
                self.present(id, nicks, Response::RPL_ISON, |client| client.nick().to_owned());
            }
            ("WHO", [mask, ..]) => self.who(id, mask),
            ("NICK", []) => self.no_nick(id),
            ("MODE" | "JOIN" | "PART" | "PRIVMSG" | "NOTICE" | "TOPIC" | "WHOIS" | "PING", _) => {
                self.need_more(id, verb);
            }
            _ => self.unknown(id, verb),
        }
    }

    fn unknown(&mut self, id: u64, verb: &str) {
        self.numeric(id, Response::ERR_UNKNOWNCOMMAND, format!("{verb} :Unknown command"));
    }

    pub(super) fn names(&mut self, id: u64, name: &str) {
        let (name, members) = match self.rooms.get(&fold(name)) {
            Some(room) => (room.name.clone(), room.members.clone()),
            None => (name.to_owned(), std::collections::BTreeSet::new()),
        };
        let nicks = members.iter().filter_map(|member| self.clients.get(member));
        let nicks: Vec<String> = nicks.map(|client| client.nick().to_owned()).collect();
        for line in packed(&nicks) {
            self.numeric(id, Response::RPL_NAMREPLY, format!("= {name} :{line}"));
        }
        self.numeric(id, Response::RPL_ENDOFNAMES, format!("{name} :End of /NAMES list"));
    }

    fn who(&mut self, id: u64, mask: &str) {
        let folded = fold(mask);
        let (name, asked) = match self.rooms.get(&folded) {
            Some(room) => (room.name.clone(), room.members.iter().copied().collect()),
            None => {
                let found: Vec<u64> = self.nicks.get(&folded).copied().into_iter().collect();
                ("*".to_owned(), found)
            }
        };
        let asked = asked.iter().filter_map(|asked| self.clients.get(asked));
        let replies = asked.map(|client| {
            let here = if client.away.is_some() { 'G' } else { 'H' };
            let Client { host, realname, .. } = client;
            let (user, nick) = (client.user(), client.nick());
            format!("{name} {user} {host} {SERVER} {nick} {here} :0 {realname}")
        });
        let replies: Vec<String> = replies.collect();
        replies.iter().for_each(|reply| self.numeric(id, Response::RPL_WHOREPLY, reply));
        self.numeric(id, Response::RPL_ENDOFWHO, format!("{mask} :End of /WHO list"));
    }

    fn whois(&mut self, id: u64, nicks: &str) {
        for nick in nicks.split(',').filter(|nick| !nick.is_empty()).take(ASKED_MAX) {
            let found = self.nicks.get(&fold(nick)).and_then(|client| self.clients.get(client));
            match found.map(|client| self.described(client)) {
                None => self.no_nick_called(id, nick),
                Some(replies) => replies
                    .into_iter()
                    .for_each(|(response, rest)| self.numeric(id, response, rest)),
            }
            self.numeric(id, Response::RPL_ENDOFWHOIS, format!("{nick} :End of /WHOIS list"));
        }
    }

    fn described(&self, client: &Client) -> Vec<(Response, String)> {
        let rooms = client.channels.iter().filter_map(|room| self.rooms.get(room));
        let rooms: Vec<&str> = rooms.map(|room| room.name.as_str()).collect();
        let Client { host, realname, since, .. } = client;
        let (nick, user) = (client.nick(), client.user());
        let mut replies = vec![
            (Response::RPL_WHOISUSER, format!("{nick} {user} {host} * :{realname}")),
            (Response::RPL_WHOISCHANNELS, format!("{nick} :{}", rooms.join(" "))),
            (Response::RPL_WHOISSERVER, format!("{nick} {SERVER} :{}", self.network)),
        ];
        if let Some(away) = &client.away {
            replies.push((Response::RPL_AWAY, format!("{nick} :{away}")));
        }
        let signon = format!("{nick} 0 {} :seconds idle, signon time", since.as_second());
        replies.push((Response::RPL_WHOISIDLE, signon));
        replies
    }

    fn list(&mut self, id: u64, wanted: Option<&str>) {
        let wanted: Option<Vec<_>> =
            wanted.map(|names| names.split(',').take(ASKED_MAX).map(fold).collect());
        let asked = |folded: &str| {
            wanted.as_ref().is_none_or(|names| names.iter().any(|name| **name == *folded))
        };
        let rooms = self.rooms.iter().filter(|(folded, _)| asked(folded)).map(|(_, room)| {
            let topic = room.topic.as_ref().map_or("", |topic| &topic.text);
            format!("{} {} :{topic}", room.name, room.members.len())
        });
        let rooms: Vec<String> = rooms.collect();
        self.numeric(id, Response::RPL_LISTSTART, "Channel :Users Name");
        rooms.iter().for_each(|room| self.numeric(id, Response::RPL_LIST, room));
        self.numeric(id, Response::RPL_LISTEND, ":End of /LIST");
    }

    fn present(
        &mut self,
        id: u64,
        nicks: &[String],
        response: Response,
        show: impl Fn(&Client) -> String,
    ) {
        let asked = nicks.iter().flat_map(|nicks| nicks.split(' ')).take(ASKED_MAX);
        let found = asked.filter_map(|nick| self.clients.get(self.nicks.get(&fold(nick))?));
        let found: Vec<String> = found.map(show).collect();
        let line = packed(&found).into_iter().next().unwrap_or_default();
        self.numeric(id, response, format!(":{line}"));
    }

    /// MODE: what is asked is answered, what would be changed is refused; nobody is operator here.
    fn mode(&mut self, id: u64, target: &str, change: &[String]) {
        if let Some(room) = self.rooms.get(&fold(target)) {
            let name = room.name.clone();
            match change.first().map(|change| change.trim_start_matches('+')) {
                None => self.numeric(id, Response::RPL_CHANNELMODEIS, format!("{name} +nt")),
                Some("b") if change.len() == 1 => {
                    let rest = format!("{name} :End of channel ban list");
                    self.numeric(id, Response::RPL_ENDOFBANLIST, rest);
                }
                Some(_) => {
                    let rest = format!("{name} :There are no channel operators here");
                    self.numeric(id, Response::ERR_CHANOPRIVSNEEDED, rest);
                }
            }
            return;
        }
        match self.nicks.get(&fold(target)) {
            Some(&owner) if owner == id => self.own_mode(id, change.first().map(String::as_str)),
            Some(_) => {
                self.numeric(id, Response::ERR_USERSDONTMATCH, ":That is not your own nick");
            }
            None if target.starts_with('#') => self.no_channel(id, target),
            None => self.no_nick_called(id, target),
        }
    }

    fn own_mode(&mut self, id: u64, change: Option<&str>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let before = client.invisible;
        match change {
            Some(change) => {
                if let Some(at) = change.rfind('i') {
                    client.invisible = !change[..at].contains('-');
                }
                if client.invisible != before {
                    let (mask, nick) = (client.mask(), client.nick().to_owned());
                    let sign = if client.invisible { '+' } else { '-' };
                    self.send(id, format!(":{mask} MODE {nick} :{sign}i"));
                }
            }
            None => {
                let modes = if before { "+i" } else { "+" };
                self.numeric(id, Response::RPL_UMODEIS, modes);
            }
        }
    }
}

/// Words in as few lines as hold them.
fn packed(words: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < NAMES_MAX_BYTES => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines
}
