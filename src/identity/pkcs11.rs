//! Keys that stay on a PKCS#11 token: a TPM, an HSM, a card.
//!
//! Constraints: a wrong PIN counts towards the token's lock-out, so it is tried once per
//! start and never again; a module is initialized once per process; a session is not to be
//! used by two threads; and the public key is read from the token, because without it a
//! certificate of another key would be noticed by the broker only, in TLS 1.3 even after the
//! handshake. EC P-256 only.
//!
//! The way of a signature: message → SHA-256 here → `C_Sign` on the token → `r` and `s` in DER.
//!
//! A key is named by a URI (RFC 7512):
//! `pkcs11:token=LABEL;object=LABEL?module-path=FILE&pin-source=file:FILE`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as TokenError, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{SubjectPublicKeyInfoDer, alg_id};
use zeroize::Zeroizing;

/// The operator has to act: token, PIN or URI.
#[derive(Debug, thiserror::Error)]
#[error("PKCS#11: {0}")]
pub struct Error(String);

/// Modules that are loaded, and tokens whose PIN was wrong.
#[derive(Default)]
struct Loaded {
    modules: BTreeMap<PathBuf, Pkcs11>,
    wrong_pins: BTreeSet<String>,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

const MODULE_DEFAULT: &str = "/usr/lib/softhsm/libsofthsm2.so";

#[derive(Debug, PartialEq, Eq)]
struct Uri {
    token: String,
    object: String,
    module: PathBuf,
    pin: Option<PathBuf>,
}

impl Uri {
    fn parse(text: &str) -> Result<Uri, Error> {
        let wrong =
            |why: &str| Error(format!("{why}; write pkcs11:token=LABEL;object=LABEL?pin-source=file:FILE"));
        let rest = text.strip_prefix("pkcs11:").ok_or_else(|| wrong("not a pkcs11: URI"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut found: BTreeMap<&str, String> = BTreeMap::new();
        for part in path.split(';').chain(query.split('&')).filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong("a part without ="))?;
            let value = unescaped(value).ok_or_else(|| wrong("a % without two hex digits"))?;
            match name {
                "token" | "object" | "module-path" | "pin-source" => found.insert(name, value),
                "type" => None,
                other => return Err(wrong(&format!("{other:?} is not served"))),
            };
        }
        let mut take = |name| found.remove(name);
        Ok(Uri {
            token: take("token").ok_or_else(|| wrong("no token"))?,
            object: take("object").ok_or_else(|| wrong("no object"))?,
            module: take("module-path").unwrap_or_else(|| MODULE_DEFAULT.into()).into(),
            pin: take("pin-source").map(|p| PathBuf::from(p.strip_prefix("file:").unwrap_or(&p))),
        })
    }
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (two, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// A key on a token; clones share the session.
#[derive(Clone)]
pub struct TokenKey {
    session: Arc<Mutex<Session>>,
    key: ObjectHandle,
    /// Uncompressed point of the public key, 65 bytes.
    point: Arc<[u8]>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

impl TokenKey {
    pub fn open(uri: &str) -> Result<TokenKey, Error> {
        let uri = Uri::parse(uri)?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = loaded.get_or_insert_with(Loaded::default);
        let context = module(loaded, &uri.module)?;
        let session = session(loaded, &context, &uri)?;
        let find = |class| {
            let template = [
                Attribute::Class(class),
                Attribute::KeyType(KeyType::EC),
                Attribute::Label(uri.object.clone().into_bytes()),
            ];
            session.find_objects(&template).map_err(told)
        };
        let none = |what| Error(format!("token {:?} has no EC {what} key {:?}", uri.token, uri.object));
        let key = find(ObjectClass::PRIVATE_KEY)?.first().copied().ok_or_else(|| none("private"))?;
        let public = find(ObjectClass::PUBLIC_KEY)?.first().copied().ok_or_else(|| none("public"))?;
        let attributes = session.get_attributes(public, &[AttributeType::EcPoint]).map_err(told)?;
        let point = attributes.iter().find_map(|a| match a {
            Attribute::EcPoint(der) => der.strip_prefix(&[0x04, 0x41]).filter(|p| p.len() == 65),
            _ => None,
        });
        let point = point.ok_or_else(|| Error(format!("{:?} is no EC P-256 key", uri.object)))?.into();
        Ok(TokenKey { session: Arc::new(Mutex::new(session)), key, point })
    }

    pub fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    /// ECDSA with SHA-256, DER.
    pub fn signature(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let digest = ring::digest::digest(&ring::digest::SHA256, message);
        let raw = self.session().sign(&Mechanism::Ecdsa, self.key, digest.as_ref()).map_err(told)?;
        if raw.len() != 64 {
            return Err(Error(format!("a signature of {} bytes", raw.len())));
        }
        Ok(der(&raw))
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn module(loaded: &mut Loaded, path: &Path) -> Result<Pkcs11, Error> {
    if let Some(context) = loaded.modules.get(path) {
        return Ok(context.clone());
    }
    let context = Pkcs11::new(path).map_err(|e| Error(format!("{}: {e}", path.display())))?;
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(TokenError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(e) => return Err(told(e)),
    }
    loaded.modules.insert(path.to_owned(), context.clone());
    Ok(context)
}

fn session(loaded: &mut Loaded, context: &Pkcs11, uri: &Uri) -> Result<Session, Error> {
    let slots = context.get_slots_with_token().map_err(told)?;
    let of_token = |slot: &&cryptoki::slot::Slot| {
        context.get_token_info(**slot).is_ok_and(|info| info.label().trim_end() == uri.token)
    };
    let slot =
        slots.iter().find(of_token).ok_or_else(|| Error(format!("there is no token {:?}", uri.token)))?;
    let session = context.open_ro_session(*slot).map_err(told)?;
    let Some(file) = &uri.pin else { return Ok(session) };
    if loaded.wrong_pins.contains(&uri.token) {
        let why =
            "its PIN was wrong; it is not tried again before a restart, because that could lock the token";
        return Err(Error(format!("token {:?}: {why}", uri.token)));
    }
    let place = crate::config::credential::place(file).map_err(Error)?;
    let text = super::files::read_secret(&place).map_err(|e| Error(e.to_string()))?;
    let text = text.ok_or_else(|| Error(format!("{} is not there", place.display())))?;
    let pin = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    match session.login(UserType::User, Some(&AuthPin::new(pin.to_string().into()))) {
        Ok(()) | Err(TokenError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
        Err(e) => {
            if matches!(e, TokenError::Pkcs11(RvError::PinIncorrect, _)) {
                loaded.wrong_pins.insert(uri.token.clone());
            }
            Err(Error(format!("token {:?}: {e}", uri.token)))
        }
    }
}

fn told(error: TokenError) -> Error {
    Error(error.to_string())
}

/// `r` and `s` of 32 bytes each as a SEQUENCE of two INTEGERs.
fn der(raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(72);
    for number in raw.chunks(32) {
        let start = number.iter().position(|b| *b != 0).unwrap_or(number.len().saturating_sub(1));
        let number = &number[start..];
        let is_negative = number.first().is_some_and(|b| b & 0x80 != 0);
        // At most 33 bytes: one length byte is enough everywhere.
        body.extend([0x02, number.len() as u8 + u8::from(is_negative)]);
        body.extend(is_negative.then_some(0));
        body.extend(number);
    }
    let mut out = vec![0x30, body.len() as u8];
    out.append(&mut body);
    out
}

impl SigningKey for TokenKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let fits = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        fits.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(public_key_to_spki(&alg_id::ECDSA_P256, &*self.point))
    }
}

impl Signer for TokenKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.signature(message).map_err(|e| rustls::Error::General(e.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_token_and_key() {
        let check = |text: &str, expected: Result<(&str, &str, Option<&str>), &str>| match expected {
            Ok((token, object, pin)) => {
                let uri = Uri::parse(text).unwrap();
                let found = (uri.token.as_str(), uri.object.as_str(), uri.pin.as_deref());
                assert_eq!(found, (token, object, pin.map(Path::new)));
            }
            Err(part) => assert!(Uri::parse(text).unwrap_err().to_string().contains(part), "{text}"),
        };
        check("pkcs11:token=t;object=o?pin-source=file:/p", Ok(("t", "o", Some("/p"))));
        check("pkcs11:token=my%20t;object=o;type=private", Ok(("my t", "o", None)));
        check("pkcs11:object=o", Err("no token"));
        check("pkcs11:token=t;object=o?pin-value=1234", Err("not served"));
        check("pkcs11:token=%zz;object=o", Err("two hex digits"));
        check("file:x", Err("not a pkcs11"));
    }

    #[test]
    fn a_signature_is_written_in_der() {
        let mut raw = [0_u8; 64];
        (raw[31], raw[32]) = (5, 0x80);
        let mut expected = vec![0x30, 38, 2, 1, 5, 2, 33, 0, 0x80];
        expected.resize(40, 0);
        assert_eq!(der(&raw), expected);
    }
}
