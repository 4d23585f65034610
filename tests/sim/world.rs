//! One simulated world: a plant, the real agent with its store on a real file, a cloud; power
//! cuts between; then calm, then rest. What it leaves behind is an [`Evidence`].
//!
//! Constraints: one thread and a paused clock, so that the same seed is the same story. SQLite
//! runs on one blocking thread, during which tokio's clock stands still. A power cut drops
//! the agent as it stands and goes on from a copy of its files, so that nothing the dying
//! process still writes can help it. (What a cut does to a disk's cache is not shown here.)
//!
//! The way of a world: chaos, with lives between power cuts and with disk stalls → `calm`, no
//! more faults → `closed`, no more readings → at rest → an orderly stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::task::JoinHandle;
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{Instant, advance, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use fieldgate::app::{App, World};
use fieldgate::metrics::Metrics;
use fieldgate::model::time::{CLOCK_PLAUSIBLE_FROM, Clock, Timestamp};
use fieldgate::shadow::Shadow;
use fieldgate::store::{Disk, Store, audit};
use fieldgate::supervise::Ended;

use crate::cloud::{Arrival, Cloud, CloudLink};
use crate::dice::{Dice, ms};
use crate::plant::{DEVICES, Plant, Served};
pub use crate::planted::Planted;
use crate::service::{Asked, Dialect, Said};
use crate::setup::{self, Shelf, config, standing, taken_in};
use crate::units::{WRITABLE, Written};

/// Wall time at the beginning of every world.
pub const BASE: Timestamp = Timestamp(CLOCK_PLAUSIBLE_FROM.0 + 86_400_000);
pub const BATCH_WINDOW: Duration = Duration::from_millis(3);
pub const WINDOW: u16 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// Nothing ever goes wrong.
    Calm,
    Wild,
}

/// What a world is made of.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    pub seed: u64,
    pub temper: Temper,
    pub planted: Planted,
    /// How long the chaos lasts.
    pub chaos: Duration,
    pub power: Power,
    /// Inline: the disk never stands still, and chance has no part in the order of things.
    pub disk: Disk,
}

#[derive(Clone, Copy, Debug)]
pub enum Power {
    /// Cuts at random moments.
    Seeded,
    Steady,
    /// One cut, as soon as the n-th commit is on the disk and before the agent hears of it.
    AfterCommit(u64),
    /// One cut, with the commit after the n-th waiting for the disk.
    BeforeCommit(u64),
}

/// One run of the agent, from its start to the cut or the end.
#[derive(Clone, Debug)]
pub struct Life {
    pub boot: String,
    /// Readings taken in this life, by the agent's own account.
    pub taken: i64,
    pub cut: Option<Duration>,
}

#[derive(Clone, Debug)]
pub struct Evidence {
    pub served: Vec<Served>,
    pub arrivals: Vec<Arrival>,
    /// Telemetry that the broker refused for good.
    pub refused: Vec<serde_json::Value>,
    pub lives: Vec<Life>,
    pub delivered: i64,
    pub dropped: i64,
    /// Per device, from the ledger.
    pub ledger: Vec<(String, u64)>,
    /// Rows and readings that really stand in the file at the end.
    pub rows_left: i64,
    pub readings_left: i64,
    /// Tallies that did not fit what stood in the file at a start.
    pub misfits: Vec<String>,
    /// Old readings may be dropped in this world.
    pub expires: bool,
    pub commits: u64,
    pub stopped: Option<String>,
    pub things: Things,
}

/// What a world leaves behind about things.
#[derive(Clone, Debug)]
pub struct Things {
    pub dialect: Dialect,
    /// Desired values of `set` expire.
    pub ages: bool,
    pub asked: Vec<Asked>,
    pub said: Vec<Said>,
    pub written: Vec<Written>,
    /// The store at each power cut, and at the very end.
    pub shelves: Vec<Shelf>,
    /// The store and the registers shortly before the lines are closed, when everything has
    /// come to rest.
    pub settled: Shelf,
    pub registers: [[u16; WRITABLE.len()]; DEVICES.len()],
    /// The shadows of the cloud's own service.
    pub cloud: BTreeMap<(String, String), Shadow>,
    /// What the application wants in the end, by device; dialect aws.
    pub wanted: Vec<BTreeMap<usize, u16>>,
    pub audit: Vec<serde_json::Value>,
    /// What is wrong with the chain of the audit log.
    pub broken: Option<String>,
}

/// Runs a world from its beginning to its rest.
pub fn run(story: Story) -> Evidence {
    let folder = folder();
    // The store draws its number from this thread's chance.
    fastrand::seed(story.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        // One writer at a time, in the order of the calls.
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async { Stage::new(story, folder.path().to_owned()).play().await })
}

/// In memory if there is such a place: the flushes of thousands of commits cost nothing there.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

struct Stage {
    story: Story,
    dice: Dice,
    origin: Instant,
    plant: Arc<Plant>,
    cloud: Arc<Cloud>,
    folder: PathBuf,
    calm: Duration,
    closed: Duration,
    lives: Vec<Life>,
    misfits: Vec<String>,
    expires: bool,
    ages: bool,
    commits: u64,
    shelves: Vec<Shelf>,
}

struct Agent {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Ended>>,
    taken_before: i64,
}

impl Stage {
    fn new(story: Story, folder: PathBuf) -> Stage {
        let dice = Dice(story.seed);
        let calm = story.chaos;
        // Longer than any backoff, any hole that was learned, any connection that lies dead.
        let closed = calm + Duration::from_secs(if story.temper == Temper::Calm { 5 } else { 60 });
        Stage {
            story,
            dice,
            origin: Instant::now(),
            plant: Plant::new(dice, story.temper, story.planted, calm, closed),
            cloud: Cloud::new(dice, story.temper, story.planted, calm),
            folder,
            calm,
            closed,
            lives: Vec::new(),
            misfits: Vec::new(),
            expires: story.temper == Temper::Wild && dice.of("expires", 0).u8(0..4) == 0,
            ages: dice.of("ages", 0).bool(),
            commits: 0,
            shelves: Vec::new(),
        }
    }

    async fn play(mut self) -> Evidence {
        let cuts = self.cuts();
        for cut in cuts {
            let agent = self.start();
            self.until(cut).await;
            self.cut(agent).await;
            let dark = ms(&mut self.dice.of("dark", self.lives.len() as u64), 0, 15_000);
            sleep(dark).await;
        }
        let agent = match self.story.power {
            Power::AfterCommit(n) => self.cut_at_commit(n, false).await,
            Power::BeforeCommit(n) => self.cut_at_commit(n, true).await,
            Power::Seeded | Power::Steady => self.start(),
        };
        self.until(self.closed.saturating_sub(Duration::from_millis(700))).await;
        agent.store.run(|_| ()).await;
        let settled = (Shelf::of(&self.file(), self.origin.elapsed()), self.plant.registers());
        self.until(self.closed).await;
        // Rest: what stands in the outbox now leaves it, and nothing new comes.
        // The units, asked for the last time, are told silent within their backoff.
        sleep(Duration::from_secs(20)).await;
        let patience = self.closed + Duration::from_secs(120);
        while agent.store.tally().rows_waiting() > 0 && self.origin.elapsed() < patience {
            sleep(Duration::from_secs(1)).await;
        }
        sleep(Duration::from_secs(3)).await;
        self.finish(agent, settled).await
    }

    fn cuts(&self) -> Vec<Duration> {
        if self.story.temper == Temper::Calm || !matches!(self.story.power, Power::Seeded) {
            return Vec::new();
        }
        let mut random = self.dice.of("power", 0);
        let count = random.usize(0..=4);
        let mut cuts: Vec<_> =
            (0..count).map(|_| ms(&mut random, 20, self.calm.as_millis() as u64)).collect();
        cuts.sort_unstable();
        cuts
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("{}/fieldgate.db", self.lives.len()))
    }

    fn start(&mut self) -> Agent {
        let file = self.file();
        let config = config(&file, self.expires, self.cloud.service.lock().unwrap().dialect, self.ages);
        let plant = Arc::clone(&self.plant);
        let world: World<CloudLink> = World {
            clock: Clock::Simulated { base: BASE, origin: self.origin },
            seed: self.story.seed + self.lives.len() as u64,
            observations_max: 1,
            dial: Box::new(move |line| plant.dial(line)),
            link: {
                let cloud = Arc::clone(&self.cloud);
                Box::new(move |_, _| cloud.link())
            },
            disk: self.story.disk,
        };
        let app = App::build_in(config, world).expect("the store opens");
        let (store, metrics) = (app.store(), app.metrics());
        let (rows, readings) = standing(&file);
        let tally = store.tally();
        if (tally.rows_waiting(), tally.readings_waiting()) != (rows, readings) {
            let text = format!("{tally:?} with {rows} rows of {readings} readings in the file");
            self.misfits.push(text);
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(app.run(stop.clone()));
        Agent { store, metrics, stop, task, taken_before: tally.taken }
    }

    /// Lets the world go on, with the disk standing still now and then.
    async fn until(&self, end: Duration) {
        let end = self.origin + end;
        let mut stall = 0;
        let stalls = self.story.temper == Temper::Wild && self.story.disk == Disk::Thread;
        while stalls && Instant::now() < end {
            stall += 1;
            let mut random = self.dice.of("stall", stall + 100 * self.lives.len() as u64);
            let at = Instant::now() + ms(&mut random, 500, 60_000);
            if at >= end || at >= self.origin + self.calm {
                break;
            }
            sleep_until(at).await;
            let longest = if random.u8(0..4) == 0 { 4_000 } else { 150 };
            let until = end.min(at + ms(&mut random, 1, longest));
            disk_stands_still(until).await;
        }
        sleep_until(end).await;
    }

    /// The power goes: the agent is dropped as it stands, and its files are as they were.
    async fn cut(&mut self, agent: Agent) {
        let random = &mut self.dice.of("cut", self.lives.len() as u64);
        let hold = random.bool() && self.story.disk == Disk::Thread;
        let held = if hold { Some(hold_disk().await) } else { None };
        if held.is_some() {
            // A commit may be waiting for the disk when it happens.
            pass(Duration::from_millis(random.u64(0..300))).await;
        } else {
            agent.store.run(|_| ()).await;
        }
        self.drop_dead(agent).await;
        drop(held);
    }

    /// Nothing is on its way to the disk, or the disk is held.
    async fn drop_dead(&mut self, agent: Agent) {
        let cut = self.origin.elapsed();
        let (from, life) = (self.file(), self.lives.len());
        let to = self.folder.join(format!("{}/fieldgate.db", life + 1));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        for suffix in ["", "-wal"] {
            let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
            let lost = self.story.planted == Planted::CutTakesTheFile
                || (self.story.planted == Planted::CutTakesCommitsBack && suffix == "-wal");
            if name(&from).exists() && !lost {
                std::fs::copy(name(&from), name(&to)).unwrap();
            }
        }
        if self.story.planted == Planted::CutTakesARow {
            let db = Connection::open(&to).unwrap();
            db.execute("DELETE FROM outbox WHERE id = (SELECT max(id) FROM outbox)", []).unwrap();
        }
        let damage = match self.story.planted {
            Planted::CutTakesAnAuditEntry => "DELETE FROM audit WHERE id = (SELECT max(id) - 1 FROM audit)",
            Planted::CutTakesVersions => "UPDATE shadow SET version = version / 2",
            Planted::CutTakesDesired => "UPDATE shadow SET state = '{}', metadata = '{}' WHERE name = ''",
            _ => "",
        };
        if !damage.is_empty() {
            Connection::open(&to).unwrap().execute_batch(damage).unwrap();
        }
        self.shelves.push(Shelf::of(&from, cut));
        let boot = agent.store.boot().to_string();
        let taken = taken_in(&from) - agent.taken_before;
        assert!(!agent.task.is_finished(), "the agent ended by itself: {:?}", agent.task.await);
        agent.task.abort();
        let _ = agent.task.await;
        self.lives.push(Life { boot, taken, cut: Some(cut) });
    }

    /// A first life that ends at its `n`-th commit, then a second one.
    async fn cut_at_commit(&mut self, n: u64, before: bool) -> Agent {
        let agent = self.start();
        let mut committed = agent.store.committed(fieldgate::model::row::Route::GATEWAY);
        for _ in 0..n {
            // A world without that many commits ends the wait; its cut is then at the end.
            tokio::select! {
                biased;
                _ = committed.changed() => {}
                () = sleep_until(self.origin + self.closed) => break,
            }
        }
        let held = if before { Some(hold_disk().await) } else { None };
        if before {
            // Every device is polled meanwhile; the commit of the first waits.
            pass(Duration::from_millis(1_200)).await;
        }
        self.drop_dead(agent).await;
        drop(held);
        self.start()
    }

    async fn finish(
        mut self,
        agent: Agent,
        (settled, registers): (Shelf, [[u16; WRITABLE.len()]; DEVICES.len()]),
    ) -> Evidence {
        let file = self.file();
        let tally = agent.store.tally();
        let boot = agent.store.boot().to_string();
        self.commits = agent.metrics.store.commits.get();
        agent.stop.cancel();
        let stopped = match agent.task.await {
            Ok(Ok(())) => None,
            Ok(Err(ended)) => Some(ended.to_string()),
            Err(e) => Some(e.to_string()),
        };
        self.shelves.push(Shelf::of(&file, self.origin.elapsed()));
        let (rows_left, readings_left) = standing(&file);
        let ledger = agent.store.ledger().unwrap();
        self.lives.push(Life { boot, taken: tally.taken - agent.taken_before, cut: None });
        let mut served = self.plant.served();
        if self.story.planted == Planted::BookInventsAnAnswer {
            let value = served[0].value + 60_000;
            served.push(Served { value, proper: true, ..served[0].clone() });
        }
        let things = self.things(&file, settled, registers);
        Evidence {
            things,
            served,
            arrivals: self.cloud.arrivals(),
            refused: self.cloud.refused(),
            lives: self.lives,
            delivered: tally.delivered,
            dropped: tally.dropped,
            ledger: ledger.into_iter().map(|e| (e.device, e.count)).collect(),
            rows_left,
            readings_left,
            misfits: self.misfits,
            expires: self.expires,
            commits: self.commits,
            stopped,
        }
    }
}

impl Stage {
    fn things(
        &self,
        file: &Path,
        settled: Shelf,
        registers: [[u16; WRITABLE.len()]; DEVICES.len()],
    ) -> Things {
        let mut written = self.plant.written();
        let repeats =
            |w: &Written, point| Written { point, at: w.at + Duration::from_secs(600), ..w.clone() };
        match (self.story.planted, written.first().cloned()) {
            (Planted::BookInventsAWrite, Some(w)) => written.push(Written { value: 4_999, ..w }),
            (Planted::BookRepeatsAWrite, _) => {
                let again: Vec<Written> =
                    written.iter().filter(|w| w.point == 0).map(|w| repeats(w, 0)).collect();
                written.extend(again);
            }
            _ => {}
        }
        let service = self.cloud.service.lock().unwrap();
        Things {
            dialect: service.dialect,
            ages: self.ages,
            asked: service.asked.clone(),
            said: service.said.clone(),
            written,
            shelves: self.shelves.clone(),
            settled,
            registers,
            cloud: service.shadows.clone(),
            wanted: service.wanted.clone(),
            audit: setup::audit(file),
            broken: audit::verify(file, None).unwrap().err().map(|e| e.to_string()),
        }
    }
}

/// The disk takes nothing until this is dropped.
struct Held(#[allow(dead_code, reason = "its end is the signal")] std::sync::mpsc::Sender<()>);

/// Occupies the one blocking thread; what was asked of it before is done when this returns.
async fn hold_disk() -> Held {
    let (release, released) = std::sync::mpsc::channel();
    let (begun, begins) = tokio::sync::oneshot::channel();
    spawn_blocking(move || {
        let _ = begun.send(());
        let _ = released.recv();
    });
    begins.await.unwrap();
    Held(release)
}

async fn disk_stands_still(until: Instant) {
    let _held = hold_disk().await;
    pass(until.saturating_duration_since(Instant::now())).await;
}

/// Time passes although a blocking thread is busy, which stops tokio's paused clock from
/// moving by itself. Each millisecond is given to everybody who has something to do in it.
async fn pass(time: Duration) {
    for _ in 0..time.as_millis() {
        advance(Duration::from_millis(1)).await;
        for _ in 0..16 {
            yield_now().await;
        }
    }
}
