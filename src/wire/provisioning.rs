//! PURE: fleet provisioning over MQTT, as AWS IoT has it, as a machine of plain values.
//!
//! A new gateway holds only a claim certificate, which many share. With it it asks for a
//! certificate of its own and then registers itself by a template (AWS IoT developer guide,
//! Device provisioning MQTT API).
//!
//! Constraints: the private key stays on the gateway, so the certificate is asked for with a
//! signing request; a key made by the cloud is the second choice, and only when it is
//! allowed. Whoever asks must have subscribed to both answers first. The certificate counts
//! only once it is registered; the token that proves its ownership lives one hour. QoS 1 may
//! bring an answer twice, so an answer to a step that is over is nothing.
//!
//! The way: `begin` → [`Step`]: subscribe, then publish → `answer` → the next [`Step`] (the
//! registration, or the fallback) → `answer` → [`Provisioned`]. Then store it, disconnect,
//! and connect as the new identity.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::model::thing::ThingName;

/// How long a certificate may wait for its registration.
pub const TOKEN_LIVES: Duration = Duration::from_secs(3600);

/// The longest name of a template, in characters.
pub const TEMPLATE_MAX: usize = 36;

/// Characters of a foreign error text that are worth showing.
const WORDS_MAX: usize = 300;

/// What a gateway asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub template: String,
    /// PEM; `None`: the cloud makes the key.
    pub csr_pem: Option<String>,
    /// For the template: serial number, place, ...
    pub parameters: BTreeMap<String, String>,
    /// Without a signing request, or when that is refused, the cloud may make the key.
    pub allow_cloud_keys: bool,
}

/// Subscribe first; publish when the subscription is acknowledged.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// Accepted and rejected.
    pub subscribe: [String; 2],
    pub topic: String,
    pub payload: Zeroizing<Vec<u8>>,
}

/// What an answer leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It was no answer to this step.
    Wait,
    Step(Step),
    Done(Box<Provisioned>),
}

/// A new identity. Nothing of it is stored yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Provisioned {
    pub thing_name: ThingName,
    /// The certificate, perhaps with its chain.
    pub certificate_pem: String,
    /// Only when the cloud made it.
    pub private_key_pem: Option<Zeroizing<String>>,
    pub certificate_id: String,
    /// What the template says to the device.
    pub device_configuration: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// Ask again later, from the beginning.
    #[error("{why}")]
    Retryable { why: String },
    /// Tell the operator: asking again would bring the same answer.
    #[error("{why}")]
    Fatal { why: String },
}

/// One attempt.
pub struct Provisioning {
    request: Request,
    stage: Stage,
}

enum Stage {
    FromCsr,
    CloudKeys,
    Registration { certificate: Certificate, at: Duration },
    Over,
}

struct Certificate {
    pem: String,
    id: String,
    key: Option<Zeroizing<String>>,
    token: Zeroizing<String>,
}

/// 1 to 36 of `[0-9A-Za-z_-]`.
pub fn is_template(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    (1..=TEMPLATE_MAX).contains(&name.len()) && name.bytes().all(fits)
}

impl Provisioning {
    pub fn begin(request: Request) -> Result<(Provisioning, Step), ProvisionError> {
        if !is_template(&request.template) {
            let name = shown(&request.template);
            return Err(fatal(format!(
                "{name:?} is no provisioning template: 1 to {TEMPLATE_MAX} of 0-9 A-Z a-z _ -"
            )));
        }
        let stage = match (&request.csr_pem, request.allow_cloud_keys) {
            (Some(_), _) => Stage::FromCsr,
            (None, true) => Stage::CloudKeys,
            (None, false) => {
                return Err(fatal("there is no signing request, and a key made by the cloud is not allowed"));
            }
        };
        let machine = Provisioning { request, stage };
        // Only the end has no step.
        let step = machine.step().ok_or_else(|| fatal("nothing to ask for"))?;
        Ok((machine, step))
    }

    /// The step that waits for its answer, for instance to repeat it; `None`: it is over.
    pub fn step(&self) -> Option<Step> {
        let topic = self.topic()?;
        let payload = match &self.stage {
            Stage::FromCsr => json!({ "certificateSigningRequest": self.request.csr_pem }),
            Stage::CloudKeys => json!({}),
            Stage::Registration { certificate, .. } => json!({
                "certificateOwnershipToken": certificate.token.as_str(),
                "parameters": self.request.parameters,
            }),
            Stage::Over => return None,
        };
        Some(Step {
            subscribe: [format!("{topic}/accepted"), format!("{topic}/rejected")],
            payload: Zeroizing::new(payload.to_string().into_bytes()),
            topic,
        })
    }

    /// Whether the certificate is there and only its registration is missing: then the step
    /// may be repeated until the token is too old.
    pub fn is_registering(&self) -> bool {
        matches!(self.stage, Stage::Registration { .. })
    }

    /// What has arrived; `now` counts from any beginning. After an error the attempt is over.
    pub fn answer(&mut self, topic: &str, payload: &[u8], now: Duration) -> Result<Next, ProvisionError> {
        let own = self.topic();
        let outcome = own.as_deref().and_then(|own| topic.strip_prefix(own));
        match outcome {
            Some("/accepted") => self.accepted(payload, now),
            Some("/rejected") => self.rejected(payload, now),
            _ => Ok(Next::Wait),
        }
    }

    fn topic(&self) -> Option<String> {
        Some(match &self.stage {
            Stage::FromCsr => "$aws/certificates/create-from-csr/json".into(),
            Stage::CloudKeys => "$aws/certificates/create/json".into(),
            Stage::Registration { .. } => {
                format!("$aws/provisioning-templates/{}/provision/json", self.request.template)
            }
            Stage::Over => return None,
        })
    }

    fn accepted(&mut self, payload: &[u8], now: Duration) -> Result<Next, ProvisionError> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::FromCsr => self.register(certificate(payload, false)?, now),
            Stage::CloudKeys => self.register(certificate(payload, true)?, now),
            Stage::Registration { certificate, .. } => {
                registered(certificate, payload).map(|done| Next::Done(Box::new(done)))
            }
            Stage::Over => Ok(Next::Wait),
        }
    }

    fn register(&mut self, certificate: Certificate, now: Duration) -> Result<Next, ProvisionError> {
        self.stage = Stage::Registration { certificate, at: now };
        Ok(self.step().map_or(Next::Wait, Next::Step))
    }

    fn rejected(&mut self, payload: &[u8], now: Duration) -> Result<Next, ProvisionError> {
        let error = refusal(self.doing(), payload);
        let is_final = matches!(error, ProvisionError::Fatal { .. });
        match &self.stage {
            Stage::FromCsr if is_final && self.request.allow_cloud_keys => {
                self.stage = Stage::CloudKeys;
                return Ok(self.step().map_or(Next::Wait, Next::Step));
            }
            // The certificate is still good: the caller may repeat the step.
            Stage::Registration { at, .. } if !is_final && now.saturating_sub(*at) < TOKEN_LIVES => {}
            _ => self.stage = Stage::Over,
        }
        Err(error)
    }

    /// For messages.
    pub fn doing(&self) -> &'static str {
        match &self.stage {
            Stage::FromCsr => "the certificate for our signing request",
            Stage::CloudKeys => "keys and certificate",
            Stage::Registration { .. } => "the registration by the template",
            Stage::Over => "nothing",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    certificate_id: String,
    certificate_pem: String,
    certificate_ownership_token: String,
    private_key: Option<String>,
}

fn certificate(payload: &[u8], with_key: bool) -> Result<Certificate, ProvisionError> {
    // The library's message may quote the text, and the text holds secrets: only the place.
    let created: Created = serde_json::from_slice(payload).map_err(|e| {
        fatal(format!("the new certificate cannot be read: line {}, column {}", e.line(), e.column()))
    })?;
    let token = Zeroizing::new(created.certificate_ownership_token);
    let key = created.private_key.map(Zeroizing::new).filter(|_| with_key);
    if CertificateDer::from_pem_slice(created.certificate_pem.as_bytes()).is_err() {
        return Err(fatal("the new certificate is not PEM"));
    }
    if token.is_empty() {
        return Err(fatal("the new certificate came without its ownership token"));
    }
    if with_key && key.is_none() {
        return Err(fatal("the new certificate came without its private key"));
    }
    Ok(Certificate { pem: created.certificate_pem, id: created.certificate_id, key, token })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registered {
    thing_name: String,
    #[serde(default)]
    device_configuration: Option<Map<String, Value>>,
}

fn registered(certificate: Certificate, payload: &[u8]) -> Result<Provisioned, ProvisionError> {
    let answer: Registered = serde_json::from_slice(payload)
        .map_err(|e| fatal(format!("the answer to the registration cannot be read: {e}")))?;
    let thing_name = ThingName::parse(&answer.thing_name)
        .map_err(|e| fatal(format!("the template answers with a wrong thing name: {e}")))?;
    Ok(Provisioned {
        thing_name,
        certificate_pem: certificate.pem,
        private_key_pem: certificate.key,
        certificate_id: certificate.id,
        device_configuration: answer.device_configuration.unwrap_or_default(),
    })
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Refusal {
    status_code: u16,
    error_code: String,
    error_message: String,
}

/// Pressure, trouble of the service and a stale token pass; all else needs a person.
fn refusal(what: &str, payload: &[u8]) -> ProvisionError {
    let refusal: Refusal = serde_json::from_slice(payload).unwrap_or_default();
    let Refusal { status_code, error_code, error_message } = &refusal;
    let passes = matches!(status_code, 408 | 429 | 500..=599)
        || error_code.contains("Throttl")
        || error_code.contains("OwnershipToken");
    let why = match (status_code, error_code.is_empty()) {
        (0, true) => format!("{what} was refused without a reason"),
        _ => format!("{what} was refused: {status_code} {}: {}", shown(error_code), shown(error_message)),
    };
    if passes { ProvisionError::Retryable { why } } else { ProvisionError::Fatal { why } }
}

/// A foreign text, harmless and short.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

fn fatal(why: impl Into<String>) -> ProvisionError {
    ProvisionError::Fatal { why: why.into() }
}

/// Without the payload: it may hold the ownership token.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl fmt::Debug for Provisioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provisioned")
            .field("thing_name", &self.thing_name)
            .field("certificate_id", &self.certificate_id)
            .field("private_key_pem", &self.private_key_pem.as_ref().map(|_| "<redacted>"))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
