//! Devices that tell who they are, and those that do not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::rig::*;
use super::writes::request;
use crate::bus::line::Dial;
use crate::model::device::*;

/// A device over TCP that answers each PDU by a script; `None`: not at all. It hangs up after
/// `calls` answers. What it is told is given back, times and repeated readings cut off.
async fn told(
    device: Device,
    run: Duration,
    calls: usize,
    script: impl Fn(&[u8], Duration) -> Option<Vec<u8>> + Clone + Send + 'static,
) -> Vec<String> {
    let start = Instant::now();
    let dial = Dial::with(move || {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(serve(far, start, calls, script.clone()));
        async move { Ok(near) }
    });
    let (task, mut told, _asks, _) = Rig::new(tcp(), vec![device]).task(dial);
    let stop = CancellationToken::new();
    let running = tokio::spawn(task.run(stop.clone()));
    let mut seen: Vec<String> = Vec::new();
    while let Ok(Some(observation)) = timeout_at(start + run, told.recv()).await {
        let text = describe(&observation);
        let text = text.split_once(' ').unwrap().1.to_owned();
        if seen.last() != Some(&text) {
            seen.push(text);
        }
    }
    stop.cancel();
    while told.recv().await.is_some() {}
    running.await.unwrap().unwrap();
    seen
}

async fn serve(
    mut line: DuplexStream,
    start: Instant,
    calls: usize,
    script: impl Fn(&[u8], Duration) -> Option<Vec<u8>>,
) {
    for _ in 0..calls {
        let Some((head, unit, pdu)) = request(&mut line, false).await else { return };
        if let Some(answer) = script(&pdu, start.elapsed())
            && line.write_all(&framed(false, &head, unit, &answer)).await.is_err()
        {
            return;
        }
    }
}

fn meter(how: Fingerprint) -> Device {
    Device { fingerprint: how, ..device_of(modbus(1), points([3])) }
}

fn seven() -> Option<Vec<u8>> {
    Some(vec![3, 2, 0, 7])
}

/// Counts the questions of a script.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Duration>>>);

impl Asked {
    fn note(&self, at: Duration) {
        self.0.lock().unwrap().push(at);
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_id_is_asked_once_behind_the_first_answer() {
    let asked = Asked::default();
    let note = asked.clone();
    let seen = told(meter(Fingerprint::ServerId), 600 * SECOND, usize::MAX, move |pdu, at| match pdu[0] {
        17 => {
            note.note(at);
            Some([&[17, 11][..], b"Acme\0SN 12\xFF"].concat())
        }
        _ => seven(),
    })
    .await;
    assert_eq!(seen, ["d0 0=7", "d0 is Acme/SN 12", "d0 0=7"]);
    assert_eq!(asked.count(), 1);
    // With an id of one byte, as the crate knows it.
    let seen = told(meter(Fingerprint::ServerId), SECOND, usize::MAX, |pdu, _| match pdu[0] {
        17 => Some(vec![17, 4, 9, 0xFF, 1, 2]),
        _ => seven(),
    })
    .await;
    assert_eq!(seen, ["d0 0=7", "d0 is 09000102"]);
}

#[tokio::test(start_paused = true)]
async fn a_device_id_is_followed_over_its_pages() {
    let object = |id: u8, text: &str| [&[id, text.len() as u8][..], text.as_bytes()].concat();
    let seen = told(meter(Fingerprint::DeviceId), SECOND, usize::MAX, move |pdu, _| match pdu {
        [43, 14, 1, 0] => Some([vec![43, 14, 1, 1, 0xFF, 1, 1], object(0, "Acme")].concat()),
        [43, 14, 1, 1] => Some([vec![43, 14, 1, 1, 0, 0, 2], object(1, "PM5"), object(2, "V7")].concat()),
        [43, ..] => panic!("asked for {pdu:?}"),
        _ => seven(),
    })
    .await;
    assert_eq!(seen, ["d0 0=7", "d0 is Acme/PM5"]);
    // Pages that never end.
    let asked = Asked::default();
    let note = asked.clone();
    told(meter(Fingerprint::DeviceId), SECOND, usize::MAX, move |pdu, at| match pdu[0] {
        43 => {
            note.note(at);
            Some(vec![43, 14, 1, 1, 0xFF, pdu[3].wrapping_add(1), 0])
        }
        _ => seven(),
    })
    .await;
    assert_eq!(asked.count(), 8);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_know_the_question_is_left_alone_and_at_no_fault() {
    for (how, function) in [(Fingerprint::ServerId, 17), (Fingerprint::DeviceId, 43)] {
        for code in [1, 2, 3] {
            let asked = Asked::default();
            let note = asked.clone();
            let seen = told(meter(how), 600 * SECOND, usize::MAX, move |pdu, at| match pdu[0] {
                f if f == function => {
                    note.note(at);
                    Some(vec![f | 0x80, code])
                }
                _ => seven(),
            })
            .await;
            assert_eq!(seen, ["d0 0=7"], "{how:?} {code}");
            assert_eq!(asked.count(), 1, "{how:?} {code}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_without_an_answer_is_asked_again_a_minute_later() {
    let asked = Asked::default();
    let note = asked.clone();
    let seen = told(meter(Fingerprint::ServerId), 150 * SECOND, usize::MAX, move |pdu, at| match pdu[0] {
        17 => {
            note.note(at);
            (at > 100 * SECOND).then(|| vec![17, 2, b'A', 0])
        }
        _ => seven(),
    })
    .await;
    assert_eq!(seen, ["d0 0=7", "d0 is A", "d0 0=7"]);
    assert_eq!(asked.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_is_asked_again() {
    let seen = told(meter(Fingerprint::ServerId), 60 * SECOND, usize::MAX, |pdu, at| match pdu[0] {
        _ if (5 * SECOND..15 * SECOND).contains(&at) => None,
        17 if at < 5 * SECOND => Some(vec![17, 2, b'A', 0]),
        17 => Some(vec![17, 2, b'B', 0]),
        _ => seven(),
    })
    .await;
    let expected = [
        "d0 0=7",
        "d0 is A",
        "d0 0=7",
        "d0 0=bad timeout",
        "d0 silent timeout",
        "d0 back",
        "d0 0=7",
        "d0 is B",
        "d0 0=7",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_hangs_up_each_time_is_asked_once_a_minute() {
    let asked = Asked::default();
    let note = asked.clone();
    told(meter(Fingerprint::ServerId), 600 * SECOND, 2, move |pdu, at| match pdu[0] {
        17 => {
            note.note(at);
            Some(vec![17, 2, b'A', 0])
        }
        _ => seven(),
    })
    .await;
    assert!((2..=10).contains(&asked.count()), "asked {} times in ten minutes", asked.count());
}

#[tokio::test(start_paused = true)]
async fn a_point_tells_it_at_the_first_good_value_and_when_it_changes() {
    let serial = Point { fingerprint: true, ..point(3, SECOND) };
    let device = device_of(modbus(1), vec![serial]);
    let seen = told(device, 60 * SECOND, usize::MAX, |_, at| match at.as_secs() {
        0..2 => Some(vec![0x83, 4]),
        10..20 => None,
        30.. => Some(vec![3, 2, 0, 8]),
        _ => seven(),
    })
    .await;
    let expected = [
        "d0 0=bad exception 4",
        "d0 is 7",
        "d0 0=7",
        "d0 0=bad timeout",
        "d0 silent timeout",
        "d0 back",
        "d0 is 7",
        "d0 0=7",
        "d0 is 8",
        "d0 0=8",
    ];
    assert_eq!(seen, expected);
}
