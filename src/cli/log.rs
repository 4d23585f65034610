//! Where the log of `fieldgate run` goes.
//!
//! Constraints: a person reads whole lines (`journalctl -u fieldgate`, or standard error), a
//! program asks by field (`journalctl FIELDGATE_DEVICE=meter-1`); a device that flaps all
//! night must not wash the rest of the log away; a log that nobody takes must not stop a poll.
//!
//! The way of a log line: `tracing` → the filter of `[log].level` → [`Flood`], which holds
//! back the eleventh of a kind in a minute → the journal with its fields when systemd reads
//! our output, else text on standard error.
//!
//! What an event is about stands in fields with fixed names and plain values, everywhere:
//! `bus`, `device` and `thing` (`tests/tidy.rs` holds it).

pub mod flood;
pub mod journal;

use std::path::Path;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use self::flood::Flood;
use self::journal::Journal;
use super::{Failure, exit};
use crate::app::Relog;
use crate::config::{Log, LogFormat};

/// Libraries whose words at `info` and below are of no use to the owner of a plant. A target
/// that `[log].level` names itself still wins.
const QUIET: &str = "rumqttc=warn,rustls=warn,tokio_modbus=warn,mio_serial=warn,tokio_serial=warn";

/// From now on everything that is said in this process is logged. A reload makes it speak at
/// another level.
pub fn start(log: &Log) -> anyhow::Result<(Flood, Relog)> {
    let filter = filter(&log.level)
        .map_err(|e| Failure::new(exit::CONFIG, format!("log.level: {:?}: {e}", log.level)))?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let flood = Flood::default();
    let registry = tracing_subscriber::registry().with(filter).with(flood.clone());
    let journal = match log.format {
        LogFormat::Text => false,
        LogFormat::Journal => true,
        LogFormat::Auto => journal_reads_us(),
    };
    if journal {
        let socket = Path::new(journal::SOCKET);
        let layer = Journal::open(socket)
            .with_context(|| format!("log.format: opening the journal at {}", socket.display()))?;
        registry.with(layer).try_init()?;
    } else {
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
        registry.with(layer).try_init()?;
    }
    let relog = move |log: &Log| {
        let new = self::filter(&log.level).map_err(|e| format!("log.level: {:?}: {e}", log.level))?;
        handle.reload(new).map_err(|e| e.to_string())
    };
    Ok((flood, Box::new(relog)))
}

fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{QUIET},{level}"))
}

/// At most so many bytes of it.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// True when our standard error is the very stream that `JOURNAL_STREAM` names: a shell
/// started from a service inherits the variable, but not the stream.
fn journal_reads_us() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|ours| is_stream(&named, ours.st_dev, ours.st_ino))
}

fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    named.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_taken_only_when_it_reads_this_very_stream() {
        let check = |named: &str, expected: bool| assert_eq!(is_stream(named, 9, 4711), expected, "{named}");
        check("9:4711", true);
        check("9:4712", false);
        check("8:4711", false);
        check("", false);
        check("9", false);
    }

    #[test]
    fn a_target_that_the_level_names_wins_over_the_quiet_ones() {
        let check = |level: &str, expected: &str| {
            let text = filter(level).unwrap().to_string();
            assert!(text.split(',').any(|directive| directive == expected), "{level}: {text}");
        };
        check("info", "info");
        check("info", "rumqttc=warn");
        check("debug", "rustls=warn");
        check("info,rumqttc=trace", "rumqttc=trace");
        assert!(filter("fieldgate=loud").is_err());
    }
}
