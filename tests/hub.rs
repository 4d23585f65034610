//! The hub: observations in, rows out, on a paused clock.
#![allow(clippy::unwrap_used)]

mod kit;

use std::sync::Arc;
use std::time::Duration;

use fieldgate::config::Durability;
use fieldgate::hub::apply::{self, State};
use fieldgate::hub::things::Things;
use fieldgate::hub::{Error, Hub};
use fieldgate::metrics::Metrics;
use fieldgate::model::device::{Device, LineDevice, Point, Protocol, Source};
use fieldgate::model::ids::{DeviceIndex, GatewayName, PointIndex};
use fieldgate::model::line::{FieldKind, FieldPoint, Framing, LineFormat};
use fieldgate::model::observation::{Observation, Seen};
use fieldgate::model::reading::{Measured, Reading};
use fieldgate::model::report::{Report, When};
use fieldgate::model::row::{Kind, LayoutId, NewRow, Route};
use fieldgate::model::time::{Clock, Timestamp};
use fieldgate::model::value::{Cause, Value};
use fieldgate::packed::Reader;
use fieldgate::store::Store;
use fieldgate::wire::payload::{Head, Telemetry};
use kit::{NOW, Place, ROOMY, check_sums, ids, peek_all};
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep};

/// A device whose points have these names, units and rules.
fn device(name: &str, points: &[(&str, Option<&str>, Report)]) -> Device {
    let points = points.iter().map(|(name, unit, report)| Point {
        name: (*name).into(),
        unit: unit.map(str::to_owned),
        source: Source::Field(FieldPoint {
            field: (*name).to_owned(),
            kind: FieldKind::Auto,
            decimal_comma: false,
            transform: Default::default(),
        }),
        interval: Duration::from_secs(1),
        report: report.clone(),
        write: None,
        shadow: None,
        fingerprint: false,
    });
    let protocol = Protocol::Line(LineDevice {
        framing: Framing { delimiter: b"\n".to_vec(), line_max: 100 },
        format: LineFormat::Json,
        matching: None,
        silent_after: Duration::from_secs(30),
    });
    Device::new(name.into(), protocol, points.collect())
}

fn meter(name: &str) -> Device {
    device(name, &[("a", Some("V"), Report::default()), ("b", None, Report::default())])
}

fn reading(point: u16, measured: Measured) -> Reading {
    Reading { point: PointIndex(point), measured }
}

fn good(n: u64) -> Measured {
    Measured::Good(Value::Uint(n))
}

fn seen(device: u32, ms: i64, readings: Vec<Reading>) -> Observation {
    Observation { device: DeviceIndex(device), at: Timestamp(NOW.0 + ms), seen: Seen::Readings(readings) }
}

fn state(payload_max: usize, devices: Vec<Device>) -> State {
    let devices = devices.into_iter().enumerate().map(|(n, d)| (d, LayoutId(n as i64 + 1), Route::GATEWAY));
    State::new("gw".into(), "0-1".into(), payload_max, devices)
}

/// The row as it will go over the wire.
fn render(gateway: &GatewayName, device: &Device, row: &NewRow) -> Vec<u8> {
    let points = apply::layout(device);
    let head = Head {
        gateway,
        device: &device.name,
        boot: "deadbeef-9223372036854775807",
        seq: (row.seq, row.seq + u64::from(row.readings) - 1),
    };
    let mut telemetry = Telemetry::new(head, &points, 0);
    let mut reader = Reader::new(&row.payload, row.first);
    while let Some((at, n)) = reader.group().unwrap() {
        let mut next = 0;
        telemetry.group(at, (0..n).map(|_| reader.reading(&mut next).unwrap()));
    }
    telemetry.finish()
}

/// Every reading of the rows: device's layout, sequence number, moment, point and value.
fn unpack(rows: &[NewRow]) -> Vec<(LayoutId, u64, i64, Reading)> {
    let mut all = Vec::new();
    for row in rows.iter().filter(|r| r.kind == Kind::Telemetry) {
        let mut reader = Reader::new(&row.payload, row.first);
        let mut seq = row.seq;
        while let Some((at, n)) = reader.group().unwrap() {
            let mut next = 0;
            for _ in 0..n {
                all.push((row.layout, seq, at.0 - NOW.0, reader.reading(&mut next).unwrap()));
                seq += 1;
            }
        }
        assert_eq!(seq, row.seq + u64::from(row.readings), "the row counts what it holds");
    }
    all
}

#[test]
fn readings_are_packed_per_device_and_numbered_from_one() {
    let mut state = state(100_000, vec![meter("m1"), meter("m2")]);
    assert_eq!(state.apply(&seen(0, 0, vec![reading(0, good(1)), reading(1, good(2))])), 2);
    state.apply(&seen(1, 5, vec![reading(1, good(3))]));
    state.apply(&seen(0, 10, vec![reading(0, good(4))]));
    let rows = state.seal();
    assert_eq!(
        rows.iter().map(|r| (r.layout.0, r.seq, r.readings)).collect::<Vec<_>>(),
        [(1, 1, 3), (2, 1, 1)]
    );
    assert_eq!((rows[0].first.0 - NOW.0, rows[0].last.0 - NOW.0), (0, 10));
    state.apply(&seen(0, 20, vec![reading(0, good(5))]));
    let rows = state.seal();
    assert_eq!(unpack(&rows), [(LayoutId(1), 4, 20, reading(0, good(5)))]);
    assert_eq!(state.seal(), []);
}

#[test]
fn a_fault_stands_between_the_readings_before_and_after_it() {
    let mut state = state(100_000, vec![meter("m1"), meter("m2")]);
    let fault = |seen| Observation { device: DeviceIndex(0), at: NOW, seen };
    state.apply(&seen(1, 0, vec![reading(0, good(9))]));
    state.apply(&seen(0, 0, vec![reading(0, good(1))]));
    state.apply(&fault(Seen::Silent(Cause::Timeout)));
    state.apply(&fault(Seen::Back));
    state.apply(&seen(0, 9, vec![reading(0, good(2))]));
    let rows: Vec<_> = state.seal().into_iter().filter(|r| r.layout == LayoutId(1)).collect();
    let kinds: Vec<_> = rows.iter().map(|r| (r.kind, r.seq, r.readings)).collect();
    let (telemetry, fault) = (Kind::Telemetry, Kind::Fault);
    assert_eq!(kinds, [(telemetry, 1, 1), (fault, 2, 0), (fault, 2, 0), (telemetry, 2, 1)]);
    let text = |n: usize| serde_json::from_slice::<serde_json::Value>(&rows[n].payload).unwrap();
    assert_eq!((&text(1)["fault"], &text(1)["cause"]), (&"silent".into(), &"timeout".into()));
    assert_eq!((&text(2)["fault"], text(2).get("cause")), (&"back".into(), None));
}

#[test]
fn report_by_exception_numbers_only_what_is_reported() {
    let change = Report { when: When::Change, ..Report::default() };
    let mut state = state(100_000, vec![device("m", &[("a", None, change), ("b", None, Report::default())])]);
    let both = |ms, a, b| seen(0, ms, vec![reading(0, good(a)), reading(1, good(b))]);
    let kept: usize = [both(0, 1, 1), both(1, 1, 2), both(2, 7, 3)].iter().map(|o| state.apply(o)).sum();
    assert_eq!(kept, 5);
    let found: Vec<_> =
        unpack(&state.seal()).into_iter().map(|(_, seq, ms, r)| (seq, ms, r.point.0)).collect();
    assert_eq!(found, [(1, 0, 0), (2, 0, 1), (3, 1, 1), (4, 2, 0), (5, 2, 1)]);
}

fn measured() -> impl Strategy<Value = Measured> {
    let value = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::Uint),
        (prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL).prop_map(Value::Float),
        "\\PC{0,30}|[\\x00-\\x1f\"\\\\]{0,30}".prop_map(Value::Text),
        prop::collection::vec("[a-z\"\u{7}]{0,8}", 0..4).prop_map(Value::Flags),
    ];
    let cause =
        prop_oneof![prop::sample::select(Cause::PLAIN.to_vec()), (0u8..128).prop_map(Cause::Exception)];
    prop_oneof![
        3 => value.clone().prop_map(Measured::Good),
        1 => (value, cause.clone()).prop_map(|(v, c)| Measured::Uncertain(v, c)),
        2 => cause.prop_map(Measured::Bad),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is observed: nothing is left out, order and numbers are kept, and no payload is
    /// larger than it may be, unless a single reading is.
    #[test]
    fn rows_hold_everything_and_fit_the_wire(
        payload_max in 1024usize..3000,
        names in prop::collection::vec("[a-z\"\\\\\u{1}ß]{1,24}", 4),
        units in prop::collection::vec(prop::option::of("[a-z\"°\u{2}]{0,8}"), 4),
        gateway in "[a-z\"\u{1}]{1,30}",
        polls in prop::collection::vec((0i64..100_000, prop::collection::vec((0u16..4, measured()), 1..30)), 1..12),
    ) {
        let points: Vec<_> = names.iter().zip(&units).map(|(n, u)| (n.as_str(), u.as_deref(), Report::default())).collect();
        let device = device("m\"1", &points);
        let gateway = GatewayName::new(&gateway);
        let mut state = State::new(gateway.clone(), "0-1".into(), payload_max, [(device.clone(), LayoutId(1), Route::GATEWAY)].into_iter());
        let mut expected = Vec::new();
        for (ms, readings) in &polls {
            let readings: Vec<_> = readings.iter().map(|(p, m)| reading(*p, m.clone())).collect();
            prop_assert_eq!(state.apply(&seen(0, *ms, readings.clone())), readings.len());
            expected.extend(readings.into_iter().map(|r| (*ms, r)));
        }
        let rows = state.seal();
        let found = unpack(&rows);
        prop_assert!(found.iter().map(|f| f.1).eq(1..=expected.len() as u64), "numbers");
        let found: Vec<_> = found.into_iter().map(|(_, _, ms, r)| (ms, r)).collect();
        prop_assert_eq!(found, expected);
        for row in &rows {
            let text = render(&gateway, &device, row);
            prop_assert!(row.readings == 1 || text.len() <= payload_max,
                "{} bytes, {} allowed: {}", text.len(), payload_max, String::from_utf8_lossy(&text));
        }
    }
}

#[test]
fn ordinary_payloads_are_nearly_as_large_as_they_may_be() {
    let names: Vec<String> = (0..50).map(|n| format!("voltage_{n}")).collect();
    let points: Vec<_> = names.iter().map(|n| (n.as_str(), Some("V"), Report::default())).collect();
    let device = device("meter", &points);
    let mut state = state(16_000, vec![device.clone()]);
    for poll in 0..60 {
        let value = |p| Measured::Good(Value::Float(f64::from(p) * 1.25 + 0.1));
        state.apply(&seen(0, poll * 1000, (0..50).map(|p| reading(p, value(p))).collect()));
    }
    let rows = state.seal();
    let sizes: Vec<usize> = rows.iter().map(|r| render(&"gw".into(), &device, r).len()).collect();
    let full = &sizes[..sizes.len() - 1];
    assert!(!full.is_empty() && full.iter().all(|s| *s > 16_000 * 2 / 3), "{sizes:?}");
}

struct Rig {
    _place: Place,
    file: std::path::PathBuf,
    store: Arc<Store>,
    observations: mpsc::Sender<Observation>,
    task: JoinHandle<Result<(), Error>>,
    metrics: Arc<Metrics>,
}

fn rig(durability: Durability, bytes_max: u64) -> Rig {
    let place = Place::new();
    let store = Arc::new(place.try_open(bytes_max, None).unwrap());
    let (observations, observed) = mpsc::channel(256);
    let metrics = Arc::new(Metrics::new(0, 1));
    let device = meter("m1");
    let layout = store.layout(&device.name, &apply::layout(&device)).unwrap();
    let hub = Hub {
        things: Things::none(),
        serials: tokio::sync::watch::Sender::default(),
        asks: mpsc::channel(1).1,
        writes: Default::default(),
        changes: mpsc::channel(1).1,
        started: tokio::time::Instant::now(),
        state: State::new(
            "gw".into(),
            store.boot().to_string(),
            4096,
            [(device, layout, Route::GATEWAY)].into_iter(),
        ),
        gateway: "gw".into(),
        store: Arc::clone(&store),
        durability,
        observations: observed,
        clock: Clock::Simulated { base: NOW, origin: Instant::now() },
        metrics: Arc::clone(&metrics),
    };
    let file = place.file();
    Rig { _place: place, file, store, observations, task: tokio::spawn(hub.run()), metrics }
}

impl Rig {
    async fn send(&self, n: u64) {
        self.observations.send(seen(0, n as i64, vec![reading(0, good(n))])).await.unwrap();
    }

    /// Closes the channel, as stopped buses do, and waits for the hub's own end.
    async fn end(self) -> (Arc<Store>, Place) {
        drop(self.observations);
        self.task.await.unwrap().unwrap();
        (self.store, self._place)
    }
}

const COMMIT: Durability = Durability::Commit { batch_window: Duration::from_millis(3) };

#[tokio::test(start_paused = true)]
async fn what_comes_within_the_batch_window_shares_a_commit() {
    let rig = rig(COMMIT, ROOMY);
    let mut committed = rig.store.committed(Route::GATEWAY);
    let begun = Instant::now();
    for n in 0..5 {
        rig.send(n).await;
    }
    committed.changed().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_millis(3));
    assert_eq!((ids(&rig.store).len(), rig.store.tally().taken), (1, 5));
    rig.send(5).await;
    committed.changed().await.unwrap();
    assert_eq!(rig.store.tally().last_id, 2);
    // A quiet hour costs no commit.
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((rig.store.tally().last_id, rig.metrics.store.commits.get()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_interval_makes_one_commit_each_time_it_ends() {
    let rig = rig(Durability::Interval { interval: Duration::from_secs(10) }, ROOMY);
    for n in 0..100 {
        rig.send(n).await;
        sleep(Duration::from_millis(999)).await;
    }
    let commits = rig.metrics.store.commits.get();
    assert!((9..=10).contains(&commits), "{commits}");
    // At most the last interval is not on the disk.
    let (taken, sent) = (rig.store.tally().taken, 100);
    assert!(sent - taken <= 11, "{taken} of {sent}");
}

#[tokio::test(start_paused = true)]
async fn when_the_buses_have_ended_everything_is_committed() {
    for durability in [COMMIT, Durability::Interval { interval: Duration::from_secs(3600) }] {
        let rig = rig(durability, ROOMY);
        for n in 0..200 {
            rig.send(n).await;
        }
        let (store, _place) = rig.end().await;
        assert_eq!(store.tally().taken, 200, "{durability:?}");
        check_sums(&store);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_store_holds_the_hub_up_and_loses_nothing() {
    let rig = rig(COMMIT, ROOMY);
    let mut other = rusqlite::Connection::open(&rig.file).unwrap();
    let held = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    for n in 0..20 {
        rig.send(n).await;
    }
    advance(Duration::from_millis(10)).await;
    tokio::task::yield_now().await;
    assert_eq!(rig.store.tally().taken, 0);
    drop(held);
    let (store, _place) = rig.end().await;
    assert_eq!(store.tally().taken, 20);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_keeps_the_newest_and_tells_of_the_others() {
    let rig = rig(COMMIT, 1 << 20);
    let poll = |n: i64| seen(0, n * 1000, (0..900).map(|i| reading(0, good(1_000_000 + i))).collect());
    for n in 0..600 {
        rig.observations.send(poll(n)).await.unwrap();
    }
    let dropped = Arc::clone(&rig.metrics);
    let (store, _place) = rig.end().await;
    check_sums(&store);
    let tally = store.tally();
    assert_eq!(tally.taken, 600 * 900);
    assert!(tally.dropped > 0 && tally.readings_waiting() > 0, "{tally:?}");
    assert_eq!(dropped.store.readings_dropped.get() as i64, tally.dropped);
    let told: i64 = peek_all(&store)
        .iter()
        .filter(|r| r.kind == Kind::Gap)
        .map(|r| {
            serde_json::from_slice::<serde_json::Value>(&r.payload).unwrap()["readings"].as_i64().unwrap()
        })
        .sum();
    assert_eq!(told, tally.dropped, "the cloud hears of each");
}

#[tokio::test(start_paused = true)]
async fn a_batch_larger_than_the_room_there_is_goes_in_parts() {
    // All in one commit: more than a store of 1 MiB holds above the limit of its trim.
    let rig = rig(Durability::Interval { interval: Duration::from_secs(3600) }, 1 << 20);
    let poll = |n: i64| seen(0, n * 1000, (0..900).map(|i| reading(0, good(1 << 40 | i))).collect());
    for n in 0..220 {
        rig.observations.send(poll(n)).await.unwrap();
    }
    let (store, _place) = rig.end().await;
    check_sums(&store);
    assert_eq!(store.tally().taken, 220 * 900);
    let last = peek_all(&store).into_iter().rfind(|r| r.kind == Kind::Telemetry).unwrap();
    assert_eq!(last.seq + u64::from(last.readings) - 1, 220 * 900);
}

#[tokio::test(start_paused = true)]
async fn the_gauges_say_what_waits() {
    let rig = rig(COMMIT, ROOMY);
    for n in 0..7 {
        rig.send(n).await;
    }
    sleep(Duration::from_secs(5)).await;
    let m = &rig.metrics.store;
    assert_eq!((m.rows_waiting.get(), m.readings_waiting.get(), m.oldest_ms.get()), (1, 7, NOW.0));
    assert_eq!((m.commits.get(), m.readings.get()), (1, 7));
    assert!(m.bytes_used.get() > 0);
}
