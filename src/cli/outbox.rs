//! `fieldgate outbox`: what waits, since when, for how long there is room, and what was lost.
//!
//! Opens the store read-only, so it tells the same whether the agent runs or not.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::json;

use super::{print, print_json, unread};
use crate::config::Config;
use crate::control::snapshot::{Stock, hours_left};
use crate::model::time::{Clock, Timestamp};
use crate::store::inspect::{Inspection, inspect};

pub fn run(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let path = &config.store.path;
    let seen = inspect(path).map_err(|e| unread(path, e))?;
    let bytes_max = config.store.bytes_max;
    if json {
        print_json(&to_json(&seen, bytes_max))?;
    } else {
        print(&to_text(&seen, bytes_max, Clock::System.now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// At the rate at which the waiting readings came in.
fn hours(seen: &Inspection, bytes_max: u64) -> Option<f64> {
    let over_ms = seen.newest?.millis_since(seen.oldest?);
    hours_left(Stock {
        bytes_free: bytes_max.saturating_sub(seen.bytes),
        bytes_used: seen.bytes,
        readings_waiting: seen.readings,
        readings_taken: seen.readings,
        taken_over_s: over_ms as f64 / 1000.0,
    })
}

fn accounted(seen: &Inspection) -> u64 {
    seen.ledger.iter().map(|entry| entry.count).sum()
}

fn to_json(seen: &Inspection, bytes_max: u64) -> serde_json::Value {
    let ledger: Vec<_> = seen
        .ledger
        .iter()
        .map(|e| {
            json!({ "device": e.device, "reason": e.reason, "count": e.count,
                "first": e.first.to_string(), "last": e.last.to_string() })
        })
        .collect();
    json!({
        "schema": seen.schema,
        "rows_waiting": seen.rows,
        "readings_waiting": seen.readings,
        "bytes_used": seen.bytes,
        "bytes_max": bytes_max,
        "oldest": seen.oldest.map(|t| t.to_string()),
        "newest": seen.newest.map(|t| t.to_string()),
        "hours_left": hours(seen, bytes_max),
        "readings_taken": seen.taken,
        "readings_delivered": seen.delivered,
        "readings_accounted": accounted(seen),
        "ledger": ledger,
    })
}

fn to_text(seen: &Inspection, bytes_max: u64, now: Timestamp) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut text, seen, bytes_max, now);
    text
}

fn write_text(out: &mut String, seen: &Inspection, bytes_max: u64, now: Timestamp) -> std::fmt::Result {
    writeln!(out, "waiting    {} readings in {} rows", seen.readings, seen.rows)?;
    if let Some(oldest) = seen.oldest {
        let age = super::status::age(now.millis_since(oldest) / 1000);
        writeln!(out, "oldest     {oldest}  ({age} ago)")?;
    }
    let size = |bytes| bytesize::ByteSize(bytes).to_string();
    writeln!(out, "on disk    {} of {}", size(seen.bytes), size(bytes_max))?;
    match hours(seen, bytes_max) {
        Some(hours) => writeln!(out, "room for   {hours} h without the cloud, at today's rate")?,
        None => writeln!(out, "room for   (too little waits to tell a rate)")?,
    }
    writeln!(
        out,
        "since ever {} taken = {} delivered + {} in the ledger + {} waiting",
        seen.taken,
        seen.delivered,
        accounted(seen),
        seen.readings
    )?;
    if seen.ledger.is_empty() {
        return writeln!(out, "ledger     empty: nothing was lost");
    }
    writeln!(out, "\nledger: what was taken and will not arrive")?;
    let wide = seen.ledger.iter().map(|e| e.device.chars().count()).max().unwrap_or(0).max(6);
    writeln!(out, "{:<wide$}  {:<12} {:>10}  first … last", "device", "reason", "readings")?;
    for e in &seen.ledger {
        writeln!(out, "{:<wide$}  {:<12} {:>10}  {} … {}", e.device, e.reason, e.count, e.first, e.last)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::inspect::LedgerEntry;

    const T: i64 = 1_793_500_000_000;

    /// 3600 readings in an hour, in 50 kB.
    fn hour() -> Inspection {
        Inspection {
            schema: 2,
            rows: 60,
            readings: 3600,
            bytes: 90_000,
            oldest: Some(Timestamp(T)),
            newest: Some(Timestamp(T + 3_600_000)),
            taken: 10_000,
            delivered: 6_393,
            ledger: vec![LedgerEntry {
                device: "meter-1".into(),
                reason: "expired".into(),
                count: 7,
                first: Timestamp(T - 9000),
                last: Timestamp(T - 3000),
            }],
        }
    }

    #[test]
    fn people_see_the_sum_and_what_was_lost() {
        let check = |seen: &Inspection, expected: &[&str]| {
            let text = to_text(seen, 990_000, Timestamp(T + 7_200_000));
            for part in expected {
                assert!(text.contains(part), "{part:?} is not in\n{text}");
            }
        };
        check(
            &hour(),
            &[
                "waiting    3600 readings in 60 rows",
                "(2 h 0 min ago)",
                "room for   10 h",
                "10000 taken = 6393 delivered + 7 in the ledger + 3600 waiting",
                "meter-1  expired               7  2026-11-01",
            ],
        );
        check(&Inspection::default(), &["waiting    0 readings", "too little waits", "nothing was lost"]);
    }

    #[test]
    fn programs_see_the_same() {
        let seen = to_json(&hour(), 990_000);
        assert_eq!(seen["hours_left"], 10.0);
        assert_eq!(seen["readings_accounted"], 7);
        assert_eq!(seen["ledger"][0]["reason"], "expired");
        assert_eq!(to_json(&Inspection::default(), 1)["oldest"], serde_json::Value::Null);
    }
}
