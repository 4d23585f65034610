//! The names under which the cloud knows a device and its documents.
//!
//! A thing is a device behind the gateway as the cloud sees it; a shadow is one of its
//! documents. Both names become levels of a topic, so they are checked once, here, and
//! carried as types: a parsed name holds no slash, no wildcard and no control character.

use std::fmt;
use std::sync::Arc;

/// The longest name of a thing, in bytes; a limit of AWS IoT.
pub const THING_NAME_BYTES_MAX: usize = 128;

/// The longest name of a shadow, in bytes; a limit of AWS IoT.
pub const SHADOW_NAME_BYTES_MAX: usize = 64;

/// A device as the cloud knows it: 1 to 128 characters of `[a-zA-Z0-9:_-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThingName(Arc<str>);

/// One document of a thing: 1 to 64 characters of `[$a-zA-Z0-9:_-]`, or the classic shadow,
/// which has no name and is kept as the empty text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShadowName(Arc<str>);

/// Why a text is no name; its text says what would be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{text:?} is no thing name: it takes 1 to 128 characters of a-z A-Z 0-9 : _ -")]
    Thing { text: String },
    #[error("{text:?} is no shadow name: it takes 1 to 64 characters of $ a-z A-Z 0-9 : _ -")]
    Shadow { text: String },
}

impl ThingName {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let fits = (1..=THING_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(Arc::from(text))) } else { Err(NameError::Thing { text: shortened(text) }) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ShadowName {
    /// The empty text is the classic shadow.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let fits = text.len() <= SHADOW_NAME_BYTES_MAX && text.bytes().all(|b| b == b'$' || plain(b));
        if fits { Ok(Self(Arc::from(text))) } else { Err(NameError::Shadow { text: shortened(text) }) }
    }

    /// The one shadow of a thing that has no name.
    pub fn classic() -> Self {
        Self(Arc::from(""))
    }

    pub fn is_classic(&self) -> bool {
        self.0.is_empty()
    }

    /// Empty for the classic shadow.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-')
}

/// A wrong name may be a whole payload; an error shows its beginning.
fn shortened(text: &str) -> String {
    text.chars().take(THING_NAME_BYTES_MAX + 1).collect()
}

impl fmt::Display for ThingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ThingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// The classic shadow shows as the empty text, as in a topic.
impl fmt::Display for ShadowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShadowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_name_is_one_safe_level_of_a_topic() {
        let longest = "x".repeat(128);
        for good in ["a", "Meter-7", "plant:line_1", longest.as_str()] {
            assert_eq!(ThingName::parse(good).unwrap().as_str(), good);
        }
        let too_long = "x".repeat(129);
        for bad in ["", "a/b", "a+", "#", "$a", "ä", "a b", "a\0", too_long.as_str()] {
            let error = ThingName::parse(bad).unwrap_err().to_string();
            assert!(error.contains("1 to 128 characters"), "{error}");
        }
    }

    #[test]
    fn a_shadow_name_may_be_reserved_or_empty() {
        let longest = "x".repeat(64);
        for good in ["a", "$package", "config:v2", longest.as_str()] {
            let name = ShadowName::parse(good).unwrap();
            assert_eq!((name.as_str(), name.is_classic()), (good, false));
        }
        assert_eq!(ShadowName::parse("").unwrap(), ShadowName::classic());
        assert!(ShadowName::classic().is_classic());
        let too_long = "x".repeat(65);
        for bad in ["a/b", "+", "a#", "ä", "a b", too_long.as_str()] {
            let error = ShadowName::parse(bad).unwrap_err().to_string();
            assert!(error.contains("1 to 64 characters"), "{error}");
        }
    }
}
