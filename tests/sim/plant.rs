//! The simulated plant: two lines with Modbus units that are late, mute, garbled, refusing,
//! and lines that break. It keeps the book of what it handed out.
//!
//! Every point is a 32-bit counter that rises with each answer it is in, with the unit and the
//! point in its upper bits: a value in the cloud names the one answer it came from.
//!
//! What a unit does about a late answer follows real ones. An answer that is late within the
//! late window is sent whatever was asked meanwhile: a converter that queues. One that is
//! later than that is forgotten when the unit is asked again (no protocol over a serial line
//! could tell it from the answer to the new question), else it falls into whatever the line
//! is busy with.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep_until};

use fieldgate::bus::line::Dial;

use crate::dice::{Dice, Spell, ms, spells};
use crate::units::{Registers, WRITABLE, Written};
use crate::world::{Planted, Temper};

/// Name, line, unit id.
pub const DEVICES: [(&str, usize, u8); 5] =
    [("meter-1", 0, 1), ("meter-2", 0, 2), ("meter-3", 0, 3), ("plc-1", 1, 1), ("plc-2", 1, 7)];
/// Name, first register. The first two lie in one request, each other one in its own; the last
/// is polled more rarely.
pub const POINTS: [(&str, u16); 5] = [("a", 0), ("b", 2), ("c", 100), ("d", 200), ("e", 300)];
pub const LINES: [Framing; 2] = [Framing::Rtu, Framing::Mbap];

pub const RESPONSE_TIMEOUT: Duration = Duration::from_millis(200);
pub const LATE_WINDOW: Duration = Duration::from_millis(300);
/// The response timeout grows by the time that a frame takes on the wire; this is more.
pub const ON_THE_WIRE: Duration = Duration::from_millis(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Rtu,
    Mbap,
}

/// One value that was handed out.
#[derive(Clone, Debug)]
pub struct Served {
    pub device: usize,
    pub point: usize,
    pub value: u64,
    /// Since the beginning of the world.
    pub at: Duration,
    /// In time, whole, and nothing else on the line: the agent has to have it.
    pub proper: bool,
}

pub struct Plant {
    dice: Dice,
    temper: Temper,
    planted: Planted,
    origin: Instant,
    /// The end of all faults.
    calm: Duration,
    /// From here on no line opens, so that everything can come to rest.
    closed: Duration,
    cuts: Vec<Vec<Spell>>,
    mute: Vec<Vec<Spell>>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    served: Vec<Served>,
    counters: HashMap<(usize, usize), u32>,
    requests: HashMap<usize, u64>,
    dials: [u64; LINES.len()],
    registers: Registers,
}

enum Fate {
    Answer,
    LateWithin,
    LateBeyond,
    Mute,
    Garbled,
    Exception(u8),
}

/// An answer on its way.
struct Pending {
    due: Instant,
    device: usize,
    bytes: Vec<u8>,
    /// Forgotten when the unit is asked again.
    forgettable: bool,
    /// Places in the book.
    values: Vec<usize>,
    good: bool,
    garbled: bool,
    /// Something else came over the line while it was awaited.
    disturbed: bool,
}

impl Plant {
    pub fn new(dice: Dice, temper: Temper, planted: Planted, calm: Duration, closed: Duration) -> Arc<Plant> {
        let plan = |what: &str, n: usize, max: usize, longest: u64| {
            let max = if temper == Temper::Calm { 0 } else { max };
            spells(&mut dice.of(what, n as u64), max, longest, calm)
        };
        Arc::new(Plant {
            dice,
            temper,
            planted,
            origin: Instant::now(),
            calm,
            closed,
            cuts: (0..LINES.len()).map(|n| plan("line cut", n, 4, 12)).collect(),
            mute: (0..DEVICES.len()).map(|n| plan("mute", n, 3, 25)).collect(),
            book: Mutex::default(),
        })
    }

    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub fn served(&self) -> Vec<Served> {
        self.book.lock().unwrap().served.clone()
    }

    pub fn written(&self) -> Vec<Written> {
        self.book.lock().unwrap().registers.written()
    }

    /// What stands in the registers that can be written, by device.
    pub fn registers(&self) -> [[u16; WRITABLE.len()]; DEVICES.len()] {
        self.book.lock().unwrap().registers.values()
    }

    pub fn dial(self: &Arc<Self>, line: usize) -> Dial {
        let plant = Arc::clone(self);
        Dial::with(move || {
            let plant = Arc::clone(&plant);
            async move { plant.open(line).await }
        })
    }

    async fn open(self: Arc<Self>, line: usize) -> io::Result<DuplexStream> {
        let dials = {
            let mut book = self.book.lock().unwrap();
            book.dials[line] += 1;
            book.dials[line]
        };
        if self.is_cut(line, self.now()) {
            if self.dice.of("dial hangs", dials * 10 + line as u64).u8(0..4) == 0 {
                std::future::pending::<()>().await;
            }
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the line is cut"));
        }
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(async move { self.serve(line, far).await });
        Ok(near)
    }

    fn is_cut(&self, line: usize, now: Duration) -> bool {
        now >= self.closed || self.cuts[line].iter().any(|c| c.holds(now))
    }

    /// Answers until the line is cut or the agent hangs up.
    async fn serve(&self, line: usize, mut stream: DuplexStream) {
        let now = self.now();
        let cut = self.cuts[line].iter().map(|c| c.from).find(|from| *from > now).unwrap_or(self.closed);
        let cut = self.origin + cut;
        let mut pending: Vec<Pending> = Vec::new();
        let mut heard = Vec::new();
        let mut buffer = [0; 256];
        // When something was last put on the line that was no answer to the last question.
        let mut stray = None;
        loop {
            let next = pending.iter().map(|p| p.due).min();
            tokio::select! {
                biased;
                () = sleep_until(cut) => return,
                () = sleep_until(next.unwrap_or(cut)), if next.is_some() => {
                    let at = pending.iter().position(|p| Some(p.due) == next).unwrap();
                    let answer = pending.remove(at);
                    if answer.forgettable && LINES[line] == Framing::Rtu {
                        stray = Some(Instant::now());
                        pending.iter_mut().for_each(|p| (p.good, p.disturbed) = (false, true));
                    }
                    if stream.write_all(&answer.bytes).await.is_err() {
                        return;
                    }
                    self.note_sent(&answer);
                }
                read = stream.read(&mut buffer) => {
                    match read {
                        Ok(n) if n > 0 => heard.extend_from_slice(&buffer[..n]),
                        _ => return,
                    }
                    while let Some(request) = Request::take(LINES[line], &mut heard) {
                        let Some(device) = DEVICES.iter().position(|d| d.1 == line && d.2 == request.unit) else {
                            continue;
                        };
                        pending.retain(|p| !(p.forgettable && p.device == device));
                        if let Some(mut answer) = self.answer(line, device, &request) {
                            answer.good &= stray != Some(Instant::now());
                            // The agent took the stray for a garbled answer and asks again; of
                            // the two answers that it gets it keeps the first.
                            answer.good &= !pending.iter().any(|p| p.disturbed && p.device == device);
                            // A unit answers in the order in which it was asked.
                            let before = pending.iter().filter(|p| p.device == device && !answer.forgettable);
                            answer.due = before.map(|p| p.due).fold(answer.due, Instant::max);
                            let rest = self.noise_behind(line, &answer);
                            pending.push(answer);
                            pending.extend(rest);
                        }
                    }
                }
            }
        }
    }

    /// On a serial line a garbled answer may come in two pieces.
    fn noise_behind(&self, line: usize, answer: &Pending) -> Option<Pending> {
        if !answer.garbled || LINES[line] != Framing::Rtu {
            return None;
        }
        let mut random = self.dice.of("noise", answer.due.duration_since(self.origin).as_millis() as u64);
        let bytes = (0..random.usize(1..9)).map(|_| random.u8(..)).collect();
        let due = answer.due + ms(&mut random, 5, 120);
        Some(Pending {
            due,
            bytes,
            values: Vec::new(),
            device: answer.device,
            forgettable: false,
            good: false,
            garbled: false,
            disturbed: false,
        })
    }

    fn note_sent(&self, answer: &Pending) {
        let now = self.now();
        let mut book = self.book.lock().unwrap();
        for at in &answer.values {
            book.served[*at].at = now;
            book.served[*at].proper = answer.good;
        }
    }

    fn fate(&self, device: usize, number: u64) -> (Fate, Duration) {
        let now = self.now();
        let mut random = self.dice.of("fate", number * 16 + device as u64);
        let prompt = ms(&mut random, 5, 30);
        if self.mute[device].iter().any(|m| m.holds(now)) {
            return (Fate::Mute, prompt);
        }
        let calm = self.temper == Temper::Calm && self.planted != Planted::CalmIsNone;
        if calm || now >= self.calm {
            return (Fate::Answer, prompt);
        }
        match random.u32(0..1000) {
            0..12 => {
                let late = RESPONSE_TIMEOUT + ON_THE_WIRE + ms(&mut random, 0, 200);
                (Fate::LateWithin, late)
            }
            12..20 => {
                let late = RESPONSE_TIMEOUT + LATE_WINDOW + 2 * ON_THE_WIRE + ms(&mut random, 0, 2500);
                (Fate::LateBeyond, late)
            }
            20..28 => (Fate::Mute, prompt),
            28..40 => (Fate::Garbled, prompt),
            40..45 => (Fate::Exception(4), prompt),
            45..50 => (Fate::Exception(6), prompt),
            50..53 => (Fate::Exception(2), prompt),
            _ => (Fate::Answer, prompt),
        }
    }

    fn answer(&self, line: usize, device: usize, request: &Request) -> Option<Pending> {
        let number = {
            let mut book = self.book.lock().unwrap();
            let number = book.requests.entry(device).or_default();
            *number += 1;
            *number
        };
        let (fate, delay) = self.fate(device, number);
        let mut random = self.dice.of("damage", number * 16 + device as u64);
        let mut values = Vec::new();
        if request.function == WRITE {
            return self.written_to(line, device, request, fate, delay, &mut random);
        }
        let bytes = match fate {
            Fate::Mute => return None,
            Fate::Exception(code) => request.frame(LINES[line], &[request.function | 0x80, code]),
            _ => {
                let mut words = vec![0_u16; usize::from(request.count)];
                for (point, (_, first)) in POINTS.iter().enumerate() {
                    let Some(at) = first.checked_sub(request.address).map(usize::from) else { continue };
                    if at + 2 > words.len() {
                        continue;
                    }
                    let (place, value) = self.hand_out(device, point);
                    values.push(place);
                    let shown = match self.planted {
                        Planted::UnitMixesUpPoints if value % 50 == 49 => value ^ (1 << 16),
                        Planted::UnitRepeatsItself if value % 50 == 49 => value - 1,
                        _ => value,
                    };
                    (words[at], words[at + 1]) = ((shown >> 16) as u16, shown as u16);
                }
                let forgets = self.planted == Planted::UnitForgets && self.now() >= self.calm;
                let book = self.book.lock().unwrap();
                for (address, word) in (request.address..).zip(&mut words) {
                    *word = book.registers.read(device, address, forgets).unwrap_or(*word);
                }
                drop(book);
                let mut pdu = vec![request.function, (request.count * 2) as u8];
                pdu.extend(words.iter().flat_map(|w| w.to_be_bytes()));
                request.frame(LINES[line], &pdu)
            }
        };
        let bytes =
            if matches!(fate, Fate::Garbled) { garble(LINES[line], bytes, &mut random) } else { bytes };
        Some(Pending {
            due: Instant::now() + delay,
            device,
            bytes,
            forgettable: matches!(fate, Fate::LateBeyond),
            values,
            good: matches!(fate, Fate::Answer),
            garbled: matches!(fate, Fate::Garbled),
            disturbed: false,
        })
    }

    /// A write: taken or refused, and then the answer to it may go wrong.
    fn written_to(
        &self,
        line: usize,
        device: usize,
        request: &Request,
        fate: Fate,
        delay: Duration,
        random: &mut fastrand::Rng,
    ) -> Option<Pending> {
        let is_lost = matches!(fate, Fate::Mute) && random.bool();
        if is_lost {
            return None;
        }
        let ill = if let Fate::Exception(code) = fate { Some(code) } else { None };
        let write = (device, request.address, request.count);
        let answer = self.book.lock().unwrap().registers.write(write, self.now(), ill, self.planted);
        let pdu = match answer {
            Ok(()) => {
                let [a, b] = request.address.to_be_bytes();
                let [c, d] = request.count.to_be_bytes();
                vec![request.function, a, b, c, d]
            }
            Err(code) => vec![request.function | 0x80, code],
        };
        let bytes = request.frame(LINES[line], &pdu);
        let bytes = match fate {
            Fate::Mute | Fate::LateBeyond => return None,
            Fate::Garbled => garble(LINES[line], bytes, random),
            _ => bytes,
        };
        Some(Pending {
            due: Instant::now() + delay,
            device,
            bytes,
            forgettable: false,
            values: Vec::new(),
            good: false,
            garbled: false,
            disturbed: false,
        })
    }

    /// The next value of a point, entered in the book; its place there.
    fn hand_out(&self, device: usize, point: usize) -> (usize, u32) {
        let at = self.now();
        let mut book = self.book.lock().unwrap();
        let counter = book.counters.entry((device, point)).or_default();
        *counter += 1;
        let value = (device as u32 + 1) << 24 | (point as u32 + 1) << 16 | *counter;
        let noted = if self.planted == Planted::BookMissesAValue && *counter == 20 { 0 } else { value };
        book.served.push(Served { device, point, value: u64::from(noted), at, proper: false });
        (book.served.len() - 1, value)
    }
}

/// Write one register; its frame is as long as that of a read.
const WRITE: u8 = 6;

struct Request {
    transaction: u16,
    unit: u8,
    function: u8,
    address: u16,
    /// Of registers; of a write its value.
    count: u16,
}

impl Request {
    /// The next whole request of what was heard. The agent reads holding
    /// registers and writes single ones.
    fn take(framing: Framing, heard: &mut Vec<u8>) -> Option<Request> {
        let (header, whole) = match framing {
            Framing::Rtu => (0, 8),
            Framing::Mbap => (6, 12),
        };
        if heard.len() < whole {
            return None;
        }
        let frame: Vec<u8> = heard.drain(..whole).collect();
        if framing == Framing::Rtu {
            assert_eq!(crc(&frame[..6]).to_le_bytes(), frame[6..8], "a request of the agent is damaged");
        }
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        Some(Request {
            transaction: if header > 0 { word(0) } else { 0 },
            unit: frame[header],
            function: frame[header + 1],
            address: word(header + 2),
            count: word(header + 4),
        })
    }

    fn frame(&self, framing: Framing, pdu: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        if framing == Framing::Mbap {
            bytes.extend(self.transaction.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend((pdu.len() as u16 + 1).to_be_bytes());
        }
        bytes.push(self.unit);
        bytes.extend(pdu);
        if framing == Framing::Rtu {
            bytes.extend(crc(&bytes).to_le_bytes());
        }
        bytes
    }
}

fn garble(framing: Framing, mut bytes: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    match (framing, random.u8(0..3)) {
        (Framing::Rtu, 0) => {
            let at = random.usize(0..bytes.len());
            bytes[at] ^= 1 << random.u8(0..8);
        }
        (Framing::Mbap, 0) => bytes[1] ^= 0x55,
        (_, 1) => bytes.truncate(random.usize(1..bytes.len())),
        (_, _) => bytes = (0..random.usize(1..40)).map(|_| random.u8(..)).collect(),
    }
    bytes
}

fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8)
            .fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 })
    })
}
