//! What systemd is told: READY, STATUS, WATCHDOG, STOPPING.
//!
//! Constraints: READY means that the plant is being read, or that the reason why it is not
//! has been stated, so that a start never hangs on a dead sensor; the watchdog is fed by
//! progress, not by a timer, so that a hanging task ends in a restart and a dead plant does
//! not; without systemd all of this costs nothing.
//!
//! The way of a word: counters → `readiness`, `status_line`, [`Progress`] → one datagram.

pub mod progress;

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::progress::{Expectations, Progress, Snapshot};
use crate::channel::Plant;
use crate::metrics::Metrics;

/// How often the counters are looked at until the agent is ready.
const STARTING_PERIOD: Duration = Duration::from_millis(100);

/// How often the status line is renewed; twice per watchdog period if that is shorter.
const STATUS_PERIOD: Duration = Duration::from_secs(10);

/// After this long the agent is ready in any case: what is missing stands in the status line.
const READY_AFTER_MAX: Duration = Duration::from_secs(15);

pub struct Notifier {
    pub plant: watch::Receiver<Arc<Plant>>,
    /// How long systemd waits for a sign; `None`: it does not watch.
    pub watchdog: Option<Duration>,
}

/// Whether a service manager waits for word of us.
pub fn is_service() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

impl Notifier {
    pub fn new(plant: watch::Receiver<Arc<Plant>>) -> Notifier {
        Notifier { plant, watchdog: sd_notify::watchdog_enabled() }
    }

    pub async fn run(self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        if !is_service() {
            stop.cancelled().await;
            return Ok(());
        }
        self.tell(stop, |words| {
            if let Err(error) = sd_notify::notify(words) {
                warn!(%error, "systemd cannot be told");
            }
        })
        .await;
        Ok(())
    }

    async fn tell(mut self, stop: CancellationToken, mut send: impl FnMut(&[NotifyState<'_>])) {
        let started = Instant::now();
        let period = self.watchdog.map_or(STATUS_PERIOD, |w| STATUS_PERIOD.min(w / 2));
        let (mut ready, mut said) = (false, String::new());
        let mut progress = Progress::default();
        let mut next = started;
        let mut plant = Arc::clone(&self.plant.borrow_and_update());
        let mut expected = Expectations::new(&plant.config);
        loop {
            tokio::select! {
                biased;
                _ = stop.cancelled() => break,
                Ok(()) = self.plant.changed() => {
                    plant = Arc::clone(&self.plant.borrow_and_update());
                    expected = Expectations::new(&plant.config);
                    // The stages are other ones now, and each gets its patience anew.
                    progress = Progress::default();
                }
                _ = sleep_until(next) => {}
            }
            let now = started.elapsed();
            let line = status_line(&plant.metrics);
            if line != said {
                send(&[NotifyState::Status(&line)]);
                said = line;
            }
            if !ready && let Some(why) = readiness(&plant.metrics, now) {
                info!("ready: {why}");
                send(&[NotifyState::Ready]);
                ready = true;
            }
            match progress.judge(now, &Snapshot::take(&plant.metrics, &expected)) {
                Ok(()) if self.watchdog.is_some() => send(&[NotifyState::Watchdog]),
                Ok(()) => {}
                Err(stuck) => error!(
                    stage = stuck.stage,
                    seconds = stuck.since.as_secs(),
                    "had work and did none of it; the watchdog is not fed"
                ),
            }
            next = Instant::now() + if ready { period } else { STARTING_PERIOD.min(period) };
        }
    }
}

/// Tells systemd at once; the rest of the stop follows.
pub fn stopping() {
    if let Err(error) = sd_notify::notify(&[NotifyState::Stopping]) {
        warn!(%error, "systemd cannot be told");
    }
}

/// Why the agent counts as started, or `None` while there is something to wait for.
fn readiness(metrics: &Metrics, up: Duration) -> Option<&'static str> {
    let answered = metrics.devices.iter().any(|d| d.state.get() == "good");
    // `open` is not the end of a bus's start: its first poll is still on the way.
    let stated = |state: String| !state.is_empty() && state != "open" && state != "closed";
    if metrics.devices.is_empty() {
        Some("no device is configured")
    } else if answered {
        Some("a device has answered")
    } else if metrics.devices.iter().all(|d| stated(d.state.get())) {
        Some("no device answers, and each has said why")
    } else if metrics.buses.iter().all(|b| stated(b.state.get())) {
        Some("no line is open, and each has said why")
    } else if up >= READY_AFTER_MAX {
        Some("no device has answered yet")
    } else {
        None
    }
}

/// For `systemctl status`: `online; 3 of 4 devices good; 120 readings wait`.
fn status_line(metrics: &Metrics) -> String {
    let good = metrics.devices.iter().filter(|d| d.state.get() == "good").count();
    let devices = match metrics.devices.len() {
        0 => "no device is configured".to_owned(),
        all => format!("{good} of {all} devices good"),
    };
    let uplink = match metrics.uplink.state.get() {
        state if state.is_empty() => "connecting".into(),
        state => state.replace(|c: char| c.is_control(), " "),
    };
    let waiting = metrics.store.readings_waiting.get();
    let mut line = format!("{uplink}; {devices}; {waiting} readings wait");
    let dropped = metrics.store.readings_dropped.get();
    if dropped > 0 {
        line.push_str(&format!("; {dropped} dropped"));
    }
    match metrics.store.stuck.get() {
        why if why.is_empty() => line,
        why => format!("{why}; {line}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::control::fixture;

    const WATCHDOG: Duration = Duration::from_secs(30);

    fn notifier(metrics: &Arc<Metrics>) -> Notifier {
        Notifier { plant: fixture::plant(metrics.clone(), vec![]), watchdog: Some(WATCHDOG) }
    }

    /// What systemd hears within `seconds` of a plant in the state that `prepare` gives it.
    async fn heard(seconds: u64, prepare: impl Fn(&Metrics)) -> Vec<String> {
        let metrics = Arc::new(Metrics::new(2, 2));
        prepare(&metrics);
        let (heard, stop) = (Mutex::new(Vec::new()), CancellationToken::new());
        let telling = notifier(&metrics).tell(stop.clone(), |words| {
            heard.lock().unwrap().extend(words.iter().map(ToString::to_string));
        });
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            stop.cancel();
        };
        tokio::join!(telling, stopping);
        heard.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn ready_is_said_once_when_a_device_answers_or_the_reason_is_known() {
        async fn check(seconds: u64, expected: usize, prepare: impl Fn(&Metrics)) {
            let heard = heard(seconds, prepare).await;
            assert_eq!(heard.iter().filter(|w| *w == "READY=1").count(), expected, "{heard:?}");
        }
        check(1, 1, |m| m.devices[0].state.set("good")).await;
        check(1, 1, |m| m.devices.iter().for_each(|d| d.state.set("timeout"))).await;
        check(1, 1, |m| m.buses.iter().for_each(|b| b.state.set("no such port"))).await;
        // Nothing is known yet: not ready, until waiting has no sense any more.
        check(14, 0, |m| m.buses.iter().for_each(|b| b.state.set("open"))).await;
        check(60, 1, |m| m.buses.iter().for_each(|b| b.state.set("open"))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_while_the_plant_is_dead_and_starves_when_a_task_hangs() {
        let count = |heard: Vec<String>| heard.iter().filter(|w| *w == "WATCHDOG=1").count();
        let dead = heard(300, |m| m.buses.iter().for_each(|b| b.state.set("no such port"))).await;
        assert!(count(dead) >= 300 / 15);
        let hangs = |m: &Metrics| {
            m.buses[0].state.set("open");
            m.devices[0].state.set("good");
        };
        // Every counter stands still: after the bus's patience the same number for ever.
        assert_eq!(count(heard(300, hangs).await), count(heard(900, hangs).await));
    }

    #[test]
    fn a_person_reads_the_state_in_one_line() {
        let as_installed = status_line(&Metrics::new(0, 0));
        assert_eq!(as_installed, "connecting; no device is configured; 0 readings wait");
        let metrics = Metrics::new(1, 3);
        assert_eq!(status_line(&metrics), "connecting; 0 of 3 devices good; 0 readings wait");
        metrics.uplink.state.set("offline: certificate\nexpired");
        metrics.devices[1].state.set("good");
        metrics.store.readings_waiting.set(120);
        metrics.store.readings_dropped.add(4);
        assert_eq!(
            status_line(&metrics),
            "offline: certificate expired; 1 of 3 devices good; 120 readings wait; 4 dropped"
        );
    }
}
