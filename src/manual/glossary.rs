//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | gateway | the machine that runs the agent; the first level of its topics |
//! | bus | one serial line or one TCP endpoint; one task owns it |
//! | device | what answers (or talks) on a bus: a meter, an inverter, a scale |
//! | unit id | the address of a Modbus device on its bus, 1 to 247 |
//! | table | coil, discrete (input), holding (register), input (register) |
//! | register | 16 bits of a device, at an address from 0 |
//! | point | one value of a device: where it lies, what it means, when it is reported |
//! | poll | asking a device for the points that are due |
//! | request | one question on the wire; a poll has one or more |
//! | reading | what a point said at one moment: value, unit, quality, time |
//! | quality | `good`, `uncertain` (a value with a doubt), `bad` (no value), with its cause |
//! | fault | a device fell silent, or is back |
//! | observation | what a bus tells the hub: readings, a fault, the outcome of a write, a fingerprint |
//! | command | something done once when asked for: a write to a point of the device |
//! | read back | reading a point after a write, to know whether the device took it |
//! | fingerprint | a text that says which device this is |
//! | outbox | the rows that wait for their PUBACK |
//! | row | readings of one device, packed for one message |
//! | boot | one start of the agent; the sequence numbers of its devices begin anew with it |
//! | window | publishes without their PUBACK at one time |
//! | ledger | what was taken and will not arrive: device, reason, count, time range |
//! | gap record | an entry of the ledger, delivered upstream |
//! | dead letter | a row that the broker refuses; it leaves the outbox for the ledger |
//! | hole | an address that a device refuses; learned, and read around |
//! | late window | how long an answer that missed its timeout is still swallowed |
