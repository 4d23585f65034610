//! The status socket: what `fieldgate status` and `fieldgate read` ask.
//!
//! Constraints: whoever asks must never slow down a reading, so there are few connections,
//! each with a bounded line and a deadline; an ask for status or a read changes nothing; only
//! root, the agent's own user and its group may ask.
//!
//! The way of an ask: accept → credentials of the peer → one line, parsed by `ask` → for
//! `status` a snapshot of the counters; for `read` a [`ReadRequest`] to the bus, which serves
//! it between two polls → one line back → closed.

pub mod ask;
pub mod client;
pub mod peer;
pub mod snapshot;
pub mod spec;

use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::ask::{Answer, Ask, Resolved, Shown, Why};
use self::peer::Identity;
use crate::channel::{self, IdentityAsk, IdentityWanted, Origin, Plant, ReadRequest, Reload, Wanted, What};
use crate::model::time::Clock;

/// Longer than an orderly stop of a line and a commit take, shorter than the asker waits.
const RELOAD_DEADLINE: Duration = Duration::from_secs(35);

/// Asks that are served at one time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 8;

/// Bytes of an ask.
const LINE_MAX: u64 = 4096;

/// For the ask to arrive, and for the answer to be taken.
const TALK_DEADLINE: Duration = Duration::from_secs(5);

/// For a bus to serve a read: it may be in the late window of a mute device.
const READ_DEADLINE: Duration = Duration::from_secs(30);

/// After `accept` failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    own: Identity,
    room: Arc<Room>,
}

/// What an answer is made of.
pub struct Room {
    pub plant: watch::Receiver<Arc<Plant>>,
    pub clock: Clock,
    /// Takes what is asked of shadows.
    pub hub: mpsc::Sender<channel::Ask>,
    /// Absent where the configuration stays as it is.
    pub reloads: Option<mpsc::Sender<Reload>>,
    pub started: Instant,
}

impl Control {
    /// Makes the socket. One that a dead agent left behind is replaced; one that answers is
    /// an error of kind `AddrInUse`.
    pub fn bind(path: &Path, room: Room) -> io::Result<Control> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(ErrorKind::AddrInUse, "another agent answers at this socket"));
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        let own =
            Identity { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        Ok(Control { listener, path: path.into(), own, room: Arc::new(room) })
    }

    pub async fn run(self, stop: CancellationToken) -> Result<(), io::Error> {
        let mut asks = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = stop.cancelled() => break,
                Some(_) = asks.join_next() => {}
                accepted = self.listener.accept(), if asks.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        asks.spawn(serve(stream, self.own, self.room.clone()));
                    }
                    Err(error) => {
                        warn!(%error, "the status socket cannot accept");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        // An ask that is being served is dropped: what it asked of the hub is done or not, as
        // if the asker had gone away.
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, "the status socket was already gone");
        }
        Ok(())
    }
}

async fn serve(stream: UnixStream, own: Identity, room: Arc<Room>) {
    let talk = async {
        let admitted = admit(&stream, own).await;
        let (read, mut write) = stream.into_split();
        let answer = match admitted {
            Err(refused) => Answer::error(Why::Refused, refused),
            Ok(uid) => match listen(read).await {
                Ok(ask) => room.answer(ask, uid).await,
                Err(error) => Answer::error(Why::Failed, error),
            },
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        timeout(TALK_DEADLINE, write.write_all(&line)).await?
    };
    if let Err(error) = talk.await {
        debug!(%error, "an asker went away");
    }
}

/// The user id of the peer. The error is what the peer is told.
async fn admit(stream: &UnixStream, own: Identity) -> Result<u32, String> {
    let cred = stream.peer_cred().map_err(|e| e.to_string())?;
    let peer = Identity { uid: cred.uid(), gid: cred.gid() };
    let text = async |path| tokio::fs::read_to_string(path).await.unwrap_or_default();
    // Without account files (a minimal container) only the peer's first group counts.
    if peer::may_ask(peer, own, "", "")
        || peer::may_ask(peer, own, &text("/etc/passwd").await, &text("/etc/group").await)
    {
        return Ok(peer.uid);
    }
    warn!(uid = peer.uid, gid = peer.gid, pid = cred.pid(), "refused at the status socket");
    Err(format!("uid {} may not ask: not root, not the agent's user, not in its group", peer.uid))
}

async fn listen(read: tokio::net::unix::OwnedReadHalf) -> Result<Ask, String> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(LINE_MAX));
    match timeout(TALK_DEADLINE, reader.read_until(b'\n', &mut line)).await {
        Ok(Ok(_)) if line.ends_with(b"\n") => {
            serde_json::from_slice(&line).map_err(|e| format!("not understood: {e}"))
        }
        Ok(Ok(n)) if n as u64 >= LINE_MAX => Err(format!("an ask has at most {LINE_MAX} bytes")),
        Ok(Ok(_)) => Err("an ask ends with a line feed".into()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no ask within {} s", TALK_DEADLINE.as_secs())),
    }
}

impl Room {
    async fn answer(&self, ask: Ask, uid: u32) -> Answer {
        match ask {
            Ask::Shadow(ask) => {
                let payload = ask.document.map(|d| d.to_string().into_bytes()).unwrap_or_default();
                let what = Wanted::Shadow {
                    thing: ask.thing,
                    shadow: ask.shadow,
                    operation: ask.operation,
                    payload,
                };
                self.ask_hub(what, uid).await
            }
            Ask::Approve { thing } => self.ask_hub(Wanted::Approve { thing }, uid).await,
            Ask::Identity(ask::Identity::Renew { thing }) => {
                self.ask_keeper(IdentityWanted::Renew { thing }).await
            }
            Ask::Identity(ask::Identity::Reload) => self.ask_keeper(IdentityWanted::Reload).await,
            Ask::Identity(ask::Identity::Trouble { thing }) => {
                self.ask_keeper(IdentityWanted::Trouble { thing }).await
            }
            Ask::Status => {
                let uptime_s = self.started.elapsed().as_secs();
                let plant = self.plant();
                let status = snapshot::take(&plant.config, &plant.metrics, self.clock.now(), uptime_s);
                Answer::Status(Box::new(status))
            }
            Ask::Reload => self.ask_reload().await,
            Ask::Read(read) => match ask::resolve(&self.plant().config, &read) {
                Err(error) => Answer::error(Why::Failed, error),
                Ok(found) => match self.read(found).await {
                    Err(error) => Answer::error(Why::Unreachable, error),
                    Ok(shown) => Answer::Read(shown),
                },
            },
        }
    }

    fn plant(&self) -> Arc<Plant> {
        Arc::clone(&self.plant.borrow())
    }

    async fn ask_reload(&self) -> Answer {
        let Some(reloads) = &self.reloads else {
            return Answer::error(Why::Failed, "this agent was started without a file to read again");
        };
        let (answer, answered) = oneshot::channel();
        if reloads.try_send(answer).is_err() {
            return Answer::error(Why::Failed, "other reloads wait, or the agent is stopping; try again");
        }
        match timeout(RELOAD_DEADLINE, answered).await {
            Ok(Ok(Ok(done))) => Answer::Done(done),
            Ok(Ok(Err(why))) => Answer::error(Why::Failed, why),
            Ok(Err(_)) => Answer::error(Why::Failed, "the agent stopped before it was done"),
            Err(_) => Answer::error(Why::Failed, "the agent did not come to it in time"),
        }
    }

    async fn ask_keeper(&self, what: IdentityWanted) -> Answer {
        let Some(keeper) = self.plant().keeper.clone() else {
            return Answer::error(Why::Failed, "this agent keeps no identities; see [identity]");
        };
        let (answer, answered) = oneshot::channel();
        if keeper.try_send(IdentityAsk { what, answer }).is_err() {
            return Answer::error(Why::Failed, "the agent has its hands full, or is stopping; try again");
        }
        match timeout(TALK_DEADLINE, answered).await {
            Ok(Ok(Ok(done))) => Answer::Done(done),
            Ok(Ok(Err(why))) => Answer::error(Why::Failed, why),
            _ => Answer::error(Why::Failed, "the agent did not come to it in time"),
        }
    }

    async fn ask_hub(&self, what: Wanted, uid: u32) -> Answer {
        let (answer, answered) = oneshot::channel();
        let ask = channel::Ask { from: Origin::Socket { uid }, what, answer };
        if self.hub.try_send(ask).is_err() {
            return Answer::error(Why::Failed, "the agent has its hands full, or is stopping; try again");
        }
        match timeout(READ_DEADLINE, answered).await {
            Ok(Ok(channel::Answer::Done)) => Answer::Shadow(serde_json::Value::Null),
            Ok(Ok(channel::Answer::Said(json))) => match serde_json::from_slice(&json) {
                Ok(document) => Answer::Shadow(document),
                Err(e) => Answer::error(Why::Failed, e.to_string()),
            },
            Ok(Ok(channel::Answer::Refused { code, message })) => {
                Answer::error(Why::Failed, format!("{code}: {message}"))
            }
            Ok(Err(_)) => Answer::error(Why::Failed, "the agent stopped before it was done"),
            Err(_) => Answer::error(Why::Failed, "the agent did not come to it in time"),
        }
    }

    async fn read(&self, found: Resolved) -> Result<Shown, String> {
        let Resolved { bus, what, unit } = found;
        let plant = self.plant();
        let what = match what {
            What::Point(place, point) => {
                What::Point(*plant.indices.get(place.at()).ok_or("the device is gone")?, point)
            }
            What::Unit(unit, point) => What::Unit(unit, point),
        };
        let sender = plant.reads.get(bus).ok_or("this bus takes no reads")?;
        let (answer, answered) = oneshot::channel();
        // Down never waits: a line that is asked faster than it can answer says so.
        sender.try_send(ReadRequest { what, answer }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => "other reads wait for this line; try again".to_string(),
            mpsc::error::TrySendError::Closed(_) => "the bus is stopping".to_string(),
        })?;
        match timeout(READ_DEADLINE, answered).await {
            Ok(Ok(measured)) => Ok(Shown::new(&measured?, unit)),
            Ok(Err(_)) => Err("the bus stopped before it could answer".into()),
            Err(_) => Err(format!("the line did not come to it within {} s", READ_DEADLINE.as_secs())),
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
