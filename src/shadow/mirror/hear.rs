//! PURE: what a mirror does with the cloud's messages.
//!
//! Answers are known by their token. What others did counts only if it follows the base, or
//! tells the whole document; anything else leads to a get.

use super::{LocalWrite, Mirror, Moment, Phase, Sent, Step, Trouble, What};
use crate::shadow::base::{Base, Note};
use crate::shadow::cloud::{Read, Seen};
use crate::shadow::document::{Section, Sections, Shadow};
use crate::shadow::message::Kind;
use crate::shadow::request::{Request, Update};
use crate::shadow::service;
use crate::shadow::sync::{self, Direction, Owner};

/// What the local shadow shall be.
struct Goal {
    state: Sections,
    keep: bool,
    conflicts: Vec<sync::Conflict>,
}

impl Mirror {
    pub(super) fn hear(
        &mut self,
        kind: Kind,
        read: &Read,
        local: &Shadow,
        now: Moment,
        step: &mut Step,
    ) -> Result<(), &'static str> {
        let asked = match &self.phase {
            Phase::Asked(asked) if read.token() == Some(&asked.token) => Some(asked.what.clone()),
            _ => None,
        };
        match (kind, asked) {
            (Kind::GetAccepted, Some(What::Get)) => {
                let seen = read.document()?;
                self.answered(step);
                self.pull(Some(seen), local, now, step);
            }
            (Kind::GetRejected, Some(What::Get)) if read.rejected().code == 404 => {
                self.answered(step);
                self.pull(None, local, now, step);
            }
            (Kind::UpdateAccepted, Some(What::Update(sent))) => {
                let version = read.version()?;
                self.answered(step);
                self.failures = 0;
                // Without a version to expect somebody else may have been first.
                self.refresh |= sent.expected.is_none_or(|e| e.saturating_add(1) != version);
                self.adopt(sent, version, step);
            }
            (Kind::DeleteAccepted, Some(What::Delete { local_version })) => {
                let version = read.version()?;
                self.answered(step);
                self.failures = 0;
                if version > self.base.cloud_version {
                    step.notes.push(Note::DeleteOverrode { version });
                }
                self.gone(version, local_version, step);
            }
            (Kind::DeleteRejected, Some(What::Delete { local_version })) if read.rejected().code == 404 => {
                self.answered(step);
                self.gone(0, local_version, step);
            }
            (Kind::GetRejected | Kind::UpdateRejected | Kind::DeleteRejected, Some(what)) => {
                let rejected = read.rejected();
                self.answered(step);
                self.failed(Trouble::of(rejected.code), now);
                step.notes.push(Note::Refused { operation: what.operation(), rejected });
            }
            (Kind::UpdateAccepted | Kind::Documents | Kind::DeleteAccepted, None) => {
                return self.overhear(kind, read, local, now, step);
            }
            // Answers to others, answers that came too late, and what follows from the rest.
            _ => {}
        }
        Ok(())
    }

    /// What others did, or what this gateway did in an earlier run.
    fn overhear(
        &mut self,
        kind: Kind,
        read: &Read,
        local: &Shadow,
        now: Moment,
        step: &mut Step,
    ) -> Result<(), &'static str> {
        if kind == Kind::DeleteAccepted {
            self.refresh |= self.base.cloud_exists && read.version()? >= self.base.cloud_version;
            return Ok(());
        }
        let news = if kind == Kind::Documents { Some(read.current()?) } else { None };
        let version = news.as_ref().map_or_else(|| read.version(), |seen| Ok(seen.version))?;
        if let Phase::Asked(_) = self.phase {
            self.seen = self.seen.max(version);
            return Ok(());
        }
        if !self.base.cloud_exists {
            // It is made anew, with whatever version: the numbering may have begun again.
            self.refresh = true;
        }
        if self.refresh || version <= self.base.cloud_version {
            return Ok(());
        }
        let follows = version == self.base.cloud_version.saturating_add(1);
        let seen = match news {
            Some(seen) => seen,
            None if follows => {
                let mut state = self.base.state.clone();
                for (section, patch) in read.patches()? {
                    state.apply(section, &patch);
                }
                Seen { state, times: read.times(), version }
            }
            None => {
                self.refresh = true;
                return Ok(());
            }
        };
        if follows && read.token().is_some_and(|token| token.starts_with(&self.origin)) {
            // An own update whose answer came too late: it was local before it was there.
            let local_version = self.base.local_version;
            self.adopt(Sent { state: seen.state, expected: None, local_version }, version, step);
        } else {
            self.pull(Some(seen), local, now, step);
        }
        Ok(())
    }

    fn answered(&mut self, step: &mut Step) {
        self.phase = Phase::Idle;
        step.released = true;
    }

    /// The cloud has what was sent.
    fn adopt(&mut self, sent: Sent, version: u64, step: &mut Step) {
        self.unknown = None;
        self.refresh |= self.seen > version;
        self.base = Base {
            state: sent.state,
            cloud_exists: true,
            cloud_version: version,
            local_version: sent.local_version,
        };
        step.base = Some(self.base.clone());
    }

    /// The cloud has nothing any more, because it was told so.
    fn gone(&mut self, version: u64, local_version: u64, step: &mut Step) {
        self.unknown = None;
        self.refresh |= self.seen > version;
        let cloud_version = self.base.cloud_version.max(version);
        self.base = Base { cloud_version, local_version, ..Base::default() };
        step.base = Some(self.base.clone());
    }

    /// Merges the cloud's document (`None`: it has none) into the local shadow; the base
    /// becomes what the cloud has.
    fn pull(&mut self, cloud: Option<Seen>, local: &Shadow, now: Moment, step: &mut Step) {
        self.settle_unknown(cloud.as_ref());
        let exists = cloud.is_some();
        let version = cloud.as_ref().map_or(self.base.cloud_version, |seen| seen.version);
        let (state, times) = cloud.map(|seen| (seen.state, seen.times)).unwrap_or_default();

        let merged = self.merged(&state, exists, local);
        if self.met_delete(exists, version, local) {
            step.notes.push(Note::DeleteMetUpdate);
        }
        step.notes.extend(merged.conflicts.into_iter().map(Note::Conflict));
        let request = match merged.keep {
            true if local.is_deleted() || !sync::agree(local.state(), &merged.state) => {
                let [desired, reported] =
                    Section::ALL.map(|section| sync::patch(local.state(), &merged.state, section));
                Some(Request::Update(Update::new(desired, reported).with_times(&times)))
            }
            false if local.exists() => Some(Request::delete(None)),
            _ => None,
        };
        let mut local_version = local.version();
        if let Some(request) = request {
            let answer = service::answer(local, &self.name, &request, now.s, &self.settings.limits);
            if let Some(rejected) = answer.rejected {
                step.notes.push(Note::NotTaken(rejected));
                return self.failed(Trouble::Refused, now);
            }
            local_version = answer.next.as_ref().map_or(local_version, Shadow::version);
            step.local = Some(LocalWrite { request, answer });
        }
        self.refresh |= self.seen > version;
        let base = Base { state, cloud_exists: exists, cloud_version: version, local_version };
        let written = step.local.as_ref().and_then(|write| write.answer.next.as_ref());
        if base != self.base {
            self.base = base;
            step.base = Some(self.base.clone());
        }
        if !self.is_ahead(written.unwrap_or(local)) {
            self.failures = 0;
        }
    }

    /// An update without an answer was done if the cloud's document is what it would be.
    fn settle_unknown(&mut self, cloud: Option<&Seen>) {
        let (Some(sent), Some(seen)) = (self.unknown.take(), cloud) else { return };
        let follows = sent.expected.is_none_or(|expected| expected.saturating_add(1) == seen.version);
        if follows && sync::agree(&sent.state, &seen.state) {
            self.base.state = sent.state;
            self.base.cloud_exists = true;
            self.base.local_version = sent.local_version;
        }
    }

    /// One side deleted, the other one has moved since.
    fn met_delete(&self, cloud_exists: bool, cloud_version: u64, local: &Shadow) -> bool {
        let cloud_deleted = self.base.cloud_exists && !cloud_exists;
        let local_moved =
            local.version() != self.base.local_version || !sync::agree(local.state(), &self.base.state);
        let local_deleted = self.base.cloud_exists && local.is_deleted();
        (cloud_deleted && local.exists() && local_moved)
            || (local_deleted && cloud_exists && cloud_version != self.base.cloud_version)
    }

    fn merged(&self, cloud: &Sections, cloud_exists: bool, local: &Shadow) -> Goal {
        let base = &self.base.state;
        match self.settings.direction {
            Direction::Both => {
                let merged = sync::merge(local.state(), cloud, base, self.settings.rules);
                // With members it lives; without, the side that made or deleted it decides.
                let keep = !sync::is_hollow(&merged.state)
                    || if local.exists() == cloud_exists { cloud_exists } else { !self.base.cloud_exists };
                Goal { state: merged.state, keep, conflicts: merged.conflicts }
            }
            Direction::ToCloud => Goal {
                state: local.state().clone(),
                keep: local.exists(),
                conflicts: sync::overwritten(cloud, local.state(), base, Owner::Device),
            },
            Direction::ToDevice => Goal {
                state: cloud.clone(),
                keep: cloud_exists,
                conflicts: sync::overwritten(local.state(), cloud, base, Owner::Cloud),
            },
        }
    }
}
