//! `meshfs user`

use super::output::{self};
use super::{Exit, Failure, environment, password};
use crate::access::{Login, UsersError, UsersFile};
use crate::config::Config;
use crate::name::UserName;
use std::path::PathBuf;
use tabled::Tabled;

/// What can be done with users.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add a user; the password is asked for, or read from standard input
    Add {
        /// The name; for a node or service its own
        name: String,
        /// node, service, dashboard, operator, or a role of the file
        #[arg(long)]
        role: String,
        /// Take a client certificate of this name as proof, and ask for no password
        #[arg(long)]
        certificate: bool,
        #[command(flatten)]
        file: FileArgs,
    },
    /// Give a user another password
    Passwd {
        /// The name
        name: String,
        #[command(flatten)]
        file: FileArgs,
    },
    /// List the users, their roles, and how each proves who he is
    List {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        file: FileArgs,
    },
    /// Remove a user
    Remove {
        /// The name
        name: String,
        #[command(flatten)]
        file: FileArgs,
    },
}

/// Which file of users.
#[derive(Debug, clap::Args)]
pub(super) struct FileArgs {
    /// File of users [default: bus.users of the configuration]
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// Configuration file that names it [default: config/meshfs.toml, where it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl FileArgs {
    fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(users) = &self.users {
            return Ok(users.clone());
        }
        let config = Config::read(self.config.as_deref(), environment(), &[]);
        let config =
            config.map_err(|error| Failure { exit: Exit::Config, message: error.to_string() })?;
        Ok(config.bus.users)
    }
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    user: String,
    role: String,
    proof: &'static str,
}

impl Row {
    fn new(login: &Login) -> Self {
        let proof = match (login.password, login.certificate) {
            (true, true) => "password or certificate",
            (true, false) => "password",
            (false, true) => "certificate",
            (false, false) => "none: cannot come in",
        };
        Self { user: login.user.to_string(), role: login.role.to_string(), proof }
    }
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let name = |name: &str| UserName::parse(name).map_err(|e| Failure::usage(e.to_string()));
    match command {
        Command::Add { name: user, role, certificate, file } => {
            let user = name(user)?;
            let mut users = UsersFile::open(&file.path()?).map_err(failure)?;
            users.may_add(&user, role).map_err(failure)?;
            let password = if *certificate { None } else { Some(password::chosen()?) };
            users.add(&user, role, password.as_deref(), *certificate).map_err(failure)?;
            done(&format!("{user} added, role {role}"))
        }
        Command::Passwd { name: user, file } => {
            let user = name(user)?;
            let mut users = UsersFile::open(&file.path()?).map_err(failure)?;
            users.must_have(&user).map_err(failure)?;
            users.set_password(&user, &password::chosen()?).map_err(failure)?;
            done(&format!(
                "{user} has another password; who is connected with the old one is cut off"
            ))
        }
        Command::Remove { name: user, file } => {
            let user = name(user)?;
            let users = UsersFile::open(&file.path()?).map_err(failure)?;
            users.remove(&user).map_err(failure)?;
            done(&format!("{user} removed"))
        }
        Command::List { json, file } => {
            let logins = UsersFile::list(&file.path()?).map_err(failure)?;
            if *json {
                return output::json(&logins);
            }
            if logins.is_empty() {
                return output::print("no users; `meshfs user add NAME --role ROLE` adds one");
            }
            output::table(&logins.iter().map(Row::new).collect::<Vec<_>>())
        }
    }
}

fn done(what: &str) -> Result<(), Failure> {
    output::print(what)?;
    output::print("  a running hub takes it on SIGHUP: systemctl reload meshfs, or kill -HUP PID")
}

fn failure(error: UsersError) -> Failure {
    let exit = if matches!(error, UsersError::Invalid { .. }) { Exit::Config } else { Exit::Fault };
    Failure { exit, message: format!("{:#}", anyhow::Error::new(error)) }
}
