//! What arrived and waits: first for a place in the hub's channel, then for its answer.
//!
//! Constraints: the answers are waited for in the order of arrival, because MQTT wants its
//! acknowledgements in that order; nothing here makes the session wait, so PUBACKs of our own
//! publishes go on whatever the hub does. Whoever makes the connection keeps the number of
//! unacknowledged messages bounded; more than [`ARRIVALS_MAX`] end it.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};

use super::link::{LinkError, Token, places};
use crate::channel::{Answer, Ask, Origin, Wanted};
use crate::model::row::Route;

pub struct Inbox {
    route: Route,
    asks: Option<mpsc::Sender<Ask>>,
    /// No place for them yet.
    waiting: VecDeque<(Option<Token>, Wanted)>,
    asked: VecDeque<(Token, oneshot::Receiver<Answer>)>,
    /// The hub is going down: what is not answered now is not acknowledged any more.
    is_deaf: bool,
}

/// What to do with a message that arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    Kept,
    /// Nobody wants it: acknowledge, or it comes again for ever.
    Unwanted,
}

impl Inbox {
    pub fn new(route: Route, asks: Option<mpsc::Sender<Ask>>) -> Inbox {
        Inbox { route, asks, waiting: VecDeque::new(), asked: VecDeque::new(), is_deaf: false }
    }

    pub fn arrived(&mut self, topic: String, payload: Vec<u8>, token: Token) -> Result<Taken, LinkError> {
        if self.asks.is_none() {
            return Ok(Taken::Unwanted);
        }
        if self.is_deaf {
            return Ok(Taken::Kept);
        }
        if self.waiting.len() + self.asked.len() >= ARRIVALS_MAX {
            return Err(LinkError::Overrun(ARRIVALS_MAX));
        }
        self.waiting.push_back((Some(token), Wanted::Arrived { topic, payload }));
        Ok(Taken::Kept)
    }

    /// The connection stands and its subscriptions are answered. `false`: nobody to tell.
    pub fn online(&mut self) -> bool {
        if self.asks.is_some() {
            self.waiting.push_back((None, Wanted::Online(self.route)));
        }
        self.asks.is_some()
    }

    /// Asks the hub as soon as there is a place, or waits for its oldest answer. Returns what
    /// may be acknowledged now, if anything. May be cancelled: nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Token>, LinkError> {
        let Inbox { route, asks, waiting, asked, .. } = self;
        tokio::select! {
            biased;
            answer = answered(asked) => match answer {
                Some(token) => return Ok(Some(token)),
                None if asks.as_ref().is_none_or(mpsc::Sender::is_closed) => {}
                // On another connection it comes again, and so does the question.
                None => return Err(LinkError::Unreachable("the hub dropped a message".into())),
            },
            permit = permit(asks), if !waiting.is_empty() => {
                if let (Some(permit), Some((token, what))) = (permit, waiting.pop_front()) {
                    let (answer, answered) = oneshot::channel();
                    asked.extend(token.map(|token| (token, answered)));
                    permit.send(Ask { from: Origin::Uplink(*route), what, answer });
                    return Ok(None);
                }
            }
        }
        self.is_deaf = true;
        self.waiting.clear();
        self.asked.clear();
        Ok(None)
    }

    /// Somebody waits for an answer of the hub.
    pub fn is_asking(&self) -> bool {
        !self.asked.is_empty()
    }
}

/// `None`: it was dropped. For ever when nothing was asked.
async fn answered(asked: &mut VecDeque<(Token, oneshot::Receiver<Answer>)>) -> Option<Token> {
    let Some((token, answer)) = asked.front_mut() else { return std::future::pending().await };
    // Whatever it is, done or refused, it is the hub's last word on this message.
    let token = answer.await.ok().map(|_| *token);
    asked.pop_front();
    token
}

/// `None`: the hub is gone.
async fn permit(asks: &Option<mpsc::Sender<Ask>>) -> Option<mpsc::Permit<'_, Ask>> {
    asks.as_ref()?.reserve().await.ok()
}

/// Messages of one connection that may wait here.
pub const ARRIVALS_MAX: usize = places::HELD_MAX + places::LOOSE_MAX;
