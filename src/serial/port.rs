//! The serial port itself. The only importer of tokio-serial, and the only room with
//! `unsafe`.
//!
//! Constraints:
//! - Exclusive and raw; closing it must not drop DTR, which resets some devices.
//! - An unplugged adapter shows as reads of zero bytes, for ever and at once: that is the
//!   end of the port here, not silence.
//! - A flush would block the whole thread in `tcdrain` until the last byte is on the wire:
//!   it does nothing here, and whoever waits for an answer adds the transmit time instead.
//! - The kernel switches RS-485 transceivers where its driver can; an adapter that answers
//!   "not my request" does it by itself.

// `TIOCSRS485` and `HUPCL` have no safe wrapper in the crates at hand.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_serial::{ClearBuffer, DataBits, FlowControl, SerialPort as _, SerialStream, StopBits};

use crate::model::device::{Parity, Rs485, SerialPort};

#[derive(Debug)]
pub struct Port {
    stream: SerialStream,
}

impl Port {
    /// Opens and configures the port. Quick, though not asynchronous: it waits for nobody.
    pub fn open(settings: &SerialPort) -> io::Result<Port> {
        let path = settings.path.to_string_lossy();
        let builder = tokio_serial::new(path, settings.baud)
            .data_bits(match settings.data_bits {
                5 => DataBits::Five,
                6 => DataBits::Six,
                7 => DataBits::Seven,
                _ => DataBits::Eight,
            })
            .parity(match settings.parity {
                Parity::None => tokio_serial::Parity::None,
                Parity::Even => tokio_serial::Parity::Even,
                Parity::Odd => tokio_serial::Parity::Odd,
            })
            .stop_bits(if settings.stop_bits == 2 { StopBits::Two } else { StopBits::One })
            .flow_control(FlowControl::None);
        let stream = SerialStream::open(&builder)?;
        keep_dtr(stream.as_raw_fd());
        if let Some(rs485) = &settings.rs485 {
            switch_rs485(stream.as_raw_fd(), rs485, &settings.path.to_string_lossy())?;
        }
        Ok(Port { stream })
    }

    /// Two ends of a pseudo terminal: for tests and for simulated devices.
    pub fn pair() -> io::Result<(Port, Port)> {
        let (a, b) = SerialStream::pair()?;
        Ok((Port { stream: a }, Port { stream: b }))
    }

    /// Where another process, or another part of this one, opens this end of a [`Port::pair`];
    /// `None` for the end that has no name.
    pub fn path(&self) -> Option<PathBuf> {
        self.stream.name().map(PathBuf::from)
    }

    /// Takes what the kernel holds, without waiting; `WouldBlock` when it holds nothing.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.try_read(buffer) {
            Ok(0) if !buffer.is_empty() => Err(gone()),
            other => other,
        }
    }

    /// Throws away what was received and not read.
    pub fn clear_input(&self) -> io::Result<()> {
        Ok(self.stream.clear(ClearBuffer::Input)?)
    }
}

impl AsyncRead for Port {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && buffer.capacity() > before {
            return Poll::Ready(Err(gone()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Port {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "port unplugged")
}

/// Best effort: a pseudo terminal or an odd driver may refuse.
fn keep_dtr(fd: RawFd) {
    let mut settings = std::mem::MaybeUninit::<libc::termios>::uninit();
    // SAFETY: `fd` is open for the whole call, and `settings` is only read after the kernel
    // filled it.
    unsafe {
        if libc::tcgetattr(fd, settings.as_mut_ptr()) == 0 {
            let mut settings = settings.assume_init();
            settings.c_cflag &= !libc::HUPCL;
            libc::tcsetattr(fd, libc::TCSANOW, &settings);
        }
    }
}

/// The kernel's `struct serial_rs485`, which `libc` does not have.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SerialRs485 {
    flags: u32,
    delay_rts_before_send: u32,
    delay_rts_after_send: u32,
    padding: [u32; 5],
}

const SER_RS485_ENABLED: u32 = 1;
const SER_RS485_RTS_ON_SEND: u32 = 1 << 1;
const SER_RS485_RTS_AFTER_SEND: u32 = 1 << 2;
const SER_RS485_RX_DURING_TX: u32 = 1 << 4;

fn kernel_rs485(settings: &Rs485) -> SerialRs485 {
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    SerialRs485 {
        flags: SER_RS485_ENABLED
            | flag(settings.rts_on_send, SER_RS485_RTS_ON_SEND)
            | flag(settings.rts_after_send, SER_RS485_RTS_AFTER_SEND)
            | flag(settings.rx_during_tx, SER_RS485_RX_DURING_TX),
        delay_rts_before_send: settings.delay_before_send_ms,
        delay_rts_after_send: settings.delay_after_send_ms,
        padding: [0; 5],
    }
}

fn switch_rs485(fd: RawFd, settings: &Rs485, path: &str) -> io::Result<()> {
    let asked = kernel_rs485(settings);
    // SAFETY: `fd` is open, and the kernel reads (and may correct) one `serial_rs485`, which
    // `asked` is in layout and size and outlives.
    let outcome = unsafe { libc::ioctl(fd, libc::TIOCSRS485, &raw const asked) };
    if outcome == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOTTY | libc::EINVAL | libc::EOPNOTSUPP) => {
            tracing::info!(port = %path, "the driver does not switch RS-485; the adapter has to do it itself");
            Ok(())
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_struct_is_the_kernels() {
        assert_eq!(std::mem::size_of::<SerialRs485>(), 32);
    }

    #[test]
    fn rs485_settings_become_flags() {
        let settings = Rs485 {
            rts_on_send: true,
            rts_after_send: false,
            rx_during_tx: true,
            delay_before_send_ms: 1,
            delay_after_send_ms: 2,
        };
        let kernel = kernel_rs485(&settings);
        assert_eq!(kernel.flags, 0b1_0011);
        assert_eq!((kernel.delay_rts_before_send, kernel.delay_rts_after_send), (1, 2));
    }
}
