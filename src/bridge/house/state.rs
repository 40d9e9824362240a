//! Who is connected, who is where, and how a line reaches them. No I/O: lines go into the
//! clients' bounded queues, and letting go of a queue is what ends a client.
//!
//! Invariants:
//! - A nick belongs to at most one client, compared without ASCII case.
//! - A client is a member exactly of the channels that list it.
//! - A client whose queue is full is gone before the next command is looked at.

use std::collections::{BTreeMap, BTreeSet};

use irc::proto::Response;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::warn;

use super::HouseLimits;
use crate::bridge::line::{WIRE_MAX_BYTES, parse};
use crate::name::{Channel, NetworkName};

/// The server's own name in prefixes; the dot tells it from a nick.
pub(super) const SERVER: &str = "house.meshfs";

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) nick: Option<String>,
    pub(super) user: Option<String>,
    pub(super) realname: String,
    pub(super) host: String,
    /// It has asked for capabilities and not said CAP END.
    pub(super) negotiating: bool,
    pub(super) registered: bool,
    pub(super) invisible: bool,
    pub(super) away: Option<String>,
    pub(super) since: Timestamp,
    pub(super) channels: BTreeSet<Box<str>>,
    out: mpsc::Sender<String>,
}

impl Client {
    /// The nick, or `*` before there is one.
    pub(super) fn nick(&self) -> &str {
        self.nick.as_deref().unwrap_or("*")
    }

    pub(super) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("unknown")
    }

    pub(super) fn mask(&self) -> String {
        format!("{}!{}@{}", self.nick(), self.user(), self.host)
    }
}

/// A channel with at least one member, or the configured one.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: String,
    pub(super) topic: Option<RoomTopic>,
    pub(super) members: BTreeSet<u64>,
    pub(super) permanent: bool,
}

/// A channel's topic.
#[derive(Debug)]
pub(super) struct RoomTopic {
    pub(super) text: String,
    /// The mask of who set it.
    pub(super) by: String,
    pub(super) at: Timestamp,
}

/// The server's whole memory.
#[derive(Debug)]
pub(super) struct State {
    pub(super) network: String,
    pub(super) home: String,
    pub(super) started: Timestamp,
    pub(super) limits: HouseLimits,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) nicks: BTreeMap<Box<str>, u64>,
    pub(super) rooms: BTreeMap<Box<str>, Room>,
    next_id: u64,
    full: Vec<u64>,
}

/// A name as it is compared: without ASCII case, as 005 says.
pub(super) fn fold(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into()
}

impl State {
    pub(super) fn new(network: &NetworkName, channel: &Channel, limits: HouseLimits) -> Self {
        let started = Timestamp::now();
        let home = channel.as_str().to_owned();
        let topic = RoomTopic {
            text: "meshfs: announcements and snapshots · !help".to_owned(),
            by: format!("meshfs!meshfs@{SERVER}"),
            at: started,
        };
        let members = BTreeSet::new();
        let room = Room { name: home.clone(), topic: Some(topic), members, permanent: true };
        Self {
            network: network.to_string(),
            rooms: BTreeMap::from([(fold(&home), room)]),
            home,
            started,
            limits,
            clients: BTreeMap::new(),
            nicks: BTreeMap::new(),
            next_id: 0,
            full: Vec::new(),
        }
    }

    /// A connection came; its lines leave by `out`.
    pub(super) fn connect(&mut self, host: &str, out: mpsc::Sender<String>) -> u64 {
        self.next_id += 1;
        let client = Client {
            nick: None,
            user: None,
            realname: String::new(),
            host: host.to_owned(),
            negotiating: false,
            registered: false,
            invisible: false,
            away: None,
            since: Timestamp::now(),
            channels: BTreeSet::new(),
            out,
        };
        self.clients.insert(self.next_id, client);
        self.next_id
    }

    /// One line of a client.
    pub(super) fn receive(&mut self, id: u64, line: &str) {
        if let Some(message) = parse(line).filter(|_| self.clients.contains_key(&id)) {
            if self.is_registered(id) {
                self.talk(id, &message.command);
            } else {
                self.register(id, &message.command);
            }
        }
        self.drop_full();
    }

    /// A line over the limit was thrown away.
    pub(super) fn too_long(&mut self, id: u64) {
        // 417 ERR_INPUTTOOLONG has no name in the crate.
        let nick = self.clients.get(&id).map_or("*", Client::nick).to_owned();
        self.send(id, format!(":{SERVER} 417 {nick} :Input line was too long"));
        self.drop_full();
    }

    pub(super) fn is_registered(&self, id: u64) -> bool {
        self.clients.get(&id).is_some_and(|client| client.registered)
    }

    pub(super) fn ping(&mut self, id: u64) {
        self.send(id, format!("PING :{SERVER}"));
        self.drop_full();
    }

    /// Tells a client why, and lets it go.
    pub(super) fn close(&mut self, id: u64, reason: &str) {
        self.send(id, format!("ERROR :Closing link: {reason}"));
        self.remove(id, reason);
    }

    pub(super) fn close_all(&mut self, reason: &str) {
        for client in std::mem::take(&mut self.clients).into_values() {
            // A full queue is no reason to wait: the connection ends either way.
            let _ = client.out.try_send(format!("ERROR :Closing link: {reason}"));
        }
        self.nicks.clear();
        self.rooms.values_mut().for_each(|room| room.members.clear());
    }

    /// A client is gone: its neighbours see it quit. Nothing happens if it is gone already.
    pub(super) fn remove(&mut self, id: u64, reason: &str) {
        self.remove_one(id, reason);
        self.drop_full();
    }

    fn remove_one(&mut self, id: u64, reason: &str) {
        let neighbours = self.neighbours(id);
        let Some(client) = self.clients.remove(&id) else { return };
        if let Some(nick) = &client.nick {
            self.nicks.remove(&fold(nick));
        }
        for room in &client.channels {
            self.leave(id, room);
        }
        let line = format!(":{} QUIT :{reason}", client.mask());
        neighbours.into_iter().for_each(|other| self.send(other, line.clone()));
    }

    /// Takes a member off a channel; an empty channel goes unless it is the configured one.
    pub(super) fn leave(&mut self, id: u64, folded: &str) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.channels.remove(folded);
        }
        if let Some(room) = self.rooms.get_mut(folded) {
            room.members.remove(&id);
            if room.members.is_empty() && !room.permanent {
                self.rooms.remove(folded);
            }
        }
    }

    /// Everybody who shares a channel with this client, itself excepted.
    pub(super) fn neighbours(&self, id: u64) -> BTreeSet<u64> {
        let rooms = self.clients.get(&id).map(|client| &client.channels).into_iter().flatten();
        let members = rooms.filter_map(|room| self.rooms.get(room)).flat_map(|room| &room.members);
        members.copied().filter(|&other| other != id).collect()
    }

    /// Queues a line for one client, cut to what the wire takes.
    pub(super) fn send(&mut self, id: u64, mut line: String) {
        line.truncate(line.floor_char_boundary(WIRE_MAX_BYTES));
        let Some(client) = self.clients.get(&id) else { return };
        if matches!(client.out.try_send(line), Err(TrySendError::Full(_))) {
            self.full.push(id);
        }
    }

    /// Queues a line for the members of a channel.
    pub(super) fn send_room(&mut self, folded: &str, line: &str, except: Option<u64>) {
        let members = self.rooms.get(folded).map(|room| room.members.clone()).unwrap_or_default();
        for member in members.into_iter().filter(|&member| Some(member) != except) {
            self.send(member, line.to_owned());
        }
    }

    /// Sends a numeric: its parameters with the last one's colon already in place.
    pub(super) fn numeric(&mut self, id: u64, response: Response, rest: impl AsRef<str>) {
        let nick = self.clients.get(&id).map_or("*", Client::nick);
        let line = format!(":{SERVER} {:03} {nick} {}", response as u16, rest.as_ref());
        self.send(id, line);
    }

    /// Lets go of clients that do not read; their quits may fill other queues in turn.
    fn drop_full(&mut self) {
        while let Some(id) = self.full.pop() {
            if self.clients.contains_key(&id) {
                warn!(client = id, "irc client does not read: disconnected");
                self.remove_one(id, "SendQ exceeded");
            }
        }
    }
}
