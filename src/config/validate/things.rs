//! `[thing]`: what holds for each thing that has a connection of its own.

use super::uplink::template;
use super::values::Reader;
use crate::config::errors::Report;
use crate::config::load::Placed;
use crate::config::{Thing, raw};

pub fn things(placed: &Placed<raw::Thing>, report: &mut Report) -> Thing {
    let Placed { place, raw } = placed;
    let known = ["{gateway}", "{device}", "{thing}"];
    let topic = template(raw.topic.as_deref(), "topic", "dt/{thing}/telemetry", &known, place, report);
    let status_topic = match raw.status_topic.as_deref().unwrap_or_default() {
        "" => String::new(),
        text => {
            let known = ["{gateway}", "{thing}"];
            template(Some(text), "status_topic", "dt/{thing}/status", &known, place, report)
        }
    };
    let window = Reader { place, report }.number("window", raw.window, 8, 1..=1000);
    Thing { topic, status_topic, window }
}
