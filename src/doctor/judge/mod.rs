//! What the facts mean. PURE: whatever was looked at comes as a value, and time with it, so
//! that each judgement is a table in a test.

pub mod agent;
pub mod broker;
pub mod certificates;
pub mod clock;
pub mod configuration;
pub mod endpoint;
pub mod files;
pub mod serial;
pub mod service;
pub mod store;

/// The user whose rights count: the agent's, not those of whoever asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Empty if it has none.
    pub name: String,
    pub uid: u32,
    pub gids: Vec<u32>,
}

impl Who {
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub fn label(&self) -> String {
        if self.name.is_empty() { format!("uid {}", self.uid) } else { self.name.clone() }
    }

    /// Whether the mode lets this user do what the three bits say (4 read, 2 write, 1 search).
    pub fn may(&self, rights: Rights, bits: u32) -> bool {
        let granted = if self.is_root() {
            0o7
        } else if rights.uid == self.uid {
            rights.mode >> 6
        } else if self.gids.contains(&rights.gid) {
            rights.mode >> 3
        } else {
            rights.mode
        };
        granted & bits == bits
    }
}

/// Of a file, a folder or a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// The lower twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// `1 day`, `3 days`.
pub fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// `12 s`, `5 min`, `2 h`, `3 days`: one figure is enough to act upon.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

pub fn bytes(n: u64) -> String {
    bytesize::ByteSize(n).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides_as_in_the_kernel() {
        let check = |uid, gids: &[u32], mode, bits, expected| {
            let who = Who { name: String::new(), uid, gids: gids.to_vec() };
            assert_eq!(who.may(Rights { mode, uid: 990, gid: 20 }, bits), expected, "{uid} {mode:o} {bits}");
        };
        check(990, &[], 0o600, 6, true);
        check(991, &[20], 0o660, 6, true);
        check(991, &[21], 0o660, 4, false);
        check(991, &[], 0o664, 4, true);
        check(0, &[], 0o000, 6, true);
        // The owner is not helped by what the others may.
        check(990, &[20], 0o066, 4, false);
    }

    #[test]
    fn a_span_is_one_figure() {
        let check = |s, expected: &str| assert_eq!(span(s), expected);
        check(59, "59 s");
        check(60, "1 min");
        check(7199, "1 h");
        check(200_000, "2 days");
    }
}
