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
//! ## A session only where something is subscribed to
//! Where shadows or commands come down, the broker keeps what arrives while we are away
//! (`uplink.session_expiry`); elsewhere the session is clean, because it would remember
//! nothing for us. The client is a fresh one all the same, so our own publishes get new packet
//! ids on a resumed session, which bends MQTT's rule of resending; with QoS 1 it costs nothing.
//!
//! ## Asks instead of an inbox on the disk
//! The first sketch of this house had a table for what comes down. But a message that is
//! acknowledged only after the hub's commit is kept by its broker until then, and a question
//! of this machine is answered only after it; so a table would write everything twice to
//! promise the same. Connections and the status socket send an `Ask` over a bounded channel,
//! and the hub never waits for them. Cost: while the hub is busy, what comes down waits in the
//! broker's window.
//!
//! ## What is said about a shadow lies in a table, as the newest of its topic
//! Deltas and documents tell a state, so during an outage only the last one of a topic waits.
//! Answers to requests each count, up to a bound. Cost: who was away sees the newest documents
//! and not every one between.
//!
//! ## Desired is looked at, not queued
//! No request to write outlives the process. What is wanted stands in the shadow, what was
//! tried stands beside it, and both are looked at after each event: a restart, a lost message
//! and a busy line are no special cases. What must happen once, or not at all, is a command.
//!
//! ## A wish grows old
//! A setpoint of yesterday, written today because a line came back, has done harm elsewhere. So
//! what is desired is written within `write_expiry` (5 minutes) or not at all, and a verified
//! value that drifts later is told and left alone. Cost: who wants a level held for ever says
//! `write_expiry = "never"`.
//!
//! ## What is desired is reported in its own words
//! Where the registers hold what is desired, the reported value is spelled as it was desired,
//! so that 0.1 in a float32 leaves no delta. Cost: none that we know of.
//!
//! ## Quality stands beside the values
//! With `shadow.quality` the quality of each member is told under `_quality`, not around its
//! value: a value inside an object could never equal what is desired.
//!
//! ## The first fingerprint is believed
//! Somebody has to say which device is the right one, and on the day of the installation it is
//! the one that is there. From then on another one is quarantined: read, delivered, but neither
//! reported nor written to. Cost: a device that was swapped before its first reading is not
//! noticed.
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
//! ## `sd-notify` instead of the crate `systemd`, and the journal by hand
//! The crate of that name binds the C library, which every cross target would need. READY,
//! STATUS, WATCHDOG and STOPPING are datagrams; the journal takes its fields over a socket.
//! `tracing-journald` does that too, but its `MESSAGE` is the bare text ("device silent": of
//! which?), and a journal that hangs would hold the one thread. So a datagram of ours.
//!
//! ## A flood in the log is held back by kind
//! Ten of a kind in a minute, then their number: a flapping device costs a dozen lines a
//! minute, and the first line of everything else is there. systemd's own limit counts all
//! lines of a service alike, and so drops the one that matters. Cost: who needs each
//! repetition finds it in the readings' faults, not in the log.
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
//! ## A reload keeps tasks, not state
//!
//! A bus task whose bus and devices are equal in both configurations is left running; every
//! other is ended between two calls and started anew. A device keeps its index for as long as
//! it is configured, so a task that stays need not be told anything. The alternative, to stop
//! everything and hand the open ports and the MQTT session over, would have dropped what did
//! not change: report by exception, backoff, the schedule. What shapes the file or the
//! shadows themselves is left to a restart, which takes a second and loses nothing.
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
//! ## A write is made once, and read back
//! An answer that is late, damaged or cut off may mean that the device took it, and a second
//! frame may be a second pulse; so the bus repeats nothing but after "busy", and reads the
//! point. Cost: at least one read for each write; and what was lost on the way waits for the
//! hub, which repeats what is still wanted at its own pace.
//!
//! ## What registers cannot show exactly is not written
//! A rounded value would be reported as another one than is desired, for ever. Cost: who
//! desires 21.55 of a register of tenths gets a refusal with the two nearest values. A float
//! is held to the digits that its width keeps: 231.4 in a float32 is 231.4.
//!
//! ## Parts of a register are written by function 22 only
//! Reading, changing and writing the whole register would undo what the device, or somebody
//! else, changed meanwhile. Cost: devices without function 22 refuse with exception 1.
//!
//! ## The firmware's revision is no part of a fingerprint
//! A device that was updated is the same device. Cost: functions 17 and 43/14 often tell a
//! make and no serial number; then only a point can tell two devices of one make apart.
//!
//! ## The messages between tasks live below the tasks
//! `ReadRequest` is sent by the status socket and taken by a bus, and tasks do not import one
//! another; so it lives in [`crate::channel`], with the capacities of the queues.
//!
//! ## Key and chain in one file
//! Two files cannot be swapped by one rename, and a power cut between two renames leaves a key
//! with somebody else's certificate. Cost: tools that want two files are given the same twice.
//!
//! ## A new certificate is proved by a CONNACK
//! Only the broker knows whether it takes a certificate, so the pair in use is kept until the
//! new one has connected. Cost: three refused connections, some seconds apart, while a bad
//! candidate is found out.
//!
//! ## TLS sessions are not resumed
//! A resumed session would not present a new certificate, the clouds that matter offer no
//! tickets, and the cache is the largest part of an idle connection. Cost: a full handshake
//! for each reconnection.
//!
//! ## The CA is constrained by directory names
//! A constraint of URIs looks at the host of a URI, and a URN has none. So the CA may sign
//! below `O=fieldgate, OU=<gateway>` only, and no DNS name, address or mail address at all.
//! Cost: certificates of the local CA carry these two attributes before the common name.
//!
//! ## RSA keys need a cargo feature
//! ring cannot make them, and the crate `rsa` has an advisory (RUSTSEC-2023-0071, timing of
//! private key operations) without a fix. Behind the feature it makes keys and nothing else;
//! ring signs with them. Cost: the packaged program takes RSA keys by file only.
//!
//! ## No EST
//! The one crate found for RFC 7030 (est-ca 0.2.0) is young, does not build on docs.rs, makes
//! the key itself and brings an HTTP client with a tree of its own. `csr` with a script around
//! it does the same. Cost: that script.
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
//!
//! ## Only the gateway signs
//! A signed URL says whose keys made it, so a thing behind it would be known as the gateway.
//! `sigv4` beside connections of things is therefore a mistake in the configuration. Cost: a
//! gateway that has to sign carries its things over its own connection.
