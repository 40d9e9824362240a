//! The contract at the door: every message of every way in passes here once.

use super::inbox::Inbox;
use super::keeping::{Keeping, stopping};
use super::quiet::Quiet;
use crate::access::{Access, Who};
use crate::bus::{Admitted, Arrival, BoxFuture, Door, Refusal, RefusalKind, Retention};
use crate::live;
use crate::mesh::{Event, Received, to_hex};
use crate::message::contract::{Author, Kept};
use crate::message::{Malformed, Message, ReplyAddress, Subject, reply_topic};
use crate::name::{AnnouncementId, By, Door as DoorName, Topic};
use std::sync::Arc;
use tracing::{debug, warn};

/// Room for MQTT 5 properties beside a retained payload: they become an
/// extended attribute, of which ext4 keeps less than a block of 4 KiB.
const PROPERTIES_MAX_BYTES: usize = 2048;
/// Largest announcement.
const ANNOUNCEMENT_MAX_BYTES: usize = 16 << 10;
/// Longest correlation data that is given back.
const CORRELATION_MAX_BYTES: usize = 1024;
/// What somebody is told who writes where only the hub does.
const HUBS_OWN: &str = "only the hub publishes this topic";
/// What is said of what no rule grants.
const NO_RULE: &str = "no rule allows it; roles and rules are in users.toml";
/// What somebody is told who wants an answer where he could not write himself.
const NO_ANSWER: &str =
    "answers go below mesh/app/replies/<user>/, or where you could publish yourself";

#[derive(Debug)]
pub(super) struct HubDoor {
    pub(super) inbox: Arc<Inbox>,
    pub(super) access: Arc<Access>,
    pub(super) keeping: Keeping,
    /// The broker is another's, and so are the rights of its clients.
    pub(super) foreign: bool,
    /// Whoever is refused much fills no log.
    pub(super) quiet: Quiet,
}

/// A message that may come in.
struct Checked {
    topic: Topic,
    message: Message,
    reply: Option<ReplyAddress>,
}

impl HubDoor {
    pub(super) fn new(
        inbox: &Arc<Inbox>,
        access: &Arc<Access>,
        keeping: Keeping,
        foreign: bool,
    ) -> Self {
        let (inbox, access, quiet) = (inbox.clone(), access.clone(), Quiet::default());
        Self { inbox, access, keeping, foreign, quiet }
    }

    /// Checks a message against the contract.
    fn check(&self, arrival: &Arrival) -> Result<Checked, Refusal> {
        let topic = Topic::parse(&arrival.topic).map_err(|e| refusal(RefusalKind::Topic, &e))?;
        let subject = Subject::of(&topic).map_err(|e| refusal(RefusalKind::Topic, &e))?;
        if subject.author() == Author::Hub && !arrival.inside {
            return Err(Refusal { kind: RefusalKind::NotAuthorized, why: HUBS_OWN.into() });
        }
        if arrival.retained {
            keepable(arrival, &topic)?;
        }
        if subject == Subject::Announce && arrival.payload.len() > ANNOUNCEMENT_MAX_BYTES {
            return Err(quota("an announcement has at most 16 KiB"));
        }
        let message = Message::parse(&subject, &arrival.payload, arrival.retain)
            .map_err(|e| refusal(kind(&e), &e))?;
        let reply = if subject == Subject::Announce { self.reply(arrival)? } else { None };
        if let Message::Announcement(announcement) = &message
            && let Some(topic) = &announcement.reply_to
        {
            self.may_be_answered(&arrival.by, topic)?;
        }
        Ok(Checked { topic, message, reply })
    }

    /// Where the sender of an announcement waits for the answer.
    fn reply(&self, arrival: &Arrival) -> Result<Option<ReplyAddress>, Refusal> {
        let reply = reply(arrival)?;
        if let Some(reply) = &reply {
            self.may_be_answered(&arrival.by, &reply.topic)?;
        }
        Ok(reply)
    }

    /// Nobody has the hub write for him where he may not.
    fn may_be_answered(&self, by: &By, topic: &Topic) -> Result<(), Refusal> {
        let theirs = self.foreign && by.door == DoorName::Mqtt;
        if theirs || self.access.may_be_answered(who(by), topic.as_str()) {
            return Ok(());
        }
        Err(Refusal { kind: RefusalKind::NotAuthorized, why: NO_ANSWER.into() })
    }

    fn deny(&self, by: &By, topic: &str, why: &str) {
        if let Some(held_back) = self.quiet.turn() {
            warn!(%by, ?topic, why, held_back, "denied");
        }
        // Whoever does nothing but ask for what he may not is not held up by a full inbox.
        if !self.inbox.is_full() {
            let (by, topic, why) = (by.clone(), topic.to_owned(), why.to_owned());
            self.inbox.push(Event::Refused { by, topic, why, reply: None });
        }
    }

    fn say_refused(&self, arrival: Arrival, refusal: &Refusal) {
        // Only the answer to an announcement is waited for.
        let awaited = arrival.topic.as_ref() == "mesh/announce";
        // Debug form, which escapes: both can hold what a hostile client wrote.
        if refusal.kind.is_temporary() && !awaited {
            // The trouble itself is logged; a line for each who meets it would not help the disk.
            debug!(by = %arrival.by, topic = ?arrival.topic, why = ?refusal.why, "message refused");
            return;
        }
        if let Some(held_back) = self.quiet.turn() {
            let (by, topic, why) = (&arrival.by, &arrival.topic, &refusal.why);
            warn!(%by, ?topic, ?why, held_back, "message refused");
        }
        let reply = awaited.then(|| self.reply(&arrival).ok().flatten()).flatten();
        let (topic, why) = (arrival.topic.into(), refusal.why.to_string());
        self.inbox.push(Event::Refused { by: arrival.by, topic, why, reply });
    }
}

impl Door for HubDoor {
    fn retention(&self, topic: &str) -> Retention {
        match subject(topic).map(|subject| subject.kept()) {
            Some(Kept::Always) => Retention::Always,
            Some(Kept::AsPublished) => Retention::AsPublished,
            Some(Kept::Never) | None => Retention::Never,
        }
    }

    fn may_publish(&self, by: &By, topic: &str) -> bool {
        // A topic that does not exist is refused by `admit`, which says why.
        if subject(topic).is_some_and(|subject| subject.author() == Author::Hub) {
            self.deny(by, topic, HUBS_OWN);
            return false;
        }
        let allowed = self.access.may_publish(who(by), topic);
        if !allowed {
            self.deny(by, topic, NO_RULE);
        }
        allowed
    }

    fn may_subscribe(&self, by: &By, filter: &str) -> bool {
        // Nothing outside mesh/ is ever published: such a filter is a mistake worth an error.
        if !matches!(filter.split('/').next(), Some("mesh" | "+" | "#")) {
            return false;
        }
        let allowed = self.access.may_subscribe(who(by), filter);
        if !allowed {
            self.deny(by, filter, NO_RULE);
        }
        allowed
    }

    fn admit(&self, arrival: Arrival) -> Result<Admitted, Refusal> {
        let checked = self.check(&arrival).and_then(|checked| {
            let announces = matches!(checked.message, Message::Announcement(_));
            let promise = self.keeping.promise(&arrival, &checked.topic, announces)?;
            Ok((checked, announces, promise))
        });
        match checked {
            Ok((Checked { topic, message, reply }, announces, promise)) => {
                let fresh = announces.then(AnnouncementId::fresh);
                let (receipt, promise) = promise.unzip();
                let retained = arrival.retained;
                let received = Box::new(Received {
                    topic,
                    payload: arrival.payload,
                    by: arrival.by,
                    received_at: arrival.received_at,
                    qos: arrival.qos,
                    content_type: arrival.content_type,
                    user_properties: arrival.user_properties,
                    expires_at: arrival.expires_at,
                });
                let event = Event::Arrived { received, message, retained, reply, fresh };
                if !self.inbox.let_in(event, receipt) {
                    return Err(stopping());
                }
                Ok(promise
                    .map_or(Admitted::Now, |promise| Admitted::When(self.keeping.kept(promise))))
            }
            Err(refusal) => {
                self.say_refused(arrival, &refusal);
                Err(refusal)
            }
        }
    }

    fn refuse(&self, arrival: Arrival, refusal: &Refusal) {
        self.say_refused(arrival, refusal);
    }

    fn hubs_own(&self, topic: &str) -> bool {
        subject(topic).is_some_and(|subject| subject.author() == Author::Hub)
    }

    fn ready(&self) -> Option<BoxFuture<'_, ()>> {
        self.inbox.is_full().then(|| Box::pin(self.inbox.room()) as BoxFuture<'_, ()>)
    }
}

fn who(by: &By) -> Who<'_> {
    Who { user: by.user.as_deref(), client: &by.client }
}

fn subject(topic: &str) -> Option<Subject> {
    Topic::parse(topic).ok().and_then(|topic| Subject::of(&topic).ok())
}

/// A retained message becomes a file, which has its own limits.
fn keepable(arrival: &Arrival, topic: &Topic) -> Result<(), Refusal> {
    live::path::of(topic).map_err(|e| refusal(RefusalKind::Topic, &e))?;
    let pairs =
        arrival.user_properties.iter().map(|(key, value)| escaped(key) + escaped(value) + 8);
    let content_type = arrival.content_type.as_deref().map_or(0, escaped);
    let bytes = pairs.sum::<usize>() + content_type + escaped(&arrival.by.client);
    if bytes > PROPERTIES_MAX_BYTES {
        return Err(quota(
            "a retained message has at most 2,048 bytes of properties and client id",
        ));
    }
    Ok(())
}

/// How long a text is in JSON, at most, which is how it is kept.
fn escaped(text: &str) -> usize {
    let bytes = text.bytes().map(|byte| match byte {
        0..=0x1F => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    });
    bytes.sum()
}

/// Where the sender of an announcement says that he waits for the answer.
fn reply(arrival: &Arrival) -> Result<Option<ReplyAddress>, Refusal> {
    let Some(topic) = arrival.response_topic.as_deref() else { return Ok(None) };
    let topic = reply_topic(topic).map_err(|e| refusal(RefusalKind::Payload, &e))?;
    let correlation = arrival.correlation.as_deref();
    if correlation.is_some_and(|data| data.len() > CORRELATION_MAX_BYTES) {
        return Err(quota("correlation data has at most 1,024 bytes"));
    }
    Ok(Some(ReplyAddress { topic, correlation: correlation.map(to_hex) }))
}

fn quota(why: &str) -> Refusal {
    Refusal { kind: RefusalKind::Quota, why: why.into() }
}

fn refusal(kind: RefusalKind, why: &dyn std::error::Error) -> Refusal {
    Refusal { kind, why: why.to_string().into() }
}

fn kind(malformed: &Malformed) -> RefusalKind {
    match malformed {
        Malformed::NotYet(_) => RefusalKind::NotYet,
        _ => RefusalKind::Payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Policy;
    use crate::name::Door as Way;
    use bytes::Bytes;

    fn arrival(topic: &str, payload: &'static str, inside: bool) -> Arrival {
        Arrival {
            by: By::new(if inside { Way::Hub } else { Way::Mqtt }, "x"),
            inside,
            topic: topic.into(),
            payload: Bytes::from_static(payload.as_bytes()),
            qos: 1,
            retain: false,
            retained: false,
            content_type: None,
            user_properties: Vec::new(),
            response_topic: None,
            correlation: None,
            expires_at: None,
            received_at: jiff::Timestamp::UNIX_EPOCH,
            awaited: true,
        }
    }

    /// A door where whoever has no name may do what the role says.
    fn door(role: &str) -> HubDoor {
        let (users, anonymous_role) = ("/nowhere/users.toml".into(), role.into());
        let policy = Policy { users, allow_anonymous: false, anonymous_role };
        let access = Access::open(policy, |_, _| ()).unwrap();
        HubDoor {
            inbox: Arc::default(),
            access: Arc::new(access),
            keeping: Keeping::default(),
            quiet: Quiet::default(),
            foreign: false,
        }
    }

    fn refused(arrival: Arrival) -> Option<RefusalKind> {
        let door = door("operator");
        let admitted = door.admit(arrival);
        let pushed = door.inbox.take_now();
        let told = matches!(pushed[..], [(Event::Refused { .. }, None)]);
        assert_eq!((pushed.len(), told), (1, admitted.is_err()), "each arrival is one event");
        admitted.err().map(|refusal| refusal.kind)
    }

    #[test]
    fn what_only_the_hub_publishes_is_refused_from_outside_whatever_the_authority_said() {
        let hub = Some(RefusalKind::NotAuthorized);
        for topic in ["mesh/hub", "mesh/events", "mesh/announce/a", "mesh/nodes/n/verdict"] {
            assert_eq!(refused(arrival(topic, "{}", false)), hub, "{topic}");
        }
        assert_eq!(refused(arrival("mesh/hub", "{}", true)), None);
    }

    #[test]
    fn what_cannot_be_kept_beside_a_file_is_refused() {
        let large = |bytes: usize| Arrival {
            retained: true,
            user_properties: vec![("k".into(), "v".repeat(bytes))],
            ..arrival("mesh/app/x", "{}", false)
        };
        assert_eq!(refused(large(1_900)), None);
        assert_eq!(refused(large(2_100)), Some(RefusalKind::Quota));
        // Control characters are six to one in the attribute.
        let control = vec![("k".into(), "\u{1}".repeat(400))];
        let control = Arrival { user_properties: control, ..large(0) };
        assert_eq!(refused(control), Some(RefusalKind::Quota));
        let passing = Arrival { retained: false, ..large(2_100) };
        assert_eq!(refused(passing), None, "it is not kept");
        let long = format!("mesh/app/{}", "x".repeat(300));
        let kept = Arrival { retained: true, ..arrival(&long, "{}", false) };
        assert_eq!(refused(kept), Some(RefusalKind::Topic));
    }

    #[test]
    fn only_filters_that_can_match_something_may_be_subscribed() {
        let door = door("operator");
        let by = By::new(Way::Mqtt, "x");
        for filter in ["#", "mesh/#", "+/nodes/#", "mesh/hub"] {
            assert!(door.may_subscribe(&by, filter), "{filter}");
        }
        for filter in ["$SYS/#", "other/#", "meshes/#", ""] {
            assert!(!door.may_subscribe(&by, filter), "{filter}");
        }
    }

    #[test]
    fn what_no_rule_allows_is_denied_and_said() {
        let door = door("dashboard");
        let by = By::new(Way::Mqtt, "x");
        assert!(door.may_subscribe(&by, "mesh/#"));
        assert!(!door.may_publish(&by, "mesh/app/x"));
        assert!(!door.may_publish(&by, "mesh/hub"));
        let told = door.inbox.take_now();
        assert!(
            matches!(&told[..], [(Event::Refused { .. }, None), (Event::Refused { .. }, None)]),
            "{told:?}"
        );
    }

    #[test]
    fn nobody_has_the_hub_answer_where_he_could_not_write() {
        let (anybody, nobody) = (door("operator"), door("dashboard"));
        let asked = |response: Option<&str>, payload| Arrival {
            response_topic: response.map(Into::into),
            ..arrival("mesh/announce", payload, false)
        };
        let with_reply_to = r#"{"reason":"x","reply_to":"mesh/app/config"}"#;
        for asked in [asked(Some("mesh/app/config"), "x"), asked(None, with_reply_to)] {
            assert!(anybody.admit(asked.clone()).is_ok());
            let refusal = nobody.admit(asked).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::NotAuthorized);
            let told = nobody.inbox.take_now();
            let unanswered = matches!(&told[..], [(Event::Refused { reply: None, .. }, None)]);
            assert!(unanswered, "the refusal itself would be the answer: {told:?}");
        }
        let mut own = asked(Some("mesh/app/replies/anna/1"), "x");
        own.by.user = Some("anna".into());
        assert!(nobody.admit(own).is_ok());
    }
}
