//! Identities as a person makes them, judged by OpenSSL: chains, requests, proofs, lists.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use fieldgate::identity::authority::Authority;
use fieldgate::identity::files::{Folder, Pair, Slot};
use fieldgate::identity::key::{Key, KeyType};
use fieldgate::identity::subject::Subject;
use fieldgate::model::time::Clock;

/// A gateway with two meters behind it, in a folder of its own.
struct Gateway {
    folder: tempfile::TempDir,
}

/// What a command said and whether it was content.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn of(output: Output) -> Said {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    #[track_caller]
    fn good(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    #[track_caller]
    fn bad(self, code: i32, part: &str) {
        let all = format!("{}{}", self.out, self.err);
        assert!(
            self.code == code && all.contains(part),
            "expected {code} and {part:?}, got {}: {all}",
            self.code
        );
    }
}

fn openssl(args: &[&str]) -> Said {
    Said::of(Command::new("openssl").args(args).output().unwrap())
}

impl Gateway {
    fn new(enroller: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        let text = format!(
            "[gateway]\nname = \"gw-1\"\nstatus_socket = \"{0}/status\"\n\
             [uplink]\nurl = \"mqtts://broker.test\"\n\
             [identity]\nenroller = \"{enroller}\"\ndirectory = \"{0}/identity\"\n\
             [[bus]]\nname = \"line-1\"\ntransport = \"tcp\"\nhost = \"192.0.2.1\"\n\
             [[device]]\nname = \"meter-1\"\nbus = \"line-1\"\nunit_id = 7\nmodel = \"eastron-sdm120\"\n\
             [[device]]\nname = \"meter-2\"\nbus = \"line-1\"\nunit_id = 8\nmodel = \"eastron-sdm120\"\n",
            folder.path().display()
        );
        fs::write(folder.path().join("fieldgate.toml"), text).unwrap();
        Gateway { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.text(name)
    }

    fn fieldgate(&self, args: &[&str]) -> Said {
        let said = Said::of(
            Command::new(env!("CARGO_BIN_EXE_fieldgate"))
                .args(["--config", &self.text("fieldgate.toml"), "identity"])
                .args(args)
                .output()
                .unwrap(),
        );
        self.no_secret(&said);
        said
    }

    /// Whatever lies in the folder as a key must not be said.
    fn no_secret(&self, said: &Said) {
        for file in files_under(&self.path("identity")) {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let Some((_, rest)) = text.split_once("PRIVATE KEY-----\n") else { continue };
            let secret = rest.lines().next().unwrap();
            assert!(!said.out.contains(secret) && !said.err.contains(secret), "{} was said", file.display());
        }
        assert!(!said.out.contains("PRIVATE KEY"), "{}", said.out);
    }

    /// The CA as the agent has it.
    fn authority(&self) -> Authority {
        Authority::open(&self.path("identity"), "gw-1", Duration::from_secs(86_400), None).unwrap()
    }

    /// Makes an identity in use, as the agent does; the chain's file.
    fn enrolled(&self, thing: &str) -> String {
        let subject = subject(thing);
        let key = Key::generate(KeyType::EcP256).unwrap();
        let chain =
            self.authority().issue(&subject, &key.request(&subject).unwrap(), Clock::System.now()).unwrap();
        let folder = Folder::open(&self.path("identity")).unwrap();
        let held = folder.lock().unwrap();
        folder.write(&held, thing, Slot::Current, &Pair::new(key, &chain).unwrap()).unwrap();
        self.write(&format!("{thing}.chain"), &chain)
    }

    /// A certificate of the CA's own key that its rules forbid: what a thief could make.
    fn forged(&self, name: &str, subject: &str, extensions: &str) -> String {
        let [key, csr, leaf] = ["key", "csr", "crt"].map(|end| self.text(&format!("{name}.{end}")));
        openssl(&[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            subject,
            "-keyout",
            &key,
            "-out",
            &csr,
        ])
        .good();
        let ca = self.text("identity/ca/ca.pem");
        let extensions = self.write(&format!("{name}.ext"), extensions);
        openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            &ca,
            "-CAkey",
            &ca,
            "-set_serial",
            "77",
            "-days",
            "5",
            "-extfile",
            &extensions,
            "-out",
            &leaf,
        ])
        .good();
        leaf
    }
}

fn subject(thing: &str) -> Subject {
    Subject {
        thing: thing.into(),
        gateway: "gw-1".into(),
        bus: "line-1".into(),
        unit_id: Some(7),
        serial: Some("SN42".into()),
    }
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_under(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn openssl_accepts_the_gateways_things_and_nothing_else_of_its_ca() {
    let gateway = Gateway::new("local-ca");
    let ca = gateway.fieldgate(&["ca", "--create"]).good();
    let ca = gateway.write("ca.crt", &ca);
    let verify =
        |leaf: &str| openssl(&["verify", "-x509_strict", "-CAfile", &ca, "-purpose", "sslclient", leaf]);
    let chain = gateway.enrolled("meter-1");
    verify(&chain).good();
    let text = openssl(&["x509", "-in", &chain, "-noout", "-text", "-nameopt", "RFC2253"]).good();
    for part in [
        "URI:urn:fieldgate:gw-1:line-1:7:SN42",
        "CN=meter-1",
        "serialNumber=SN42",
        "OU=gw-1,O=fieldgate",
        "TLS Web Client Authentication",
        "Digital Signature",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let text = openssl(&["x509", "-in", &ca, "-noout", "-text"]).good();
    for part in ["CA:TRUE, pathlen:0", "X509v3 Name Constraints: critical", "Certificate Sign, CRL Sign"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // With the CA's key in the hand, and its rules against it.
    let right = "/O=fieldgate/OU=gw-1/CN=meter-9";
    let keys = "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n";
    let client = format!("{keys}keyUsage=digitalSignature\nextendedKeyUsage=clientAuth\n");
    verify(&gateway.forged("right", right, &client)).good();
    let other = gateway.forged("other", "/O=fieldgate/OU=gw-2/CN=meter-9", &client);
    verify(&other).bad(2, "permitted subtree violation");
    let bare = gateway.forged("bare", "/CN=meter-9", &client);
    verify(&bare).bad(2, "permitted subtree violation");
    let server = format!("{client}subjectAltName=DNS:broker.test\n");
    verify(&gateway.forged("server", right, &server)).bad(2, "excluded subtree violation");
    let address = format!("{client}subjectAltName=IP:192.0.2.1\n");
    verify(&gateway.forged("address", right, &address)).bad(2, "excluded subtree violation");
    let under = gateway.forged(
        "under",
        right,
        &format!("{keys}basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n"),
    );
    let leaf = gateway.text("deep.crt");
    let (key, csr) = (gateway.text("deep.key"), gateway.text("deep.csr"));
    openssl(&["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", right, "-keyout", &key, "-out", &csr])
        .good();
    let extensions = gateway.write("deep.ext", &client);
    openssl(&[
        "x509",
        "-req",
        "-in",
        &csr,
        "-CA",
        &under,
        "-CAkey",
        &gateway.text("under.key"),
        "-set_serial",
        "5",
        "-days",
        "5",
        "-extfile",
        &extensions,
        "-out",
        &leaf,
    ])
    .good();
    openssl(&["verify", "-CAfile", &ca, "-untrusted", &under, &leaf])
        .bad(2, "path length constraint exceeded");
}

#[test]
fn the_proof_of_possession_is_the_cas_and_names_the_code() {
    let gateway = Gateway::new("local-ca");
    gateway.fieldgate(&["ca", "--proof", "abc123"]).bad(1, "identity ca --create");
    let ca = gateway.fieldgate(&["ca", "--create"]).good();
    let ca = gateway.write("ca.crt", &ca);
    let proof = gateway.fieldgate(&["ca", "--proof", "abc123"]).good();
    let proof = gateway.write("proof.crt", &proof);
    openssl(&["verify", "-x509_strict", "-CAfile", &ca, &proof]).good();
    let name = openssl(&["x509", "-in", &proof, "-noout", "-subject", "-nameopt", "RFC2253"]).good();
    assert!(name.contains("CN=abc123"), "{name}");
    gateway.fieldgate(&["ca", "--proof", "no/code"]).bad(1, "letters and digits");
    // The next generation is exported before it signs.
    let both = gateway.fieldgate(&["ca", "--prepare"]).good();
    assert_eq!(both.matches("BEGIN CERTIFICATE").count(), 2);
    let next = gateway.fieldgate(&["ca", "--proof-next", "abc123"]).good();
    let next = gateway.write("next.crt", &next);
    openssl(&["verify", "-CAfile", &ca, &next]).bad(2, "error");
    gateway.fieldgate(&["ca", "--switch"]).good();
    let all = gateway.write("all.crt", &both);
    openssl(&["verify", "-CAfile", &all, &next]).good();
    openssl(&["verify", "-CAfile", &all, &gateway.enrolled("meter-1")]).good();
}

#[test]
fn a_revoked_certificate_is_refused_with_the_list() {
    let gateway = Gateway::new("local-ca");
    let ca = gateway.fieldgate(&["ca", "--create"]).good();
    let ca = gateway.write("ca.crt", &ca);
    let (one, two) = (gateway.enrolled("meter-1"), gateway.enrolled("meter-2"));
    let list = gateway.fieldgate(&["revoke", "meter-1"]).good();
    let list = gateway.write("list.crl", &list);
    openssl(&["crl", "-in", &list, "-noout", "-CAfile", &ca]).good();
    let verify = |leaf: &str| openssl(&["verify", "-crl_check", "-CRLfile", &list, "-CAfile", &ca, leaf]);
    verify(&two).good();
    verify(&one).bad(2, "certificate revoked");
    assert!(!gateway.path("identity/meter-1.pem").exists(), "the revoked pair is still in use");
    gateway.fieldgate(&["revoke", "meter-1"]).bad(1, "no certificate");
}

#[test]
fn a_request_goes_out_and_its_chain_comes_back() {
    let gateway = Gateway::new("csr");
    let listed = gateway.fieldgate(&["list"]).good();
    assert_eq!(listed.matches("none yet").count(), 2, "{listed}");
    let request = gateway.fieldgate(&["export-csr", "meter-1"]).good();
    assert_eq!(gateway.fieldgate(&["export-csr", "nobody"]).code, 1);
    let csr = gateway.write("m.csr", &request);
    let text = openssl(&["req", "-in", &csr, "-noout", "-verify", "-text", "-nameopt", "RFC2253"]).good();
    assert!(text.contains("CN=meter-1") && text.contains("URI:urn:fieldgate:gw-1:line-1:7"), "{text}");
    assert!(gateway.fieldgate(&["list"]).good().contains("waits for its certificate"));
    // Somebody else's CA signs it.
    let (key, ca, chain) = (gateway.text("ca.key"), gateway.text("ca.crt"), gateway.text("m.crt"));
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=plant",
        "-keyout",
        &key,
        "-out",
        &ca,
        "-days",
        "30",
    ])
    .good();
    openssl(&[
        "x509",
        "-req",
        "-in",
        &csr,
        "-CA",
        &ca,
        "-CAkey",
        &key,
        "-set_serial",
        "9",
        "-days",
        "20",
        "-copy_extensions",
        "copy",
        "-out",
        &chain,
    ])
    .good();
    gateway.fieldgate(&["import", "meter-1", &ca]).bad(1, "do not belong together");
    gateway.fieldgate(&["import", "meter-2", &chain]).bad(1, "identity export-csr meter-2");
    gateway.fieldgate(&["import", "meter-1", &gateway.text("missing")]).bad(74, "missing");
    let said = gateway.fieldgate(&["import", "meter-1", &chain]).good();
    assert!(said.contains("next connection proves it"), "{said}");
    assert!(gateway.fieldgate(&["list"]).good().contains("to be proved by a connection"));
    let shown: serde_json::Value =
        serde_json::from_str(&gateway.fieldgate(&["show", "meter-1", "--json"]).good()).unwrap();
    assert_eq!(shown["next"]["common_name"], "meter-1");
    let digest = openssl(&["x509", "-in", &chain, "-noout", "-fingerprint", "-sha256"]).good();
    let digest = digest.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    assert_eq!(shown["next"]["id"].as_str().unwrap(), digest, "the cloud's id of a certificate");
    for file in files_under(&gateway.path("identity")) {
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
    fs::set_permissions(gateway.path("identity"), fs::Permissions::from_mode(0o755)).unwrap();
    gateway.fieldgate(&["list"]).bad(74, "chmod 0700");
}

#[test]
fn what_only_a_running_agent_can_do_says_so() {
    let gateway = Gateway::new("local-ca");
    gateway.fieldgate(&["renew", "meter-1"]).bad(69, "no agent answers");
    gateway.fieldgate(&["approve", "meter-1"]).bad(69, "no agent answers");
    let none = Gateway::new("none");
    assert!(none.fieldgate(&["list"]).good().contains("identity.enroller"));
    none.fieldgate(&["ca"]).bad(1, "local-ca");
}
