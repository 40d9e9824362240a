//! SUBSCRIBE, UNSUBSCRIBE and DISCONNECT through rumqttc's codecs, after the checks they lack:
//! flags of the fixed header, reserved option bits, property sections, NUL in filters.

use bytes::BytesMut;
use rumqttc::{
    mqttbytes::v4,
    v5::mqttbytes::v5::{self, RetainForwardRule},
};

use super::{
    Reason,
    frame::{Frame, Reader},
    properties::{REASON_STRING, SESSION_EXPIRY, SUBSCRIPTION_ID, USER, walk},
};

/// A SUBSCRIBE of either version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub(crate) packet_id: u16,
    /// 0: none given.
    pub(crate) id: u32,
    /// Is the client to be told how many retained messages follow?
    pub(crate) counted: bool,
    pub(crate) filters: Vec<Wanted>,
}

/// The user property that asks for the number of retained messages, and that has it in the SUBACK.
pub(crate) const RETAINED_COUNT: &str = "retained-count";

/// One filter of a SUBSCRIBE with its options.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) filter: String,
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) replay: Replay,
}

/// When retained messages are sent at a SUBSCRIBE (version 5 "retain handling").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replay {
    Always,
    IfNew,
    Never,
}

/// An UNSUBSCRIBE of either version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsubscribe {
    pub(crate) packet_id: u16,
    pub(crate) filters: Vec<String>,
}

/// A client's DISCONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Disconnect {
    pub(crate) publish_will: bool,
    pub(crate) session_expiry_s: Option<u32>,
}

/// The part of a version 5 body before its payload, checked; gives where the payload begins.
fn check_head(body: &[u8], version5: bool, allowed: &[u8]) -> Result<usize, Reason> {
    let mut reader = Reader(body);
    if reader.u16()? == 0 {
        return Err(Reason::Protocol);
    }
    if version5 {
        let length = reader.variable_int()?;
        walk(reader.bytes(length)?, allowed, |property| {
            match (property.id, property.value.number()) {
                (SUBSCRIPTION_ID, 0) => Err(Reason::Protocol),
                _ => Ok(()),
            }
        })?;
    }
    if reader.is_empty() { Err(Reason::Protocol) } else { Ok(body.len() - reader.0.len()) }
}

/// The codec knows only `u8` QoS up to 2 and retain handling up to 2; it lets reserved bits pass.
fn check_options(mut payload: Reader<'_>, version5: bool) -> Result<(), Reason> {
    let reserved = if version5 { 0xC0 } else { 0xFC };
    while !payload.is_empty() {
        payload.text()?;
        if payload.u8()? & reserved != 0 {
            return Err(Reason::Malformed);
        }
    }
    Ok(())
}

/// Reads a SUBSCRIBE frame.
pub(crate) fn subscribe(bytes: &[u8], frame: Frame, version5: bool) -> Result<Subscribe, Reason> {
    if bytes[0] & 15 != 2 {
        return Err(Reason::Malformed);
    }
    let body = &bytes[frame.body..frame.end];
    let payload = check_head(body, version5, &[SUBSCRIPTION_ID, USER])?;
    check_options(Reader(&body[payload..]), version5)?;
    let mut input = BytesMut::from(&bytes[..frame.end]);
    if version5 {
        match v5::Packet::read(&mut input, None) {
            Ok(v5::Packet::Subscribe(subscribe)) => Ok(Subscribe {
                packet_id: subscribe.pkid,
                counted: subscribe.properties.as_ref().is_some_and(|p| {
                    p.user_properties.iter().any(|(name, _)| name == RETAINED_COUNT)
                }),
                id: subscribe.properties.and_then(|p| p.id).map_or(0, |id| id as u32),
                filters: subscribe.filters.into_iter().map(wanted5).collect(),
            }),
            _ => Err(Reason::Malformed),
        }
    } else {
        match v4::Packet::read(&mut input, usize::MAX) {
            Ok(v4::Packet::Subscribe(subscribe)) => Ok(Subscribe {
                packet_id: subscribe.pkid,
                id: 0,
                counted: false,
                filters: subscribe.filters.into_iter().map(wanted4).collect(),
            }),
            _ => Err(Reason::Malformed),
        }
    }
}

fn wanted4(filter: v4::SubscribeFilter) -> Wanted {
    Wanted {
        filter: filter.path,
        qos: filter.qos as u8,
        no_local: false,
        retain_as_published: false,
        replay: Replay::Always,
    }
}

fn wanted5(filter: v5::Filter) -> Wanted {
    Wanted {
        filter: filter.path,
        qos: filter.qos as u8,
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
        replay: match filter.retain_forward_rule {
            RetainForwardRule::OnEverySubscribe => Replay::Always,
            RetainForwardRule::OnNewSubscribe => Replay::IfNew,
            RetainForwardRule::Never => Replay::Never,
        },
    }
}

/// Reads an UNSUBSCRIBE frame.
pub(crate) fn unsubscribe(
    bytes: &[u8],
    frame: Frame,
    version5: bool,
) -> Result<Unsubscribe, Reason> {
    if bytes[0] & 15 != 2 {
        return Err(Reason::Malformed);
    }
    let body = &bytes[frame.body..frame.end];
    check_head(body, version5, &[USER])?;
    let mut input = BytesMut::from(&bytes[..frame.end]);
    if version5 {
        match v5::Packet::read(&mut input, None) {
            Ok(v5::Packet::Unsubscribe(packet)) => {
                Ok(Unsubscribe { packet_id: packet.pkid, filters: packet.filters })
            }
            _ => Err(Reason::Malformed),
        }
    } else {
        match v4::Packet::read(&mut input, usize::MAX) {
            Ok(v4::Packet::Unsubscribe(packet)) => {
                Ok(Unsubscribe { packet_id: packet.pkid, filters: packet.topics })
            }
            _ => Err(Reason::Malformed),
        }
    }
}

/// Reads a DISCONNECT frame. The codec refuses one without a body, the form every client sends.
pub(crate) fn disconnect(bytes: &[u8], frame: Frame, version5: bool) -> Result<Disconnect, Reason> {
    let body = &bytes[frame.body..frame.end];
    if bytes[0] & 15 != 0 || (!version5 && !body.is_empty()) {
        return Err(Reason::Malformed);
    }
    let reason = body.first().copied().unwrap_or(0);
    if body.len() < 2 {
        // No properties: the codec would demand their length.
        return Ok(Disconnect { publish_will: reason != 0, session_expiry_s: None });
    }
    let mut reader = Reader(&body[1..]);
    let length = reader.variable_int()?;
    walk(reader.bytes(length)?, &[SESSION_EXPIRY, REASON_STRING, USER], |_| Ok(()))?;
    match v5::Packet::read(&mut BytesMut::from(&bytes[..frame.end]), None) {
        Ok(v5::Packet::Disconnect(packet)) => Ok(Disconnect {
            publish_will: reason != 0,
            session_expiry_s: packet.properties.and_then(|p| p.session_expiry_interval),
        }),
        _ => Err(Reason::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::frame::first_frame;

    fn frame(bytes: &[u8]) -> Frame {
        first_frame(bytes, 1000).unwrap().unwrap()
    }

    #[test]
    fn a_subscribe_of_either_version_is_read() {
        let old = [0x82, 6, 0, 1, 0, 1, b'a', 1];
        let subscribe4 = subscribe(&old, frame(&old), false).unwrap();
        assert_eq!(subscribe4.filters[0].filter, "a");
        assert_eq!((subscribe4.packet_id, subscribe4.filters[0].qos), (1, 1));
        let new = [0x82, 9, 0, 1, 2, SUBSCRIPTION_ID, 7, 0, 1, b'a', 0x1E];
        let subscribe5 = subscribe(&new, frame(&new), true).unwrap();
        let wanted = &subscribe5.filters[0];
        assert_eq!((subscribe5.id, wanted.qos, wanted.replay), (7, 2, Replay::IfNew));
        assert!(wanted.no_local && wanted.retain_as_published);
    }

    #[test]
    fn broken_subscribes_are_refused() {
        for (bytes, version5) in [
            (&[0x80, 6, 0, 1, 0, 1, b'a', 1][..], false), // flags of the fixed header
            (&[0x82, 6, 0, 0, 0, 1, b'a', 1], false),     // packet id 0
            (&[0x82, 6, 0, 1, 0, 1, b'a', 0x80], false),  // reserved bits
            (&[0x82, 6, 0, 1, 0, 1, b'a', 3], false),     // QoS 3
            (&[0x82, 6, 0, 1, 0, 1, 0, 1], false),        // NUL
            (&[0x82, 2, 0, 1], false),                    // no filter
            (&[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x31], true), // retain handling 3
            (&[0x82, 9, 0, 1, 2, SUBSCRIPTION_ID, 0, 0, 1, b'a', 1], true),
        ] {
            assert!(subscribe(bytes, frame(bytes), version5).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn every_form_of_disconnect_is_read() {
        for (bytes, publish_will, expiry) in [
            (&[0xE0, 0][..], false, None),
            (&[0xE0, 1, 4], true, None),
            (&[0xE0, 2, 0, 0], false, None),
            (&[0xE0, 7, 0, 5, SESSION_EXPIRY, 0, 0, 0, 9], false, Some(9)),
        ] {
            let packet = disconnect(bytes, frame(bytes), true).unwrap();
            assert_eq!(packet, Disconnect { publish_will, session_expiry_s: expiry }, "{bytes:?}");
        }
        assert!(disconnect(&[0xE0, 1, 0], frame(&[0xE0, 1, 0]), false).is_err());
    }
}
