//! What must hold of the codec for any bytes at all, for the fuzz targets.
//!
//! A broken property panics, as in a test; nothing here is part of the broker's interface.

use std::{ops::Range, sync::Arc};

use crate::{
    chunk::{Chunk, Delivery, Form},
    codec::{
        Reason, connect,
        control::{self, RETAINED_COUNT, Replay, Subscribe, Unsubscribe},
        frame::{Frame, Reader, first_frame, put_variable_int, variable_int, variable_int_size},
        properties::{MESSAGE_EXPIRY, SUBSCRIPTION_ID, TOPIC_ALIAS, USER, next},
        publish::{self, Publish},
        reply::{Granted, PUBACK, put_ack, subscribed, unsubscribed},
    },
    properties::Properties,
    session::{Session, aliases::Alias},
    subscriptions::{Node, Options},
    topic::{split_share, valid_topic},
};

/// Larger than what a fuzzer sends, so that only the bound that the input chose is met.
const WHOLE: usize = 1 << 20;

/// Reads `stream` as what a client sends, cut where `cuts` says, and decodes each frame.
///
/// # Panics
/// A property is broken.
pub fn stream(stream: &[u8], cuts: &[u8], version5: bool, packet_max_bytes: usize) {
    let whole = split(std::iter::once(stream), packet_max_bytes);
    let mut rest = stream;
    let pieces = cuts.iter().map(|cut| {
        let (piece, after) = rest.split_at(rest.len().min((*cut).into()));
        rest = after;
        piece
    });
    let pieces: Vec<_> = pieces.collect();
    assert_eq!(whole, split(pieces.into_iter().chain([rest]), packet_max_bytes), "cut {cuts:?}");
    for range in whole.0 {
        decode(&stream[range], version5);
    }
}

/// The frames of a stream that comes in pieces, and why it ends if it does.
fn split<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    max: usize,
) -> (Vec<Range<usize>>, Option<Reason>) {
    let (mut frames, mut partial, mut at) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        partial.extend_from_slice(piece);
        loop {
            match first_frame(&partial, max) {
                Ok(Some(frame)) => {
                    assert!(frame.body <= frame.end && frame.end <= partial.len(), "{frame:?}");
                    assert!(frame.end - frame.body <= max, "{frame:?} passes {max}");
                    frames.push(at..at + frame.end);
                    at += frame.end;
                    partial.drain(..frame.end);
                }
                Ok(None) => break,
                Err(reason) => return (frames, Some(reason)),
            }
        }
    }
    (frames, None)
}

fn decode(bytes: &[u8], version5: bool) {
    let Ok(Some(frame)) = first_frame(bytes, WHOLE) else { return };
    match bytes[0] >> 4 {
        1 => connect(&bytes[frame.body..]),
        3 => {
            if let Ok(publish) = publish::parse(bytes, frame.body, version5) {
                delivered(&publish);
                acknowledged(&publish);
            }
        }
        8 => {
            if let Ok(read) = control::subscribe(bytes, frame, version5) {
                subscribe(&read, version5);
            }
        }
        10 => {
            if let Ok(read) = control::unsubscribe(bytes, frame, version5) {
                unsubscribe(&read, version5);
            }
        }
        14 => {
            if let Ok(read) = control::disconnect(bytes, frame, version5) {
                assert!(version5 || read.session_expiry_s.is_none(), "3.1.1 has no expiry");
            }
        }
        _ => {}
    }
}

fn connect(body: &[u8]) {
    let Ok(read) = connect::parse(body) else { return };
    assert_eq!(read.version5, connect::asks_version5(body));
    assert!(read.receive_maximum > 0 && read.packet_max_bytes > 0, "no window: {read:?}");
    assert!(read.version5 || read.session_expiry_s == 0, "3.1.1 has no expiry");
    // What a client may be takes every byte of its CONNECT: none is left out unnoticed.
    assert!(connect::parse(&body[..body.len() - 1]).is_err(), "a byte is not looked at");
    let Some(will) = read.will else { return };
    assert!(valid_topic(&will.topic) && will.qos < 3, "a will that cannot be published");
    delivered(&Publish {
        qos: will.qos,
        retain: will.retain,
        packet_id: 0,
        topic: will.topic.as_bytes(),
        properties: (&*will.properties).into(),
        payload: &will.payload,
        alias: None,
        expiry_s: will.expiry_s,
        user_properties: 0,
        raw: None,
        version5: read.version5,
    });
}

/// Whatever subscriber a message goes to, he reads what its publisher wrote.
fn delivered(publish: &Publish<'_>) {
    assert!(Properties::new(&publish.properties).is_valid(), "properties nobody may get");
    let expires_ms = publish.expiry_s.map_or(0, |seconds| u64::from(seconds) * 1000 + 1000);
    // A form with packet ids is only for what comes with one.
    for index in (0..Form::COUNT).filter(|at| publish.qos > 0 || !Form::of_index(*at).with_id) {
        let mut chunk = Chunk::new(Form::of_index(index));
        chunk.add(publish, expires_ms);
        chunk.add(publish, expires_ms);
        assert_eq!((chunk.len(), chunk.topic(1)), (2, publish.topic));
        for (version5, qos) in [(false, 0), (false, 1), (true, 0), (true, 2)] {
            let qos = publish.qos.min(qos);
            for (ids, alias) in [(&[][..], Alias::None), (&[1, 268_435_455], Alias::New(7))] {
                if !version5 && alias != Alias::None {
                    continue;
                }
                let retain = publish.retain;
                let to = Delivery {
                    version5,
                    qos,
                    retain,
                    dup: false,
                    packet_id: 513,
                    subscription_ids: ids,
                    alias,
                };
                let mut out = Vec::new();
                assert!(chunk.put(&mut out, 1, &to, 1), "not expired");
                // Properties are lost on the way through a form that has none.
                let kept = version5 && Form::of_index(index).version5;
                let properties = if kept { &*publish.properties } else { &[] };
                read_back(&out, &to, publish, properties);
            }
        }
    }
}

#[expect(clippy::unwrap_used, reason = "what the broker writes can be read")]
fn read_back(out: &[u8], to: &Delivery<'_>, publish: &Publish<'_>, properties: &[u8]) {
    let frame = first_frame(out, WHOLE).unwrap().unwrap();
    assert_eq!(frame.end, out.len(), "not one frame: {out:?}");
    assert_eq!(out[0], 0x30 | to.qos << 1 | u8::from(to.retain));
    let mut reader = Reader(&out[frame.body..]);
    assert_eq!(reader.binary().unwrap(), publish.topic);
    if to.qos > 0 {
        assert_eq!(reader.u16().unwrap(), to.packet_id);
    }
    if to.version5 {
        let length = reader.variable_int().unwrap();
        let mut section = Reader(reader.bytes(length).unwrap());
        let (mut kept, mut added) = (Vec::new(), 0);
        while !section.is_empty() {
            let property = next(&mut section).unwrap();
            match property.id {
                MESSAGE_EXPIRY => assert!(publish.expiry_s.is_some(), "an expiry of our own"),
                TOPIC_ALIAS | SUBSCRIPTION_ID => added += 1,
                _ => kept.extend_from_slice(property.raw),
            }
        }
        let aliases = usize::from(to.alias != Alias::None);
        assert_eq!((&*kept, added), (properties, to.subscription_ids.len() + aliases));
    }
    assert_eq!(reader.0, publish.payload);
}

/// A refusal fits what its receiver takes, whatever the reason.
fn acknowledged(publish: &Publish<'_>) {
    let text = String::from_utf8_lossy(publish.payload);
    for max in [5, 16, 300, WHOLE] {
        let mut out = Vec::new();
        put_ack(&mut out, PUBACK, publish.packet_id, 0x99, &text, true, max);
        let frame = Frame { body: 1 + variable_int_size(out.len() - 2), end: out.len() };
        assert_eq!(first_frame(&out, WHOLE), Ok(Some(frame)));
        assert!(out.len() <= max, "{} bytes where {max} are taken", out.len());
    }
}

fn subscribe(read: &Subscribe, version5: bool) {
    let mut body = read.packet_id.to_be_bytes().to_vec();
    if version5 {
        let mut section = Vec::new();
        if read.id > 0 {
            section.push(SUBSCRIPTION_ID);
            put_variable_int(&mut section, read.id as usize);
        }
        if read.counted {
            section.push(USER);
            put_text(&mut section, RETAINED_COUNT);
            put_text(&mut section, "");
        }
        put_variable_int(&mut body, section.len());
        body.extend(section);
    }
    for wanted in &read.filters {
        put_text(&mut body, &wanted.filter);
        let replay = match wanted.replay {
            Replay::Always => 0,
            Replay::IfNew => 1,
            Replay::Never => 2,
        };
        let (local, retain) = (wanted.no_local, wanted.retain_as_published);
        body.push(wanted.qos | u8::from(local) << 2 | u8::from(retain) << 3 | replay << 4);
        if let Some((group, filter)) = split_share(&wanted.filter) {
            let whole = group.map_or(filter.to_owned(), |group| format!("$share/{group}/{filter}"));
            assert_eq!(wanted.filter, whole);
        }
    }
    let (bytes, frame) = framed(0x82, &body);
    assert_eq!(control::subscribe(&bytes, frame, version5).as_ref(), Ok(read));
    let granted: Vec<_> = read.filters.iter().map(|wanted| Granted::Qos(wanted.qos)).collect();
    let retained = read.counted.then_some(granted.len());
    let answer = subscribed(read.packet_id, &granted, retained, version5);
    answered(&answer, read.packet_id, granted.len());
}

fn unsubscribe(read: &Unsubscribe, version5: bool) {
    let mut body = read.packet_id.to_be_bytes().to_vec();
    body.extend(version5.then_some(0));
    for filter in &read.filters {
        put_text(&mut body, filter);
    }
    let (bytes, frame) = framed(0xA2, &body);
    assert_eq!(control::unsubscribe(&bytes, frame, version5).as_ref(), Ok(read));
    let existed = vec![true; read.filters.len()];
    let codes = if version5 { existed.len() } else { 0 };
    answered(&unsubscribed(read.packet_id, &existed, version5), read.packet_id, codes);
}

/// One frame with the packet id, and a code for each filter at its end.
fn answered(answer: &[u8], packet_id: u16, codes: usize) {
    let length = variable_int(&answer[1..]);
    assert_eq!(length.map(|(length, size)| 1 + size + length), Some(answer.len()));
    let body = &answer[1 + length.map_or(0, |(_, size)| size)..];
    assert!(body.starts_with(&packet_id.to_be_bytes()) && body.len() >= 2 + codes, "{answer:?}");
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn framed(first: u8, body: &[u8]) -> (Vec<u8>, Frame) {
    let mut bytes = vec![first];
    put_variable_int(&mut bytes, body.len());
    let start = bytes.len();
    bytes.extend_from_slice(body);
    let frame = Frame { body: start, end: bytes.len() };
    (bytes, frame)
}

/// Does a tree of subscriptions that holds a filter, and no more, find it for a topic?
///
/// # Panics
/// The tree is not empty without it.
pub fn found(filter: &str, topic: &str) -> bool {
    let session = Arc::new(Session::new(crate::session::sessions::Key::new(None, "c"), 1));
    let options = Options { qos: 0, no_local: false, retain_as_published: false, id: 0 };
    let mut tree = Node::default();
    assert!(tree.insert(None, filter, &session, options), "a new one");
    let mut nodes = Vec::new();
    tree.matching(topic, &mut nodes);
    let found = nodes.iter().any(|node| !node.subscribers.is_empty());
    tree.remove(None, filter, 1);
    assert!(tree.is_empty(), "{filter:?} leaves something behind");
    found
}
