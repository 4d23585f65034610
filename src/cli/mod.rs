//! One file per verb. Each prints for people, and with `--json` for programs.
//!
//! Constraints: a script must be able to tell what went wrong from the exit code alone, a
//! reader that goes away (`| head`) is not an error, and nothing outside of this room prints.
//!
//! The way of a call: `main` parses argv, the verb does its work and returns an exit code or
//! an error; an error is printed with all of its causes, and its code is that of the
//! [`Failure`] among them, or 1.

pub mod audit;
pub mod bundle;
pub mod check;
pub mod decode;
pub mod demo;
pub mod doctor;
pub mod identity;
pub mod log;
pub mod outbox;
pub mod plan;
pub mod read;
pub mod reload;
pub mod run;
pub mod shadow;
pub mod show_config;
pub mod status;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::{app, notify, store};

/// The exit codes, from sysexits where it has one.
pub mod exit {
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const CONFIG: u8 = 64;
    pub const NEWER: u8 = 65;
    pub const UNREACHABLE: u8 = 69;
    pub const IO: u8 = 74;
    pub const REFUSED: u8 = 77;
}

const EXIT_CODES: &str = "Exit codes:
   0  done; after `run`: stopped as asked
   1  failed: the reason is on standard error; after `doctor`: a check failed
   2  the command line was not understood
  64  the configuration is wrong; every mistake is named
  65  the store was written by a newer fieldgate; it was not touched
  69  the agent, or the device behind it, cannot be reached
  74  a file or the store could not be read or written
  77  the agent refused: not root, not its user, not in its group";

/// Edge agent: reads Modbus and serial devices, keeps every reading in SQLite, and delivers
/// it over TLS MQTT.
#[derive(Parser)]
#[command(name = "fieldgate", version, after_help = EXIT_CODES, after_long_help = EXIT_CODES)]
struct Cli {
    /// The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer in JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the agent until it is told to stop
    Run,
    /// Check the configuration and name every mistake; opens nothing
    Check,
    /// Print the configuration as the agent would see it
    Config {
        /// The commented sample with every option and its default instead
        #[arg(long)]
        default: bool,
    },
    /// Print the requests per bus before going live: bytes, wire time, load
    Plan,
    /// Say what registers mean in a type and order; without a type: in every plausible one
    Decode(decode::Args),
    /// Read one point or address now
    Read(read::Args),
    /// Show what waits in the store, since when, and what was lost on the way
    Outbox,
    /// Read and change shadows through the running agent
    #[command(subcommand)]
    Shadow(shadow::Verb),
    /// Show the log of writes and whether it is intact
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Show how the running agent does
    Status(status::Args),
    /// Say what is wrong with this machine, from configuration to broker, and what to do
    Doctor,
    /// Pack what somebody far away needs to help, without secrets, into one file
    Bundle(bundle::Args),
    /// Let the running agent read its configuration again; a wrong one changes nothing
    Reload,
    /// Keys and certificates of the things, and the gateway's own CA
    Identity(identity::Args),
    /// Show it all at work with simulated devices and a cloud inside this process
    Demo(demo::Args),
}

/// An error with an exit code of its own.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub text: String,
}

impl Failure {
    pub fn new(code: u8, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// The command line as it is parsed, for manual pages and completions.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "fieldgate: {error:#}");
            ExitCode::from(code_of(&error))
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let (config, json) = (cli.config.as_deref(), cli.json);
    match cli.verb {
        Verb::Run => match load(config) {
            Err(error) if code_of(&error) == exit::IO && notify::is_service() => {
                let _ = writeln!(std::io::stderr(), "fieldgate: {error:#}; trying again");
                std::thread::sleep(UNREADABLE_PAUSE);
                Ok(ExitCode::from(exit::IO))
            }
            loaded => run::run(config, loaded?),
        },
        Verb::Check => check::run(config, json),
        Verb::Config { default } => {
            let which = if default { show_config::Which::Sample } else { show_config::Which::Merged };
            show_config::run(config, which, json)
        }
        Verb::Plan => plan::run(&load(config)?, json),
        Verb::Decode(args) => decode::run(args),
        Verb::Read(args) => read::run(&args, &load(config)?, json),
        Verb::Outbox => outbox::run(&load(config)?, json),
        Verb::Shadow(verb) => shadow::run(verb, &load(config)?, json),
        Verb::Audit(verb) => audit::run(verb, &load(config)?, json),
        Verb::Status(args) => status::run(&args, || load(config), json),
        Verb::Doctor => doctor::run(config, json),
        Verb::Bundle(args) => bundle::run(&args, config, json),
        Verb::Reload => reload::run(&load(config)?, json),
        Verb::Identity(args) => identity::run(args, &load(config)?, json),
        Verb::Demo(args) => demo::run(&args, json),
    }
}

/// A service manager starts us again at once; what a late disk needs is time, and the log room.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(10);

/// The whole configuration or all of its mistakes.
fn load(path: Option<&Path>) -> anyhow::Result<Config> {
    crate::config::load::load(path).map_err(|errors| {
        let code = if errors.may_mend() { exit::IO } else { exit::CONFIG };
        Failure::new(code, errors.to_string()).into()
    })
}

fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.code;
        }
        let store = match cause.downcast_ref::<app::Error>() {
            Some(app::Error::Store(error)) => Some(error),
            _ => cause.downcast_ref::<store::Error>(),
        };
        match store {
            Some(store::Error::Newer { .. }) => return exit::NEWER,
            Some(_) => return exit::IO,
            None => {}
        }
        if cause.downcast_ref::<std::io::Error>().is_some() {
            return exit::IO;
        }
    }
    exit::FAILED
}

/// What went wrong with the store at `path`, with the exit code that it has everywhere.
fn unread(path: &Path, error: store::Error) -> Failure {
    let code = if let store::Error::Newer { .. } = error { exit::NEWER } else { exit::IO };
    Failure::new(code, format!("{}: {error}", path.display()))
}

/// Prints to standard output; that nobody reads it any more is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_names_its_exit_codes() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for code in [exit::FAILED, exit::CONFIG, exit::NEWER, exit::UNREACHABLE, exit::IO, exit::REFUSED] {
            assert!(help.contains(&format!("\n  {code:>2}  ")), "{code} is not in the help");
        }
    }

    #[test]
    fn the_exit_code_is_that_of_the_failure_among_the_causes() {
        let check = |error: anyhow::Error, expected: u8| assert_eq!(code_of(&error), expected, "{error:#}");
        let io = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        check(anyhow::anyhow!("something"), exit::FAILED);
        check(anyhow::Error::from(io()).context("opening the store"), exit::IO);
        check(anyhow::Error::from(Failure::new(exit::CONFIG, "3 mistakes")), exit::CONFIG);
        check(anyhow::Error::from(Failure::new(69, "silent")).context("asking"), exit::UNREACHABLE);
    }
}
