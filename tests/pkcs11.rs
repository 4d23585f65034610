//! Keys on a token, SoftHSM's: `cargo test --features pkcs11 --test pkcs11`.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[cfg(not(feature = "pkcs11"))]
#[test]
fn skipped() {
    eprintln!("skipped: `cargo test --features pkcs11 --test pkcs11` needs softhsm2 and runs it");
}

#[cfg(feature = "pkcs11")]
mod on_a_token {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;
    use std::time::Duration;

    use fieldgate::config::Tls;
    use fieldgate::identity::authority::Authority;
    use fieldgate::identity::files::Folder;
    use fieldgate::identity::key::{Key, KeyType};
    use fieldgate::identity::pkcs11::TokenKey;
    use fieldgate::identity::signer::CaKey;
    use fieldgate::identity::subject::Subject;
    use fieldgate::identity::{issue, tls};
    use fieldgate::model::time::Clock;

    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

    fn run(command: &mut Command) -> String {
        let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn secret(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The module reads where its tokens are from the environment, once: so this test runs
    /// itself again with that variable.
    #[test]
    fn a_token_speaks_tls_and_signs_as_the_ca() {
        const FOLDER: &str = "FIELDGATE_TEST_TOKENS";
        if let Some(folder) = std::env::var_os(FOLDER) {
            return with_token(Path::new(&folder));
        }
        let folder = tempfile::tempdir().unwrap();
        let (tokens, file) = (folder.path().join("tokens"), folder.path().join("softhsm2.conf"));
        std::fs::create_dir(&tokens).unwrap();
        std::fs::write(&file, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
        let said = run(Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "on_a_token::a_token_speaks_tls_and_signs_as_the_ca", "--nocapture"])
            .env("SOFTHSM2_CONF", &file)
            .env(FOLDER, folder.path()));
        assert!(said.contains("1 passed"), "{said}");
    }

    fn with_token(folder: &Path) {
        let at = |name: &str| folder.join(name);
        run(Command::new("softhsm2-util").args([
            "--init-token",
            "--free",
            "--label",
            "gw",
            "--pin",
            "1234",
            "--so-pin",
            "5678",
        ]));
        let pair = run(Command::new("openssl").args([
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ]));
        secret(&at("key.pem"), &pair);
        run(Command::new("softhsm2-util")
            .args([
                "--import",
                at("key.pem").to_str().unwrap(),
                "--token",
                "gw",
                "--label",
                "gateway",
                "--id",
                "01",
            ])
            .args(["--pin", "1234"]));
        secret(&at("pin"), "1234\n");
        let uri = |pin: &str| {
            format!(
                "pkcs11:token=gw;object=gateway?module-path={MODULE}&pin-source=file:{}",
                at(pin).display()
            )
        };
        // What is signed on the token is verified by a foreign eye.
        let key = TokenKey::open(&uri("pin")).unwrap();
        std::fs::write(at("message"), b"hello").unwrap();
        std::fs::write(at("signature"), key.signature(b"hello").unwrap()).unwrap();
        run(Command::new("openssl")
            .args(["dgst", "-sha256", "-prverify"])
            .arg(at("key.pem"))
            .arg("-signature")
            .arg(at("signature"))
            .arg(at("message")));
        ca(folder, &uri("pin"));
        handshake(folder, &uri("pin"));
        assert!(TokenKey::open("pkcs11:token=nobody;object=x").unwrap_err().to_string().contains("no token"));
    }

    fn ca(folder: &Path, uri: &str) {
        let directory = folder.join("identity");
        Folder::open(&directory).unwrap();
        let authority =
            Authority::open(&directory, "gw-1", Duration::from_secs(86_400), Some(uri.to_owned())).unwrap();
        let now = Clock::System.now();
        authority.ensure(now).unwrap();
        let subject = Subject {
            thing: "meter-1".into(),
            gateway: "gw-1".into(),
            bus: "line-1".into(),
            unit_id: Some(1),
            serial: None,
        };
        let key = Key::generate(KeyType::EcP256).unwrap();
        let chain = authority.issue(&subject, &key.request(&subject).unwrap(), now).unwrap();
        std::fs::write(folder.join("chain.pem"), chain).unwrap();
        std::fs::write(folder.join("ca.pem"), &authority.export().unwrap()[0].1).unwrap();
        run(Command::new("openssl")
            .args(["verify", "-x509_strict", "-CAfile"])
            .arg(folder.join("ca.pem"))
            .arg(folder.join("chain.pem")));
    }

    /// A server that asks for the certificate and answers one line.
    fn handshake(folder: &Path, uri: &str) {
        let server = issue::Authority::new("server").unwrap();
        let issued = server.issue("broker", &["broker.test"], issue::Use::Server).unwrap();
        std::fs::write(folder.join("roots.pem"), &server.certificate).unwrap();
        // A certificate for the token's key.
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "gw-1");
        let own = params.self_signed(&CaKey::on_token(uri).unwrap()).unwrap();
        std::fs::write(folder.join("own.pem"), own.pem()).unwrap();
        let tls = |certificate: &str| Tls {
            ca: Some(folder.join("roots.pem")),
            certificate: Some(folder.join(certificate)),
            key: Some(uri.into()),
            server_name: "broker.test".into(),
            alpn: vec![],
        };
        let error = tls::client_config(&tls("chain.pem")).unwrap_err().to_string();
        assert!(error.contains("do not fit together"), "{error}");
        let client = tls::client_config(&tls("own.pem")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own.der().clone()).unwrap();
        let provider = Arc::new(tls::provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&provider),
        )
        .build()
        .unwrap();
        let issued_key = Key::from_pem(&issued.key).unwrap();
        let certified = issued_key
            .certified(fieldgate::identity::files::certificates(&issued.certificate).unwrap())
            .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = std::thread::spawn(move || {
            let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let (stream, _) = listener.accept().unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            stream.write_all(b"in\n").unwrap();
            stream.conn.peer_certificates().map(|c| c[0].clone())
        });
        let name = "broker.test".try_into().unwrap();
        let connection = rustls::ClientConnection::new(client, name).unwrap();
        let stream = std::net::TcpStream::connect(address).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"in\n");
        assert_eq!(served.join().unwrap().as_ref(), Some(own.der()));
    }
}
