//! The deterministic simulation: the real wiring (bus, hub, store on a real file, uplink) in a
//! world of simulated devices and a simulated cloud, under a paused clock, with queues of
//! capacity 1, and everything going wrong by a seed.
//!
//! A seed that fails is repeated with
//! `FIELDGATE_SIM_SEEDS=17..17 cargo test --test sim -- --nocapture seeds`; more seeds than
//! those of every day are tried with `FIELDGATE_SIM_SEEDS=1000..1999`.
//!
//! `dice` is chance, `plant` (with its `units`) and `cloud` (with the shadow `service` and the
//! `app` behind it) are the two ends, `world` lets them live, `checks` and `things` judge what
//! they left behind. Half of the worlds have the dialect plain, half aws; connections of the
//! things' own are not among them.

// All of this crate is a test.
#![allow(clippy::unwrap_used)]

mod app;
mod checks;
mod cloud;
mod dice;
mod plant;
mod planted;
mod service;
mod setup;
mod things;
mod units;
mod world;

use fieldgate::store::Disk;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use world::{Evidence, Planted, Power, Story, Temper};

const CHAOS: Duration = Duration::from_secs(180);

fn story(seed: u64) -> Story {
    Story {
        seed,
        temper: Temper::Wild,
        planted: Planted::Nothing,
        chaos: CHAOS,
        power: Power::Seeded,
        disk: Disk::Thread,
    }
}

/// The seeds of every day, or those that the environment names.
fn seeds() -> std::ops::RangeInclusive<u64> {
    let Ok(text) = std::env::var("FIELDGATE_SIM_SEEDS") else { return 1..=50 };
    let parse = |n: &str| n.trim_matches('=').parse().expect("FIELDGATE_SIM_SEEDS=first..last");
    let (first, last) = text.split_once("..").expect("FIELDGATE_SIM_SEEDS=first..last");
    parse(first)..=parse(last)
}

/// Runs `work` for each number, on as many threads as the machine has; its complaints.
fn each(numbers: std::ops::RangeInclusive<u64>, work: impl Fn(u64) -> Vec<String> + Sync) -> Vec<String> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicU64::new(*numbers.start());
    let complaints = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if !numbers.contains(&number) {
                        return;
                    }
                    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(number)))
                        .unwrap_or_else(|panic| vec![format!("panic: {}", text_of(&*panic))]);
                    complaints.lock().unwrap().extend(found.into_iter().map(|c| format!("{number}: {c}")));
                }
            });
        }
    });
    complaints.into_inner().unwrap()
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text").to_owned()
}

fn none(complaints: Vec<String>) {
    let shown: Vec<String> = complaints.iter().take(30).map(|c| c.chars().take(600).collect()).collect();
    assert!(
        complaints.is_empty(),
        "{} complaints (seed: check: ...)\n{}",
        complaints.len(),
        shown.join("\n")
    );
}

#[test]
fn seeds_of_every_day_lose_nothing() {
    let complaints = each(seeds(), |seed| {
        let evidence = world::run(story(seed));
        if std::env::var_os("FIELDGATE_SIM_SHOW").is_some() {
            show(seed, &evidence);
        }
        checks::judge(&evidence)
    });
    if let Some(seed) = complaints.first().and_then(|c| c.split(':').next()) {
        println!(
            "repeat with: FIELDGATE_SIM_SEEDS={seed}..{seed} cargo test --test sim -- --nocapture seeds"
        );
    }
    none(complaints);
}

fn show(seed: u64, e: &Evidence) {
    let taken: i64 = e.lives.iter().map(|l| l.taken).sum();
    println!(
        "seed {seed}: {} lives, {taken} taken, {} delivered, {} dropped, {} messages, {} served, expires {}",
        e.lives.len(),
        e.delivered,
        e.dropped,
        e.arrivals.len(),
        e.served.len(),
        e.expires
    );
}

#[test]
fn where_nothing_goes_wrong_nothing_is_bad() {
    let calm = Story { temper: Temper::Calm, chaos: Duration::from_secs(60), ..story(1) };
    let evidence = world::run(calm);
    let mut complaints = checks::judge(&evidence);
    complaints.extend(checks::judge_calm(&evidence));
    none(complaints);
    assert!(evidence.delivered > 500, "a minute brings readings: {}", evidence.delivered);
}

#[test]
fn the_same_seed_is_the_same_story() {
    for seed in [3, 7] {
        let short = Story { chaos: Duration::from_secs(60), disk: Disk::Inline, ..story(seed) };
        let (first, second) = (world::run(short), world::run(short));
        for (n, (a, b)) in first.arrivals.iter().zip(&second.arrivals).enumerate() {
            assert_eq!(a, b, "message {n} of seed {seed}");
        }
        assert_eq!(first.arrivals.len(), second.arrivals.len(), "seed {seed}");
        let (first, second) = (first.things, second.things);
        assert_eq!(first.written, second.written, "writes of seed {seed}");
        assert_eq!(first.said, second.said, "what is said of things in seed {seed}");
        assert_eq!(first.cloud, second.cloud, "the cloud's shadows of seed {seed}");
    }
}

/// Stops the agent at every one of its commits, once right after the commit is on the disk
/// and once while it waits for the disk, and lets it start again.
#[test]
fn a_stop_at_any_commit_loses_nothing() {
    let short = Story { chaos: Duration::from_secs(6), power: Power::Steady, ..story(CRASH_SEED) };
    let whole = world::run(short);
    none(checks::judge(&whole));
    // The commits of the chaos and the first seconds after; the later ones are all alike.
    let last = whole.commits.min(60);
    assert!(last > 40, "only {last} commits to stop at");
    let complaints = each(1..=2 * last, |n| {
        let power = if n % 2 == 0 { Power::AfterCommit(n / 2) } else { Power::BeforeCommit(n / 2) };
        let evidence = world::run(Story { power, ..short });
        assert_eq!(evidence.lives.len(), 2);
        checks::judge(&evidence).into_iter().map(|c| format!("{power:?}: {c}")).collect()
    });
    none(complaints);
}

/// A seed whose first seconds hold cuts of the line and of the cloud.
const CRASH_SEED: u64 = 5;

/// Each check is proven by a bug that is put into the world and that it has to find.
#[test]
fn every_planted_bug_is_found() {
    let planted: &[(Planted, &str)] = &[
        (Planted::BrokerAcksUnseen, "lost"),
        (Planted::BrokerAcksUnseen, "gap"),
        (Planted::BrokerAcksUnseen, "invented"),
        (Planted::BrokerForgets, "lost"),
        (Planted::BrokerForgets, "gap"),
        (Planted::BrokerReorders, "order"),
        (Planted::BrokerRewrites, "same"),
        (Planted::BrokerCutsShort, "whole"),
        (Planted::UnitMixesUpPoints, "true"),
        (Planted::UnitRepeatsItself, "once"),
        (Planted::BookMissesAValue, "true"),
        (Planted::BookInventsAnAnswer, "taken"),
        (Planted::CutTakesCommitsBack, "lost"),
        (Planted::CutTakesTheFile, "lost"),
        (Planted::CutTakesARow, "tally"),
        (Planted::BrokerNeverComes, "rest"),
        (Planted::FaultsGetLost, "faults"),
        (Planted::CalmIsNone, "calm"),
        (Planted::UnitForgets, "settled"),
        (Planted::UnitForgets, "idle"),
        (Planted::CutTakesAnAuditEntry, "chain"),
        (Planted::CutTakesVersions, "version"),
        (Planted::CutTakesDesired, "kept"),
        (Planted::CommandTwice, "twice"),
        (Planted::CommandTwice, "audited"),
        (Planted::BookInventsAWrite, "wanted"),
        (Planted::BookRepeatsAWrite, "stale"),
        (Planted::AnswersGetLost, "told"),
        (Planted::ServiceForgets, "converge"),
        (Planted::ServiceForgets, "kept"),
    ];
    let complaints = each(0..=planted.len() as u64 - 1, |n| {
        let (bug, check) = planted[n as usize];
        // A bug need not show in each world; it has to in one of these.
        // The first worlds are all of the dialect plain, these have a shadow service.
        let seeds = if bug == Planted::ServiceForgets { 7..=8 } else { 1..=6 };
        let found = seeds.into_iter().any(|seed| {
            let temper = if bug == Planted::CalmIsNone { Temper::Calm } else { Temper::Wild };
            let evidence = world::run(Story { planted: bug, temper, ..story(seed) });
            let mut complaints = checks::judge(&evidence);
            if bug == Planted::CalmIsNone {
                complaints = checks::judge_calm(&evidence);
            }
            complaints.iter().any(|c| c.starts_with(&format!("{check}:")))
        });
        if found { Vec::new() } else { vec![format!("{bug:?} was not found by `{check}`")] }
    });
    none(complaints);
}
