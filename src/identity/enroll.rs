//! Where certificates come from: one word of the configuration, one enroller.
//!
//! Constraints: the key is made and kept by the gateway, so an enroller sees a request and
//! not a key, unless the cloud insists on making it; the error says what the keeper does
//! next; and fleet provisioning needs a connection, which this room does not have, so it is
//! brought in as a [`Provision`].
//!
//! The way of a request: key → request, PEM → [`Enroller::enroll`] → chain (and perhaps the
//! cloud's key) → a candidate.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::authority::{self, Authority};
use super::subject::Subject;
use crate::model::time::Clock;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrollRequest {
    pub subject: Subject,
    /// PKCS#10, PEM.
    pub csr: String,
}

/// What came back.
#[derive(Clone)]
pub struct Enrolled {
    /// PEM, leaf first.
    pub chain: String,
    /// PEM; only if the cloud made the key.
    pub key: Option<Zeroizing<String>>,
    /// The name that the cloud gave the thing, if it says so.
    pub thing_name: Option<String>,
}

impl fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolled")
            .field("chain", &self.chain)
            .field("key", &self.key.as_ref().map(|_| "<redacted>"))
            .field("thing_name", &self.thing_name)
            .finish()
    }
}

/// Named by what the keeper does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrollError {
    /// Back off.
    #[error("{0}")]
    Retryable(String),
    /// Back off long, and tell the operator.
    #[error("{0}")]
    Fatal(String),
    /// Somebody has to do something outside; looking again costs nothing.
    #[error("{0}")]
    Waiting(String),
}

pub type Enrolling<'a> = Pin<Box<dyn Future<Output = Result<Enrolled, EnrollError>> + Send + 'a>>;

/// Fleet provisioning over a connection of its own; the uplink brings it.
pub trait Provision: Send + Sync + 'static {
    fn provision<'a>(&'a self, request: &'a EnrollRequest) -> Enrolling<'a>;
}

/// Makes a certificate of a request.
pub trait Enroller: Send + Sync + 'static {
    fn enroll(&self, request: &EnrollRequest) -> impl Future<Output = Result<Enrolled, EnrollError>> + Send;
}

/// The kinds of `identity.enroller`.
pub enum Enrollers {
    /// None, or given by the operator: nothing is made here.
    None,
    LocalCa(Arc<Authority>, Clock),
    Claim(Box<dyn Provision>),
    /// The operator carries request and chain.
    Csr,
}

impl Enrollers {
    /// Whether the keeper has anything to ask.
    pub fn makes(&self) -> bool {
        !matches!(self, Enrollers::None)
    }
}

impl Enroller for Enrollers {
    async fn enroll(&self, request: &EnrollRequest) -> Result<Enrolled, EnrollError> {
        match self {
            Enrollers::None => Err(EnrollError::Waiting("there is no enroller".into())),
            Enrollers::Csr => Err(EnrollError::Waiting(format!(
                "waits for its certificate: `fieldgate identity export-csr {0}`, let it be signed, \
                 `fieldgate identity import {0} CHAIN`",
                request.subject.thing
            ))),
            Enrollers::Claim(runner) => runner.provision(request).await,
            Enrollers::LocalCa(authority, clock) => {
                let (authority, now, request) = (Arc::clone(authority), clock.now(), request.clone());
                let issued = tokio::task::spawn_blocking(move || {
                    authority.ensure(now)?;
                    authority.issue(&request.subject, &request.csr, now)
                });
                match issued.await {
                    Ok(Ok(chain)) => Ok(Enrolled { chain, key: None, thing_name: None }),
                    Ok(Err(e @ (authority::Error::Clock(_) | authority::Error::Files(_)))) => {
                        Err(EnrollError::Retryable(e.to_string()))
                    }
                    Ok(Err(e)) => Err(EnrollError::Fatal(e.to_string())),
                    Err(e) => Err(EnrollError::Retryable(e.to_string())),
                }
            }
        }
    }
}
