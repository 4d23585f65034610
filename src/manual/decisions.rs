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
//! ## Ids from a counter in the file, not from AUTOINCREMENT
//! Both promise that an id is never used twice. The counter stands in the row of sums that
//! each commit writes anyway; AUTOINCREMENT would write a page of its own, where a quiet
//! gateway writes two. Cost: the promise is held by our own tests.
//!
//! ## Clean sessions
//! Nothing is subscribed to yet, so a session would remember nothing for us; and a clean one
//! cannot resume with packet ids of a client that is gone. Cost: to be looked at again when
//! desired changes come down.
//!
//! ## Live readings overtake the backlog
//! What is committed after CONNACK goes first, the backlog takes what is left, at most three
//! quarters of the window. Cost: a receiver sees a device's readings out of order while a
//! backlog drains; `boot` and `seq` say what belongs where.
//!
//! ## Acknowledged rows count towards the window until they are off the disk
//! A kill in the middle of a drain then repeats one window at most. Cost: a flush of the disk
//! for each half window while draining; it runs beside the sending.
//!
//! ## A row that the broker refuses is given up at once
//! The issue of a wrong policy is not ours to wait for, and a retry without end holds up the
//! rows behind. Cost: a mistake in the broker's permissions costs readings; each is in the
//! ledger, and the log says so at level ERROR. Over its quota a broker is given time instead.
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
//!
//! ## SigV4 with `ring`, not with `aws-sigv4`
//! Its presigned URLs always carry `X-Amz-Expires`, which the cloud's device gateway does not
//! list, and it brings 29 crates with a second `http`. The URL is one fixed request, so HMAC and
//! SHA-256 of `ring` and the escapes of `percent-encoding` are enough; botocore checks the
//! result. Cost: some hundred lines are ours.
//!
//! ## A WebSocket of our own beside the MQTT client
//! The client's own feature brings crates under the Unlicense, which is not on our list. So
//! `tokio-tungstenite` opens the WebSocket and the client dials a Unix socket that only this
//! process may open once. Cost: one more copy of each byte; it is only there with the feature.
