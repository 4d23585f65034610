//! The TLS client configurations.
//!
//! Only the ECDHE AES-GCM suites of TLS 1.2 and the suites of TLS 1.3 are offered. The
//! verification of the broker is never off. Built anew whenever a certificate changes: a
//! resumed session would not present the new one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use zeroize::Zeroizing;

use super::key::{self, Key};
use crate::config::Tls;

/// Tell the operator: nothing here mends itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} {path}: {why}")]
    File { what: &'static str, path: PathBuf, why: String },
    #[error("the system has no CA certificates; install the package ca-certificates or set uplink.ca")]
    NoSystemRoots,
    #[error("uplink.server_name {0:?} is neither a host name nor an address")]
    ServerName(String),
    #[error("certificate and key do not fit together: {0}")]
    Pair(String),
    #[error("TLS: {0}")]
    Tls(String),
}

/// The gateway's own configuration. Whoever has many identities makes one [`Trust`] and takes
/// each configuration from it.
pub fn client_config(tls: &Tls) -> Result<Arc<ClientConfig>, Error> {
    let certified = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some(certified(certificate, key)?),
        _ => None,
    };
    Trust::new(tls)?.config(certified, &tls.alpn)
}

/// Whom an identity trusts and how it talks: made once, shared by every configuration, so that
/// a connection more costs no roots more.
#[derive(Clone, Debug)]
pub struct Trust {
    provider: Arc<CryptoProvider>,
    verifier: Arc<Named>,
}

impl Trust {
    /// Reads the CA file, or the system's roots.
    pub fn new(tls: &Tls) -> Result<Trust, Error> {
        let provider = Arc::new(provider());
        let roots = Arc::new(roots(tls.ca.as_deref())?);
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|e| Error::Tls(e.to_string()))?;
        let name = ServerName::try_from(tls.server_name.clone())
            .map_err(|_| Error::ServerName(tls.server_name.clone()))?;
        Ok(Trust { provider, verifier: Arc::new(Named { name, webpki }) })
    }

    /// Sessions are never resumed: a resumed one would not present a new certificate, the
    /// clouds offer no tickets, and the cache would be the largest part of an idle connection.
    pub fn config(
        &self,
        certified: Option<CertifiedKey>,
        alpn: &[String],
    ) -> Result<Arc<ClientConfig>, Error> {
        self.config_with(Arc::<Named>::clone(&self.verifier), certified, alpn)
    }

    /// The same, which leaves in `shown` what the broker showed, also when it is refused.
    pub fn watched(
        &self,
        certified: Option<CertifiedKey>,
        alpn: &[String],
        shown: &Shown,
    ) -> Result<Arc<ClientConfig>, Error> {
        let watching = Watching { inner: Arc::clone(&self.verifier), shown: shown.clone() };
        self.config_with(Arc::new(watching), certified, alpn)
    }

    fn config_with(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
        certified: Option<CertifiedKey>,
        alpn: &[String],
    ) -> Result<Arc<ClientConfig>, Error> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| Error::Tls(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match certified {
            Some(certified) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// Chain and key from two places, after asking whether they belong together. A place is a
/// file or `credential:NAME`, of the key also a `pkcs11:` URI.
pub fn certified(certificate: &Path, key: &Path) -> Result<CertifiedKey, Error> {
    let chain = certificates(&credential(certificate, "certificate")?, "certificate")?;
    if let Some(uri) = key.to_str().filter(|key| key.starts_with("pkcs11:")) {
        return on_token(uri, chain);
    }
    let place = credential(key, "key")?;
    let text = std::fs::read_to_string(&place).map(Zeroizing::new).map_err(|e| file("key", &place, e))?;
    let key = Key::from_pem(&text).map_err(|e| file("key", &place, e))?;
    key.certified(chain).map_err(|e| match e {
        key::Error::OtherCertificate(why) => Error::Pair(why),
        other => file("key", &place, other),
    })
}

#[cfg(feature = "pkcs11")]
fn on_token(uri: &str, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, Error> {
    let key = super::pkcs11::TokenKey::open(uri).map_err(|e| Error::Tls(e.to_string()))?;
    let certified = CertifiedKey::new(chain, Arc::new(key));
    certified.keys_match().map_err(|e| Error::Pair(e.to_string()))?;
    Ok(certified)
}

#[cfg(not(feature = "pkcs11"))]
fn on_token(_uri: &str, _chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, Error> {
    Err(Error::Tls("this program was built without the feature `pkcs11`".into()))
}

fn credential(path: &Path, what: &'static str) -> Result<PathBuf, Error> {
    crate::config::credential::place(path).map_err(|why| file(what, path, why))
}

/// Ring's algorithms less the TLS 1.2 suites that are not ECDHE with AES-GCM.
pub fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| {
        suite.version() == &rustls::version::TLS13
            || matches!(
                suite.suite(),
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                    | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
            )
    });
    provider
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let path = &credential(path, "CA")?;
            for certificate in certificates(path, "CA")? {
                roots.add(certificate).map_err(|e| file("CA", path, e))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(Error::NoSystemRoots);
            }
        }
    }
    Ok(roots)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|e| file(what, path, e))?
        .collect::<Result<_, _>>()
        .map_err(|e| file(what, path, e))?;
    if found.is_empty() {
        return Err(file(what, path, "holds no PEM certificate"));
    }
    Ok(found)
}

fn file(what: &'static str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::File { what, path: path.to_owned(), why: why.to_string() }
}

/// Checks the certificate against the configured server name. The MQTT client takes the name
/// of the host it dials, which is not the same when a broker is reached by its address.
#[derive(Debug)]
struct Named {
    name: ServerName<'static>,
    webpki: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.webpki.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// The chain that a broker showed last, leaf first.
#[derive(Clone, Debug, Default)]
pub struct Shown(Arc<Mutex<Vec<CertificateDer<'static>>>>);

impl Shown {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Notes what is shown and lets [`Named`] judge it.
#[derive(Debug)]
struct Watching {
    inner: Arc<Named>,
    shown: Shown,
}

impl ServerCertVerifier for Watching {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).map(|c| c.clone().into_owned());
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = chain.collect();
        self.inner.verify_server_cert(end_entity, intermediates, dialled, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
