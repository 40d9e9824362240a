//! Room 8: the command line. The only room that prints.
#![expect(clippy::print_stderr, reason = "printing is what it is for")]

mod announce;
mod check;
mod client;
mod config;
mod live;
mod mqtt;
mod output;
mod password;
mod serve;
mod snapshots;
mod status;
mod trust;
mod user;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Keeps the last known state of a mesh on disk, and snapshots it before anybody
/// does something risky.
///
/// Nodes and services heart-beat over MQTT; the hub keeps every retained message
/// as a file below live/. Whoever is about to do something that may break things
/// announces it; the hub takes a snapshot, tells everybody, and only then answers.
#[derive(Debug, Parser)]
#[command(name = "meshfs", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   something went wrong; the message says what
  2   the command line is not understood
  64  the configuration is not usable
  69  the hub cannot be reached
  70  the hub answered that there is no snapshot
  75  no answer within the time limit";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub until it is told to stop
    ///
    /// Logs go to standard error (how much: MESHFS_LOG=debug). The first SIGTERM or
    /// SIGINT starts an orderly shutdown; a second one ends the process at once. SIGHUP
    /// has it read again what may change while it runs.
    Serve(serve::Args),
    /// Announce something risky and wait for the snapshot
    ///
    /// Exits with 0 only when the snapshot is there, so that a script can write
    /// `meshfs announce "migrating schema" && ./migrate`.
    Announce(announce::Args),
    /// Show the nodes and what the hub believes of each
    Status(status::Args),
    /// Look at the snapshots
    #[command(subcommand, arg_required_else_help = true)]
    Snapshots(snapshots::Command),
    /// Look at the retained messages, and clear them
    #[command(subcommand, arg_required_else_help = true)]
    Live(live::Command),
    /// Say who may connect, and as what
    #[command(subcommand, arg_required_else_help = true)]
    User(user::Command),
    /// Print every option at its default, with the why
    Config(config::Args),
    /// Say what would keep a hub from working, without starting one
    Check(check::Args),
}

/// How to find the hub.
#[derive(Debug, clap::Args)]
struct HubArgs {
    /// The hub to talk to: http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL", env = "MESHFS_HUB", default_value = "http://127.0.0.1:8080")]
    hub: String,
    /// CA that the certificate of an https:// or mqtts:// hub comes from, in PEM form
    /// [default: the CAs of the system]
    #[arg(long, value_name = "FILE", env = "MESHFS_CA")]
    ca: Option<PathBuf>,
    /// The user to come as; the password is in the file that MESHFS_PASSWORD_FILE
    /// names, or asked for
    #[arg(long, value_name = "NAME", env = "MESHFS_USER")]
    user: Option<String>,
    /// Print the same JSON that the hub answers over HTTP
    #[arg(long)]
    json: bool,
}

/// Which configuration.
#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// Configuration file to read [default: config/meshfs.toml, where it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The tree; wins over every other place that sets it
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl ConfigArgs {
    fn load(&self) -> Result<crate::config::Config, Failure> {
        let root = self.root.as_ref().map(|root| ("root", root.display().to_string()));
        let flags: Vec<_> = root.into_iter().collect();
        crate::config::Config::load(self.config.as_deref(), environment(), &flags)
            .map_err(|error| Failure { exit: Exit::Config, message: error.to_string() })
    }
}

/// A variable that is not UTF-8 is none of ours; `vars` would panic at it.
fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |os: std::ffi::OsString| os.into_string().ok();
    std::env::vars_os().filter_map(move |(k, v)| Some((text(k)?, text(v)?)))
}

impl HubArgs {
    /// Who the hub is told to be talking to, if that was said.
    fn login(&self) -> Result<Option<password::Login>, Failure> {
        // Also so that no message below shows it.
        if self.hub.contains('@') {
            let message = "the hub's address has no user and no password in it, which others on \
                           this machine could read: say --user NAME";
            return Err(Failure::usage(message));
        }
        self.user.as_deref().map(password::Login::of).transpose()
    }
}

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Fault = 1,
    Usage = 2,
    Config = 64,
    Unreachable = 69,
    Failed = 70,
    Deadline = 75,
}

/// A reason to end with another code than 0.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    /// For people; empty if everything has been said.
    message: String,
}

impl Failure {
    fn fault(message: impl Into<String>) -> Self {
        Self { exit: Exit::Fault, message: message.into() }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }
}

/// Runs the program: parse, do, print the error, exit code.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Announce(args) => announce::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Snapshots(command) => snapshots::run(&command),
        Command::Live(command) => live::run(&command),
        Command::User(command) => user::run(&command),
        Command::Config(args) => config::run(&args),
        Command::Check(args) => check::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("meshfs: {}", failure.message);
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
