//! What one connection presents: the pair in use, or a candidate that has to prove itself.
//!
//! Constraints: a candidate is only as good as a broker's CONNACK, so the pair in use stays
//! until then and comes back when the candidate is refused. A pair that nobody has ever
//! accepted has nothing to fall back to: it is tried again and again, because a cloud that
//! registers a certificate at first sight drops the first connection. There may be hundreds
//! of wallets, so each holds one TLS configuration, made when it is asked for, and shares
//! everything that is not its own.
//!
//! The way of a candidate: the keeper, or `fieldgate identity import`, writes it → `reload` →
//! the connection sees a new generation in `changes` and reconnects with `present` →
//! `accepted` promotes it, `refused` removes it. Three connections that end before the
//! CONNACK without a reason count as a refusal.
//!
//! Generations count within the run of the agent: a number names what was presented.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ClientConfig;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::files::{self, Folder, Mark, Pair, Slot};
use super::subject::Facts;
use super::tls::{self, Trust};
use crate::model::time::Timestamp;

/// Connections in a row that ended before the CONNACK, after which a candidate is given up.
const DROPS_MAX: u32 = 3;

/// What the connections of all wallets have in common.
#[derive(Clone, Debug)]
pub struct Common {
    pub trust: Trust,
    pub alpn: Arc<[String]>,
}

/// Where the pair of a wallet comes from.
#[derive(Clone, Debug)]
enum Source {
    /// Made and kept here.
    Kept(Folder),
    /// Given by the operator and exchanged by him; never written.
    Given { certificate: PathBuf, key: PathBuf },
}

/// What to present now.
#[derive(Clone, Debug)]
pub struct Presented {
    pub generation: u64,
    /// Not proved yet.
    pub is_candidate: bool,
    /// No broker has accepted any pair of this identity yet: that the first connection is
    /// dropped is to be expected.
    pub is_new: bool,
    pub config: Arc<ClientConfig>,
    /// Certificate id, lower-case hex.
    pub certificate: String,
}

/// How an identity does, for status and faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub current: Option<Facts>,
    pub candidate: Option<Facts>,
    /// Candidates that were refused in a row, and the last reason.
    pub refusals: u32,
    pub refused_because: Option<String>,
    /// The pair in use was refused, and why; cleared by the next CONNACK.
    pub current_refused: Option<String>,
    /// Why there is no new certificate, as the keeper says it.
    pub fault: Option<String>,
}

impl State {
    /// What is wrong, a sentence each.
    pub fn trouble(&self) -> Vec<String> {
        let refused = self.current_refused.as_ref().map(|why| format!("its certificate is refused: {why}"));
        let taken_back = self.refused_because.as_ref().map(|why| {
            format!("its last new certificate was refused ({} in a row) and taken back: {why}", self.refusals)
        });
        refused.into_iter().chain(taken_back).chain(self.fault.clone()).collect()
    }
}

/// The identity of one thing.
#[derive(Debug)]
pub struct Wallet {
    thing: Arc<str>,
    source: Source,
    common: Common,
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    mark: Mark,
    /// Presented now; 0: nothing.
    generation: u64,
    /// The last one given out: no number is used twice.
    last: u64,
    is_candidate: bool,
    /// Made at the first `present` of a generation.
    config: Option<Arc<ClientConfig>>,
    drops: u32,
}

impl Wallet {
    /// A wallet whose pairs live in the folder. That there is none yet is fine; one that cannot
    /// be read is this identity's fault and nobody else's, so it is told by `state`.
    pub fn kept(thing: &str, folder: Folder, common: Common) -> Arc<Wallet> {
        Wallet::new(thing, Source::Kept(folder), common)
    }

    /// A wallet of a pair that the operator gives; a place is a file or `credential:NAME`.
    pub fn given(thing: &str, certificate: PathBuf, key: PathBuf, common: Common) -> Arc<Wallet> {
        Wallet::new(thing, Source::Given { certificate, key }, common)
    }

    fn new(thing: &str, source: Source, common: Common) -> Arc<Wallet> {
        let (changes, _) = watch::channel(0);
        let wallet = Wallet { thing: thing.into(), source, common, inner: Mutex::default(), changes };
        if let Err(e) = wallet.reload() {
            wallet.set_fault(Some(e.to_string()));
        }
        Arc::new(wallet)
    }

    pub fn thing(&self) -> &str {
        &self.thing
    }

    /// The generation to present; 0: there is nothing to present. Wakes when it changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub fn state(&self) -> State {
        self.inner().state.clone()
    }

    /// Says whether that is news.
    pub fn set_fault(&self, fault: Option<String>) -> bool {
        let mut inner = self.inner();
        let is_news = inner.state.fault != fault;
        inner.state.fault = fault;
        is_news
    }

    /// Until the first CONNACK of any of its pairs.
    pub fn is_new(&self) -> bool {
        self.inner().state.current.is_none()
    }

    /// Made by the agent, not given by the operator.
    pub fn folder(&self) -> Option<&Folder> {
        match &self.source {
            Source::Kept(folder) => Some(folder),
            Source::Given { .. } => None,
        }
    }

    /// What the next connection presents: the candidate if there is one. `None`: nothing yet.
    pub fn present(&self) -> Result<Option<Presented>, files::Error> {
        let mut inner = self.inner();
        if inner.generation == 0 {
            return Ok(None);
        }
        let facts = if inner.is_candidate { &inner.state.candidate } else { &inner.state.current };
        let certificate = facts.as_ref().map_or(String::new(), |f| f.id.clone());
        let config = match &inner.config {
            Some(config) => Arc::clone(config),
            None => {
                let made = self.make(inner.is_candidate)?;
                inner.config = Some(Arc::clone(&made));
                made
            }
        };
        Ok(Some(Presented {
            generation: inner.generation,
            is_candidate: inner.is_candidate,
            is_new: inner.state.current.is_none(),
            config,
            certificate,
        }))
    }

    /// The broker said yes to what was presented: a candidate is promoted. Touches the disk.
    pub fn accepted(&self, generation: u64) -> Result<(), files::Error> {
        let mut inner = self.inner();
        inner.drops = 0;
        if inner.generation != generation {
            return Ok(());
        }
        inner.state.current_refused = None;
        let (true, Source::Kept(folder)) = (inner.is_candidate, &self.source) else { return Ok(()) };
        let held = folder.lock()?;
        folder.promote(&held, &self.thing)?;
        inner.mark = folder.mark(&self.thing)?;
        inner.state.current = inner.state.candidate.take();
        inner.state.refusals = 0;
        inner.state.refused_because = None;
        // The pair is the same, and so is its configuration: nobody has to reconnect.
        inner.is_candidate = false;
        Ok(())
    }

    /// The broker said no to what was presented: a candidate gives way to the pair in use.
    /// Without one it stays, because there is nothing better. Touches the disk.
    pub fn refused(&self, generation: u64, why: &str) -> Result<(), files::Error> {
        let mut inner = self.inner();
        if inner.generation != generation {
            return Ok(());
        }
        inner.drops = 0;
        if !inner.is_candidate || inner.state.current.is_none() {
            inner.state.current_refused = Some(why.to_owned());
            return Ok(());
        }
        let Source::Kept(folder) = &self.source else { return Ok(()) };
        let held = folder.lock()?;
        folder.remove(&held, &self.thing, Slot::Next)?;
        inner.state.candidate = None;
        inner.state.refusals = inner.state.refusals.saturating_add(1);
        inner.state.refused_because = Some(why.to_owned());
        inner.mark = folder.mark(&self.thing)?;
        self.turn(&mut inner, false);
        Ok(())
    }

    /// The connection ended after TLS began and before the CONNACK, and nobody said why.
    pub fn dropped(&self, generation: u64, why: &str) -> Result<(), files::Error> {
        let drops = {
            let mut inner = self.inner();
            if inner.generation != generation {
                return Ok(());
            }
            inner.drops = inner.drops.saturating_add(1);
            inner.drops
        };
        if drops < DROPS_MAX { Ok(()) } else { self.refused(generation, why) }
    }

    /// Looks at the files again; says whether something else has to be presented now.
    pub fn reload(&self) -> Result<bool, files::Error> {
        let mut inner = self.inner();
        let (current, candidate) = match &self.source {
            Source::Kept(folder) => {
                let mark = folder.mark(&self.thing)?;
                if mark == inner.mark {
                    return Ok(false);
                }
                let pairs = (folder.read(&self.thing, Slot::Current)?, folder.read(&self.thing, Slot::Next)?);
                inner.mark = mark;
                (facts(&pairs.0), facts(&pairs.1))
            }
            Source::Given { .. } => {
                let certified = self.given_pair()?;
                (certified.cert.first().and_then(|leaf| Facts::of(leaf).ok()), None)
            }
        };
        let id = |facts: &Option<Facts>| facts.as_ref().map(|f| f.id.clone());
        let before = if inner.is_candidate { id(&inner.state.candidate) } else { id(&inner.state.current) };
        let now = id(&candidate).or(id(&current));
        let is_candidate = candidate.is_some();
        (inner.state.current, inner.state.candidate) = (current, candidate);
        if before == now {
            inner.is_candidate = is_candidate;
            return Ok(false);
        }
        inner.drops = 0;
        inner.state.current_refused = None;
        self.turn(&mut inner, is_candidate);
        if now.is_none() {
            inner.generation = 0;
            self.changes.send_replace(0);
        }
        Ok(true)
    }

    /// When the pair in use ends, or the candidate of an identity that has none in use.
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        let inner = self.inner();
        let facts = inner.state.current.as_ref().or(inner.state.candidate.as_ref())?;
        Some((facts.not_before, facts.not_after))
    }

    /// Something else is presented from now on.
    fn turn(&self, inner: &mut Inner, is_candidate: bool) {
        inner.is_candidate = is_candidate;
        inner.config = None;
        inner.last += 1;
        inner.generation = inner.last;
        self.changes.send_replace(inner.generation);
    }

    fn make(&self, candidate: bool) -> Result<Arc<ClientConfig>, files::Error> {
        let certified = match &self.source {
            Source::Kept(folder) => {
                let slot = if candidate { Slot::Next } else { Slot::Current };
                let missing = || files::Error::Missing { what: "pair", thing: self.thing.to_string() };
                let pair = folder.read(&self.thing, slot)?.ok_or_else(missing)?;
                self.certify(&pair)?
            }
            Source::Given { .. } => self.given_pair()?,
        };
        let unusable = |e: tls::Error| self.unusable(e);
        self.common.trust.config(Some(certified), &self.common.alpn).map_err(unusable)
    }

    fn certify(&self, pair: &Pair) -> Result<CertifiedKey, files::Error> {
        let chain = pair.certificates().map_err(|e| self.unusable(e))?;
        pair.key.certified(chain).map_err(|e| self.unusable(e))
    }

    fn given_pair(&self) -> Result<CertifiedKey, files::Error> {
        let Source::Given { certificate, key } = &self.source else {
            return Err(self.unusable("no given pair"));
        };
        tls::certified(certificate, key).map_err(|e| self.unusable(e))
    }

    fn unusable(&self, why: impl std::fmt::Display) -> files::Error {
        files::Error::Chain { path: self.thing.as_ref().into(), why: why.to_string() }
    }

    /// A panic while it is held leaves whole values behind.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn facts(pair: &Option<Pair>) -> Option<Facts> {
    pair.as_ref().and_then(|pair| pair.facts().ok())
}

#[cfg(test)]
mod tests;
