//! `meshfs config`

use super::{ConfigArgs, Failure, output};
use crate::config::DEFAULTS;

/// Arguments of `meshfs config`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print what is in force instead, as JSON: the file, the environment and the flags included
    #[arg(long)]
    in_force: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.in_force {
        return output::json(&args.config.load()?);
    }
    output::print(DEFAULTS.trim_end())
}
