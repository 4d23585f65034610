//! Modbus slaves that misbehave on command: raw bytes over TCP and on a tty.
//!
//! Point k of a unit is the uint32 at 2k and 2k + 1: the unit in the top byte, k + 1 in the
//! next, in the low word a counter that grows with each read, so each value handed out is
//! unique and shows where it came from. A value that left in an answer which a master must
//! not believe (late, damaged) is `poison`: it may never arrive anywhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::account::Sample;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    Answer,
    /// The right answer, after this long.
    Late(Duration),
    Mute,
    /// RTU: a wrong CRC. TCP: another transaction's id.
    Garbled,
    /// Half of the answer, and nothing after it.
    Short,
    Exception(u8),
}

/// What the device remembers; shared by everybody who talks to it.
#[derive(Default)]
pub struct Slave {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    served: Vec<Sample>,
    poison: BTreeSet<Sample>,
    counters: BTreeMap<(u8, u16), u16>,
    requests: BTreeMap<u8, usize>,
    script: BTreeMap<u8, VecDeque<Fault>>,
    mute: BTreeSet<u8>,
}

impl Slave {
    /// A Modbus TCP server in its own thread; answers with its port.
    pub fn tcp() -> (Arc<Slave>, u16) {
        let slave = Arc::new(Slave::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = slave.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve_tcp(stream));
            }
        });
        (slave, port)
    }

    /// An RTU slave on a tty that is already raw.
    pub fn rtu(tty: &Path) -> Arc<Slave> {
        let slave = Arc::new(Slave::default());
        let file = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(tty).unwrap();
        let shared = slave.clone();
        std::thread::spawn(move || shared.serve_rtu(file));
        slave
    }

    /// The next requests to a unit meet these faults, one after the other.
    pub fn script(&self, unit: u8, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().script.entry(unit).or_default().extend(faults);
    }

    pub fn script_is_done(&self, unit: u8) -> bool {
        self.state.lock().unwrap().script.get(&unit).is_none_or(VecDeque::is_empty)
    }

    pub fn set_mute(&self, unit: u8, mute: bool) {
        let mut state = self.state.lock().unwrap();
        if mute {
            state.mute.insert(unit)
        } else {
            state.mute.remove(&unit)
        };
    }

    pub fn served(&self) -> Vec<Sample> {
        self.state.lock().unwrap().served.clone()
    }

    pub fn poison(&self) -> BTreeSet<Sample> {
        self.state.lock().unwrap().poison.clone()
    }

    pub fn requests(&self, unit: u8) -> usize {
        self.state.lock().unwrap().requests.get(&unit).copied().unwrap_or(0)
    }

    fn serve_tcp(&self, mut stream: TcpStream) {
        let mut header = [0; 7];
        while stream.read_exact(&mut header).is_ok() {
            let mut pdu = vec![0; usize::from(u16::from_be_bytes([header[4], header[5]])) - 1];
            if stream.read_exact(&mut pdu).is_err() {
                return;
            }
            let (fault, answer) = self.take(header[6], &pdu);
            if fault == Fault::Garbled {
                header[0] ^= 0x55;
            }
            let length = u16::try_from(answer.len() + 1).unwrap().to_be_bytes();
            let frame = [&header[..4], &length, &header[6..], &answer].concat();
            if send(&mut stream, fault, &frame).is_err() {
                return;
            }
        }
    }

    fn serve_rtu(&self, mut tty: File) {
        let mut seen = Vec::new();
        loop {
            let mut byte = [0; 256];
            match tty.read(&mut byte) {
                Ok(n) => seen.extend_from_slice(&byte[..n]),
                // The other end is closed just now.
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            }
            // Every request that reads is eight bytes; anything else is slid over.
            while seen.len() >= 8 {
                let (body, check) = seen[..8].split_at(6);
                if crc(body) != [check[0], check[1]] {
                    seen.remove(0);
                    continue;
                }
                let request: Vec<u8> = seen.drain(..8).collect();
                let (fault, answer) = self.take(request[0], &request[1..6]);
                let mut frame = [&request[..1], &answer].concat();
                let mut check = crc(&frame);
                if fault == Fault::Garbled {
                    check[0] ^= 0xFF;
                }
                frame.extend(check);
                if send(&mut tty, fault, &frame).is_err() {
                    return;
                }
            }
        }
    }

    /// Counts the request, draws its fault, and makes the answer's PDU.
    fn take(&self, unit: u8, pdu: &[u8]) -> (Fault, Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        *state.requests.entry(unit).or_default() += 1;
        let scripted = state.script.get_mut(&unit).and_then(VecDeque::pop_front).unwrap_or(Fault::Answer);
        let fault = if state.mute.contains(&unit) { Fault::Mute } else { scripted };
        let exception = match fault {
            Fault::Exception(code) => Some(code),
            _ if pdu.len() != 5 || !matches!(pdu[0], 3 | 4) => Some(1),
            _ => None,
        };
        if let Some(code) = exception {
            return (fault, vec![pdu[0] | 0x80, code]);
        }
        let (start, count) = (u16::from_be_bytes([pdu[1], pdu[2]]), u16::from_be_bytes([pdu[3], pdu[4]]));
        let mut answer = vec![pdu[0], u8::try_from(2 * count).unwrap()];
        for address in start..start + count {
            let point = address / 2;
            let high = u16::from(unit) << 8 | (point + 1);
            if address % 2 == 0 {
                answer.extend(high.to_be_bytes());
                continue;
            }
            let counter = state.counters.entry((unit, point)).or_default();
            *counter += 1;
            let counter = *counter;
            answer.extend(counter.to_be_bytes());
            if address == start {
                continue; // only the low half: no whole value was handed out
            }
            let value = u64::from(high) << 16 | u64::from(counter);
            let sample = Sample { device: format!("dev{unit:02}"), point: format!("p{point}"), value };
            match fault {
                Fault::Answer => state.served.push(sample),
                _ => drop(state.poison.insert(sample)),
            }
        }
        (fault, answer)
    }
}

/// The fault's own time is part of the device's behaviour, as on a real one.
fn send(to: &mut impl Write, fault: Fault, frame: &[u8]) -> std::io::Result<()> {
    match fault {
        Fault::Mute => return Ok(()),
        Fault::Late(delay) => std::thread::sleep(delay),
        Fault::Short => return to.write_all(&frame[..frame.len() / 2]),
        Fault::Answer | Fault::Garbled | Fault::Exception(_) => {}
    }
    to.write_all(frame)
}

/// CRC-16/MODBUS, low byte first as on the wire.
fn crc(bytes: &[u8]) -> [u8; 2] {
    let mut crc = 0xFFFF_u16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 };
        }
    }
    crc.to_le_bytes()
}
