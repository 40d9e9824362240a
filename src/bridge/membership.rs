//! The channels we want to be in against those we are in. Pure: `now` is passed in.
//!
//! Invariants:
//! - A wanted channel is always in exactly one state, and every state but "in" ends by itself.
//! - Who was kicked, refused or ignored waits longer each time, up to a cap.

use tokio::time::Instant;

use super::Timing;
use super::authority::Authority;
use super::backoff::Backoff;
use super::isupport::Isupport;
use super::line::WIRE_MAX_BYTES;
use crate::name::Channel;

/// Where we stand with one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Out; to be joined then.
    Out { join_at: Instant },
    /// JOIN was sent; without an answer it is sent again then.
    Asked { until: Instant },
    /// In.
    In { since: Instant },
}

/// One wanted channel.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) channel: Channel,
    pub(super) authority: Authority,
    standing: Standing,
    backoff: Backoff,
    /// The server would not pass on what we said; silence until then.
    muted_until: Option<Instant>,
    /// The server's own time of our join, by which replayed history is told from what is new.
    pub(super) joined_wall: Option<jiff::Timestamp>,
}

impl Wanted {
    /// Since when we are in.
    pub(super) const fn in_since(&self) -> Option<Instant> {
        match self.standing {
            Standing::In { since } => Some(since),
            _ => None,
        }
    }

    /// Whether what we say now would be heard.
    pub(super) fn may_speak(&self, now: Instant) -> bool {
        self.in_since().is_some() && self.muted_until.is_none_or(|until| until <= now)
    }

    /// The server will not pass on what we say.
    pub(super) fn mute(&mut self, until: Instant) {
        self.muted_until = Some(until);
    }

    /// The channel's modes changed: perhaps we may speak again.
    pub(super) const fn unmute(&mut self) {
        self.muted_until = None;
    }

    /// We are in.
    pub(super) fn joined(&mut self, now: Instant, wall: Option<jiff::Timestamp>) {
        self.standing = Standing::In { since: now };
        self.authority.joined();
        self.muted_until = None;
        self.joined_wall = wall;
    }

    /// We are out, or were not let in: again after a pause.
    pub(super) fn out(&mut self, timing: &Timing, random: f64, now: Instant) {
        if self.in_since().is_some_and(|since| now.duration_since(since) >= timing.healthy) {
            self.backoff.reset();
        }
        self.authority.joined();
        self.standing = Standing::Out { join_at: now + self.backoff.pause(random) };
    }

    /// Somebody lets us in: no pause.
    pub(super) fn invited(&mut self, now: Instant) {
        if let Standing::Out { join_at } = &mut self.standing {
            *join_at = now;
        }
    }

    const fn due_at(&self) -> Option<Instant> {
        match self.standing {
            Standing::Out { join_at } => Some(join_at),
            Standing::Asked { until } => Some(until),
            Standing::In { .. } => None,
        }
    }
}

/// All wanted channels of one network.
#[derive(Debug)]
pub(super) struct Membership(Vec<Wanted>);

impl Membership {
    /// None is joined yet; all are due at once.
    pub(super) fn new(channels: &[Channel], timing: &Timing, now: Instant) -> Self {
        let wanted = channels.iter().map(|channel| Wanted {
            channel: channel.clone(),
            authority: Authority::default(),
            standing: Standing::Out { join_at: now },
            backoff: Backoff::new(timing.rejoin_min, timing.rejoin_max),
            muted_until: None,
            joined_wall: None,
        });
        Self(wanted.collect())
    }

    /// The wanted channel of this name, by the server's own comparison.
    pub(super) fn find(&mut self, name: &str, isupport: &Isupport) -> Option<&mut Wanted> {
        let folded = isupport.fold(name);
        self.0.iter_mut().find(|wanted| isupport.fold(wanted.channel.as_str()) == folded)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Wanted> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Wanted> {
        self.0.iter_mut()
    }

    /// When the next channel is to be joined.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.0.iter().filter_map(Wanted::due_at).min()
    }

    /// The JOIN lines to send now, as many channels to a line as fit.
    pub(super) fn join(&mut self, timing: &Timing, now: Instant) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for wanted in &mut self.0 {
            if wanted.due_at().is_none_or(|at| at > now) {
                continue;
            }
            wanted.standing = Standing::Asked { until: now + timing.join_answer };
            let name = wanted.channel.as_str();
            match lines.last_mut() {
                Some(line) if line.len() + 1 + name.len() <= WIRE_MAX_BYTES => {
                    line.push(',');
                    line.push_str(name);
                }
                _ => lines.push(format!("JOIN {name}")),
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn membership(names: &[&str], now: Instant) -> Membership {
        let channels: Vec<_> = names.iter().map(|name| Channel::parse(name).unwrap()).collect();
        Membership::new(&channels, &Timing::default(), now)
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn all_channels_are_joined_in_as_few_lines_as_hold_them() {
        let start = Instant::now();
        let mut few = membership(&["#a", "#b"], start);
        assert_eq!(few.join(&Timing::default(), start), ["JOIN #a,#b"]);
        assert_eq!(few.join(&Timing::default(), start), Vec::<String>::new());
        let names: Vec<String> = (0..30).map(|n| format!("#{}{n}", "x".repeat(50))).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let lines = membership(&names, start).join(&Timing::default(), start);
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.len() <= WIRE_MAX_BYTES));
    }

    #[test]
    fn a_kick_is_answered_by_a_join_after_a_growing_pause() {
        let (timing, start) = (Timing::default(), Instant::now());
        let mut all = membership(&["#a"], start);
        let isupport = Isupport::default();
        let mut now = start;
        for pause in [5, 10, 20] {
            all.join(&timing, now);
            all.find("#A", &isupport).unwrap().joined(now, None);
            assert_eq!(all.due_at(), None);
            all.find("#a", &isupport).unwrap().out(&timing, 1.0, now);
            assert_eq!(all.due_at(), Some(at(now, pause)));
            assert!(all.join(&timing, at(now, pause - 1)).is_empty());
            now = at(now, pause);
        }
        all.join(&timing, now);
        all.find("#a", &isupport).unwrap().joined(now, None);
        all.find("#a", &isupport).unwrap().out(&timing, 1.0, at(now, 60));
        assert_eq!(all.due_at(), Some(at(now, 65)), "a long stay ends the growth");
        all.find("#a", &isupport).unwrap().invited(at(now, 61));
        assert_eq!(all.join(&timing, at(now, 61)), ["JOIN #a"]);
    }

    #[test]
    fn a_join_that_nobody_answers_is_sent_again() {
        let start = Instant::now();
        let mut all = membership(&["#a"], start);
        all.join(&Timing::default(), start);
        assert!(all.join(&Timing::default(), at(start, 29)).is_empty());
        assert_eq!(all.join(&Timing::default(), at(start, 30)), ["JOIN #a"]);
    }

    #[test]
    fn we_speak_only_where_we_are_and_may() {
        let start = Instant::now();
        let mut all = membership(&["#a"], start);
        let wanted = all.find("#a", &Isupport::default()).unwrap();
        assert!(!wanted.may_speak(start));
        wanted.joined(start, None);
        assert!(wanted.may_speak(start));
        wanted.mute(at(start, 300));
        assert!(!wanted.may_speak(at(start, 299)) && wanted.may_speak(at(start, 300)));
        wanted.unmute();
        assert!(wanted.may_speak(start));
    }
}
