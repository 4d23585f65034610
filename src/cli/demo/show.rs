//! What people and programs see of the demonstration.
//!
//! Constraints: on a terminal a few lines are drawn anew in their place; into a pipe one line
//! a second; with `--json` one object a line, the last of them the sum.

use std::io::{IsTerminal, Write};

use serde_json::json;

use super::proof::{Arrived, Proof, SAMPLE};
use crate::metrics::Metrics;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Terminal,
    Pipe,
    Json,
}

pub struct Show {
    way: Way,
    /// Lines of the table that stand on the terminal.
    drawn: usize,
}

/// The account at the end.
pub struct Sum {
    pub taken: u64,
    pub delivered: u64,
    pub waiting: u64,
    pub ledger: u64,
    /// Samples between each device's first and last that did not arrive.
    pub missing: u64,
    /// Answers that the agent had given up waiting for: it never took them.
    pub too_late: u64,
    pub backlog_max: u64,
    pub dropped_by_cloud: u64,
    /// Devices of which nothing arrived.
    pub silent: Vec<&'static str>,
}

impl Sum {
    pub fn holds(&self) -> bool {
        self.taken > 0
            && self.taken == self.delivered + self.waiting + self.ledger
            && self.missing <= self.too_late
            && self.dropped_by_cloud == 0
            && self.silent.is_empty()
    }
}

impl Show {
    pub fn new(json: bool) -> Show {
        let way = if json {
            Way::Json
        } else if std::io::stdout().is_terminal() {
            Way::Terminal
        } else {
            Way::Pipe
        };
        Show { way, drawn: 0 }
    }

    /// Something happened that is worth a sentence.
    pub fn say(&mut self, event: &str, sentence: &str) {
        self.drawn = 0;
        match self.way {
            Way::Json => line(&json!({ "event": event, "text": sentence }).to_string()),
            _ => line(&format!("\n{sentence}")),
        }
    }

    pub fn progress(&mut self, seconds: u64, metrics: &Metrics, proof: &Proof) {
        let (state, waiting) = (metrics.uplink.state.get(), metrics.store.readings_waiting.get());
        match self.way {
            Way::Json => {
                let devices: serde_json::Map<_, _> = proof
                    .devices()
                    .map(|(n, d)| (n.to_owned(), json!({ "readings": d.readings(), "latest": d.latest })))
                    .collect();
                line(
                    &json!({
                        "event": "progress", "seconds": seconds, "uplink": state, "waiting": waiting,
                        "taken": metrics.store.readings.get(), "arrived": proof.readings(), "devices": devices,
                    })
                    .to_string(),
                );
            }
            Way::Pipe => {
                let newest = proof.devices().map(|(n, d)| format!("{n} {}", values(d)));
                let newest = newest.collect::<Vec<_>>().join(" | ");
                line(&format!("{seconds:>3} s  {} arrived, {waiting} waiting  {newest}", proof.readings()));
            }
            Way::Terminal => self.table(seconds, &state, waiting, metrics, proof),
        }
    }

    pub fn sum(&mut self, sum: &Sum) {
        if self.way == Way::Json {
            line(
                &json!({
                    "event": "sum", "taken": sum.taken, "delivered": sum.delivered, "waiting": sum.waiting,
                    "ledger": sum.ledger, "missing": sum.missing, "too_late": sum.too_late,
                    "backlog_max": sum.backlog_max, "silent": sum.silent, "nothing_lost": sum.holds(),
                })
                .to_string(),
            );
            return;
        }
        let Sum { taken, delivered, waiting, ledger, missing, too_late, backlog_max, .. } = sum;
        for device in &sum.silent {
            line(&format!("\nNothing arrived from the {device}."));
        }
        line(&format!(
            "\n{taken} readings taken = {delivered} delivered + {waiting} waiting + {ledger} in the ledger\n\
             The backlog was {backlog_max} readings at its height. Every sample of every device carries a\n\
             number: {missing} between the first and the last did not arrive{}.\n{}",
            if *too_late > 0 {
                format!(", {too_late} answers were too late to be taken")
            } else {
                String::new()
            },
            if sum.holds() { "Nothing was lost." } else { "THE ACCOUNT DOES NOT HOLD." },
        ));
    }

    fn table(&mut self, seconds: u64, state: &str, waiting: i64, metrics: &Metrics, proof: &Proof) {
        let mut rows = vec![format!(
            "{seconds:>3} s   taken {:>6}   arrived {:>6}   waiting {waiting:>6} {}   {state}",
            metrics.store.readings.get(),
            proof.readings(),
            bar(waiting),
        )];
        for (name, device) in proof.devices() {
            rows.push(format!("        {name:<8} {:>6} readings   {}", device.readings(), values(device)));
        }
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        let text: Vec<_> = rows.iter().map(|r| format!("\x1b[2K{r}")).collect();
        self.drawn = rows.len();
        line(&format!("{up}{}", text.join("\n")));
    }
}

/// One block for each twenty readings that wait.
fn bar(waiting: i64) -> String {
    "█".repeat(usize::try_from(waiting / 20).unwrap_or(0).min(20))
}

fn values(device: &Arrived) -> String {
    let shown = device.latest.iter().filter(|(name, _)| *name != SAMPLE);
    shown.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join("  ")
}

/// A reader that has gone away is no error.
fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_holds_only_when_nothing_is_missing() {
        let check = |change: fn(&mut Sum), expected: bool| {
            let mut sum = Sum {
                taken: 10,
                delivered: 7,
                waiting: 2,
                ledger: 1,
                missing: 0,
                too_late: 0,
                backlog_max: 5,
                dropped_by_cloud: 0,
                silent: vec![],
            };
            change(&mut sum);
            assert_eq!(sum.holds(), expected);
        };
        check(|_| {}, true);
        check(|s| s.delivered = 6, false);
        check(|s| s.delivered = 8, false);
        check(|s| s.missing = 1, false);
        check(|s| (s.missing, s.too_late) = (1, 1), true);
        check(|s| s.dropped_by_cloud = 1, false);
        check(|s| s.silent = vec!["scale"], false);
        check(|s| (s.taken, s.delivered, s.waiting, s.ledger) = (0, 0, 0, 0), false);
    }
}
