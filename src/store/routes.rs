//! Which connection a row leaves by.
//!
//! A thing that has a connection of its own has a number, the same for ever, so that rows
//! which wait since another configuration still find their way. When a thing loses its own
//! connection, its rows and letters go by the gateway's.

use rusqlite::params_from_iter;
use tokio::sync::watch;

use super::{Error, Store, lock};
use crate::model::ids::DeviceName;
use crate::model::row::{OutboxId, Route};

/// What wakes the connection of a thing: its newest row and its newest letter.
pub(super) struct News {
    pub rows: watch::Sender<OutboxId>,
    pub mail: watch::Sender<i64>,
}

impl Store {
    /// The number of a thing with a connection of its own, made if it is new.
    pub fn route(&self, thing: &str) -> Result<Route, Error> {
        let w = self.writer();
        w.db.prepare_cached("INSERT OR IGNORE INTO route (thing) VALUES (?1)")?.execute([thing])?;
        let found =
            w.db.prepare_cached("SELECT id FROM route WHERE thing = ?1")?.query_row([thing], |r| r.get(0));
        let route = Route(self.marked(found.map_err(Error::from))?);
        lock(&self.own).entry(route).or_insert_with(|| News {
            rows: watch::Sender::new(OutboxId(w.tally.last_id)),
            mail: watch::Sender::new(0),
        });
        Ok(route)
    }

    /// Nobody leaves by this connection any more; its rows are orphans.
    pub fn leave(&self, route: Route) {
        lock(&self.own).remove(&route);
    }

    /// Where the rows go that the store itself writes about a device.
    pub fn set_route(&self, device: &DeviceName, route: Route) {
        lock(&self.routes).insert(device.clone(), route);
    }

    pub(super) fn route_of(&self, device: &DeviceName) -> Route {
        lock(&self.routes).get(device).copied().unwrap_or_default()
    }

    /// Rows and letters of connections that are not among those asked for with
    /// [`Store::route`] leave by the gateway's. Returns how many rows that were.
    pub fn adopt_orphans(&self) -> Result<usize, Error> {
        let known: Vec<i64> = lock(&self.own).keys().map(|route| route.0).collect();
        let marks = vec!["?"; known.len()].join(",");
        let orphaned = format!("route != 0 AND route NOT IN ({marks})");
        let (rows, newest) = self.change(|t, tally| {
            t.execute(&format!("DELETE FROM mail WHERE {orphaned}"), params_from_iter(&known))?;
            let rows = t.execute(
                &format!("UPDATE outbox SET route = 0 WHERE {orphaned}"),
                params_from_iter(&known),
            )?;
            Ok((rows, OutboxId(tally.last_id)))
        })?;
        if rows > 0 {
            self.committed.send_replace(newest);
        }
        Ok(rows)
    }

    /// Wakes whenever a row of this route was committed; the value is the newest row of all.
    pub fn committed(&self, route: Route) -> watch::Receiver<OutboxId> {
        let own = lock(&self.own);
        own.get(&route).map_or_else(|| self.committed.subscribe(), |news| news.rows.subscribe())
    }

    /// Wakes whenever a letter of this route was committed; the value is the newest one.
    pub fn mail_committed(&self, route: Route) -> watch::Receiver<i64> {
        let own = lock(&self.own);
        own.get(&route).map_or_else(|| self.mail_committed.subscribe(), |news| news.mail.subscribe())
    }

    /// Each route with its newest letter.
    pub(super) fn announce_mail(&self, posted: Vec<(Route, i64)>) {
        for (route, newest) in posted {
            match lock(&self.own).get(&route) {
                Some(news) => drop(news.mail.send_replace(newest)),
                None => drop(self.mail_committed.send_replace(newest)),
            }
        }
    }
}
