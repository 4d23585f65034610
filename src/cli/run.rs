//! `fieldgate run`: Config → App → exit code.
//!
//! Constraints: one thread does everything but SQLite's disk work, because a gateway has few
//! cores, little memory and a battery of devices that mostly wait; the first signal stops in
//! order, the second at once; a panic is a line in the log before it is anything else.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::log::{self, Flood};
use super::{Failure, exit};
use crate::app::App;
use crate::config::Config;

/// SQLite's work is one writer and an occasional reader; the rest is for name lookups.
const BLOCKING_THREADS_MAX: usize = 4;

pub fn run(config: Config) -> anyhow::Result<ExitCode> {
    let flood = log::start(&config.log)?;
    // The hook comes first so that even a panic while building ends up in the log.
    std::panic::set_hook(Box::new(|panic| error!("{panic}")));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .context("starting the runtime")?;
    runtime.block_on(live(config, flood))
}

async fn live(config: Config, flood: Flood) -> anyhow::Result<ExitCode> {
    info!(version = env!("CARGO_PKG_VERSION"), gateway = %config.gateway.name, "starting");
    let stop = CancellationToken::new();
    let app = App::build(config).context("starting")?;
    // A second signal leaves from within the watcher; it needs no end of its own.
    let watcher = tokio::spawn(watch_signals(stop.clone()).await?);
    let summaries = tokio::spawn(flood.clone().summarise());
    let result = app.run(stop).await;
    watcher.abort();
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
