//! MQTT inside a WebSocket.
//!
//! Constraints: the MQTT client opens its own socket, and its own WebSocket support comes with
//! crates whose licence we do not take. So the WebSocket is opened here, where a refusal can be
//! told in words, and the client is given a Unix socket to dial: one connection is accepted on
//! it, from this very process, and then its name is gone.
//!
//! The way: TCP → TLS → upgrade, with the signed URL if there is one → [`Bridge`] → the client
//! dials → bytes of the client ⇄ binary messages of the broker, each direction on its own.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use hyper::body::Bytes;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::keys::AbortOnDrop;
use super::reason::{self, Blame};
use super::{Failed, LinkError};

/// What one read of the client becomes one message of. Bytes.
const CHUNK: usize = 16 * 1024;
/// A message of the broker may hold many packets. Bytes.
const MESSAGE_MAX: usize = 1024 * 1024;

/// An open WebSocket that waits for its client. Dropping it ends both.
pub struct Bridge {
    /// What the client dials.
    pub place: PathBuf,
    _task: AbortOnDrop,
}

/// Opens the WebSocket. `url` may be signed: it is a secret.
pub async fn open(
    host: &str,
    port: u16,
    server_name: &str,
    tls: Option<Arc<ClientConfig>>,
    url: &str,
) -> Result<Bridge, Failed> {
    let io = |e: std::io::Error| Failed::new(reason::of_any(&e, true), &e);
    // Nothing was presented yet.
    let tcp = TcpStream::connect((host, port)).await;
    let tcp = tcp.map_err(|e| Failed::nobodys(reason::of_any(&e, true)))?;
    let _ = tcp.set_nodelay(true);
    match tls {
        None => upgrade(tcp, url).await,
        Some(config) => {
            let name = ServerName::try_from(server_name.to_owned())
                .map_err(|e| Failed::nobodys(LinkError::TlsRefused(e.to_string())))?;
            upgrade(TlsConnector::from(config).connect(name, tcp).await.map_err(io)?, url).await
        }
    }
}

async fn upgrade<S>(stream: S, url: &str) -> Result<Bridge, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request = url.into_client_request().map_err(|e| failed(&e))?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let limits =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
    let (broker, _) =
        client_async_with_config(request, stream, Some(limits)).await.map_err(|e| failed(&e))?;
    let local = |e: std::io::Error| {
        Failed::nobodys(LinkError::Unreachable(format!("the socket of the WebSocket: {e}")))
    };
    let folder = Folder::new().map_err(local)?;
    let place = folder.0.join("mqtt");
    let listener = UnixListener::bind(&place).map_err(local)?;
    let task = tokio::spawn(async move {
        if let Ok(client) = accept(listener, folder).await {
            pump(broker, client).await;
        }
    });
    Ok(Bridge { place, _task: AbortOnDrop(task) })
}

/// The one client: a connection of this process. The folder goes with the name of the socket.
async fn accept(listener: UnixListener, _folder: Folder) -> std::io::Result<UnixStream> {
    loop {
        let (client, _) = listener.accept().await?;
        let own = i32::try_from(std::process::id()).ok();
        if client.peer_cred()?.pid() == own {
            return Ok(client);
        }
    }
}

/// Each direction waits only for itself, so that a full one never holds up the other.
async fn pump<S: AsyncRead + AsyncWrite + Unpin>(broker: WebSocketStream<S>, client: UnixStream) {
    let (mut to_broker, mut of_broker) = broker.split();
    let (mut of_client, mut to_client) = client.into_split();
    let up = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            match of_client.read(&mut chunk).await {
                Ok(n) if n > 0 => {
                    let message = Message::Binary(Bytes::copy_from_slice(&chunk[..n]));
                    if to_broker.send(message).await.is_err() {
                        return;
                    }
                }
                _ => {
                    let _ = to_broker.close().await;
                    return;
                }
            }
        }
    };
    let down = async {
        while let Some(Ok(message)) = of_broker.next().await {
            match message {
                Message::Binary(bytes) if to_client.write_all(&bytes).await.is_err() => return,
                // Pings are answered below us; MQTT in text is no MQTT.
                Message::Close(_) | Message::Text(_) => return,
                _ => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = up => {}
        () = down => {}
    }
}

/// TLS 1.3 tells what it thinks of our certificate only here.
fn failed(e: &Error) -> Failed {
    let why = refusal(e);
    match e {
        Error::Protocol(ProtocolError::HandshakeIncomplete) => Failed { why, blame: Blame::Dropped },
        _ => Failed::new(why, e),
    }
}

/// Never with the URL in it.
fn refusal(e: &Error) -> LinkError {
    match e {
        Error::Http(answer) => {
            let status = answer.status();
            match status.as_u16() {
                401 | 403 => LinkError::AuthRefused(format!(
                    "WebSocket: {status}; are keys, region, policy and clock right?"
                )),
                _ => LinkError::Unreachable(format!("the broker refused the WebSocket: {status}")),
            }
        }
        Error::Url(_) | Error::HttpFormat(_) => LinkError::Unreachable("the URL is not one".into()),
        Error::Protocol(ProtocolError::HandshakeIncomplete) => {
            LinkError::Unreachable("the broker closed the connection before the WebSocket was open".into())
        }
        Error::Protocol(why) => {
            LinkError::Unreachable(format!("what answers there does not speak MQTT over WebSocket: {why}"))
        }
        other => reason::of_any(other, true),
    }
}

/// A folder that only we can look into, removed when it is not needed any more.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Folder> {
        let base = std::env::var_os("RUNTIME_DIRECTORY").map_or_else(std::env::temp_dir, PathBuf::from);
        let name = format!("fieldgate-ws-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let folder = base.join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// A candidate certificate is given up only when it was what the broker refused.
    #[test]
    fn a_refused_certificate_is_told_from_a_bad_line() {
        let check = |e: Error, expected: Blame| {
            let found = failed(&e);
            assert_eq!(found.blame, expected, "{:?}", found.why);
        };
        let alert = |alert| Error::Io(io::Error::other(rustls::Error::AlertReceived(alert)));
        let status = |status: u16| {
            let mut answer = tokio_tungstenite::tungstenite::http::Response::new(None);
            *answer.status_mut() = status.try_into().unwrap();
            Error::Http(Box::new(answer))
        };
        check(alert(rustls::AlertDescription::UnknownCA), Blame::Pair);
        check(alert(rustls::AlertDescription::HandshakeFailure), Blame::Nobody);
        check(status(403), Blame::Pair);
        check(status(503), Blame::Nobody);
        check(Error::Protocol(ProtocolError::HandshakeIncomplete), Blame::Dropped);
        check(Error::Io(io::ErrorKind::ConnectionReset.into()), Blame::Dropped);
        check(Error::Protocol(ProtocolError::WrongHttpMethod), Blame::Nobody);
    }
}
