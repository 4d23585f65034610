//! The keys that sign the uplink's URL, from the configuration, the environment or the
//! credentials provider.
//!
//! Constraints: temporary keys end, so they are fetched anew before that, spread in time; and
//! while the provider cannot be reached, keys that still hold are good enough. The provider
//! knows us by the uplink's certificate. Nothing secret reaches an error or the log.
//!
//! The way of a key: `Keyring::keys` → kept and fresh: that → else one HTTPS GET
//! (`/role-aliases/A/credentials`) → `wire::role::parse` → kept until it is due.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::{LinkError, reason};
use crate::config::{CredentialsProvider, KeySource, Security, Uplink};
use crate::identity::tls;
use crate::model::time::{Clock, Timestamp};
use crate::wire::role::{self, AwsKeys};
use crate::wire::sigv4;

/// The largest answer that is read. Bytes.
const ANSWER_MAX: usize = 64 * 1024;
/// For name, TCP, TLS and answer together.
const PATIENCE: Duration = Duration::from_secs(20);

/// Holds the keys between two connections.
pub struct Keyring {
    source: KeySource,
    kept: Option<Kept>,
}

struct Kept {
    keys: AwsKeys,
    due: Timestamp,
}

impl Keyring {
    pub fn new(source: KeySource) -> Keyring {
        Keyring { source, kept: None }
    }

    pub async fn keys(&mut self, now: Timestamp) -> Result<AwsKeys, LinkError> {
        let provider = match &self.source {
            KeySource::Static { access_key_id, secret_access_key } => {
                return Ok(AwsKeys {
                    access_key_id: access_key_id.clone(),
                    secret_access_key: secret_access_key.clone(),
                    session_token: None,
                    expires: None,
                });
            }
            KeySource::Environment => return environment(|name| std::env::var(name).ok()),
            KeySource::Provider(provider) => provider,
        };
        if let Some(kept) = self.kept.as_ref().filter(|k| now < k.due && k.keys.holds(now)) {
            return Ok(kept.keys.clone());
        }
        let fetched = match timeout(PATIENCE, fetch(provider)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(LinkError::Unreachable(words(provider, format!("no answer within {PATIENCE:?}")))),
        };
        match (fetched, &self.kept) {
            (Ok(keys), _) => {
                let due = keys.expires.map_or(now, |end| role::refresh_at(now, end, fastrand::u32(..)));
                self.kept = Some(Kept { keys: keys.clone(), due });
                Ok(keys)
            }
            (Err(e), Some(kept)) if kept.keys.holds(now) => {
                tracing::warn!(error = %e, "temporary keys could not be renewed, the old ones still hold");
                Ok(kept.keys.clone())
            }
            (Err(e), _) => Err(e),
        }
    }
}

/// The URL of the WebSocket, signed if the configuration says so: then it is a secret.
pub async fn url(c: &Uplink, keys: Option<&mut Keyring>) -> Result<Zeroizing<String>, LinkError> {
    let sigv4 = c.websocket.as_ref().and_then(|w| w.sigv4.as_ref());
    let (Some(keyring), Some(settings)) = (keys, sigv4) else {
        let is_tls = matches!(c.security, Security::Tls(_));
        return Ok(sigv4::unsigned(is_tls, &c.host, c.port));
    };
    let unset = |e: sigv4::SignError| LinkError::Unreachable(e.to_string());
    let now = Clock::System.now();
    // Asked before the keys are fetched: a clock that is not set judges no certificate.
    sigv4::is_signable(now).map_err(unset)?;
    let keys = keyring.keys(now).await?;
    let target = sigv4::Target { host: &c.host, port: c.port, region: &settings.region };
    sigv4::presigned(target, keys.as_signing(), now).map_err(unset)
}

fn environment(variable: impl Fn(&str) -> Option<String>) -> Result<AwsKeys, LinkError> {
    let wanted = |name: &str| {
        let missing = || LinkError::AuthRefused(format!("the environment variable {name} is not set"));
        variable(name).filter(|value| !value.is_empty()).ok_or_else(missing)
    };
    Ok(AwsKeys {
        access_key_id: wanted("AWS_ACCESS_KEY_ID")?,
        secret_access_key: Zeroizing::new(wanted("AWS_SECRET_ACCESS_KEY")?),
        session_token: variable("AWS_SESSION_TOKEN").filter(|t| !t.is_empty()).map(Zeroizing::new),
        expires: None,
    })
}

async fn fetch(provider: &CredentialsProvider) -> Result<AwsKeys, LinkError> {
    let unreachable = |why: String| LinkError::Unreachable(words(provider, why));
    // Read anew: the certificate may have been renewed since.
    let config = tls::client_config(&provider.tls).map_err(|e| LinkError::TlsRefused(e.to_string()))?;
    let name = ServerName::try_from(provider.host.clone()).map_err(|e| unreachable(e.to_string()))?;
    let tcp = TcpStream::connect((provider.host.as_str(), provider.port))
        .await
        .map_err(|e| unreachable(e.to_string()))?;
    let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| of(provider, &e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| of(provider, &e))?;
    // Ends by itself when the answer is read, and with this future when it is dropped.
    let _driver = AbortOnDrop(tokio::spawn(async move {
        let _ = connection.await;
    }));
    let response = sender.send_request(request(provider)?).await.map_err(|e| of(provider, &e))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let body = Zeroizing::new(body.map_err(|e| unreachable(e.to_string()))?.to_bytes().to_vec());
    match status {
        StatusCode::OK => role::parse(&body).map_err(unreachable),
        StatusCode::TOO_MANY_REQUESTS => Err(unreachable("too many requests".into())),
        status if status.is_server_error() => Err(unreachable(format!("answers {status}"))),
        status => Err(LinkError::AuthRefused(words(
            provider,
            format!("answers {status}: is the certificate's policy right (iot:AssumeRoleWithCertificate)?"),
        ))),
    }
}

fn request(provider: &CredentialsProvider) -> Result<Request<Empty<Bytes>>, LinkError> {
    let host = match provider.port {
        443 => provider.host.clone(),
        port => format!("{}:{port}", provider.host),
    };
    let mut request = Request::get(role::path(&provider.role_alias)).header(HOST, host);
    if let Some(thing) = &provider.thing {
        request = request.header("x-amzn-iot-thingname", thing.as_str());
    }
    request.body(Empty::new()).map_err(|e| LinkError::AuthRefused(e.to_string()))
}

/// A refused certificate surfaces as a failed read, however deep.
fn of(provider: &CredentialsProvider, e: &(dyn std::error::Error + 'static)) -> LinkError {
    match reason::of_any(e, true) {
        LinkError::TlsRefused(why) => LinkError::TlsRefused(words(provider, why)),
        other => LinkError::Unreachable(words(provider, other.to_string())),
    }
}

fn words(provider: &CredentialsProvider, why: String) -> String {
    format!("credentials provider {}: {why}", provider.host)
}

pub struct AbortOnDrop(pub tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_all_it_takes_or_the_missing_variable_is_named() {
        let check = |variables: &[(&str, &str)], expected: Result<(&str, bool), &str>| {
            let of = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned());
            match (environment(of), expected) {
                (Ok(keys), Ok((id, token))) => {
                    assert_eq!((keys.access_key_id.as_str(), keys.session_token.is_some()), (id, token));
                }
                (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{e}"),
                (found, expected) => panic!("{found:?} is not {expected:?}"),
            }
        };
        let (id, secret) = (("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "S"));
        check(&[id, secret], Ok(("A", false)));
        check(&[id, secret, ("AWS_SESSION_TOKEN", "T")], Ok(("A", true)));
        check(&[id, secret, ("AWS_SESSION_TOKEN", "")], Ok(("A", false)));
        check(&[id], Err("AWS_SECRET_ACCESS_KEY"));
        check(&[secret, ("AWS_ACCESS_KEY_ID", "")], Err("AWS_ACCESS_KEY_ID"));
    }
}
