//! Named tasks, and the order in which they stop.
//!
//! Constraints: a task that ends while the process should live is a fault, whatever it says;
//! nothing that was taken may be lost by a stop; and a stop ends within its grace.
//!
//! The way of a stop: the tokens of the buses are cancelled, each finishes its frame and drops
//! its sender → the hub drains its queue, commits, and returns by itself → the uplink's token
//! is cancelled and it empties its window → the services (status socket, watchdog) go last, so
//! that a stop can be watched. A stage that overstays its share of the grace is cut.
//!
//! The first unexpected end starts the same stop; the process then exits with an error and
//! systemd starts it again. A reload retires single tasks by their own tokens while the
//! others live on.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::field::{DisplayValue, display};
use tracing::{debug, error, warn};

/// When a task is asked to stop: in the order in which they stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Told to stop first.
    Bus,
    /// Never told: returns when the last bus has dropped its sender.
    Hub,
    /// Told to stop when the hub has committed everything.
    Uplink,
    /// Status socket, watchdog: told to stop last.
    Service,
}

/// Why the process has to end.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub task: String,
    pub why: Why,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Why {
    /// Returned although nobody had asked it to stop.
    Returned,
    Failed(String),
    Panicked(String),
    /// Was told to stop and did not, so that something it held may be lost.
    Overstayed,
}

pub struct Supervisor {
    tasks: JoinSet<Result<(), String>>,
    running: HashMap<Id, Task>,
    /// Ended unasked while somebody else was retired.
    early: Option<Ended>,
    buses: CancellationToken,
    hub: CancellationToken,
    uplink: CancellationToken,
    services: CancellationToken,
}

struct Task {
    name: String,
    stage: Stage,
    handle: AbortHandle,
}

/// Names a task to its supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId(Id);

/// Services hold nothing: this is for an answer that is being written.
const SERVICES_GRACE: Duration = Duration::from_secs(1);

impl Supervisor {
    pub fn new() -> Supervisor {
        Supervisor {
            tasks: JoinSet::new(),
            running: HashMap::new(),
            early: None,
            buses: CancellationToken::new(),
            hub: CancellationToken::new(),
            uplink: CancellationToken::new(),
            services: CancellationToken::new(),
        }
    }

    /// The token that tells the tasks of `stage` to stop. The hub's is never cancelled.
    pub fn token(&self, stage: Stage) -> CancellationToken {
        match stage {
            Stage::Bus => self.buses.clone(),
            Stage::Hub => self.hub.clone(),
            Stage::Uplink => self.uplink.clone(),
            Stage::Service => self.services.clone(),
        }
    }

    /// Starts a task; it should end when the token of its stage is cancelled, and not before.
    pub fn spawn<E: fmt::Display>(
        &mut self,
        name: impl Into<String>,
        stage: Stage,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> TaskId {
        // The sources of an error are written out here, where its type is still known.
        let handle = self.tasks.spawn(async move { task.await.map_err(|e| e.to_string()) });
        let id = handle.id();
        self.running.insert(id, Task { name: name.into(), stage, handle });
        TaskId(id)
    }

    /// Waits for a task that ends although all should live. May be cancelled: nothing is lost.
    pub async fn unasked(&mut self) -> Ended {
        loop {
            if let Some(ended) = self.early.take() {
                return ended;
            }
            match self.joined().await {
                Some((_, Some(ended))) => return ended,
                Some((_, None)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Ends one task by `token`, which nobody else listens to. One that has not ended `until`
    /// then is cut; how it went is in the log, and whatever else ended meanwhile is told by
    /// [`Supervisor::unasked`].
    pub async fn retire(&mut self, task: TaskId, token: &CancellationToken, until: Instant) {
        token.cancel();
        while self.running.contains_key(&task.0) {
            match timeout_at(until, self.joined()).await {
                Ok(Some((id, ended))) if id == task.0 => match ended.map(|e| (e.task, e.why)) {
                    None | Some((_, Why::Returned)) => {}
                    Some((task, why)) => {
                        let [bus, thing] = whose(&task);
                        error!(%task, bus, thing, %why, "failed while it was retired");
                    }
                },
                Ok(Some((_, ended))) => self.early = self.early.take().or(ended),
                Ok(None) => return,
                Err(_) => {
                    if let Some(task) = self.running.remove(&task.0) {
                        let [bus, thing] = whose(&task.name);
                        warn!(task = %task.name, bus, thing, "did not stop in its time and was cut");
                        task.handle.abort();
                    }
                }
            }
        }
    }

    /// Returns when `stop` was cancelled or a task ended, and everything is drained; at the
    /// latest `grace` after that. The error is the first thing that went wrong.
    pub async fn run(mut self, stop: CancellationToken, grace: Duration) -> Result<(), Ended> {
        let first = tokio::select! {
            biased;
            _ = stop.cancelled() => None,
            ended = self.unasked() => Some(ended),
        };
        self.stop(first, grace).await
    }

    /// Drains everything. `first` is why, if a task ended unasked.
    pub async fn stop(mut self, mut first: Option<Ended>, grace: Duration) -> Result<(), Ended> {
        if let Some(ended) = &first {
            let [bus, thing] = whose(&ended.task);
            error!(task = %ended.task, bus, thing, why = %ended.why, "a task ended; stopping the others");
        }
        crate::notify::stopping();
        let start = Instant::now();
        // Buses and hub share three quarters, so that a slow line leaves the uplink its turn.
        let plan = [
            (Stage::Bus, start + grace / 2),
            (Stage::Hub, start + grace * 3 / 4),
            (Stage::Uplink, start + grace),
            (Stage::Service, start + grace + SERVICES_GRACE),
        ];
        for (stage, until) in plan {
            if stage != Stage::Hub {
                self.token(stage).cancel();
            }
            let ended = self.drain(stage, until).await;
            first = first.or(ended);
        }
        first.map_or(Ok(()), Err)
    }

    /// Waits until no task of `stage` is left, or `until`.
    async fn drain(&mut self, stage: Stage, until: Instant) -> Option<Ended> {
        let mut first = None;
        while self.running.values().any(|t| t.stage == stage) {
            match timeout_at(until, self.next()).await {
                Ok(ended) => first = first.or(ended),
                Err(_) => return first.or(self.cut(stage)),
            }
        }
        first
    }

    /// Ends the tasks of `stage` by force. What the uplink or a service held is on disk or
    /// worth nothing; what a bus or the hub held may be lost.
    fn cut(&mut self, stage: Stage) -> Option<Ended> {
        let mut overstayed = None;
        for task in self.running.extract_if(|_, task| task.stage == stage).map(|(_, task)| task) {
            let [bus, thing] = whose(&task.name);
            warn!(task = %task.name, bus, thing, "did not stop in its time and was cut");
            task.handle.abort();
            if matches!(stage, Stage::Bus | Stage::Hub) {
                overstayed.get_or_insert(Ended { task: task.name, why: Why::Overstayed });
            }
        }
        overstayed
    }

    /// The next end of a task, unless it was cut before. `None`: there is no task.
    async fn joined(&mut self) -> Option<(Id, Option<Ended>)> {
        let (id, why) = match self.tasks.join_next_with_id().await? {
            Ok((id, Ok(()))) => (id, Why::Returned),
            Ok((id, Err(text))) => (id, Why::Failed(text)),
            Err(error) => (error.id(), Why::Panicked(panic_text(error))),
        };
        let task = self.running.remove(&id);
        Some((id, task.map(|task| Ended { task: task.name, why })))
    }

    /// The next end of a task while all stop, if it is worth an error.
    async fn next(&mut self) -> Option<Ended> {
        let (_, ended) = self.joined().await?;
        let ended = ended?;
        match &ended.why {
            Why::Returned => {
                debug!(task = %ended.task, "stopped");
                None
            }
            why => {
                let [bus, thing] = whose(&ended.task);
                error!(task = %ended.task, bus, thing, %why, "failed while stopping");
                Some(ended)
            }
        }
    }
}

/// The bus or the thing that a task is named after, as fields of the log.
fn whose(task: &str) -> [Option<DisplayValue<&str>>; 2] {
    ["bus ", "uplink "].map(|kind| task.strip_prefix(kind).map(display))
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor::new()
    }
}

fn panic_text(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "was cancelled".into() };
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast_ref::<&str>().map_or("a panic without a text", |t| *t).to_string(),
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Returned => f.write_str("returned unasked"),
            Why::Failed(text) => f.write_str(text),
            Why::Panicked(text) => write!(f, "panicked: {text}"),
            Why::Overstayed => f.write_str("did not stop in its time"),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} ended: {}", self.task, self.why)
    }
}

impl std::error::Error for Ended {}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::*;

    const GRACE: Duration = Duration::from_secs(8);

    /// What happened, in the order in which it happened.
    #[derive(Clone, Default)]
    struct Diary(Arc<Mutex<Vec<String>>>);

    impl Diary {
        fn note(&self, text: &str) {
            self.0.lock().unwrap().push(text.into());
        }

        fn read(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    /// A plant of one bus, hub, uplink and service that behave; each writes down its end.
    fn plant(diary: &Diary) -> Supervisor {
        let mut all = Supervisor::new();
        let (readings, mut taken) = mpsc::channel::<u32>(1);
        let (stop, notes) = (all.token(Stage::Bus), diary.clone());
        all.spawn("bus", Stage::Bus, async move {
            stop.cancelled().await;
            // The frame that was on the wire still arrives.
            sleep(Duration::from_secs(1)).await;
            readings.send(7).await.map_err(|e| e.to_string())?;
            notes.note("bus");
            Ok::<(), String>(())
        });
        let notes = diary.clone();
        all.spawn("hub", Stage::Hub, async move {
            while let Some(reading) = taken.recv().await {
                notes.note(&format!("committed {reading}"));
            }
            notes.note("hub");
            Ok::<(), String>(())
        });
        for (name, stage) in [("uplink", Stage::Uplink), ("status", Stage::Service)] {
            let (stop, notes) = (all.token(stage), diary.clone());
            all.spawn(name, stage, async move {
                stop.cancelled().await;
                notes.note(name);
                Ok::<(), String>(())
            });
        }
        all
    }

    const WHOLE_STOP: [&str; 5] = ["bus", "committed 7", "hub", "uplink", "status"];

    #[tokio::test(start_paused = true)]
    async fn a_stop_goes_from_the_source_to_the_services_and_loses_nothing() {
        let (diary, stop) = (Diary::default(), CancellationToken::new());
        let all = plant(&diary);
        stop.cancel();
        assert_eq!(all.run(stop, GRACE).await, Ok(()));
        assert_eq!(diary.read(), WHOLE_STOP);
    }

    /// One more task ends in its own way; everything else is drained all the same.
    async fn check(odd: impl Future<Output = Result<(), String>> + Send + 'static, expected: Why) {
        let diary = Diary::default();
        let mut all = plant(&diary);
        all.spawn("odd", Stage::Bus, odd);
        let ended = all.run(CancellationToken::new(), GRACE).await;
        assert_eq!(ended, Err(Ended { task: "odd".into(), why: expected }));
        assert_eq!(diary.read(), WHOLE_STOP);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_unexpected_end_stops_the_process_and_names_itself() {
        check(async { Ok(()) }, Why::Returned).await;
        check(async { Err("no such port".into()) }, Why::Failed("no such port".into())).await;
        check(async { panic!("index {}", 9) }, Why::Panicked("index 9".into())).await;
        check(async { panic!("plain") }, Why::Panicked("plain".into())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_overstays_is_cut_and_the_others_still_drain() {
        for (stage, expected) in [
            (Stage::Bus, Err(Ended { task: "deaf".into(), why: Why::Overstayed })),
            (Stage::Uplink, Ok(())),
            (Stage::Service, Ok(())),
        ] {
            let (diary, stop) = (Diary::default(), CancellationToken::new());
            let mut all = plant(&diary);
            all.spawn("deaf", stage, std::future::pending::<Result<(), String>>());
            stop.cancel();
            let started = Instant::now();
            assert_eq!(all.run(stop, GRACE).await, expected, "{stage:?}");
            assert_eq!(diary.read(), WHOLE_STOP, "{stage:?}");
            assert!(started.elapsed() <= GRACE + SERVICES_GRACE, "{stage:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_is_retired_and_the_others_live_on() {
        let (diary, stop) = (Diary::default(), CancellationToken::new());
        let mut all = plant(&diary);
        let own = all.token(Stage::Bus).child_token();
        let (token, notes) = (own.clone(), diary.clone());
        let task = all.spawn("second bus", Stage::Bus, async move {
            token.cancelled().await;
            sleep(Duration::from_secs(1)).await;
            notes.note("second bus");
            Ok::<(), String>(())
        });
        all.retire(task, &own, Instant::now() + GRACE).await;
        assert_eq!(diary.read(), ["second bus"]);
        // One that is deaf is cut, and that is nobody's end.
        let own = all.token(Stage::Bus).child_token();
        let task = all.spawn("deaf", Stage::Bus, std::future::pending::<Result<(), String>>());
        all.retire(task, &own, Instant::now() + GRACE).await;
        stop.cancel();
        assert_eq!(all.run(stop, GRACE).await, Ok(()));
        assert_eq!(diary.read()[1..], WHOLE_STOP);
    }

    #[tokio::test(start_paused = true)]
    async fn who_ends_unasked_while_another_is_retired_is_not_forgotten() {
        let mut all = plant(&Diary::default());
        all.spawn("odd", Stage::Service, async { Err::<(), _>("broken") });
        let own = all.token(Stage::Bus).child_token();
        let token = own.clone();
        let task = all.spawn("second bus", Stage::Bus, async move {
            token.cancelled().await;
            sleep(Duration::from_secs(1)).await;
            Ok::<(), String>(())
        });
        all.retire(task, &own, Instant::now() + GRACE).await;
        let ended = all.unasked().await;
        assert_eq!(ended, Ended { task: "odd".into(), why: Why::Failed("broken".into()) });
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_while_stopping_is_the_result_of_the_stop() {
        let (diary, stop) = (Diary::default(), CancellationToken::new());
        let mut all = plant(&diary);
        let token = all.token(Stage::Uplink);
        all.spawn("last", Stage::Uplink, async move {
            token.cancelled().await;
            Err::<(), _>("disk full")
        });
        stop.cancel();
        let ended = all.run(stop, GRACE).await;
        assert_eq!(ended, Err(Ended { task: "last".into(), why: Why::Failed("disk full".into()) }));
    }
}
