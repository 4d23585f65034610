//! Why a connection failed, in words an operator can act on.
//!
//! The client library buries the cause: a refused client certificate surfaces as a failed
//! read, a bad server certificate as an I/O error. The chain of sources is walked for what
//! rustls said.

use std::error::Error as StdError;

use rumqttc::v5;
use rustls::{AlertDescription, CertificateError};

use super::LinkError;

pub fn of_v4(e: &rumqttc::ConnectionError, connecting: bool) -> LinkError {
    use rumqttc::{ConnectReturnCode as Code, ConnectionError as E};
    match e {
        E::ConnectionRefused(Code::ServiceUnavailable) => LinkError::Unreachable("the broker is busy".into()),
        E::ConnectionRefused(code) => LinkError::AuthRefused(format!("{code:?}")),
        _ => of_any(e, connecting),
    }
}

pub fn of_v5(e: &v5::ConnectionError, connecting: bool) -> LinkError {
    use v5::mqttbytes::v5::{ConnectReturnCode as Code, DisconnectReasonCode as Reason};
    use v5::{ConnectionError as E, StateError as S};
    match e {
        E::ConnectionRefused(
            Code::ServiceUnavailable
            | Code::ServerUnavailable
            | Code::ServerBusy
            | Code::ConnectionRateExceeded
            | Code::QuotaExceeded,
        ) => LinkError::Unreachable("the broker is busy".into()),
        E::ConnectionRefused(code) => LinkError::AuthRefused(format!("{code:?}")),
        E::MqttState(S::ServerDisconnect { reason_code: Reason::SessionTakenOver, .. }) => {
            LinkError::TakenOver
        }
        E::MqttState(S::ServerDisconnect { reason_code: Reason::NotAuthorized, .. }) => {
            LinkError::AuthRefused("not authorized any more".into())
        }
        E::MqttState(S::ServerDisconnect { reason_code, reason_string }) => LinkError::HungUp(format!(
            "{reason_code:?}{}",
            reason_string.as_ref().map(|s| format!(", {s}")).unwrap_or_default()
        )),
        // This one does not name its source, and the source is where an alert is found.
        E::MqttState(S::Deserialization(inner)) => of_any(inner, connecting),
        _ => of_any(e, connecting),
    }
}

/// Whom a failed connection speaks against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The line, the broker, or its certificate.
    Nobody,
    /// What we presented: the broker said so.
    Pair,
    /// Maybe what we presented: the line was cut between TCP and CONNACK, without a word.
    Dropped,
}

/// Of an error before the CONNACK. A refusal of the login is told by its own code.
pub fn blame(e: &(dyn StdError + 'static)) -> Blame {
    use std::io::ErrorKind as Kind;
    // These do not name their sources.
    if let Some(v5::ConnectionError::MqttState(v5::StateError::Deserialization(inner))) = e.downcast_ref() {
        return blame(inner);
    }
    if let Some(tls) = find_rustls(e) {
        return match tls {
            rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError,
            ) => Blame::Pair,
            _ => Blame::Nobody,
        };
    }
    let mut next = Some(e);
    while let Some(e) = next {
        let closed = matches!(e.downcast_ref(), Some(v5::StateError::ConnectionAborted))
            || matches!(e.downcast_ref(), Some(rumqttc::StateError::ConnectionAborted));
        let cut = e.downcast_ref::<std::io::Error>().is_some_and(|io| {
            let cut = [Kind::UnexpectedEof, Kind::ConnectionReset, Kind::ConnectionAborted, Kind::BrokenPipe];
            cut.contains(&io.kind())
        });
        if closed || cut {
            return Blame::Dropped;
        }
        next = e.source();
    }
    Blame::Nobody
}

pub fn of_any(e: &(dyn StdError + 'static), connecting: bool) -> LinkError {
    if let Some(tls) = find_rustls(e) {
        return LinkError::TlsRefused(words(tls));
    }
    let text = deepest(e);
    if connecting { LinkError::Unreachable(text) } else { LinkError::HungUp(text) }
}

fn find_rustls<'a>(e: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(tls) = e.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An I/O error hides its inner error from `source` when it wraps a custom one.
        if let Some(inner) = e.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()) {
            let inner: &(dyn StdError + 'static) = inner;
            if let Some(tls) = find_rustls(inner) {
                return Some(tls);
            }
        }
        next = e.source();
    }
    None
}

fn words(e: &rustls::Error) -> String {
    match e {
        rustls::Error::InvalidCertificate(why) => format!("the broker's certificate {}", certificate(why)),
        rustls::Error::AlertReceived(alert) => {
            let why = match alert {
                AlertDescription::CertificateRequired => "asks for a client certificate and got none",
                AlertDescription::CertificateExpired => "says our certificate has expired",
                AlertDescription::CertificateRevoked => "says our certificate is revoked",
                AlertDescription::UnknownCA => "does not know the CA of our certificate",
                AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                    "does not accept our certificate"
                }
                AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                    "and we share no cipher suite (TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM)"
                }
                AlertDescription::ProtocolVersion => "speaks no TLS 1.2 or 1.3",
                AlertDescription::NoApplicationProtocol => "does not speak the ALPN protocol of uplink.alpn",
                other => return format!("the broker sent the alert {other:?}"),
            };
            format!("the broker {why}")
        }
        rustls::Error::PeerIncompatible(why) => {
            format!(
                "the broker offers nothing we accept (TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM): {why:?}"
            )
        }
        rustls::Error::InvalidMessage(_) => "what answers there does not speak TLS".into(),
        other => other.to_string(),
    }
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired (or this gateway's clock is wrong)".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet (is this gateway's clock set?)".into()
        }
        CertificateError::UnknownIssuer => {
            "comes from an unknown issuer: not from the CA in uplink.ca".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is not valid for the host name in uplink.server_name".into()
        }
        CertificateError::Revoked => "is revoked".into(),
        CertificateError::BadSignature => {
            "is signed by another CA, which has the same name as the one in uplink.ca".into()
        }
        other => format!("is not valid: {other}"),
    }
}

/// The innermost text: the outer layers only say "I/O" and "state".
fn deepest(e: &(dyn StdError + 'static)) -> String {
    let mut last = e;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}
