//! What a connection receives, and how it shares its window between letters and readings,
//! against a scripted broker and a hub that the test plays.
#![allow(clippy::unwrap_used)]

mod kit;
#[path = "kit/link.rs"]
mod link;

use std::sync::Arc;
use std::time::Duration;

use fieldgate::channel::{ASKS_MAX, Answer, Ask, Wanted};
use fieldgate::config::{self, MqttVersion, Security};
use fieldgate::metrics::Metrics;
use fieldgate::model::kept::{Kept, Letter, LetterClass};
use fieldgate::model::row::{NewRow, Route};
use fieldgate::model::time::{Clock, Timestamp};
use fieldgate::store::Store;
use fieldgate::uplink::inbox::ARRIVALS_MAX;
use fieldgate::uplink::link::LinkError;
use fieldgate::uplink::pacer::Pacer;
use fieldgate::uplink::{Error, Uplink};
use fieldgate::wire::topics::Template;
use kit::{NOW, Place, layout, row};
use link::{Conn, Far, hung_up, link};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: u16 = 8;

fn config() -> config::Uplink {
    config::Uplink {
        host: "broker.example".into(),
        port: 8883,
        protocol: MqttVersion::V5,
        client_id: "meter".into(),
        security: Security::Plain,
        login: None,
        websocket: None,
        keep_alive: 30 * SECOND,
        connect_timeout: 10 * SECOND,
        window: WINDOW,
        topic: "dt/{device}/telemetry".into(),
        status_topic: String::new(),
        status_interval: 60 * SECOND,
        payload_max: 128 << 10,
        messages_per_second: None,
        bytes_per_second: None,
        backlog_messages_per_second: None,
        reconnect_min: SECOND,
        reconnect_max: 120 * SECOND,
        session_expiry: 3600 * SECOND,
        connects_per_second: 10,
    }
}

/// The connection of a thing: no status, a route of its own; the hub is the test.
struct Rig {
    _place: Place,
    store: Arc<Store>,
    route: Route,
    metrics: Arc<Metrics>,
    far: Far,
    hub: mpsc::Receiver<Ask>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Rig {
    fn new(config: config::Uplink, filters: &[&str], rows: u64, letters: usize) -> Rig {
        let place = Place::new();
        let store = Arc::new(place.open());
        let route = store.route("meter").unwrap();
        let (near, far) = link();
        let (asks, hub) = mpsc::channel(ASKS_MAX);
        let (stop, metrics) = (CancellationToken::new(), Arc::new(Metrics::new(0, 0)));
        let uplink = Uplink {
            topic: Template::parse(&config.topic, &"gw".into()).unwrap(),
            status_topic: None,
            pacer: Arc::new(Pacer::new(config.connects_per_second)),
            config: Arc::new(config),
            gateway: "gw".into(),
            route,
            name: "meter".into(),
            filters: tokio::sync::watch::channel(filters.iter().map(|f| f.to_string()).collect()).1,
            asks: Some(asks),
            store: Arc::clone(&store),
            link: near,
            clock: Clock::Simulated { base: NOW, origin: Instant::now() },
            metrics: Arc::clone(&metrics),
            seed: 1,
            grace: 3 * SECOND,
        };
        let task = tokio::spawn(std::future::pending());
        let mut rig = Rig { _place: place, store, route, metrics, far, hub, stop: stop.clone(), task };
        rig.rows(1, rows);
        (1..=letters).for_each(|n| rig.letter(LetterClass::Answer, &format!("mail/{n}")));
        rig.task = tokio::spawn(uplink.run(stop));
        rig
    }

    fn rows(&self, first: u64, n: u64) {
        let layout = layout(&self.store, "meter");
        let one = |seq| NewRow { route: self.route, ..row(layout, seq, 1, Timestamp(NOW.0 + seq as i64)) };
        self.store.commit(&(first..first + n).map(one).collect::<Vec<_>>()).unwrap();
    }

    fn letter(&self, class: LetterClass, topic: &str) {
        let letter =
            Letter { route: self.route, class, topic: topic.into(), payload: b"{}".to_vec(), at: NOW };
        self.store.commit_all(&[], &Kept::default(), &[letter]).unwrap();
    }

    /// Topics of the letters that still stand in the file, after there was time to delete.
    async fn letters_left(&self) -> Vec<String> {
        sleep(5 * SECOND).await;
        self.store.mail(self.route, 0, 999).unwrap().into_iter().map(|m| m.letter.topic).collect()
    }

    /// Accepts, answers the subscription, and hears that the connection stands.
    async fn online(&mut self) -> Conn {
        let mut conn = self.far.accept().await;
        assert_eq!(conn.take(1).await, ["subscribe cmd/meter"]);
        conn.subscribed();
        assert_eq!(self.asked().await.what, Wanted::Online(self.route));
        conn
    }

    async fn asked(&mut self) -> Ask {
        timeout(60 * SECOND, self.hub.recv()).await.expect("the hub is asked").unwrap()
    }

    async fn assert_not_asked(&mut self) {
        let asked = timeout(5 * SECOND, self.hub.recv()).await;
        assert!(asked.is_err(), "{asked:?}");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn topic(ask: &Ask) -> &str {
    match &ask.what {
        Wanted::Arrived { topic, .. } => topic,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_acknowledged_after_the_hubs_answer_in_order_and_pubacks_go_on() {
    let mut rig = Rig::new(config(), &["cmd/meter"], 0, 0);
    let mut conn = rig.online().await;
    (1..=3).for_each(|n| conn.arrives(&format!("cmd/{n}")));
    let (first, second, third) = (rig.asked().await, rig.asked().await, rig.asked().await);
    assert_eq!([topic(&first), topic(&second), topic(&third)], ["cmd/1", "cmd/2", "cmd/3"]);
    // The hub has not answered: nothing is acknowledged, and readings leave as ever.
    rig.rows(1, 20);
    let rows = conn.drain().await;
    assert_eq!(rows, (1..=20).map(|n| format!("row {n}")).collect::<Vec<_>>());
    sleep(5 * SECOND).await;
    assert_eq!(rig.store.tally().delivered, 20);
    // The second answer waits for the first one, whatever it says.
    second.answer.send(Answer::Done).unwrap();
    assert_eq!(conn.take(1).await, Vec::<String>::new());
    first.answer.send(Answer::Refused { code: 400, message: "no".into() }).unwrap();
    assert_eq!(conn.take(3).await, ["ack 1", "ack 2"]);
    third.answer.send(Answer::Done).unwrap();
    assert_eq!(conn.take(2).await, ["ack 3"]);
}

#[tokio::test(start_paused = true)]
async fn a_hub_with_a_full_channel_holds_up_no_puback() {
    let mut rig = Rig::new(config(), &["cmd/meter"], 0, 0);
    let mut conn = rig.online().await;
    (0..ARRIVALS_MAX).for_each(|n| conn.arrives(&format!("cmd/{n}")));
    rig.rows(1, 50);
    assert_eq!(conn.drain().await.len(), 50);
    // All of them are asked, in order, when the hub has time again.
    for n in 0..ARRIVALS_MAX {
        let ask = rig.asked().await;
        assert_eq!(topic(&ask), format!("cmd/{n}"));
        ask.answer.send(Answer::Done).unwrap();
    }
    assert_eq!(conn.take(ARRIVALS_MAX + 1).await.last().unwrap(), &format!("ack {ARRIVALS_MAX}"));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_sends_without_end_loses_the_connection_and_nothing_is_acknowledged() {
    let mut rig = Rig::new(config(), &["cmd/meter"], 0, 0);
    let mut conn = rig.online().await;
    (0..=ARRIVALS_MAX).for_each(|n| conn.arrives(&format!("cmd/{n}")));
    assert_eq!(conn.take(1).await, Vec::<String>::new());
    let conn = rig.far.accept().await;
    assert!(conn.receives);
    assert_eq!(rig.metrics.uplink.disconnects.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_question_the_hub_dropped_comes_again_on_another_connection() {
    let mut rig = Rig::new(config(), &["cmd/meter"], 0, 0);
    let mut conn = rig.online().await;
    conn.arrives("cmd/1");
    drop(rig.asked().await);
    assert_eq!(conn.take(1).await, Vec::<String>::new());
    assert_eq!(rig.asked().await.what, Wanted::Offline(rig.route));
    rig.online().await;
}

#[tokio::test(start_paused = true)]
async fn the_hub_hears_when_the_connection_comes_and_goes_and_a_refused_filter_is_no_end() {
    let mut rig = Rig::new(config(), &["cmd/meter", "secret/#"], 0, 0);
    let gauges =
        |rig: &Rig| (rig.metrics.uplink.things_online.get(), rig.metrics.uplink.things_offline.get());
    let mut conn = rig.far.accept().await;
    assert!(conn.receives && conn.will.is_none());
    assert_eq!(conn.take(1).await, ["subscribe cmd/meter secret/#"]);
    // Not before its subscriptions are answered.
    rig.assert_not_asked().await;
    conn.subscription_refused("secret/#");
    conn.subscribed();
    assert_eq!(rig.asked().await.what, Wanted::Online(rig.route));
    assert_eq!(gauges(&rig), (1, 0));
    conn.cut(hung_up());
    assert_eq!(rig.asked().await.what, Wanted::Offline(rig.route));
    assert_eq!(gauges(&rig), (0, 1));
    // A broker that owes its SUBACK is left after a while, and the hub never heard of it.
    let mut conn = rig.far.accept().await;
    conn.take(1).await;
    let again = rig.far.accept().await;
    assert!(rig.hub.try_recv().is_err());
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn without_filters_the_session_is_clean_and_the_hub_knows_at_once() {
    let mut rig = Rig::new(config(), &[], 0, 0);
    let mut conn = rig.far.accept().await;
    assert!(!conn.receives);
    assert_eq!(rig.asked().await.what, Wanted::Online(rig.route));
    assert_eq!(conn.take(1).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_letter_leaves_by_its_puback_only() {
    let mut rig = Rig::new(config(), &["cmd/meter"], 0, 3);
    let mut conn = rig.online().await;
    let mut ids = Vec::new();
    for n in 1..=3 {
        let got = conn.next().await.unwrap();
        assert_eq!(got.what, format!("mail/{n}"));
        ids.push(got.packet_id);
    }
    assert_eq!(rig.letters_left().await, ["mail/1", "mail/2", "mail/3"]);
    conn.acked(ids[1]);
    conn.refused(ids[2], "NotAuthorized");
    assert_eq!(rig.letters_left().await, ["mail/1"]);
    assert_eq!(rig.metrics.uplink.mail_dropped.get(), 1);
    // The one that was in flight at a cut comes again.
    conn.cut(hung_up());
    rig.asked().await;
    let mut conn = rig.online().await;
    assert_eq!(conn.take(1).await, ["mail/1"]);
}

#[tokio::test(start_paused = true)]
async fn letters_and_readings_share_window_and_tokens_and_neither_starves() {
    for (window, per_second) in [(WINDOW, None), (1, None), (WINDOW, Some(2)), (2, Some(1))] {
        let mut config = config();
        (config.window, config.messages_per_second) = (window, per_second);
        let mut rig = Rig::new(config, &["cmd/meter"], 60, 60);
        let mut conn = rig.online().await;
        let mut came = Vec::new();
        while came.len() < 60 {
            let got = conn.next().await.unwrap();
            conn.acked(got.packet_id);
            came.push(got.what);
        }
        let first = came.first().unwrap();
        assert!(first.starts_with("mail"), "{first} first, window {window}");
        for part in came.chunks(10) {
            let letters = part.iter().filter(|what| what.starts_with("mail")).count();
            assert!((2..=8).contains(&letters), "{part:?}, window {window}, {per_second:?}/s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_die_with_their_connection_and_answers_do_not() {
    let mut rig = Rig::new(config(), &["cmd/meter"], 0, 0);
    rig.letter(LetterClass::Request, "mail/of-before");
    let conn = rig.online().await;
    assert_eq!(rig.letters_left().await, Vec::<String>::new());
    rig.letter(LetterClass::Request, "mail/get");
    rig.letter(LetterClass::Answer, "mail/accepted");
    assert_eq!(rig.letters_left().await, ["mail/get", "mail/accepted"]);
    conn.cut(LinkError::Stuck);
    assert_eq!(rig.asked().await.what, Wanted::Offline(rig.route));
    assert_eq!(rig.letters_left().await, ["mail/accepted"]);
}

#[tokio::test(start_paused = true)]
async fn a_letter_or_row_that_makes_the_broker_hang_up_is_found_without_a_status_message() {
    for (poison, filters) in [("mail/2", &["cmd/meter"][..]), ("row 2", &["cmd/meter"]), ("row 2", &[])] {
        let mut rig = Rig::new(config(), filters, 5, 3);
        let (mut connections, mut acked) = (0, 0);
        let found =
            |rig: &Rig| (rig.metrics.uplink.mail_dropped.get(), rig.metrics.uplink.dead_lettered.get());
        while acked < 7 || found(&rig) == (0, 0) {
            let mut conn = rig.far.accept().await;
            connections += 1;
            assert!(connections < 9, "{poison} {filters:?}: {acked} acknowledged");
            loop {
                let Some(got) = conn.next().await else { break };
                match got.what.as_str() {
                    "subscribe cmd/meter" => conn.subscribed(),
                    what if what == poison => {
                        conn.cut(hung_up());
                        break;
                    }
                    what => {
                        acked += usize::from(!what.starts_with("gap"));
                        conn.acked(got.packet_id);
                    }
                }
            }
            while rig.hub.try_recv().is_ok() {}
        }
        let expected = if poison.starts_with("mail") { (1, 0) } else { (0, 1) };
        assert_eq!(found(&rig), expected, "{poison} {filters:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_certificate_ends_the_session_in_order_and_at_once() {
    let mut rig = Rig::new(config(), &["cmd/meter"], 2, 0);
    let mut conn = rig.online().await;
    let (first, second) = (conn.next().await.unwrap(), conn.next().await.unwrap());
    rig.far.certificate.send_replace(2);
    // The window empties first.
    rig.far.quiet(SECOND).await;
    conn.acked(first.packet_id);
    conn.acked(second.packet_id);
    assert!(conn.next().await.is_none());
    let begun = Instant::now();
    assert_eq!(rig.asked().await.what, Wanted::Offline(rig.route));
    rig.online().await;
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    assert_eq!(rig.store.tally().delivered, 2);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_the_broker_does_not_know_yet_is_shown_again_soon_and_not_for_ever() {
    let mut rig = Rig::new(config(), &["cmd/meter"], 0, 0);
    let mut waits = Vec::new();
    rig.far.refuse(LinkError::NotYet("closed".into())).await;
    for _ in 0..11 {
        let begun = Instant::now();
        rig.far.refuse(LinkError::NotYet("closed".into())).await;
        waits.push(begun.elapsed());
    }
    assert!(waits[..10].iter().all(|w| (SECOND..6 * SECOND).contains(w)), "{waits:?}");
    assert!(waits[10] >= 60 * SECOND, "{waits:?}");
    // A change ends the long pause.
    rig.far.certificate.send_replace(2);
    let begun = Instant::now();
    rig.online().await;
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_has_no_certificate_takes_nobodys_place() {
    let slow = config::Uplink { connects_per_second: 1, reconnect_min: SECOND / 100, ..config() };
    let mut rig = Rig::new(slow, &["cmd/meter"], 0, 0);
    rig.far.certificate.send_replace(0);
    let begun = Instant::now();
    for _ in 0..5 {
        rig.far.refuse(LinkError::Unreachable("there is no certificate yet".into())).await;
    }
    // One place in a second would have been four seconds at least.
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    rig.far.certificate.send_replace(1);
    let begun = Instant::now();
    rig.online().await;
    assert!(begun.elapsed() < SECOND / 10, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_waits_for_the_hubs_last_answers() {
    let mut rig = Rig::new(config(), &["cmd/meter"], 0, 0);
    let mut conn = rig.online().await;
    conn.arrives("cmd/1");
    let ask = rig.asked().await;
    rig.stop.cancel();
    sleep(SECOND).await;
    ask.answer.send(Answer::Done).unwrap();
    assert_eq!(conn.take(2).await, ["ack 1"]);
    (&mut rig.task).await.unwrap().unwrap();
}
