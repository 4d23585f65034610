//! The bytes of an open transport, whatever it is.
//!
//! Constraints:
//! - A Modbus call and the listening between calls share one line, never at one time: the
//!   wire is a handle that clones, and the lock in it is never contended.
//! - It knows when the line was last heard or used, because the silence between RTU frames
//!   runs from there and not from when somebody got round to look.
//! - It takes the adapter's echo of sent bytes out of what was received, comparing them.
//! - A serial port hands over an answer character by character; reading is held until the
//!   rest of it can be there.
//! - The end of the stream is an error, so that nobody reads nothing for ever.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::serial::pause::Pause;
use crate::serial::port::Port;

/// Bytes of the answer that refuses: unit, function, code and check.
const EXCEPTION: u64 = 5;

#[derive(Debug)]
pub enum Stream {
    Port(Port),
    Tcp(TcpStream),
    Memory(DuplexStream),
}

#[derive(Clone, Debug)]
pub struct Wire(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    stream: Stream,
    /// Sent bytes that have not come back yet; `None`: the adapter does not hear itself.
    echo: Option<VecDeque<u8>>,
    /// Time of one character on the line.
    character: Duration,
    quiet_since: Instant,
    /// Bytes received since [`Wire::mark`], and the first two of them.
    received: u64,
    head: [u8; 2],
    /// Bytes of the answer that is awaited; 0: none is.
    expected: u32,
    /// Nothing is read before, because the answer cannot be whole.
    held_until: Option<Instant>,
}

impl Wire {
    pub fn new(stream: Stream, character: Duration, local_echo: bool) -> Wire {
        Wire(Arc::new(Mutex::new(Inner {
            stream,
            echo: local_echo.then(VecDeque::new),
            character,
            quiet_since: Instant::now(),
            received: 0,
            head: [0; 2],
            expected: 0,
            held_until: None,
        })))
    }

    /// When the last byte was received, or will have been sent.
    pub fn quiet_since(&self) -> Instant {
        self.inner().quiet_since
    }

    /// A request begins: counts received bytes from here, and forgets echoes that never came.
    /// Its answer will be of `expected` bytes, or an exception.
    pub fn mark(&self, expected: u32) {
        let mut inner = self.inner();
        inner.received = 0;
        inner.expected = expected;
        inner.held_until = None;
        if let Some(echo) = &mut inner.echo {
            echo.clear();
        }
    }

    pub fn received(&self) -> u64 {
        self.inner().received
    }

    /// The request is over: reading is not held any more.
    pub fn release(&self) {
        let mut inner = self.inner();
        inner.expected = 0;
        inner.held_until = None;
    }

    /// Waits until what is held may be read on; for ever while nothing is. It is to be polled
    /// behind the reader in the same task, and again whenever the reader was polled.
    pub async fn held(&self, pause: &Pause) {
        let until = poll_fn(|_| self.inner().held_until.map_or(Poll::Pending, Poll::Ready)).await;
        pause.until(until).await;
    }

    /// As many bytes as an answer to `function` has were received since the mark, and they
    /// begin like it.
    pub fn heard_exactly(&self, unit_id: u8, function: u8, bytes: u32) -> bool {
        let inner = self.inner();
        inner.received == u64::from(bytes) && inner.head == [unit_id, function]
    }

    /// Takes what is here already, without waiting. Zero: nothing.
    pub fn take_waiting(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.inner();
        if let Stream::Port(port) = &mut inner.stream {
            // Asks the kernel, because the reactor may not have told us yet.
            let taken = port.try_read(buffer);
            return match taken {
                Ok(n) => Ok(inner.heard(&mut buffer[..n])),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
                Err(e) => Err(e),
            };
        }
        let mut read = ReadBuf::new(buffer);
        match inner.poll_read(&mut Context::from_waker(Waker::noop()), &mut read) {
            Poll::Ready(outcome) => outcome.map(|()| read.filled().len()),
            Poll::Pending => Ok(0),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can be left half done by a panic of its holder.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held_until.is_some_and(|until| Instant::now() < until) {
            // Whoever reads is woken by `held`.
            return Poll::Pending;
        }
        self.held_until = None;
        loop {
            let before = buffer.filled().len();
            ready!(match &mut self.stream {
                Stream::Port(s) => Pin::new(s).poll_read(cx, buffer),
                Stream::Tcp(s) => Pin::new(s).poll_read(cx, buffer),
                Stream::Memory(s) => Pin::new(s).poll_read(cx, buffer),
            })?;
            if buffer.filled().len() == before {
                let closed = io::Error::new(io::ErrorKind::ConnectionAborted, "closed by the other side");
                return Poll::Ready(Err(closed));
            }
            let kept = self.heard(&mut buffer.filled_mut()[before..]);
            buffer.set_filled(before + kept);
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Notes received bytes and moves those that are no echo to the front; how many they are.
    fn heard(&mut self, bytes: &mut [u8]) -> usize {
        // Who hears an answer has been sending no longer, whatever the baud rate says.
        self.quiet_since = Instant::now();
        let mut skip = 0;
        if let Some(echo) = &mut self.echo {
            while skip < bytes.len() && echo.front() == Some(&bytes[skip]) {
                echo.pop_front();
                skip += 1;
            }
            if skip < bytes.len() {
                // Something else spoke: a collision, or an adapter without echo after all.
                echo.clear();
            }
        }
        bytes.copy_within(skip.., 0);
        let kept = bytes.len() - skip;
        for byte in &bytes[..kept.min(2)] {
            if let Some(place) = usize::try_from(self.received).ok().and_then(|n| self.head.get_mut(n)) {
                *place = *byte;
            }
            self.received += 1;
        }
        self.received += kept.saturating_sub(2) as u64;
        self.hold();
        kept
    }

    /// The rest of an answer needs its time on the line: first that of an exception, then
    /// that of the answer. One character less, so that the end is seen when it is there.
    fn hold(&mut self) {
        if !matches!(self.stream, Stream::Port(_)) {
            return;
        }
        let rest = rest_to_hold(self.received, self.expected);
        if rest > 0 {
            self.held_until = Some(self.quiet_since + self.character * rest);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        let sent = ready!(match &mut inner.stream {
            Stream::Port(s) => Pin::new(s).poll_write(cx, bytes),
            Stream::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            Stream::Memory(s) => Pin::new(s).poll_write(cx, bytes),
        })?;
        let on_the_line = inner.character * u32::try_from(sent).unwrap_or(u32::MAX);
        inner.quiet_since = inner.quiet_since.max(Instant::now()) + on_the_line;
        if let Some(echo) = &mut inner.echo {
            echo.extend(&bytes[..sent]);
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing here buffers, and a tty's flush would block the thread.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Characters for which nothing has to be read, with `received` bytes of an answer of
/// `expected`: up to the last one of an exception, then up to the last one of the answer.
fn rest_to_hold(received: u64, expected: u32) -> u32 {
    if received == 0 || expected == 0 {
        return 0;
    }
    let whole = if received < EXCEPTION { EXCEPTION } else { u64::from(expected) };
    u32::try_from(whole.saturating_sub(received)).unwrap_or(0).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_looked_at_when_it_can_be_whole() {
        let check = |received, expected, held| {
            assert_eq!(rest_to_hold(received, expected), held, "{received} of {expected}");
        };
        // Nobody waits, or nothing came: the unit thinks for as long as it likes.
        check(7, 0, 0);
        check(0, 25, 0);
        // An exception is whole with five.
        check(1, 25, 3);
        check(3, 25, 1);
        check(4, 25, 0);
        // No exception, so the whole answer but its last character.
        check(5, 25, 19);
        check(23, 25, 1);
        check(24, 25, 0);
        check(25, 25, 0);
        check(30, 25, 0);
    }
}
