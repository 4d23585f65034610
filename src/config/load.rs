//! Finds the files of a configuration, reads them strictly and lays them over one another.
//!
//! Constraints: every mistake of every file is collected before anything stops; a value
//! keeps its place, so that a later check can blame the line that wrote it. The `config`
//! crate layers, but it coerces in silence and lower-cases keys; so each file is first read
//! strictly with `toml`, key by key, and only the plain sections pass through it.
//! Buses and devices are lists: those of several files are appended, in the files' order.
//!
//! The way of a key: text → `toml::Table` → its raw table, alone (a mistake costs this key
//! only) → layered over what earlier files said → environment → `validate`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::errors::{Errors, Mistake, Place, Report, Source, line_column};
use super::raw::{self, Table};
use super::text::{explain, suggest};
use super::{Config, models, validate};

/// Where the configuration is, unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/fieldgate/fieldgate.toml";

/// Variables that begin so belong to the configuration.
const ENVIRONMENT_PREFIX: &str = "FIELDGATE__";

/// The sections whose keys the environment may set.
const SECTIONS: [&str; 7] = ["gateway", "uplink", "thing", "store", "shadow", "identity", "log"];

/// The whole configuration, or every mistake in it. Reads `path` (or [`DEFAULT_PATH`]), the
/// files of `conf.d` beside it, and the environment; opens nothing else but the password file.
pub fn load(path: Option<&Path>) -> Result<Config, Errors> {
    load_with(path.unwrap_or(Path::new(DEFAULT_PATH)), std::env::vars())
}

/// [`load`] with a given environment.
pub fn load_with(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<Config, Errors> {
    let mut report = Report::default();
    let layered = layers(path, environment, &mut report);
    let config = layered.and_then(|layered| validate::validate(layered, &mut report));
    let warnings = report.finish()?;
    // Without a mistake there is a configuration: validation only gives up after naming one.
    let mut config = config.ok_or_else(|| {
        Errors(vec![plain_mistake(path, "the configuration could not be read".into(), String::new())])
    })?;
    config.warnings = warnings;
    Ok(config)
}

/// A raw table and where it stands.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    pub place: Place,
    pub raw: T,
}

/// A `[[device]]` with its points, its model already laid under it.
#[derive(Clone, Debug)]
pub struct DeviceEntry {
    pub place: Place,
    pub raw: raw::Device,
    pub points: Vec<Placed<raw::Point>>,
    pub commands: Vec<Placed<raw::Command>>,
}

/// All files and the environment in one.
#[derive(Clone, Debug)]
pub struct Layered {
    /// Relative paths in the configuration start here.
    pub directory: PathBuf,
    pub gateway: Placed<raw::Gateway>,
    pub uplink: Placed<raw::Uplink>,
    pub thing: Placed<raw::Thing>,
    pub store: Placed<raw::Store>,
    pub shadow: Placed<raw::Shadow>,
    pub identity: Placed<raw::Identity>,
    pub log: Placed<raw::Log>,
    pub buses: Vec<Placed<raw::Bus>>,
    pub devices: Vec<DeviceEntry>,
}

/// Reads and layers. `None` if the main file cannot be read at all.
pub fn layers(
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
    report: &mut Report,
) -> Option<Layered> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut sections = config::Config::builder();
    let mut order = Vec::new();
    let (mut buses, mut devices) = (Vec::new(), Vec::new());
    let mut read_one = false;
    for (index, file) in files(path, &directory, report).iter().enumerate() {
        let Some((source, mut table)) = read(file, report) else { continue };
        read_one |= index == 0;
        let root = Place::new(&source, "");
        let scalars = plain_sections(&mut table, &root, report);
        match config::Config::try_from(&scalars) {
            Ok(layer) => sections = sections.add_source(layer),
            Err(e) => report.push(plain_mistake(file, e.to_string(), String::new())),
        }
        for (place, table) in tables(&mut table, "bus", &root, report) {
            buses.push(Placed { raw: section(&table, &place, report), place });
        }
        for (place, table) in tables(&mut table, "device", &root, report) {
            devices.push(device(table, place, report));
        }
        for key in table.keys() {
            let known = SECTIONS.into_iter().chain(["bus", "device"]);
            report.error(&root, key, format!("there is no section \"{key}\""), suggest(key, known));
        }
        order.push(root);
    }
    if !read_one {
        return None;
    }
    let (variables, place) = environment_layer(environment, report);
    order.push(place);
    sections = sections.add_source(
        config::Environment::with_prefix("FIELDGATE")
            .prefix_separator("__")
            .separator("__")
            .source(Some(variables.into_iter().collect())),
    );
    let merged = match sections.build() {
        Ok(merged) => merged,
        Err(e) => {
            report.push(plain_mistake(path, e.to_string(), String::new()));
            return None;
        }
    };
    models::apply(&mut devices, &directory, report);
    Some(Layered {
        gateway: merged_section(&merged, "gateway", &order, report),
        uplink: merged_section(&merged, "uplink", &order, report),
        thing: merged_section(&merged, "thing", &order, report),
        store: merged_section(&merged, "store", &order, report),
        shadow: merged_section(&merged, "shadow", &order, report),
        identity: merged_section(&merged, "identity", &order, report),
        log: merged_section(&merged, "log", &order, report),
        directory,
        buses,
        devices,
    })
}

/// The main file and the `*.toml` of `conf.d` beside it, in name order.
fn files(path: &Path, directory: &Path, report: &mut Report) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    let extra = directory.join("conf.d");
    match std::fs::read_dir(&extra) {
        Ok(entries) => {
            let mut found: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|p| p.extension().is_some_and(|e| e == "toml"))
                .collect();
            found.sort();
            files.extend(found);
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => report.push(Mistake {
            may_mend: true,
            ..plain_mistake(&extra, format!("cannot be read: {e}"), String::new())
        }),
    }
    files
}

/// The text of one file as a table. Every syntax mistake of the file is reported.
pub fn read(file: &Path, report: &mut Report) -> Option<(Arc<Source>, toml::Table)> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse(&file.display().to_string(), text, report),
        Err(e) => {
            let help =
                "give the file's place with --config FILE; `fieldgate config --default` prints a sample";
            let help = if e.kind() == std::io::ErrorKind::NotFound { help } else { "" };
            let mistake = plain_mistake(file, format!("cannot be read: {e}"), help.into());
            report.push(Mistake { may_mend: true, ..mistake });
            None
        }
    }
}

/// [`read`] for text that is already there.
pub fn parse(name: &str, text: String, report: &mut Report) -> Option<(Arc<Source>, toml::Table)> {
    let (_, mistakes) = toml::de::DeTable::parse_recoverable(&text);
    for e in &mistakes {
        let at = e.span().map(|span| line_column(&text, span.start));
        report.push(Mistake {
            file: name.to_owned(),
            line: at.map(|a| a.0),
            column: at.map(|a| a.1),
            path: String::new(),
            message: format!("not TOML: {}", e.message().replace('\n', ", ")),
            help: String::new(),
            may_mend: false,
        });
    }
    if !mistakes.is_empty() {
        return None;
    }
    match text.parse() {
        Ok(table) => Some((Arc::new(Source::file(name, text)), table)),
        Err(e) => {
            report.push(plain_mistake(Path::new(name), e.to_string(), String::new()));
            None
        }
    }
}

/// One raw table, read key by key: a mistake costs its key and no other.
pub fn section<T: Table>(table: &toml::Table, place: &Place, report: &mut Report) -> T {
    if let Ok(whole) = table.clone().try_into() {
        return whole;
    }
    let mut good = table.clone();
    for (key, value) in table {
        if !T::keys().any(|known| known == key) {
            report.error(place, key, "this key is not known here", suggest(key, T::keys()));
            good.remove(key);
            continue;
        }
        let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
        if let Err(e) = alone.try_into::<T>() {
            let (message, help) = match is_secret(key) {
                true => ("is not text".into(), "text in quotes".into()),
                false => explain(e.message()),
            };
            report.error(place, key, message, help);
            good.remove(key);
        }
    }
    good.try_into().unwrap_or_default()
}

/// A value that no message may repeat.
fn is_secret(key: &str) -> bool {
    matches!(key, "password" | "token" | "signature")
}

/// The tables of the list `[[key]]`, with their places.
pub fn tables(
    table: &mut toml::Table,
    key: &str,
    place: &Place,
    report: &mut Report,
) -> Vec<(Place, toml::Table)> {
    let items = match table.remove(key) {
        None => return Vec::new(),
        Some(toml::Value::Array(items)) => items,
        Some(_) => {
            report.error(place, key, format!("\"{key}\" is a list of tables"), format!("write [[{key}]]"));
            return Vec::new();
        }
    };
    let mut found = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let name = format!("{key}[{index}]");
        match item {
            toml::Value::Table(item) => found.push((place.child(&name), item)),
            _ => report.error(place, &name, "is not a table", format!("write [[{key}]]")),
        }
    }
    found
}

/// A `[[device]]` or the `[device]` of a model, with the points that stand in it.
fn device(mut table: toml::Table, place: Place, report: &mut Report) -> DeviceEntry {
    let points = points(&mut table, &place, report);
    let commands = commands(&mut table, &place, report);
    DeviceEntry { raw: section(&table, &place, report), place, points, commands }
}

/// The `[[point]]` tables of a device or a model.
pub fn points(table: &mut toml::Table, place: &Place, report: &mut Report) -> Vec<Placed<raw::Point>> {
    placed(table, "point", place, report)
}

/// The `[[command]]` tables of a device or a model.
pub fn commands(table: &mut toml::Table, place: &Place, report: &mut Report) -> Vec<Placed<raw::Command>> {
    placed(table, "command", place, report)
}

fn placed<T: Table>(
    table: &mut toml::Table,
    key: &str,
    place: &Place,
    report: &mut Report,
) -> Vec<Placed<T>> {
    tables(table, key, place, report)
        .into_iter()
        .map(|(place, table)| Placed { raw: section(&table, &place, report), place })
        .collect()
}

/// Checks the plain sections of a file, takes them out and returns what was right.
fn plain_sections(table: &mut toml::Table, root: &Place, report: &mut Report) -> toml::Table {
    let mut found = toml::Table::new();
    for name in SECTIONS {
        match table.remove(name) {
            None => {}
            Some(toml::Value::Table(section)) => {
                found.insert(name.into(), toml::Value::Table(checked(name, &section, root, report)));
            }
            Some(_) => {
                report.error(root, name, format!("\"{name}\" is a section"), format!("write [{name}]"))
            }
        }
    }
    found
}

fn checked(name: &str, table: &toml::Table, root: &Place, report: &mut Report) -> toml::Table {
    fn strict<T: Table + serde::Serialize>(t: &toml::Table, p: &Place, r: &mut Report) -> toml::Table {
        let good: T = section(t, p, r);
        toml::Table::try_from(good).unwrap_or_default()
    }
    let place = root.child(name);
    match name {
        "gateway" => strict::<raw::Gateway>(table, &place, report),
        "uplink" => uplink(table.clone(), &place, report),
        "thing" => strict::<raw::Thing>(table, &place, report),
        "store" => strict::<raw::Store>(table, &place, report),
        "shadow" => strict::<raw::Shadow>(table, &place, report),
        "identity" => strict::<raw::Identity>(table, &place, report),
        _ => strict::<raw::Log>(table, &place, report),
    }
}

/// `[uplink]` with its tables: a mistake in them costs one key, and shows no secret.
fn uplink(mut table: toml::Table, place: &Place, report: &mut Report) -> toml::Table {
    fn inner<T: Table + serde::Serialize>(key: &str, of: &mut toml::Table, p: &Place, r: &mut Report) {
        if let Some(toml::Value::Table(table)) = of.get_mut(key) {
            let good: T = section(table, &p.child(key), r);
            *table = toml::Table::try_from(good).unwrap_or_default();
        }
    }
    inner::<raw::Authorizer>("authorizer", &mut table, place, report);
    inner::<raw::SigV4>("sigv4", &mut table, place, report);
    let good: raw::Uplink = section(&table, place, report);
    toml::Table::try_from(good).unwrap_or_default()
}

/// The variables that name a key of a plain section and fit it; the others are mistakes.
fn environment_layer(
    environment: impl Iterator<Item = (String, String)>,
    report: &mut Report,
) -> (BTreeMap<String, String>, Place) {
    let mut variables = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        let path = rest.to_lowercase().replace("__", ".");
        match environment_key(&path, &name, &value) {
            Ok(()) => {
                keys.insert(path);
                variables.insert(name, value);
            }
            Err((message, help)) => report.push(Mistake {
                file: format!("environment {name}"),
                line: None,
                column: None,
                path,
                message,
                help,
                may_mend: false,
            }),
        }
    }
    (variables, Place::new(&Arc::new(Source::Environment { keys }), ""))
}

fn environment_key(path: &str, name: &str, value: &str) -> Result<(), (String, String)> {
    fn fits<T: Table>(key: &str, section: &str, name: &str, value: &str) -> Result<(), (String, String)> {
        if !T::keys().any(|known| known == key) {
            return Err(("there is no such key".into(), suggest(key, T::keys())));
        }
        let alone = config::Config::builder()
            .add_source(
                config::Environment::with_prefix("FIELDGATE")
                    .prefix_separator("__")
                    .separator("__")
                    .source(Some([(name.to_owned(), value.to_owned())].into_iter().collect())),
            )
            .build()
            .and_then(|c| c.get::<T>(section));
        match alone {
            Ok(_) => Ok(()),
            Err(e) => Err(environment_words(&e, value)),
        }
    }
    let Some((section, key)) = path.split_once('.') else {
        return Err(("names no key".into(), "write FIELDGATE__SECTION__KEY".into()));
    };
    match section {
        "gateway" => fits::<raw::Gateway>(key, section, name, value),
        "uplink" => fits::<raw::Uplink>(key, section, name, value),
        "thing" => fits::<raw::Thing>(key, section, name, value),
        "store" => fits::<raw::Store>(key, section, name, value),
        "shadow" => fits::<raw::Shadow>(key, section, name, value),
        "identity" => fits::<raw::Identity>(key, section, name, value),
        "log" => fits::<raw::Log>(key, section, name, value),
        _ => Err((
            "the environment cannot set this".into(),
            "it can set single keys of gateway, uplink, thing, store, shadow, identity and log".into(),
        )),
    }
}

/// The `config` crate's complaint about a variable, in our words.
fn environment_words(error: &config::ConfigError, value: &str) -> (String, String) {
    match error {
        config::ConfigError::Type { expected, .. } => {
            explain(&format!("invalid value: \"{value}\", expected {expected}"))
        }
        config::ConfigError::At { error, .. } => environment_words(error, value),
        other => explain(&other.to_string()),
    }
}

/// One plain section out of the layers; blame goes to the latest layer that set the key.
fn merged_section<T: Table>(
    merged: &config::Config,
    name: &str,
    order: &[Place],
    report: &mut Report,
) -> Placed<T> {
    let mut places = order.iter().rev().map(|root| root.child(name));
    let first = places.next().unwrap_or_else(|| order[0].child(name));
    // The main file, the earliest layer, is blamed for keys that nobody wrote.
    let place = places.fold(first, Place::or);
    let raw = match merged.get::<T>(name) {
        Ok(raw) => raw,
        Err(config::ConfigError::NotFound(_)) => T::default(),
        Err(e) => {
            report.error(&place, "", e.to_string(), "");
            T::default()
        }
    };
    Placed { place, raw }
}

/// A mistake about a file as a whole.
pub fn plain_mistake(file: &Path, message: String, help: String) -> Mistake {
    let file = file.display().to_string();
    Mistake { file, line: None, column: None, path: String::new(), message, help, may_mend: false }
}
