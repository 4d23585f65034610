//! `fieldgate config`: the configuration as the agent sees it, all files, models and
//! variables in one, without its secrets; or the commented sample.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::check::EXIT_CONFIGURATION;
use super::print;
use crate::config::errors::Report;
use crate::config::load::{DEFAULT_PATH, layers};
use crate::config::merged::merged;
use crate::config::validate;

/// The sample that the package installs.
pub const SAMPLE: &str = include_str!("../../config/fieldgate.toml");

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Merged,
    Sample,
}

pub fn run(path: Option<&Path>, which: Which, as_json: bool) -> anyhow::Result<ExitCode> {
    if which == Which::Sample {
        return show(sample(), as_json, Some(SAMPLE));
    }
    let mut report = Report::default();
    let path = path.unwrap_or(Path::new(DEFAULT_PATH));
    let layered = layers(path, std::env::vars(), &mut report);
    let merged = layered.as_ref().map(merged);
    if let Some(layered) = layered {
        validate::validate(layered, &mut report);
    }
    match (report.finish(), merged) {
        (Ok(_), Some(merged)) => show(merged, as_json, None),
        (Ok(_), None) => Ok(ExitCode::from(EXIT_CONFIGURATION)),
        (Err(errors), _) => {
            match as_json {
                true => print(&format!("{}\n", json!({ "ok": false, "errors": errors.0 })))?,
                false => eprintln!("{errors}"),
            }
            Ok(ExitCode::from(EXIT_CONFIGURATION))
        }
    }
}

/// The document as a configuration file.
pub fn as_toml(document: &Value) -> Result<String, String> {
    toml::to_string(document).map_err(|e| e.to_string())
}

fn sample() -> Value {
    toml::from_str(SAMPLE).unwrap_or(Value::Null)
}

fn show(document: Value, as_json: bool, text: Option<&str>) -> anyhow::Result<ExitCode> {
    let printed = match (as_json, text) {
        (true, _) => serde_json::to_string_pretty(&document).map_err(|e| e.to_string()),
        (false, Some(text)) => Ok(text.to_owned()),
        (false, None) => as_toml(&document),
    };
    match printed {
        Ok(text) => {
            print(&format!("{}\n", text.trim_end()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(e) => Err(anyhow::anyhow!("the configuration cannot be printed: {e}")),
    }
}
