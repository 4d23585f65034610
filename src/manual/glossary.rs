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
//! | read back | reading a point after a write, to know whether the device took it |
//! | outbox | the rows that wait for their PUBACK |
//! | row | readings of one device, packed for one message |
//! | boot | one start of the agent; the sequence numbers of its devices begin anew with it |
//! | window | publishes without their PUBACK at one time |
//! | ledger | what was taken and will not arrive: device, reason, count, time range |
//! | gap record | an entry of the ledger, delivered upstream |
//! | dead letter | a row that the broker refuses; it leaves the outbox for the ledger |
//! | thing | a device as the cloud knows it: a name, shadows, an identity |
//! | shadow | a document of a thing: what is `desired` of it and what it `reported` |
//! | delta | what is desired and not reported; computed, never stored |
//! | mirror | keeps a shadow equal to that of a cloud with a shadow service of its own |
//! | base | what gateway and cloud last agreed upon; the third side of a merge |
//! | member | a value in a shadow; one that is desired has a state on its way to the device |
//! | command | something done once when asked for, now or not at all: a write to a point; answered |
//! | route | the connection that something leaves by |
//! | mail | what is said beside readings: answers, news of shadows, requests to a cloud |
//! | identity | key and certificate of a thing |
//! | wallet | what a connection presents: the pair in use, or a candidate |
//! | claim | a certificate that is good only for getting a real one |
//! | fingerprint | what a device says it is: maker, model, serial number, as one text |
//! | candidate | a new key and certificate that no broker has accepted yet |
//! | audit | the log of writes, commands and decisions about devices, chained by hashes |
//! | head | the hash of the newest entry of the audit |
//! | quarantine | another device answers than the approved one |
//! | hole | an address that a device refuses; learned, and read around |
//! | late window | how long an answer that missed its timeout is still swallowed |
