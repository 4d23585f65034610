//! The last look at whatever goes into the archive. PURE.
//!
//! Two nets, one behind the other: every secret that the configuration holds, as it is and as
//! it may have been spelled on its way (percent-encoded, in JSON, in base64, in pieces); then
//! whatever looks like one, because a log may hold secrets that are not in the configuration
//! any more: private keys, tokens, `password=...`, a login in a URL.

use std::borrow::Cow;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use regex::{Captures, Regex};
use zeroize::Zeroizing;

use crate::config::merged::REDACTED;

/// A secret of fewer bytes stands in too many words: it is only taken out where it stands alone.
const SHORT: usize = 6;

/// Lines of a secret of several lines, such as a key, that are looked for alone. Bytes.
const LINE_MIN: usize = 8;

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub struct Scrubber {
    /// Every spelling of every secret, the longest first.
    spellings: Vec<Zeroizing<String>>,
}

impl Scrubber {
    pub fn new(secrets: impl IntoIterator<Item = Zeroizing<String>>) -> Scrubber {
        let mut spellings: Vec<Zeroizing<String>> = secrets.into_iter().flat_map(|s| spelled(&s)).collect();
        spellings.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        spellings.dedup();
        Scrubber { spellings }
    }

    /// The text without secrets, and how many were taken out.
    pub fn clean(&self, text: &str) -> (String, usize) {
        let mut taken = 0;
        let mut text = Cow::Borrowed(text);
        for secret in &self.spellings {
            // Most of them stand nowhere.
            if text.contains(secret.as_str()) {
                let (clean, n) = without(&text, secret);
                (text, taken) = (Cow::Owned(clean), taken + n);
            }
        }
        for (pattern, keeps) in PATTERNS.iter() {
            let mut n = 0;
            let clean = pattern.replace_all(&text, |found: &Captures| {
                let before = if *keeps { found.get(1).map_or("", |m| m.as_str()) } else { "" };
                let rest = &found[0][before.len()..];
                // The label of a token is none.
                let is_label = text[..found.get(0).map_or(0, |m| m.start())].ends_with("pkcs11:");
                if is_label || rest.trim_matches(['"', '\'', '\\']) == REDACTED {
                    return found[0].to_owned();
                }
                n += 1;
                // What was in quotes stays in quotes: JSON and TOML stay what they are.
                let quote =
                    if rest.starts_with('"') && rest.ends_with('"') && rest.len() > 1 { "\"" } else { "" };
                format!("{before}{quote}{REDACTED}{quote}")
            });
            if n > 0 {
                let clean = clean.into_owned();
                (text, taken) = (Cow::Owned(clean), taken + n);
            }
        }
        (text.into_owned(), taken)
    }
}

fn spelled(secret: &str) -> Vec<Zeroizing<String>> {
    let secret = secret.trim_matches(['\r', '\n']);
    if secret.trim().is_empty() || secret == REDACTED {
        return Vec::new();
    }
    let json = serde_json::to_string(secret).unwrap_or_default();
    let json = json.trim_start_matches('"').strip_suffix('"').unwrap_or_default().to_owned();
    let debug = format!("{secret:?}");
    let debug = debug[1..debug.len() - 1].to_owned();
    let mut all: Vec<String> = vec![
        secret.to_owned(),
        secret.trim().to_owned(),
        utf8_percent_encode(secret, UNRESERVED).to_string(),
        utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
        json,
        debug,
        STANDARD.encode(secret),
        STANDARD_NO_PAD.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
    ];
    let lines: Vec<&str> = secret.lines().map(str::trim).filter(|line| line.len() >= LINE_MIN).collect();
    if secret.lines().count() > 1 {
        all.extend(lines.iter().filter(|line| !line.starts_with("-----")).map(|line| (*line).to_owned()));
        all.push(secret.split_ascii_whitespace().collect());
    }
    // A short one in base64 is as short a word as itself.
    all.retain(|spelling| !spelling.is_empty());
    all.into_iter().map(Zeroizing::new).collect()
}

/// All of them; a short one only where no letter or digit touches it.
fn without(text: &str, secret: &str) -> (String, usize) {
    let mut clean = String::with_capacity(text.len());
    let (mut rest_at, mut from, mut n) = (0, 0, 0);
    while let Some(found) = text[from..].find(secret) {
        let (start, end) = (from + found, from + found + secret.len());
        let touches = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let inside = touches(text[..start].chars().next_back()) || touches(text[end..].chars().next());
        if secret.len() < SHORT && inside {
            from = start + secret.chars().next().map_or(1, char::len_utf8);
            continue;
        }
        clean.push_str(&text[rest_at..start]);
        clean.push_str(REDACTED);
        (rest_at, from, n) = (end, end, n + 1);
    }
    clean.push_str(&text[rest_at..]);
    (clean, n)
}

/// What looks like a secret; `true`: the first group stands before it and stays.
static PATTERNS: LazyLock<Vec<(Regex, bool)>> = LazyLock::new(|| {
    const WORD: &str = r"(?-u:(?i:[a-z0-9_.-]*(?:password|passwd|passphrase|pass|secret[a-z0-9_]*_?key|secret|token|signature|pin-value|api_?key)))";
    let patterns: [(String, bool); 9] = [
        (r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?-----END [A-Z0-9 ]*PRIVATE KEY-----".into(), false),
        // Without its end: it was cut, and nobody knows where the key ends.
        (r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*".into(), false),
        (r"PRIVATE KEY".into(), false),
        (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?".into(), false),
        // To the last @: a password may hold one, and a slash.
        (r#"(://)[^\s"'@/:]*:[^\s"']*@"#.into(), true),
        (r"((?-u:(?i:authorization))\s*[:=]\s*)[^\n]+".into(), true),
        (r"((?-u:(?i:bearer))\s+)[A-Za-z0-9._~+/=-]{8,}".into(), true),
        // With the lines that it goes on in.
        (r"((?-u:(?i:SetCredential(?:Encrypted)?))=)(?:[^\n]*\\\n)*[^\n]+".into(), true),
        // KEY=VALUE, "KEY": "VALUE", and "KEY=a value in quotes" as systemd writes variables.
        (format!(r#"({WORD}\\?"?\s*[=:]\s*)(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s,;&"'}}\])]+)"#), true),
    ];
    #[allow(clippy::expect_used, reason = "constant patterns, compiled in a test")]
    let compile = |(pattern, keeps): (String, bool)| (Regex::new(&pattern).expect("a pattern"), keeps);
    let quoted = (format!(r#"("{WORD}=)(?:[^"\\\n]|\\.)*"#), true);
    let single = (format!(r#"('{WORD}=)(?:[^'\\\n]|\\.)*"#), true);
    [quoted, single].into_iter().chain(patterns).map(compile).collect()
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scrubber(secrets: &[&str]) -> Scrubber {
        Scrubber::new(secrets.iter().map(|s| Zeroizing::new((*s).to_owned())))
    }

    #[test]
    fn what_looks_like_a_secret_is_taken_out() {
        let check = |text: &str, expected: &str| {
            let (clean, n) = scrubber(&[]).clean(text);
            assert_eq!(clean, expected);
            assert_eq!(n > 0, text != expected, "{text}");
        };
        check("a -----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY----- b", "a <redacted> b");
        check("-----BEGIN EC PRIVATE KEY-----\\nMII\\n-----END EC PRIVATE KEY-----", "<redacted>");
        check("x -----BEGIN RSA PRIVATE KEY-----\nMIIcut", "x <redacted>");
        check("no PEM block `PRIVATE KEY`", "no PEM block `<redacted>`");
        check("-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----");
        check("password=hunter2 next", "password=<redacted> next");
        check("{\"password\": \"hunter two\", \"a\": 1}", "{\"password\": \"<redacted>\", \"a\": 1}");
        check("password = \"<redacted>\"", "password = \"<redacted>\"");
        check(
            "Environment=FIELDGATE__UPLINK__PASSWORD=hunter2 A=b",
            "Environment=FIELDGATE__UPLINK__PASSWORD=<redacted> A=b",
        );
        check(
            "Environment=\"FIELDGATE__UPLINK__PASSWORD=hunter two\" A=b",
            "Environment=\"FIELDGATE__UPLINK__PASSWORD=<redacted>\" A=b",
        );
        check(
            "Environment='FIELDGATE__UPLINK__PASSWORD=correct horse' A=b",
            "Environment='FIELDGATE__UPLINK__PASSWORD=<redacted>' A=b",
        );
        check("Environment=MQTT_PASS=hunter2 A=b", "Environment=MQTT_PASS=<redacted> A=b");
        check("SetCredential=pw:one \\\n  two\nUser=x", "SetCredential=<redacted>\nUser=x");
        check("mqtts://bob:a/b@c@host:1 and more", "mqtts://<redacted>host:1 and more");
        check("AWS_SECRET_ACCESS_KEY=abc", "AWS_SECRET_ACCESS_KEY=<redacted>");
        check("X-Amz-Signature=0a1b&x=1", "X-Amz-Signature=<redacted>&x=1");
        check("SetCredential=gateway.key:abc def", "SetCredential=<redacted>");
        check("https://host:8443/path to@nobody", "https://host:8443/path to@nobody");
        check("LoadCredential=gateway.key:/etc/x", "LoadCredential=gateway.key:/etc/x");
        check("mqtts://bob:pw@host:1", "mqtts://<redacted>host:1");
        check("Authorization: Bearer abcdefghijk", "Authorization: <redacted>");
        check("t eyJhbGciOiJI.eyJzdWIiOiIx.c2ln e", "t <redacted> e");
        check("pkcs11:token=t;object=o?pin-value=1234", "pkcs11:token=t;object=o?pin-value=<redacted>");
        check("password_file = \"/etc/pw\"", "password_file = \"/etc/pw\"");
        check("token_key = \"k\"", "token_key = \"k\"");
    }

    #[test]
    fn a_short_secret_is_taken_out_where_it_stands_alone() {
        let check = |text: &str, expected: &str| assert_eq!(scrubber(&["abc"]).clean(text).0, expected);
        check("abc", "<redacted>");
        check("x=abc;", "x=<redacted>;");
        check("abcd xabc", "abcd xabc");
        check("abcabc abc", "abcabc <redacted>");
    }

    #[test]
    fn every_spelling_of_a_known_secret_is_found() {
        let secret = "p%ss \"wörd\"/+=x";
        let json = serde_json::to_string(secret).unwrap();
        let encoded = utf8_percent_encode(secret, UNRESERVED).to_string();
        for text in [secret.to_owned(), json, encoded, STANDARD.encode(secret), format!("{secret:?}")] {
            let (clean, n) = scrubber(&[secret]).clean(&format!("a {text} b"));
            assert!(n > 0 && !clean.contains("rd") && !clean.contains(&text), "{clean}");
        }
        let key = "-----BEGIN X-----\nMIIBVgIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END X-----\n";
        let (clean, _) = scrubber(&[key]).clean("Nov 25 fieldgate: hkiG9w0BAQEFAASC");
        assert_eq!(clean, "Nov 25 fieldgate: <redacted>");
    }

    proptest! {
        /// Wherever it stands and between whatever: it is gone.
        #[test]
        fn no_secret_is_left(
            secret in "[ -~äß€]{6,40}", before in "[ -~\\n]{0,40}", after in "[ -~\\n]{0,40}",
        ) {
            let plain = secret.trim();
            prop_assume!(plain.len() >= SHORT && !REDACTED.contains(plain) && !plain.contains(REDACTED));
            let (clean, _) = scrubber(&[&secret]).clean(&format!("{before}{secret}{after}"));
            prop_assert!(!clean.contains(plain), "{clean}");
            // A second look finds nothing new.
            prop_assert_eq!(scrubber(&[&secret]).clean(&clean).0, clean);
        }
    }
}
