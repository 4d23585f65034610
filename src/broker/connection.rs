//! One client: its socket on one side, the core on the other.
//!
//! Constraints: a round decodes all that was read, drains what waits up to `ROOM` and
//! makes one write of it, so that load makes the rounds larger and not more numerous. The
//! output never grows beyond `ROOM` and one packet. A kick ends also a write that the
//! client does not take. The client's first packet has a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::bus::Bus;
use super::core::{Conn, Host, Next, Principal};
use super::decode::decode;
use super::encode;
use super::packet::{ClientPacket, Reason, Version};
use super::session::{More, Wake};

/// Bytes of output after which a round ends.
const ROOM: usize = 64 * 1024;

/// Bytes that one read can take at least; a buffer left to itself grows by 64.
const READ: usize = 8 * 1024;

/// How long a client may leave a write untaken.
const WRITE_MAX: Duration = Duration::from_secs(20);

/// How long the last words to a client may take.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// Serves one client until one side ends it. `patience` is how long CONNECT may take.
pub async fn serve<H, S>(bus: Bus<H>, who: Principal, stream: S, patience: Duration)
where
    H: Host,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let link = Arc::new(Link { data: Notify::new(), stop: Notify::new(), why: AtomicU8::new(0) });
    let mut client =
        Client { bus, stream, input: BytesMut::new(), output: BytesMut::new(), torn: false, link };
    let opened = timeout(patience, client.open(who)).await;
    let Ok(Some(mut conn)) = opened else {
        // What a refusal says is in the output; a client that said nothing gets nothing.
        client.farewell().await;
        return;
    };
    let end = client.rounds(&mut conn).await;
    client.bus.broker().closed(client.bus.now(), &conn);
    match end {
        End::Left => {}
        End::Lost(error) => tracing::debug!(client = conn.client_id(), %error, "connection lost"),
        End::Broken(reason) => {
            tracing::info!(client = conn.client_id(), %reason, "connection ended");
            encode::disconnect(&mut client.output, conn.version(), reason);
        }
    }
    client.farewell().await;
}

/// How the core reaches this connection.
struct Link {
    data: Notify,
    stop: Notify,
    why: AtomicU8,
}

impl Wake for Link {
    fn data(&self) {
        self.data.notify_one();
    }

    fn stop(&self, why: Reason) {
        self.why.store(why.0, Ordering::Release);
        self.stop.notify_one();
    }
}

enum End {
    /// The client said goodbye.
    Left,
    Lost(std::io::Error),
    Broken(Reason),
}

impl From<Reason> for End {
    fn from(reason: Reason) -> End {
        End::Broken(reason)
    }
}

struct Client<H, S> {
    bus: Bus<H>,
    stream: S,
    input: BytesMut,
    output: BytesMut,
    /// A write was broken off, so whatever came next would stand inside a packet.
    torn: bool,
    link: Arc<Link>,
}

impl<H: Host, S: AsyncRead + AsyncWrite + Unpin> Client<H, S> {
    /// CONNECT and its answer; `None` if it was refused or never came.
    async fn open(&mut self, who: Principal) -> Option<Conn> {
        loop {
            match decode(&mut self.input, None, self.bus.broker().limits().packet) {
                Ok(Some(ClientPacket::Connect(connect))) => {
                    let wake = Arc::clone(&self.link) as Arc<dyn Wake>;
                    let now = self.bus.now();
                    return self.bus.broker().connect(now, who, *connect, wake, &mut self.output);
                }
                Ok(Some(_)) => return None,
                // The only mistake that can be answered: the answer itself has the form of 3.1.1.
                Err(Reason::UNSUPPORTED_VERSION) => {
                    encode::refuse(&mut self.output, Version::V3_1_1, Reason::UNSUPPORTED_VERSION);
                    return None;
                }
                Err(_) => return None,
                Ok(None) => {}
            }
            self.input.reserve(READ);
            if !matches!(self.stream.read_buf(&mut self.input).await, Ok(n) if n > 0) {
                return None;
            }
        }
    }

    async fn rounds(&mut self, conn: &mut Conn) -> End {
        let mut heard = Instant::now();
        loop {
            let round = self.round(conn).await;
            let again = match round {
                Ok(again) => again,
                // A kick is the cause of whatever the core says about the connection after it.
                Err(End::Broken(reason)) => return End::Broken(self.link.stopped().unwrap_or(reason)),
                Err(end) => return end,
            };
            if again {
                continue;
            }
            self.input.reserve(READ);
            let silence = conn.silence_max();
            let deadline = async {
                match silence {
                    Some(most) => tokio::time::sleep_until(heard + most).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.link.stop.notified() => {
                    return End::Broken(self.link.stopped().unwrap_or(Reason::ADMINISTRATIVE));
                }
                read = self.stream.read_buf(&mut self.input) => match read {
                    Ok(0) => return End::Lost(std::io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => heard = Instant::now(),
                    Err(error) => return End::Lost(error),
                },
                () = self.link.data.notified() => {}
                () = deadline => return End::Broken(Reason::KEEP_ALIVE_TIMEOUT),
            }
        }
    }

    /// Decodes, drains and writes once; whether there is more to do without the socket.
    async fn round(&mut self, conn: &mut Conn) -> Result<bool, End> {
        let (mut left, mut undecoded) = (false, false);
        let version = Some(conn.version());
        let max = self.bus.broker().limits().packet;
        while !left {
            if self.output.len() >= ROOM {
                undecoded = true;
                break;
            }
            let Some(packet) = decode(&mut self.input, version, max)? else { break };
            let now = self.bus.now();
            left = self.bus.broker().handle(now, conn, packet, &mut self.output)? == Next::Close;
        }
        let mut more = More::No;
        if !left {
            more = self.bus.broker().drain(self.bus.now(), conn, ROOM, &mut self.output)?;
        }
        if !self.output.is_empty() {
            self.write().await?;
        }
        if left { Err(End::Left) } else { Ok(undecoded || more == More::Yes) }
    }

    async fn write(&mut self) -> Result<(), End> {
        self.torn = true;
        let written = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        tokio::select! {
            biased;
            () = self.link.stop.notified() => {
                Err(End::Broken(self.link.stopped().unwrap_or(Reason::ADMINISTRATIVE)))
            }
            done = timeout(WRITE_MAX, written) => match done {
                Ok(Ok(())) => {
                    self.torn = false;
                    self.output.clear();
                    Ok(())
                }
                Ok(Err(error)) => Err(End::Lost(error)),
                Err(_) => Err(End::Lost(std::io::ErrorKind::TimedOut.into())),
            },
        }
    }

    /// The last words and the end of the stream, as far as the client takes them.
    async fn farewell(&mut self) {
        let last = async {
            if !self.torn {
                self.stream.write_all(&self.output).await?;
            }
            self.stream.shutdown().await
        };
        let _ = timeout(GOODBYE_MAX, last).await;
    }
}

impl Link {
    fn stopped(&self) -> Option<Reason> {
        Some(self.why.load(Ordering::Acquire)).filter(|why| *why != 0).map(Reason)
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
