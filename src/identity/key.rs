//! A private key in memory: made here or read from a file, never shown.
//!
//! Constraints: the text is wiped when it is dropped, Debug says nothing of it, and the only
//! ways out are the file it lives in (`pem`), a signature, and the TLS library's own copy.
//! EC P-256 unless RSA is asked for: it is made in a millisecond and every cloud takes it.
//! The crypto library cannot make RSA keys, so that needs the cargo feature `rsa`; RSA keys
//! that were made elsewhere work without it.

use std::fmt;
use std::sync::Arc;

use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::{Zeroize, Zeroizing};

use super::subject::Subject;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    #[default]
    EcP256,
    Rsa2048,
}

/// The operator has to give another key, or ask for another kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no usable private key: {0}")]
    Unusable(String),
    #[error("key and certificate do not belong together: {0}")]
    OtherCertificate(String),
    #[error(
        "this program was built without the feature `rsa`: give a key by file, or use key_type = \"ec-p256\""
    )]
    NoRsa,
    #[error("the certificate request cannot be made: {0}")]
    Request(String),
}

/// A private key, PEM.
#[derive(Clone)]
pub struct Key(Zeroizing<String>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(<redacted>)")
    }
}

impl Key {
    /// RSA takes seconds on a small machine; call it where that hurts nobody.
    pub fn generate(kind: KeyType) -> Result<Key, Error> {
        match kind {
            KeyType::EcP256 => {
                let mut pair = rcgen::KeyPair::generate().map_err(|e| Error::Unusable(e.to_string()))?;
                let pem = Zeroizing::new(pair.serialize_pem());
                pair.zeroize();
                Ok(Key(pem))
            }
            KeyType::Rsa2048 => rsa_2048(),
        }
    }

    /// The first private key in `text`; whatever else stands there is left out.
    pub fn from_pem(text: &str) -> Result<Key, Error> {
        let (start, end) = span(text).ok_or_else(|| {
            Error::Unusable(
                "no unencrypted PEM block `PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY`".into(),
            )
        })?;
        let mut pem = Zeroizing::new(String::with_capacity(end - start + 1));
        pem.push_str(&text[start..end]);
        pem.push('\n');
        let key = Key(pem);
        key.signing()?;
        Ok(key)
    }

    /// For the file it lives in, and for nothing else.
    pub fn pem(&self) -> &str {
        &self.0
    }

    /// As TLS uses it.
    pub fn signing(&self) -> Result<Arc<dyn SigningKey>, Error> {
        let mut der =
            PrivateKeyDer::from_pem_slice(self.0.as_bytes()).map_err(|e| Error::Unusable(e.to_string()))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&der);
        der.zeroize();
        key.map_err(|e| Error::Unusable(e.to_string()))
    }

    /// Key and chain as TLS presents them, after asking whether they belong together.
    pub fn certified(&self, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, Error> {
        let certified = CertifiedKey::new(chain, self.signing()?);
        certified.keys_match().map_err(|e| Error::OtherCertificate(e.to_string()))?;
        Ok(certified)
    }

    /// A certificate request (PKCS#10) for the subject, PEM.
    pub fn request(&self, subject: &Subject) -> Result<String, Error> {
        let failed = |e: rcgen::Error| Error::Request(e.to_string());
        let mut pair = self.pair()?;
        let request = subject.params().and_then(|params| params.serialize_request(&pair)).map_err(failed);
        pair.zeroize();
        request?.pem().map_err(failed)
    }

    /// As the certificate library uses it. Whoever asks wipes it.
    pub(super) fn pair(&self) -> Result<rcgen::KeyPair, Error> {
        rcgen::KeyPair::from_pem(&self.0).map_err(|e| {
            Error::Unusable(format!("{e}; PKCS#8 is needed here: `openssl pkcs8 -topk8 -nocrypt`"))
        })
    }
}

/// Where the first private key of a PEM text stands.
fn span(text: &str) -> Option<(usize, usize)> {
    ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"]
        .iter()
        .filter_map(|kind| {
            let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
            let start = text.find(&begin)?;
            Some((start, start + text[start..].find(&end)? + end.len()))
        })
        .min()
}

#[cfg(not(feature = "rsa"))]
fn rsa_2048() -> Result<Key, Error> {
    Err(Error::NoRsa)
}

#[cfg(feature = "rsa")]
fn rsa_2048() -> Result<Key, Error> {
    use rsa::pkcs8::EncodePrivateKey;
    let failed = |e: String| Error::Unusable(format!("RSA: {e}"));
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).map_err(|e| failed(e.to_string()))?;
    let pem = key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).map_err(|e| failed(e.to_string()))?;
    Key::from_pem(&pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            thing: "meter-1".into(),
            gateway: "gw-1".into(),
            bus: "line-1".into(),
            unit_id: Some(7),
            serial: None,
        }
    }

    #[test]
    fn a_key_shows_nothing_and_survives_its_file() {
        let key = Key::generate(KeyType::EcP256).unwrap();
        assert_eq!(format!("{key:?}"), "Key(<redacted>)");
        let file = format!("a remark\n{}-----BEGIN CERTIFICATE-----\n", key.pem());
        assert_eq!(Key::from_pem(&file).unwrap().pem(), key.pem());
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let check = |text: &str| {
            let error = Key::from_pem(text).unwrap_err().to_string();
            assert!(error.contains("no usable private key") && !error.contains("c2VjcmV0"), "{error}");
        };
        check("");
        check("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
        check("-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n");
    }

    #[test]
    fn a_certificate_of_another_key_is_noticed_here() {
        let (key, other) = (Key::generate(KeyType::EcP256).unwrap(), Key::generate(KeyType::EcP256).unwrap());
        let own = subject().params().unwrap().self_signed(&key.pair().unwrap()).unwrap();
        assert!(key.certified(vec![own.der().clone()]).is_ok());
        assert!(matches!(other.certified(vec![own.der().clone()]), Err(Error::OtherCertificate(_))));
    }

    #[cfg(not(feature = "rsa"))]
    #[test]
    fn without_the_feature_rsa_says_what_to_do() {
        assert_eq!(Key::generate(KeyType::Rsa2048).unwrap_err(), Error::NoRsa);
    }

    #[cfg(feature = "rsa")]
    #[test]
    fn an_rsa_key_makes_a_request() {
        let key = Key::generate(KeyType::Rsa2048).unwrap();
        assert!(key.request(&subject()).unwrap().contains("BEGIN CERTIFICATE REQUEST"));
    }
}
