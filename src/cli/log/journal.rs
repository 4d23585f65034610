//! Log lines into systemd's journal, by its native protocol: one datagram per line.
//!
//! Constraints: `MESSAGE` is a whole sentence with what it is about, because that is all that
//! `journalctl -u fieldgate` shows; each field stands there once more as `FIELDGATE_<NAME>`,
//! for `journalctl FIELDGATE_DEVICE=meter-1`; every value is bounded; a journal that hangs
//! costs one short wait, then lines, which are counted, and never a poll.
//!
//! (`tracing-journald` puts only the bare text into `MESSAGE`, "device silent", and waits for
//! a hanging journal without an end.)

use std::fmt::{self, Write};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where systemd's journal listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// Lines that the journal did not take since it last took one.
    lost: AtomicU64,
}

impl Journal {
    /// # Errors
    /// Nobody listens at `path`.
    pub fn open(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        // The journal ignores an empty datagram; the send tells whether it is there.
        socket.send_to(&[], path)?;
        Ok(Journal { socket, path: path.to_owned(), lost: AtomicU64::new(0) })
    }

    fn send(&self, entry: &[u8]) {
        let lost = self.lost.load(Ordering::Relaxed);
        // After one wait in vain there is no second one until the journal reads again.
        let _ = self.socket.set_nonblocking(lost > 0);
        if self.socket.send_to(entry, &self.path).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else if lost > 0 {
            self.lost.fetch_sub(lost, Ordering::Relaxed);
            let mut entry = Entry::new(&Level::WARN, module_path!());
            entry.take("message", "the journal was not reading; log lines are missing");
            entry.take("lost", &lost.to_string());
            let _ = self.socket.send_to(&entry.finish(), &self.path);
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let mut entry = Entry::new(meta.level(), meta.target());
        event.record(&mut entry);
        if let Some((file, line)) = meta.file().zip(meta.line()) {
            entry.put("CODE_FILE", file);
            entry.put("CODE_LINE", &line.to_string());
        }
        self.send(&entry.finish());
    }
}

struct Entry {
    bytes: Vec<u8>,
    target: String,
    text: String,
    /// What follows the text in `MESSAGE`.
    about: String,
}

impl Entry {
    fn new(level: &Level, target: &str) -> Entry {
        let mut entry =
            Entry { bytes: Vec::new(), target: target.into(), text: String::new(), about: String::new() };
        entry.put("PRIORITY", priority(level));
        entry.put("SYSLOG_IDENTIFIER", "fieldgate");
        entry
    }

    fn take(&mut self, name: &str, value: &str) {
        match name {
            "message" => self.text.push_str(value),
            // What a library said by the `log` crate comes by one target of its own.
            "log.target" => self.target = value.to_owned(),
            _ if name.starts_with("log.") => {}
            _ => {
                let _ = write!(self.about, " {name}={value}");
                self.put(&format!("{PREFIX}{}", sanitised(name)), value);
            }
        }
    }

    /// Name, line feed, length (64 bit, little endian), value, line feed: so that a value may
    /// hold whatever it likes.
    fn put(&mut self, name: &str, value: &str) {
        let value = super::cut(value, VALUE_BYTES_MAX);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'\n');
        self.bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(b'\n');
    }

    fn finish(mut self) -> Vec<u8> {
        let message = std::mem::take(&mut self.text) + &self.about;
        self.put("MESSAGE", &message);
        let target = std::mem::take(&mut self.target);
        self.put("TARGET", &target);
        self.bytes
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field.name(), &format!("{value:?}"));
    }
}

/// As syslog numbers them. (INFO is not "notice": `journalctl` prints that in bold.)
fn priority(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// The journal takes capitals, digits and `_`.
fn sanitised(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

const PREFIX: &str = "FIELDGATE_";
/// With the most fields that an event can have (32) still one datagram of the usual 208 KiB.
const VALUE_BYTES_MAX: usize = 4096;
/// How long the journal may be behind before lines are lost.
const PATIENCE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn parse(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while let Some(end) = entry.iter().position(|b| *b == b'\n') {
            let name = String::from_utf8(entry[..end].to_vec()).unwrap();
            let length = u64::from_le_bytes(entry[end + 1..end + 9].try_into().unwrap()) as usize;
            let value = &entry[end + 9..end + 9 + length];
            assert_eq!(entry[end + 9 + length], b'\n');
            assert!(fields.insert(name, String::from_utf8(value.to_vec()).unwrap()).is_none());
            entry = &entry[end + 10 + length..];
        }
        assert!(entry.is_empty());
        fields
    }

    /// A journal, and what it gets while `work` runs.
    fn heard(work: impl FnOnce(&UnixDatagram)) -> Vec<BTreeMap<String, String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let layer = Journal::open(&path).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || work(&journal));
        rest(&journal)
    }

    fn rest(journal: &UnixDatagram) -> Vec<BTreeMap<String, String>> {
        journal.set_nonblocking(true).unwrap();
        let (mut heard, mut buffer) = (Vec::new(), vec![0; 1 << 18]);
        while let Ok(length) = journal.recv(&mut buffer) {
            if length > 0 {
                heard.push(parse(&buffer[..length]));
            }
        }
        heard
    }

    #[test]
    fn a_line_is_a_sentence_and_its_fields() {
        let device = crate::model::ids::DeviceName::new("meter-1");
        let heard = heard(
            |_| tracing::warn!(bus = "line-1", device = %device, unit_id = 3, cause = %"two\nlines", "device silent"),
        );
        let [entry] = &heard[..] else { panic!("{heard:?}") };
        let check = |name: &str, expected: &str| assert_eq!(entry[name], expected, "{name}");
        check("MESSAGE", "device silent bus=line-1 device=meter-1 unit_id=3 cause=two\nlines");
        check("FIELDGATE_BUS", "line-1");
        check("FIELDGATE_DEVICE", "meter-1");
        check("FIELDGATE_UNIT_ID", "3");
        check("FIELDGATE_CAUSE", "two\nlines");
        check("PRIORITY", "4");
        check("SYSLOG_IDENTIFIER", "fieldgate");
        check("TARGET", module_path!());
        check("CODE_FILE", file!());
    }

    #[test]
    fn levels_are_those_of_syslog() {
        let heard = heard(|_| {
            tracing::error!("e");
            tracing::warn!("w");
            tracing::info!("i");
            tracing::debug!("d");
        });
        let said: Vec<_> = heard.iter().map(|e| (e["MESSAGE"].as_str(), e["PRIORITY"].as_str())).collect();
        assert_eq!(said, [("e", "3"), ("w", "4"), ("i", "6"), ("d", "7")]);
    }

    #[test]
    fn values_are_bounded() {
        let heard = heard(|_| tracing::info!(why = %"ä".repeat(VALUE_BYTES_MAX), "long"));
        assert_eq!(heard[0]["FIELDGATE_WHY"].len(), VALUE_BYTES_MAX);
        assert_eq!(heard[0]["MESSAGE"].len(), VALUE_BYTES_MAX - 1, "cut at a character");
    }

    /// Nobody reads: the lines are counted, and told of once somebody does.
    #[test]
    fn a_journal_that_hangs_costs_lines_and_says_how_many() {
        const LINES: usize = 5000;
        let mut before = Vec::new();
        let after = heard(|journal| {
            for n in 0..LINES {
                tracing::info!(n, "line");
            }
            before = rest(journal);
            tracing::info!("reading again");
        });
        assert!(before.len() < LINES, "the kernel took all of it: more lines are needed");
        let [again, told] = &after[..] else { panic!("{after:?}") };
        assert_eq!(again["MESSAGE"], "reading again");
        assert_eq!(told["FIELDGATE_LOST"], (LINES - before.len()).to_string());
    }

    #[test]
    fn without_a_journal_it_does_not_open() {
        assert!(Journal::open(Path::new("/nowhere/socket")).is_err());
    }
}
