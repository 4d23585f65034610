//! The registers of a simulated unit that can be written, and the book of the writes that
//! reached them.
//!
//! A write that is answered late, damaged or not at all may have been taken all the same, as
//! with a real unit; only an exception says that it was not.

use std::time::Duration;

use crate::plant::DEVICES;
use crate::world::Planted;

/// Name, register. One takes everything, one takes no more than [`LIMIT`], one refuses
/// everything, and one is only written, by a command.
pub const WRITABLE: [(&str, u16); 4] = [("set", 400), ("lim", 401), ("ref", 402), ("pulse", 403)];
pub const SET: usize = 0;
pub const LIM: usize = 1;
pub const REF: usize = 2;
pub const PULSE: usize = 3;
pub const LIMIT: u16 = 1000;

/// One write that reached a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub device: usize,
    /// Its place in [`WRITABLE`].
    pub point: usize,
    pub value: u16,
    /// Since the beginning of the world.
    pub at: Duration,
    /// It changed the register, or could have.
    pub taken: bool,
    /// The unit said that it is busy: it did not look at it, and it may come again.
    pub busy: bool,
}

#[derive(Default)]
pub struct Registers {
    values: [[u16; WRITABLE.len()]; DEVICES.len()],
    written: Vec<Written>,
}

impl Registers {
    /// What stands in each register, by device.
    pub fn values(&self) -> [[u16; WRITABLE.len()]; DEVICES.len()] {
        self.values
    }

    pub fn written(&self) -> Vec<Written> {
        self.written.clone()
    }

    /// What a read of this register shows.
    pub fn read(&self, device: usize, address: u16, forgets: bool) -> Option<u16> {
        let point = WRITABLE.iter().position(|(_, register)| *register == address)?;
        Some(if forgets && point == SET { 0 } else { self.values[device][point] })
    }

    /// A write arrives; `ill`: what the unit would answer to anything now. `Err`: its answer
    /// is this exception.
    pub fn write(
        &mut self,
        (device, address, value): (usize, u16, u16),
        at: Duration,
        ill: Option<u8>,
        planted: Planted,
    ) -> Result<(), u8> {
        let Some(point) = WRITABLE.iter().position(|(_, register)| *register == address) else {
            return Err(2);
        };
        let answer = match (ill, point) {
            (Some(code), _) => Err(code),
            (None, REF) => Err(3),
            (None, _) => Ok(()),
        };
        if answer.is_ok() {
            self.values[device][point] = if point == LIM { value.min(LIMIT) } else { value };
        }
        let (taken, busy) = (answer.is_ok(), answer == Err(6));
        let written = Written { device, point, value, at, taken, busy };
        if planted == Planted::CommandTwice && point == PULSE {
            self.written.push(written.clone());
        }
        self.written.push(written);
        answer
    }
}
