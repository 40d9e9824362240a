//! CONNECT, by hand: rumqttc's reader takes an empty user name for none, wants passwords to be
//! text, and checks neither flags nor doubled properties, and all of that decides who comes in.

use bytes::Bytes;

use super::{
    Reason,
    frame::Reader,
    properties::{
        AUTH_DATA, AUTH_METHOD, CONTENT_TYPE, CORRELATION_DATA, MAXIMUM_PACKET_SIZE,
        MESSAGE_EXPIRY, PAYLOAD_FORMAT, PROBLEM_INFORMATION, RECEIVE_MAXIMUM, RESPONSE_INFORMATION,
        RESPONSE_TOPIC, SESSION_EXPIRY, TOPIC_ALIAS_MAXIMUM, USER, WILL_DELAY, walk,
    },
};
use crate::topic::valid_topic;

/// What a client asks for when it connects.
#[derive(Debug)]
pub(crate) struct Connect<'a> {
    pub(crate) version5: bool,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) client_id: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) password: Option<&'a [u8]>,
    pub(crate) will: Option<Will>,
    /// Version 5 only; 3.1.1 says it with `clean_start`.
    pub(crate) session_expiry_s: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) packet_max_bytes: u32,
    /// Aliases the client can remember.
    pub(crate) topic_alias_maximum: u16,
    /// May acknowledgements carry a reason string?
    pub(crate) problem_information: bool,
    pub(crate) extended_auth: bool,
}

/// The message a client leaves behind for the case that it dies.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: Box<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// Raw version 5 properties without delay and expiry.
    pub(crate) properties: Bytes,
    pub(crate) expiry_s: Option<u32>,
    pub(crate) delay_s: u32,
}

const USER_FLAG: u8 = 0x80;
const PASSWORD_FLAG: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_FLAG: u8 = 0x04;
const CLEAN_FLAG: u8 = 0x02;

/// Does a CONNECT that could not be read ask for version 5? So that the refusal can be read.
pub(crate) fn asks_version5(body: &[u8]) -> bool {
    let mut reader = Reader(body);
    reader.binary().is_ok() && reader.u8() == Ok(5)
}

/// Reads the body of a CONNECT.
pub(crate) fn parse(body: &[u8]) -> Result<Connect<'_>, Reason> {
    let mut reader = Reader(body);
    let (name, level) = (reader.binary()?, reader.u8()?);
    let version5 = match (name, level) {
        (b"MQTT", 4) => false,
        (b"MQTT", 5) => true,
        (b"MQTT" | b"MQIsdp", _) => return Err(Reason::UnsupportedVersion),
        _ => return Err(Reason::Malformed),
    };
    let flags = reader.u8()?;
    let mut connect = Connect {
        version5,
        clean_start: flags & CLEAN_FLAG != 0,
        keep_alive_s: reader.u16()?,
        client_id: "",
        user: None,
        password: None,
        will: None,
        session_expiry_s: 0,
        receive_maximum: u16::MAX,
        packet_max_bytes: u32::MAX,
        topic_alias_maximum: 0,
        problem_information: true,
        extended_auth: false,
    };
    check_flags(flags, version5)?;
    if version5 {
        let length = reader.variable_int()?;
        connect.read_properties(reader.bytes(length)?)?;
    }
    connect.client_id = reader.text()?;
    if flags & WILL_FLAG != 0 {
        connect.will = Some(read_will(&mut reader, flags, version5)?);
    }
    if flags & USER_FLAG != 0 {
        connect.user = Some(reader.text()?);
    }
    if flags & PASSWORD_FLAG != 0 {
        connect.password = Some(reader.binary()?);
    }
    if reader.is_empty() { Ok(connect) } else { Err(Reason::Malformed) }
}

fn check_flags(flags: u8, version5: bool) -> Result<(), Reason> {
    let will_qos = (flags >> 3) & 3;
    let will_flags_without_will =
        flags & WILL_FLAG == 0 && (will_qos != 0 || flags & WILL_RETAIN != 0);
    let password_without_user = !version5 && flags & PASSWORD_FLAG != 0 && flags & USER_FLAG == 0;
    if flags & 1 != 0 || will_qos == 3 || will_flags_without_will || password_without_user {
        return Err(Reason::Malformed);
    }
    Ok(())
}

impl Connect<'_> {
    fn read_properties(&mut self, section: &[u8]) -> Result<(), Reason> {
        const ALLOWED: [u8; 9] = [
            SESSION_EXPIRY,
            RECEIVE_MAXIMUM,
            MAXIMUM_PACKET_SIZE,
            TOPIC_ALIAS_MAXIMUM,
            RESPONSE_INFORMATION,
            PROBLEM_INFORMATION,
            USER,
            AUTH_METHOD,
            AUTH_DATA,
        ];
        walk(section, &ALLOWED, |property| {
            let number = property.value.number();
            match property.id {
                SESSION_EXPIRY => self.session_expiry_s = number,
                RECEIVE_MAXIMUM | MAXIMUM_PACKET_SIZE if number == 0 => {
                    return Err(Reason::Protocol);
                }
                RECEIVE_MAXIMUM => self.receive_maximum = number as u16,
                MAXIMUM_PACKET_SIZE => self.packet_max_bytes = number,
                TOPIC_ALIAS_MAXIMUM => self.topic_alias_maximum = number as u16,
                PROBLEM_INFORMATION => self.problem_information = number == 1,
                AUTH_METHOD | AUTH_DATA => self.extended_auth = true,
                _ => {}
            }
            Ok(())
        })
    }
}

fn read_will(reader: &mut Reader<'_>, flags: u8, version5: bool) -> Result<Will, Reason> {
    const ALLOWED: [u8; 7] = [
        WILL_DELAY,
        PAYLOAD_FORMAT,
        MESSAGE_EXPIRY,
        CONTENT_TYPE,
        RESPONSE_TOPIC,
        CORRELATION_DATA,
        USER,
    ];
    let (mut kept, mut expiry_s, mut delay_s) = (Vec::new(), None, 0);
    if version5 {
        let length = reader.variable_int()?;
        walk(reader.bytes(length)?, &ALLOWED, |property| {
            match property.id {
                WILL_DELAY => delay_s = property.value.number(),
                MESSAGE_EXPIRY => expiry_s = Some(property.value.number()),
                _ => kept.extend_from_slice(property.raw),
            }
            Ok(())
        })?;
    }
    let topic = reader.text()?;
    if !valid_topic(topic) {
        return Err(Reason::TopicInvalid);
    }
    Ok(Will {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(reader.binary()?),
        qos: (flags >> 3) & 3,
        retain: flags & WILL_RETAIN != 0,
        properties: kept.into(),
        expiry_s,
        delay_s,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
        [&[0, 4, b'M', b'Q', b'T', b'T', level, flags, 0, 30][..], rest].concat()
    }

    #[test]
    fn an_empty_user_name_is_a_user_name_and_a_password_is_bytes() {
        let body = body(4, 0xC2, &[0, 1, b'c', 0, 0, 0, 2, 0xFF, 0]);
        let connect = parse(&body).unwrap();
        assert_eq!((connect.client_id, connect.user), ("c", Some("")));
        assert_eq!(connect.password, Some(&[0xFF, 0][..]));
        assert_eq!(
            (connect.keep_alive_s, connect.clean_start, connect.version5),
            (30, true, false)
        );
    }

    #[test]
    fn a_will_is_read_with_its_delay_and_expiry_apart() {
        let properties = [WILL_DELAY, 0, 0, 0, 5, PAYLOAD_FORMAT, 1, MESSAGE_EXPIRY, 0, 0, 0, 6];
        let rest = [&[0, 0, 1, b'c', 12][..], &properties, &[0, 1, b't', 0, 1, b'p']].concat();
        let body = body(5, 0x2C, &rest);
        let will = parse(&body).unwrap().will.unwrap();
        assert_eq!((&*will.topic, &*will.payload), ("t", &b"p"[..]));
        assert_eq!((will.qos, will.retain, will.delay_s, will.expiry_s), (1, true, 5, Some(6)));
        assert_eq!(&*will.properties, &[PAYLOAD_FORMAT, 1]);
    }

    #[test]
    fn broken_connects_are_refused() {
        for (body, reason) in [
            (body(3, 2, &[0, 0]), Reason::UnsupportedVersion),
            (body(4, 3, &[0, 0]), Reason::Malformed), // reserved flag
            (body(4, 0x42, &[0, 0, 0, 0]), Reason::Malformed), // password without user
            (body(4, 0x1E, &[0, 0]), Reason::Malformed), // will QoS 3
            (body(4, 0x22, &[0, 0]), Reason::Malformed), // will retain without will
            (body(4, 2, &[0, 0, 1]), Reason::Malformed), // bytes left over
            (body(4, 6, &[0, 0, 0, 3, b'a', b'/', b'#', 0, 0]), Reason::TopicInvalid),
            (body(5, 2, &[3, RECEIVE_MAXIMUM, 0, 0, 0, 0]), Reason::Protocol),
            (body(5, 2, &[9, 0, 0]), Reason::Malformed), // section longer than the frame
        ] {
            assert_eq!(parse(&body).unwrap_err(), reason, "{body:?}");
        }
    }
}
