//! What a TLS connection refuses, and whether an operator can read why: through the real
//! MQTT client, both protocol versions, against a server on this machine.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fieldgate::config::{self, MqttVersion, Security, Tls};
use fieldgate::uplink::link::{Identity, Link, LinkError, Message, MqttLink, Opening};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

#[derive(Clone)]
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, name: &str, from: i32, to: i32, usage: ExtendedKeyUsagePurpose) -> Pair {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let key = KeyPair::generate().unwrap();
        Pair { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    fn server(&self, name: &str) -> Pair {
        self.issue(name, 2020, 2070, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(&self) -> Pair {
        self.issue("gw", 2020, 2070, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// One server and one client, right in everything; a case then makes one thing wrong.
struct Case {
    folder: tempfile::TempDir,
    ours: Authority,
    foreign: Authority,
    server: Pair,
    suite: Option<CipherSuite>,
    server_alpn: Vec<Vec<u8>>,
    /// Answers in plain text instead.
    plain: bool,
    /// As the client has them: CA, certificate, key.
    ca: String,
    client: Option<Pair>,
    tls: Tls,
}

impl Case {
    fn new() -> Case {
        let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
        let folder = tempfile::tempdir().unwrap();
        Case {
            server: ours.server("broker.example"),
            client: Some(ours.client()),
            ca: ours.pem.clone(),
            suite: None,
            server_alpn: Vec::new(),
            plain: false,
            tls: Tls {
                ca: Some(folder.path().join("ca.pem")),
                certificate: Some(folder.path().join("client.pem")),
                key: Some(folder.path().join("client.key")),
                // Not the name that is dialled: brokers are reached by their address, too.
                server_name: "broker.example".into(),
                alpn: Vec::new(),
            },
            ours,
            foreign,
            folder,
        }
    }

    fn server_config(&self) -> ServerConfig {
        let mut provider = ring::default_provider();
        let mut versions = vec![&rustls::version::TLS13, &rustls::version::TLS12];
        if let Some(only) = self.suite {
            provider.cipher_suites.retain(|s| s.suite() == only);
            versions.retain(|v| provider.cipher_suites.iter().any(|s| s.version() == *v));
        }
        let provider = Arc::new(provider);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ours.pem.as_bytes()).unwrap()).unwrap();
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build().unwrap();
        let chain = vec![CertificateDer::from_pem_slice(self.server.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.server.key.as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = self.server_alpn.clone();
        config
    }

    /// Connects with both protocol versions.
    async fn run(&self) -> [Result<(), LinkError>; 2] {
        let write = |path: &Option<PathBuf>, text: &str| {
            if let Some(path) = path {
                std::fs::write(path, text).unwrap();
            }
        };
        write(&self.tls.ca, &self.ca);
        if let Some(client) = &self.client {
            write(&self.tls.certificate, &client.certificate);
            write(&self.tls.key, &client.key);
        }
        let mut results = Vec::new();
        for version in [MqttVersion::V3_1_1, MqttVersion::V5] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let acceptor = TlsAcceptor::from(Arc::new(self.server_config()));
            let plain = self.plain;
            let server = tokio::spawn(async move {
                let (mut tcp, _) = listener.accept().await.unwrap();
                if plain {
                    tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
                    let _ = tcp.read(&mut [0; 4096]).await;
                    return;
                }
                let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                let mut connect = [0; 1024];
                if tls.read(&mut connect).await.unwrap_or(0) == 0 {
                    return;
                }
                let connack: &[u8] = match version {
                    MqttVersion::V3_1_1 => &[0x20, 2, 0, 0],
                    MqttVersion::V5 => &[0x20, 3, 0, 0, 0],
                };
                tls.write_all(connack).await.unwrap();
                let _ = tls.read(&mut connect).await;
            });
            let mut link = {
                let config = self.uplink(port, version);
                let identity = Identity::gateway(&config);
                MqttLink::new(Arc::new(config), identity)
            };
            let will = Message { topic: "s".into(), payload: b"{}".to_vec(), retain: true };
            results.push(link.connect(Opening { will: Some(will), receives: false }).await.map(drop));
            server.abort();
        }
        results.try_into().unwrap()
    }

    fn uplink(&self, port: u16, protocol: MqttVersion) -> config::Uplink {
        config::Uplink {
            host: "127.0.0.1".into(),
            port,
            protocol,
            client_id: "gw".into(),
            security: Security::Tls(self.tls.clone()),
            login: None,
            websocket: None,
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            window: 10,
            topic: "t/{device}".into(),
            status_topic: "s".into(),
            status_interval: Duration::from_secs(60),
            payload_max: 1 << 17,
            messages_per_second: None,
            bytes_per_second: None,
            backlog_messages_per_second: None,
            reconnect_min: Duration::from_secs(1),
            reconnect_max: Duration::from_secs(2),
            session_expiry: Duration::from_secs(3600),
            connects_per_second: 10,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Each of `words` stands in what the operator reads.
async fn check_refused(what: &str, wrong: impl Fn(&mut Case), words: &[&str]) {
    let mut case = Case::new();
    wrong(&mut case);
    for result in case.run().await {
        match result {
            Err(LinkError::TlsRefused(text)) => {
                for word in words {
                    assert!(text.contains(word), "{what}: {word:?} is not in {text:?}");
                }
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn with_everything_right_it_connects_also_by_another_name_than_dialled() {
    assert_eq!(Case::new().run().await, [Ok(()), Ok(())]);
    for suite in [
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        let mut case = Case::new();
        case.suite = Some(suite);
        assert_eq!(case.run().await, [Ok(()), Ok(())], "{suite:?}");
    }
    let mut case = Case::new();
    case.server_alpn = vec![b"x-amzn-mqtt-ca".to_vec()];
    case.tls.alpn = vec!["x-amzn-mqtt-ca".into()];
    assert_eq!(case.run().await, [Ok(()), Ok(())]);
}

#[tokio::test]
async fn a_wrong_broker_is_refused_and_named() {
    check_refused(
        "foreign CA",
        |c| c.server = c.foreign.server("broker.example"),
        &["unknown issuer", "uplink.ca"],
    )
    .await;
    let server =
        |c: &Case, from, to| c.ours.issue("broker.example", from, to, ExtendedKeyUsagePurpose::ServerAuth);
    check_refused(
        "expired",
        |c| c.server = server(c, 2020, 2021),
        &["broker's certificate has expired", "clock"],
    )
    .await;
    check_refused("not yet valid", |c| c.server = server(c, 2060, 2070), &["not valid yet", "clock"]).await;
    check_refused(
        "wrong name",
        |c| c.server = c.ours.server("other.example"),
        &["not valid for the host name", "uplink.server_name"],
    )
    .await;
    // Also when the certificate is for the address that is dialled.
    check_refused(
        "name of the dialled host",
        |c| c.server = c.ours.server("127.0.0.1"),
        &["not valid for the host name"],
    )
    .await;
    check_refused("a client's certificate", |c| c.server = c.ours.client(), &["broker's certificate"]).await;
    check_refused(
        "a cipher suite that is not ours",
        |c| c.suite = Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
        &["cipher suite", "AES-GCM"],
    )
    .await;
    check_refused(
        "another ALPN protocol",
        |c| {
            c.server_alpn = vec![b"h2".to_vec()];
            c.tls.alpn = vec!["mqtt".into()];
        },
        &["uplink.alpn"],
    )
    .await;
    check_refused("no TLS at all", |c| c.plain = true, &["does not speak TLS"]).await;
}

#[tokio::test]
async fn a_wrong_client_certificate_is_named() {
    let none = |c: &mut Case| {
        c.client = None;
        (c.tls.certificate, c.tls.key) = (None, None);
    };
    check_refused("none", none, &["client certificate", "none"]).await;
    check_refused(
        "none, TLS 1.2",
        |c| {
            none(c);
            c.suite = Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
        },
        &["certificate"],
    )
    .await;
    check_refused("unknown", |c| c.client = Some(c.foreign.client()), &["CA of our certificate"]).await;
    let expired = |c: &mut Case| {
        c.client = Some(c.ours.issue("gw", 2020, 2021, ExtendedKeyUsagePurpose::ClientAuth));
    };
    check_refused("expired", expired, &["our certificate has expired"]).await;
}

#[tokio::test]
async fn wrong_files_are_named() {
    check_refused(
        "no such file",
        |c| {
            c.client = None;
            c.tls.key = Some(c.path().join("none.key"));
            std::fs::write(c.path().join("client.pem"), c.ours.client().certificate).unwrap();
        },
        &["key", "none.key"],
    )
    .await;
    check_refused("no PEM in it", |c| c.ca = "hello".into(), &["ca.pem", "no PEM certificate"]).await;
    check_refused(
        "not its key",
        |c| {
            let key = c.ours.client().key;
            c.client.as_mut().unwrap().key = key;
        },
        &["do not fit together"],
    )
    .await;
    check_refused("a key that is none", |c| c.client.as_mut().unwrap().key = "hello".into(), &["client.key"])
        .await;
    check_refused("a name that is none", |c| c.tls.server_name = "a b".into(), &["uplink.server_name"]).await;
}
