//! Where a frame ends, and a reader that cannot run past it.

use super::Reason;

/// A whole frame: where its body begins and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) body: usize,
    pub(crate) end: usize,
}

/// The first frame of `bytes`; `None` while it is not all here. A frame over `max` bytes is refused
/// by its header alone, before anything of it is kept.
pub(crate) fn first_frame(bytes: &[u8], max: usize) -> Result<Option<Frame>, Reason> {
    let Some(rest) = bytes.get(1..) else { return Ok(None) };
    match variable_int(rest) {
        Some((length, _)) if length > max => Err(Reason::TooLarge),
        Some((length, size)) => {
            let (body, end) = (1 + size, 1 + size + length);
            Ok((bytes.len() >= end).then_some(Frame { body, end }))
        }
        None if rest.len() >= 4 => Err(Reason::Malformed),
        None => Ok(None),
    }
}

/// A variable byte integer and its size; `None` when it is cut off or longer than four bytes.
pub(crate) fn variable_int(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        value |= ((byte & 127) as usize) << (7 * i);
        if byte & 128 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

pub(crate) fn put_variable_int(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 128);
    }
}

pub(crate) const fn variable_int_size(value: usize) -> usize {
    match value {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

/// Reads fields from a frame; every read past the end is an error, never a panic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Reason> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Reason::Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Reason> {
        let (first, rest) = self.0.split_first().ok_or(Reason::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Reason> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Reason::Malformed)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*head))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Reason> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Reason::Malformed)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*head))
    }

    pub(crate) fn variable_int(&mut self) -> Result<usize, Reason> {
        let (value, size) = variable_int(self.0).ok_or(Reason::Malformed)?;
        self.0 = &self.0[size..];
        Ok(value)
    }

    /// Bytes after their two byte length.
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Reason> {
        let length = self.u16()?;
        self.bytes(length.into())
    }

    /// UTF-8 without NUL after its two byte length.
    pub(crate) fn text(&mut self) -> Result<&'a str, Reason> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| Reason::Malformed)?;
        if text.contains('\0') { Err(Reason::Malformed) } else { Ok(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_complete_or_awaited_or_refused() {
        assert_eq!(first_frame(&[], 10), Ok(None));
        assert_eq!(first_frame(&[0xC0], 10), Ok(None));
        assert_eq!(first_frame(&[0xC0, 0], 10), Ok(Some(Frame { body: 2, end: 2 })));
        assert_eq!(first_frame(&[0x30, 3, 0, 1], 10), Ok(None));
        assert_eq!(first_frame(&[0x30, 3, 0, 1, 2, 9], 10), Ok(Some(Frame { body: 2, end: 5 })));
        assert_eq!(first_frame(&[0x30, 11], 10), Err(Reason::TooLarge));
        assert_eq!(first_frame(&[0x30, 255, 255, 255, 255], 10), Err(Reason::Malformed));
        assert_eq!(first_frame(&[0x30, 255, 255], 10), Ok(None));
    }

    #[test]
    fn variable_integers_survive_the_round_trip() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455] {
            let mut out = Vec::new();
            put_variable_int(&mut out, value);
            assert_eq!(out.len(), variable_int_size(value));
            assert_eq!(variable_int(&out), Some((value, out.len())));
        }
    }

    #[test]
    fn text_is_utf8_without_nul() {
        assert_eq!(Reader(&[0, 2, b'a', b'b']).text(), Ok("ab"));
        assert_eq!(Reader(&[0, 1, 0xFF]).text(), Err(Reason::Malformed));
        assert_eq!(Reader(&[0, 1, 0]).text(), Err(Reason::Malformed));
        assert_eq!(Reader(&[0, 9, b'a']).text(), Err(Reason::Malformed));
    }
}
