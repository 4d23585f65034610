//! The route between agent and broker, with faults on command.
//!
//! Opaque bytes can be cut and frozen; a relay that is told that it carries plain MQTT can
//! also swallow the broker's PUBACKs: to the agent a broker that accepts and never acks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Pass,
    /// Connections are reset, new ones too.
    Cut,
    /// Connections stay, and nothing moves: half open.
    Hole,
    /// Everything passes but PUBACKs.
    SwallowPubacks,
    /// The handshake of TLS 1.3 passes; what the client says after it ends the connection, as
    /// a cloud does that registers a certificate at first sight.
    CutAfterHello,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Carries {
    Opaque,
    /// MQTT without TLS: packets can be told apart.
    Mqtt,
}

pub struct Relay {
    pub port: u16,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    swallowed: AtomicUsize,
}

impl Relay {
    pub fn start(upstream: u16, carries: Carries) -> Relay {
        let (mode, modes) = watch::channel(Mode::Pass);
        let counts = Arc::new(Counts::default());
        let stop = CancellationToken::new();
        let (sender, port) = std::sync::mpsc::channel();
        let (stopped, noted) = (stop.clone(), counts.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                sender.send(listener.local_addr().unwrap().port()).unwrap();
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => {}
                    () = serve(listener, upstream, carries, modes, noted) => {}
                }
            });
        });
        Relay { port: port.recv().unwrap(), mode, counts, _stop: stop.drop_guard() }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Connections that were ever accepted, the refused ones too.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    pub fn swallowed(&self) -> usize {
        self.counts.swallowed.load(Ordering::SeqCst)
    }
}

async fn serve(
    listener: TcpListener,
    upstream: u16,
    carries: Carries,
    mode: watch::Receiver<Mode>,
    counts: Arc<Counts>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        counts.accepted.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(connection(stream, upstream, carries, mode.clone(), counts.clone()));
    }
}

async fn connection(
    mut client: TcpStream,
    upstream: u16,
    carries: Carries,
    mut mode: watch::Receiver<Mode>,
    counts: Arc<Counts>,
) {
    // A reset, not an orderly end: that is what a dead route looks like.
    let _ = client.set_zero_linger();
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true), server.set_zero_linger());
    let (client_in, client_out) = client.split();
    let (server_in, server_out) = server.split();
    let hello_only = *mode.borrow() == Mode::CutAfterHello;
    let (up_mode, up_counts) = (mode.clone(), counts.clone());
    let up = async {
        match hello_only {
            true => hello(client_in, server_out).await,
            false => pump(client_in, server_out, up_mode, Carries::Opaque, up_counts).await,
        }
    };
    let down = pump(server_in, client_out, mode.clone(), carries, counts);
    tokio::select! {
        biased;
        _ = mode.wait_for(|m| *m == Mode::Cut) => {}
        _ = up => {}
        _ = down => {}
    }
}

/// Carries what the client says first, and ends when it says more.
async fn hello(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Option<()> {
    let mut buffer = [0; 16 * 1024];
    let n = from.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
    to.write_all(&buffer[..n]).await.ok()?;
    from.read(&mut buffer).await.ok().map(drop)
}

/// Carries one direction until it ends.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut mode: watch::Receiver<Mode>,
    carries: Carries,
    counts: Arc<Counts>,
) -> Option<()> {
    let mut buffer = [0; 16 * 1024];
    let mut packets = Packets::default();
    loop {
        let n = from.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        // What was read as the hole opened waits in it.
        let now = *mode.wait_for(|m| *m != Mode::Hole).await.ok()?;
        if carries == Carries::Opaque {
            to.write_all(&buffer[..n]).await.ok()?;
            continue;
        }
        packets.push(&buffer[..n]);
        while let Some(packet) = packets.next() {
            if now == Mode::SwallowPubacks && packet[0] >> 4 == 4 {
                counts.swallowed.fetch_add(1, Ordering::SeqCst);
            } else {
                to.write_all(&packet).await.ok()?;
            }
        }
    }
}

/// Cuts a byte stream into MQTT packets.
#[derive(Default)]
struct Packets(Vec<u8>);

impl Packets {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut length = 0;
        for i in 0..4 {
            let byte = usize::from(*self.0.get(1 + i)?);
            length |= (byte & 0x7F) << (7 * i);
            if byte & 0x80 == 0 {
                let end = 2 + i + length;
                return (self.0.len() >= end).then(|| self.0.drain(..end).collect());
            }
        }
        panic!("not MQTT: a length of more than four bytes");
    }
}

#[test]
fn packets_are_cut_at_their_length_however_the_bytes_arrive() {
    let long = [&[0x30, 0xC8, 0x01][..], &[7; 200][..]].concat();
    let stream = [&[0x40, 2, 0, 1][..], &long, &[0xD0, 0]].concat();
    for size in [1, 3, 150, stream.len()] {
        let (mut packets, mut seen) = (Packets::default(), Vec::new());
        for piece in stream.chunks(size) {
            packets.push(piece);
            seen.extend(std::iter::from_fn(|| packets.next()));
        }
        assert_eq!(seen, [vec![0x40, 2, 0, 1], long.clone(), vec![0xD0, 0]], "pieces of {size}");
    }
}
