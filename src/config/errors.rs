//! Mistakes in a configuration, and where they stand.
//!
//! Constraints: a person with a text editor has to find the spot, so each mistake names the
//! file, the line, and the path of the key; and one run has to show all of them. A value
//! that came from a device model or from an earlier file is blamed on the file that wrote it.
//!
//! A check calls `Report::error(place, key, ...)`; the place walks its fallbacks to the
//! source that holds the key; line and column are looked up only then, because a healthy
//! configuration of ten thousand points should not pay for them.
//!
//! Indices in a path are zero-based and count within the file that is named.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Mistake {
    /// The file, or the environment variable.
    pub file: String,
    /// From 1; absent where no line can be blamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// For instance `device[2].point[4].address`, zero-based within the file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub help: String,
    /// A file could not be read: time may mend that, as when its disk is mounted late.
    #[serde(skip)]
    pub may_mend: bool,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        f.write_str(": ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.help.is_empty() {
            write!(f, "\n  help: {}", self.help)?;
        }
        Ok(())
    }
}

/// Every mistake of a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<Mistake>);

impl Errors {
    /// Whether nothing is wrong but files that could not be read.
    pub fn may_mend(&self) -> bool {
        self.0.iter().all(|mistake| mistake.may_mend)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.0 {
            writeln!(f, "{mistake}")?;
        }
        let n = self.0.len();
        write!(f, "{n} mistake{} in the configuration", if n == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Errors {}

/// Where configuration text comes from.
#[derive(Debug)]
pub enum Source {
    File {
        name: String,
        text: String,
        /// Line and column by path, filled at the first mistake.
        keys: OnceLock<HashMap<String, (usize, usize)>>,
    },
    /// Dotted keys (`uplink.url`) that the environment sets.
    Environment { keys: BTreeSet<String> },
}

impl Source {
    pub fn file(name: &str, text: String) -> Source {
        Source::File { name: name.to_owned(), text, keys: OnceLock::new() }
    }

    /// Line and column of the key; looked up for all keys at the first mistake.
    fn position(&self, path: &str) -> Option<(usize, usize)> {
        let Source::File { text, keys, .. } = self else { return None };
        let keys = keys.get_or_init(|| {
            let mut offsets = HashMap::from([(String::new(), 0)]);
            if let Ok(document) = toml::de::DeTable::parse(text) {
                walk(document.get_ref(), "", &mut offsets);
            }
            let starts: Vec<usize> =
                std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
            let position = |offset: usize| {
                let line = starts.partition_point(|start| *start <= offset);
                let start = starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
                (line, text.get(start..offset).map_or(0, |before| before.chars().count()) + 1)
            };
            offsets.into_iter().map(|(path, offset)| (path, position(offset))).collect()
        });
        keys.get(path).copied()
    }

    /// Where the key stands, or else the innermost table around it that exists.
    fn nearest_position(&self, path: &str) -> Option<(usize, usize)> {
        let mut path = path;
        loop {
            match self.position(path) {
                Some(position) => return Some(position),
                None => path = path.rsplit_once('.')?.0,
            }
        }
    }
}

/// A table in a source, and where to look for keys that it does not hold itself.
#[derive(Clone, Debug)]
pub struct Place {
    pub source: Arc<Source>,
    /// Of the table: `device[2]`; empty for the whole file.
    pub path: String,
    pub fallback: Option<Box<Place>>,
}

impl Place {
    pub fn new(source: &Arc<Source>, path: impl Into<String>) -> Place {
        Place { source: Arc::clone(source), path: path.into(), fallback: None }
    }

    pub fn child(&self, key: &str) -> Place {
        Place { source: Arc::clone(&self.source), path: join(&self.path, key), fallback: None }
    }

    /// The table `key` inside this one, in every layer.
    pub fn inside(&self, key: &str) -> Place {
        let own = self.child(key);
        match &self.fallback {
            Some(next) => own.or(next.inside(key)),
            None => own,
        }
    }

    /// The same place, with `other` asked for keys that stand not here.
    pub fn or(mut self, other: Place) -> Place {
        match self.fallback.take() {
            Some(next) => self.fallback = Some(Box::new(next.or(other))),
            None => self.fallback = Some(Box::new(other)),
        }
        self
    }

    /// The file's name, for a message about another file.
    pub fn file(&self) -> String {
        match &*self.source {
            Source::File { name, .. } => name.clone(),
            Source::Environment { .. } => "environment".into(),
        }
    }

    fn holds(&self, key: &str) -> bool {
        let path = join(&self.path, key);
        match &*self.source {
            Source::File { .. } => self.source.position(&path).is_some(),
            Source::Environment { keys } => keys.contains(&path),
        }
    }

    /// The mistake `message` at `key` of this table; an empty key blames the table.
    pub fn mistake(&self, key: &str, message: impl Into<String>, help: impl Into<String>) -> Mistake {
        let mut owner = Some(self);
        while let Some(place) = owner {
            if place.holds(key) {
                break;
            }
            owner = place.fallback.as_deref();
        }
        let place = owner.unwrap_or_else(|| self.nearest_table());
        let path = join(&place.path, key);
        let (message, help) = (message.into(), help.into());
        match &*place.source {
            Source::File { name, .. } => {
                let at = place.source.nearest_position(&path);
                Mistake {
                    file: name.clone(),
                    line: at.map(|a| a.0),
                    column: at.map(|a| a.1),
                    path,
                    message,
                    help,
                    may_mend: false,
                }
            }
            Source::Environment { .. } => Mistake {
                file: format!("environment FIELDGATE__{}", path.replace('.', "__").to_uppercase()),
                line: None,
                column: None,
                path,
                message,
                help,
                may_mend: false,
            },
        }
    }

    /// Whom to blame for a key that nobody wrote: the first layer that has the table at all,
    /// else the main file, which is the last.
    fn nearest_table(&self) -> &Place {
        let mut place = self;
        loop {
            let exists = matches!(&*place.source, Source::File { .. }) && place.holds("");
            match &place.fallback {
                Some(next) if !exists => place = next,
                _ => return place,
            }
        }
    }
}

/// Collects the mistakes and warnings of one load.
#[derive(Debug, Default)]
pub struct Report {
    mistakes: Vec<Mistake>,
    /// File and path of each mistake.
    blamed: HashSet<(String, String)>,
    warnings: Vec<String>,
}

impl Report {
    pub fn error(&mut self, place: &Place, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(place.mistake(key, message, help));
    }

    /// The file that `key` names cannot be read.
    pub fn unreadable(&mut self, place: &Place, key: &str, message: String, help: impl Into<String>) {
        self.push(Mistake { may_mend: true, ..place.mistake(key, message, help) });
    }

    /// One mistake per key: a value of a wrong type is not missing as well, and a device
    /// model that many devices use is blamed once.
    pub fn push(&mut self, mistake: Mistake) {
        let is_known = match mistake.path.is_empty() {
            true => self.mistakes.contains(&mistake),
            false => !self.blamed.insert((mistake.file.clone(), mistake.path.clone())),
        };
        if !is_known {
            self.mistakes.push(mistake);
        }
    }

    pub fn warn(&mut self, place: &Place, key: &str, message: impl Into<String>) {
        let text = place.mistake(key, message, "").to_string();
        if !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }

    pub fn is_clean(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// The warnings, or every mistake in the order of files and lines.
    pub fn finish(mut self) -> Result<Vec<String>, Errors> {
        if self.mistakes.is_empty() {
            return Ok(self.warnings);
        }
        self.mistakes.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        Err(Errors(self.mistakes))
    }
}

/// Line and column, both from 1, of a byte offset; columns count characters.
pub fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

fn join(path: &str, key: &str) -> String {
    match (path.is_empty(), key.is_empty()) {
        (true, _) => key.to_owned(),
        (_, true) => path.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// The offset of every key and table under `table`, by path.
fn walk(table: &toml::de::DeTable<'_>, path: &str, keys: &mut HashMap<String, usize>) {
    for (key, value) in table {
        let path = join(path, key.get_ref());
        keys.insert(path.clone(), key.span().start);
        match value.get_ref() {
            toml::de::DeValue::Table(inner) => walk(inner, &path, keys),
            toml::de::DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    if let toml::de::DeValue::Table(inner) = item.get_ref() {
                        walk(inner, &path, keys);
                    }
                    keys.insert(path, item.span().start);
                }
            }
            _ => {}
        }
    }
}
