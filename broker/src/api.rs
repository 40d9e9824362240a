//! What the host of the broker must answer, and the words both speak in.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::SystemTime};

use crate::properties::Properties;

/// A boxed future, so that the traits can be used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How hard the protocol tries to deliver a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0: may be lost with the connection.
    #[default]
    AtMostOnce = 0,
    /// QoS 1: acknowledged, may come twice.
    AtLeastOnce = 1,
    /// QoS 2: acknowledged in two steps, comes once.
    ExactlyOnce = 2,
}

impl QoS {
    pub(crate) fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::AtMostOnce,
            1 => Self::AtLeastOnce,
            _ => Self::ExactlyOnce,
        }
    }
}

/// Who sent something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The client id, given or assigned.
    pub client_id: Box<str>,
    /// The user name the authority settled on.
    pub user: Option<Box<str>>,
    /// Where the client connected from. `None` is the program the broker is embedded in.
    pub address: Option<SocketAddr>,
    /// What the authority noted when it let the client in, such as which of its rules counted
    /// then. The broker does not look at it.
    pub note: u64,
}

/// What a client shows to get in.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The client id, given or assigned.
    pub client_id: &'a str,
    /// The user name; an empty one is still one.
    pub user: Option<&'a str>,
    /// The password: any bytes.
    pub password: Option<&'a [u8]>,
    /// The common name of the client certificate, if the client showed one and it was verified.
    pub certificate: Option<&'a str>,
    /// Where the client connects from.
    pub address: SocketAddr,
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("client_id", &self.client_id)
            .field("user", &self.user)
            .field("password", &self.password.map(|_| "…"))
            .field("certificate", &self.certificate)
            .field("address", &self.address)
            .finish()
    }
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectRefused {
    /// Wrong user name or password.
    #[error("wrong user name or password")]
    BadCredentials,
    /// Known, but not allowed to connect.
    #[error("not authorized")]
    NotAuthorized,
    /// This client id is not acceptable.
    #[error("client id refused")]
    ClientId,
    /// Shut out by an administrator.
    #[error("banned")]
    Banned,
    /// Cannot be decided now.
    #[error("unavailable")]
    Unavailable,
}

/// Who may do what. Verdicts are kept until
/// [`Broker::rules_changed`](crate::Broker::rules_changed) is called.
pub trait Authority: Send + Sync + 'static {
    /// Settles who a client is. The broker limits the time it waits.
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
    ) -> BoxFuture<'a, Result<Arc<Identity>, ConnectRefused>>;

    /// May this client publish to this topic? Also asked for its will when it connects.
    fn may_publish(&self, who: &Identity, topic: &str) -> bool;

    /// May this client subscribe to this filter? Shared subscriptions are asked without group.
    fn may_subscribe(&self, who: &Identity, filter: &str) -> bool;

    /// Is a version 5 client told that it is not authorized to subscribe (0x87)? Otherwise it hears
    /// 0x80, which says that the server does not wish to reveal the reason.
    fn reveals_denials(&self) -> bool {
        true
    }

    /// May this client, let in under earlier rules, go on? Asked after
    /// [`Broker::rules_changed`](crate::Broker::rules_changed), also for sessions whose clients
    /// are away; a session that may not ends.
    fn may_stay(&self, _who: &Identity) -> bool {
        true
    }
}

/// Is the last message of a topic retained?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retention {
    /// The packet's RETAIN flag decides.
    #[default]
    AsPublished,
    /// Always, whatever the flag says.
    Always,
    /// Never, whatever the flag says.
    Never,
}

/// A message at the door.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Who publishes it; for a will the client that died.
    pub by: &'a Arc<Identity>,
    /// Its topic, already found valid.
    pub topic: &'a str,
    /// Its payload.
    pub payload: &'a [u8],
    /// The QoS it was published with.
    pub qos: QoS,
    /// The packet's RETAIN flag.
    pub retain: bool,
    /// Will it be retained, after [`Retention`]? An empty payload then removes.
    pub retained: bool,
    /// Version 5 properties that travel with it.
    pub properties: Properties<'a>,
    /// When it loses its value.
    pub expires_at: Option<SystemTime>,
    /// When it came in.
    pub received_at: SystemTime,
    /// Does anybody hear whether it was taken? Not at QoS 0, and a will has nobody left.
    pub awaited: bool,
}

/// The host's verdict on a message.
pub enum Admitted {
    /// Not taken: neither stored nor delivered, and the publisher is told.
    Refused(Refusal),
    /// Taken; acknowledged when it is in the queues.
    Accepted,
    /// Taken; acknowledged when the future resolves. Acknowledgements keep their order.
    AcceptedWhen(BoxFuture<'static, Result<(), Refusal>>),
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
            Self::Accepted => f.write_str("Accepted"),
            Self::AcceptedWhen(_) => f.write_str("AcceptedWhen(..)"),
        }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message refused: {text}")]
pub struct Refusal {
    /// The code a version 5 publisher receives.
    pub reason: RefusalReason,
    /// For people; sent as reason string if the publisher wants it and it fits (1024 bytes).
    pub text: Box<str>,
    /// Would the same message be taken later? A version 3.1.1 publisher cannot be told no: where
    /// this is false its message is acknowledged and dropped; where it is true it gets no
    /// acknowledgement and its connection ends, so that it sends the message again.
    pub temporary: bool,
}

/// MQTT 5 reason codes of a refused PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalReason {
    /// No other code fits.
    Unspecified = 0x80,
    /// Valid, but not accepted here.
    ImplementationSpecific = 0x83,
    /// The publisher may not.
    NotAuthorized = 0x87,
    /// The topic is not accepted here.
    TopicNameInvalid = 0x90,
    /// A limit is reached.
    QuotaExceeded = 0x97,
    /// The payload breaks the topic's contract.
    PayloadFormatInvalid = 0x99,
}

/// Which messages the host takes.
///
/// Called from the middle of the broker's work: nothing here may block, publish, or call the
/// broker in any other way.
pub trait Admission: Send + Sync + 'static {
    /// Is a topic retained? Cached per connection and topic.
    fn retention(&self, topic: &str) -> Retention;

    /// Takes or refuses a message. Called once for each message of every door (network, will,
    /// [`Broker::publish`](crate::Broker::publish)), in the order subscribers see them.
    fn admit(&self, message: &Incoming<'_>) -> Admitted;

    /// `None`: go on. Otherwise the host's queue is full and publishers on the network are not
    /// read from until the future resolves.
    fn ready(&self) -> Option<BoxFuture<'_, ()>>;
}
