//! Writes to devices that do as they are told, and to those that do not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::rig::*;
use crate::bus::line::Dial;
use crate::bus::{WRITES_MAX, WriteRequest};
use crate::modbus::write::plan;
use crate::model::device::*;
use crate::model::ids::{DeviceIndex, PointIndex};
use crate::model::observation::{Observation, Seen};
use crate::model::write::WriteRules;

/// What the device does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Do,
    /// Takes at most this much.
    Clamp(u16),
    /// Answers with this exception, and does nothing.
    Refuse(u8),
    /// Answers "acknowledge", and does it.
    Acknowledge,
    /// Does it, and answers so much later.
    Late(Duration),
    /// Answers, and does it so much later.
    Slow(Duration),
    /// Does it, without an answer.
    Lose,
    /// Hears nothing.
    Mute,
    /// Does it, and the answer is damaged.
    Garble,
    HangUp {
        done: bool,
    },
}

/// Sixteen registers, and what was asked.
#[derive(Clone, Default)]
struct Far(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    words: [u16; 16],
    /// Functions that write.
    writes: Vec<u8>,
    reads: usize,
}

impl Far {
    fn word(&self, at: usize) -> u16 {
        self.0.lock().unwrap().words[at]
    }

    fn writes(&self) -> Vec<u8> {
        self.0.lock().unwrap().writes.clone()
    }

    /// Applies a write, or reads; the answer's PDU.
    fn execute(&self, pdu: &[u8], clamp: u16) -> Vec<u8> {
        let mut memory = self.0.lock().unwrap();
        let word = |at: usize| u16::from_be_bytes([pdu[at], pdu[at + 1]]);
        let at = usize::from(word(1));
        match pdu[0] {
            3 => {
                let words = memory.words[at..at + usize::from(word(3))].iter();
                let bytes: Vec<u8> = words.flat_map(|w| w.to_be_bytes()).collect();
                [vec![3, bytes.len() as u8], bytes].concat()
            }
            6 => {
                memory.words[at] = word(3).min(clamp);
                pdu.to_vec()
            }
            16 => {
                for n in 0..usize::from(word(3)) {
                    memory.words[at + n] = word(6 + 2 * n).min(clamp);
                }
                pdu[..5].to_vec()
            }
            22 => {
                let (and, or) = (word(3), word(5));
                memory.words[at] = memory.words[at] & and | or & !and;
                pdu.to_vec()
            }
            other => vec![other | 0x80, 1],
        }
    }

    async fn serve(self, mut line: DuplexStream, rtu: bool, script: impl Fn(u8, usize) -> Act) {
        while let Some((head, unit, pdu)) = request(&mut line, rtu).await {
            let (act, count) = {
                let mut memory = self.0.lock().unwrap();
                let writes = matches!(pdu[0], 5 | 6 | 15 | 16 | 22);
                if writes {
                    memory.writes.push(pdu[0]);
                } else {
                    memory.reads += 1;
                }
                let count = if writes { memory.writes.len() } else { memory.reads };
                (script(pdu[0], count), count)
            };
            let _ = count;
            let mut answer = match act {
                Act::Mute => continue,
                Act::Refuse(code) => vec![pdu[0] | 0x80, code],
                Act::Slow(delay) => {
                    let (far, late, now) = (self.clone(), pdu.clone(), pdu.len().min(5));
                    tokio::spawn(async move {
                        sleep(delay).await;
                        far.execute(&late, u16::MAX);
                    });
                    if pdu[0] == 16 { pdu[..now].to_vec() } else { pdu.clone() }
                }
                Act::HangUp { done: false } => return,
                Act::Clamp(most) => self.execute(&pdu, most),
                _ => self.execute(&pdu, u16::MAX),
            };
            match act {
                Act::Lose => continue,
                Act::HangUp { .. } => return,
                Act::Late(delay) => sleep(delay).await,
                Act::Acknowledge => answer = vec![pdu[0] | 0x80, 5],
                _ => {}
            }
            let mut frame = framed(rtu, &head, unit, &answer);
            if act == Act::Garble {
                // RTU: a wrong check. TCP: another function.
                let at = if rtu { frame.len() - 1 } else { 7 };
                frame[at] ^= 0x21;
            }
            if line.write_all(&frame).await.is_err() {
                return;
            }
        }
    }
}

/// The next request: its head, for the answer's, the unit and the PDU.
pub async fn request(line: &mut DuplexStream, rtu: bool) -> Option<(Vec<u8>, u8, Vec<u8>)> {
    if !rtu {
        let mut head = vec![0; 7];
        line.read_exact(&mut head).await.ok()?;
        let mut pdu = vec![0; usize::from(u16::from_be_bytes([head[4], head[5]])) - 1];
        line.read_exact(&mut pdu).await.ok()?;
        return Some((head.clone(), head[6], pdu));
    }
    let mut frame = vec![0; 7];
    line.read_exact(&mut frame).await.ok()?;
    let length = match frame[1] {
        15 | 16 => 9 + usize::from(frame[6]),
        22 => 10,
        _ => 8,
    };
    frame.resize(length, 0);
    line.read_exact(&mut frame[7..]).await.ok()?;
    let (body, check) = frame.split_at(length - 2);
    assert_eq!(crc(body).to_le_bytes(), check, "the master's check is wrong");
    Some((Vec::new(), body[0], body[1..].to_vec()))
}

fn rules(readable: bool) -> WriteRules {
    WriteRules {
        readable,
        min: None,
        max: None,
        step: None,
        interval: Duration::ZERO,
        expiry: None,
        retry_min: SECOND,
        retry_max: SECOND,
        verify_within: 2 * SECOND,
    }
}

/// Read once at the start, and then only by those who write.
fn writable(address: u16, readable: bool) -> Point {
    Point { write: Some(rules(readable)), ..point(address, 3600 * SECOND) }
}

fn wanted(id: u64, device: &Device, at: u16, value: u64) -> WriteRequest {
    let Protocol::Modbus(modbus) = &device.protocol else { panic!("no Modbus device") };
    let plan = plan(modbus, &device.points[usize::from(at)], &json!(value)).unwrap();
    WriteRequest { id, device: DeviceIndex(0), point: PointIndex(at), plan }
}

/// A running bus with one end for what is wanted and one for what is told.
struct Running {
    far: Far,
    writes: mpsc::Sender<WriteRequest>,
    told: mpsc::Receiver<Observation>,
    stop: CancellationToken,
}

impl Running {
    async fn start(
        transport: Transport,
        devices: Vec<Device>,
        script: impl Fn(u8, usize) -> Act + Clone + Send + 'static,
    ) -> Running {
        let far = Far::default();
        far.0.lock().unwrap().words = [7; 16];
        let rtu = !matches!(transport, Transport::Tcp(_));
        let serving = far.clone();
        let dial = Dial::with(move || {
            let (near, end) = tokio::io::duplex(4096);
            tokio::spawn(serving.clone().serve(end, rtu, script.clone()));
            async move { Ok(near) }
        });
        let (writes, wanted) = mpsc::channel(WRITES_MAX);
        let (task, told, ..) = Rig::new(transport, devices).task_with(dial, wanted);
        let stop = CancellationToken::new();
        tokio::spawn(task.run(stop.clone()));
        Running { far, writes, told, stop }
    }

    /// What is told up to and with the outcome of a write.
    async fn until_wrote(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let seen = timeout(3600 * SECOND, self.told.recv()).await.expect("no outcome").expect("it ended");
            let text = describe(&seen);
            all.push(text.split_once(' ').unwrap().1.to_owned());
            if matches!(seen.seen, Seen::Wrote(_)) {
                return all;
            }
        }
    }
}

/// One write of 42 to a register that holds 7: what is told of it, which frames wrote, and
/// what the register holds in the end.
async fn check_on(
    transport: Transport,
    script: impl Fn(u8, usize) -> Act + Clone + Send + 'static,
    expected: (&[&str], &[u8], u16),
) {
    let device = device_of(modbus(1), vec![writable(3, true)]);
    let what = format!("{transport:?}: {expected:?}");
    let mut running = Running::start(transport, vec![device.clone()], script).await;
    let first = running.told.recv().await.unwrap();
    assert!(describe(&first).ends_with("d0 0=7"), "{what}: {first:?}");
    running.writes.send(wanted(9, &device, 0, 42)).await.unwrap();
    let told = running.until_wrote().await;
    assert_eq!(told, expected.0, "{what}");
    assert_eq!(running.far.writes(), expected.1, "{what}");
    assert_eq!(running.far.word(3), expected.2, "{what}");
}

async fn check(
    script: impl Fn(u8, usize) -> Act + Clone + Send + 'static,
    told: &[&str],
    writes: &[u8],
    word: u16,
) {
    check_on(tcp(), script.clone(), (told, writes, word)).await;
    check_on(rtu(), script, (told, writes, word)).await;
}

/// The device acts so on everything that writes, and reads honestly.
fn on_write(act: Act) -> impl Fn(u8, usize) -> Act + Clone + Send + 'static {
    move |function, _| if function == 3 { Act::Do } else { act }
}

const VERIFIED: &[&str] = &["d0 0=42", "d0 wrote 9 0=Verified"];

#[tokio::test(start_paused = true)]
async fn what_was_written_is_read_back() {
    check(on_write(Act::Do), VERIFIED, &[6], 42).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_clamps_did_not_take_it() {
    let told = ["d0 0=40", "d0 wrote 9 0=NotTaken { read: Good(Uint(40)) }"];
    check(on_write(Act::Clamp(40)), &told, &[6], 40).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_comes_with_its_code_and_is_not_repeated() {
    for code in [1, 2, 3, 4, 7] {
        let told = format!("d0 wrote 9 0=Rejected {{ code: {code} }}");
        check(on_write(Act::Refuse(code)), &[told.as_str()], &[6], 7).await;
    }
    // A gateway that never put it on its line, and one that cannot say.
    check(on_write(Act::Refuse(10)), &["d0 wrote 9 0=Failed(Exception(10))"], &[6], 7).await;
    check(on_write(Act::Refuse(11)), &["d0 0=7", "d0 wrote 9 0=NotTaken { read: Good(Uint(7)) }"], &[6], 7)
        .await;
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_it_is_not_written_again_but_read_back() {
    for act in [
        Act::Lose,
        // Within the late window, and after it.
        Act::Late(ms(300)),
        Act::Late(ms(500)),
        Act::Garble,
        Act::HangUp { done: true },
        Act::Acknowledge,
    ] {
        check(on_write(act), VERIFIED, &[6], 42).await;
    }
    let told = ["d0 0=7", "d0 wrote 9 0=NotTaken { read: Good(Uint(7)) }"];
    for act in [Act::Mute, Act::HangUp { done: false }] {
        check(on_write(act), &told, &[6], 7).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_slow_to_show_it_has_its_time() {
    check(on_write(Act::Slow(ms(1500))), VERIFIED, &[6], 42).await;
    let told = ["d0 0=7", "d0 wrote 9 0=NotTaken { read: Good(Uint(7)) }"];
    check(on_write(Act::Slow(ms(60_000))), &told, &[6], 7).await;
}

#[tokio::test(start_paused = true)]
async fn only_a_busy_device_is_asked_again() {
    let busy_twice = |function, count| match function {
        3 => Act::Do,
        _ if count <= 2 => Act::Refuse(6),
        _ => Act::Do,
    };
    check(busy_twice, VERIFIED, &[6, 6, 6], 42).await;
    check(on_write(Act::Refuse(6)), &["d0 wrote 9 0=Rejected { code: 6 }"], &[6, 6, 6, 6], 7).await;
}

#[tokio::test(start_paused = true)]
async fn a_mute_device_fails_with_its_cause_and_a_silent_one_at_once() {
    let first_read_only = |function, count| if function == 3 && count == 1 { Act::Do } else { Act::Mute };
    check(first_read_only, &["d0 wrote 9 0=Failed(Timeout)"], &[6], 7).await;
    let device = device_of(modbus(1), vec![Point { interval: SECOND, ..writable(3, true) }]);
    let mut running = Running::start(rtu(), vec![device.clone()], |_, _| Act::Mute).await;
    loop {
        let seen = running.told.recv().await.unwrap();
        if matches!(seen.seen, Seen::Silent(_)) {
            break;
        }
    }
    let before = Instant::now();
    running.writes.send(wanted(9, &device, 0, 42)).await.unwrap();
    assert_eq!(running.until_wrote().await, ["d0 wrote 9 0=Failed(Timeout)"]);
    assert_eq!((before.elapsed(), running.far.writes()), (Duration::ZERO, Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_line_that_does_not_open_fails_a_write_at_once() {
    let device = device_of(modbus(1), vec![writable(3, true)]);
    let dial = Dial::with(|| async { Err(std::io::ErrorKind::ConnectionRefused.into()) });
    let (writes, queue) = mpsc::channel(WRITES_MAX);
    let (task, mut told, ..) = Rig::new(tcp(), vec![device.clone()]).task_with(dial, queue);
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    writes.send(wanted(9, &device, 0, 42)).await.unwrap();
    loop {
        let seen = told.recv().await.unwrap();
        if let Seen::Wrote(wrote) = seen.seen {
            assert_eq!(format!("{:?}", wrote.outcome), "Failed(BusGone)");
            break;
        }
    }
}

/// An idle connection that the device hung up takes no write with it.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_known_to_be_closed_is_opened_before_a_write() {
    let device = device_of(modbus(1), vec![writable(3, true)]);
    let far = Far::default();
    let serving = far.clone();
    let mut opened = 0;
    let dial = Dial::with(move || {
        opened += 1;
        let (near, mut end) = tokio::io::duplex(4096);
        let (far, first) = (serving.clone(), opened == 1);
        tokio::spawn(async move {
            if first {
                // One answer, and away.
                let (head, unit, pdu) = request(&mut end, false).await.unwrap();
                let answer = framed(false, &head, unit, &far.execute(&pdu, u16::MAX));
                end.write_all(&answer).await.unwrap();
            } else {
                far.serve(end, false, |_, _| Act::Do).await;
            }
        });
        async move { Ok(near) }
    });
    let (writes, queue) = mpsc::channel(WRITES_MAX);
    let (task, mut told, ..) = Rig::new(tcp(), vec![device.clone()]).task_with(dial, queue);
    tokio::spawn(task.run(CancellationToken::new()));
    told.recv().await.unwrap();
    writes.send(wanted(9, &device, 0, 42)).await.unwrap();
    let seen: Vec<String> =
        [told.recv().await.unwrap(), told.recv().await.unwrap()].iter().map(describe).collect();
    assert!(seen[1].ends_with("wrote 9 0=Verified"), "{seen:?}");
    assert_eq!((far.writes(), far.word(3)), (vec![6], 42));
}

#[tokio::test(start_paused = true)]
async fn a_point_that_is_only_written_is_never_read() {
    let device = device_of(modbus(1), vec![writable(3, false), writable(4, true)]);
    for (act, expected) in [
        (Act::Do, "d0 wrote 9 0=Accepted"),
        (Act::Acknowledge, "d0 wrote 9 0=Accepted"),
        (Act::Lose, "d0 wrote 9 0=Failed(Timeout)"),
        (Act::Refuse(2), "d0 wrote 9 0=Rejected { code: 2 }"),
    ] {
        let mut running = Running::start(rtu(), vec![device.clone()], on_write(act)).await;
        let first = running.told.recv().await.unwrap();
        assert!(describe(&first).ends_with("d0 1=7"), "{first:?}");
        running.writes.send(wanted(9, &device, 0, 42)).await.unwrap();
        assert_eq!(running.until_wrote().await, [expected]);
        assert_eq!(running.far.0.lock().unwrap().reads, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_line_polls_on_while_a_slow_device_applies() {
    let slow = device_of(modbus(1), vec![writable(3, true)]);
    let other = device_of(modbus(2), vec![point(5, ms(100))]);
    let mut running = Running::start(tcp(), vec![slow.clone(), other], on_write(Act::Slow(ms(1900)))).await;
    running.writes.send(wanted(9, &slow, 0, 42)).await.unwrap();
    let told = running.until_wrote().await;
    let polls = told.iter().filter(|t| *t == "d1 0=7").count();
    assert!(polls >= 18, "{polls} polls of the neighbour: {told:?}");
    assert_eq!(told.last().map(String::as_str), Some("d0 wrote 9 0=Verified"));
}

#[tokio::test(start_paused = true)]
async fn a_newer_write_ends_the_wait_of_the_older_and_a_stop_ends_all() {
    let device = device_of(modbus(1), vec![writable(3, true), writable(8, true)]);
    let never = on_write(Act::Slow(ms(600_000)));
    let mut running = Running::start(tcp(), vec![device.clone()], never).await;
    running.told.recv().await.unwrap();
    let start = Instant::now();
    for (id, at) in [(1, 0), (2, 1), (3, 0)] {
        running.writes.send(wanted(id, &device, at, 42)).await.unwrap();
    }
    let told = running.until_wrote().await;
    assert_eq!(told, ["d0 0=7", "d0 wrote 1 0=NotTaken { read: Good(Uint(7)) }"]);
    assert_eq!(start.elapsed(), Duration::ZERO, "the older was waited for");
    // The frame of the third goes out before the stop is looked at.
    while running.far.writes().len() < 3 {
        sleep(ms(1)).await;
    }
    running.stop.cancel();
    let mut left: Vec<String> = Vec::new();
    while let Some(seen) = running.told.recv().await {
        if let Seen::Wrote(wrote) = &seen.seen {
            left.push(format!("{} {:?}", wrote.id, wrote.outcome));
        }
    }
    left.sort();
    let not_taken = "NotTaken { read: Good(Uint(7)) }";
    assert_eq!(left, [format!("2 {not_taken}"), format!("3 {not_taken}")]);
}

#[tokio::test(start_paused = true)]
async fn bits_and_blocks_go_by_their_own_functions() {
    use crate::model::register::*;
    let with = |kind: Kind, bytes: u8, address| {
        let mut point = writable(address, true);
        let Source::Register(register) = &mut point.source else { panic!() };
        register.encoding = Encoding { kind, order: Order::big(bytes) };
        point
    };
    let points = vec![with(Kind::Uint32, 4, 2), with(Kind::BitField { start: 4, length: 3 }, 2, 5)];
    let device = device_of(modbus(1), points);
    let mut running = Running::start(rtu(), vec![device.clone()], on_write(Act::Do)).await;
    running.told.recv().await.unwrap();
    running.writes.send(wanted(1, &device, 0, 0x0001_0002)).await.unwrap();
    assert_eq!(running.until_wrote().await.last().unwrap(), "d0 wrote 1 0=Verified");
    running.writes.send(wanted(2, &device, 1, 5)).await.unwrap();
    assert_eq!(running.until_wrote().await.last().unwrap(), "d0 wrote 2 1=Verified");
    assert_eq!(running.far.writes(), [16, 22]);
    assert_eq!([2, 3, 5].map(|at| running.far.word(at)), [1, 2, 0x57]);
}

#[tokio::test(start_paused = true)]
async fn a_device_of_another_line_is_answered_too() {
    let device = device_of(modbus(1), vec![writable(3, true)]);
    let mut running = Running::start(tcp(), vec![device.clone()], on_write(Act::Do)).await;
    running.told.recv().await.unwrap();
    let stray = WriteRequest { device: DeviceIndex(5), ..wanted(9, &device, 0, 42) };
    running.writes.send(stray).await.unwrap();
    assert_eq!(running.until_wrote().await, ["d5 wrote 9 0=Failed(Missing)"]);
    assert!(running.far.writes().is_empty());
}
