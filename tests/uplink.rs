//! The uplink against a scripted broker, on a paused clock.
#![allow(clippy::unwrap_used)]

mod kit;
#[path = "kit/link.rs"]
mod link;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fieldgate::config::{self, MqttVersion, Security};
use fieldgate::metrics::Metrics;
use fieldgate::model::row::{Kind, NewRow, OutboxId, Route};
use fieldgate::model::time::{Clock, Timestamp};
use fieldgate::store::Store;
use fieldgate::uplink::link::LinkError;
use fieldgate::uplink::pacer::Pacer;
use fieldgate::uplink::{Error, Uplink};
use fieldgate::wire::topics::Template;
use kit::{NOW, Place, check_sums, ids, layout, row};
use link::{Far, Got, hung_up, link};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: u16 = 8;

fn config() -> config::Uplink {
    config::Uplink {
        host: "broker.example".into(),
        port: 8883,
        protocol: MqttVersion::V5,
        client_id: "gw".into(),
        security: Security::Plain,
        login: None,
        websocket: None,
        keep_alive: 30 * SECOND,
        connect_timeout: 10 * SECOND,
        window: WINDOW,
        topic: "dt/{gateway}/{device}/telemetry".into(),
        status_topic: "dt/{gateway}/status".into(),
        // Longer than any test, so that it does not mix with what is counted.
        status_interval: 3_000_000 * SECOND,
        payload_max: 128 << 10,
        messages_per_second: None,
        bytes_per_second: None,
        backlog_messages_per_second: None,
        reconnect_min: SECOND,
        reconnect_max: 120 * SECOND,
        session_expiry: Duration::from_secs(3600),
        connects_per_second: 10,
    }
}

/// An uplink that runs, the store below it and the broker's end of its link.
struct Rig {
    _place: Place,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    far: Far,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    next_seq: u64,
}

impl Rig {
    /// With `rows` rows of one reading each, numbered from 1, waiting.
    fn new(rows: u64, config: config::Uplink) -> Rig {
        let place = Place::new();
        let store = Arc::new(place.open());
        let (near, far) = link();
        let stop = CancellationToken::new();
        let metrics = Arc::new(Metrics::new(0, 0));
        let gateway = "gw".into();
        let uplink = Uplink {
            topic: Template::parse(&config.topic, &gateway).unwrap(),
            status_topic: Some("dt/gw/status".into()),
            pacer: Arc::new(Pacer::new(config.connects_per_second)),
            config: Arc::new(config),
            route: Route::GATEWAY,
            name: "gw".into(),
            filters: tokio::sync::watch::channel(Vec::new()).1,
            asks: None,
            gateway,
            store: Arc::clone(&store),
            link: near,
            clock: Clock::Simulated { base: NOW, origin: Instant::now() },
            metrics: Arc::clone(&metrics),
            seed: 1,
            grace: 3 * SECOND,
        };
        let mut rig = Rig {
            _place: place,
            store,
            metrics,
            far,
            stop: stop.clone(),
            task: tokio::spawn(std::future::pending()),
            next_seq: 1,
        };
        rig.commit(rows);
        rig.task = tokio::spawn(uplink.run(stop));
        rig
    }

    fn commit(&mut self, rows: u64) {
        let layout = layout(&self.store, "meter");
        let new: Vec<_> = (0..rows)
            .map(|n| row(layout, self.next_seq + n, 1, Timestamp(NOW.0 + (self.next_seq + n) as i64)))
            .collect();
        self.store.commit(&new).unwrap();
        self.next_seq += rows;
    }

    /// What still stands in the file, acknowledged or not, after the uplink had time to delete.
    async fn left(&self) -> Vec<i64> {
        sleep(5 * SECOND).await;
        ids(&self.store)
    }

    /// Runs a broker over as many connections as it takes until nothing waits: `broker` takes
    /// each publish and says what becomes of it. Returns what came, in order.
    async fn serve(&mut self, mut broker: impl FnMut(&Got) -> Fate) -> (Vec<String>, usize) {
        let (mut all, mut connections) = (Vec::new(), 0);
        while connections < 300 {
            let mut conn = self.far.accept().await;
            connections += 1;
            let cut = loop {
                let Some(got) = conn.next().await else { break false };
                all.push(got.what.clone());
                match broker(&got) {
                    Fate::Ack => conn.acked(got.packet_id),
                    Fate::Silence => {}
                    Fate::Refuse => conn.refused(got.packet_id, "NotAuthorized"),
                    Fate::HangUp => break true,
                }
            };
            if cut {
                conn.cut(hung_up());
            } else if self.store.tally().rows_waiting() == 0 {
                return (all, connections);
            } else {
                conn.cut(LinkError::Unreachable("silence".into()));
            }
        }
        panic!("not empty after {connections} connections: {:?}", ids(&self.store));
    }

    fn ledger(&self) -> Vec<(String, u64)> {
        self.store.ledger().unwrap().into_iter().map(|e| (e.reason, e.count)).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum Fate {
    Ack,
    Silence,
    Refuse,
    HangUp,
}

fn rows(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| format!("row {n}")).collect()
}

fn only_rows(all: &[String]) -> Vec<u64> {
    all.iter().filter_map(|w| w.strip_prefix("row ")?.parse().ok()).collect()
}

/// Each row came; the first time each came, it came in order; returns how many came twice.
fn check_delivered(all: &[String], expected: impl Iterator<Item = u64>) -> usize {
    let (mut seen, mut firsts) = (BTreeSet::new(), Vec::new());
    let came = only_rows(all);
    for n in &came {
        if seen.insert(*n) {
            firsts.push(*n);
        }
    }
    assert_eq!(firsts, expected.collect::<Vec<_>>());
    came.len() - firsts.len()
}

#[tokio::test(start_paused = true)]
async fn a_row_leaves_by_its_puback_only() {
    let mut rig = Rig::new(3, config());
    let mut conn = rig.far.accept().await;
    assert_eq!(conn.take(4).await, ["online", "row 1", "row 2", "row 3"]);
    assert_eq!(rig.left().await, [1, 2, 3]);
    conn.acked(1); // the status message
    assert_eq!(rig.left().await, [1, 2, 3]);
    conn.acked(3); // row 2
    assert_eq!(rig.left().await, [1, 3]);
    conn.acked(3); // twice, and one that was never sent
    conn.acked(9);
    assert_eq!(rig.left().await, [1, 3]);
    conn.acked(2);
    conn.acked(4);
    assert_eq!(rig.left().await, Vec::<i64>::new());
    assert_eq!(rig.store.tally().delivered, 3);
    rig.commit(1);
    assert_eq!(conn.take(1).await, ["row 4"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_cut_the_rest_is_read_again_in_order() {
    let mut rig = Rig::new(20, config());
    let mut conn = rig.far.accept().await;
    assert_eq!(conn.take(7).await[1..], rows(1..=6));
    (1..=3).for_each(|id| conn.acked(id)); // status, rows 1 and 2
    sleep(SECOND).await;
    conn.cut(hung_up());
    let mut conn = rig.far.accept().await;
    assert_eq!(conn.drain().await[1..], rows(3..=20));
    check_sums(&rig.store);
}

#[tokio::test(start_paused = true)]
async fn whatever_the_line_does_nothing_is_lost_and_duplicates_stay_within_the_window() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::new(120, config());
        // A broker takes, acknowledges or loses the acknowledgement; the line breaks. A broker
        // that has the row at hand never hangs up because of it.
        let (all, connections) = rig
            .serve(|got| match random.u8(0..40) {
                0 if got.what != "online" => Fate::HangUp,
                1..5 => Fate::Silence,
                _ => Fate::Ack,
            })
            .await;
        let twice = check_delivered(&all, 1..=120);
        assert!(twice <= usize::from(WINDOW) * connections, "{twice} twice over {connections}, seed {seed}");
        assert_eq!(rig.store.tally().delivered + rig.store.tally().dropped, 120, "seed {seed}");
        check_sums(&rig.store);
    }
}

#[tokio::test(start_paused = true)]
async fn live_readings_overtake_a_backlog_of_thousands() {
    let mut rig = Rig::new(3000, config());
    let mut conn = rig.far.accept().await;
    // Three quarters of the window are the backlog's (the status message needs one place more).
    let first = conn.take(usize::from(WINDOW)).await;
    assert_eq!(first, [vec!["online".to_owned()], rows(1..=6)].concat());
    conn.acked(1);
    // What is acknowledged gives its place back when it is off the disk, half a window at a time.
    for n in (0..52).step_by(4) {
        (2..6).for_each(|id| conn.acked(id + n));
        assert_eq!(conn.take(4).await, rows(7 + u64::from(n)..=10 + u64::from(n)));
    }
    // Two places are free, so two live rows go at once, without any acknowledgement.
    rig.commit(3);
    assert_eq!(conn.take(3).await, ["row 3001", "row 3002"]);
    // The next place is for the live row, not for the backlog.
    (54..58).for_each(|id| conn.acked(id));
    assert_eq!(conn.take(4).await, [vec!["row 3003".to_owned()], rows(59..=61)].concat());
    (1..=70).for_each(|id| conn.acked(id));
    let rest = conn.drain().await;
    assert!(rest == rows(62..=3000), "{} rows, from {:?}", rest.len(), rest.first());
}

#[tokio::test(start_paused = true)]
async fn acks_may_come_in_any_order() {
    let mut rig = Rig::new(200, config());
    let mut random = fastrand::Rng::with_seed(5);
    let mut conn = rig.far.accept().await;
    let (mut open, mut all) = (Vec::new(), Vec::new());
    loop {
        while let Some(got) = conn.within(SECOND / 10).await {
            open.push(got.packet_id);
            all.push(got.what);
        }
        if open.is_empty() {
            break;
        }
        assert!(open.len() <= usize::from(WINDOW));
        conn.acked(open.swap_remove(random.usize(..open.len())));
    }
    assert_eq!(check_delivered(&all, 1..=200), 0);
    assert_eq!(rig.left().await, Vec::<i64>::new());
    assert_eq!(rig.store.tally().delivered, 200);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_acknowledges_gets_a_window_and_no_more() {
    let mut rig = Rig::new(100, config());
    let mut conn = rig.far.accept().await;
    let first = conn.take(100).await;
    assert!(first.len() <= usize::from(WINDOW), "{first:?}");
    assert!(conn.within(3600 * SECOND).await.is_none());
    assert_eq!(rig.left().await.len(), 100);
    rig.commit(50);
    assert!(conn.take(50).await.len() <= usize::from(WINDOW));
    assert_eq!(rig.left().await.len(), 150);
}

#[tokio::test(start_paused = true)]
async fn a_refused_row_is_a_dead_letter_and_its_gap_record_is_delivered() {
    let mut rig = Rig::new(3, config());
    let (all, connections) =
        rig.serve(|got| if got.what == "row 2" { Fate::Refuse } else { Fate::Ack }).await;
    assert_eq!(
        (all[1..].to_vec(), connections),
        ([rows(1..=3), vec!["gap dead-letter 1".into()]].concat(), 1)
    );
    assert_eq!(rig.ledger(), [("dead-letter".into(), 1)]);
    assert_eq!(rig.store.tally().delivered, 2);
    check_sums(&rig.store);
}

#[tokio::test(start_paused = true)]
async fn a_broker_over_its_quota_is_given_time_and_no_row_is_blamed() {
    let mut rig = Rig::new(2, config());
    let mut conn = rig.far.accept().await;
    conn.take(3).await;
    conn.refused(2, "QuotaExceeded");
    let begun = Instant::now();
    let mut conn = rig.far.accept().await;
    assert!(begun.elapsed() >= 60 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(conn.drain().await[1..], rows(1..=2));
    assert_eq!(rig.ledger(), []);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_makes_the_broker_hang_up_is_found_and_the_rest_goes_on() {
    for poison in [1, 2, 7, 30, 40] {
        let mut rig = Rig::new(40, config());
        let (all, connections) =
            rig.serve(|got| if got.what == format!("row {poison}") { Fate::HangUp } else { Fate::Ack }).await;
        check_delivered(&all, 1..=40);
        assert_eq!(rig.ledger(), [("dead-letter".into(), 1)], "row {poison}");
        assert_eq!(rig.store.tally().delivered, 39, "row {poison}");
        assert!(all.iter().any(|w| w == "gap dead-letter 1"), "row {poison}");
        assert!(connections <= 6, "{connections} connections for row {poison}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_hangs_up_before_it_acknowledged_the_rows_ahead_costs_one_row_only() {
    let mut rig = Rig::new(20, config());
    let mut since = 0;
    // Acknowledgements come three messages late, so the poisonous row is never at the head.
    let (all, _) = rig
        .serve(|got| match got.what.as_str() {
            "row 5" => {
                since = 0;
                Fate::HangUp
            }
            "online" => {
                since = 0;
                Fate::Ack
            }
            _ => {
                since += 1;
                if (2..=3).contains(&since) { Fate::Silence } else { Fate::Ack }
            }
        })
        .await;
    check_delivered(&all, 1..=20);
    assert_eq!(rig.ledger(), [("dead-letter".into(), 1)]);
    assert_eq!(rig.store.tally().delivered, 19);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_keeps_breaking_condemns_no_row() {
    let mut rig = Rig::new(5, config());
    // Twice with the same row at the head: from now on it is under suspicion.
    for _ in 0..2 {
        let mut conn = rig.far.accept().await;
        assert_eq!(conn.take(1).await, ["online"]);
        conn.acked(1);
        assert_eq!(conn.take(5).await, rows(1..=5));
        conn.cut(hung_up());
    }
    // The line breaks before the connection was proven good: the row is not even sent.
    for _ in 0..100 {
        let mut conn = rig.far.accept().await;
        assert_eq!(conn.take(2).await, ["online"]);
        conn.cut(hung_up());
    }
    assert_eq!(rig.ledger(), []);
    // Proven good and the row alone, but it is the line that stands still, not the broker
    // that hangs up.
    for _ in 0..100 {
        let mut conn = rig.far.accept().await;
        assert_eq!(conn.take(1).await, ["online"]);
        conn.acked(1);
        assert_eq!(conn.take(2).await, ["row 1"]);
        conn.cut(LinkError::Stuck);
    }
    assert_eq!(rig.ledger(), []);
    // One hang-up with the row alone is no proof yet either.
    let mut conn = rig.far.accept().await;
    conn.take(1).await;
    conn.acked(1);
    conn.take(1).await;
    conn.cut(hung_up());
    assert_eq!(rig.ledger(), []);
    let mut conn = rig.far.accept().await;
    let all = conn.drain().await;
    check_delivered(&all, 1..=5);
    assert_eq!(rig.store.tally().delivered, 5);
}

/// How long the uplink waits after each of these.
async fn waits(rig: &mut Rig, whys: &[LinkError]) -> Vec<Duration> {
    let mut waits = Vec::new();
    for why in whys {
        rig.far.refuse(why.clone()).await;
        let begun = Instant::now();
        drop(rig.far.accept().await);
        waits.push(begun.elapsed());
    }
    waits
}

#[tokio::test(start_paused = true)]
async fn what_does_not_mend_itself_is_not_fought() {
    for why in [
        LinkError::TakenOver,
        LinkError::TlsRefused("unknown CA".into()),
        LinkError::AuthRefused("BadUserNamePassword".into()),
    ] {
        let mut rig = Rig::new(1, config());
        let waited = waits(&mut rig, std::slice::from_ref(&why)).await[0];
        assert!(waited >= 60 * SECOND, "{waited:?} after {why}");
    }
    // In the middle of a session as well, and `status` says why.
    let mut rig = Rig::new(1, config());
    let mut conn = rig.far.accept().await;
    conn.drain().await;
    assert_eq!(rig.metrics.uplink.state.get(), "online");
    conn.cut(LinkError::TakenOver);
    rig.far.quiet(59 * SECOND).await;
    assert_eq!(rig.metrics.uplink.state.get(), "offline: another client took over the client id");
}

#[tokio::test(start_paused = true)]
async fn a_take_over_that_only_shows_as_hang_ups_is_not_fought_either() {
    let mut rig = Rig::new(0, config());
    for _ in 0..5 {
        let mut conn = rig.far.accept().await;
        conn.take(1).await;
        conn.cut(hung_up());
    }
    rig.far.quiet(59 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn backoff_grows_to_its_maximum_and_is_short_again_after_a_success() {
    let mut rig = Rig::new(5, config());
    let mut last = Instant::now();
    let mut waited = Vec::new();
    for n in 0..12u32 {
        rig.far.refuse(LinkError::Unreachable("refused".into())).await;
        if n > 0 {
            waited.push(last.elapsed());
        }
        last = Instant::now();
    }
    assert!(waited[0] <= 2 * SECOND, "{waited:?}");
    assert!(waited.iter().all(|w| *w <= 121 * SECOND), "{waited:?}");
    assert!(waited[8..].iter().all(|w| *w >= 60 * SECOND), "{waited:?}");
    let mut conn = rig.far.accept().await;
    conn.drain().await;
    conn.cut(hung_up());
    let begun = Instant::now();
    rig.far.accept().await;
    assert!(begun.elapsed() <= 2 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_more_goes_out_than_the_buckets_allow() {
    /// Seconds until 100 rows have come, with a broker that acknowledges at once, and what
    /// they weigh on the wire.
    async fn drained(change: impl Fn(&mut config::Uplink)) -> (f64, f64) {
        let mut config = config();
        change(&mut config);
        let mut rig = Rig::new(100, config);
        let mut conn = rig.far.accept().await;
        let begun = Instant::now();
        let (mut came, mut bytes) = (0, 0);
        while came < 100 {
            let got = conn.next().await.expect("a row");
            conn.acked(got.packet_id);
            if got.what.starts_with("row") {
                came += 1;
                bytes += got.topic.len() + got.json.to_string().len();
            }
        }
        (begun.elapsed().as_secs_f64(), bytes as f64)
    }
    let (took, bytes) = drained(|_| {}).await;
    assert!(took < 0.1, "{took}");
    // One bucketful at once, the rest at the rate.
    let check = |took: f64, expected: f64| {
        assert!((took - expected).abs() < 0.05 * expected + 0.3, "{took} s, not {expected} s");
    };
    check(drained(|c| c.messages_per_second = Some(10)).await.0, 9.0);
    check(drained(|c| c.backlog_messages_per_second = Some(5)).await.0, 19.0);
    let overhead = 100.0 * 16.0;
    check(drained(|c| c.bytes_per_second = Some(1000)).await.0, (bytes + overhead - 1000.0) / 1000.0);
}

#[tokio::test(start_paused = true)]
async fn the_backlogs_own_share_does_not_hold_up_live_readings() {
    let mut config = config();
    config.backlog_messages_per_second = Some(1);
    let mut rig = Rig::new(1000, config);
    let mut conn = rig.far.accept().await;
    assert_eq!(conn.take(2).await, ["online", "row 1"]);
    conn.acked(1);
    conn.acked(2);
    for n in 0..50 {
        rig.commit(1);
        let begun = Instant::now();
        let mut all = Vec::new();
        while all.last() != Some(&format!("row {}", 1001 + n)) {
            let got = conn.next().await.expect("a row");
            conn.acked(got.packet_id);
            all.push(got.what);
        }
        assert!(begun.elapsed() < SECOND / 10, "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_empties_the_window_and_says_offline() {
    let mut rig = Rig::new(100, config());
    let mut conn = rig.far.accept().await;
    let got: Vec<Got> = {
        let mut all = Vec::new();
        while let Some(got) = conn.within(SECOND / 2).await {
            all.push(got);
        }
        all
    };
    rig.stop.cancel();
    let last = conn.next().await.unwrap();
    assert_eq!(last.what, "offline");
    for got in got.iter().chain([&last]) {
        conn.acked(got.packet_id);
    }
    assert!(conn.next().await.is_none(), "nothing new after the stop");
    (&mut rig.task).await.unwrap().unwrap();
    rig.store.flush_acks().unwrap();
    assert_eq!(ids(&rig.store).len(), 100 - (got.len() - 1));
    assert_eq!(rig.metrics.uplink.state.get(), "stopped");
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_mute_broker_no_longer_than_its_grace() {
    let mut rig = Rig::new(100, config());
    let mut conn = rig.far.accept().await;
    conn.take(3).await;
    let begun = Instant::now();
    rig.stop.cancel();
    (&mut rig.task).await.unwrap().unwrap();
    assert!(begun.elapsed() <= 5 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(ids(&rig.store).len(), 100);
    // While it is away from its broker it stops at once.
    let mut rig = Rig::new(1, config());
    rig.far.refuse(LinkError::Unreachable("refused".into())).await;
    rig.stop.cancel();
    let begun = Instant::now();
    (&mut rig.task).await.unwrap().unwrap();
    assert!(begun.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_cannot_take_or_nobody_can_read_is_a_dead_letter() {
    let mut rig = Rig::new(1, config());
    let layout = layout(&rig.store, "meter");
    let large = row(layout, 100, 200, NOW);
    let damaged =
        NewRow { kind: Kind::Telemetry, payload: vec![0, 5, 0xFF, 0xFF], ..row(layout, 400, 7, NOW) };
    rig.store.commit(&[large, damaged]).unwrap();
    rig.commit(1);
    rig.far.packet_max = Some(400);
    let (all, _) = rig.serve(|_| Fate::Ack).await;
    assert_eq!(all, ["online", "row 1", "row 2", "gap dead-letter 200", "gap corrupt 7"]);
    let mut ledger = rig.ledger();
    ledger.sort();
    assert_eq!(ledger, [("corrupt".into(), 7), ("dead-letter".into(), 200)]);
    assert_eq!(rig.store.tally().delivered, 2);
    check_sums(&rig.store);
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_what_waits_and_the_will_that_we_are_gone() {
    let mut config = config();
    config.status_interval = 60 * SECOND;
    let mut rig = Rig::new(5, config);
    rig.metrics.store.oldest_ms.set(NOW.0 + 1);
    let mut conn = rig.far.accept().await;
    let will = conn.will.take().unwrap();
    assert!(will.retain);
    assert_eq!(will.topic, "dt/gw/status");
    let will: serde_json::Value = serde_json::from_slice(&will.payload).unwrap();
    let boot = rig.store.boot().to_string();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        will,
        serde_json::json!({ "v": 1, "gateway": "gw", "state": "offline", "version": version, "boot": boot })
    );
    let first = conn.next().await.unwrap();
    assert_eq!(first.topic, "dt/gw/status");
    assert_eq!(
        first.json,
        serde_json::json!({
            "v": 1, "gateway": "gw", "state": "online", "version": version, "boot": boot,
            "readings_waiting": 5, "oldest_t": NOW.0 + 1,
        })
    );
    conn.acked(1);
    conn.drain().await;
    rig.metrics.store.oldest_ms.set(0);
    let begun = Instant::now();
    let again = conn.within(120 * SECOND).await.unwrap();
    assert!(begun.elapsed() <= 60 * SECOND);
    assert_eq!(
        (&again.json["readings_waiting"], &again.json["oldest_t"]),
        (&0.into(), &serde_json::Value::Null)
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_before_a_cut_is_not_sent_again() {
    let mut rig = Rig::new(6, config());
    let mut conn = rig.far.accept().await;
    conn.take(7).await;
    (1..=7).for_each(|id| conn.acked(id));
    conn.cut(hung_up());
    let mut conn = rig.far.accept().await;
    assert_eq!(conn.drain().await, ["online"]);
    assert_eq!(rig.store.peek(Route::GATEWAY, OutboxId(0), OutboxId(99), 9, 999).unwrap(), []);
}
