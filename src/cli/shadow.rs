//! `fieldgate shadow`: reads and changes shadows through the running agent, with the words of
//! the Device Shadow REST API.

use std::io::Read;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::status::failure;
use super::{Failure, exit, print, print_json};
use crate::config::Config;
use crate::control::ask::{Answer, Ask, Shadow};
use crate::control::client;

#[derive(Subcommand)]
pub enum Verb {
    /// Print a shadow with its delta, metadata and version
    Get(Which),
    /// Change a shadow; the document is what a client would publish: {"state":{"desired":{...}}}
    Update {
        #[command(flatten)]
        which: Which,
        /// JSON, or - to read it from standard input
        document: String,
    },
    /// Delete a shadow; its numbering goes on if it is made anew
    Delete(Which),
    /// Print the names of a thing's named shadows
    List {
        /// The thing: a device's `thing`, which is its name if not set
        thing: String,
    },
}

#[derive(clap::Args)]
pub struct Which {
    /// The thing: a device's `thing`, which is its name if not set
    thing: String,
    /// A named shadow instead of the classic one
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
}

pub fn run(verb: Verb, config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let ask = wanted(verb)?;
    let Some(socket) = &config.gateway.status_socket else {
        return Err(Failure::new(exit::UNREACHABLE, "gateway.status_socket is empty: nobody to ask").into());
    };
    let answer = match client::ask(socket, &Ask::Shadow(ask)) {
        Ok(Answer::Shadow(document)) => document,
        Ok(other) => anyhow::bail!("the agent answered something else: {other:?}"),
        Err(error) => return Err(failure(error)),
    };
    match answer.get("results").and_then(Value::as_array) {
        Some(names) if !json => {
            let names = names.iter().filter_map(Value::as_str).map(|n| format!("{n}\n"));
            print(&names.collect::<String>())?;
        }
        _ => print_json(&answer)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(verb: Verb) -> anyhow::Result<Shadow> {
    let plain = |operation: &str, which: Which| Shadow {
        operation: operation.into(),
        thing: which.thing,
        shadow: which.name,
        document: None,
    };
    Ok(match verb {
        Verb::Get(which) => plain("get", which),
        Verb::Delete(which) => plain("delete", which),
        Verb::List { thing } => plain("list", Which { thing, name: String::new() }),
        Verb::Update { which, document } => {
            let text = match document.as_str() {
                "-" => {
                    let mut text = String::new();
                    std::io::stdin().lock().take(DOCUMENT_MAX).read_to_string(&mut text)?;
                    text
                }
                _ => document,
            };
            let document = serde_json::from_str(&text)
                .map_err(|e| Failure::new(exit::FAILED, format!("the document is not JSON: {e}")))?;
            Shadow { document: Some(document), ..plain("update", which) }
        }
    })
}

/// Bytes of a document from standard input; a shadow is far smaller.
const DOCUMENT_MAX: u64 = 64 << 10;
