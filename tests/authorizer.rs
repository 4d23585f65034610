//! A custom authorizer's login, from the files an operator makes to the MQTT user name; the
//! other side is openssl, which makes the key, signs the token and judges what arrives.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fieldgate::config::load::load_with;
use fieldgate::config::{Config, Security};

/// A token as awkward as one can be, with the line break that editors leave.
const TOKEN: &str = "a+b/c=&d e?%ä";

fn openssl(folder: &Path, arguments: &str) -> bool {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().unwrap();
    output.status.success()
}

/// Token and signature in files, as the sample says; the URL's port decides the ALPN.
fn signed(folder: &Path, port: u16, extra: &str) -> Config {
    std::fs::write(folder.join("token"), format!("{TOKEN}\n")).unwrap();
    std::fs::write(folder.join("signed"), TOKEN).unwrap();
    assert!(openssl(folder, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem"));
    assert!(openssl(folder, "pkey -in key.pem -pubout -out public.pem"));
    assert!(openssl(folder, "dgst -sha256 -sign key.pem -out raw.sig signed"));
    // Broken into lines, as openssl does.
    assert!(openssl(folder, "base64 -in raw.sig -out token.sig"));
    let text = format!(
        "[gateway]\nname = \"gw-1\"\n[uplink]\nurl = \"mqtts://broker.example:{port}\"\npassword = \"s3cret\"\n{extra}\n\
         [uplink.authorizer]\nname = \"Gateways\"\nusername = \"bob\"\ntoken_key = \"tokenKey\"\n\
         token_file = \"token\"\nsignature_file = \"token.sig\"\n"
    );
    let file = folder.join("fieldgate.toml");
    std::fs::write(&file, text).unwrap();
    load_with(&file, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"))
}

/// The parts of the user name, as the cloud reads them.
fn parts(username: &str) -> (String, Vec<(String, String)>) {
    let (user, query) = username.split_once('?').unwrap();
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let pair = |part: &str| part.split_once('=').map(|(k, v)| (k.to_owned(), decoded(v))).unwrap();
    (user.to_owned(), query.split('&').map(pair).collect())
}

#[test]
fn the_signature_that_arrives_fits_the_token_that_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let login = signed(folder.path(), 443, "").uplink.login.unwrap();
    let (user, parts) = parts(&login.username);
    let keys: Vec<&str> = parts.iter().map(|p| p.0.as_str()).collect();
    assert_eq!((user.as_str(), login.password.as_str()), ("bob", "s3cret"));
    assert_eq!(keys, ["x-amz-customauthorizer-name", "x-amz-customauthorizer-signature", "tokenKey"]);
    assert_eq!((parts[0].1.as_str(), parts[2].1.as_str()), ("Gateways", TOKEN));
    let (token, signature) = (folder.path().join("arrived"), folder.path().join("arrived.sig"));
    let verify = "dgst -sha256 -verify public.pem -signature arrived.sig arrived";
    std::fs::write(&token, &parts[2].1).unwrap();
    std::fs::write(&signature, STANDARD.decode(&parts[1].1).unwrap()).unwrap();
    assert!(openssl(folder.path(), verify));
    std::fs::write(&token, format!("{}\n", parts[2].1)).unwrap();
    assert!(!openssl(folder.path(), verify), "the line break of the file is not part of the token");
    let shown = format!("{login:?}");
    assert!(shown.contains("bob?<redacted>") && !shown.contains("tokenKey"), "{shown}");
}

#[test]
fn port_443_speaks_mqtt_unless_told_otherwise() {
    let check = |port: u16, extra: &str, expected: &[&str], warnings: usize| {
        let folder = tempfile::tempdir().unwrap();
        let config = signed(folder.path(), port, extra);
        let Security::Tls(tls) = &config.uplink.security else { panic!("no TLS") };
        assert_eq!(tls.alpn, expected, "{port} {extra}");
        let of_alpn = config.warnings.iter().filter(|w| w.contains("uplink.alpn")).count();
        assert_eq!(of_alpn, warnings, "{:?}", config.warnings);
    };
    check(443, "", &["mqtt"], 0);
    check(8883, "", &[], 0);
    check(443, "alpn = [\"mqtt\"]", &["mqtt"], 0);
    check(443, "alpn = []", &["mqtt"], 0);
    check(443, "alpn = [\"x-amzn-mqtt-ca\"]", &["x-amzn-mqtt-ca"], 1);
}

#[test]
fn the_printed_configuration_holds_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fieldgate.toml");
    let text = "[gateway]\nname = \"g\"\n[uplink]\nurl = \"mqtts://b\"\n\
                authorizer = { username = \"bob\", token = \"t0ken\", signature = \"s1gnature\" }\n";
    std::fs::write(&file, text).unwrap();
    let mut report = fieldgate::config::errors::Report::default();
    let layered = fieldgate::config::load::layers(&file, std::iter::empty(), &mut report).unwrap();
    let printed = fieldgate::config::merged::merged(&layered).to_string();
    assert!(printed.contains("bob") && printed.contains("<redacted>"), "{printed}");
    assert!(!printed.contains("t0ken") && !printed.contains("s1gnature"), "{printed}");
}
