//! What unit tests of several modules need: a broker without sockets.

use std::sync::{Arc, Mutex};

use crate::{
    api::{
        Admission, Admitted, Authority, BoxFuture, ConnectRefused, Credentials, Identity, Incoming,
        Refusal, RefusalReason, Retention,
    },
    codec::publish::Publish,
    fanout::{Fanout, Turn, Verdict},
    lock::{lock, write},
    retained::MemoryStore,
    session::{Session, queue::Owed, sessions::Key},
    settings::Limits,
    shared::Shared,
    subscriptions::Options,
};

pub(crate) const OPTIONS: Options =
    Options { qos: 2, no_local: false, retain_as_published: false, id: 0 };

/// Lets everybody in, keeps what it admitted, and follows rules that topics name: `always/…` and
/// `never/…` for retention, `refused` and `forbidden` for what is not taken.
#[derive(Default)]
pub(crate) struct Host(pub(crate) Mutex<Vec<String>>);

impl Authority for Host {
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
    ) -> BoxFuture<'a, Result<Arc<Identity>, ConnectRefused>> {
        Box::pin(std::future::ready(Ok(identity(credentials.client_id))))
    }

    fn may_publish(&self, _who: &Identity, topic: &str) -> bool {
        topic != "forbidden"
    }

    fn may_subscribe(&self, _who: &Identity, _filter: &str) -> bool {
        true
    }
}

impl Admission for Host {
    fn retention(&self, topic: &str) -> Retention {
        match topic.split('/').next() {
            Some("always") => Retention::Always,
            Some("never") => Retention::Never,
            _ => Retention::AsPublished,
        }
    }

    fn admit(&self, message: &Incoming<'_>) -> Admitted {
        if message.topic == "refused" {
            let (reason, text) = (RefusalReason::PayloadFormatInvalid, "no".into());
            return Admitted::Refused(Refusal { reason, text, temporary: false });
        }
        lock(&self.0).push(format!("{} {}", message.by.client_id, message.topic));
        Admitted::Accepted
    }

    fn ready(&self) -> Option<BoxFuture<'_, ()>> {
        None
    }
}

pub(crate) fn identity(client_id: &str) -> Arc<Identity> {
    Arc::new(Identity { client_id: client_id.into(), user: None, address: None, note: 0 })
}

pub(crate) fn message<'a>(topic: &'a str, payload: &'a str, qos: u8, retain: bool) -> Publish<'a> {
    Publish {
        qos,
        retain,
        packet_id: 1,
        topic: topic.as_bytes(),
        properties: (&[][..]).into(),
        payload: payload.as_bytes(),
        alias: None,
        expiry_s: None,
        user_properties: 0,
        raw: None,
        version5: true,
    }
}

/// A broker nobody is connected to.
pub(crate) struct Bench {
    pub(crate) shared: Arc<Shared>,
    pub(crate) host: Arc<Host>,
    pub(crate) store: Arc<MemoryStore>,
}

impl Bench {
    pub(crate) fn new(limits: Limits) -> Self {
        let (host, store) = (Arc::new(Host::default()), Arc::new(MemoryStore::new()));
        let shared = Shared::new(limits, host.clone(), host.clone(), store.clone());
        Self { shared: Arc::new(shared), host, store }
    }

    /// A session that is online, but whose socket nobody writes to.
    pub(crate) fn session(&self, id: &str) -> Arc<Session> {
        let (who, uid) = (identity(id), self.shared.next_uid());
        let found = lock(&self.shared.sessions).find_or_make(
            Key::new(None, id),
            &who,
            uid,
            &self.shared.limits,
        );
        let session = found.unwrap();
        {
            let mut queue = lock(&session.queue);
            queue.online = true;
            queue.ticket = 1;
            queue.owed = Owed { version5: true, receive_maximum: 10, packet_max_bytes: usize::MAX };
        }
        session.ticket.store(1, std::sync::atomic::Ordering::SeqCst);
        lock(&self.shared.online).insert(session.uid, session.clone());
        session
    }

    pub(crate) fn subscribe(&self, session: &Arc<Session>, filter: &str, options: Options) {
        let (group, inner) = crate::topic::split_share(filter).unwrap();
        write(&self.shared.tree).insert(group, inner, session, options);
        lock(&session.queue).subscriptions.insert(filter.into(), options);
        self.shared.new_epoch();
    }

    /// Publishes a batch; gives whether each was taken.
    pub(crate) fn publish(&self, fanout: &mut Fanout, batch: &[Publish<'_>]) -> Vec<bool> {
        let (mut turn, by) = (Turn::new(&self.shared), identity("publisher"));
        let taken = batch
            .iter()
            .map(|message| {
                !matches!(fanout.publish(&mut turn, &by, message), Ok(Verdict::Refused(_)))
            })
            .collect();
        fanout.flush(&self.shared);
        taken
    }

    /// What the session would be sent now, as `topic payload qos retain`.
    pub(crate) fn sent(&self, session: &Session) -> Vec<String> {
        let mut out = Vec::new();
        let filled = lock(&session.queue).fill(&mut out, &self.shared.limits, self.shared.now_ms());
        if let Some(chunk) = filled.whole {
            out.extend_from_slice(chunk.bytes());
        }
        let (mut rest, mut sent) = (&out[..], Vec::new());
        while let Ok(Some(frame)) = crate::codec::frame::first_frame(rest, usize::MAX) {
            let packet = &rest[..frame.end];
            if packet[0] >> 4 == 3 {
                let publish = crate::codec::publish::parse_any(packet, frame.body);
                let topic = std::str::from_utf8(publish.topic).unwrap();
                let payload = std::str::from_utf8(publish.payload).unwrap();
                sent.push(format!("{topic} {payload} {} {}", publish.qos, publish.retain));
            } else {
                sent.push(format!("packet {:#04x}", packet[0]));
            }
            rest = &rest[frame.end..];
        }
        sent
    }
}
