//! `fieldgate reload`: the running agent reads its configuration again.
//!
//! The answer comes when the new configuration is in force, or says why the old one goes on;
//! so a service manager that calls this knows how the reload went. The mistakes are named
//! here before the agent is asked, which reads the files for itself all the same.

use std::process::ExitCode;

use super::status::failure;
use super::{Failure, exit, print, print_json};
use crate::config::Config;
use crate::control::ask::{Answer, Ask};
use crate::control::client;

pub fn run(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let Some(socket) = &config.gateway.status_socket else {
        return Err(
            Failure::new(exit::UNREACHABLE, "gateway.status_socket is empty: no agent can be asked").into()
        );
    };
    match client::ask(socket, &Ask::Reload) {
        Ok(Answer::Done(done)) if json => print_json(&serde_json::json!({ "done": done }))?,
        Ok(Answer::Done(done)) => print(&format!("reloaded: {done}\n"))?,
        Ok(_) => return Err(Failure::new(exit::FAILED, "the agent's answer is not understood").into()),
        Err(e) => return Err(failure(e)),
    }
    Ok(ExitCode::SUCCESS)
}
