//! # Decisions
//!
//! Each with what it costs, so that it can be undone when the cost changes.
//!
//! ## The outbox is the only memory of the uplink
//! A client library that remembers unacknowledged publishes forgets them when the session is
//! gone, and mixes up packet ids when it is resumed. So each connection gets a fresh client,
//! publishes only after CONNACK, and reads again from the outbox. Cost: up to one window of
//! duplicates per reconnection, and packet ids that differ from those of the first try.
//!
//! ## `synchronous=FULL` with group commit
//! With `NORMAL` the database survives a power cut, but the last commits may not, and a
//! reading that was published from such a commit would be numbered twice. Cost: one flush of
//! the disk per batch; `store.durability = "interval"` trades it for a stated loss.
//!
//! ## MQTT 5 by default
//! With 3.1.1 a broker that refuses a publish still acknowledges it, and the reading is gone
//! without a trace. With 5 the PUBACK carries the reason, and the row goes to the ledger.
//!
//! ## `sd-notify` and `tracing-journald` instead of the crate `systemd`
//! The crate of that name binds the C library, which every cross target would need. READY,
//! STATUS, WATCHDOG and STOPPING are datagrams; the journal takes its fields over a socket.
//! Both work without a line of C.
//!
//! ## One thread
//! The runtime has one thread, and a few more for blocking work, of which SQLite's is nearly
//! all. A gateway waits more than it computes; one thread means fewer wake-ups, less memory,
//! and an order of events that a test can repeat. Cost: no task may compute for long.
//!
//! ## Panics unwind
//! A bug in one room is caught where the tasks are joined; the others drain, and the committed
//! readings are delivered or kept. Cost: a somewhat larger binary.
//!
//! ## The watchdog looks at work, not at time
//! A timer would be fed by a process of which every other task hangs. So each stage is judged
//! by what it did against what it had to do, and is excused when it has stated why it cannot.
//! Cost: points that are reported by exception say nothing about the store's health.
//!
//! ## Group membership is read from the account files
//! The kernel shows only the first group of whoever asks at the status socket, and the other
//! groups of a process cannot be asked for without a race. Cost: members that only a
//! directory service knows have to ask with `sg`, or as root.
//!
//! ## The messages between tasks live below the tasks
//! `ReadRequest` is sent by the status socket and taken by a bus, and tasks do not import one
//! another; so it lives in [`crate::channel`], with the capacities of the queues.
