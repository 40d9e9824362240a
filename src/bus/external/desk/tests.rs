//! What the desk decides, with packets in every order.

use super::*;
use crate::bus::{Admitted, BoxFuture};
use std::sync::Mutex;

const BEAT: &str = "mesh/nodes/n1/heartbeat";
const HUB: &str = "mesh/hub";

/// Lets everything in but what only the hub says, and remembers it.
#[derive(Default)]
struct FakeDoor(Mutex<Vec<(Box<str>, Bytes)>>);

impl FakeDoor {
    fn admitted(&self) -> Vec<(Box<str>, Bytes)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Door for FakeDoor {
    fn retention(&self, topic: &str) -> Retention {
        match topic {
            _ if topic.starts_with("mesh/app/") => Retention::AsPublished,
            _ if topic == HUB || topic.starts_with("mesh/nodes/") => Retention::Always,
            _ => Retention::Never,
        }
    }

    fn may_publish(&self, _: &By, _: &str) -> bool {
        true
    }

    fn may_subscribe(&self, _: &By, _: &str) -> bool {
        true
    }

    fn admit(&self, arrival: Arrival) -> Result<Admitted, Refusal> {
        if self.hubs_own(&arrival.topic) {
            return Err(Refusal { kind: RefusalKind::NotAuthorized, why: "the hub's".into() });
        }
        self.0.lock().unwrap().push((arrival.topic, arrival.payload));
        Ok(Admitted::Now)
    }

    fn refuse(&self, _: Arrival, _: &Refusal) {}

    fn hubs_own(&self, topic: &str) -> bool {
        topic == HUB
    }

    fn ready(&self) -> Option<BoxFuture<'_, ()>> {
        None
    }
}

fn desk(kept: &[(&str, &'static str)]) -> (Desk, Arc<FakeDoor>) {
    let door = Arc::new(FakeDoor::default());
    let restored = |(topic, payload): &(&str, &'static str)| Restored {
        by: if *topic == HUB { By::hub() } else { theirs() },
        topic: Topic::parse(topic).unwrap(),
        payload: Bytes::from_static(payload.as_bytes()),
        qos: 1,
        content_type: None,
        user_properties: Vec::new(),
        expires_at: None,
        received_at: Timestamp::UNIX_EPOCH,
    };
    (Desk::new(door.clone(), HUB, kept.iter().map(restored)), door)
}

fn hear(desk: &mut Desk, packet: (&str, &'static str, bool), query: Option<&mut Query>) -> bool {
    let (topic, payload, retain) = packet;
    let packet = Packet {
        topic: topic.into(),
        payload: Bytes::from_static(payload.as_bytes()),
        qos: 0,
        retain,
        content_type: None,
        user_properties: Vec::new(),
        response_topic: None,
        correlation: None,
        expiry_s: None,
    };
    let now = Timestamp::UNIX_EPOCH;
    desk.heard(packet, Setting { query, payload_max_bytes: 1024, now })
}

fn sent(desk: &mut Desk) -> Vec<(Box<str>, Bytes)> {
    let next = || desk.next_to_send(0, &mut 0);
    std::iter::from_fn(next).map(|item| (item.topic, item.payload)).collect()
}

fn pair(topic: &str, payload: &'static str) -> (Box<str>, Bytes) {
    (topic.into(), Bytes::from_static(payload.as_bytes()))
}

/// A broker that answers all questions with nothing.
fn lost_memory(desk: &mut Desk) {
    desk.witnessed(&Query::new(Kind::Presence, vec![HUB.into()]));
    desk.compared(&Query::new(Kind::Everything, Vec::new()), Timestamp::UNIX_EPOCH);
    let question = desk.next_question().unwrap();
    assert_eq!((question.kind, &question.asked[..]), (Kind::Missing, &[BEAT.into()][..]));
    desk.answered(&question, Timestamp::UNIX_EPOCH);
}

#[test]
fn what_is_given_back_does_not_stay_over_what_was_published_meanwhile() {
    let (mut desk, door) = desk(&[(BEAT, "old")]);
    lost_memory(&mut desk);
    assert_eq!(sent(&mut desk), [pair(BEAT, "old")]);
    // Another's message reached the broker first, so the broker now has the old one.
    assert!(!hear(&mut desk, (BEAT, "new", false), None));
    assert_eq!(door.admitted(), [pair(BEAT, "new")]);
    assert!(!hear(&mut desk, (BEAT, "old", false), None), "its echo");
    assert_eq!(door.admitted(), []);
    assert_eq!(sent(&mut desk), [pair(BEAT, "new")]);
    hear(&mut desk, (BEAT, "new", false), None);
    assert_eq!(sent(&mut desk), [], "and that is the end of it");
}

#[test]
fn what_is_not_given_back_yet_gives_way_to_what_comes() {
    let (mut desk, _) = desk(&[(BEAT, "old")]);
    lost_memory(&mut desk);
    hear(&mut desk, (BEAT, "new", false), None);
    assert_eq!(sent(&mut desk), []);
}

#[test]
fn a_retained_message_that_is_known_is_no_sign_of_life() {
    let (mut desk, door) = desk(&[(BEAT, "known")]);
    let mut query = Query::new(Kind::Everything, Vec::new());
    assert!(!hear(&mut desk, (BEAT, "known", true), Some(&mut query)));
    assert_eq!(door.admitted(), []);
    hear(&mut desk, (BEAT, "another", true), Some(&mut query));
    assert_eq!(door.admitted(), [pair(BEAT, "another")]);
}

#[test]
fn the_hubs_own_word_is_dropped_once_and_anothers_on_its_topic_refused_and_answered() {
    let (mut desk, door) = desk(&[(HUB, "mine")]);
    desk.compared(&Query::new(Kind::Everything, Vec::new()), Timestamp::UNIX_EPOCH);
    assert_eq!(sent(&mut desk), [pair(HUB, "mine")]);
    assert!(!hear(&mut desk, (HUB, "mine", false), None), "the echo");
    assert!(hear(&mut desk, (HUB, "forged", false), None));
    assert_eq!(door.admitted(), []);
    desk.reassert();
    assert_eq!(sent(&mut desk), [pair(HUB, "mine")]);
}

#[test]
fn an_old_announcement_that_somebody_retained_is_cleared_and_not_heard() {
    let (mut desk, door) = desk(&[]);
    let mut query = Query::new(Kind::Everything, Vec::new());
    assert!(!hear(&mut desk, ("mesh/announce", "old", true), Some(&mut query)));
    assert_eq!((door.admitted(), sent(&mut desk)), (vec![], vec![pair("mesh/announce", "")]));
    hear(&mut desk, ("mesh/announce", "new", false), None);
    assert_eq!(door.admitted(), [pair("mesh/announce", "new")]);
}

#[test]
fn what_the_hub_was_told_to_clear_does_not_come_back_with_the_broker() {
    let (mut desk, door) = desk(&[(BEAT, "x")]);
    let topic = Topic::parse(BEAT).unwrap();
    desk.say(Publication::hub(topic, Bytes::new(), true), true, Timestamp::UNIX_EPOCH);
    let mut query = Query::new(Kind::Everything, Vec::new());
    hear(&mut desk, (BEAT, "x", true), Some(&mut query));
    assert_eq!((door.admitted(), sent(&mut desk)), (vec![], vec![pair(BEAT, "")]));
    assert_eq!(desk.get(BEAT, Timestamp::UNIX_EPOCH), None);
}

#[test]
fn a_page_goes_on_behind_the_last_topic() {
    let (desk, _) = desk(&[("mesh/app/a", "1"), ("mesh/app/b", "2"), (BEAT, "3")]);
    let page = desk.page("mesh/app/#", None, 1);
    assert_eq!(page.messages.len(), 1);
    let rest = desk.page("mesh/app/#", page.next.as_deref(), 10);
    assert_eq!((rest.messages[0].topic.as_str(), rest.next), ("mesh/app/b", None));
}
