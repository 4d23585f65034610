//! `fieldgate run`: Config → App → exit code.
//!
//! Constraints: one thread does everything but SQLite's disk work, because a gateway has few
//! cores, little memory and a battery of devices that mostly wait; the first signal stops in
//! order, the second at once; a panic is a line in the log before it is anything else.
//!
//! The way of a log line: `tracing` → the filter of `[log].level` → the journal with its
//! fields when systemd reads our output, else text on standard error.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{Failure, exit};
use crate::app::App;
use crate::config::{Config, Log, LogFormat};

/// SQLite's work is one writer and an occasional reader; the rest is for name lookups.
const BLOCKING_THREADS_MAX: usize = 4;

/// Libraries whose words at `info` and below are of no use to the owner of a plant. A target
/// that `[log].level` names itself still wins.
const QUIET: &str = "rumqttc=warn,rustls=warn,tokio_modbus=warn,mio_serial=warn,tokio_serial=warn";

pub fn run(config: Config) -> anyhow::Result<ExitCode> {
    start_log(&config.log)?;
    // The hook comes first so that even a panic while building ends up in the log.
    std::panic::set_hook(Box::new(|panic| error!("{panic}")));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .context("starting the runtime")?;
    runtime.block_on(live(config))
}

async fn live(config: Config) -> anyhow::Result<ExitCode> {
    info!(version = env!("CARGO_PKG_VERSION"), gateway = %config.gateway.name, "starting");
    let stop = CancellationToken::new();
    let app = App::build(config).context("starting")?;
    // A second signal leaves from within the watcher; it needs no end of its own.
    let watcher = tokio::spawn(watch_signals(stop.clone()).await?);
    let result = app.run(stop).await;
    watcher.abort();
    match result {
        Ok(()) => {
            info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Err(ended) => Err(Failure::new(exit::FAILED, ended.to_string()).into()),
    }
}

/// Takes the signals at once; the future that it gives back waits for them.
async fn watch_signals(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("taking SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("taking SIGINT")?;
    Ok(async move {
        let first = either(&mut terminate, &mut interrupt).await;
        info!(signal = first, "stopping in order; a second signal stops at once");
        stop.cancel();
        let second = either(&mut terminate, &mut interrupt).await;
        warn!(signal = second, "stopped at once");
        std::process::exit(i32::from(exit::FAILED));
    })
}

async fn either(
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) -> &'static str {
    tokio::select! {
        biased;
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

fn start_log(log: &Log) -> anyhow::Result<()> {
    let filter = filter(&log.level)
        .map_err(|e| Failure::new(exit::CONFIG, format!("log.level: {:?}: {e}", log.level)))?;
    let registry = tracing_subscriber::registry().with(filter);
    let journal = match log.format {
        LogFormat::Text => false,
        LogFormat::Journal => true,
        LogFormat::Auto => journal_reads_us(),
    };
    if journal {
        let layer = tracing_journald::layer().context("opening the journal")?;
        registry.with(layer).try_init()?;
    } else {
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
        registry.with(layer).try_init()?;
    }
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{QUIET},{level}"))
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
