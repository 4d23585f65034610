//! The gateway's own authority: what makes certificates without a cloud (`local-ca`).
//!
//! Constraints: whoever steals the card must not be able to speak for anybody but this
//! gateway's things, so the CA is name-constrained: its certificates lie under
//! `O=fieldgate, OU=<gateway>`, and no DNS name, address or mail address is theirs, so none
//! of them makes a server. (A constraint of URIs looks at the host, which a URN has not.)
//! Path length 0. Serial numbers are random, 128 bit. Certificates begin an hour back,
//! because clocks differ. Two generations may overlap: a new CA is made and exported while
//! the old one still signs, so that the cloud can learn it first.
//!
//! The way of a certificate: a request, whose signature proves the key → the subject is taken
//! from the configuration, never from the request → signed → chain of leaf and CA.
//!
//! Files, in the folder `ca` beside the identities: those of [`super::files`] for the name
//! `ca`, and `revoked.json`.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, NameConstraints, RevocationReason, RevokedCertParams, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::files::{self, Folder, Lock, Pair, Slot};
use super::key::{Key, KeyType};
use super::signer::CaKey;
use super::subject::{Facts, Subject};
use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Timestamp};

/// How far back a certificate begins.
const BACKDATED: Duration = Duration::from_secs(3600);

/// Of the CA itself.
pub const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Of a revocation list. Long, because it is exported by hand: a list that ends locks
/// everybody out, the revoked or not.
pub const CRL_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// Of the proof of possession: it is shown once.
const PROOF_LIFETIME: Duration = Duration::from_secs(86_400);

/// The most certificates that a list names; older ones have ended long ago.
const REVOKED_MAX: usize = 100_000;

const NAME: &str = "ca";
const REVOKED: &str = "revoked.json";
const ORGANIZATION: &str = "fieldgate";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wait: a certificate with a wrong date is worse than none.
    #[error("the clock is not set ({0}); no certificate is made by it")]
    Clock(Timestamp),
    /// The operator has to make one, or to name another.
    #[error("there is no CA yet in {0}; `fieldgate identity ca --create` makes it")]
    NoCa(String),
    /// The asker did something wrong.
    #[error("the request is refused: {0}")]
    Request(String),
    #[error(transparent)]
    Files(#[from] files::Error),
    #[error("the certificate could not be made: {0}")]
    Failed(String),
}

impl From<rcgen::Error> for Error {
    fn from(e: rcgen::Error) -> Error {
        Error::Failed(e.to_string())
    }
}

/// A certificate that must not count any more.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Revoked {
    /// Of the certificate, lower-case hex.
    pub serial: String,
    pub thing: String,
    /// When, and when it would have ended; milliseconds since 1970.
    pub at: i64,
    pub not_after: i64,
}

#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Revocations {
    /// Counts the lists that were made.
    number: u64,
    revoked: Vec<Revoked>,
}

/// The CA of one gateway. What it signs with may be a file or a token.
#[derive(Debug)]
pub struct Authority {
    folder: Folder,
    gateway: String,
    /// How long a thing's certificate is good.
    pub lifetime: Duration,
    /// Where the key is, if not in the folder: `pkcs11:…`.
    token: Option<String>,
}

impl Authority {
    /// `directory` is that of the identities; the CA lives in `ca` in it.
    pub fn open(
        directory: &Path,
        gateway: &str,
        lifetime: Duration,
        token: Option<String>,
    ) -> Result<Authority, Error> {
        let folder = Folder::open(&directory.join(NAME))?;
        Ok(Authority { folder, gateway: gateway.to_owned(), lifetime, token })
    }

    /// Makes the CA if there is none; says whether it did.
    pub fn ensure(&self, now: Timestamp) -> Result<bool, Error> {
        let held = self.folder.lock()?;
        if self.chain(Slot::Current)?.is_some() {
            return Ok(false);
        }
        self.make(&held, Slot::Current, now)?;
        Ok(true)
    }

    /// Makes the next generation, which signs nothing before `switch`.
    pub fn prepare(&self, now: Timestamp) -> Result<(), Error> {
        let held = self.folder.lock()?;
        self.make(&held, Slot::Next, now)
    }

    /// From now on the next generation signs.
    pub fn switch(&self) -> Result<(), Error> {
        let held = self.folder.lock()?;
        if self.token.is_none() {
            return Ok(self.folder.promote(&held, NAME)?);
        }
        let next = self.chain(Slot::Next)?.ok_or_else(|| self.missing())?;
        if let Some(current) = self.chain(Slot::Current)? {
            self.folder.write_plain(&held, plain(Slot::Previous), current.as_bytes())?;
        }
        self.folder.write_plain(&held, plain(Slot::Current), next.as_bytes())?;
        Ok(self.folder.remove_plain(&held, plain(Slot::Next))?)
    }

    /// The CA certificates that a verifier has to know: current first, then the next and the
    /// one before, which may still have certificates out. PEM.
    pub fn export(&self) -> Result<Vec<(Slot, String)>, Error> {
        let mut found = Vec::new();
        for slot in [Slot::Current, Slot::Next, Slot::Previous] {
            if let Some(chain) = self.chain(slot)? {
                found.push((slot, chain));
            }
        }
        if found.is_empty() { Err(self.missing()) } else { Ok(found) }
    }

    /// Signs a request, PEM. The subject is the caller's; of the request only the key counts,
    /// and that it signed it.
    pub fn issue(&self, subject: &Subject, request: &str, now: Timestamp) -> Result<String, Error> {
        plausible(now)?;
        let asked =
            CertificateSigningRequestParams::from_pem(request).map_err(|e| Error::Request(e.to_string()))?;
        let (issuer, ca) = self.issuer(Slot::Current)?;
        let mut params = subject.params()?;
        let mut name = self.base();
        subject.name_into(&mut name);
        params.distinguished_name = name;
        client(&mut params);
        let end = Facts::of(&certificate(&ca)?).map_err(|e| Error::Failed(e.to_string()))?.not_after;
        let until = after(now, self.lifetime).min(end);
        if until <= now {
            return Err(Error::Failed(
                "the CA has ended; `fieldgate identity ca --prepare` makes the next".into(),
            ));
        }
        dated(&mut params, now, until)?;
        let request = CertificateSigningRequestParams { params, public_key: asked.public_key };
        Ok(format!("{}{ca}", request.signed_by(&issuer)?.pem()))
    }

    /// The cloud's proof that the CA key is here: a certificate whose common name is the
    /// registration code. PEM.
    pub fn proof(&self, slot: Slot, code: &str, now: Timestamp) -> Result<String, Error> {
        plausible(now)?;
        if code.is_empty() || code.len() > 128 || !code.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::Request(format!("{code:?} is no registration code: letters and digits only")));
        }
        let (issuer, _) = self.issuer(slot)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = self.base();
        params.distinguished_name.push(DnType::CommonName, code);
        client(&mut params);
        dated(&mut params, now, after(now, PROOF_LIFETIME))?;
        // Nobody will ever use this key: the certificate proves the CA's.
        let key = rcgen::KeyPair::generate()?;
        Ok(params.signed_by(&key, &issuer)?.pem())
    }

    /// Puts certificates on the list.
    pub fn revoke(&self, thing: &str, certificates: &[Facts], now: Timestamp) -> Result<(), Error> {
        plausible(now)?;
        let held = self.folder.lock()?;
        let mut list = self.list()?;
        for facts in certificates {
            if list.revoked.iter().any(|r| r.serial == facts.serial) {
                continue;
            }
            let (serial, not_after) = (facts.serial.clone(), facts.not_after.0);
            list.revoked.push(Revoked { serial, thing: thing.to_owned(), at: now.0, not_after });
        }
        // What has ended needs no list any more.
        list.revoked.retain(|r| r.not_after > now.0);
        if list.revoked.len() > REVOKED_MAX {
            return Err(Error::Failed(format!(
                "more than {REVOKED_MAX} revoked certificates; make a new CA"
            )));
        }
        self.keep(&held, &list)
    }

    /// The revocation list, signed by the CA in use. PEM.
    pub fn revocations(&self, now: Timestamp) -> Result<String, Error> {
        plausible(now)?;
        let held = self.folder.lock()?;
        let mut list = self.list()?;
        list.number += 1;
        let (issuer, _) = self.issuer(Slot::Current)?;
        let revoked = list.revoked.iter().map(|r| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&unhex(&r.serial)?),
                revocation_time: moment(Timestamp(r.at))?,
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            })
        });
        let params = CertificateRevocationListParams {
            this_update: moment(before(now, BACKDATED))?,
            next_update: moment(after(now, CRL_LIFETIME))?,
            crl_number: SerialNumber::from(list.number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect::<Result<_, Error>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let text = params.signed_by(&issuer)?.pem()?;
        self.keep(&held, &list)?;
        Ok(text)
    }

    fn make(&self, held: &Lock, slot: Slot, now: Timestamp) -> Result<(), Error> {
        plausible(now)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = self.base();
        let year = &Timestamp(now.0).to_string()[..10];
        params.distinguished_name.push(DnType::CommonName, format!("{} CA {year}", self.gateway));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DirectoryName(self.base())],
            excluded_subtrees: vec![
                GeneralSubtree::DnsName(String::new()),
                GeneralSubtree::Rfc822Name(String::new()),
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
        dated(&mut params, now, after(now, CA_LIFETIME))?;
        if let Some(uri) = &self.token {
            let certificate = params.self_signed(&CaKey::on_token(uri).map_err(Error::Failed)?)?.pem();
            return Ok(self.folder.write_plain(held, plain(slot), certificate.as_bytes())?);
        }
        let key = Key::generate(KeyType::EcP256).map_err(|e| Error::Failed(e.to_string()))?;
        let signer = CaKey::from_key(&key).map_err(Error::Failed)?;
        let certificate = params.self_signed(&signer)?.pem();
        let pair = Pair::new(key, &certificate).map_err(Error::Failed)?;
        Ok(self.folder.write(held, NAME, slot, &pair)?)
    }

    /// `O=fieldgate, OU=<gateway>`: the start of every name this CA may sign.
    fn base(&self) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, ORGANIZATION);
        name.push(DnType::OrganizationalUnitName, self.gateway.as_str());
        name
    }

    fn issuer(&self, slot: Slot) -> Result<(Issuer<'static, CaKey>, String), Error> {
        let chain = self.chain(slot)?.ok_or_else(|| self.missing())?;
        let key = match &self.token {
            Some(uri) => CaKey::on_token(uri),
            None => match self.folder.read(NAME, slot)? {
                Some(pair) => CaKey::from_key(&pair.key),
                None => return Err(self.missing()),
            },
        };
        let issuer = Issuer::from_ca_cert_pem(&chain, key.map_err(Error::Failed)?)?;
        Ok((issuer, chain))
    }

    /// The certificate of a generation, PEM.
    fn chain(&self, slot: Slot) -> Result<Option<String>, Error> {
        match self.token {
            Some(_) => Ok(self.folder.read_plain(plain(slot))?),
            None => Ok(self.folder.read(NAME, slot)?.map(|pair| pair.chain)),
        }
    }

    fn list(&self) -> Result<Revocations, Error> {
        let Some(text) = self.folder.read_plain(REVOKED)? else { return Ok(Revocations::default()) };
        serde_json::from_str(&text).map_err(|e| Error::Failed(format!("{REVOKED}: {e}")))
    }

    fn keep(&self, held: &Lock, list: &Revocations) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(list).map_err(|e| Error::Failed(e.to_string()))?;
        Ok(self.folder.write_plain(held, REVOKED, &text)?)
    }

    fn missing(&self) -> Error {
        Error::NoCa(self.folder.path().display().to_string())
    }
}

/// The certificates of a CA whose key is on a token.
fn plain(slot: Slot) -> &'static str {
    match slot {
        Slot::Current => "token.crt",
        Slot::Next => "token.next.crt",
        Slot::Previous => "token.prev.crt",
    }
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, Error> {
    let mut chain = files::certificates(pem).map_err(Error::Failed)?;
    Ok(chain.swap_remove(0))
}

fn client(params: &mut CertificateParams) {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
}

/// Dates and a random serial number.
fn dated(params: &mut CertificateParams, now: Timestamp, until: Timestamp) -> Result<(), Error> {
    params.not_before = moment(before(now, BACKDATED))?;
    params.not_after = moment(until)?;
    let mut serial = [0_u8; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::Failed("no randomness".into()))?;
    // A serial number is positive and has no leading zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

fn plausible(now: Timestamp) -> Result<(), Error> {
    if now < CLOCK_PLAUSIBLE_FROM { Err(Error::Clock(now)) } else { Ok(()) }
}

fn after(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp(now.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}

fn before(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}

/// The certificate library's own kind of time, in whole seconds.
fn moment(time: Timestamp) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(time.0.div_euclid(1000)).map_err(|e| Error::Failed(e.to_string()))
}

fn unhex(text: &str) -> Result<Vec<u8>, Error> {
    let wrong = || Error::Failed(format!("{REVOKED}: {text:?} is no serial number"));
    let byte = |at: usize| text.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    (0..text.len()).step_by(2).map(|at| byte(at).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests;
