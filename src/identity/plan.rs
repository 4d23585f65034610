//! From the configuration to identities: who has one, where it lives, who makes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::authority::{self, Authority};
use super::enroll::{Enrollers, Provision};
use super::files::{self, Folder};
use super::keeper::{Kept, Policy};
use super::subject::Subject;
use super::tls::{self, Trust};
use super::wallet::{Common, Wallet};
use crate::config::{Config, EnrollerKind, Security};
use crate::model::device::{Device, Protocol, UplinkChoice};
use crate::model::time::Clock;

/// The agent cannot start with it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Files(#[from] files::Error),
    #[error(transparent)]
    Authority(#[from] authority::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("identities need TLS: write uplink.url = \"mqtts://...\", or identity.enroller = \"none\"")]
    Plain,
    #[error("identity.enroller = \"claim\" needs somebody who shows the claim")]
    NoProvision,
}

/// Everything that the keeper and the connections need.
pub struct Plan {
    /// In the order of the devices; the place of each in `Config::devices` is in `devices`.
    pub identities: Vec<Kept>,
    pub devices: Vec<usize>,
    pub enroller: Enrollers,
    /// Whether the enroller makes anything; see `Keeper::enrols`.
    pub enrols: bool,
    pub policy: Policy,
}

/// The devices that have an identity of their own, by their place in the configuration.
pub fn subjects(config: &Config) -> Vec<(usize, Subject)> {
    if config.identity.enroller == EnrollerKind::None {
        return Vec::new();
    }
    let own = |d: &Device| d.uplink != Some(UplinkChoice::Gateway);
    let devices = config.devices.iter().enumerate().filter(|(_, device)| own(device));
    devices.map(|(at, device)| (at, subject(config, at, device))).collect()
}

fn subject(config: &Config, at: usize, device: &Device) -> Subject {
    let bus = config.buses.iter().find(|bus| bus.devices.iter().any(|index| index.at() == at));
    Subject {
        thing: device.thing.as_str().to_owned(),
        gateway: config.gateway.name.as_str().to_owned(),
        bus: bus.map_or(String::new(), |bus| bus.name.as_str().to_owned()),
        unit_id: match &device.protocol {
            Protocol::Modbus(modbus) => Some(modbus.unit_id),
            Protocol::Line(_) => None,
        },
        serial: None,
    }
}

/// The gateway's own CA, if the configuration has one.
pub fn authority(config: &Config) -> Result<Option<Authority>, Error> {
    let identity = &config.identity;
    if identity.enroller != EnrollerKind::LocalCa {
        return Ok(None);
    }
    Folder::open(&identity.directory)?;
    let name = config.gateway.name.as_str();
    Ok(Some(Authority::open(&identity.directory, name, identity.lifetime, identity.ca_key.clone())?))
}

/// `None`: nobody has an identity of its own.
pub fn plan(
    config: &Config,
    clock: &Clock,
    provision: Option<Box<dyn Provision>>,
) -> Result<Option<Plan>, Error> {
    let subjects = subjects(config);
    if subjects.is_empty() {
        return Ok(None);
    }
    let Security::Tls(tls) = &config.uplink.security else { return Err(Error::Plain) };
    let common = Common { trust: Trust::new(tls)?, alpn: tls.alpn.clone().into() };
    let identity = &config.identity;
    let enroller = match identity.enroller {
        EnrollerKind::None | EnrollerKind::Files => Enrollers::None,
        EnrollerKind::Csr => Enrollers::Csr,
        EnrollerKind::LocalCa => match authority(config)? {
            Some(authority) => Enrollers::LocalCa(Arc::new(authority), clock.clone()),
            None => Enrollers::None,
        },
        EnrollerKind::Claim => Enrollers::Claim(provision.ok_or(Error::NoProvision)?),
    };
    let given = identity.certificate.as_deref().zip(identity.key.as_deref());
    let folder = match given {
        Some(_) => None,
        None => Some(Folder::open(&identity.directory)?),
    };
    let (mut identities, mut devices) = (Vec::new(), Vec::new());
    for (at, subject) in subjects {
        let wallet = match (&folder, given) {
            (Some(folder), _) => Wallet::kept(&subject.thing, folder.clone(), common.clone()),
            (None, Some((certificate, key))) => {
                let at = |pattern| filled(pattern, &subject.thing);
                Wallet::given(&subject.thing, at(certificate), at(key), common.clone())
            }
            (None, None) => continue,
        };
        devices.push(at);
        identities.push(Kept { subject, wallet });
    }
    let policy = Policy {
        renew_at: identity.renew_at,
        key_type: identity.key_type,
        binds_serial: identity.enroller == EnrollerKind::LocalCa,
    };
    Ok(Some(Plan { identities, devices, enrols: enroller.makes(), enroller, policy }))
}

/// The operator's file of one thing.
pub fn filled(pattern: &Path, thing: &str) -> PathBuf {
    PathBuf::from(pattern.to_string_lossy().replace("{thing}", thing))
}
