//! The layers in one document, spelled as a file would be, without any secret: what
//! `fieldgate config` prints and a support archive holds.

use serde_json::{Value, json};

use super::load::Layered;

/// Stands where a secret would.
pub const REDACTED: &str = "<redacted>";

pub fn merged(layered: &Layered) -> Value {
    let mut uplink = layered.uplink.raw.clone();
    uplink.password = uplink.password.map(|_| REDACTED.to_owned());
    uplink.username = uplink.username.map(|name| without_token(&name));
    uplink.url = uplink.url.map(|url| without_login(&url));
    uplink.key = uplink.key.map(|key| without_pin(&key.to_string_lossy()).into());
    if let Some(authorizer) = &mut uplink.authorizer {
        for secret in [&mut authorizer.token, &mut authorizer.signature] {
            *secret = secret.take().map(|_| REDACTED.to_owned());
        }
        authorizer.username = authorizer.username.take().map(|name| without_token(&name));
    }
    let mut identity = layered.identity.raw.clone();
    identity.ca_key = identity.ca_key.map(|key| without_pin(&key));
    identity.key = identity.key.map(|key| without_pin(&key.to_string_lossy()).into());
    if let Some(claim) = &mut identity.claim {
        claim.key = claim.key.take().map(|key| without_pin(&key.to_string_lossy()).into());
        claim.url = claim.url.take().map(|url| without_login(&url));
    }
    let devices = layered.devices.iter().map(|device| {
        let mut table = json!(device.raw);
        table["point"] = device.points.iter().map(|p| json!(p.raw)).collect();
        if !device.commands.is_empty() {
            table["command"] = device.commands.iter().map(|c| json!(c.raw)).collect();
        }
        table
    });
    json!({
        "gateway": layered.gateway.raw,
        "uplink": uplink,
        "thing": layered.thing.raw,
        "store": layered.store.raw,
        "shadow": layered.shadow.raw,
        "identity": identity,
        "log": layered.log.raw,
        "bus": layered.buses.iter().map(|b| json!(b.raw)).collect::<Vec<_>>(),
        "device": devices.collect::<Vec<_>>(),
    })
}

/// A custom authorizer's token may stand behind the first `?` of a user name.
fn without_token(username: &str) -> String {
    match username.split_once('?') {
        Some((user, _)) => format!("{user}?{REDACTED}"),
        None => username.to_owned(),
    }
}

/// `pkcs11:token=t;object=o?pin-value=1234` shows where the key is, and not the PIN.
fn without_pin(key: &str) -> String {
    match key.split_once("pin-value=") {
        Some((before, after)) => {
            let rest = after.find('&').map_or("", |at| &after[at..]);
            format!("{before}pin-value={REDACTED}{}", without_pin(rest))
        }
        None => key.to_owned(),
    }
}

/// Such a URL is a mistake, and may be printed all the same.
fn without_login(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((login, host)) => {
            let scheme = login.find("://").map_or("", |at| &login[..at + 3]);
            format!("{scheme}{REDACTED}@{host}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_of_a_text_is_taken_out_of_it() {
        assert_eq!(without_token("bob?x-amz=1&t=s3cret"), "bob?<redacted>");
        assert_eq!(without_token("bob"), "bob");
        assert_eq!(
            without_pin("pkcs11:token=t?pin-value=12;34&x=y&pin-value=5"),
            "pkcs11:token=t?pin-value=<redacted>&x=y&pin-value=<redacted>"
        );
        assert_eq!(without_pin("/etc/key.pem"), "/etc/key.pem");
        assert_eq!(without_login("mqtts://a:b@host:1"), "mqtts://<redacted>@host:1");
        assert_eq!(without_login("a:b@host"), "<redacted>@host");
        assert_eq!(without_login("mqtts://host"), "mqtts://host");
    }
}
