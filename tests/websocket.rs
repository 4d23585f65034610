//! MQTT over WebSocket through the real link: against mosquitto, against a door that looks at
//! the signed URL, with keys from a credentials provider. botocore says what is right.
//! Needs mosquitto and the tests' Python (`tests/run`) and the feature `websocket`.
#![cfg(feature = "websocket")]
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fieldgate::config::load::load_with;
use fieldgate::uplink::link::{Identity, Link, LinkError, LinkEvent, Message, MqttLink, Opening, Session};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

/// A folder with a CA, a server's and a client's pair.
struct Place {
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Drop for Place {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap(), children: Vec::new() };
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        place.write("ca.pem", &params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);
        let usages = [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ];
        for (name, usage) in usages {
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.extended_key_usages = vec![usage];
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2070, 1, 1));
            let key = KeyPair::generate().unwrap();
            place.write(&format!("{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
            place.write(&format!("{name}.key"), &key.serialize_pem());
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// mosquitto: its own WebSocket with TLS, and plain MQTT.
    async fn mosquitto(&mut self) -> (u16, u16) {
        let (ws, plain) = (free_port(), free_port());
        let file = |name| self.path(name).display().to_string();
        let text = format!(
            "allow_anonymous true\nuser root\npersistence false\nlistener {plain} 127.0.0.1\n\
             listener {ws} 127.0.0.1\nprotocol websockets\ncertfile {}\nkeyfile {}\n",
            file("server.pem"),
            file("server.key"),
        );
        self.write("mosquitto.conf", &text);
        self.start_mosquitto();
        listens(ws).await;
        listens(plain).await;
        (ws, plain)
    }

    fn start_mosquitto(&mut self) {
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let child = Command::new("mosquitto")
            .env("PATH", path)
            .args(["-c", &self.path("mosquitto.conf").display().to_string()])
            .stderr(Stdio::null())
            .spawn();
        self.children.push(child.unwrap());
    }

    async fn provider(&mut self, life: u32) -> u16 {
        let port = free_port();
        let child = Command::new(python())
            .arg(fixture("credentials_provider.py"))
            .arg(port.to_string())
            .args([self.path("server.pem"), self.path("server.key"), self.path("ca.pem")])
            .args(["gateway", "gw-1", &life.to_string()])
            .arg(self.path("requests"))
            .spawn();
        self.children.push(child.unwrap());
        listens(port).await;
        port
    }

    fn link(&self, uplink: &str) -> MqttLink {
        let text = format!("[gateway]\nname = \"gw-1\"\n[uplink]\nca = \"ca.pem\"\n{uplink}\n");
        self.write("fieldgate.toml", &text);
        let config = load_with(&self.path("fieldgate.toml"), std::iter::empty());
        let config = config.unwrap_or_else(|e| panic!("{e}")).uplink;
        let identity = Identity::gateway(&config);
        MqttLink::new(Arc::new(config), identity)
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/fixtures").join(name)
}

fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("FIELDGATE_TEST_PYTHON")
        .map_or_else(|| root.join(".cache/test-venv/bin/python"), PathBuf::from)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn listens(port: u16) {
    let ready = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ready).await.expect("it listens");
}

/// A TLS door that notes the URL and passes on what it lets in, or answers with a status.
async fn door(place: &Place, beyond: u16, status: u16) -> (u16, Arc<Mutex<Vec<String>>>) {
    let chain = CertificateDer::pem_file_iter(place.path("server.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            chain.map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_file(place.path("server.key")).unwrap(),
        );
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let tcp = listener.accept().await.unwrap().0;
            let Ok(tls) = acceptor.accept(tcp).await else { continue };
            let noted = Arc::clone(&noted);
            #[allow(clippy::result_large_err, reason = "the library's callback")]
            let look = move |request: &Request, mut response: Response| {
                let host = request.headers()["host"].to_str().unwrap();
                noted.lock().unwrap().push(format!("wss://{host}{}", request.uri()));
                if status != 101 {
                    let mut refusal = ErrorResponse::new(None);
                    *refusal.status_mut() = status.try_into().unwrap();
                    return Err(refusal);
                }
                let protocol = request.headers()["sec-websocket-protocol"].clone();
                response.headers_mut().insert("sec-websocket-protocol", protocol);
                Ok(response)
            };
            let Ok(inner) = tokio_tungstenite::accept_hdr_async(tls, look).await else { continue };
            let broker = TcpStream::connect(("127.0.0.1", beyond)).await.unwrap();
            tokio::spawn(pass(inner, broker));
        }
    });
    (port, seen)
}

async fn pass<S>(socket: tokio_tungstenite::WebSocketStream<S>, broker: TcpStream)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    use futures_util::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut out, mut of) = socket.split();
    let (mut read, mut write) = broker.into_split();
    let down = async {
        // Small pieces, so that a packet is spread over several messages.
        let mut piece = vec![0; 700];
        while let Ok(n @ 1..) = read.read(&mut piece).await {
            if out.send(piece[..n].to_vec().into()).await.is_err() {
                return;
            }
        }
    };
    let up = async {
        while let Some(Ok(message)) = of.next().await {
            if write.write_all(&message.into_data()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = up => {}
        () = down => {}
    }
}

/// Publishes to itself and waits for it to come back.
async fn echo(link: &mut MqttLink, payload: Vec<u8>) {
    let opening = Opening { will: None, receives: false };
    let mut session = link.connect(opening).await.unwrap_or_else(|e| panic!("{e}"));
    session.subscribe(&["echo/#".to_owned()]).unwrap();
    let mut published = false;
    let back = async {
        let mut events = Vec::new();
        loop {
            session.events(&mut events).await.unwrap();
            for event in events.drain(..) {
                match event {
                    LinkEvent::SubscribeRefused(filter, why) => panic!("{filter}: {why}"),
                    LinkEvent::Subscribed if !published => {
                        published = true;
                        let message =
                            Message { topic: "echo/a".into(), payload: payload.clone(), retain: false };
                        session.publish(message).unwrap();
                    }
                    LinkEvent::Arrived { payload, .. } => return payload,
                    _ => {}
                }
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), back).await.expect("it comes back");
    assert!(found == payload, "{} bytes came back, of {}", found.len(), payload.len());
}

/// What botocore signs for the same request.
fn botocore(url: &str, id: &str, secret: &str) -> String {
    let mut child = Command::new(python())
        .arg(fixture("sigv4.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let case = serde_json::json!({
        "url": url, "access_key_id": id, "secret_access_key": secret, "region": "eu-central-1",
    });
    writeln!(child.stdin.take().unwrap(), "{case}").unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}

fn query<'a>(url: &'a str, key: &str) -> &'a str {
    url.split(['?', '&']).find_map(|part| part.strip_prefix(key)?.strip_prefix('=')).unwrap()
}

#[tokio::test]
async fn mosquittos_own_websocket_takes_and_gives_messages() {
    let mut place = Place::new();
    let (ws, _) = place.mosquitto().await;
    for protocol in ["5", "3.1.1"] {
        let mut link = place.link(&format!("url = \"wss://localhost:{ws}/mqtt\"\nprotocol = \"{protocol}\""));
        echo(&mut link, b"hello".to_vec()).await;
        echo(&mut link, vec![b'x'; 120_000]).await;
    }
}

/// Over a WebSocket, too, a certificate may be all that the broker asks for.
#[tokio::test]
async fn a_broker_may_ask_for_a_certificate() {
    let mut place = Place::new();
    // Alone, a WebSocket is no listener to mosquitto 2.0.11.
    let (ws, plain) = (free_port(), free_port());
    let file = |name| place.path(name).display().to_string();
    let text = format!(
        "allow_anonymous true\nuser root\npersistence false\nlistener {plain} 127.0.0.1\n\
         listener {ws} 127.0.0.1\nprotocol websockets\n\
         certfile {}\nkeyfile {}\ncafile {}\nrequire_certificate true\n",
        file("server.pem"),
        file("server.key"),
        file("ca.pem"),
    );
    place.write("mosquitto.conf", &text);
    place.start_mosquitto();
    listens(ws).await;
    let url = format!("url = \"wss://localhost:{ws}\"");
    let mut link = place.link(&format!("{url}\ncertificate = \"client.pem\"\nkey = \"client.key\""));
    echo(&mut link, b"hello".to_vec()).await;
    let refused = place.link(&url).connect(Opening { will: None, receives: false }).await;
    let Err(e) = refused else { panic!("connected without a certificate") };
    assert!(matches!(e, LinkError::TlsRefused(_)), "{e:?}");
}

#[tokio::test]
async fn keys_of_a_role_sign_the_url_as_botocore_does_and_are_renewed() {
    let mut place = Place::new();
    let (_, plain) = place.mosquitto().await;
    let (port, seen) = door(&place, plain, 101).await;
    // 60 s of life are due at once: each connection asks anew. An hour is not.
    for (life, ids) in [(60, ["ASIA1", "ASIA2"]), (3600, ["ASIA1", "ASIA1"])] {
        let provider = place.provider(life).await;
        let mut link = place.link(&format!(
            "url = \"wss://localhost:{port}\"\ncertificate = \"client.pem\"\nkey = \"client.key\"\n\
             sigv4 = {{ region = \"eu-central-1\", source = \"credentials-provider\", role_alias = \"gateway\", \
             thing = \"gw-1\", endpoint = \"localhost:{provider}\" }}"
        ));
        for id in ids {
            echo(&mut link, b"hello".to_vec()).await;
            let url = seen.lock().unwrap().pop().unwrap();
            assert!(url.starts_with(&format!("wss://localhost:{port}/mqtt?")), "{url}");
            let number = id.trim_start_matches("ASIA");
            assert!(query(&url, "X-Amz-Credential").starts_with(&format!("{id}%2F")), "{url}");
            assert_eq!(query(&url, "X-Amz-Signature"), botocore(&url, id, &format!("s3cret/{number}+")));
            assert!(url.ends_with(&format!("&X-Amz-Security-Token=t0ken%2F{number}%2B%3D%3D")), "{url}");
        }
    }
    let requests = std::fs::read_to_string(place.path("requests")).unwrap();
    assert_eq!(requests.lines().count(), 3, "{requests}");
}

#[tokio::test]
async fn a_refusal_says_what_to_look_at_and_no_secret() {
    let mut place = Place::new();
    let provider = place.provider(3600).await;
    place.write("aws.key", "s3cret\n");
    let opening = || Opening { will: None, receives: false };
    let (forbidden, _) = door(&place, 1, 403).await;
    let (busy, _) = door(&place, 1, 503).await;
    let fixed = "source = \"static\", access_key_id = \"AKIA\", secret_access_key_file = \"aws.key\"";
    let wrong_alias = format!(
        "source = \"credentials-provider\", role_alias = \"other\", endpoint = \"localhost:{provider}\""
    );
    let wrong_thing = format!(
        "source = \"credentials-provider\", role_alias = \"gateway\", endpoint = \"localhost:{provider}\""
    );
    let nobody = format!(
        "source = \"credentials-provider\", role_alias = \"gateway\", endpoint = \"localhost:{}\"",
        free_port()
    );
    for (port, keys, is_auth, words) in [
        (forbidden, fixed, true, "403"),
        (busy, fixed, false, "503"),
        (forbidden, &wrong_alias, true, "404"),
        (forbidden, &wrong_thing, true, "iot:AssumeRoleWithCertificate"),
        (forbidden, &nobody, false, "refused"),
    ] {
        let certificate = match keys == fixed {
            true => "",
            false => "certificate = \"client.pem\"\nkey = \"client.key\"\n",
        };
        let mut link = place.link(&format!(
            "url = \"wss://localhost:{port}\"\n{certificate}sigv4 = {{ region = \"eu-central-1\", {keys} }}"
        ));
        let Err(e) = link.connect(opening()).await else { panic!("{words}: connected") };
        assert_eq!(matches!(e, LinkError::AuthRefused(_)), is_auth, "{e:?}");
        let text = e.to_string();
        assert!(text.contains(words) && !text.contains("s3cret") && !text.contains("X-Amz"), "{text}");
    }
}
