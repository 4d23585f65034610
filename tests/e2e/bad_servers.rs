//! Servers that are wrong in one way each (`openssl s_server`), and the agent, which refuses
//! them all: with a reason, and without a byte of MQTT. That each server really offers what
//! it is meant to is shown by foreign eyes first: `openssl s_client` and `nmap`.

use std::path::Path;
use std::process::{Command, Stdio};

use super::agent::Agent;
use super::certs::{Authority, Pair, Server};
use super::wait::{Process, free_port, listens, until_true};

struct Place {
    dir: tempfile::TempDir,
    authority: Authority,
    /// Of openssl's own making, with RSA, and trusted by the agent, too.
    rsa: Pair,
}

fn openssl(dir: &Path, words: &str) -> String {
    let output =
        Command::new("openssl").args(words.split(' ')).current_dir(dir).stdin(Stdio::null()).output();
    let output = output.unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "cloud");
        let home = dir.path();
        std::fs::write(home.join("san"), "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
            .unwrap();
        openssl(
            home,
            "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=rsa-ca -keyout rsa-ca.key -out rsa-ca.pem",
        );
        for (name, bits, digest) in
            [("rsa", 2048, "sha256"), ("sha1", 2048, "sha1"), ("small", 1024, "sha256")]
        {
            openssl(
                home,
                &format!(
                    "req -newkey rsa:{bits} -nodes -subj /CN=localhost -keyout {name}.key -out {name}.csr"
                ),
            );
            openssl(
                home,
                &format!(
                    "x509 -req -in {name}.csr -CA rsa-ca.pem -CAkey rsa-ca.key -CAcreateserial -days 9 -{digest} -extfile san -out {name}.pem"
                ),
            );
        }
        openssl(
            home,
            "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout self.key -out self.pem",
        );
        let both =
            [std::fs::read(&authority.certificate).unwrap(), std::fs::read(home.join("rsa-ca.pem")).unwrap()];
        std::fs::write(home.join("trusted.pem"), both.concat()).unwrap();
        let rsa = Place::pair(home, "rsa");
        Place { dir, authority, rsa }
    }

    fn pair(home: &Path, name: &str) -> Pair {
        Pair { certificate: home.join(format!("{name}.pem")), key: home.join(format!("{name}.key")) }
    }

    fn named(&self, name: &str) -> Pair {
        Place::pair(self.dir.path(), name)
    }

    /// Starts the server, lets `openssl s_client` (and nmap) look at it, then the agent. What
    /// the server heard is what it printed.
    fn meet(&self, pair: &Pair, serve: &str, look: &str, proof: &str, reason: Option<&str>) {
        let home = self.dir.path();
        let port = free_port();
        let heard = home.join(format!("heard-{port}"));
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-accept"]).arg(port.to_string());
        command.arg("-cert").arg(&pair.certificate).arg("-key").arg(&pair.key).args(serve.split(' '));
        command.stdin(Stdio::piped()).stdout(std::fs::File::create(&heard).unwrap()).stderr(Stdio::null());
        // Its standard input stays open: at its end the server would go.
        let mut server = Process { child: command.spawn().unwrap() };
        until_true("the server to listen", || {
            assert!(server.is_running(), "openssl s_server {serve} ended");
            listens(port)
        });
        let seen = openssl(
            home,
            &format!(
                "s_client -connect localhost:{port} -CAfile trusted.pem -verify_hostname localhost {look}"
            ),
        );
        let text = openssl(home, &format!("x509 -noout -text -in {}", pair.certificate.display()));
        let nmap = Command::new("nmap")
            .args(["-Pn", "-n", "--script", "+ssl-enum-ciphers", "127.0.0.1", "-p"])
            .arg(port.to_string())
            .output()
            .unwrap();
        let seen = format!("{seen}\n{text}\n{}", String::from_utf8_lossy(&nmap.stdout));
        let proven = regex::Regex::new(&format!("(?s){proof}")).unwrap();
        assert!(proven.is_match(&seen), "the server is not what it is meant to be, {proof}: {seen}");

        let client = self.authority.client("gw-1");
        let (folder, at) = (home.join(port.to_string()), home.display());
        std::fs::create_dir(&folder).unwrap();
        let text = format!(
            "[gateway]\nname = \"gw-1\"\nstatus_socket = \"{0}/status.sock\"\n\
             [uplink]\nurl = \"mqtts://localhost:{port}\"\nca = \"{at}/trusted.pem\"\ncertificate = \"{1}\"\nkey = \"{2}\"\n\
             connect_timeout = \"5s\"\nreconnect_min = \"100ms\"\nreconnect_max = \"1s\"\n\
             [store]\npath = \"{0}/fieldgate.db\"\n[log]\nformat = \"text\"\n\
             [[bus]]\nname = \"line\"\ntransport = \"tcp\"\nhost = \"127.0.0.1\"\nport = 9\n\
             [[device]]\nname = \"m\"\nbus = \"line\"\nunit_id = 1\n\
             [[device.point]]\nname = \"u\"\ntable = \"holding\"\naddress = 0\ntype = \"uint16\"\n",
            folder.display(),
            client.certificate.display(),
            client.key.display()
        );
        let mut agent = Agent::new(&folder, &text);
        agent.start();
        let words = || String::from_utf8_lossy(&std::fs::read(&heard).unwrap()).into_owned();
        match reason {
            None => until_true("the CONNECT of the agent", || {
                words().contains("MQTT") && words().contains("gw-1")
            }),
            Some(reason) => {
                agent.wait_log(reason, &format!("uplink offline: .*{reason}"));
                let reason = regex::Regex::new(reason).unwrap();
                until_true("status to name the reason", || reason.is_match(&agent.ask("status")));
                assert_eq!(words(), "", "{serve}: a server that was refused heard something");
            }
        }
        agent.assert_running();
    }
}

const WEAK: &str = "@SECLEVEL=0";

#[test]
fn right_servers_hear_a_connect() {
    let place = Place::new();
    let right = place.authority.server(Server::Right);
    place.meet(&right, "-tls1_3", "-tls1_3", "Verify return code: 0", None);
    place.meet(
        &place.rsa,
        "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256",
        "-tls1_2",
        "Verify return code: 0",
        None,
    );
}

#[test]
fn old_protocols_and_suites_are_refused() {
    let place = Place::new();
    let check = |serve: &str, look: &str, proof: &str, reason: &str| {
        place.meet(
            &place.rsa,
            &format!("{serve}:{WEAK}"),
            &format!("{look} -cipher ALL:COMPLEMENTOFALL:{WEAK}"),
            proof,
            Some(reason),
        );
    };
    check(
        "-tls1_1 -cipher ALL",
        "-tls1_1",
        "Cipher is ECDHE.*Protocol  : TLSv1.1.*TLSv1.1:",
        "speaks no TLS 1.2 or 1.3",
    );
    for (suite, iana) in [
        ("AES128-SHA", "TLS_RSA_WITH_AES_128_CBC_SHA"),
        ("AES128-GCM-SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256"),
        ("ECDHE-RSA-AES128-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"),
        ("DHE-RSA-AES128-GCM-SHA256", "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"),
        ("NULL-SHA256", "TLS_RSA_WITH_NULL_SHA256"),
    ] {
        check(
            &format!("-tls1_2 -cipher {suite}"),
            "-tls1_2",
            &format!("Cipher is {suite}.*TLSv1.2:.*{iana}"),
            "cipher suite",
        );
    }
}

#[test]
fn wrong_certificates_are_refused() {
    let place = Place::new();
    let home = place.dir.path();
    let check = |pair: &Pair, proof: &str, reason: &str| {
        let weak = format!("-cipher DEFAULT:{WEAK}");
        place.meet(pair, &weak, &weak, proof, Some(reason));
    };
    check(
        &place.authority.server(Server::WrongName),
        "Verify return code: 62",
        "not valid for the host name",
    );
    check(&place.authority.server(Server::Expired), "Verify return code: 10", "has expired");
    let stranger = Authority::new(home, "stranger").server(Server::Right);
    check(&stranger, "Verify return code: 2[01]", "unknown issuer");
    check(&place.named("sha1"), "Signature Algorithm: sha1WithRSA", "certificate");
    check(&place.named("small"), "Public-Key: .1024 bit", "certificate|[Ss]ignature");
    check(&place.named("self"), "Verify return code: 18", "certificate");
}
