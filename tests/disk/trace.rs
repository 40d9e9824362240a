//! The system calls of a program as strace writes them down (`-f -yy -xx`).

use std::collections::HashMap;
use std::path::PathBuf;

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Argument {
    /// A file descriptor and what it was open on.
    Fd(PathBuf),
    /// A string or a buffer.
    Bytes(Vec<u8>),
    /// Anything else, as it is written.
    Word(String),
}

impl Argument {
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Fd(path) => path.clone(),
            Self::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap().into(),
            Self::Word(word) => panic!("{word} is no path"),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        if let Self::Bytes(bytes) = self { bytes } else { panic!("{self:?} is no buffer") }
    }

    pub(crate) fn has(&self, flag: &str) -> bool {
        matches!(self, Self::Word(word) if word.split('|').any(|part| part == flag))
    }
}

/// A call that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Vec<Argument>,
    /// The number it gave.
    pub(crate) result: i64,
}

/// What is seen, in the order in which the kernel saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A call has begun that is not over yet, known by its number.
    Begun(usize, String, Vec<Argument>),
    /// One that had begun before is over, well.
    Ended(usize, Call),
}

/// The steps of all threads; what failed is left out.
pub(crate) fn read(trace: &str) -> Vec<Step> {
    let mut under_way: HashMap<&str, (usize, String)> = HashMap::new();
    let mut steps = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        if text.starts_with("+++") || text.starts_with("---") {
            continue;
        }
        if let Some(begun) = text.strip_suffix(" <unfinished ...>") {
            let (name, arguments, _) = call(begun);
            steps.push(Step::Begun(number, name, arguments));
            under_way.insert(thread, (number, begun.to_owned()));
            continue;
        }
        let (number, whole) = match text.strip_prefix("<... ") {
            Some(resumed) => {
                let Some((number, begun)) = under_way.remove(thread) else { continue };
                let rest = resumed.split_once("resumed>").unwrap().1;
                (number, begun + rest)
            }
            None => {
                let (name, arguments, _) = call(text);
                steps.push(Step::Begun(number, name, arguments));
                (number, text.to_owned())
            }
        };
        let (name, arguments, rest) = call(&whole);
        let result = rest.rsplit(" = ").next().unwrap_or_default();
        let digits: String = result.chars().take_while(|c| c.is_ascii_digit()).collect();
        if let Ok(result) = digits.parse() {
            steps.push(Step::Ended(number, Call { name, arguments, result }));
        }
    }
    steps
}

/// Name, arguments, and what comes after them.
fn call(text: &str) -> (String, Vec<Argument>, &str) {
    let (name, mut rest) = text.split_once('(').unwrap_or((text, ""));
    let mut arguments = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(')') {
            rest = after;
            break;
        }
        let (argument, after) = argument(rest);
        arguments.push(argument);
        rest = after.strip_prefix(", ").unwrap_or(after);
    }
    (name.to_owned(), arguments, rest)
}

fn argument(text: &str) -> (Argument, &str) {
    if let Some(rest) = text.strip_prefix('"') {
        let (digits, rest) = rest.split_once('"').unwrap_or((rest, ""));
        assert!(!rest.starts_with("..."), "strace cut a buffer short");
        return (Argument::Bytes(hex(digits)), rest);
    }
    let (mut depth, mut end) = (0_i32, text.len());
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' | ')' if depth == 0 => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    let (word, rest) = text.split_at(end);
    let fd = |text: &str| text == "AT_FDCWD" || text.parse::<u32>().is_ok();
    let open_on = word.split_once('<').filter(|(number, _)| fd(number));
    let argument = match open_on {
        Some((_, on)) => {
            let on = on.trim_end_matches('>');
            let path = if on.starts_with("\\x") {
                String::from_utf8_lossy(&hex(on)).into_owned()
            } else {
                on.to_owned()
            };
            Argument::Fd(path.into())
        }
        None => Argument::Word(word.to_owned()),
    };
    (argument, rest)
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.split("\\x").filter(|digits| !digits.is_empty());
    digits.filter_map(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok()).collect()
}

#[test]
fn what_strace_writes_is_understood() {
    let trace = concat!(
        "1 fsync(3<\\x2f\\x61> <unfinished ...>\n",
        "2 write(4<\\x2f\\x62>, \"\\x68\\x69\", 2) = 2\n",
        "2 mkdirat(5<\\x2f>, \"\\x63\", 0755) = -1 EEXIST (File exists)\n",
        "1 <... fsync resumed>)              = 0\n",
        "2 openat2(5<\\x2f>, \"\\x64\", {flags=O_RDONLY|O_CLOEXEC, resolve=X|Y}, 24) = 6<\\x2f\\x64>\n",
        "2 sendto(7<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"\\x40\", 1, MSG_NOSIGNAL, NULL, 0) = 1\n",
        "1 +++ exited with 0 +++\n",
    );
    let steps = read(trace);
    let ended: Vec<_> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Ended(_, call) => Some((call.name.as_str(), call.result)),
            Step::Begun(..) => None,
        })
        .collect();
    assert_eq!(ended, [("write", 2), ("fsync", 0), ("openat2", 6), ("sendto", 1)]);
    assert!(matches!(&steps[0], Step::Begun(0, name, _) if name == "fsync"));
    let Step::Ended(0, fsync) = &steps[4] else { panic!("{:?}", steps[4]) };
    assert_eq!(fsync.arguments, [Argument::Fd("/a".into())]);
}
