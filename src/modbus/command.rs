//! PURE: what can be asked of a unit, before any frame is made of it.
//!
//! The hub plans a write and the bus makes it; both speak of the same command, and only
//! `client` knows how it becomes a frame.

use crate::model::device::WriteFunction;
use crate::model::register::Table;

/// What is asked of a unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Read {
        table: Table,
        address: u16,
        count: u16,
    },
    /// Function 5 or 15.
    WriteCoils {
        address: u16,
        coils: Vec<bool>,
        function: WriteFunction,
    },
    /// Function 6 or 16.
    WriteRegisters {
        address: u16,
        words: Vec<u16>,
        function: WriteFunction,
    },
    /// Function 22: only the bits of `mask` take the value they have in `bits`.
    WriteBits {
        address: u16,
        mask: u16,
        bits: u16,
    },
    /// Function 17: what the unit says of itself, in its vendor's own way.
    ServerId,
    /// Function 43/14, the basic objects from `object` on.
    DeviceId {
        object: u8,
    },
}

/// The longest RTU frame.
const FRAME_MAX: u32 = 256;

impl Command {
    /// Bytes of request and full answer as RTU frames, for the time they take on the wire.
    /// Of an answer whose length is its own the most it can be.
    pub fn frame_bytes(&self) -> (u32, u32) {
        match self {
            Command::Read { table, count, .. } if table.is_bits() => (8, 5 + u32::from(count.div_ceil(8))),
            Command::Read { count, .. } => (8, 5 + 2 * u32::from(*count)),
            Command::WriteCoils { coils, .. } => match self.is_single() {
                true => (8, 8),
                false => (9 + (coils.len() as u32).div_ceil(8), 8),
            },
            Command::WriteRegisters { words, .. } => match self.is_single() {
                true => (8, 8),
                false => (9 + 2 * words.len() as u32, 8),
            },
            Command::WriteBits { .. } => (10, 10),
            Command::ServerId => (4, FRAME_MAX),
            Command::DeviceId { .. } => (7, FRAME_MAX),
        }
    }

    /// Bytes of the full answer, if they are known before it comes.
    pub fn answer_bytes(&self) -> Option<u32> {
        (!matches!(self, Command::ServerId | Command::DeviceId { .. })).then(|| self.frame_bytes().1)
    }

    /// The function code of request and answer (MODBUS Application Protocol V1.1b3, 6).
    pub fn function(&self) -> u8 {
        match self {
            Command::Read { table, .. } => table.read_function(),
            Command::WriteCoils { .. } => {
                if self.is_single() {
                    5
                } else {
                    15
                }
            }
            Command::WriteRegisters { .. } => {
                if self.is_single() {
                    6
                } else {
                    16
                }
            }
            Command::WriteBits { .. } => 22,
            Command::ServerId => 17,
            Command::DeviceId { .. } => 43,
        }
    }

    /// One coil or register, by the function that writes exactly one.
    pub fn is_single(&self) -> bool {
        match self {
            Command::WriteCoils { coils, function, .. } => {
                coils.len() == 1 && *function != WriteFunction::Multiple
            }
            Command::WriteRegisters { words, function, .. } => {
                words.len() == 1 && *function != WriteFunction::Multiple
            }
            _ => false,
        }
    }
}

/// What an exception code means (MODBUS Application Protocol V1.1b3, 7).
pub fn exception_text(code: u8) -> &'static str {
    match code {
        1 => "illegal function",
        2 => "illegal data address",
        3 => "illegal data value",
        4 => "server device failure",
        5 => "acknowledge",
        6 => "server device busy",
        7 => "negative acknowledge",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "gateway target device failed to respond",
        _ => "unknown exception",
    }
}
