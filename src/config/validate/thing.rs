//! What the cloud sees of a device: its thing, where its points stand in the shadow, and how
//! the device tells who it is.

use std::collections::HashMap;
use std::time::Duration;

use super::values::{DAY, Reader};
use crate::config::errors::{Place, Report};
use crate::config::load::{DeviceEntry, Placed};
use crate::config::{EnrollerKind, Identity, raw};
use crate::model::device::{Device, Fingerprint, Point, UplinkChoice, thing_of};
use crate::model::ids::DeviceName;
use crate::model::thing::ThingName;
use crate::model::write::ShadowMember;

/// Objects inside objects that a member may lie in. The state itself is one level more, and
/// the cloud takes six.
const PATH_LEVELS_MAX: usize = 5;
const MEMBER_BYTES_MAX: usize = 64;

pub fn thing(raw: &raw::Device, name: &DeviceName, place: &Place, report: &mut Report) -> ThingName {
    let Some(text) = raw.thing.as_deref() else { return thing_of(name) };
    ThingName::parse(text).unwrap_or_else(|_| {
        let help = "1 to 128 of the characters a-z A-Z 0-9 : _ -";
        report.error(place, "thing", format!("\"{text}\" is no thing name"), help);
        thing_of(name)
    })
}

/// Two devices cannot be one thing. `devices` are those of `entries` that were good.
pub fn unique(devices: &[Device], entries: &[DeviceEntry], report: &mut Report) {
    let mut seen: HashMap<&str, &DeviceName> = HashMap::new();
    for device in devices {
        let Some(first) = seen.insert(device.thing.as_str(), &device.name) else { continue };
        let of = |e: &&DeviceEntry| e.raw.name.as_deref() == Some(device.name.as_str());
        if let Some(entry) = entries.iter().find(of).filter(|_| *first != device.name) {
            let message = format!("the thing \"{}\" is already that of {first}", device.thing);
            report.error(&entry.place, "thing", message, "write thing = \"NAME\" of its own");
        }
    }
}

/// A connection of its own needs somebody who makes its certificate, a client id that nobody
/// else has, and a broker that asks for the certificate: a signed URL (`is_signed`) says who
/// the gateway is, whosever certificate comes with it.
pub fn own(
    entries: &[DeviceEntry],
    identity: &Identity,
    client_id: &str,
    is_signed: bool,
    report: &mut Report,
) {
    let nobody = identity.enroller == EnrollerKind::None;
    for DeviceEntry { raw, place, .. } in entries {
        let own = match raw.uplink {
            Some(raw::DeviceUplink::Own) => true,
            Some(raw::DeviceUplink::Gateway) => false,
            None => !nobody,
        };
        if own && nobody {
            let help = "write identity.enroller = \"local-ca\" (or \"claim\", \"csr\", \"files\"), or uplink = \"gateway\"";
            report.error(place, "uplink", "a connection of its own needs a certificate", help);
        }
        if own && !nobody && is_signed {
            let help = "write uplink = \"gateway\", or take mqtts:// and a certificate for the uplink";
            let message = "a connection of its own beside sigv4, which signs for the gateway only";
            report.error(place, "uplink", message, help);
        }
        let name = raw.name.as_deref().unwrap_or_default();
        let thing = raw.thing.clone().unwrap_or_else(|| thing_of(&DeviceName::new(name)).as_str().to_owned());
        if own && !nobody && thing == client_id {
            let help = "write thing = \"NAME\" of its own, or another uplink.client_id";
            let message =
                format!("the gateway connects as \"{client_id}\", too: two connections with one client id");
            report.error(place, "thing", message, help);
        }
    }
}

pub fn fingerprint(raw: &raw::Device) -> Fingerprint {
    match raw.fingerprint.unwrap_or(raw::Fingerprint::None) {
        raw::Fingerprint::None => Fingerprint::None,
        raw::Fingerprint::ServerId => Fingerprint::ServerId,
        raw::Fingerprint::DeviceId => Fingerprint::DeviceId,
    }
}

pub fn uplink(raw: &raw::Device) -> Option<UplinkChoice> {
    raw.uplink.map(|choice| match choice {
        raw::DeviceUplink::Own => UplinkChoice::Own,
        raw::DeviceUplink::Gateway => UplinkChoice::Gateway,
    })
}

/// Where a point stands in the shadow; `None`: nowhere.
pub fn member(raw: &raw::Point, name: &str, place: &Place, report: &mut Report) -> Option<ShadowMember> {
    let bounds = Duration::ZERO..=DAY * 31;
    let interval =
        Reader { place, report }.span("shadow_interval", raw.shadow_interval, Duration::ZERO, bounds);
    let path: Vec<String> = match raw.shadow.as_deref() {
        // A dot in the point's own name parts nothing.
        None => vec![name.to_owned()],
        Some("") => return None,
        Some(path) => path.split('.').map(str::to_owned).collect(),
    };
    let fits = |part: &String| {
        (1..=MEMBER_BYTES_MAX).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
    };
    if path.len() > PATH_LEVELS_MAX || !path.iter().all(fits) {
        let message = format!("\"{}\" is no place in a shadow", path.join("."));
        let help = format!(
            "at most {PATH_LEVELS_MAX} names parted by dots, each 1 to {MEMBER_BYTES_MAX} of A-Z a-z 0-9 _ : -"
        );
        report.error(place, "shadow", message, help);
        return None;
    }
    Some(ShadowMember { path, interval })
}

/// Checks that need all points of a device: no member lies on or in another, and at most one
/// source tells who the device is.
pub fn together(raw: &raw::Device, placed: &[Placed<raw::Point>], points: &[Point], report: &mut Report) {
    let place_of = |point: &Point| {
        placed.iter().find(|p| p.raw.name.as_deref() == Some(point.name.as_str())).map(|p| &p.place)
    };
    let mut members: Vec<(&[String], &Point)> =
        points.iter().filter_map(|p| Some((p.shadow.as_ref()?.path.as_slice(), p))).collect();
    members.sort_by_key(|(path, _)| *path);
    for pair in members.windows(2) {
        let ([(outer, first), (inner, second)], true) = (pair, pair[1].0.starts_with(pair[0].0)) else {
            continue;
        };
        if let Some(place) = place_of(second).filter(|_| first.name != second.name) {
            let message = format!(
                "\"{}\" lies on \"{}\" of the point {}",
                inner.join("."),
                outer.join("."),
                first.name
            );
            report.error(place, "shadow", message, "give each point a place of its own, or \"\" for none");
        }
    }
    let asked = fingerprint(raw) != Fingerprint::None;
    let told = points.iter().filter(|p| p.fingerprint);
    for point in told.skip(usize::from(!asked)) {
        let Some(place) = place_of(point) else { continue };
        let message = "the device already tells its fingerprint in another way";
        report.error(place, "fingerprint", message, "one point, or the key of the device");
    }
}
