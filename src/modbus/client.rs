//! One Modbus call with one deadline. The only importer of tokio-modbus.
//!
//! Constraints:
//! - A call is never dropped at its timeout: over RTU the late answer would be taken for the
//!   answer of the next request, over TCP every later call would see a foreign transaction.
//!   So the same future is polled on through the late window and its answer is swallowed.
//!   If nothing came even then, the reply says that the line is not `settled`, and whoever
//!   owns the line drains or reopens it.
//! - RTU keeps nothing between calls: a fresh context each time over a shared wire, so that
//!   no half-read frame lives on. TCP keeps its context, because it counts transactions.
//! - An answer of a wrong length, to another address or with another value is `Garbled`.
//!   The crate's own `read_*` and `write_*` assert that in debug builds and believe it in
//!   release builds; so the lower `call` is used and the check is done here.
//!
//! A datum: command → request frame → answer of the same function → words or bits of
//! exactly the length asked for.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_modbus::client::{Client as _, Context, rtu, tcp};
use tokio_modbus::prelude::ReadCode;
use tokio_modbus::slave::{Slave, SlaveContext as _};
use tokio_modbus::{Request, Response};

pub use super::command::Command;
use crate::model::register::Table;
use crate::model::value::Cause;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no answer in time")]
    Timeout,
    #[error("exception {0}")]
    Exception(u8),
    #[error("garbled answer")]
    Garbled,
    #[error("line gone: {0}")]
    BusGone(#[source] io::Error),
}

impl Error {
    /// What the readings say that this error spoils.
    pub fn cause(&self) -> Cause {
        match self {
            Error::Timeout => Cause::Timeout,
            Error::Exception(code) => Cause::Exception(*code),
            Error::Garbled => Cause::Garbled,
            Error::BusGone(_) => Cause::BusGone,
        }
    }
}

fn request(command: &Command) -> Request<'_> {
    match command {
        Command::Read { table, address, count } => match table {
            Table::Coil => Request::ReadCoils(*address, *count),
            Table::Discrete => Request::ReadDiscreteInputs(*address, *count),
            Table::Holding => Request::ReadHoldingRegisters(*address, *count),
            Table::Input => Request::ReadInputRegisters(*address, *count),
        },
        Command::WriteCoils { address, coils, .. } => match command.is_single() {
            true => Request::WriteSingleCoil(*address, coils[0]),
            false => Request::WriteMultipleCoils(*address, Cow::Borrowed(coils)),
        },
        Command::WriteRegisters { address, words, .. } => match command.is_single() {
            true => Request::WriteSingleRegister(*address, words[0]),
            false => Request::WriteMultipleRegisters(*address, Cow::Borrowed(words)),
        },
        // The unit computes (register AND and_mask) OR (or_mask AND NOT and_mask).
        Command::WriteBits { address, mask, bits } => {
            Request::MaskWriteRegister(*address, !*mask, bits & mask)
        }
        Command::ServerId => Request::ReportServerId,
        Command::DeviceId { object } => Request::ReadDeviceIdentification(ReadCode::Basic, *object),
    }
}

/// The answer's content, if it answers exactly this command.
fn accept(command: &Command, response: Response) -> Option<Answer> {
    match (command, response) {
        (Command::Read { table: Table::Coil, count, .. }, Response::ReadCoils(mut bits))
        | (Command::Read { table: Table::Discrete, count, .. }, Response::ReadDiscreteInputs(mut bits)) => {
            // The wire carries whole bytes.
            let exact = bits.len() == usize::from(*count).next_multiple_of(8);
            bits.truncate(usize::from(*count));
            exact.then_some(Answer::Bits(bits))
        }
        (Command::Read { table: Table::Holding, count, .. }, Response::ReadHoldingRegisters(words))
        | (Command::Read { table: Table::Input, count, .. }, Response::ReadInputRegisters(words)) => {
            (words.len() == usize::from(*count)).then_some(Answer::Words(words))
        }
        (Command::WriteCoils { address, coils, .. }, Response::WriteSingleCoil(at, coil)) => {
            (at == *address && coils.first() == Some(&coil)).then_some(Answer::Done)
        }
        (Command::WriteCoils { address, coils, .. }, Response::WriteMultipleCoils(at, count)) => {
            (at == *address && usize::from(count) == coils.len()).then_some(Answer::Done)
        }
        (Command::WriteRegisters { address, words, .. }, Response::WriteSingleRegister(at, word)) => {
            // A unit that clamps echoes what it took; reading back tells the truth of it.
            let _ = word;
            (at == *address && words.len() == 1).then_some(Answer::Done)
        }
        (Command::WriteRegisters { address, words, .. }, Response::WriteMultipleRegisters(at, count)) => {
            (at == *address && usize::from(count) == words.len()).then_some(Answer::Done)
        }
        (Command::WriteBits { address, .. }, Response::MaskWriteRegister(at, _, _)) => {
            (at == *address).then_some(Answer::Done)
        }
        // Whether it runs is no part of who it is.
        (Command::ServerId, Response::ReportServerId(id, _, data)) => Some(Answer::ServerId { id, data }),
        (Command::DeviceId { .. }, Response::ReadDeviceIdentification(page)) => Some(Answer::DeviceId {
            objects: page.device_id_objects.iter().map(|o| (o.id, o.value.to_vec())).collect(),
            next: page.more_follows.then_some(page.next_object_id),
        }),
        _ => None,
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Words(Vec<u16>),
    Bits(Vec<bool>),
    /// A write was accepted.
    Done,
    /// What function 17 said, without the run indicator.
    ServerId {
        id: u8,
        data: Vec<u8>,
    },
    /// Objects of function 43/14 by their ids, and where to go on.
    DeviceId {
        objects: Vec<(u8, Vec<u8>)>,
        next: Option<u8>,
    },
}

/// How long one call may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the whole answer is here.
    pub response: Duration,
    /// After that, for an answer that is swallowed.
    pub late: Duration,
}

#[derive(Debug)]
pub struct Reply {
    pub result: Result<Answer, Error>,
    /// The answer came after its timeout and was swallowed.
    pub late: bool,
    /// Nothing of this call can reach the next one. If not, drain (RTU) or reopen (TCP). An
    /// RTU answer that fits the unit but not the question may be an old one, and ours is
    /// still to come.
    pub settled: bool,
}

/// The Modbus side of an open transport.
pub struct Client<T> {
    framing: Framing<T>,
}

impl<T> fmt::Debug for Client<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.framing {
            Framing::Rtu(_) => f.write_str("Client(RTU)"),
            Framing::Tcp(_) => f.write_str("Client(TCP)"),
        }
    }
}

impl<T> Client<T>
where
    T: AsyncRead + AsyncWrite + Clone + fmt::Debug + Send + Unpin + 'static,
{
    /// RTU frames. Clones of `wire` must be the same line.
    pub fn rtu(wire: T) -> Client<T> {
        Client { framing: Framing::Rtu(wire) }
    }

    /// Modbus TCP frames with their transaction numbers.
    pub fn tcp(wire: T) -> Client<T> {
        Client { framing: Framing::Tcp(tcp::attach(wire)) }
    }

    pub async fn call(&mut self, unit_id: u8, command: &Command, patience: Patience) -> Reply {
        match &mut self.framing {
            Framing::Rtu(wire) => {
                let mut context = rtu::attach_slave(wire.clone(), Slave(unit_id));
                call(&mut context, command, patience, false).await
            }
            Framing::Tcp(context) => {
                context.set_slave(Slave(unit_id));
                call(context, command, patience, true).await
            }
        }
    }
}

enum Framing<T> {
    Rtu(T),
    Tcp(Context),
}

/// `numbered`: an answer says to which question it belongs.
async fn call(context: &mut Context, command: &Command, patience: Patience, numbered: bool) -> Reply {
    let mut answer = std::pin::pin!(context.call(request(command)));
    match timeout(patience.response, &mut answer).await {
        Ok(outcome) => judge(command, outcome, numbered),
        Err(_) => match timeout(patience.late, &mut answer).await {
            Ok(outcome) => {
                let judged = judge(command, outcome, numbered);
                let result = match judged.result {
                    Err(Error::BusGone(e)) => Err(Error::BusGone(e)),
                    _ => Err(Error::Timeout),
                };
                Reply { late: judged.settled, settled: judged.settled, result }
            }
            Err(_) => Reply { result: Err(Error::Timeout), late: false, settled: false },
        },
    }
}

fn judge(command: &Command, outcome: tokio_modbus::Result<Response>, numbered: bool) -> Reply {
    let (result, settled) = match outcome {
        Ok(Ok(response)) => match accept(command, response) {
            Some(answer) => (Ok(answer), true),
            None => (Err(Error::Garbled), numbered),
        },
        Ok(Err(exception)) => (Err(Error::Exception(exception.into())), true),
        Err(tokio_modbus::Error::Protocol(_)) => (Err(Error::Garbled), false),
        Err(tokio_modbus::Error::Transport(e)) => match e.kind() {
            // The codec's words for bytes that make no sense; the wire has other kinds for its end.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                (Err(Error::Garbled), false)
            }
            _ => (Err(Error::BusGone(e)), false),
        },
    };
    Reply { result, late: false, settled }
}
