//! Accepts clients over TLS.
//!
//! Constraints: the accept loop never waits for a client: handshake and CONNECT happen in
//! the connection's own task, under a permit and a deadline. Accept errors (no file
//! descriptors left) make a pause, not an end. Who a client is comes from its certificate,
//! once. The TLS configuration is the caller's; whether a certificate is asked for stands
//! in there.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::bus::Bus;
use super::connection::serve;
use super::core::{Host, Principal};
use super::packet::Reason;

/// How many clients and how patient.
#[derive(Clone, Debug)]
pub struct Doors {
    pub connections: usize,
    /// For the handshake, and again for CONNECT.
    pub patience: Duration,
}

impl Default for Doors {
    fn default() -> Self {
        Doors { connections: 500, patience: Duration::from_secs(5) }
    }
}

/// Serves until `stop`; then hangs up on everyone, and returns when the last one is gone.
/// Sessions stay in the broker, so another `run` may go on with them.
pub async fn run<H: Host>(
    bus: Bus<H>,
    tcp: TcpListener,
    tls: Arc<ServerConfig>,
    doors: Doors,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(doors.connections));
    let mut clients = JoinSet::new();
    loop {
        let due = bus.broker().tick(bus.now());
        let tick = async {
            match due {
                Some(at) => sleep_until(Instant::now() + at.saturating_sub(bus.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = clients.join_next() => {}
            () = tick => {}
            accepted = tcp.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without a permit the socket is dropped: the client sees it at once.
                    if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
                        let client = greet(bus.clone(), acceptor.clone(), stream, doors.patience);
                        clients.spawn(async move {
                            client.await;
                            drop(permit);
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "broker cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(tcp);
    bus.broker().kick(bus.now(), |_, _| true, Reason::SHUTTING_DOWN, false);
    let gone = async { while clients.join_next().await.is_some() {} };
    let _ = timeout(STOP_MAX, gone).await;
}

/// A server configuration for TLS 1.2 and 1.3; with `clients` every client must show a
/// certificate that one of these has signed. Tickets are off: a resumed session would not
/// show its certificate again.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<RootCertStore>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const STOP_MAX: Duration = Duration::from_secs(3);

async fn greet<H: Host>(bus: Bus<H>, acceptor: TlsAcceptor, stream: TcpStream, patience: Duration) {
    // Rounds are batched already; Nagle would only add to the latency.
    let _ = stream.set_nodelay(true);
    match timeout(patience, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let who = Principal { certificate: shown.map(|c| Arc::from(c.as_ref())) };
            serve(bus, who, stream, patience).await;
        }
        Ok(Err(error)) => tracing::info!(%error, "TLS refused"),
        Err(_) => tracing::info!("TLS handshake took too long"),
    }
}
