//! From a row of the outbox to the message on the wire.
//!
//! Telemetry is unpacked and written as JSON in one go, with the names that were valid when it
//! was taken; faults and gap records lie in the outbox as they are sent.

use super::Uplink;
use super::link::{Link, Message};
use crate::model::row::{Kind, Row};
use crate::packed::{Damaged, Reader};
use crate::wire::payload::{Head, Telemetry};

impl<L: Link> Uplink<L> {
    /// The message of a row. A row that cannot be read is damaged, and says where.
    pub(super) fn render(&self, row: &Row) -> Result<Message, Damaged> {
        let device = &row.layout.device;
        let last = match row.kind {
            Kind::Telemetry => {
                let payload = self.telemetry(row)?;
                return Ok(Message { topic: self.topic.render(device), payload, retain: false });
            }
            Kind::Fault => "fault",
            Kind::Gap => "gap",
        };
        let topic = self.topic.sibling(last).render(device);
        Ok(Message { topic, payload: row.payload.clone(), retain: false })
    }

    fn telemetry(&self, row: &Row) -> Result<Vec<u8>, Damaged> {
        let head = Head {
            gateway: &self.gateway,
            device: &row.layout.device,
            boot: &row.boot.to_string(),
            seq: (row.seq, row.seq + u64::from(row.readings).saturating_sub(1)),
        };
        let mut telemetry = Telemetry::new(head, &row.layout.points, 160 + row.payload.len() * 5);
        let mut reader = Reader::new(&row.payload, row.first);
        while let Some((at, readings)) = reader.group()? {
            let (mut next, mut damaged) = (0, None);
            let readings = (0..readings).map_while(|_| match reader.reading(&mut next) {
                Ok(reading) => Some(reading),
                Err(e) => {
                    damaged = Some(e);
                    None
                }
            });
            telemetry.group(at, readings);
            if let Some(e) = damaged {
                return Err(e);
            }
        }
        Ok(telemetry.finish())
    }
}
