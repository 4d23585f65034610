//! PURE: the login of a custom authorizer, as AWS IoT reads it from the MQTT user name.
//!
//! `user?x-amz-customauthorizer-name=A&x-amz-customauthorizer-signature=S&KEY=TOKEN` (AWS IoT
//! developer guide, Custom authentication). What stands before `?` is handed on as the user
//! name. The signature (RSASSA-PKCS1-v1_5, SHA-256, over the bytes of the token) is made
//! elsewhere, with a key that has no business on a gateway; it is checked before the
//! authorizer's function is called, so a wrong one costs a connection and no more words.
//!
//! Constraints: the text is read like a query, so whatever is not letter, digit or `-._~` is
//! percent-encoded; base64 alone has three such characters. Token and signature are secrets.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

/// How a connection with this login says so on port 443.
pub const ALPN: &str = "mqtt";

/// The longest MQTT text, in bytes.
pub const USERNAME_MAX: usize = 65_535;

const NAME_MAX: usize = 128;

/// RSA with 2048 bits is the least that is taken.
const SIGNATURE_BYTES_MIN: usize = 256;

const NAME: &str = "x-amz-customauthorizer-name";
const SIGNATURE: &str = "x-amz-customauthorizer-signature";

/// The unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Checked by the functions below.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorizer {
    /// `None`: the domain's default.
    pub name: Option<String>,
    /// Handed on to the function; may be empty.
    pub username: String,
    /// Base64.
    pub signature: Option<Zeroizing<String>>,
    /// Key and value.
    pub token: Option<(String, Zeroizing<String>)>,
}

impl Authorizer {
    /// The MQTT user name; as secret as the token in it.
    pub fn login(&self) -> Zeroizing<String> {
        let signature = self.signature.as_deref().map(String::as_str);
        let token = self.token.as_ref().map(|(key, value)| (key.as_str(), value.as_str()));
        let pairs = [self.name.as_deref().map(|name| (NAME, name)), signature.map(|s| (SIGNATURE, s)), token];
        let mut login = Zeroizing::new(self.username.clone());
        for (index, (key, value)) in pairs.into_iter().flatten().enumerate() {
            login.push(if index == 0 { '?' } else { '&' });
            login.push_str(key);
            login.push('=');
            login.extend(utf8_percent_encode(value, ENCODED));
        }
        login
    }
}

/// 1 to 128 of `[a-zA-Z0-9_=,@-]`.
pub fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'=' | b',' | b'@' | b'-');
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(fits)
}

/// 1 to 128 of `[a-zA-Z0-9_-]`, and not the name of one of the other parts.
pub fn is_token_key(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let is_free = ![NAME, SIGNATURE].iter().any(|taken| text.eq_ignore_ascii_case(taken));
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(fits) && is_free
}

/// Why a text cannot be a signature; does not repeat it.
pub fn signature_fault(text: &str) -> Option<String> {
    match STANDARD.decode(text) {
        Err(_) if text.contains('%') => Some("is URL-encoded already".into()),
        Err(_) => Some("is not base64".into()),
        Ok(bytes) if bytes.len() < SIGNATURE_BYTES_MIN => {
            Some(format!("has {} bytes, and a signature at least {SIGNATURE_BYTES_MIN}", bytes.len()))
        }
        Ok(_) => None,
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizer")
            .field("name", &self.name)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn authorizer(name: &str, username: &str, signature: &str, token: (&str, &str)) -> Authorizer {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Authorizer {
            name: some(name),
            username: username.into(),
            signature: some(signature).map(Zeroizing::new),
            token: some(token.0).map(|key| (key, Zeroizing::new(token.1.to_owned()))),
        }
    }

    #[test]
    fn a_login_is_a_query() {
        let check = |a: Authorizer, expected: &str| assert_eq!(a.login().as_str(), expected);
        check(
            authorizer("A", "bob", "ab+/c==", ("tokenKey", "t-1")),
            "bob?x-amz-customauthorizer-name=A&x-amz-customauthorizer-signature=ab%2B%2Fc%3D%3D&tokenKey=t-1",
        );
        check(authorizer("A", "", "", ("", "")), "?x-amz-customauthorizer-name=A");
        check(authorizer("a=b,c@d", "u", "", ("", "")), "u?x-amz-customauthorizer-name=a%3Db%2Cc%40d");
        // A web token goes as it is; what would end a part does not end it.
        check(authorizer("", "u", "", ("jwt", "e30.e30.a_-~")), "u?jwt=e30.e30.a_-~");
        check(authorizer("", "u", "", ("k", "a&k=b?c d%ä")), "u?k=a%26k%3Db%3Fc%20d%25%C3%A4");
    }

    #[test]
    fn names_are_those_that_the_cloud_takes() {
        let longest = "x".repeat(128);
        let too_long = "x".repeat(129);
        for (text, name, key) in [
            ("Auth_1", true, true),
            ("a=b,c@d-e", true, false),
            (longest.as_str(), true, true),
            (too_long.as_str(), false, false),
            ("", false, false),
            ("a b", false, false),
            ("a&b", false, false),
            ("ä", false, false),
            ("X-Amz-CustomAuthorizer-Signature", true, false),
        ] {
            assert_eq!((is_name(text), is_token_key(text)), (name, key), "{text}");
        }
    }

    #[test]
    fn a_signature_is_base64_and_long_enough() {
        let check = |text: String, expected: Option<&str>| {
            let found = signature_fault(&text);
            assert_eq!(found.is_none(), expected.is_none(), "{found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()));
        };
        check(STANDARD.encode([7; 256]), None);
        check(STANDARD.encode([7; 512]), None);
        check(STANDARD.encode([7; 255]), Some("255 bytes"));
        check(STANDARD.encode([7; 256]).replace('=', "%3D"), Some("URL-encoded already"));
        check("not base64!".into(), Some("not base64"));
    }

    #[test]
    fn secrets_do_not_show() {
        let text = format!("{:?}", authorizer("A", "bob", "s1gn", ("key", "t0ken")));
        assert!(text.contains("bob") && !text.contains("s1gn") && !text.contains("t0ken"), "{text}");
    }

    proptest! {
        /// Whoever takes the login apart as a query finds what was put in.
        #[test]
        fn a_login_can_be_taken_apart(token in "\\PC{1,40}", raw in proptest::collection::vec(any::<u8>(), 1..40)) {
            let signature = STANDARD.encode(raw);
            let login = authorizer("A", "bob", &signature, ("key", &token)).login();
            let (user, query) = login.split_once('?').unwrap();
            let parts: Vec<(String, String)> = query
                .split('&')
                .map(|part| part.split_once('=').unwrap())
                .map(|(k, v)| (k.into(), percent_encoding::percent_decode_str(v).decode_utf8().unwrap().into()))
                .collect();
            prop_assert_eq!(user, "bob");
            let expected = [(NAME, "A"), (SIGNATURE, signature.as_str()), ("key", token.as_str())];
            prop_assert_eq!(parts, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        }
    }
}
