//! What goes into the archive, and the list of it. PURE.

use serde::Serialize;

use super::redact::Scrubber;

/// Bytes of one item; the rest is cut off at the end of a line.
pub const ITEM_BYTES_MAX: usize = 512 << 10;

/// Bytes of all of them; what comes after is left out.
pub const BUNDLE_BYTES_MAX: usize = 4 << 20;

/// Less room than this is not worth a piece of an item. Bytes.
const ROOM_MIN: usize = 4096;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Inside of the archive.
    pub name: String,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Or why there is none.
    pub text: Result<String, String>,
}

impl Wanted {
    pub fn new(name: impl Into<String>, about: &'static str, text: Result<String, String>) -> Wanted {
        Wanted { name: name.into(), about, text }
    }
}

/// What goes in: without secrets, and within its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    pub name: String,
    pub about: &'static str,
    pub bytes: usize,
    /// Lower-case hex.
    pub sha256: String,
    /// Secrets that were taken out of it.
    pub redactions: usize,
    /// Its end is not in here.
    pub cut: bool,
    #[serde(skip)]
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Absent {
    pub name: String,
    pub why: String,
}

/// The list of the archive, also a file in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    pub fieldgate: &'static str,
    pub made: String,
    pub items: Vec<Item>,
    pub absent: Vec<Absent>,
    /// Of all items.
    pub redactions: usize,
}

/// Takes the secrets out, cuts what is too long, and counts.
pub fn pack(
    wanted: Vec<Wanted>,
    scrubber: &Scrubber,
    made: String,
    sha256: impl Fn(&[u8]) -> String,
) -> Manifest {
    let mut manifest = Manifest {
        fieldgate: env!("CARGO_PKG_VERSION"),
        made,
        items: Vec::new(),
        absent: Vec::new(),
        redactions: 0,
    };
    let mut room = BUNDLE_BYTES_MAX;
    for Wanted { name, about, text } in wanted {
        let name = scrubber.clean(&name).0;
        let text = match text {
            Ok(text) => text,
            Err(why) => {
                manifest.absent.push(Absent { name, why: scrubber.clean(&why).0 });
                continue;
            }
        };
        if room < ROOM_MIN && text.len() > room {
            let why = format!("the archive is full ({BUNDLE_BYTES_MAX} bytes)");
            manifest.absent.push(Absent { name, why });
            continue;
        }
        // First the secrets: a cut one would not be known any more.
        let (clean, redactions) = scrubber.clean(&text);
        let (text, cut) = cut(clean, ITEM_BYTES_MAX.min(room));
        room -= text.len();
        manifest.redactions += redactions;
        let sha256 = sha256(text.as_bytes());
        manifest.items.push(Item { name, about, bytes: text.len(), sha256, redactions, cut, text });
    }
    manifest
}

fn cut(mut text: String, max: usize) -> (String, bool) {
    if text.len() <= max {
        return (text, false);
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(text[..end].rfind('\n').map_or(end, |at| at + 1));
    (text, true)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn everything_is_bounded_and_without_secrets_the_list_included() {
        let long = "line with hunter2\n".repeat(100_000);
        let wanted = (0..20)
            .map(|n| Wanted::new(format!("{n}-hunter2.txt"), "x", Ok(long.clone())))
            .chain([Wanted::new("gone.txt", "x", Err("cannot log in with hunter2".into()))])
            .collect();
        let scrubber = Scrubber::new([Zeroizing::new("hunter2".to_owned())]);
        let manifest = pack(wanted, &scrubber, "now".into(), |_| "hash".into());
        let bytes: usize = manifest.items.iter().map(|i| i.bytes).sum();
        assert!(bytes <= BUNDLE_BYTES_MAX && bytes > BUNDLE_BYTES_MAX - ITEM_BYTES_MAX, "{bytes}");
        assert!(manifest.items.iter().all(|i| i.cut && i.bytes <= ITEM_BYTES_MAX && i.text.ends_with('\n')));
        assert_eq!(manifest.items[0].redactions, 100_000);
        assert!(!serde_json::to_string(&manifest).unwrap().contains("hunter2"));
        assert!(manifest.items.iter().all(|i| !i.text.contains("hunter2")));
        assert_eq!(manifest.items.len() + manifest.absent.len(), 21);
    }

    #[test]
    fn a_text_is_cut_at_the_end_of_a_line() {
        assert_eq!(cut("ab\ncd\n".into(), 5), ("ab\n".into(), true));
        assert_eq!(cut("ab\ncd\n".into(), 6), ("ab\ncd\n".into(), false));
        assert_eq!(cut("äöü".into(), 3), ("ä".into(), true));
    }
}
