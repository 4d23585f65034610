//! The way to the broker, step by step: name, connection, TLS, login. PURE.

use super::certificates::Dates;
use super::{count, span};
use crate::doctor::finding::Finding;
use crate::model::time::Timestamp;

pub const DNS: &str = "broker-dns";
pub const TCP: &str = "broker-tcp";
pub const TLS: &str = "broker-tls";
pub const LOGIN: &str = "broker-login";

/// Its owner has to act; a public CA renews a month before. Days.
const SERVER_DAYS_LEFT: i64 = 7;

/// As an address; `None`: the host is one already.
pub fn dns(host: &str, found: Option<&Result<Vec<String>, String>>) -> Finding {
    match found {
        None => Finding::ok(DNS, host, "it is an address, no name"),
        Some(Ok(addresses)) => Finding::ok(DNS, host, format!("it is {}", addresses.join(", "))),
        Some(Err(why)) => {
            let advice =
                "check the name in uplink.url, the gateway's DNS server (/etc/resolv.conf) and its network";
            Finding::failed(DNS, host, format!("its name is not found: {why}"), advice)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tcp {
    Connected { address: String, millis: u64 },
    Refused(String),
    NoAnswer(String),
}

pub fn tcp(place: &str, tcp: &Tcp) -> Finding {
    match tcp {
        Tcp::Connected { address, millis } => {
            Finding::ok(TCP, place, format!("{address} answers within {millis} ms"))
        }
        Tcp::Refused(address) => Finding::failed(
            TCP,
            place,
            format!("{address} refuses the connection"),
            "the machine is there and no broker listens: check the port in uplink.url, and the broker",
        ),
        Tcp::NoAnswer(why) => Finding::failed(
            TCP,
            place,
            format!("nobody answers: {why}"),
            "a firewall or no route: try another port (443 with alpn), and ask whoever runs the network",
        ),
    }
}

/// What happened when TLS was spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// In the words of our own verifier, or of the broker's alert.
    pub outcome: Result<String, String>,
    /// What the broker showed, leaf first, also when it was refused.
    pub chain: Vec<Dates>,
    pub issuer: Option<String>,
    /// No certificate of ours was shown although there is one, because its key is on a token.
    pub without_own: bool,
}

pub fn tls(place: &str, tls: &Tls, now: Timestamp) -> Finding {
    let shown = tls.chain.first().map_or(String::new(), |leaf| {
        let issuer = tls.issuer.as_deref().unwrap_or("?");
        format!("; it shows {}, issued by {issuer}, until {}", leaf.subject, leaf.not_after)
    });
    match &tls.outcome {
        Err(why) => Finding::failed(TLS, place, format!("{why}{shown}"), advice_for(why)),
        Ok(version) => {
            let ends = tls.chain.iter().map(|c| c.days_left(now)).min().unwrap_or(i64::MAX);
            let note = if tls.without_own {
                "; our own certificate was not shown: its key is on a token"
            } else {
                ""
            };
            let found = format!("{version}, the chain is good{shown}{note}");
            match ends < SERVER_DAYS_LEFT {
                true => {
                    let days = count(u64::try_from(ends).unwrap_or(0), "day");
                    let found = format!("{found}, which is {days} away");
                    Finding::warning(
                        TLS,
                        place,
                        found,
                        "tell whoever runs the broker to renew its certificate",
                    )
                }
                false => Finding::ok(TLS, place, found),
            }
        }
    }
}

/// What mends it, by the words in which it is told.
fn advice_for(why: &str) -> &'static str {
    const TABLE: &[(&str, &str)] = &[
        (
            "the same name as the one in",
            "put the CA that the broker has now into uplink.ca; it was made anew",
        ),
        ("holds no PEM certificate", "put a CA certificate, in PEM, into that file"),
        ("no usable private key", "put the private key, in PEM, into that file"),
        ("ermission denied", "run doctor as root, or give the file to the user of the service"),
        ("unknown issuer", "put the CA that issued it into uplink.ca, if you trust it"),
        ("host name", "use the name in the certificate in uplink.url, or set uplink.server_name"),
        ("not valid yet", "set the clock"),
        ("our certificate has expired", "get a new certificate for this gateway"),
        ("has expired", "the broker needs a new certificate; if its dates are right, set the clock"),
        ("asks for a client certificate", "set uplink.certificate and uplink.key"),
        ("does not know the CA", "have this gateway's CA registered at the broker"),
        ("our certificate", "have this gateway's certificate activated at the broker, or get a new one"),
        ("ALPN", "correct uplink.alpn"),
        ("does not speak TLS", "check the port in uplink.url: 8883, or 443"),
        ("certificate and key", "put certificate and key of one pair into uplink.certificate and uplink.key"),
    ];
    let advice = TABLE.iter().find(|(part, _)| why.contains(part)).map(|(_, advice)| *advice);
    advice.unwrap_or("compare both ends: TLS 1.2 or 1.3, the certificates, and what stands between")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// The running agent has the client id; a second one with it would throw it out.
    ByAgent {
        state: String,
        connects: u64,
        uptime_s: u64,
    },
    Accepted,
    Refused(String),
    Unreachable(String),
    /// An agent is there that cannot be asked.
    Unknown,
}

pub fn login(client_id: &str, login: &Login) -> Finding {
    match login {
        Login::ByAgent { state, connects, uptime_s } if state == "online" => {
            let found =
                format!("the agent is online ({} in {})", count(*connects, "connect"), span(*uptime_s));
            Finding::ok(LOGIN, client_id, found)
        }
        Login::ByAgent { state, .. } if matches!(state.as_str(), "" | "connecting") => {
            Finding::warning(LOGIN, client_id, "the agent is connecting", "ask again in a minute")
        }
        Login::ByAgent { state, .. } => Finding::failed(
            LOGIN,
            client_id,
            format!("the agent is {state}"),
            "see the steps before this one; the agent tries again by itself",
        ),
        Login::Accepted => Finding::ok(LOGIN, client_id, "the broker accepts the login"),
        Login::Refused(why) => Finding::failed(
            LOGIN,
            client_id,
            why.as_str(),
            "check user, password, certificate and the broker's policy for this client id",
        ),
        Login::Unreachable(why) => {
            Finding::failed(LOGIN, client_id, why.as_str(), "see the steps before this one")
        }
        Login::Unknown => Finding::skipped(
            LOGIN,
            client_id,
            "an agent runs that cannot be asked; a second login would throw it out",
        )
        .advised("ask as root or as a member of its group"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Outcome::{self, Failed, Ok as Fine, Skipped, Warning};

    const NOW: Timestamp = Timestamp(1_793_600_000_000);

    #[track_caller]
    fn check(found: Finding, expected: Outcome, words: &str, advice: &str) {
        assert_eq!(found.result, expected, "{found:?}");
        assert!(found.found.contains(words), "{found:?}");
        assert!(found.advice.as_deref().unwrap_or_default().contains(advice), "{found:?}");
    }

    #[test]
    fn name_and_connection() {
        check(dns("192.0.2.1", None), Fine, "address", "");
        check(dns("b", Some(&Ok(vec!["192.0.2.1".into()]))), Fine, "192.0.2.1", "");
        check(dns("b", Some(&Err("no such host".into()))), Failed, "no such host", "resolv.conf");
        check(
            tcp("b:8883", &Tcp::Connected { address: "192.0.2.1:8883".into(), millis: 9 }),
            Fine,
            "9 ms",
            "",
        );
        check(tcp("b:8883", &Tcp::Refused("192.0.2.1:8883".into())), Failed, "refuses", "no broker listens");
        check(tcp("b:8883", &Tcp::NoAnswer("timed out".into())), Failed, "timed out", "firewall");
    }

    #[test]
    fn a_refusal_says_what_the_broker_showed_and_what_mends_it() {
        let with = |outcome: Result<&str, &str>, days: i64| {
            let not_after = Timestamp(NOW.0 + days * 86_400_000);
            let leaf = Dates { subject: "CN=b".into(), not_before: Timestamp(0), not_after };
            let outcome = outcome.map(str::to_owned).map_err(str::to_owned);
            tls(
                "b",
                &Tls { outcome, chain: vec![leaf], issuer: Some("CN=ca".into()), without_own: false },
                NOW,
            )
        };
        check(
            with(Ok("TLS 1.3"), 90),
            Fine,
            "TLS 1.3, the chain is good; it shows CN=b, issued by CN=ca",
            "",
        );
        check(with(Ok("TLS 1.3"), 3), Warning, "3 days away", "renew");
        let refused = |why, words: &str, advice: &str| check(with(Err(why), 90), Failed, words, advice);
        refused("the broker's certificate comes from an unknown issuer: x", "issued by CN=ca", "uplink.ca");
        refused("the broker's certificate has expired (or ...)", "until 20", "needs a new certificate");
        refused("the broker's certificate is not valid for the host name in x", "CN=b", "server_name");
        refused("the broker says our certificate has expired", "our", "for this gateway");
        refused("what answers there does not speak TLS", "TLS", "8883");
        refused("something else", "else", "both ends");
    }

    #[test]
    fn a_login_is_tried_only_where_nobody_has_the_client_id() {
        let by = |state: &str| Login::ByAgent { state: state.into(), connects: 2, uptime_s: 7200 };
        check(login("gw", &by("online")), Fine, "2 connects in 2 h", "");
        check(login("gw", &by("connecting")), Warning, "connecting", "again");
        check(login("gw", &by("offline: no route")), Failed, "offline: no route", "before");
        check(login("gw", &Login::Accepted), Fine, "accepts", "");
        check(login("gw", &Login::Refused("BadUserNamePassword".into())), Failed, "Bad", "password");
        check(login("gw", &Login::Unreachable("x".into())), Failed, "x", "before");
        check(login("gw", &Login::Unknown), Skipped, "throw it out", "root");
    }
}
