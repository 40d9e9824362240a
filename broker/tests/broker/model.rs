//! A few hundred random steps of many clients against a model of what each must see.

use std::collections::{BTreeMap, VecDeque};

use crate::fuzz::Dice;
use crate::support::{Client, Connect, Publish, Server, VERSIONS, Version};

const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "a/c", "b", "b/a", "$s/a", "é/b"];
const FILTERS: [&str; 10] = ["#", "+", "a/#", "a/+", "+/b", "+/+/c", "a/b", "$s/#", "é/#", "a/b/#"];

/// The rules of MQTT for a filter and a topic, written down once more.
fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['#', '+']) {
        return false;
    }
    let (mut levels, mut wanted) = (topic.split('/'), filter.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[derive(Clone, Copy)]
struct Options {
    qos: u8,
    no_local: bool,
    as_published: bool,
    handling: u8,
}

impl Options {
    fn roll(dice: &mut Dice, version: Version) -> Self {
        let v5 = version == Version::V5;
        Self {
            qos: dice.roll(3) as u8,
            no_local: v5 && dice.roll(4) == 0,
            as_published: v5 && dice.roll(3) == 0,
            handling: if v5 { dice.roll(3) as u8 } else { 0 },
        }
    }

    fn byte(self) -> u8 {
        let flags = u8::from(self.no_local) << 2 | u8::from(self.as_published) << 3;
        self.qos | flags | self.handling << 4
    }
}

/// Topic, payload, QoS and RETAIN flag as a client must see them.
type Sight = (String, String, u8, bool);

struct Actor {
    client: Client,
    version: Version,
    filters: BTreeMap<&'static str, Options>,
    expected: VecDeque<Sight>,
}

impl Actor {
    fn expect_live(&mut self, message: &Publish, own: bool) {
        let hits = self
            .filters
            .iter()
            .filter(|(filter, _)| matches(filter, &message.topic))
            .map(|(_, options)| options)
            .filter(|options| !(own && options.no_local));
        let Some(qos) = hits.clone().map(|options| options.qos).max() else { return };
        let as_published = hits.clone().any(|options| options.as_published);
        let retain = message.retain && as_published;
        let text = message.text().to_owned();
        self.expected.push_back((message.topic.clone(), text, qos.min(message.qos), retain));
    }

    fn subscribe(&mut self, dice: &mut Dice, retained: &BTreeMap<String, Publish>) {
        let filter = FILTERS[dice.roll(FILTERS.len())];
        let options = Options::roll(dice, self.version);
        assert_eq!(self.client.subscribe(filter, options.byte()), options.qos);
        let known = self.filters.insert(filter, options).is_some();
        if options.handling == 2 || (options.handling == 1 && known) {
            return;
        }
        for (topic, message) in retained.iter().filter(|(topic, _)| matches(filter, topic)) {
            let qos = message.qos.min(options.qos);
            self.expected.push_back((topic.clone(), message.text().to_owned(), qos, true));
        }
    }

    fn unsubscribe(&mut self, dice: &mut Dice) {
        let filter = FILTERS[dice.roll(FILTERS.len())];
        self.client.unsubscribe(&[filter]);
        self.filters.remove(filter);
    }

    /// Compares all that came since the last time.
    fn compare(&mut self, step: usize) {
        // No wildcard finds a topic that begins with a dollar sign.
        self.client.subscribe("$end", 0);
        self.client.publish(&Publish::new("$end", ""));
        let seen = self.client.messages_until("$end");
        self.client.unsubscribe(&["$end"]);
        let seen: VecDeque<Sight> = seen
            .into_iter()
            .map(|message| {
                let text = message.text().to_owned();
                (message.topic, text, message.qos, message.retain)
            })
            .collect();
        assert_eq!(seen, self.expected, "{:?} at step {step}", self.version);
        self.expected.clear();
    }
}

fn play(seed: u64) {
    let server = Server::start();
    if !server.is_ours() {
        return; // a copy for each of several matching filters is allowed too
    }
    let mut dice = Dice::new(seed);
    let mut retained = BTreeMap::new();
    let mut actors: Vec<Actor> = (0..8)
        .map(|at| {
            let version = VERSIONS[at % 2];
            let client = server.connect(&Connect::new(version, &format!("actor-{at}")));
            Actor { client, version, filters: BTreeMap::new(), expected: VecDeque::new() }
        })
        .collect();
    for step in 0..400 {
        let at = dice.roll(actors.len());
        match dice.roll(10) {
            0 | 1 => actors[at].subscribe(&mut dice, &retained),
            2 => actors[at].unsubscribe(&mut dice),
            3 => actors[at].compare(step),
            _ => {
                let topic = TOPICS[dice.roll(TOPICS.len())];
                let empty = dice.roll(8) == 0;
                let payload = if empty { String::new() } else { step.to_string() };
                let mut message = Publish::new(topic, payload).qos(dice.roll(3) as u8);
                message.retain = dice.roll(3) == 0;
                actors[at].client.publish(&message);
                actors[at].client.ping(); // at QoS 0 nothing else says that it was handled
                for (other, actor) in actors.iter_mut().enumerate() {
                    actor.expect_live(&message, other == at);
                }
                match (message.retain, empty) {
                    (true, true) => drop(retained.remove(topic)),
                    (true, false) => drop(retained.insert(topic.to_owned(), message)),
                    (false, _) => {}
                }
            }
        }
    }
    for actor in &mut actors {
        actor.compare(400);
    }
}

#[test]
fn every_client_sees_what_the_model_says() {
    for seed in 1..=12 {
        eprintln!("seed {seed}");
        play(seed);
    }
}
