//! Simulated devices: a Modbus TCP meter, an RTU sensor and a scale that speaks lines.
//!
//! Constraints: each numbers its samples, one number per answer or line, so that the far end
//! can tell from the payloads alone whether one is missing. The values move like those of a
//! real plant. They answer only what the demonstration asks: the simulation of faults
//! is the business of the tests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, interval};

use crate::serial::port::Port;

/// How often the scale speaks.
pub const SCALE_PERIOD: Duration = Duration::from_millis(200);

/// The unit id of the sensor on its line.
pub const SENSOR_UNIT: u8 = 3;

/// Numbers the samples of one device, and is the base of its values.
#[derive(Clone)]
pub struct Samples {
    last: Arc<AtomicU32>,
    started: Instant,
}

impl Samples {
    pub fn new() -> Samples {
        Samples { last: Arc::default(), started: Instant::now() }
    }

    fn next(&self) -> u32 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A value that swings around `middle`.
    fn wave(&self, middle: f64, swing: f64, seconds: f64) -> f64 {
        let phase = self.started.elapsed().as_secs_f64() / seconds * std::f64::consts::TAU;
        middle + swing * phase.sin()
    }
}

/// Input registers 0–7: voltage, current and power as float32, then the sample's number as
/// uint32.
pub async fn meter(listener: TcpListener, samples: Samples) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // One gateway, one connection: the next one waits until this one is gone.
        let _ = meter_connection(stream, &samples).await;
    }
}

/// Holding registers 0–3: temperature and humidity in tenths, then the sample's number.
pub async fn sensor(mut line: Port, samples: Samples) -> io::Result<()> {
    loop {
        let mut request = [0u8; 8];
        line.read_exact(&mut request).await?;
        let [unit, function, ..] = request;
        let crc = crc16(&request[..6]);
        if unit != SENSOR_UNIT || function != 3 || request[6..] != crc {
            continue;
        }
        let sample = samples.next();
        let words = [
            (samples.wave(21.0, 2.5, 60.0) * 10.0) as u16,
            (samples.wave(48.0, 6.0, 45.0) * 10.0) as u16,
            (sample >> 16) as u16,
            sample as u16,
        ];
        let mut answer = vec![unit, function];
        answer.extend(registers(&words, &request[2..6]));
        let crc = crc16(&answer);
        answer.extend(crc);
        line.write_all(&answer).await?;
    }
}

/// `ST,GS,+  12.34 kg,17`: stable, gross, weight, and the sample's number.
pub async fn scale(mut line: Port, samples: Samples) -> io::Result<()> {
    let mut tick = interval(SCALE_PERIOD);
    loop {
        tick.tick().await;
        let weight = samples.wave(12.3, 4.0, 20.0);
        let text = format!("ST,GS,+{weight:>7.2} kg,{}\r\n", samples.next());
        line.write_all(text.as_bytes()).await?;
    }
}

async fn meter_connection(mut stream: TcpStream, samples: &Samples) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        // Transaction, protocol, length, unit, function, first address, count.
        let mut request = [0u8; 12];
        stream.read_exact(&mut request).await?;
        let (voltage, current) = (samples.wave(231.0, 3.0, 30.0), samples.wave(4.2, 1.5, 12.0));
        let mut words = Vec::with_capacity(8);
        for value in [voltage as f32, current as f32, (voltage * current) as f32] {
            words.extend(halves(value.to_bits()));
        }
        words.extend(halves(samples.next()));
        let body = match request[7] {
            4 => [&[4][..], &registers(&words, &request[8..12])].concat(),
            // Illegal function.
            function => vec![function | 0x80, 1],
        };
        let length = u16::try_from(body.len() + 1).unwrap_or(u16::MAX).to_be_bytes();
        let answer = [&request[..4], &length, &request[6..7], &body].concat();
        stream.write_all(&answer).await?;
    }
}

fn halves(word: u32) -> [u16; 2] {
    [(word >> 16) as u16, word as u16]
}

/// Byte count and registers of an answer; what is asked beyond the last one reads as zero.
fn registers(words: &[u16], asked: &[u8]) -> Vec<u8> {
    let first = usize::from(u16::from_be_bytes([asked[0], asked[1]]));
    let count = usize::from(u16::from_be_bytes([asked[2], asked[3]])).min(125);
    let mut out = vec![(count * 2) as u8];
    for at in first..first + count {
        out.extend(words.get(at).copied().unwrap_or(0).to_be_bytes());
    }
    out
}

/// The CRC of Modbus RTU as it stands on the wire.
fn crc16(bytes: &[u8]) -> [u8; 2] {
    let mut crc = 0xffff_u16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 };
        }
    }
    crc.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_that_of_the_specification() {
        // Read two registers from 0x6b of unit 17: the example of the Modbus guide.
        assert_eq!(crc16(&[0x11, 0x03, 0x00, 0x6b, 0x00, 0x03]), [0x76, 0x87]);
    }

    #[test]
    fn an_answer_holds_what_was_asked() {
        assert_eq!(registers(&[1, 2, 3], &[0, 1, 0, 2]), [4, 0, 2, 0, 3]);
        assert_eq!(registers(&[1], &[0, 0, 0, 2]), [4, 0, 1, 0, 0]);
    }
}
