//! `fieldgate audit`: the log of writes and of decisions about devices, and whether anybody
//! touched it. Opens the store read-only, so the agent need not run.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{exit, print, print_json, unread};
use crate::config::Config;
use crate::store::audit::{self, Entry};

#[derive(Subcommand)]
pub enum Verb {
    /// Follow the chain of hashes from the first entry to the last
    Verify {
        /// The head that an earlier call printed: finds out whether entries went missing since
        #[arg(long, value_name = "HASH")]
        head: Option<String>,
    },
    /// Print the newest entries
    Show {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        entries: u32,
    },
}

pub fn run(verb: Verb, config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let path = &config.store.path;
    let unread = |e| unread(path, e);
    match verb {
        Verb::Verify { head } => {
            let found = audit::verify(path, head.as_deref()).map_err(unread)?;
            let code = if found.is_ok() { ExitCode::SUCCESS } else { exit::FAILED.into() };
            match (found, json) {
                (Ok(ok), true) => print_json(&json!({
                    "intact": true, "entries": ok.entries, "first": ok.first, "last": ok.head.id,
                    "head": audit::hex(&ok.head.hash),
                }))?,
                (Ok(ok), false) => print(&format!(
                    "intact: {} entries, {} to {}\nhead:   {}\n",
                    ok.entries,
                    ok.first,
                    ok.head.id,
                    audit::hex(&ok.head.hash)
                ))?,
                (Err(broken), true) => print_json(&json!({ "intact": false, "why": broken.to_string() }))?,
                (Err(broken), false) => print(&format!("NOT intact: {broken}\n"))?,
            }
            Ok(code)
        }
        Verb::Show { entries } => {
            let entries = audit::newest(path, entries.min(ENTRIES_SHOWN_MAX)).map_err(unread)?;
            if json {
                let entries: Vec<Value> = entries.iter().map(to_json).collect();
                print_json(&entries)?;
            } else {
                print(&entries.iter().map(to_text).collect::<String>())?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn to_json(entry: &Entry) -> Value {
    json!({ "id": entry.id, "entry": serde_json::from_str(&entry.text).unwrap_or(Value::String(entry.text.clone())) })
}

/// `12  2026-11-25T16:00:00.000Z  write meter-1 setpoint: 20 -> 21, verified (socket uid 0)`
fn to_text(entry: &Entry) -> String {
    let e: Value = serde_json::from_str(&entry.text).unwrap_or_default();
    let text = |key: &str| e.get(key).and_then(Value::as_str).unwrap_or_default();
    let value = |key: &str| e.get(key).filter(|v| !v.is_null()).map(Value::to_string);
    let what: Vec<&str> =
        ["what", "thing", "name", "point"].into_iter().map(text).filter(|word| !word.is_empty()).collect();
    let mut line = format!("{:>6}  {}  {}", entry.id, text("t"), what.join(" "));
    match (value("old"), value("new")) {
        (Some(old), Some(new)) => line.push_str(&format!(": {old} -> {new}")),
        (None, Some(new)) => line.push_str(&format!(": {new}")),
        _ => {}
    }
    line.push_str(&format!(", {}", text("outcome")));
    if let Some(why) = e.get("why").and_then(Value::as_str) {
        line.push_str(&format!(": {why}"));
    }
    if !text("by").is_empty() {
        line.push_str(&format!(" ({})", text("by")));
    }
    line.push('\n');
    line
}

/// More than the log keeps.
const ENTRIES_SHOWN_MAX: u32 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_as_a_sentence() {
        let check = |text: &str, expected: &str| {
            assert_eq!(to_text(&Entry { id: 7, text: text.into() }), expected);
        };
        check(
            r#"{"t":"T","what":"write","thing":"m","point":"p","by":"socket uid 0","old":20,"new":21,"outcome":"verified"}"#,
            "     7  T  write m p: 20 -> 21, verified (socket uid 0)\n",
        );
        check(
            r#"{"t":"T","what":"command","thing":"m","name":"reset","new":true,"outcome":"rejected","why":"exception 3"}"#,
            "     7  T  command m reset: true, rejected: exception 3\n",
        );
    }
}
