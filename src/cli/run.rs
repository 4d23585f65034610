//! `fieldgate run`: Config → App → exit code.
//!
//! Constraints: one thread does everything but SQLite's disk work, because a gateway has few
//! cores, little memory and a battery of devices that mostly wait; the first signal stops in
//! order, the second at once; a panic is a line in the log before it is anything else.
//!
//! The way of a log line: `tracing` → the filter of `[log].level` → the journal with its
//! fields when systemd reads our output, else text on standard error.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{Failure, exit};
use crate::app::{App, Source};
use crate::channel::Reload;
use crate::config::{Config, Log, LogFormat};

/// SQLite's work is one writer and an occasional reader; the rest is for name lookups.
const BLOCKING_THREADS_MAX: usize = 4;

/// Libraries whose words at `info` and below are of no use to the owner of a plant. A target
/// that `[log].level` names itself still wins.
const QUIET: &str = "rumqttc=warn,rustls=warn,tokio_modbus=warn,mio_serial=warn,tokio_serial=warn";

/// `path` is where the configuration came from, for the day it is read again.
pub fn run(path: Option<&Path>, config: Config) -> anyhow::Result<ExitCode> {
    let relog = start_log(&config.log)?;
    // The hook comes first so that even a panic while building ends up in the log.
    std::panic::set_hook(Box::new(|panic| error!("{panic}")));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .context("starting the runtime")?;
    let path = path.map(Path::to_path_buf);
    let load = move || crate::config::load::load(path.as_deref()).map_err(|errors| errors.to_string());
    let source = Source { load: Box::new(load), relog, signal: None };
    runtime.block_on(live(config, source))
}

async fn live(config: Config, mut source: Source) -> anyhow::Result<ExitCode> {
    info!(version = env!("CARGO_PKG_VERSION"), gateway = %config.gateway.name, "starting");
    let stop = CancellationToken::new();
    let mut app = App::build(config).context("starting")?;
    let (signal, reloads) = oneshot::channel();
    source.signal = Some(signal);
    app.reloads_from(source);
    let hangups = tokio::spawn(watch_hangup(reloads)?);
    // A second signal leaves from within the watcher; it needs no end of its own.
    let watcher = tokio::spawn(watch_signals(stop.clone()).await?);
    let result = app.run(stop).await;
    watcher.abort();
    hangups.abort();
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

/// SIGHUP asks for a reload too; how it went stands in the log alone.
fn watch_hangup(
    reloads: oneshot::Receiver<mpsc::Sender<Reload>>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup()).context("taking SIGHUP")?;
    Ok(async move {
        let Ok(reloads) = reloads.await else { return };
        while hangup.recv().await.is_some() {
            let (answer, _) = oneshot::channel();
            if reloads.try_send(answer).is_err() {
                warn!("SIGHUP: other reloads wait, or the agent is stopping");
            }
        }
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

/// Makes the log speak at another level.
type Relog = Box<dyn FnMut(&Log) -> Result<(), String> + Send + Sync>;

fn start_log(log: &Log) -> anyhow::Result<Relog> {
    let filter = filter(&log.level)
        .map_err(|e| Failure::new(exit::CONFIG, format!("log.level: {:?}: {e}", log.level)))?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
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
    Ok(Box::new(move |log| {
        let new = self::filter(&log.level).map_err(|e| format!("log.level: {:?}: {e}", log.level))?;
        handle.reload(new).map_err(|e| e.to_string())
    }))
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
