//! PURE: the user name by which a custom authorizer of AWS IoT is asked.
//!
//! `user?x-amz-customauthorizer-name=A&x-amz-customauthorizer-signature=S&<token key>=<token>`
//! (AWS IoT developer guide, "Connecting to AWS IoT Core by using custom authentication").
//! The signature is base64 and holds `+`, `/` and `=`, which mean something else in a query,
//! so it is encoded; the token likewise. The signature is over the token as it was given.

use zeroize::Zeroizing;

use super::sigv4::encoded;

/// The longest user name that MQTT can carry, in bytes.
pub const USERNAME_MAX: usize = 65_535;

/// What stands in the user name. Absent parts are left out.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// What the authorizer sees as the user name.
    pub username: &'a str,
    /// Without it the domain's default authorizer is asked.
    pub name: Option<&'a str>,
    /// Base64, RSASSA-PKCS1-v1_5 with SHA-256 over the token; already encoded is fine too.
    pub signature: Option<&'a str>,
    /// The authorizer's token key and the token.
    pub token: Option<(&'a str, &'a str)>,
}

/// It holds the token: a secret.
pub fn username(parts: Parts<'_>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::from(parts.username));
    let mut mark = '?';
    let mut add = |key: &str, value: &str| {
        text.push(mark);
        text.push_str(key);
        text.push('=');
        text.push_str(value);
        mark = '&';
    };
    if let Some(name) = parts.name {
        add("x-amz-customauthorizer-name", name);
    }
    if let Some(signature) = parts.signature {
        // Base64 has no percent sign, so one tells that it is encoded already.
        let value = if signature.contains('%') { signature.to_owned() } else { encoded(signature) };
        add("x-amz-customauthorizer-signature", &value);
    }
    if let Some((key, token)) = parts.token {
        add(&encoded(key), &Zeroizing::new(encoded(token)));
    }
    text
}

/// 1 to 128 of `[a-zA-Z0-9_=,@-]`.
pub fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'=' | b',' | b'@' | b'-');
    (1..=128).contains(&name.len()) && name.bytes().all(fits)
}

/// Base64, or base64 in a query's spelling.
pub fn is_signature(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'%');
    !text.is_empty() && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: Parts<'_>, expected: &str) {
        assert_eq!(username(parts).as_str(), expected);
    }

    #[test]
    fn the_user_name_is_a_query() {
        let all = Parts {
            username: "gw-1",
            name: Some("Plant"),
            signature: Some("aB+/c="),
            token: Some(("tok", "t.1")),
        };
        check(
            all,
            "gw-1?x-amz-customauthorizer-name=Plant&x-amz-customauthorizer-signature=aB%2B%2Fc%3D&tok=t.1",
        );
        check(
            Parts { signature: Some("aB%2B"), name: None, ..all },
            "gw-1?x-amz-customauthorizer-signature=aB%2B&tok=t.1",
        );
        check(
            Parts { signature: None, name: None, token: Some(("tok", "a&b=c")), ..all },
            "gw-1?tok=a%26b%3Dc",
        );
        check(Parts { signature: None, name: None, token: None, ..all }, "gw-1");
        check(
            Parts { username: "", signature: None, token: None, ..all },
            "?x-amz-customauthorizer-name=Plant",
        );
    }

    #[test]
    fn names_and_signatures_are_told_from_other_text() {
        assert!(is_name("Plant_1") && !is_name("") && !is_name("a b") && !is_name(&"a".repeat(129)));
        assert!(is_signature("aB+/c==") && is_signature("a%2B") && !is_signature("") && !is_signature("a b"));
    }
}
