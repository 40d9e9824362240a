//! What somebody announces before doing something that may break things.

use super::Malformed;
use crate::name::{AnnouncementId, Topic};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest reason in bytes: it has to fit an IRC message and a property of a snapshot.
const REASON_MAX_BYTES: usize = 1024;
/// Longest name of a source in bytes.
const SOURCE_MAX_BYTES: usize = 128;
/// Longest window.
const WINDOW_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The body of a request, as written by a caller.
#[derive(Debug, Deserialize)]
struct Body {
    reason: String,
    source: Option<String>,
    flush: Option<bool>,
    id: Option<AnnouncementId>,
    #[serde(default, with = "humantime_serde")]
    window: Option<Duration>,
    reply_to: Option<String>,
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

/// A request: "I am about to do something that may break things."
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Announcement {
    /// Why; one line, never empty.
    pub reason: String,
    /// What is announcing, such as the name of a service.
    pub source: Option<String>,
    /// "This may really break things": capture the running state of every node first.
    pub flush: bool,
    /// The caller's idempotency key.
    pub id: Option<AnnouncementId>,
    /// How long the risky act may take.
    #[serde(with = "humantime_serde")]
    pub window: Option<Duration>,
    /// Where to answer, for callers without MQTT 5.
    pub reply_to: Option<Topic>,
    /// Fields the contract does not know, kept for the journal.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

impl Announcement {
    /// Reads a JSON object, or any other text as the reason.
    ///
    /// # Errors
    /// Not UTF-8, no reason, or a field that is not what it should be.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(payload).map_err(|_| Malformed::NotUtf8)?.trim();
        let body = if text.starts_with('{') {
            serde_json::from_str(text).map_err(Malformed::json)?
        } else {
            // A client that writes its text as JSON means the text.
            let unquoted = serde_json::from_str::<String>(text).ok();
            Body {
                reason: unquoted.unwrap_or_else(|| text.to_owned()),
                source: None,
                flush: None,
                id: None,
                window: None,
                reply_to: None,
                more: serde_json::Map::new(),
            }
        };
        Self::check(body)
    }

    fn check(body: Body) -> Result<Self, Malformed> {
        let reason = one_line(&body.reason);
        if reason.is_empty() {
            return Err(Malformed::field("reason", "must say what is about to happen"));
        }
        if reason.len() > REASON_MAX_BYTES {
            return Err(Malformed::field("reason", "has at most 1,024 bytes"));
        }
        let source = body.source.map(|s| one_line(&s)).filter(|s| !s.is_empty());
        if source.as_ref().is_some_and(|s| s.len() > SOURCE_MAX_BYTES) {
            return Err(Malformed::field("source", "has at most 128 bytes"));
        }
        if body.window.is_some_and(|w| w.is_zero() || w > WINDOW_MAX) {
            return Err(Malformed::field("window", "is between 1ms and 7days"));
        }
        let reply_to = body.reply_to.as_deref().map(reply_topic).transpose()?;
        Ok(Self {
            reason,
            source,
            flush: body.flush.unwrap_or(false),
            id: body.id,
            window: body.window,
            reply_to,
            more: body.more,
        })
    }
}

/// Checks where an answer is wanted.
///
/// Only below `mesh/app/`: the hub answers in its own name, and a caller must
/// not be able to have it write a topic that only the hub may write.
///
/// # Errors
/// Not a topic, or not below `mesh/app/`.
pub fn reply_topic(raw: &str) -> Result<Topic, Malformed> {
    let topic =
        Topic::parse(raw).map_err(|e| Malformed::field("reply_to", &format!("is refused: {e}")))?;
    if topic.is_app() {
        Ok(topic)
    } else {
        Err(Malformed::field("reply_to", "answers go below mesh/app/, such as mesh/app/replies/me"))
    }
}

/// White space and control characters become single spaces.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_text_is_the_reason() {
        let announcement = Announcement::parse(b"  migrating\r\nthe schema \x07 \n").unwrap();
        assert_eq!(announcement.reason, "migrating the schema");
        assert_eq!(announcement.id, None);
        assert_eq!(Announcement::parse(br#""quoted \u00e9""#).unwrap().reason, "quoted é");
    }

    #[test]
    fn a_field_that_is_null_is_a_field_that_is_not_there() {
        let body =
            br#"{"reason":"r","source":null,"flush":null,"id":null,"window":null,"reply_to":null}"#;
        assert_eq!(Announcement::parse(body), Announcement::parse(b"r"));
    }

    #[test]
    fn every_field_of_the_object_is_read() {
        let announcement = Announcement::parse(
            br#"{"reason":"r","source":"crm-api","flush":true,"id":"k-1","window":"10m",
                 "reply_to":"mesh/app/replies/crm","ticket":42}"#,
        )
        .unwrap();
        assert_eq!(announcement.source.as_deref(), Some("crm-api"));
        assert!(announcement.flush);
        assert_eq!(announcement.id.unwrap().as_str(), "k-1");
        assert_eq!(announcement.window, Some(Duration::from_secs(600)));
        assert_eq!(announcement.reply_to.unwrap().as_str(), "mesh/app/replies/crm");
        assert_eq!(announcement.more["ticket"], 42);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bad, named) in [
            (&b""[..], "reason"),
            (b" \n", "reason"),
            (b"\xff", "UTF-8"),
            (b"{", "JSON"),
            (br#"{"source":"x"}"#, "reason"),
            (br#"{"reason":""}"#, "reason"),
            (br#"{"reason":7}"#, "string"),
            (br#"{"reason":"r","flush":"yes"}"#, "boolean"),
            (br#"{"reason":"r","id":"a/b"}"#, "announcement id"),
            (br#"{"reason":"r","window":"soon"}"#, "duration"),
            (br#"{"reason":"r","window":"0s"}"#, "window"),
            (br#"{"reason":"r","reply_to":"mesh/hub"}"#, "mesh/app/"),
            (br#"{"reason":"r","reply_to":"mesh/app/+"}"#, "wildcard"),
        ] {
            let error = Announcement::parse(bad).unwrap_err().to_string();
            assert!(error.contains(named), "{error:?} for {}", String::from_utf8_lossy(bad));
        }
        let long = "x".repeat(REASON_MAX_BYTES + 1);
        assert!(Announcement::parse(long.as_bytes()).unwrap_err().to_string().contains("1,024"));
    }
}
