//! Lines: what may go out, how a long text is split, how input is read within bounds.
//!
//! Invariants:
//! - A cleaned text holds no CR, LF, NUL or other control character that ends or wedges a line.
//! - A piece of a split text is valid UTF-8 and fits the room it was split for.
//! - The reader never holds more than one line's limit and one chunk, whatever the peer sends.

use std::io;

use irc::proto::{Command, Message};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of one line on the wire without CR LF (RFC 2812).
pub(super) const WIRE_MAX_BYTES: usize = 510;
/// The longest line accepted from a server: 8191 bytes of tags and 512 of message (IRCv3).
pub(super) const INPUT_MAX_BYTES: usize = 8_703;
/// Room that is always there for text, however long a server says our prefix is.
const ROOM_MIN_BYTES: usize = 64;

/// Formatting codes that clients know; they are no danger to the line.
const fn is_format(c: char) -> bool {
    matches!(c, '\x02' | '\x03' | '\x0f' | '\x11' | '\x16' | '\x1d' | '\x1e' | '\x1f')
}

/// Replaces every control character by a space, formatting codes excepted.
pub(super) fn clean(text: &str) -> String {
    let keep = |c: char| if c.is_control() && !is_format(c) { ' ' } else { c };
    text.chars().map(keep).collect()
}

/// The text without formatting codes and their colour figures: what a person reads.
pub(super) fn strip(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x03' => {
                let coloured = skip(&mut rest, 2, |c| c.is_ascii_digit()) > 0;
                let mut ahead = rest.clone();
                let comma = coloured && ahead.next() == Some(',');
                if comma && ahead.next().is_some_and(|c| c.is_ascii_digit()) {
                    rest.next();
                    skip(&mut rest, 2, |c| c.is_ascii_digit());
                }
            }
            '\x04' => {
                skip(&mut rest, 6, |c| c.is_ascii_hexdigit());
            }
            c if is_format(c) => {}
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}

fn skip(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    most: usize,
    wanted: impl Fn(char) -> bool,
) -> usize {
    (0..most).map_while(|_| rest.next_if(|&c| wanted(c))).count()
}

/// Bytes of text that fit into one PRIVMSG as others receive it: with our prefix in front.
pub(super) fn room(prefix_bytes: usize, target: &str) -> usize {
    let overhead = ":  ".len() + prefix_bytes + "PRIVMSG  :".len() + target.len() - 1;
    WIRE_MAX_BYTES.saturating_sub(overhead).max(ROOM_MIN_BYTES)
}

/// Splits at character boundaries into pieces of at most `max_bytes`, at a space where one is near.
pub(super) fn split(text: &str, max_bytes: usize) -> Vec<String> {
    let max_bytes = max_bytes.max(4); // the longest character, so that every step gets on
    let mut pieces = Vec::new();
    let mut rest = text.trim();
    while rest.len() > max_bytes {
        let mut end = rest.floor_char_boundary(max_bytes);
        if !rest[end..].starts_with(' ')
            && let Some(space) = rest[..end].rfind(' ').filter(|&at| at > end / 2)
        {
            end = space;
        }
        pieces.push(rest[..end].trim_end().to_owned());
        rest = rest[end..].trim_start();
    }
    if !rest.is_empty() {
        pieces.push(rest.to_owned());
    }
    pieces
}

/// Like [`split`], but at most `max_pieces`; what is left out is said with an ellipsis.
pub(super) fn split_at_most(text: &str, max_bytes: usize, max_pieces: usize) -> Vec<String> {
    let mut pieces = split(text, max_bytes);
    if pieces.len() > max_pieces {
        pieces.truncate(max_pieces);
        if let Some(last) = pieces.last_mut() {
            let keep = last.floor_char_boundary(max_bytes.saturating_sub('…'.len_utf8()));
            last.truncate(keep);
            last.push('…');
        }
    }
    pieces
}

/// The text cut to at most `max_chars` characters, with an ellipsis if anything went.
pub(super) fn shorten(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max_chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Verbs that stay [`Command::Raw`]. Which letters of a MODE take an argument is known only from
/// the server's own 005, and a wrong guess would give one person's operator status to another;
/// the crate reads ISON as USERHOST.
const RAW_VERBS: [&str; 2] = ["MODE", "ISON"];

/// One received line as a message; `None` if it is none.
pub(super) fn parse(line: &str) -> Option<Message> {
    let line = line.trim_end_matches(['\r', '\n']);
    let (start, end) = verb(line)?;
    let is_raw = |raw: &&&str| line[start..end].eq_ignore_ascii_case(raw);
    let Some(raw) = RAW_VERBS.iter().find(is_raw) else { return line.parse().ok() };
    // A verb the crate does not know keeps its parameters as they came.
    let masked = format!("{}X{}", &line[..start], &line[start..]);
    let message: Message = masked.parse().ok()?;
    match message.command {
        Command::Raw(_, params) => {
            Some(Message { command: Command::Raw((*raw).to_owned(), params), ..message })
        }
        _ => None,
    }
}

/// Where the verb of a line is.
fn verb(line: &str) -> Option<(usize, usize)> {
    let mut start = 0;
    for sign in ['@', ':'] {
        if line[start..].starts_with(sign) {
            start += line[start..].find(' ')? + 1;
        }
    }
    let length = line[start..].find(' ').unwrap_or(line.len() - start);
    (length > 0).then_some((start, start + length))
}

/// What the reader found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line without its line end; bytes that are not UTF-8 are U+FFFD.
    Text(String),
    /// A line over the limit, thrown away up to its end.
    TooLong,
}

/// Reads lines within a bound; a cancelled `next` loses nothing.
#[derive(Debug)]
pub(super) struct LineReader<R> {
    inner: R,
    max_bytes: usize,
    held: Vec<u8>,
    searched: usize,
    discarding: bool,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(super) fn new(inner: R, max_bytes: usize) -> Self {
        Self { inner, max_bytes, held: Vec::new(), searched: 0, discarding: false }
    }

    /// The next line that is not empty; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            let mut chunk = [0; 4096];
            let count = self.inner.read(&mut chunk).await?;
            if count == 0 {
                return Ok(None);
            }
            self.held.extend_from_slice(&chunk[..count]);
        }
    }

    /// A line that is already here, if there is one.
    fn take(&mut self) -> Option<Line> {
        while let Some(at) = self.held[self.searched..].iter().position(|&b| b == b'\n') {
            let end = self.searched + at;
            let raw: Vec<u8> = self.held.drain(..=end).collect();
            self.searched = 0;
            let raw = raw.trim_ascii_end();
            if std::mem::take(&mut self.discarding) || raw.len() > self.max_bytes {
                return Some(Line::TooLong);
            }
            if !raw.is_empty() {
                return Some(Line::Text(String::from_utf8_lossy(raw).into_owned()));
            }
        }
        self.searched = self.held.len();
        if self.held.len() > self.max_bytes {
            self.discarding = true;
            self.held.clear();
            self.searched = 0;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_cannot_end_its_line_or_hold_a_nul() {
        assert_eq!(clean("a\r\nQUIT\0\rb\tc\x1b"), "a  QUIT  b c ");
        assert_eq!(clean("\x02bold\x02 \x0304red\x0f"), "\x02bold\x02 \x0304red\x0f");
        assert_eq!(clean("\x01VERSION\x01"), " VERSION ");
    }

    #[test]
    fn formatting_is_taken_off_with_its_figures() {
        assert_eq!(
            strip("\x02!snapshot\x0f \x0399,12red\x03 \x03,5 \x04ff00aax"),
            "!snapshot red ,5 x"
        );
        assert_eq!(strip("\x1d\x1e\x11mono"), "mono");
    }

    #[test]
    fn a_long_text_is_split_at_spaces_and_never_inside_a_character() {
        assert_eq!(split("alpha beta gamma", 11), ["alpha beta", "gamma"]);
        assert_eq!(split("ééééé", 5), ["éé", "éé", "é"]);
        assert_eq!(split("", 5), Vec::<String>::new());
        assert_eq!(split("🦀🦀", 1), ["🦀", "🦀"]);
        assert_eq!(split_at_most("aaaa bbbb cccc", 4, 2), ["aaaa", "b…"]);
    }

    #[test]
    fn the_room_of_a_line_counts_the_prefix_others_see() {
        let prefix = "meshfs!~meshfs@host.example";
        let text = "x".repeat(room(prefix.len(), "#mesh"));
        assert_eq!(format!(":{prefix} PRIVMSG #mesh :{text}").len(), WIRE_MAX_BYTES);
        assert_eq!(room(9_000, "#mesh"), ROOM_MIN_BYTES);
    }

    #[test]
    fn mode_keeps_its_arguments_in_order() {
        let message = parse("@a=b :op!u@h MODE #mesh +H-o 10:1h alice\r\n").unwrap();
        let params = ["#mesh", "+H-o", "10:1h", "alice"].map(String::from).to_vec();
        assert_eq!(message.command, Command::Raw("MODE".into(), params));
        assert_eq!(message.source_nickname(), Some("op"));
        let privmsg = parse(":a!u@h PRIVMSG #mesh :MODE x").unwrap();
        assert_eq!(privmsg.command, Command::PRIVMSG("#mesh".into(), "MODE x".into()));
    }

    #[test]
    fn lines_that_are_none_are_none() {
        for line in ["", ":", "@", ":a", "@a", " ", ":a ", "@a :b "] {
            assert!(parse(line).is_none(), "{line:?}");
        }
    }

    #[tokio::test]
    async fn lines_are_read_within_their_bound() {
        let input = [
            b"ok\r\n\r\n\n".to_vec(),
            vec![b'x'; 20_000],
            b"\nnext\xff\n".to_vec(),
            b"rest".to_vec(),
        ];
        let mut reader = LineReader::new(std::io::Cursor::new(input.concat()), 100);
        assert_eq!(reader.next().await.unwrap(), Some(Line::Text("ok".into())));
        assert_eq!(reader.next().await.unwrap(), Some(Line::TooLong));
        assert_eq!(reader.next().await.unwrap(), Some(Line::Text("next\u{fffd}".into())));
        assert_eq!(reader.next().await.unwrap(), None);
        assert!(reader.held.capacity() < 20_000);
    }

    #[tokio::test]
    async fn a_line_that_comes_in_pieces_survives_a_cancelled_read() {
        use tokio::io::AsyncWriteExt;
        let (mut far, near) = tokio::io::duplex(64);
        let mut reader = LineReader::new(near, 100);
        far.write_all(b"PI").await.unwrap();
        tokio::select! { biased; _ = reader.next() => panic!("no whole line yet"), () = std::future::ready(()) => {} }
        far.write_all(b"NG :x\r\n").await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(Line::Text("PING :x".into())));
    }

    proptest! {
        #[test]
        fn nothing_a_server_sends_makes_the_parser_panic(line in "[ -~]{0,80}|(@[a-z=;]{0,8} )?(:[a-z!@.]{0,8} )?[A-Z0-9]{0,6}( [!-~]{0,5}){0,20}( :.{0,9})?") {
            parse(&line);
        }

        #[test]
        fn pieces_fit_and_keep_every_word(text in "\\PC{0,300}", max in 4_usize..80) {
            let pieces = split(&text, max);
            prop_assert!(pieces.iter().all(|piece| piece.len() <= max && !piece.is_empty()));
            let squeeze = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(squeeze(&pieces.concat()), squeeze(&text));
        }
    }
}
