//! The bus on the hub's own broker.

use super::{
    Admitted, Arrival, BoxFuture, Door, Page, Publication, PublishError, Publisher, Refusal,
    RefusalKind, RetainedSet, Retention,
};
use crate::access::{Access, Claim, Denied};
use crate::name::{By, Door as DoorName, Filter, Topic};
use bytes::Bytes;
use jiff::Timestamp;
use meshfs_broker as broker;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};

/// Expired messages that are swept at once, while nobody can publish retained ones.
const SWEEP_MAX: usize = 256;

/// A retained message: what the tree gives the broker to begin with, and what readers get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Who published it.
    pub by: By,
    /// Its topic.
    pub topic: Topic,
    /// Its payload.
    pub payload: Bytes,
    /// The quality of service it was published with.
    pub qos: u8,
    /// MQTT 5 content type.
    pub content_type: Option<String>,
    /// MQTT 5 user properties.
    pub user_properties: Vec<(String, String)>,
    /// When it is to be forgotten.
    pub expires_at: Option<Timestamp>,
    /// When it came.
    pub received_at: Timestamp,
}

/// The embedded broker.
#[derive(Debug, Clone)]
pub struct EmbeddedBus {
    broker: broker::Broker,
    store: Arc<broker::MemoryStore>,
}

impl EmbeddedBus {
    /// Starts the broker with the retained messages of the tree.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(
        settings: broker::Settings,
        door: Arc<dyn Door>,
        access: Arc<Access>,
        retained: impl IntoIterator<Item = Restored>,
    ) -> Result<Self, broker::StartError> {
        let store = Arc::new(broker::MemoryStore::new());
        for message in retained {
            broker::RetainedStore::put(store.as_ref(), Arc::new(message.into()));
        }
        let guard = Arc::new(Guard { door, access });
        let broker = broker::Broker::start(settings, guard.clone(), guard, store.clone()).await?;
        Ok(Self { broker, store })
    }

    /// The address that clients connect to.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.broker.addresses().first().copied()
    }

    /// The address of the TLS port, if there is one.
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.broker.addresses().get(1).copied()
    }

    /// Serves MQTT on a connection whose WebSocket handshake is done; `certificate` is the name in
    /// the client's verified certificate.
    pub fn serve_websocket<T>(&self, stream: T, peer: SocketAddr, certificate: Option<Box<str>>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.broker.serve_websocket(stream, peer, certificate);
    }

    /// Counters of the broker.
    #[must_use]
    pub fn stats(&self) -> broker::Stats {
        self.broker.stats()
    }

    /// Has everybody's rights looked at again, because the rules have changed.
    pub fn rules_changed(&self) {
        self.broker.rules_changed();
    }

    /// Forgets retained messages that have expired and tells which; what it tells comes after
    /// everything that was admitted before and before everything that is admitted later.
    pub fn sweep(&self, mut forgotten: impl FnMut(Topic)) {
        loop {
            let swept = self.broker.in_order(|| {
                let swept = self.store.sweep(SystemTime::now(), SWEEP_MAX);
                let topics = swept.iter().filter_map(|message| Topic::parse(&message.topic).ok());
                topics.for_each(&mut forgotten);
                swept.len()
            });
            if swept < SWEEP_MAX {
                return;
            }
        }
    }

    /// Says goodbye to every client and frees the port.
    pub async fn shutdown(&self, limit: Duration) {
        self.broker.shutdown(limit).await;
    }
}

impl Publisher for EmbeddedBus {
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let (by, topic, message) = outgoing(publication);
            let published = self.broker.publish(&Arc::new(by), message).await;
            published.map_err(|refusal| publish_error(topic, refusal))
        })
    }

    fn say(&self, publication: Publication) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let (by, topic, message) = outgoing(publication);
            let said = self.broker.hand_in(&Arc::new(by), message).await;
            said.map(drop).map_err(|refusal| publish_error(topic, refusal))
        })
    }
}

fn outgoing(publication: Publication) -> (broker::Identity, Topic, broker::Outgoing) {
    let Publication { by, topic, payload, retain, correlation } = publication;
    let mut properties = broker::PropertiesBuilder::new();
    if let Some(correlation) = &correlation {
        properties = properties.correlation_data(correlation);
    }
    let message = broker::Outgoing {
        topic: topic.as_str().into(),
        payload,
        qos: broker::QoS::AtLeastOnce,
        retain,
        properties: properties.build(),
        expiry: None,
    };
    (identity(by), topic, message)
}

fn publish_error(topic: Topic, refusal: broker::Refusal) -> PublishError {
    let broker::Refusal { text: why, temporary, .. } = refusal;
    if temporary {
        PublishError::NotNow { topic, why }
    } else {
        PublishError::Refused { topic, why }
    }
}

impl RetainedSet for EmbeddedBus {
    fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Page {
        let page = self.store.page(filter.as_str(), after, limit);
        let messages = page.messages.iter().filter_map(|message| restored(message));
        Page { messages: messages.collect(), next: page.next.map(|next| (*next).into()) }
    }

    fn get(&self, topic: &Topic) -> Option<Restored> {
        let message = self.store.get(topic.as_str())?;
        restored(&message).filter(|_| !message.is_expired(SystemTime::now()))
    }
}

/// A message of the broker in the hub's words; none if it is outside the mesh, which the door
/// does not let in.
fn restored(message: &broker::Retained) -> Option<Restored> {
    let properties = broker::Properties::new(&message.properties);
    Some(Restored {
        by: by(&message.by),
        topic: Topic::parse(&message.topic).ok()?,
        payload: message.payload.clone(),
        qos: message.qos as u8,
        content_type: properties.content_type().map(Into::into),
        user_properties: properties.user().map(|(k, v)| (k.into(), v.into())).collect(),
        expires_at: message.expires_at.and_then(timestamp),
        received_at: timestamp(message.received_at).unwrap_or_default(),
    })
}

/// The hub's door and its rules, as the broker asks for them.
struct Guard {
    door: Arc<dyn Door>,
    access: Arc<Access>,
}

impl broker::Authority for Guard {
    fn authenticate<'a>(
        &'a self,
        credentials: broker::Credentials<'a>,
    ) -> BoxFuture<'a, Result<Arc<broker::Identity>, broker::ConnectRefused>> {
        Box::pin(async move {
            let claim = Claim {
                user: credentials.user,
                password: credentials.password,
                certificate: credentials.certificate,
                address: credentials.address.ip(),
            };
            let guest = self.access.admit(claim).await.map_err(refused)?;
            Ok(Arc::new(broker::Identity {
                client_id: credentials.client_id.into(),
                user: guest.user,
                address: Some(credentials.address),
                note: guest.reading,
            }))
        })
    }

    fn may_publish(&self, who: &broker::Identity, topic: &str) -> bool {
        who.address.is_none() || self.door.may_publish(&by(who), topic)
    }

    fn may_subscribe(&self, who: &broker::Identity, filter: &str) -> bool {
        self.door.may_subscribe(&by(who), filter)
    }

    fn may_stay(&self, who: &broker::Identity) -> bool {
        self.access.may_stay(who.user.as_deref(), who.note)
    }
}

fn refused(denied: Denied) -> broker::ConnectRefused {
    match denied {
        Denied::Wrong => broker::ConnectRefused::BadCredentials,
        Denied::Anonymous => broker::ConnectRefused::NotAuthorized,
        Denied::ShutOut(_) => broker::ConnectRefused::Banned,
        Denied::Busy => broker::ConnectRefused::Unavailable,
    }
}

impl broker::Admission for Guard {
    fn retention(&self, topic: &str) -> broker::Retention {
        match self.door.retention(topic) {
            Retention::Always => broker::Retention::Always,
            Retention::Never => broker::Retention::Never,
            Retention::AsPublished => broker::Retention::AsPublished,
        }
    }

    fn admit(&self, message: &broker::Incoming<'_>) -> broker::Admitted {
        let properties = message.properties;
        let arrival = Arrival {
            by: by(message.by),
            inside: message.by.address.is_none(),
            topic: message.topic.into(),
            payload: Bytes::copy_from_slice(message.payload),
            qos: message.qos as u8,
            retain: message.retain,
            retained: message.retained,
            content_type: properties.content_type().map(Into::into),
            user_properties: properties.user().map(|(k, v)| (k.into(), v.into())).collect(),
            response_topic: properties.response_topic().map(Into::into),
            correlation: properties.correlation_data().map(Bytes::copy_from_slice),
            expires_at: message.expires_at.and_then(timestamp),
            received_at: timestamp(message.received_at).unwrap_or_default(),
            awaited: message.awaited,
        };
        match self.door.admit(arrival) {
            Ok(Admitted::Now) => broker::Admitted::Accepted,
            Ok(Admitted::When(kept)) => broker::Admitted::AcceptedWhen(Box::pin(async move {
                kept.await.map_err(broker::Refusal::from)
            })),
            Err(refusal) => broker::Admitted::Refused(refusal.into()),
        }
    }

    fn ready(&self) -> Option<BoxFuture<'_, ()>> {
        self.door.ready()
    }
}

impl From<Refusal> for broker::Refusal {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal.kind {
            RefusalKind::Topic => broker::RefusalReason::TopicNameInvalid,
            RefusalKind::NotAuthorized => broker::RefusalReason::NotAuthorized,
            RefusalKind::Payload => broker::RefusalReason::PayloadFormatInvalid,
            RefusalKind::NotYet | RefusalKind::NotNow => {
                broker::RefusalReason::ImplementationSpecific
            }
            RefusalKind::Quota | RefusalKind::DiskFull => broker::RefusalReason::QuotaExceeded,
        };
        Self { reason, text: refusal.why, temporary: refusal.kind.is_temporary() }
    }
}

impl From<Restored> for broker::Retained {
    fn from(message: Restored) -> Self {
        let mut properties = broker::PropertiesBuilder::new();
        if let Some(content_type) = &message.content_type {
            properties = properties.content_type(content_type);
        }
        for (key, value) in &message.user_properties {
            properties = properties.user(key, value);
        }
        let qos = match message.qos {
            0 => broker::QoS::AtMostOnce,
            1 => broker::QoS::AtLeastOnce,
            _ => broker::QoS::ExactlyOnce,
        };
        Self {
            topic: message.topic.as_str().into(),
            payload: message.payload,
            qos,
            properties: properties.build(),
            expires_at: message.expires_at.map(system_time),
            received_at: system_time(message.received_at),
            by: Arc::new(identity(message.by)),
        }
    }
}

/// A sender that does not come from the network, as the broker keeps it.
fn identity(by: By) -> broker::Identity {
    let client_id = format!("{}:{}", by.door.as_str(), by.client).into();
    broker::Identity { client_id, user: by.user, address: None, note: 0 }
}

/// The sender in the hub's words. What the program itself publishes carries its
/// door in front of the client; nobody on the network is without an address.
fn by(who: &broker::Identity) -> By {
    let user = who.user.clone();
    if who.address.is_some() {
        return By { door: DoorName::Mqtt, client: who.client_id.clone(), user };
    }
    let (door, client) = who.client_id.split_once(':').unwrap_or(("hub", &who.client_id));
    let door = DoorName::parse(door).unwrap_or(DoorName::Hub);
    By { door, client: client.into(), user }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(time).ok().map(crate::clock::to_millis)
}

/// A time before 1970 has no use on a bus and becomes 1970.
fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::try_from(at.as_duration()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_was_restored_with_its_publisher() {
        for door in [DoorName::Mqtt, DoorName::Irc] {
            let message = Restored {
                by: By { door, client: "a:b".into(), user: Some("alice".into()) },
                topic: Topic::parse("mesh/app/x").unwrap(),
                payload: Bytes::from_static(b"p"),
                qos: 1,
                content_type: Some("text/plain".into()),
                user_properties: vec![("k".into(), "v".into()), ("k".into(), "é".into())],
                expires_at: Some("2026-06-16T14:19:07Z".parse().unwrap()),
                received_at: "2026-06-16T14:19:06.123Z".parse().unwrap(),
            };
            assert_eq!(restored(&message.clone().into()), Some(message));
        }
    }
}
