//! Passwords: from a file, from standard input, or typed without being shown. Never from the
//! command line, which everybody on the machine can read.

use super::Failure;
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;

/// Names the file that holds the password of `--user`.
pub(super) const PASSWORD_FILE: &str = "MESHFS_PASSWORD_FILE";
/// More than any password; what is longer is not one.
const LINE_MAX_BYTES: u64 = 4096;

/// A user of the hub, with the password that proves it.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl Login {
    /// The password of `user`: in the file that the environment names, or typed.
    pub(super) fn of(user: &str) -> Result<Self, Failure> {
        let password = match std::env::var_os(PASSWORD_FILE) {
            Some(path) => from_file(Path::new(&path))?,
            None if std::io::stdin().is_terminal() => typed(&format!("Password of {user}: "))?,
            None => {
                let message = format!(
                    "--user {user}: name a file that holds the password in {PASSWORD_FILE}, or use a terminal"
                );
                return Err(Failure::usage(message));
            }
        };
        Ok(Self { user: user.to_owned(), password })
    }
}

/// A password that somebody makes up: typed twice, or a line of standard input.
pub(super) fn chosen() -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return first_line(std::io::stdin().lock(), "standard input");
    }
    let password = typed("Password: ")?;
    if typed("Again: ")? != password {
        return Err(Failure::fault("the two passwords differ; nothing was changed"));
    }
    Ok(password)
}

fn from_file(path: &Path) -> Result<String, Failure> {
    let place = format!("{PASSWORD_FILE}={}", path.display());
    let file = std::fs::File::open(path).map_err(|e| Failure::usage(format!("{place}: {e}")))?;
    first_line(std::io::BufReader::new(file), &place)
}

fn first_line(reader: impl std::io::BufRead, place: &str) -> Result<String, Failure> {
    let mut line = String::new();
    let read = reader.take(LINE_MAX_BYTES).read_line(&mut line);
    read.map_err(|error| Failure::fault(format!("no password from {place}: {error}")))?;
    let password = line.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        return Err(Failure::fault(format!("no password in {place}: its first line is empty")));
    }
    Ok(password.to_owned())
}

fn typed(prompt: &str) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::fault(format!("no password typed: {error}"));
    let _hidden = Hidden::begin().map_err(|e| failed(e.into()))?;
    eprint!("{prompt}");
    let typed = first_line(std::io::stdin().lock(), "what was typed");
    eprintln!();
    typed
}

/// Standard input, a terminal that does not show what is typed.
struct Hidden(Termios);

impl Hidden {
    /// What was typed before is thrown away: it has been shown.
    fn begin() -> Result<Self, Errno> {
        let shown = tcgetattr(std::io::stdin())?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(shown))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_without_its_end() {
        for (text, password) in [("a b\n", "a b"), ("x\r\ny\n", "x"), ("no end", "no end")] {
            assert_eq!(first_line(text.as_bytes(), "here").unwrap(), password);
        }
        for bad in [&b""[..], b"\n", b"\xff\n"] {
            assert!(first_line(bad, "here").unwrap_err().message.contains("here"));
        }
    }
}
