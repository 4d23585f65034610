//! A claim's connection, as provisioning talks over it.
//!
//! Nothing that arrives here is worth a second delivery: an answer that was read is
//! acknowledged at once, and a connection that breaks begins the attempt anew.

use std::collections::VecDeque;

use zeroize::Zeroizing;

use super::{Heard, Talk};
use crate::uplink::link::{LinkError, LinkEvent, Message, Session};

/// A session that is up, for one provisioning.
pub struct Talking<S> {
    session: S,
    heard: VecDeque<Heard>,
    events: Vec<LinkEvent>,
}

impl<S: Session> Talking<S> {
    pub fn new(session: S) -> Talking<S> {
        Talking { session, heard: VecDeque::new(), events: Vec::new() }
    }

    /// Waits for events; what somebody may want to hear is kept, the rest is handed to `see`.
    async fn turn(&mut self, mut see: impl FnMut(LinkEvent)) -> Result<(), LinkError> {
        self.session.events(&mut self.events).await?;
        for event in self.events.drain(..) {
            match event {
                LinkEvent::Arrived { topic, payload, token } => {
                    self.session.ack(token)?;
                    self.heard.push_back(Heard::Message { topic, payload: Zeroizing::new(payload) });
                }
                LinkEvent::Refused(_, why) => self.heard.push_back(Heard::Refused(why)),
                other => see(other),
            }
        }
        Ok(())
    }
}

impl<S: Session> Talk for Talking<S> {
    async fn subscribe(&mut self, filters: &[String]) -> Result<Vec<(String, String)>, LinkError> {
        self.session.subscribe(filters)?;
        let (mut refused, mut is_over) = (Vec::new(), false);
        while !is_over {
            self.turn(|event| match event {
                LinkEvent::SubscribeRefused(filter, why) => refused.push((filter, why)),
                LinkEvent::Subscribed => is_over = true,
                _ => {}
            })
            .await?;
        }
        Ok(refused)
    }

    async fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<(), LinkError> {
        // Retained messages are not taken on reserved topics.
        self.session.publish(Message { topic: topic.to_owned(), payload: payload.to_vec(), retain: false })
    }

    async fn next(&mut self) -> Result<Heard, LinkError> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Ok(heard);
            }
            self.turn(drop).await?;
        }
    }
}
