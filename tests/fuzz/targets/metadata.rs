//! The attribute beside a payload: it vouches for what was written and for nothing else.
//!
//! Input: a line of JSON, the payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rooms::beside::{seal, unseal};

fuzz_target!(|data: &[u8]| {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let (line, payload) = (&data[..end], &data[end + 1..]);
    // As somebody found it on the disk.
    if let Ok(meta) = unseal(line, payload) {
        assert_eq!(sealed(&meta, payload), meta);
    }
    // As the hub writes it.
    let Some(attribute) = std::str::from_utf8(line).ok().and_then(|meta| seal(payload, meta))
    else {
        return;
    };
    let meta = unseal(&attribute, payload).unwrap_or_else(|why| unreachable!("{why}"));
    assert_eq!(sealed(&meta, payload), meta);
    for at in 0..payload.len().min(64) {
        assert!(unseal(&attribute, &payload[..at]).is_err(), "cut at {at}");
        let mut other = payload.to_vec();
        other[at] ^= 1 << (at & 7);
        assert!(unseal(&attribute, &other).is_err(), "changed at {at}");
    }
    assert!(unseal(&attribute[..attribute.len() - 1], payload).is_err(), "a torn attribute");
    assert!(unseal(&attribute, &[payload, b"x"].concat()).is_err(), "something was added");
});

/// Metadata after another turn through the disk.
fn sealed(meta: &str, payload: &[u8]) -> String {
    let attribute = seal(payload, meta).unwrap_or_else(|| unreachable!("{meta}"));
    unseal(&attribute, payload).unwrap_or_else(|why| unreachable!("{why}"))
}
