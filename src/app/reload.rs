//! Another configuration while the agent runs.
//!
//! Constraints: a wrong configuration changes nothing; what is the same in both goes on
//! undisturbed: its line stays open, its connection stands, its numbers go on; what cannot be
//! changed while the agent runs is refused as a whole, by name, before anything is touched.
//!
//! The way of a reload: the files → `Config`, all mistakes at once → `in_the_way` → the buses
//! that change end between two calls → the hub commits what they said and takes the new
//! devices over → the new buses start → the connections get their filters, or the gateway's is
//! made anew → the asker hears what changed.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

use super::live::Live;
use super::{App, Identities, topics};
use crate::channel::Reload;
use crate::config::{Config, EnrollerKind, Log};
use crate::identity;
use crate::identity::subject::Subject;
use crate::supervise::{Stage, Supervisor};
use crate::uplink::link::Link;

pub type Load = Box<dyn FnMut() -> Result<Config, String> + Send + Sync>;
pub type Relog = Box<dyn FnMut(&Log) -> Result<(), String> + Send + Sync>;

/// By which a reload is asked for.
pub type ReloadSender = mpsc::Sender<Reload>;

/// Where another configuration comes from, and who else must hear of it.
pub struct Source {
    /// Reads all files again; the error names every mistake.
    pub load: Load,
    /// Makes the log speak at another level.
    pub relog: Relog,
    /// Gets the sender by which a signal asks.
    pub signal: Option<oneshot::Sender<ReloadSender>>,
}

impl Source {
    pub(super) fn asks(&mut self, reloads: &ReloadSender) {
        if let Some(signal) = self.signal.take() {
            let _ = signal.send(reloads.clone());
        }
    }
}

/// Why everything stays as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the configuration is wrong, the old one goes on:\n{0}")]
    Wrong(String),
    #[error("changed, and taken over only by a restart (systemctl restart fieldgate): {}; nothing was taken over", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    #[error("the store cannot take it now, the old one goes on: {0}")]
    Store(String),
    #[error("could not be taken over, and the agent starts anew with it: {0}")]
    Broken(String),
    #[error("the agent is stopping")]
    Stopping,
}

/// Says it in the log and to whoever asked.
pub(super) fn tell(answer: Reload, done: Result<String, Refused>) {
    match &done {
        Ok(what) => tracing::info!("configuration reloaded: {what}"),
        Err(why) => tracing::error!("reload refused: {why}"),
    }
    // Who went away reads it in the log.
    let _ = answer.send(done.map_err(|why| why.to_string()));
}

impl Live {
    pub async fn reload<L: Link>(
        &mut self,
        app: &mut App<L>,
        tasks: &mut Supervisor,
    ) -> Result<String, Refused> {
        let load = app.source.as_mut().map(|source| (source.load)());
        let new = load.ok_or(Refused::Stopping)?.map_err(Refused::Wrong)?;
        let way = in_the_way(&app.config, &new);
        if !way.is_empty() {
            return Err(Refused::NeedsRestart(way));
        }
        let topics = topics(&new).map_err(|e| Refused::Wrong(e.to_string()))?;
        let identities = match subjects(&app.config) == subjects(&new) {
            true => None,
            false => Some(app.identities(&new).map_err(|e| Refused::Wrong(e.to_string()))?),
        };
        // The store learns of the layouts first: it is what may refuse.
        app.layouts(&new).map_err(|e| Refused::Store(e.to_string()))?;
        if let Some(source) = app.source.as_mut().filter(|_| new.log != app.config.log) {
            (source.relog)(&new.log).map_err(Refused::Wrong)?;
        }
        let summary = Summary::of(&app.config, &new);
        for warning in new.warnings.iter().filter(|w| !app.config.warnings.contains(w)) {
            tracing::warn!("configuration: {warning}");
        }
        let uplink_changed = app.config.uplink != new.uplink;
        self.retire(app, tasks, &new).await;
        (app.topic, app.status_topic) = topics;
        app.config = new;
        match self.take_over(app, tasks, identities, uplink_changed).await {
            Ok(opened) => Ok(Summary { opened, ..summary }.to_string()),
            Err(why) => {
                // The lines that changed are closed: only a new start makes this whole.
                tasks.spawn("reload", Stage::Service, std::future::ready(Err::<(), _>(why.clone())));
                Err(Refused::Broken(why))
            }
        }
    }

    /// Everything after the point of no return. The lines that were opened come back.
    async fn take_over<L: Link>(
        &mut self,
        app: &mut App<L>,
        tasks: &mut Supervisor,
        identities: Option<Identities>,
        uplink_changed: bool,
    ) -> Result<Vec<String>, String> {
        app.indices.assign(&app.config.devices);
        let new_identities = identities.is_some();
        if let Some(identities) = identities {
            app.identities = identities;
            self.connections.retire(app, tasks).await;
        }
        app.find_routes().map_err(|e| e.to_string())?;
        self.count(app);
        let devices = app.layouts(&app.config).map_err(|e| e.to_string())?;
        let opened = self.advance(app, tasks, devices).await?;
        if new_identities {
            self.replace_keeper(app, tasks).await;
        }
        // Only now is everything committed that devices said which are gone.
        let orphans = app.adopt_orphans().map_err(|e| e.to_string())?;
        // Rows that came to the gateway's connection are older than what it has read already.
        if uplink_changed || orphans > 0 {
            self.connections.replace_gateway(app, tasks).await;
        }
        self.connections.refresh(app, tasks);
        Ok(opened)
    }
}

/// What the running agent cannot change. Empty: nothing.
fn in_the_way(old: &Config, new: &Config) -> Vec<&'static str> {
    let own = old.identity.enroller != EnrollerKind::None;
    let log = |config: &Config| config.log.format;
    [
        (old.gateway != new.gateway, "[gateway]"),
        (old.store != new.store, "[store]"),
        (old.shadow != new.shadow, "[shadow]"),
        (old.identity != new.identity, "[identity]"),
        (log(old) != log(new), "log.format"),
        (own && old.uplink != new.uplink, "[uplink] while things have identities of their own"),
        (own && old.thing != new.thing, "[thing] while things have identities of their own"),
    ]
    .into_iter()
    .filter_map(|(changed, what)| changed.then_some(what))
    .collect()
}

/// Whose identities are kept, in an order that does not depend on the file's.
fn subjects(config: &Config) -> Vec<Subject> {
    let mut all: Vec<Subject> = identity::plan::subjects(config).into_iter().map(|(_, s)| s).collect();
    all.sort_by(|a, b| a.thing.cmp(&b.thing));
    all
}

/// What a reload did, for people.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
    /// Buses whose line was opened anew.
    opened: Vec<String>,
    uplink: bool,
    log: Option<String>,
}

impl Summary {
    fn of(old: &Config, new: &Config) -> Summary {
        let was = |name: &str| old.devices.iter().find(|d| d.name.as_str() == name);
        let is = |name: &str| new.devices.iter().any(|d| d.name.as_str() == name);
        let names =
            |all: Vec<&crate::model::device::Device>| all.iter().map(|d| d.name.to_string()).collect();
        Summary {
            added: names(new.devices.iter().filter(|d| was(d.name.as_str()).is_none()).collect()),
            changed: names(
                new.devices.iter().filter(|d| was(d.name.as_str()).is_some_and(|o| o != *d)).collect(),
            ),
            removed: names(old.devices.iter().filter(|d| !is(d.name.as_str())).collect()),
            opened: Vec::new(),
            uplink: old.uplink != new.uplink,
            log: (old.log.level != new.log.level).then(|| new.log.level.clone()),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (what, names) in [
            ("new", &self.added),
            ("changed", &self.changed),
            ("gone", &self.removed),
            ("lines opened anew", &self.opened),
        ] {
            if !names.is_empty() {
                parts.push(format!("{what}: {}", names.join(", ")));
            }
        }
        if self.uplink {
            parts.push("uplink connected anew".into());
        }
        if let Some(level) = &self.log {
            parts.push(format!("log level {level}"));
        }
        if parts.is_empty() {
            parts.push("nothing changed".into());
        }
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    #[test]
    fn what_only_a_restart_changes_is_named_and_the_rest_is_not_in_the_way() {
        let check = |change: fn(&mut Config), expected: &[&str]| {
            let (old, mut new) = (fixture::config(), fixture::config());
            change(&mut new);
            assert_eq!(in_the_way(&old, &new), expected);
        };
        check(|_| {}, &[]);
        check(|c| c.gateway.name = "gw-2".into(), &["[gateway]"]);
        check(|c| c.store.bytes_max += 1, &["[store]"]);
        check(|c| c.shadow.per_thing += 1, &["[shadow]"]);
        check(|c| c.log.level = "debug".into(), &[]);
        check(|c| c.uplink.port += 1, &[]);
        check(|c| drop(c.devices.pop()), &[]);
        check(|c| c.thing.window += 1, &[]);
    }

    #[test]
    fn connections_of_things_stay_as_they_are() {
        let check = |change: fn(&mut Config), expected: &[&str]| {
            let mut old = fixture::config();
            old.identity.enroller = EnrollerKind::Files;
            let mut new = old.clone();
            change(&mut new);
            assert_eq!(in_the_way(&old, &new), expected);
        };
        check(|c| c.uplink.port += 1, &["[uplink] while things have identities of their own"]);
        check(|c| c.thing.window += 1, &["[thing] while things have identities of their own"]);
        check(|c| drop(c.devices.pop()), &[]);
    }

    #[test]
    fn a_reload_is_told_in_one_line() {
        let (old, mut new) = (fixture::config(), fixture::config());
        assert_eq!(Summary::of(&old, &old.clone()).to_string(), "nothing changed");
        let gone = new.devices.remove(0);
        new.devices.push(crate::model::device::Device { name: "meter-9".into(), ..gone });
        new.uplink.port += 1;
        let summary = Summary { opened: vec!["line-1".into()], ..Summary::of(&old, &new) };
        assert_eq!(
            summary.to_string(),
            "new: meter-9; gone: meter-1; lines opened anew: line-1; uplink connected anew"
        );
    }
}
