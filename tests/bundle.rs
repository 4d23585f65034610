//! `fieldgate bundle` by its own binary: the archive holds what helps, and nothing secret,
//! wherever in the configuration the secret stands and however wrong the configuration is.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const PASSWORD: &str = "Pa55/w\u{f6}rd \"quoted\" & long";
const TOKEN: &str = "t0ken+with/odd=characters%41";
const PIN: &str = "948217";
const KEY_ID_FILE: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn signature() -> String {
    STANDARD.encode([0x5a; 256])
}

/// Runs the verb on the configuration and unpacks what it wrote.
fn bundle(folder: &Path, configuration: &str, variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    let file = folder.join("fieldgate.toml");
    std::fs::write(&file, configuration).unwrap();
    let archive = folder.join("x.tar.gz");
    let output = Command::new(env!("CARGO_BIN_EXE_fieldgate"))
        .args(["bundle", "--yes", "--config"])
        .arg(&file)
        .arg("--out")
        .arg(&archive)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text =
        (String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr)).into_owned();
    assert!(output.status.success(), "{text}");
    assert_eq!(std::fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&archive).unwrap()));
    let mut found = BTreeMap::from([("printed".to_owned(), text)]);
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        found.insert(name.trim_start_matches("fieldgate-bundle/").to_owned(), text);
    }
    found
}

/// None of these stands anywhere, neither as it is nor as a log or a URL would spell it.
#[track_caller]
fn check(configuration: &str, variables: &[(&str, &str)], secrets: &[&str]) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("password", &format!("{PASSWORD}\n"));
    put("token", TOKEN);
    put("token.sig", &signature());
    put("aws.key", KEY_ID_FILE);
    put("pin", PIN);
    let pair = rcgen::generate_simple_self_signed(["gw-1".to_owned()]).unwrap();
    put("gw.pem", &pair.cert.pem());
    put("gw.key", &pair.signing_key.serialize_pem());
    put("both.pem", &(pair.signing_key.serialize_pem() + &pair.cert.pem()));
    let found = bundle(folder.path(), configuration, variables);
    let key = pair.signing_key.serialize_pem();
    let body: Vec<&str> = key.lines().filter(|line| !line.starts_with("-----")).collect();
    let signature = signature();
    let fixed = ["PRIVATE KEY", signature.as_str(), PASSWORD, TOKEN, KEY_ID_FILE];
    for (name, text) in &found {
        for secret in secrets.iter().chain(&fixed).chain(&body) {
            let json = serde_json::to_string(secret).unwrap();
            let encoded =
                percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC).to_string();
            for spelling in [secret, json.trim_matches('"'), encoded.as_str()] {
                assert!(!text.contains(spelling), "{secret} stands in {name}:\n{text}");
            }
        }
    }
    for name in ["MANIFEST.json", "version.json", "doctor.json", "machine.txt", "serial.json"] {
        assert!(found.contains_key(name), "no {name} in {:?}", found.keys());
        assert!(found["printed"].contains(name) || name == "MANIFEST.json", "{}", found["printed"]);
    }
    found
}

/// Port 1 of loopback: refused at once.
fn uplink(keys: &str) -> String {
    format!(
        "[gateway]\nname = \"gw-1\"\nstatus_socket = \"/nonexistent/s\"\n[store]\npath = \"/nonexistent/f.db\"\n\
         [uplink]\nurl = \"mqtts://127.0.0.1:1\"\n{keys}\n"
    )
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

#[test]
fn a_password_in_the_configuration_or_beside_it_stays_here() {
    let inline = format!("username = \"bob\"\npassword = {}", quoted(PASSWORD));
    let found = check(&uplink(&inline), &[], &[]);
    assert!(found["configuration.toml"].contains("password = \"<redacted>\""), "{found:?}");
    assert!(found["configuration.toml"].contains("username = \"bob\""));
    check(&uplink("username = \"bob\"\npassword_file = \"password\""), &[], &[]);
    let token = format!("username = {}\npassword = \"x\"", quoted("bob?t=in-the-user-name"));
    check(&uplink(&token), &[], &["in-the-user-name"]);
    let variables =
        [("FIELDGATE__UPLINK__PASSWORD", PASSWORD), ("AWS_SECRET_ACCESS_KEY", "from-the-environment")];
    check(&uplink("username = \"bob\""), &variables, &["from-the-environment"]);
}

/// The first net does not know that a topic holds it; the last one does.
#[test]
fn a_secret_that_stands_where_it_should_not_is_taken_out_and_counted() {
    let keys = "username = \"bob\"\npassword_file = \"password\"\ntopic = \"dt/Pa55-elsewhere/{device}\"\n\
                status_topic = \"st/{gateway}\"";
    let keys = format!("{keys}\nclient_id = {}", quoted(PASSWORD));
    let found = check(&uplink(&keys), &[], &[]);
    let manifest: serde_json::Value = serde_json::from_str(&found["MANIFEST.json"]).unwrap();
    assert!(manifest["redactions"].as_u64().unwrap() >= 2, "{manifest}");
    let item =
        manifest["items"].as_array().unwrap().iter().find(|i| i["name"] == "configuration.toml").unwrap();
    assert_eq!(item["bytes"], found["configuration.toml"].len());
    let hash = ring::digest::digest(&ring::digest::SHA256, found["configuration.toml"].as_bytes());
    assert_eq!(item["sha256"], fieldgate::identity::subject::hex(hash.as_ref()));
    assert!(item["redactions"].as_u64().unwrap() >= 1);
    assert!(found["printed"].contains("redacted)"), "{}", found["printed"]);
}

#[test]
fn tokens_signatures_and_signing_keys_stay_here() {
    let inline = format!(
        "authorizer = {{ token_key = \"k\", token = {}, signature = {} }}",
        quoted(TOKEN),
        quoted(&signature())
    );
    check(&uplink(&inline), &[], &[]);
    check(
        &uplink("authorizer = { token_key = \"k\", token_file = \"token\", signature_file = \"token.sig\" }"),
        &[],
        &[],
    );
    let sigv4 = "sigv4 = { region = \"eu-central-1\", source = \"static\", access_key_id = \"AKIA\", \
                 secret_access_key_file = \"aws.key\" }";
    check(&uplink(sigv4).replace("mqtts://127.0.0.1:1", "wss://127.0.0.1:1"), &[], &[]);
}

#[test]
fn keys_claims_and_pins_stay_here_and_certificates_go() {
    let found = check(&uplink("certificate = \"gw.pem\"\nkey = \"gw.key\""), &[], &[]);
    assert!(found["certificates/uplink.pem"].starts_with("-----BEGIN CERTIFICATE-----"));
    // A chain and its key in one file: only the chain goes.
    let found = check(&uplink("ca = \"both.pem\"\ncertificate = \"both.pem\"\nkey = \"both.pem\""), &[], &[]);
    assert!(found["certificates/uplink-ca.pem"].starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(found["doctor.json"].contains("fits its key"), "{}", found["doctor.json"]);
    let claim = "certificate = \"gw.pem\"\nkey = \"gw.key\"\n[identity]\nenroller = \"claim\"\n\
                 directory = \"/nonexistent/identity\"\n\
                 claim = { url = \"mqtts://127.0.0.1:1\", certificate = \"gw.pem\", key = \"gw.key\", template = \"t\" }";
    check(&uplink(claim), &[], &[]);
    for pin in ["pin-value=948217", "pin-source=file:pin"] {
        let key = format!("certificate = \"gw.pem\"\nkey = \"pkcs11:token=t;object=o?{pin}\"");
        let ca_key =
            format!("[identity]\nenroller = \"local-ca\"\nca_key = \"pkcs11:token=t;object=ca?{pin}\"");
        check(&uplink(&format!("{key}\n{ca_key}")), &[], &[PIN]);
    }
}

#[test]
fn a_wrong_configuration_keeps_its_secrets_too() {
    let url = uplink("").replace("mqtts://", "mqtts://bob:hunter2-in-the-url@");
    check(&url, &[], &["hunter2-in-the-url"]);
    let url = uplink("").replace("mqtts://", "bob:hunter2-in-the-url@");
    let found = check(&url, &[], &["hunter2-in-the-url"]);
    assert!(found["doctor.json"].contains("the configuration is wrong"));
    let text = format!("{}[broken\n", uplink("password = \"hunter2-in-the-text\""));
    check(&text, &[], &["hunter2-in-the-text"]);
    let text = uplink("paswort = \"hunter2-mistyped\"\npassword = 5");
    check(&text, &[], &[]);
}
