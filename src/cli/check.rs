//! `meshfs check`

use super::{ConfigArgs, Exit, Failure, output};
use crate::hub::check;

/// Arguments of `meshfs check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = args.config.load()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::fault(format!("could not start: {e}")))?;
    let findings = runtime.block_on(check::check(&config));
    runtime.shutdown_background();
    if args.json {
        output::json(&findings)?;
    } else {
        for finding in &findings {
            let word = if finding.good { "ok   " } else { "WRONG" };
            output::print(&format!("{word}  {:<20} {}", finding.what, finding.detail))?;
        }
    }
    let wrong = findings.iter().filter(|finding| !finding.good).count();
    if wrong == 0 {
        return Ok(());
    }
    let message =
        if args.json { String::new() } else { format!("{wrong} of {} wrong", findings.len()) };
    Err(Failure { exit: Exit::Fault, message })
}
