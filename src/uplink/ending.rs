//! How a connection ends: in order, or with what the line still had to say.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::link::{Link, LinkError, LinkEvent, Session};
use super::session::Run;
use super::suspect::Suspect;
use super::window::Lane;
use super::{Ended, Error, Uplink};
use crate::model::row::Route;

impl<L: Link> Uplink<L> {
    /// The client takes no more, because its connection is over: acknowledgements that were
    /// read before are as good as any, and behind them stands why it is over.
    pub(super) async fn last_words(
        &self,
        run: &mut Run<L::Session>,
        suspect: &mut Suspect,
        why: LinkError,
    ) -> Result<Ended, Error> {
        let mut events = Vec::new();
        let session = &mut run.session;
        let ended = timeout(DISCONNECT_MAX, async {
            loop {
                if let Err(why) = session.events(&mut events).await {
                    return why;
                }
            }
        });
        let why = ended.await.unwrap_or(why);
        for event in events {
            if self.apply(run, suspect, event).await?.is_err() {
                break;
            }
        }
        Ok(run.lost(why))
    }

    /// An orderly end: nothing new, the window empties within its grace and what the hub still
    /// answers is acknowledged, then DISCONNECT. Before a stop the status says offline.
    pub(super) async fn goodbye(
        &self,
        run: &mut Run<L::Session>,
        suspect: &mut Suspect,
        stops: bool,
    ) -> Result<Ended, Error> {
        let ended = if stops { Ended::Stopped } else { Ended::Renewed };
        if let Some(message) = self.status(false).filter(|_| stops) {
            let _ = run.publish(None, 0, Lane::Live, message);
        }
        let until = Instant::now() + self.grace;
        let mut events = Vec::new();
        while !run.window.is_empty() || run.inbox.is_asking() {
            let (session, inbox) = (&mut run.session, &mut run.inbox);
            tokio::select! {
                biased;
                ended = session.events(&mut events) => if ended.is_err() { break },
                answered = inbox.next() => {
                    let acked = answered.and_then(|token| token.map_or(Ok(()), |t| session.ack(t)));
                    if acked.is_err() {
                        break;
                    }
                }
                () = sleep_until(until) => break,
            }
            for event in events.drain(..) {
                if self.apply(run, suspect, event).await?.is_err() {
                    return Ok(ended);
                }
            }
        }
        run.session.disconnect();
        let _ = timeout(DISCONNECT_MAX, async {
            while run.session.events(&mut events).await.is_ok() {
                if events.contains(&LinkEvent::Disconnected) {
                    return;
                }
                events.clear();
            }
        })
        .await;
        if stops && self.route == Route::GATEWAY {
            self.metrics.uplink.state.set("stopped");
        }
        Ok(ended)
    }
}

/// Of the wait for what the line still says, and for our own DISCONNECT to be sent.
const DISCONNECT_MAX: Duration = Duration::from_secs(1);
