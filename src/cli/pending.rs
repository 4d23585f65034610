//! A stand-in for the verb that is still being built.

use std::process::ExitCode;

pub mod demo {
    use super::ExitCode;

    #[derive(clap::Args)]
    pub struct Args {}

    pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
        anyhow::bail!("still being built")
    }
}
