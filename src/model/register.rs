//! Modbus points: where the words lie and what they mean.
//!
//! Addresses are what goes over the wire (0-based); an address base of 1 is taken off where
//! the configuration is read.

/// The four tables of a Modbus device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Coil,
    Discrete,
    Holding,
    Input,
}

impl Table {
    /// The function code that reads this table.
    pub fn read_function(self) -> u8 {
        match self {
            Table::Coil => 1,
            Table::Discrete => 2,
            Table::Holding => 3,
            Table::Input => 4,
        }
    }

    /// Coils and discrete inputs are single bits, the others 16-bit registers.
    pub fn is_bits(self) -> bool {
        matches!(self, Table::Coil | Table::Discrete)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Table::Coil => "coil",
            Table::Discrete => "discrete",
            Table::Holding => "holding",
            Table::Input => "input",
        }
    }
}

/// Where a point lies: `count` addresses of `table` from `address` on.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterPoint {
    pub table: Table,
    pub address: u16,
    pub encoding: Encoding,
    pub transform: Transform,
    /// A register of the same device that holds the power of ten to multiply with
    /// (SunSpec `_SF`): int16, in the same table, read along with the point.
    pub scale_factor: Option<u16>,
}

impl RegisterPoint {
    /// How many addresses the point covers.
    pub fn count(&self) -> u16 {
        if self.table.is_bits() { 1 } else { self.encoding.registers() }
    }
}

/// How words become a raw value.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoding {
    pub kind: Kind,
    /// For each byte of the value, most significant first, the position on the wire it is
    /// taken from: big-endian (`ABCD`) is 0, 1, 2, 3; `CDAB` is 2, 3, 0, 1.
    pub order: Order,
}

impl Encoding {
    pub fn registers(&self) -> u16 {
        self.kind.registers()
    }
}

/// A byte order as a permutation; up to eight bytes, `len` of them used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub len: u8,
    pub from: [u8; 8],
}

impl Order {
    /// The wire's own order for `len` bytes.
    pub const fn big(len: u8) -> Order {
        Order { len, from: [0, 1, 2, 3, 4, 5, 6, 7] }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A coil or discrete input; of a register: true if it is not zero.
    Bool,
    /// One bit of a register, 0 = least significant.
    Bit(u8),
    /// `length` bits of a register from bit `start` on, unsigned.
    BitField {
        start: u8,
        length: u8,
    },
    /// The low or high byte of one register.
    Int8(Half),
    Uint8(Half),
    Int16,
    Uint16,
    /// Three bytes of two registers: the value's bytes are the last three in order.
    Int24,
    Uint24,
    Int32,
    Uint32,
    /// Six bytes in three registers.
    Int48,
    Uint48,
    Int64,
    Uint64,
    Float16,
    Float32,
    Float64,
    /// Four decimal digits per register; `registers` is 1, 2 or 4.
    Bcd {
        registers: u8,
    },
    /// Each register counts to 9999; `registers` is 2, 3 or 4.
    Mod10k {
        registers: u8,
    },
    Text {
        registers: u16,
        bytes: TextBytes,
        padding: Padding,
    },
    /// Raw bytes, shown as hex.
    Bytes {
        registers: u16,
    },
}

impl Kind {
    pub fn registers(&self) -> u16 {
        match self {
            Kind::Bool | Kind::Bit(_) | Kind::BitField { .. } | Kind::Int8(_) | Kind::Uint8(_) => 1,
            Kind::Int16 | Kind::Uint16 | Kind::Float16 => 1,
            Kind::Int24 | Kind::Uint24 | Kind::Int32 | Kind::Uint32 | Kind::Float32 => 2,
            Kind::Int48 | Kind::Uint48 => 3,
            Kind::Int64 | Kind::Uint64 | Kind::Float64 => 4,
            Kind::Bcd { registers } | Kind::Mod10k { registers } => u16::from(*registers),
            Kind::Text { registers, .. } | Kind::Bytes { registers } => *registers,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    Low,
    High,
}

/// Which bytes of each register are characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextBytes {
    /// Both, in the order of [`Encoding::order`] (`AB` or `BA`).
    Both,
    Low,
    High,
}

/// How the end of a text is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Ends at the first NUL, then trailing spaces are cut.
    Nul,
    /// Trailing spaces and NULs are cut; a NUL inside stays.
    Trailing,
    /// Nothing is cut.
    Keep,
}

/// What happens to the raw value: invalid marks first, then scale and offset, then range,
/// then decimals, then names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transform {
    /// Raw bit patterns (of the value's width) that mean "no value".
    pub invalid: Vec<u64>,
    /// `None` leaves integers integers, all 64 bits of them.
    pub scale: Option<f64>,
    pub offset: Option<f64>,
    /// Round to this many digits after the point.
    pub decimals: Option<u8>,
    pub range: Option<Range>,
    pub names: Option<Names>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    pub min: f64,
    pub max: f64,
    /// Outside: `true` clamps (quality uncertain, out-of-range), `false` makes it bad.
    pub clamp: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Names {
    /// Raw value → name; a value without a name stays a number.
    Enum(Vec<(i64, String)>),
    /// Bit number → name; a set bit without a name becomes `bit<n>`.
    Flags(Vec<(u8, String)>),
}
