//! `fieldgate run`: Config → App → exit code.
//!
//! Constraints: one thread does everything but SQLite's disk work, because a gateway has few
//! cores, little memory and a battery of devices that mostly wait; the first signal stops in
//! order, the second at once; a panic is a line in the log before it is anything else.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::log::{self, Flood};
use super::{Failure, exit};
use crate::app::{App, Source};
use crate::channel::Reload;
use crate::config::Config;

/// SQLite's work is one writer and an occasional reader; the rest is for name lookups.
const BLOCKING_THREADS_MAX: usize = 4;

/// `path` is where the configuration came from, for the day it is read again.
pub fn run(path: Option<&Path>, config: Config) -> anyhow::Result<ExitCode> {
    let (flood, relog) = log::start(&config.log)?;
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
    runtime.block_on(live(config, source, flood))
}

async fn live(config: Config, mut source: Source, flood: Flood) -> anyhow::Result<ExitCode> {
    info!(version = env!("CARGO_PKG_VERSION"), gateway = %config.gateway.name, "starting");
    let stop = CancellationToken::new();
    let mut app = App::build(config).context("starting")?;
    let (signal, reloads) = oneshot::channel();
    source.signal = Some(signal);
    app.reloads_from(source);
    let hangups = tokio::spawn(watch_hangup(reloads)?);
    // A second signal leaves from within the watcher; it needs no end of its own.
    let watcher = tokio::spawn(watch_signals(stop.clone()).await?);
    let summaries = tokio::spawn(flood.clone().summarise());
    let result = app.run(stop).await;
    watcher.abort();
    hangups.abort();
    summaries.abort();
    flood.tell(None);
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
