//! The bytes of one answer, kept beside whoever decodes them.
//!
//! Function 17 leaves the length of the server id to the vendor; tokio-modbus takes it for
//! one byte, refuses longer ones, and keeps nothing of what it refused. So its transport is
//! tapped for that one call, and the content is cut out of the frame here.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest frame of either framing.
const FRAME_MAX: usize = 260;

#[derive(Clone, Debug)]
pub struct Tap<T> {
    inner: T,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl<T> Tap<T> {
    pub fn new(inner: T) -> Tap<T> {
        Tap { inner, seen: Arc::default() }
    }

    /// What was received so far.
    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the unit said behind the byte count, if this is exactly one whole frame of the
/// function's answer. `tcp`: behind an MBAP header, else with a CRC.
pub fn content(frame: &[u8], tcp: bool, unit_id: u8, function: u8) -> Option<Vec<u8>> {
    let body = match tcp {
        true => {
            let (header, pdu) = frame.split_at_checked(7)?;
            let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
            (header[6] == unit_id && length == pdu.len() + 1).then_some(pdu)?
        }
        false => {
            let (body, check) = frame.split_last_chunk::<2>()?;
            let (unit, pdu) = body.split_first()?;
            (*unit == unit_id && crc(body).to_le_bytes() == *check).then_some(pdu)?
        }
    };
    let ([code, count], data) = body.split_first_chunk::<2>()?;
    (*code == function && usize::from(*count) == data.len()).then(|| data.to_vec())
}

/// CRC-16/MODBUS.
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    })
}

impl<T: AsyncRead + Unpin> AsyncRead for Tap<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // One byte more than the longest frame is enough to know that it is none.
        let room = (FRAME_MAX + 1).saturating_sub(seen.len());
        seen.extend(buffer.filled()[before..].iter().take(room));
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tap<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_frame_of_the_right_unit_has_content() {
        let rtu = |unit: u8, pdu: &[u8]| {
            let mut frame = vec![unit];
            frame.extend(pdu);
            let check = crc(&frame);
            frame.extend(check.to_le_bytes());
            frame
        };
        let good = rtu(9, &[17, 3, b'A', b'B', 0xFF]);
        assert_eq!(content(&good, false, 9, 17), Some(b"AB\xFF".to_vec()));
        let mut damaged = good.clone();
        damaged[3] ^= 1;
        for (frame, what) in [
            (rtu(8, &[17, 1, 0]), "another unit"),
            (rtu(9, &[3, 1, 0]), "another function"),
            (rtu(9, &[17, 2, 0]), "a wrong count"),
            (damaged, "damaged"),
            (good[..4].to_vec(), "cut off"),
            (Vec::new(), "nothing"),
        ] {
            assert_eq!(content(&frame, false, 9, 17), None, "{what}");
        }
        let tcp = |unit: u8, length: u8| vec![0, 1, 0, 0, 0, length, unit, 17, 2, b'A', 0xFF];
        assert_eq!(content(&tcp(9, 5), true, 9, 17), Some(b"A\xFF".to_vec()));
        assert_eq!(content(&tcp(9, 6), true, 9, 17), None);
        assert_eq!(content(&tcp(8, 5), true, 9, 17), None);
    }
}
