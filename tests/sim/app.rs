//! The application in the cloud: what it does when, drawn at the beginning of a world.
//!
//! Each value that it asks for is asked for once in a world, so that a write that reaches a
//! unit names the one request it came from.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use crate::dice::{Dice, ms};
use crate::plant::DEVICES;
use crate::service::{Asked, Dialect, What};
use crate::units::{LIM, PULSE, WRITABLE};
use crate::world::{BASE, Temper};

pub enum Deed {
    /// With its payload.
    Asks(Asked, Vec<u8>),
    /// The last command once more.
    Repeats,
    /// The classic shadow of this device goes.
    Deletes(usize),
}

pub struct App(VecDeque<(Duration, Deed)>);

impl App {
    pub fn new(dice: Dice, temper: Temper, dialect: Dialect, end: Duration) -> App {
        let mut deeds = VecDeque::new();
        let mut random = dice.of("application", 0);
        let mut at = Duration::from_secs(1);
        while at < end {
            let number = deeds.len() as u16 + 1;
            deeds.push_back((at, deed(&mut random, number, at, temper, dialect)));
            at += ms(&mut random, 50, 5_000);
        }
        App(deeds)
    }

    pub fn at(&self) -> Option<Duration> {
        self.0.front().map(|(at, _)| *at)
    }

    /// What is to be done by now, one after the other.
    pub fn next(&mut self, now: Duration) -> Option<(Duration, Deed)> {
        self.at().filter(|at| *at <= now).and_then(|_| self.0.pop_front())
    }
}

fn deed(random: &mut fastrand::Rng, number: u16, at: Duration, temper: Temper, dialect: Dialect) -> Deed {
    let device = random.usize(0..DEVICES.len());
    let token = format!("app-{number}");
    let asks = |what, payload: Value| {
        let asked = Asked { token: token.clone(), device, at, what, acked: None };
        Deed::Asks(asked, payload.to_string().into_bytes())
    };
    match random.u8(0..20) {
        0..4 => {
            let now_s = (BASE.0 + at.as_millis() as i64) / 1000;
            let expires = random.bool().then(|| now_s + random.i64(2..30));
            let what = What::Command { value: number, expires };
            let asked = Asked { token, device, at, what, acked: None };
            let payload = asked.command_payload();
            Deed::Asks(asked, payload)
        }
        4..6 => Deed::Repeats,
        6 if dialect == Dialect::Aws && temper == Temper::Wild => Deed::Deletes(device),
        6 if dialect == Dialect::Plain => asks(What::Get, json!({ "clientToken": token })),
        7 if dialect == Dialect::Plain => {
            asks(What::Nonsense, json!({ "state": { "desired": 5 }, "clientToken": token }))
        }
        8 if dialect == Dialect::Plain => {
            let state = json!({ "desired": { "set": 9999 } });
            asks(What::Nonsense, json!({ "state": state, "version": "one", "clientToken": token }))
        }
        _ => {
            let mut points = Vec::new();
            for point in 0..PULSE {
                let value = if point == LIM && number.is_multiple_of(2) { 2000 + number } else { number };
                match random.u8(0..10) {
                    0..4 => points.push((point, Some(value))),
                    4 => points.push((point, None)),
                    _ => {}
                }
            }
            if points.is_empty() {
                points.push((crate::units::SET, Some(number)));
            }
            let desired: serde_json::Map<String, Value> =
                points.iter().map(|(p, v)| (WRITABLE[*p].0.to_owned(), json!(v))).collect();
            asks(What::Desired(points), json!({ "state": { "desired": desired }, "clientToken": token }))
        }
    }
}
