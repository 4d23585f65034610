//! Real events through the layer; and the bus with a device that flaps, on a paused clock.

use std::sync::atomic::{AtomicU32, Ordering};

use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::bus::tests::rig::{self, Act, Rig, SECOND};

/// What came through, each line with the moment, in seconds.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(u64, String)>>>);

struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        if name == "message" {
            self.0.insert_str(0, &format!("{value:?}"));
        } else if ["device", "thing", "suppressed"].contains(&name) {
            self.0.push_str(&format!(" {name}={value:?}"));
        }
    }
}

struct Hearing(Heard, Instant);

impl<S: Subscriber> Layer<S> for Hearing {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut words = Words(String::new());
        event.record(&mut words);
        self.0.0.lock().unwrap().push((self.1.elapsed().as_secs(), words.0));
    }
}

impl Heard {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }

    fn count(&self, line: &str) -> usize {
        self.all().iter().filter(|l| *l == line).count()
    }

    /// What the summaries about this line add up to.
    fn suppressed(&self, device: &str, like: &str) -> u64 {
        let number = |line: &String| line.rsplit_once("suppressed=")?.1.parse::<u64>().ok();
        let about = |line: &&String| {
            line.contains(&format!("were not logged: {like} ")) && line.contains(&format!("device={device} "))
        };
        self.all().iter().filter(about).filter_map(number).sum()
    }
}

fn listen() -> (Flood, Heard, tracing::subscriber::DefaultGuard) {
    let (flood, heard) = (Flood::default(), Heard::default());
    let hearing = Hearing(heard.clone(), Instant::now());
    let registry = tracing_subscriber::registry().with(flood.clone()).with(hearing);
    (flood, heard, tracing::subscriber::set_default(registry))
}

#[tokio::test(start_paused = true)]
async fn a_device_that_flaps_is_told_of_and_then_counted() {
    const MINUTES: u64 = 30;
    let (flood, heard, _guard) = listen();
    tokio::spawn(flood.clone().summarise());
    // Three polls answered, three not: it is silent and back about every eight seconds, and
    // its neighbour never.
    let polls = Arc::new(AtomicU32::new(0));
    let flapping = crate::model::device::ModbusDevice {
        silent_after: 1,
        backoff_min: SECOND,
        backoff_max: SECOND,
        ..rig::modbus(1)
    };
    let devices =
        vec![rig::device_of(flapping, rig::points([10])), rig::device_of(rig::modbus(2), rig::points([20]))];
    let told = Rig::new(rig::rtu(), devices)
        .run(Duration::from_secs(60 * MINUTES))
        .told(move |ask| {
            let n = if ask.unit_id == 1 { polls.fetch_add(1, Ordering::Relaxed) } else { 1 };
            if n.is_multiple_of(2) { Act::Mute } else { Act::Addresses }
        })
        .await;
    flood.tell(None);
    let happened = told.seen.iter().filter(|s| s.contains("d0 silent")).count() as u64;
    assert!(happened > 20 * MINUTES, "it flapped {happened} times only");
    let passed = heard.count("device silent device=unit-1") as u64;
    assert_eq!(passed + heard.suppressed("unit-1", "device silent"), happened, "{:?}", heard.all());
    // At the end of a window the flood goes on for as long as it takes to tell.
    assert!((u64::from(BURST)..=u64::from(BURST) * MINUTES).contains(&passed), "{passed} of {happened}");
    assert!(heard.all().len() as u64 <= (2 * u64::from(BURST) + 2) * MINUTES + 2, "{}", heard.all().len());
}

#[tokio::test(start_paused = true)]
async fn the_first_of_a_kind_is_always_said() {
    let (flood, heard, _guard) = listen();
    let say = |device: usize| tracing::error!(device = %device, "lost");
    for device in 0..3 * KINDS_MAX {
        (0..20).for_each(|_| say(device));
        assert_eq!(heard.count(&format!("lost device={device}")), BURST as usize);
    }
    assert!(flood.counts().kinds.len() <= KINDS_MAX);
    flood.tell(None);
    let all = heard.all();
    let number = |line: &String| line.rsplit_once("suppressed=")?.1.parse::<usize>().ok();
    let sum: usize = all.iter().filter_map(number).sum();
    assert_eq!(sum, 3 * KINDS_MAX * (20 - BURST as usize));
    assert!(all.iter().any(|l| l.contains("of many kinds")), "some kinds had to make room");
}

#[tokio::test(start_paused = true)]
async fn what_differs_in_what_it_is_about_is_another_kind() {
    let check = |say: &dyn Fn(usize), expected: usize| {
        let (_flood, heard, _guard) = listen();
        (0..100).for_each(say);
        assert_eq!(heard.all().len(), expected, "{:?}", heard.all());
    };
    check(&|_| tracing::warn!(device = "m", "silent"), BURST as usize);
    check(&|n| tracing::warn!(device = "m", waited = n, "silent"), BURST as usize);
    check(&|n| tracing::warn!(device = %n, "silent"), 100);
    check(&|n| tracing::warn!(device = "m", address = n, "request fails"), 100);
    check(&|_| tracing::debug!(device = "m", "asked for"), 100);
}

#[tokio::test(start_paused = true)]
async fn a_slow_beat_is_never_held_back() {
    let (flood, heard, _guard) = listen();
    for _ in 0..500 {
        tracing::info!(thing = %"t", "online");
        tokio::time::sleep(WINDOW / (BURST - 1)).await;
        flood.tell(Some(Instant::now()));
    }
    assert_eq!(heard.count("online thing=t"), 500);
    assert_eq!(heard.all().len(), 500);
}
