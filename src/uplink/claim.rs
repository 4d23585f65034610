//! Provisioning over a connection that is up: the claim asks, and a new identity comes back.
//!
//! Constraints: an answer is an ordinary message, lost if nobody has subscribed to it, so
//! nothing is published before every subscription is answered. A service that is away says
//! nothing at all, so each step has its deadline. A broker that dislikes a topic
//! hangs up without a word: that looks like a lost line, so the message says both.
//! Once there is a certificate its registration is tried again, because each new attempt
//! would leave one more certificate behind in the cloud.
//!
//! The way: `provision` → `wire::provisioning` says what to do → [`Talk`] does it → what
//! arrives goes back, until there is an identity or an error. Nothing is stored here.

mod talking;

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

pub use self::talking::Talking;
use super::link::LinkError;
use crate::backoff::Backoff;
use crate::wire::provisioning::{Next, ProvisionError, Provisioned, Provisioning, Request, Step};

/// What provisioning needs of a connection. Scripted in tests.
pub trait Talk: Send {
    /// Once, before anything else. Resolves when the broker has answered all of them, with
    /// those that it refused and why.
    fn subscribe(
        &mut self,
        filters: &[String],
    ) -> impl Future<Output = Result<Vec<(String, String)>, LinkError>> + Send;
    /// QoS 1.
    fn publish(&mut self, topic: &str, payload: &[u8]) -> impl Future<Output = Result<(), LinkError>> + Send;
    /// What comes next. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Heard, LinkError>> + Send;
}

#[derive(Clone, PartialEq, Eq)]
pub enum Heard {
    Message {
        topic: String,
        /// It may hold a key.
        payload: Zeroizing<Vec<u8>>,
    },
    /// The broker refused our publish, and why; only MQTT 5 can.
    Refused(String),
}

/// Makes the holder of a claim a thing of its own. `seed` spreads the repetitions of gateways
/// that are switched on together.
///
/// # Errors
/// `Retryable`: connect and begin again after a pause. `Fatal`: tell the operator.
pub async fn provision(
    link: &mut impl Talk,
    request: Request,
    seed: u64,
) -> Result<Provisioned, ProvisionError> {
    let start = Instant::now();
    let mut pauses = Backoff::new(REPEAT_MIN, REPEAT_MAX, seed);
    let mut repeats = 0;
    let (mut machine, mut step) = Provisioning::begin(request)?;
    let refused = match timeout(SUBSCRIBE_PATIENCE, link.subscribe(&machine.answers())).await {
        Ok(answered) => answered.map_err(|e| lost(&machine, &e))?,
        Err(_) => {
            return Err(silent(&machine, "the broker acknowledges no subscription", SUBSCRIBE_PATIENCE));
        }
    };
    loop {
        tracing::debug!(topic = step.topic, "provisioning asks for {}", machine.doing());
        let deaf = refused.iter().find(|(filter, _)| filter.starts_with(&format!("{}/", step.topic)));
        let next = match deaf {
            Some((filter, why)) => machine
                .forbidden(&format!("the broker refused the subscription to {filter}: {why}"))
                .map_err(Trouble::Refused),
            None => ask(link, &mut machine, &step, start).await,
        };
        match next {
            Ok(Next::Done(done)) => return Ok(*done),
            Ok(Next::Step(next)) => step = next,
            Ok(Next::Wait) => {}
            Err(Trouble::Line(e)) => return Err(lost(&machine, &e)),
            Err(Trouble::Refused(e @ ProvisionError::Fatal { .. })) => return Err(e),
            Err(Trouble::Refused(e)) => {
                let Some(same) = machine.step().filter(|_| machine.is_registering()) else { return Err(e) };
                if repeats == REPEATS_MAX {
                    return Err(e);
                }
                repeats += 1;
                tracing::warn!(repeats, "{e}; the same again");
                step = same;
                sleep(pauses.next()).await;
            }
        }
    }
}

enum Trouble {
    Line(LinkError),
    Refused(ProvisionError),
}

/// One step with its answer, or with the end of its patience.
async fn ask(
    link: &mut impl Talk,
    machine: &mut Provisioning,
    step: &Step,
    start: Instant,
) -> Result<Next, Trouble> {
    let silence = silent(machine, "the provisioning service does not answer", ANSWER_PATIENCE);
    let answered = async {
        link.publish(&step.topic, &step.payload).await.map_err(Trouble::Line)?;
        loop {
            let next = match link.next().await.map_err(Trouble::Line)? {
                Heard::Message { topic, payload } => machine.answer(&topic, &payload, start.elapsed()),
                Heard::Refused(why) if why.contains("QuotaExceeded") => {
                    Err(ProvisionError::Retryable { why: "the broker takes no more for now".into() })
                }
                Heard::Refused(why) => machine.forbidden(&format!("the broker refused the publish: {why}")),
            };
            match next.map_err(Trouble::Refused)? {
                Next::Wait => {}
                next => return Ok(next),
            }
        }
    };
    timeout(ANSWER_PATIENCE, answered).await.unwrap_or(Err(Trouble::Refused(silence)))
}

fn silent(machine: &Provisioning, who: &str, patience: Duration) -> ProvisionError {
    ProvisionError::Retryable { why: format!("{who} within {patience:?} when asked for {}", machine.doing()) }
}

/// The connection ended in the middle of a step.
fn lost(machine: &Provisioning, error: &LinkError) -> ProvisionError {
    let doing = machine.doing();
    match error {
        LinkError::TlsRefused(_) | LinkError::AuthRefused(_) => {
            ProvisionError::Fatal { why: format!("asked for {doing}: {error}") }
        }
        LinkError::HungUp(_) => ProvisionError::Retryable {
            why: format!("asked for {doing}: {error}; perhaps the claim's policy does not allow it"),
        },
        _ => ProvisionError::Retryable { why: format!("asked for {doing}: {error}") },
    }
}

/// For SUBACK.
const SUBSCRIBE_PATIENCE: Duration = Duration::from_secs(10);
/// For an answer; a hook of the template alone may take 5 s.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// Repetitions of one registration; all of them end long before the token does.
const REPEATS_MAX: u32 = 3;
const REPEAT_MIN: Duration = Duration::from_secs(2);
const REPEAT_MAX: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
