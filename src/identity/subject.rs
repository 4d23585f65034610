//! Who a certificate speaks of, and what can be read from one.
//!
//! Constraints: the cloud's templates take the thing from the common name and may take the
//! device's own serial number from the attribute of that name; what binds the certificate to
//! a place on the gateway stands in a URI, because no other field is free for it. The URN has
//! no authority part, so no name constraint speaks of it.
//!
//! The way of a name: configuration and the device's answer → [`Subject`] → request or
//! certificate (`key`, `authority`) → [`Facts`], as anybody who holds the certificate sees it.

use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, SanType};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::time::Timestamp;

/// `id-at-serialNumber`, the attribute of a subject; not the certificate's serial number.
const SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// The longest device serial that goes into a certificate, in characters (RFC 5280, appendix A).
pub const SERIAL_MAX: usize = 64;

/// A device behind the gateway, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// 1 to 128 of `[a-zA-Z0-9:_-]`; a common name takes 64 of them.
    pub thing: String,
    pub gateway: String,
    pub bus: String,
    /// `None` for a device that has no unit id.
    pub unit_id: Option<u8>,
    /// What the device itself tells, if it does.
    pub serial: Option<String>,
}

impl Subject {
    /// `urn:fieldgate:<gateway>:<bus>:<unit id>[:<serial>]`; a colon inside of a part is
    /// written `%3A`, and a device without unit id has `-` in its place.
    pub fn urn(&self) -> String {
        let unit = self.unit_id.map_or("-".to_owned(), |unit| unit.to_string());
        let mut urn = format!("urn:fieldgate:{}:{}:{unit}", escaped(&self.gateway), escaped(&self.bus));
        if let Some(serial) = &self.serial {
            urn.push(':');
            urn.push_str(&escaped(serial));
        }
        urn
    }

    /// Common name and, where it is known, the device's serial number.
    pub fn name_into(&self, name: &mut DistinguishedName) {
        name.push(DnType::CommonName, self.thing.as_str());
        if let Some(serial) = &self.serial {
            let serial: String = serial.chars().take(SERIAL_MAX).collect();
            // The attribute is a PrintableString; what does not fit is written as UTF-8.
            let value = match serial.as_str().try_into() {
                Ok(printable) => DnValue::PrintableString(printable),
                Err(_) => DnValue::Utf8String(serial),
            };
            name.push(DnType::CustomDnType(SERIAL_NUMBER.to_vec()), value);
        }
    }

    /// Subject and URI, for a request or a certificate.
    pub(super) fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        self.name_into(&mut params.distinguished_name);
        params.subject_alt_names = vec![SanType::URI(self.urn().as_str().try_into()?)];
        Ok(params)
    }
}

/// Percent-encodes whatever is no unreserved character of a URI.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Facts {
    /// As the cloud counts it: lower-case hex SHA-256 of the DER.
    pub id: String,
    /// Common name; empty if there is none.
    pub common_name: String,
    /// The device's own serial number, of the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_serial: Option<String>,
    /// The whole subject and issuer, as OpenSSL's one-line form has it.
    pub subject: String,
    pub issuer: String,
    pub uris: Vec<String>,
    /// Of the certificate, lower-case hex.
    pub serial: String,
    #[serde(serialize_with = "as_text")]
    pub not_before: Timestamp,
    #[serde(serialize_with = "as_text")]
    pub not_after: Timestamp,
}

fn as_text<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// The bytes are no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate: {0}")]
pub struct Unreadable(String);

impl Facts {
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Facts, Unreadable> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| Unreadable(e.to_string()))?;
        let serial_oid = x509_parser::oid_registry::OID_X509_SERIALNUMBER;
        let first = |mut values: Box<dyn Iterator<Item = &str> + '_>| values.next().map(str::to_owned);
        let subject = parsed.subject();
        let common_name = first(Box::new(subject.iter_common_name().filter_map(|a| a.as_str().ok())));
        let device_serial = first(Box::new(subject.iter_by_oid(&serial_oid).filter_map(|a| a.as_str().ok())));
        let alternative = parsed.subject_alternative_name().map_err(|e| Unreadable(e.to_string()))?;
        let uris = alternative.iter().flat_map(|names| &names.value.general_names);
        let millis = |seconds: i64| Timestamp(seconds.saturating_mul(1000));
        Ok(Facts {
            id: id(certificate),
            common_name: common_name.unwrap_or_default(),
            device_serial,
            subject: subject.to_string(),
            issuer: parsed.issuer().to_string(),
            uris: uris
                .filter_map(|name| match name {
                    GeneralName::URI(uri) => Some((*uri).to_owned()),
                    _ => None,
                })
                .collect(),
            serial: hex(parsed.raw_serial()),
            not_before: millis(parsed.validity().not_before.timestamp()),
            not_after: millis(parsed.validity().not_after.timestamp()),
        })
    }
}

/// Lower-case hex SHA-256 of the DER: the cloud's name of a certificate.
pub fn id(certificate: &CertificateDer<'_>) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn subject() -> Subject {
        Subject {
            thing: "meter-1".into(),
            gateway: "gw-1".into(),
            bus: "line-1".into(),
            unit_id: Some(7),
            serial: Some("SN 42:b".into()),
        }
    }

    #[test]
    fn the_urn_names_the_place_and_the_device() {
        let check = |subject: Subject, expected: &str| assert_eq!(subject.urn(), expected);
        check(subject(), "urn:fieldgate:gw-1:line-1:7:SN%2042%3Ab");
        check(Subject { serial: None, ..subject() }, "urn:fieldgate:gw-1:line-1:7");
        check(Subject { unit_id: None, serial: None, ..subject() }, "urn:fieldgate:gw-1:line-1:-");
        check(Subject { serial: Some("ä".into()), ..subject() }, "urn:fieldgate:gw-1:line-1:7:%C3%A4");
    }

    #[test]
    fn a_certificate_tells_what_went_into_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = subject().params().unwrap();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2026, 11, 1), rcgen::date_time_ymd(2027, 11, 1));
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x7a, 1]));
        let certificate = params.self_signed(&key).unwrap();
        let facts = Facts::of(certificate.der()).unwrap();
        assert_eq!(facts.common_name, "meter-1");
        assert_eq!(facts.device_serial.as_deref(), Some("SN 42:b"));
        assert_eq!(facts.uris, ["urn:fieldgate:gw-1:line-1:7:SN%2042%3Ab"]);
        assert_eq!(facts.serial, "7a01");
        assert_eq!(facts.not_before.to_string(), "2026-11-01T00:00:00.000Z");
        assert_eq!(facts.not_after.to_string(), "2027-11-01T00:00:00.000Z");
        assert_eq!(facts.id.len(), 64);
        assert!(Facts::of(&CertificateDer::from(vec![48, 3, 1])).is_err());
    }
}
