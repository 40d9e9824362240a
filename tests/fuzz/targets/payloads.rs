//! Payloads of every topic of the contract, and lines of the journal.
//!
//! Input: a topic, a line feed, the payload. Without a topic the payload is a line of the journal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rooms::message::contract::{Author, Kept};
use rooms::message::{Announcement, JournalLine, Message, Outcome, SnapshotRecord, Subject};
use rooms::message::{VerdictRecord, contract::CONTRACT};
use rooms::name::Topic;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

fuzz_target!(|data: &[u8]| {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let (topic, payload) = (&data[..end], &data[end + 1..]);
    if topic.is_empty() {
        if let Ok(line) = serde_json::from_slice::<JournalLine>(payload) {
            settled(&line);
        }
        return;
    }
    let topic = std::str::from_utf8(topic).ok().and_then(|raw| Topic::parse(raw).ok());
    let Some(subject) = topic.and_then(|topic| Subject::of(&topic).ok()) else { return };
    assert!(CONTRACT.contains(&subject.line()), "{subject:?}");
    let with = Message::parse(&subject, payload, true);
    let without = Message::parse(&subject, payload, false);
    if payload.is_empty() && subject.kept() == Kept::Always {
        assert_eq!(with, Ok(Message::Cleared(subject)));
        assert!(without.is_err(), "an empty payload without the flag clears");
        return;
    }
    // Nothing but an empty payload means something else with the flag.
    assert_eq!(with, without);
    match with {
        Ok(message) => accepted(&subject, message),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn accepted(subject: &Subject, message: Message) {
    match message {
        Message::Announcement(announcement) => announced(&announcement),
        Message::Outcome(outcome) => settled::<Outcome>(&outcome),
        Message::Snapshot(record) => settled::<SnapshotRecord>(&record),
        Message::Verdict(_, record) => settled::<VerdictRecord>(&record),
        Message::Say(_, _, text) => {
            assert!(!text.trim().is_empty() && text.len() <= 4096, "{text:?}");
        }
        Message::Opaque => assert!(subject.author() == Author::Hub || *subject == Subject::App),
        Message::Cleared(_) => unreachable!("something was there"),
        Message::Heartbeat(..)
        | Message::Presence(..)
        | Message::Service(..)
        | Message::Capture(_) => assert_eq!(subject.author(), Author::Anyone),
    }
}

/// What goes into the journal, onto IRC and into properties of a snapshot.
fn announced(announcement: &Announcement) {
    for (text, max) in [(Some(&announcement.reason), 1024), (announcement.source.as_ref(), 128)] {
        let Some(text) = text else { continue };
        assert!(!text.is_empty() && text.len() <= max, "{text:?}");
        assert!(!text.contains(char::is_control) && text.trim() == text, "{text:?}");
    }
    assert!(!announcement.flush, "accepted what is not in this release");
    assert!(announcement.reply_to.as_ref().is_none_or(Topic::is_app), "{announcement:?}");
}

/// What was read and written again is read as the same.
fn settled<T: Serialize + DeserializeOwned + Debug>(value: &T) {
    let once = serde_json::to_string(value).unwrap_or_else(|e| unreachable!("{value:?}: {e}"));
    let read: T = serde_json::from_str(&once).unwrap_or_else(|e| unreachable!("{once}: {e}"));
    let twice = serde_json::to_string(&read).unwrap_or_else(|e| unreachable!("{read:?}: {e}"));
    assert_eq!(once, twice);
}
