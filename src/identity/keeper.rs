//! Keeps every identity alive: enrols what is missing, renews what is due, warns of what ends.
//!
//! Constraints: there may be hundreds of things and a cloud that is away for months, so each
//! identity backs off alone, few enrolments run at one time, and nothing here is ever waited
//! for by a reading. A candidate is left to its connection (`wallet`). A key is on the disk
//! before its request leaves, so that a certificate never comes back to a key that is gone.
//!
//! The way of a renewal: the walk finds that it is due → `enroll` in a task of
//! its own: key, request, chain → candidate on the disk → `reload` → the connection proves it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::enroll::{EnrollError, EnrollRequest, Enrolled, Enroller};
use super::files::{Pair, Slot};
use super::key::{Key, KeyType};
use super::renewal::{self, Due};
use super::subject::{Facts, SERIAL_MAX, Subject};
use super::wallet::Wallet;
use crate::backoff::Backoff;
use crate::channel::{IdentityAsk, IdentityWanted, Serials};
use crate::model::time::Clock;

/// Between two walks over all identities: two looks at the disk for each.
const WALK: Duration = Duration::from_secs(60);

/// Enrolments at one time.
const AT_ONCE: usize = 2;

/// After an enrolment failed, and after a broker refused its result.
const BACKOFF_MIN: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(6 * 3600);

/// What the operator configured.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Share of the lifetime after which a certificate is replaced.
    pub renew_at: f64,
    pub key_type: KeyType,
    /// The enroller writes into the certificate what the device says of itself; so a
    /// certificate from before that was known is replaced.
    pub binds_serial: bool,
}

/// One identity of the plant.
pub struct Kept {
    pub subject: Subject,
    pub wallet: Arc<Wallet>,
}

pub struct Keeper<E> {
    pub identities: Vec<Kept>,
    pub enroller: Arc<E>,
    /// Without one (`none`, `files`) the keeper only looks and warns.
    pub enrols: bool,
    pub policy: Policy,
    pub clock: Clock,
    /// `renew` and `reload` from the status socket.
    pub asks: mpsc::Receiver<IdentityAsk>,
    pub serials: watch::Receiver<Serials>,
}

/// What the keeper remembers of one identity.
struct Course {
    backoff: Backoff,
    /// Not before this moment.
    next: Instant,
    is_running: bool,
    /// The operator asked for it.
    asked: bool,
    refusals: u32,
    /// The last threshold of days that was told.
    warned: Option<i64>,
}

type Ended = (usize, Result<(), EnrollError>);

impl<E: Enroller> Keeper<E> {
    /// Runs until `stop`. Enrolments that are running are dropped: what they left on the disk
    /// is whole.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut courses: Vec<Course> =
            self.identities.iter().map(|kept| Course::new(&kept.subject)).collect();
        let mut running: JoinSet<Ended> = JoinSet::new();
        let mut walk = interval(WALK);
        self.bind();
        walk.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(ended) = running.join_next() => {
                    if let Ok((at, result)) = ended {
                        self.ended(at, result, &mut courses[at]);
                    }
                }
                Some(ask) = self.asks.recv() => self.ask(ask, &mut courses),
                Ok(()) = self.serials.changed() => self.bind(),
                _ = walk.tick() => {}
            }
            self.walk(&mut courses, &mut running);
        }
    }

    /// Takes over what is known of the devices.
    fn bind(&mut self) {
        let serials = Serials::clone(&self.serials.borrow_and_update());
        for kept in &mut self.identities {
            kept.subject.serial = serials.get(&kept.subject.thing).cloned();
        }
    }

    /// The certificate does not say which device it is for, or says another one.
    fn is_unbound(&self, kept: &Kept, facts: &Facts) -> bool {
        let serial = kept.subject.serial.as_ref();
        let said = serial.map(|s| s.chars().take(SERIAL_MAX).collect::<String>());
        self.policy.binds_serial && said.is_some() && said != facts.device_serial
    }

    fn walk(&self, courses: &mut [Course], running: &mut JoinSet<Ended>) {
        for (at, (kept, course)) in self.identities.iter().zip(courses).enumerate() {
            if let Err(e) = kept.wallet.reload() {
                kept.wallet.set_fault(Some(e.to_string()));
                continue;
            }
            self.warn(kept, course);
            if running.len() < AT_ONCE && self.is_due(kept, course) {
                course.is_running = true;
                course.asked = false;
                let (subject, wallet) = (kept.subject.clone(), Arc::clone(&kept.wallet));
                let (enroller, kind) = (Arc::clone(&self.enroller), self.policy.key_type);
                running.spawn(async move { (at, enroll(&*enroller, subject, wallet, kind).await) });
            }
        }
    }

    /// Whether this identity needs a certificate now and may ask for one.
    fn is_due(&self, kept: &Kept, course: &mut Course) -> bool {
        if !self.enrols || course.is_running || kept.wallet.folder().is_none() {
            return false;
        }
        let state = kept.wallet.state();
        if state.refusals > course.refusals {
            course.next = Instant::now() + course.backoff.next();
            warn!(thing = %kept.subject.thing, why = %state.refused_because.as_deref().unwrap_or_default(),
                "the broker refused the new certificate; the old one stays");
        }
        course.refusals = state.refusals;
        if Instant::now() < course.next && !course.asked {
            return false;
        }
        let now = self.clock.now();
        let due = |facts: &Facts| {
            renewal::due(facts.not_before, facts.not_after, now, self.policy.renew_at, &kept.subject.thing)
        };
        match (&state.candidate, &state.current) {
            // It has to prove itself first, unless it never can.
            (Some(candidate), _) => due(candidate) == Due::Expired,
            (None, None) => now >= crate::model::time::CLOCK_PLAUSIBLE_FROM,
            (None, Some(current)) => match due(current) {
                Due::Renew | Due::Expired => true,
                Due::Wait(_) => course.asked || self.is_unbound(kept, current),
                Due::ClockUntrusted => false,
            },
        }
    }

    fn ended(&self, at: usize, result: Result<(), EnrollError>, course: &mut Course) {
        let Kept { subject, wallet } = &self.identities[at];
        course.is_running = false;
        let thing = &subject.thing;
        let pause = match &result {
            Ok(()) => {
                info!(%thing, "a new certificate is there; the next connection proves it");
                course.backoff.reset();
                return;
            }
            Err(EnrollError::Waiting(why)) => {
                if wallet.set_fault(Some(why.clone())) {
                    info!(%thing, %why, "no certificate yet");
                }
                BACKOFF_MIN
            }
            Err(EnrollError::Retryable(why)) => {
                wallet.set_fault(Some(format!("no new certificate: {why}")));
                debug!(%thing, %why, "no new certificate; trying again");
                course.backoff.next()
            }
            Err(EnrollError::Fatal(why)) => {
                if wallet.set_fault(Some(format!("no new certificate: {why}"))) {
                    warn!(%thing, %why, "no new certificate");
                }
                BACKOFF_MAX
            }
        };
        course.next = Instant::now() + pause;
    }

    /// Each threshold is told once.
    fn warn(&self, kept: &Kept, course: &mut Course) {
        let Some((not_before, not_after)) = kept.wallet.validity() else { return };
        let now = self.clock.now();
        let passed = renewal::warning(not_before, not_after, now, self.policy.renew_at);
        if passed != course.warned
            && let Some(days) = passed
        {
            let thing = &kept.subject.thing;
            if now >= not_after {
                warn!(%thing, ended = %not_after, "the certificate has ended");
            } else {
                warn!(%thing, ends = %not_after, "the certificate ends within {days} days");
            }
        }
        course.warned = passed;
    }

    fn ask(&self, ask: IdentityAsk, courses: &mut [Course]) {
        let answer = match &ask.what {
            // The walk that follows looks at every file.
            IdentityWanted::Reload => Ok("looked at the files again".to_owned()),
            IdentityWanted::Renew { thing } => self.renew(thing, courses),
            IdentityWanted::Trouble { thing } => {
                self.place(thing).map(|at| self.identities[at].wallet.state().trouble().join("\n"))
            }
        };
        // Who asked may have gone.
        let _ = ask.answer.send(answer);
    }

    fn place(&self, thing: &str) -> Result<usize, String> {
        let at = self.identities.iter().position(|kept| kept.subject.thing == thing);
        at.ok_or_else(|| format!("there is no thing {thing:?} with an identity of its own"))
    }

    fn renew(&self, thing: &str, courses: &mut [Course]) -> Result<String, String> {
        let at = self.place(thing)?;
        if !self.enrols || self.identities[at].wallet.folder().is_none() {
            return Err(format!("nobody makes certificates for {thing}: see identity.enroller"));
        }
        if self.identities[at].wallet.state().candidate.is_some() {
            return Err(format!("{thing} has a new certificate already, which its next connection proves"));
        }
        courses[at].asked = true;
        Ok(format!(
            "{thing} gets a new key and certificate; `fieldgate identity show {thing}` shows how far it is"
        ))
    }
}

impl Course {
    fn new(subject: &Subject) -> Course {
        Course {
            backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX, renewal::seed(&subject.thing)),
            next: Instant::now(),
            is_running: false,
            asked: false,
            refusals: 0,
            warned: None,
        }
    }
}

/// One enrolment, up to the candidate on the disk.
async fn enroll<E: Enroller>(
    enroller: &E,
    subject: Subject,
    wallet: Arc<Wallet>,
    kind: KeyType,
) -> Result<(), EnrollError> {
    let (asked, keeping) = (subject.clone(), Arc::clone(&wallet));
    let (key, csr) = on_a_thread(move || request(&asked, &keeping, kind)).await?;
    let enrolled = enroller.enroll(&EnrollRequest { subject: subject.clone(), csr }).await?;
    if let Some(name) = enrolled.thing_name.as_ref().filter(|name| **name != subject.thing) {
        warn!(thing = %subject.thing, %name, "the cloud calls this thing by another name");
    }
    on_a_thread(move || keep(&subject.thing, &wallet, key, &enrolled)).await
}

/// The key that waits for its certificate, or a new one, with its request.
pub fn request(subject: &Subject, wallet: &Wallet, kind: KeyType) -> Result<(Key, String), String> {
    let folder = wallet.folder().ok_or("its certificate is given by the operator")?;
    let held = folder.lock().map_err(|e| e.to_string())?;
    let key = match folder.read_key(&subject.thing).map_err(|e| e.to_string())? {
        Some(key) => key,
        None => {
            let key = Key::generate(kind).map_err(|e| e.to_string())?;
            folder.write_key(&held, &subject.thing, &key).map_err(|e| e.to_string())?;
            key
        }
    };
    let csr = key.request(subject).map_err(|e| e.to_string())?;
    Ok((key, csr))
}

/// Makes a candidate of what came back; only then the waiting key is given up.
fn keep(thing: &str, wallet: &Wallet, key: Key, enrolled: &Enrolled) -> Result<(), String> {
    let folder = wallet.folder().ok_or("its certificate is given by the operator")?;
    let key = match &enrolled.key {
        Some(made) => Key::from_pem(made).map_err(|e| e.to_string())?,
        None => key,
    };
    let pair = Pair::new(key, &enrolled.chain)?;
    let held = folder.lock().map_err(|e| e.to_string())?;
    folder.write(&held, thing, Slot::Next, &pair).map_err(|e| e.to_string())?;
    folder.remove_key(&held, thing).map_err(|e| e.to_string())?;
    drop(held);
    wallet.set_fault(None);
    wallet.reload().map(drop).map_err(|e| e.to_string())
}

/// Disk and RSA take time that readings have not.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, EnrollError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(EnrollError::Retryable),
        Err(e) => Err(EnrollError::Retryable(e.to_string())),
    }
}

#[cfg(test)]
mod tests;
