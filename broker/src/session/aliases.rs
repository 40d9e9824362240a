//! Topic aliases towards one version 5 client, for as long as it is connected.
//!
//! A topic gets an alias when it is sent and one is free, or when one was not used for a while: so
//! hot topics keep theirs while many cold ones pass.

/// Shorter topics are not worth the three bytes that an alias takes.
const TOPIC_MIN_BYTES: usize = 4;
/// Longer ones are not kept for a client.
const TOPIC_MAX_BYTES: usize = 1024;
/// An alias is given to another topic after so many messages for each alias without it.
const COLD: u64 = 8;

/// How the topic of a message is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alias {
    /// In full.
    None,
    /// In full, and by this alias from now on.
    New(u16),
    /// By its alias alone.
    Known(u16),
}

/// The aliases a client knows.
#[derive(Debug, Default)]
pub(crate) struct Aliases {
    max: usize,
    /// By alias, the first is 1: the topic and when it was last used.
    topics: Vec<(Box<[u8]>, u64)>,
    messages: u64,
}

impl Aliases {
    pub(crate) fn new(max: u16) -> Self {
        Self { max: max.into(), ..Self::default() }
    }

    /// Does the client allow none?
    pub(crate) fn is_off(&self) -> bool {
        self.max == 0
    }

    /// How to say a topic in the next message.
    pub(crate) fn find(&self, topic: &[u8]) -> Alias {
        if self.is_off() || !(TOPIC_MIN_BYTES..=TOPIC_MAX_BYTES).contains(&topic.len()) {
            return Alias::None;
        }
        if let Some(at) = self.topics.iter().position(|(known, _)| **known == *topic) {
            return Alias::Known(at as u16 + 1);
        }
        if self.topics.len() < self.max {
            return Alias::New(self.topics.len() as u16 + 1);
        }
        let cold = self.topics.iter().enumerate().min_by_key(|(_, (_, used))| *used);
        match cold {
            Some((at, (_, used))) if self.messages > used + COLD * self.max as u64 => {
                Alias::New(at as u16 + 1)
            }
            _ => Alias::None,
        }
    }

    /// The message was sent as [`Self::find`] said.
    pub(crate) fn sent(&mut self, topic: &[u8], alias: Alias) {
        self.messages += 1;
        match alias {
            Alias::None => {}
            Alias::Known(alias) => {
                if let Some((_, used)) = self.topics.get_mut(usize::from(alias) - 1) {
                    *used = self.messages;
                }
            }
            Alias::New(alias) => match self.topics.get_mut(usize::from(alias) - 1) {
                Some(cold) => *cold = (topic.into(), self.messages),
                None => self.topics.push((topic.into(), self.messages)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(aliases: &mut Aliases, topic: &str) -> Alias {
        let alias = aliases.find(topic.as_bytes());
        aliases.sent(topic.as_bytes(), alias);
        alias
    }

    #[test]
    fn a_topic_is_said_once_and_by_its_alias_from_then_on() {
        let mut aliases = Aliases::new(2);
        assert_eq!(say(&mut aliases, "topic/a"), Alias::New(1));
        assert_eq!(say(&mut aliases, "topic/b"), Alias::New(2));
        assert_eq!(say(&mut aliases, "topic/a"), Alias::Known(1));
        assert_eq!(say(&mut aliases, "topic/c"), Alias::None);
        assert_eq!(say(&mut aliases, "abc"), Alias::None);
        assert_eq!(say(&mut Aliases::new(0), "topic/a"), Alias::None);
    }

    #[test]
    fn a_hot_topic_keeps_its_alias_and_a_cold_one_loses_it() {
        let mut aliases = Aliases::new(2);
        say(&mut aliases, "cold/topic");
        for number in 0..1000 {
            say(&mut aliases, "hot/topic");
            say(&mut aliases, &format!("passing/{number}"));
        }
        assert_eq!(aliases.find(b"hot/topic"), Alias::Known(2));
        assert_eq!(aliases.topics.len(), 2);
        assert_ne!(aliases.find(b"cold/topic"), Alias::Known(1));
    }

    #[test]
    fn what_was_not_sent_is_not_known() {
        let aliases = Aliases::new(1);
        assert_eq!(aliases.find(b"topic/a"), Alias::New(1));
        assert_eq!(aliases.find(b"topic/a"), Alias::New(1));
    }
}
