//! Device models: a register map written once and used by many devices.
//!
//! A model is looked for beside the configuration, then where the package puts them, then
//! among those built into the program, so that a plant can correct a shipped one. A device
//! lays its own keys over the model's, point by point, by name.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::errors::{Place, Report, Source};
use super::load::{DeviceEntry, Placed, commands, parse, points, read, section};
use super::raw::{self, Table};
use super::text::suggest;

/// Where the package puts models.
const SHARED: &str = "/usr/share/fieldgate/models";

/// The models in the program: name and text.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("eastron-sdm120", include_str!("../../config/models/eastron-sdm120.toml")),
    ("eastron-sdm630", include_str!("../../config/models/eastron-sdm630.toml")),
    ("sunspec-common", include_str!("../../config/models/sunspec-common.toml")),
    ("sunspec-inverter-103", include_str!("../../config/models/sunspec-inverter-103.toml")),
    ("xy-md02", include_str!("../../config/models/xy-md02.toml")),
];

/// A model's file, read.
#[derive(Clone, Debug)]
pub struct DeviceModel {
    pub about: raw::Model,
    pub place: Place,
    /// Defaults for the device, by key.
    pub device: raw::Device,
    pub points: Vec<Placed<raw::Point>>,
    pub commands: Vec<Placed<raw::Command>>,
}

/// Lays each device that names a model over it.
pub fn apply(devices: &mut [DeviceEntry], directory: &Path, report: &mut Report) {
    let mut known: HashMap<String, Option<Arc<DeviceModel>>> = HashMap::new();
    for device in devices {
        let Some(name) = device.raw.model.clone() else { continue };
        let model = known.entry(name.clone()).or_insert_with(|| {
            let found = find(&name, directory, report);
            if found.is_none() {
                let message = format!("there is no device model \"{name}\"");
                report.error(&device.place, "model", message, missing_help(&name, directory));
            }
            found.flatten()
        });
        if let Some(model) = model {
            // Two overrides of one point would be merged in silence.
            let own = device.points.iter().map(|p| (p.raw.name.as_deref(), &p.place));
            super::validate::names::unique(own, "point", report);
            let own = device.commands.iter().map(|c| (c.raw.name.as_deref(), &c.place));
            super::validate::names::unique(own, "command", report);
            lay_over(device, model);
        }
    }
}

/// `None`: no such model. `Some(None)`: its file is wrong, and the report says how.
fn find(name: &str, directory: &Path, report: &mut Report) -> Option<Option<Arc<DeviceModel>>> {
    if !super::validate::names::is_name(name) {
        return None;
    }
    for place in [&directory.join("models"), Path::new(SHARED)] {
        let file = place.join(format!("{name}.toml"));
        if file.exists() {
            return Some(read(&file, report).map(|(source, table)| Arc::new(model(&source, table, report))));
        }
    }
    let (_, text) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name)?;
    let read = parse(&format!("built-in models/{name}.toml"), (*text).to_owned(), report);
    Some(read.map(|(source, table)| Arc::new(model(&source, table, report))))
}

fn missing_help(name: &str, directory: &Path) -> String {
    let known = BUILT_IN.iter().map(|(built_in, _)| *built_in);
    format!("{}; own models belong in {}", suggest(name, known), directory.join("models").display())
}

/// Reads the tables of a model's file.
pub fn model(source: &Arc<Source>, mut table: toml::Table, report: &mut Report) -> DeviceModel {
    let root = Place::new(source, "");
    let points = points(&mut table, &root, report);
    let commands = commands(&mut table, &root, report);
    let about = sub_table(&mut table, "model", &root, report);
    let device: raw::Device = sub_table(&mut table, "device", &root, report);
    for (key, is_set) in
        [("name", device.name.is_some()), ("bus", device.bus.is_some()), ("model", device.model.is_some())]
    {
        if is_set {
            report.error(&root.child("device"), key, "a model cannot set this", "it belongs to [[device]]");
        }
    }
    for key in table.keys() {
        let help = suggest(key, ["model", "device", "point", "command"]);
        report.error(&root, key, "this key is not known in a device model", help);
    }
    DeviceModel { about, place: root, device, points, commands }
}

fn sub_table<T: Table>(table: &mut toml::Table, key: &str, root: &Place, report: &mut Report) -> T {
    match table.remove(key) {
        Some(toml::Value::Table(inner)) => section(&inner, &root.child(key), report),
        Some(_) => {
            report.error(root, key, format!("\"{key}\" is a section"), format!("write [{key}]"));
            T::default()
        }
        None => T::default(),
    }
}

/// The device's keys, points and commands over the model's. Those keep the model's order;
/// added ones follow.
fn lay_over(device: &mut DeviceEntry, model: &DeviceModel) {
    let own = std::mem::take(&mut device.raw);
    device.raw = own.over(model.device.clone());
    device.place = device.place.clone().or(model.place.child("device"));
    let own = std::mem::take(&mut device.points);
    device.points = merged(&model.points, own, |point| point.name.as_deref(), raw::Point::over);
    let own = std::mem::take(&mut device.commands);
    device.commands = merged(&model.commands, own, |command| command.name.as_deref(), raw::Command::over);
}

/// `own` over `base`, by name.
fn merged<T: Clone>(
    base: &[Placed<T>],
    own: Vec<Placed<T>>,
    name: impl Fn(&T) -> Option<&str>,
    over: impl Fn(T, T) -> T,
) -> Vec<Placed<T>> {
    let mut merged = base.to_vec();
    for own in own {
        let same = merged.iter_mut().find(|b| name(&b.raw).is_some() && name(&b.raw) == name(&own.raw));
        match same {
            Some(base) => {
                base.raw = over(own.raw, base.raw.clone());
                base.place = own.place.or(base.place.clone());
            }
            None => merged.push(own),
        }
    }
    merged
}
