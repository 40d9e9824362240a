//! Frames of both versions, cut anywhere: see `meshfs_broker::fuzzing`.
//!
//! Input: a byte that says the version (bit 0) and the largest packet (bits 1 to 4, as a power of
//! two), a byte that says how many cuts follow (up to 7), the cuts, and the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [kind, cuts, rest @ ..] = data else { return };
    let (cuts, stream) = rest.split_at(rest.len().min(usize::from(cuts & 7)));
    let packet_max_bytes = 1 << (5 + (kind >> 1 & 15));
    meshfs_broker::fuzzing::stream(stream, cuts, kind & 1 == 1, packet_max_bytes);
});
