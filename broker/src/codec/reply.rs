//! What the broker answers. CONNACK, SUBACK and UNSUBACK are written by rumqttc's codecs, the
//! small fixed packets here: the codec's DISCONNECT with a reason is one byte too long.

use bytes::BytesMut;
use rumqttc::{
    mqttbytes::{self, v4},
    v5::mqttbytes::{self as mqttbytes5, v5},
};

use super::{
    Reason,
    control::RETAINED_COUNT,
    frame::{put_variable_int, variable_int_size},
    properties::REASON_STRING,
};

pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;
pub(crate) const PACKET_ID_UNKNOWN: u8 = 0x92;
pub(crate) const PING_RESPONSE: [u8; 2] = [0xD0, 0];

/// What a version 5 client is told when it is let in.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) assigned_client_id: Option<String>,
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) keep_alive_s: Option<u16>,
    pub(crate) packet_max_bytes: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) topic_alias_maximum: u16,
}

/// CONNACK for a client that is let in.
pub(crate) fn welcome(session_present: bool, version5: bool, terms: Terms) -> Vec<u8> {
    let mut out = BytesMut::new();
    let written = if version5 {
        let properties = v5::ConnAckProperties {
            session_expiry_interval: terms.session_expiry_s,
            receive_max: Some(terms.receive_maximum),
            max_packet_size: Some(terms.packet_max_bytes),
            assigned_client_identifier: terms.assigned_client_id,
            topic_alias_max: Some(terms.topic_alias_maximum),
            max_qos: None,
            retain_available: None,
            reason_string: None,
            user_properties: vec![],
            wildcard_subscription_available: None,
            subscription_identifiers_available: None,
            shared_subscription_available: None,
            server_keep_alive: terms.keep_alive_s,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        };
        let code = v5::ConnectReturnCode::Success;
        v5::ConnAck { session_present, code, properties: Some(properties) }.write(&mut out).is_ok()
    } else {
        let code = v4::ConnectReturnCode::Success;
        v4::ConnAck { session_present, code }.write(&mut out).is_ok()
    };
    debug_assert!(written, "a CONNACK is always short enough");
    out.into()
}

/// CONNACK for a client that is not let in.
pub(crate) fn unwelcome(reason: Reason, version5: bool) -> Vec<u8> {
    if version5 {
        return vec![0x20, 3, 0, reason as u8, 0];
    }
    let code = match reason {
        Reason::UnsupportedVersion => 1,
        Reason::ClientId => 2,
        Reason::Credentials => 4,
        Reason::NotAuthorized | Reason::Banned | Reason::AuthMethod => 5,
        Reason::Unavailable | Reason::ServerBusy | Reason::Quota | Reason::ShuttingDown => 3,
        _ => return Vec::new(), // 3.1.1 has no code for a malformed packet: only close
    };
    vec![0x20, 2, 0, code]
}

/// What becomes of one filter of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Granted {
    Qos(u8),
    NotAuthorized,
    Unspecified,
    Invalid,
    Quota,
}

/// SUBACK with one answer for each filter.
pub(crate) fn subscribed(
    packet_id: u16,
    granted: &[Granted],
    retained: Option<usize>,
    version5: bool,
) -> Vec<u8> {
    let mut out = BytesMut::new();
    let written = if version5 {
        use v5::SubscribeReasonCode as Code;
        let code = |granted: &Granted| match granted {
            Granted::Qos(qos) => Code::Success(mqttbytes5::qos(*qos).unwrap_or_default()),
            Granted::NotAuthorized => Code::NotAuthorized,
            Granted::Unspecified => Code::Unspecified,
            Granted::Invalid => Code::TopicFilterInvalid,
            Granted::Quota => Code::QuotaExceeded,
        };
        let return_codes = granted.iter().map(code).collect();
        let properties = retained.map(|count| v5::SubAckProperties {
            reason_string: None,
            user_properties: vec![(RETAINED_COUNT.into(), count.to_string())],
        });
        v5::SubAck { pkid: packet_id, return_codes, properties }.write(&mut out).is_ok()
    } else {
        use v4::SubscribeReasonCode as Code;
        let code = |granted: &Granted| match granted {
            Granted::Qos(qos) => mqttbytes::qos(*qos).map_or(Code::Failure, Code::Success),
            _ => Code::Failure,
        };
        let return_codes = granted.iter().map(code).collect();
        v4::SubAck { pkid: packet_id, return_codes }.write(&mut out).is_ok()
    };
    debug_assert!(written, "a SUBACK is shorter than its SUBSCRIBE");
    out.into()
}

/// One UNSUBACK for one UNSUBSCRIBE; `existed` says for each filter whether there was one.
pub(crate) fn unsubscribed(packet_id: u16, existed: &[bool], version5: bool) -> Vec<u8> {
    let mut out = BytesMut::new();
    let written = if version5 {
        use v5::UnsubAckReason as Code;
        let code =
            |existed: &bool| if *existed { Code::Success } else { Code::NoSubscriptionExisted };
        let reasons = existed.iter().map(code).collect();
        v5::UnsubAck { pkid: packet_id, reasons, properties: None }.write(&mut out).is_ok()
    } else {
        v4::UnsubAck { pkid: packet_id }.write(&mut out).is_ok()
    };
    debug_assert!(written, "an UNSUBACK is shorter than its UNSUBSCRIBE");
    out.into()
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP. `code` and `text` are only said to version 5 clients, the
/// text only while the packet stays below `packet_max_bytes`.
pub(crate) fn put_ack(
    out: &mut Vec<u8>,
    kind: u8,
    packet_id: u16,
    code: u8,
    text: &str,
    version5: bool,
    packet_max_bytes: usize,
) {
    let [high, low] = packet_id.to_be_bytes();
    if !version5 || code == 0 {
        out.extend_from_slice(&[kind, 2, high, low]);
        return;
    }
    let text_size = 3 + text.len();
    let length = 3 + variable_int_size(text_size) + text_size;
    let fits = 1 + variable_int_size(length) + length <= packet_max_bytes;
    if text.is_empty() || text.len() > 1024 || !fits {
        out.extend_from_slice(&[kind, 3, high, low, code]);
        return;
    }
    out.push(kind);
    put_variable_int(out, length);
    out.extend_from_slice(&[high, low, code]);
    put_variable_int(out, text_size);
    out.push(REASON_STRING);
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// DISCONNECT from the broker; 3.1.1 has none.
pub(crate) fn goodbye(reason: Reason) -> [u8; 3] {
    [0xE0, 1, reason as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_string_is_left_out_when_it_does_not_fit() {
        let ack = |text: &str, version5, max| {
            let mut out = Vec::new();
            put_ack(&mut out, PUBACK, 258, 0x99, text, version5, max);
            out
        };
        let whole = [0x40, 9, 1, 2, 0x99, 5, REASON_STRING, 0, 2, b'n', b'o'];
        assert_eq!(ack("no", true, 11), whole);
        assert_eq!(ack("no", true, 10), [0x40, 3, 1, 2, 0x99]);
        assert_eq!(ack("no", false, 100), [0x40, 2, 1, 2]);
        assert_eq!(ack(&"x".repeat(2000), true, usize::MAX), [0x40, 3, 1, 2, 0x99]);
    }

    #[test]
    fn acknowledgements_of_both_versions_are_right_on_the_wire() {
        let granted = [Granted::Qos(1), Granted::Invalid, Granted::NotAuthorized];
        assert_eq!(subscribed(7, &granted, None, false), [0x90, 5, 0, 7, 1, 0x80, 0x80]);
        assert_eq!(subscribed(7, &granted, None, true), [0x90, 6, 0, 7, 0, 1, 0x8F, 0x87]);
        assert_eq!(unsubscribed(7, &[true, false], false), [0xB0, 2, 0, 7]);
        assert_eq!(unsubscribed(7, &[true, false], true), [0xB0, 5, 0, 7, 0, 0, 0x11]);
        assert!(unwelcome(Reason::Malformed, false).is_empty());
        assert_eq!(unwelcome(Reason::NotAuthorized, true), [0x20, 3, 0, 0x87, 0]);
    }
}
