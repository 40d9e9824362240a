//! Bytes to packets and back, for both versions of the protocol. Hostile frames end here.
//!
//! Control packets go through rumqttc's codecs where these are strict enough; PUBLISH, CONNECT and
//! acknowledgements are read by our own code (see the modules for the reasons).

pub(crate) mod connect;
pub(crate) mod control;
pub(crate) mod frame;
pub(crate) mod properties;
pub(crate) mod publish;
pub(crate) mod reply;

/// Why a connection ends or a request is refused: MQTT 5 reason codes. Only their meaning counts
/// for a 3.1.1 client, which sees a closed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reason {
    Malformed = 0x81,
    Protocol = 0x82,
    Implementation = 0x83,
    UnsupportedVersion = 0x84,
    ClientId = 0x85,
    Credentials = 0x86,
    NotAuthorized = 0x87,
    Unavailable = 0x88,
    ServerBusy = 0x89,
    Banned = 0x8A,
    ShuttingDown = 0x8B,
    AuthMethod = 0x8C,
    KeepAlive = 0x8D,
    TakenOver = 0x8E,
    TopicInvalid = 0x90,
    ReceiveMaximum = 0x93,
    AliasInvalid = 0x94,
    TooLarge = 0x95,
    Quota = 0x97,
    Administrative = 0x98,
}

impl Reason {
    const ALL: [Self; 20] = [
        Self::Malformed,
        Self::Protocol,
        Self::Implementation,
        Self::UnsupportedVersion,
        Self::ClientId,
        Self::Credentials,
        Self::NotAuthorized,
        Self::Unavailable,
        Self::ServerBusy,
        Self::Banned,
        Self::ShuttingDown,
        Self::AuthMethod,
        Self::KeepAlive,
        Self::TakenOver,
        Self::TopicInvalid,
        Self::ReceiveMaximum,
        Self::AliasInvalid,
        Self::TooLarge,
        Self::Quota,
        Self::Administrative,
    ];

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == code)
    }
}
