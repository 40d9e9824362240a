//! MQTT 5 properties: one table for all packets.
//!
//! The codecs accept a property twice, in the wrong packet, or running past its section, so every
//! section is walked here first.

use super::{Reason, frame::Reader};

pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
pub(crate) const CONTENT_TYPE: u8 = 0x03;
pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
pub(crate) const CORRELATION_DATA: u8 = 0x09;
pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(crate) const SESSION_EXPIRY: u8 = 0x11;
pub(crate) const AUTH_METHOD: u8 = 0x15;
pub(crate) const AUTH_DATA: u8 = 0x16;
pub(crate) const PROBLEM_INFORMATION: u8 = 0x17;
pub(crate) const WILL_DELAY: u8 = 0x18;
pub(crate) const RESPONSE_INFORMATION: u8 = 0x19;
pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
pub(crate) const REASON_STRING: u8 = 0x1F;
pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(crate) const TOPIC_ALIAS: u8 = 0x23;
pub(crate) const USER: u8 = 0x26;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// The value of one property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

impl Value<'_> {
    pub(crate) fn number(&self) -> u32 {
        if let Value::Number(number) = self { *number } else { 0 }
    }
}

/// One property and the bytes it came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Property<'a> {
    pub(crate) id: u8,
    pub(crate) value: Value<'a>,
    pub(crate) raw: &'a [u8],
}

/// Takes the next property; identifiers the protocol does not know are errors.
pub(crate) fn next<'a>(reader: &mut Reader<'a>) -> Result<Property<'a>, Reason> {
    let before = reader.0;
    let id = reader.u8()?;
    let value = match id {
        PAYLOAD_FORMAT | PROBLEM_INFORMATION | RESPONSE_INFORMATION => {
            let flag = reader.u8()?;
            if flag > 1 {
                return Err(Reason::Protocol);
            }
            Value::Number(flag.into())
        }
        RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => Value::Number(reader.u16()?.into()),
        MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY | MAXIMUM_PACKET_SIZE => {
            Value::Number(reader.u32()?)
        }
        SUBSCRIPTION_ID => {
            let number = reader.variable_int()?;
            Value::Number(u32::try_from(number).map_err(|_| Reason::Malformed)?)
        }
        CONTENT_TYPE | RESPONSE_TOPIC | AUTH_METHOD | SERVER_REFERENCE | REASON_STRING => {
            Value::Text(reader.text()?)
        }
        CORRELATION_DATA | AUTH_DATA => Value::Binary(reader.binary()?),
        USER => Value::Pair(reader.text()?, reader.text()?),
        _ => return Err(Reason::Malformed),
    };
    Ok(Property { id, value, raw: &before[..before.len() - reader.0.len()] })
}

/// Walks a section: only `allowed` ones, and none but user properties twice.
pub(crate) fn walk<'a>(
    section: &'a [u8],
    allowed: &[u8],
    mut each: impl FnMut(Property<'a>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let (mut reader, mut seen) = (Reader(section), 0u64);
    while !reader.is_empty() {
        let property = next(&mut reader)?;
        if !allowed.contains(&property.id) {
            return Err(Reason::Protocol);
        }
        let bit = 1 << property.id;
        if property.id != USER && seen & bit != 0 {
            return Err(Reason::Protocol);
        }
        seen |= bit;
        each(property)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(section: &[u8], allowed: &[u8]) -> Result<Vec<u8>, Reason> {
        let mut found = Vec::new();
        walk(section, allowed, |property| {
            found.push(property.id);
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn a_property_comes_once_and_only_where_it_belongs() {
        let user = [USER, 0, 1, b'k', 0, 1, b'v'];
        let twice = [user, user].concat();
        assert_eq!(ids(&twice, &[USER]), Ok(vec![USER, USER]));
        assert_eq!(ids(&twice, &[CONTENT_TYPE]), Err(Reason::Protocol));
        let expiry = [MESSAGE_EXPIRY, 0, 0, 0, 1];
        assert_eq!(ids(&expiry, &[MESSAGE_EXPIRY]), Ok(vec![MESSAGE_EXPIRY]));
        assert_eq!(ids(&[expiry, expiry].concat(), &[MESSAGE_EXPIRY]), Err(Reason::Protocol));
    }

    #[test]
    fn cut_off_unknown_and_out_of_range_properties_are_refused() {
        assert_eq!(ids(&[MESSAGE_EXPIRY, 0, 0], &[MESSAGE_EXPIRY]), Err(Reason::Malformed));
        assert_eq!(ids(&[0x7F, 0], &[0x7F]), Err(Reason::Malformed));
        assert_eq!(ids(&[0xFF, 0], &[0xFF]), Err(Reason::Malformed));
        assert_eq!(ids(&[PAYLOAD_FORMAT, 2], &[PAYLOAD_FORMAT]), Err(Reason::Protocol));
    }
}
