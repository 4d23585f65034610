//! Provisioning over a connection that is up: the claim asks, and a new identity comes back.
//!
//! Constraints: an answer is an ordinary message, lost if nobody has subscribed to it, so each
//! step subscribes, waits for the acknowledgement, and only then publishes. A service that is
//! away says nothing at all, so each step has its deadline. A broker that dislikes a topic
//! hangs up without a word: that looks like a lost line, so the message says both.
//! Once there is a certificate its registration is tried again, because each new attempt
//! would leave one more certificate behind in the cloud.
//!
//! The way: `provision` → `wire::provisioning` says what to do → [`Talk`] does it → what
//! arrives goes back, until there is an identity or an error. Nothing is stored here.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use super::link::LinkError;
use crate::backoff::Backoff;
use crate::wire::provisioning::{Next, ProvisionError, Provisioned, Provisioning, Request, Step};

/// What provisioning needs of a connection. Scripted in tests.
pub trait Talk: Send {
    /// Resolves when the broker has acknowledged all of them.
    fn subscribe(&mut self, filters: &[String]) -> impl Future<Output = Result<(), LinkError>> + Send;
    /// QoS 1.
    fn publish(&mut self, topic: &str, payload: &[u8]) -> impl Future<Output = Result<(), LinkError>> + Send;
    /// Topic and payload of the next message. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<(String, Vec<u8>), LinkError>> + Send;
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
    loop {
        tracing::debug!(topic = step.topic, "provisioning asks for {}", machine.doing());
        match ask(link, &mut machine, &step, start).await {
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
    let doing = machine.doing();
    let silent = |who: &str, patience: Duration| {
        let why = format!("{who} within {patience:?} when asked for {doing}");
        Trouble::Refused(ProvisionError::Retryable { why })
    };
    timeout(SUBSCRIBE_PATIENCE, link.subscribe(&step.subscribe))
        .await
        .map_err(|_| silent("the broker acknowledges no subscription", SUBSCRIBE_PATIENCE))?
        .map_err(Trouble::Line)?;
    let answered = async {
        link.publish(&step.topic, &step.payload).await.map_err(Trouble::Line)?;
        loop {
            let (topic, payload) = link.next().await.map_err(Trouble::Line)?;
            // It may hold a key.
            let payload = Zeroizing::new(payload);
            match machine.answer(&topic, &payload, start.elapsed()).map_err(Trouble::Refused)? {
                Next::Wait => {}
                next => return Ok(next),
            }
        }
    };
    timeout(ANSWER_PATIENCE, answered)
        .await
        .map_err(|_| silent("the provisioning service does not answer", ANSWER_PATIENCE))?
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
