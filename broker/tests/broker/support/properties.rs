//! MQTT 5 properties as a list of id and value, in the order they were sent.

/// A property's value by its form on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Byte(u8),
    Two(u16),
    Four(u32),
    Variable(u32),
    Text(String),
    Binary(Vec<u8>),
    Pair(String, String),
}

pub type Property = (u8, Value);
pub type Properties = Vec<Property>;

pub const PAYLOAD_FORMAT: u8 = 1;
pub const MESSAGE_EXPIRY: u8 = 2;
pub const CONTENT_TYPE: u8 = 3;
pub const RESPONSE_TOPIC: u8 = 8;
pub const CORRELATION_DATA: u8 = 9;
pub const SUBSCRIPTION_ID: u8 = 11;
pub const SESSION_EXPIRY: u8 = 17;
pub const ASSIGNED_CLIENT_ID: u8 = 18;
pub const REASON_STRING: u8 = 31;
pub const RECEIVE_MAXIMUM: u8 = 33;
pub const TOPIC_ALIAS_MAXIMUM: u8 = 34;
pub const TOPIC_ALIAS: u8 = 35;
pub const USER_PROPERTY: u8 = 38;
pub const MAXIMUM_PACKET_SIZE: u8 = 39;

pub fn payload_format(utf8: bool) -> Property {
    (PAYLOAD_FORMAT, Value::Byte(u8::from(utf8)))
}

pub fn message_expiry(seconds: u32) -> Property {
    (MESSAGE_EXPIRY, Value::Four(seconds))
}

pub fn content_type(text: &str) -> Property {
    (CONTENT_TYPE, Value::Text(text.into()))
}

pub fn response_topic(topic: &str) -> Property {
    (RESPONSE_TOPIC, Value::Text(topic.into()))
}

pub fn correlation_data(bytes: &[u8]) -> Property {
    (CORRELATION_DATA, Value::Binary(bytes.into()))
}

pub fn subscription_id(id: u32) -> Property {
    (SUBSCRIPTION_ID, Value::Variable(id))
}

pub fn session_expiry(seconds: u32) -> Property {
    (SESSION_EXPIRY, Value::Four(seconds))
}

pub fn request_problem_information(wanted: bool) -> Property {
    (23, Value::Byte(u8::from(wanted)))
}

pub fn will_delay(seconds: u32) -> Property {
    (24, Value::Four(seconds))
}

pub fn receive_maximum(count: u16) -> Property {
    (RECEIVE_MAXIMUM, Value::Two(count))
}

pub fn topic_alias_maximum(count: u16) -> Property {
    (TOPIC_ALIAS_MAXIMUM, Value::Two(count))
}

pub fn topic_alias(alias: u16) -> Property {
    (TOPIC_ALIAS, Value::Two(alias))
}

pub fn user(key: &str, value: &str) -> Property {
    (USER_PROPERTY, Value::Pair(key.into(), value.into()))
}

pub fn maximum_packet_size(bytes: u32) -> Property {
    (MAXIMUM_PACKET_SIZE, Value::Four(bytes))
}

/// The first value of a property, if it is there.
pub fn find(properties: &[Property], id: u8) -> Option<&Value> {
    properties.iter().find(|(found, _)| *found == id).map(|(_, value)| value)
}

/// A number property's value, if it is there.
pub fn number(properties: &[Property], id: u8) -> Option<u32> {
    match find(properties, id)? {
        Value::Byte(number) => Some(u32::from(*number)),
        Value::Two(number) => Some(u32::from(*number)),
        Value::Four(number) | Value::Variable(number) => Some(*number),
        other => panic!("property {id} is no number but {other:?}"),
    }
}

/// A text property's value, if it is there.
pub fn text(properties: &[Property], id: u8) -> Option<&str> {
    match find(properties, id)? {
        Value::Text(text) => Some(text),
        other => panic!("property {id} is no text but {other:?}"),
    }
}

/// Length prefix and properties.
pub fn encode(properties: &[Property]) -> Vec<u8> {
    let mut body = Vec::new();
    for (id, value) in properties {
        body.push(*id);
        match value {
            Value::Byte(number) => body.push(*number),
            Value::Two(number) => body.extend(number.to_be_bytes()),
            Value::Four(number) => body.extend(number.to_be_bytes()),
            Value::Variable(number) => body.extend(variable(*number)),
            Value::Text(text) => body.extend(super::wire::string(text)),
            Value::Binary(bytes) => body.extend(super::wire::binary(bytes)),
            Value::Pair(key, value) => {
                body.extend(super::wire::string(key));
                body.extend(super::wire::string(value));
            }
        }
    }
    let mut out = variable(body.len() as u32);
    out.extend(body);
    out
}

/// Properties with their length prefix from the front of `bytes`, and what follows them.
pub fn decode(bytes: &[u8]) -> (Properties, &[u8]) {
    let (length, rest) = take_variable(bytes);
    let (mut body, rest) = rest.split_at(length as usize);
    let mut properties = Vec::new();
    while let Some((id, after)) = body.split_first() {
        let (value, after) = take_value(*id, after);
        properties.push((*id, value));
        body = after;
    }
    (properties, rest)
}

fn take_value(id: u8, bytes: &[u8]) -> (Value, &[u8]) {
    match id {
        1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => (Value::Byte(bytes[0]), &bytes[1..]),
        19 | 33 | 34 | 35 => (Value::Two(u16::from_be_bytes([bytes[0], bytes[1]])), &bytes[2..]),
        2 | 17 | 24 | 39 => {
            let (number, rest) = bytes.split_at(4);
            (Value::Four(u32::from_be_bytes(number.try_into().expect("four bytes"))), rest)
        }
        11 => {
            let (number, rest) = take_variable(bytes);
            (Value::Variable(number), rest)
        }
        3 | 8 | 18 | 21 | 26 | 28 | 31 => {
            let (text, rest) = take_string(bytes);
            (Value::Text(text), rest)
        }
        9 | 22 => {
            let (binary, rest) = take_binary(bytes);
            (Value::Binary(binary.to_vec()), rest)
        }
        38 => {
            let (key, rest) = take_string(bytes);
            let (value, rest) = take_string(rest);
            (Value::Pair(key, value), rest)
        }
        _ => panic!("unknown property {id}"),
    }
}

pub fn take_string(bytes: &[u8]) -> (String, &[u8]) {
    let (binary, rest) = take_binary(bytes);
    (String::from_utf8(binary.to_vec()).expect("text is UTF-8"), rest)
}

fn take_binary(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    bytes[2..].split_at(length)
}

/// A variable byte integer.
pub fn variable(mut number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (number & 0x7F) as u8;
        number >>= 7;
        out.push(if number > 0 { low | 0x80 } else { low });
        if number == 0 {
            return out;
        }
    }
}

fn take_variable(bytes: &[u8]) -> (u32, &[u8]) {
    let length = bytes.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let number =
        bytes[..length].iter().rev().fold(0, |sum, byte| sum << 7 | u32::from(byte & 0x7F));
    (number, &bytes[length..])
}
