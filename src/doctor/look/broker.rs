//! The way to the broker. TLS is tried beside a running agent, because it asks nothing of the
//! broker but a handshake; a login only where no agent has the client id.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::time::{Instant, timeout};

use super::{certificates, endpoint};
use crate::config::{self, Config, Dialect};
use crate::doctor::judge::broker::{Login, Tcp, Tls};
use crate::identity::plan;
use crate::identity::subject::Facts;
use crate::identity::tls::{self, Shown, Trust};
use crate::uplink::link::{self, Identity, Link, LinkError, LinkEvent, MqttLink, Opening, Session};

/// For the handshake, and for each read of it.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// TLS 1.3 refuses our certificate after our side is done; so long is listened for it.
const ALERT_WAIT: Duration = Duration::from_millis(700);

/// For our DISCONNECT to leave.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// `None`: the host is an address.
pub fn resolve(host: &str, port: u16) -> (Option<Result<Vec<String>, String>>, Vec<SocketAddr>) {
    if let Ok(address) = host.parse() {
        return (None, vec![SocketAddr::new(address, port)]);
    }
    match (host, port).to_socket_addrs() {
        Ok(found) => {
            let found: Vec<SocketAddr> = found.collect();
            (Some(Ok(found.iter().map(|a| a.ip().to_string()).collect())), found)
        }
        Err(e) => (Some(Err(e.to_string())), Vec::new()),
    }
}

pub fn connect(addresses: &[SocketAddr], limit: Duration) -> (Tcp, Option<TcpStream>) {
    let begin = Instant::now();
    match endpoint::connect(addresses, limit) {
        Ok((address, stream)) => {
            let millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            (Tcp::Connected { address: address.to_string(), millis }, Some(stream))
        }
        Err((Some(address), e)) if e.kind() == ErrorKind::ConnectionRefused => {
            (Tcp::Refused(address.to_string()), None)
        }
        Err((_, e)) => (Tcp::NoAnswer(e.to_string()), None),
    }
}

/// A handshake with our own certificate and our own verifier.
pub fn handshake(host: &str, settings: &config::Tls, stream: TcpStream) -> Tls {
    let shown = Shown::default();
    let without_own = certificates::is_on_token(settings.key.as_deref());
    let outcome = shake(host, settings, stream, &shown, without_own);
    let facts: Vec<Facts> = shown.chain().iter().filter_map(|c| Facts::of(c).ok()).collect();
    let issuer = facts.first().map(|leaf| leaf.issuer.clone());
    Tls { outcome, issuer, chain: facts.iter().map(certificates::dates).collect(), without_own }
}

fn shake(
    host: &str,
    settings: &config::Tls,
    mut stream: TcpStream,
    shown: &Shown,
    without_own: bool,
) -> Result<String, String> {
    let pair = match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(key)) if !without_own => {
            Some(tls::certified(certificate, key).map_err(|e| e.to_string())?)
        }
        _ => None,
    };
    let config = Trust::new(settings).and_then(|trust| trust.watched(pair, &settings.alpn, shown));
    let config = config.map_err(|e| e.to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let mut session = rustls::ClientConnection::new(Arc::clone(&config), name).map_err(|e| e.to_string())?;
    let within =
        |limit| stream.set_read_timeout(Some(limit)).and(stream.set_write_timeout(Some(HANDSHAKE_LIMIT)));
    within(HANDSHAKE_LIMIT).map_err(|e| e.to_string())?;
    let deadline = Instant::now() + HANDSHAKE_LIMIT;
    while session.is_handshaking() {
        if Instant::now() > deadline {
            return Err(format!("the handshake was not done within {HANDSHAKE_LIMIT:?}"));
        }
        session.complete_io(&mut stream).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                format!("what answers there does not speak TLS: it is silent for {HANDSHAKE_LIMIT:?}")
            }
            _ => words(&e),
        })?;
    }
    stream.set_read_timeout(Some(ALERT_WAIT)).map_err(|e| e.to_string())?;
    let version = session.protocol_version().and_then(|v| v.as_str()).unwrap_or("TLS").replace("v1_", " 1.");
    match rustls::Stream::new(&mut session, &mut stream).read(&mut [0; 1]) {
        Err(e)
            if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
        {
            Ok(version.replace('_', " "))
        }
        // An end without a word is how some brokers refuse a certificate.
        Ok(0) => Err("the broker hung up after the handshake; it does not accept our certificate".into()),
        Ok(_) => Ok(version.replace('_', " ")),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof || e.kind() == ErrorKind::ConnectionReset => {
            Err("the broker hung up after the handshake; it does not accept our certificate".into())
        }
        Err(e) => Err(words(&e)),
    }
}

fn words(e: &std::io::Error) -> String {
    match link::reason::of_any(e, true) {
        LinkError::TlsRefused(why) | LinkError::Unreachable(why) => why,
        other => other.to_string(),
    }
}

/// CONNECT, CONNACK, DISCONNECT as the gateway, and nothing kept or thrown away by it: the
/// broker's session is opened as the agent opens it, and no arrival is acknowledged.
pub fn login(config: &Config, limit: Duration) -> Login {
    let uplink = Arc::new(config.uplink.clone());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return Login::Unreachable(e.to_string()),
    };
    let opening = Opening { will: None, receives: receives(config) };
    let identity = Identity::gateway(&uplink);
    let result = runtime.block_on(async {
        let mut link = MqttLink::new(uplink, identity);
        let opened = timeout(limit, link.connect(opening)).await;
        let mut session = opened
            .map_err(|_| LinkError::Unreachable(format!("no answer within {limit:?}")))?
            .map_err(|e: LinkError| e)?;
        session.disconnect();
        let _ = timeout(GOODBYE_LIMIT, gone(&mut session)).await;
        Ok::<(), LinkError>(())
    });
    match result {
        Ok(()) => Login::Accepted,
        Err(e @ (LinkError::TlsRefused(_) | LinkError::AuthRefused(_) | LinkError::NotYet(_))) => {
            Login::Refused(e.to_string())
        }
        Err(e) => Login::Unreachable(e.to_string()),
    }
}

async fn gone(session: &mut impl Session) {
    let mut events = Vec::new();
    while session.events(&mut events).await.is_ok() {
        if events.drain(..).any(|event| event == LinkEvent::Disconnected) {
            return;
        }
    }
}

/// Whether the gateway's own connection of the agent subscribes to anything.
fn receives(config: &Config) -> bool {
    let own: Vec<usize> = plan::subjects(config).into_iter().map(|(at, _)| at).collect();
    let takes_commands =
        config.devices.iter().enumerate().any(|(at, d)| !d.commands.is_empty() && !own.contains(&at));
    config.shadow.dialect != Dialect::None || takes_commands
}
