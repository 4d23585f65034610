//! Our own certificates. A key on a token is left alone: a wrong PIN would be counted.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::{Config, EnrollerKind, Tls, credential};
use crate::doctor::judge::certificates::{Dates, Thing};
use crate::identity::files::{Folder, Slot};
use crate::identity::subject::Facts;
use crate::identity::{plan, tls};

pub fn dates(facts: &Facts) -> Dates {
    Dates { subject: facts.subject.clone(), not_before: facts.not_before, not_after: facts.not_after }
}

pub fn is_on_token(key: Option<&Path>) -> bool {
    key.is_some_and(|key| key.to_string_lossy().starts_with("pkcs11:"))
}

/// `None`: the gateway shows no certificate.
pub fn own(tls: &Tls) -> Option<(String, Result<Dates, String>)> {
    let (certificate, key) = (tls.certificate.as_deref()?, tls.key.as_deref()?);
    let leaf = match is_on_token(Some(key)) {
        true => leaf(certificate),
        false => tls::certified(certificate, key)
            .map_err(|e| e.to_string())
            .and_then(|pair| pair.cert.into_iter().next().ok_or_else(|| "the chain is empty".to_owned())),
    };
    let found = leaf.and_then(|leaf| Facts::of(&leaf).map_err(|e| e.to_string()));
    Some((certificate.display().to_string(), found.map(|facts| dates(&facts))))
}

fn leaf(certificate: &Path) -> Result<CertificateDer<'static>, String> {
    let place = credential::place(certificate)?;
    CertificateDer::from_pem_file(place).map_err(|e| e.to_string())
}

/// Whether it lies where only the service can look.
pub fn is_hidden(tls: &Tls) -> bool {
    let places = [&tls.certificate, &tls.key, &tls.ca];
    let is_there = std::env::var_os("CREDENTIALS_DIRECTORY").is_some();
    !is_there && places.iter().any(|p| p.as_deref().is_some_and(|p| credential::name(p).is_some()))
}

/// Those of the things, and whether the agent renews them.
pub fn things(config: &Config) -> (Vec<Thing>, bool) {
    let identity = &config.identity;
    let subjects = plan::subjects(config);
    let by_agent = matches!(identity.enroller, EnrollerKind::LocalCa | EnrollerKind::Claim);
    if subjects.is_empty() {
        return (Vec::new(), by_agent);
    }
    let given = identity.certificate.as_deref().zip(identity.key.as_deref());
    // Opening would make the folder.
    let folder = identity.directory.is_dir().then(|| Folder::open(&identity.directory));
    let one = |thing: &str| -> Result<Option<Dates>, String> {
        if let (EnrollerKind::Files, Some((certificate, key))) = (identity.enroller, given) {
            let pair = tls::certified(&plan::filled(certificate, thing), &plan::filled(key, thing));
            let pair = pair.map_err(|e| e.to_string())?;
            let facts = pair.cert.first().map(Facts::of).transpose().map_err(|e| e.to_string())?;
            return Ok(facts.map(|facts| dates(&facts)));
        }
        let Some(folder) = &folder else { return Ok(None) };
        let folder = folder.as_ref().map_err(ToString::to_string)?;
        let pair = folder.read(thing, Slot::Current).map_err(|e| e.to_string())?;
        pair.map(|pair| pair.facts().map(|facts| dates(&facts))).transpose()
    };
    let thing = |(_, s): &(usize, _)| -> Thing {
        let s: &crate::identity::subject::Subject = s;
        let next = || folder.as_ref()?.as_ref().ok()?.read(&s.thing, Slot::Next).ok()?;
        Thing { name: s.thing.clone(), dates: one(&s.thing), candidate: next().is_some() }
    };
    (subjects.iter().map(thing).collect(), by_agent)
}
