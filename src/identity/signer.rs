//! The key of an authority: a file's, or one that never leaves its token.

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use zeroize::Zeroize;

use super::key::Key;

/// Signs certificates, requests and lists. Wiped when dropped.
pub struct CaKey(Kind);

enum Kind {
    File(Box<KeyPair>),
    #[cfg(feature = "pkcs11")]
    Token(super::pkcs11::TokenKey),
}

impl CaKey {
    pub fn from_key(key: &Key) -> Result<CaKey, String> {
        key.pair().map(|pair| CaKey(Kind::File(Box::new(pair)))).map_err(|e| e.to_string())
    }

    /// `pkcs11:token=…;object=…?pin-source=file:…`
    #[cfg(feature = "pkcs11")]
    pub fn on_token(uri: &str) -> Result<CaKey, String> {
        let key = super::pkcs11::TokenKey::open(uri).map_err(|e| e.to_string())?;
        Ok(CaKey(Kind::Token(key)))
    }

    #[cfg(not(feature = "pkcs11"))]
    pub fn on_token(uri: &str) -> Result<CaKey, String> {
        let scheme = uri.split(':').next().unwrap_or_default();
        Err(format!("this program was built without the feature `pkcs11`: it cannot use a {scheme} URI"))
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        match &self.0 {
            Kind::File(pair) => pair.der_bytes(),
            #[cfg(feature = "pkcs11")]
            Kind::Token(key) => key.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match &self.0 {
            Kind::File(pair) => pair.algorithm(),
            #[cfg(feature = "pkcs11")]
            Kind::Token(_) => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.0 {
            Kind::File(pair) => pair.sign(message),
            #[cfg(feature = "pkcs11")]
            Kind::Token(key) => key.signature(message).map_err(|_| rcgen::Error::RemoteKeyError),
        }
    }
}

impl Drop for CaKey {
    fn drop(&mut self) {
        #[cfg_attr(not(feature = "pkcs11"), expect(irrefutable_let_patterns))]
        if let Kind::File(pair) = &mut self.0 {
            pair.zeroize();
        }
    }
}
