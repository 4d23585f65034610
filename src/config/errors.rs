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

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

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
    },
    /// Dotted keys (`uplink.url`) that the environment sets.
    Environment {
        keys: BTreeSet<String>,
    },
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
            Source::File { text, .. } => find(text, &path).is_some_and(|found| found.exact),
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
            Source::File { name, text } => {
                let at = find(text, &path).map(|found| line_column(text, found.offset));
                Mistake {
                    file: name.clone(),
                    line: at.map(|a| a.0),
                    column: at.map(|a| a.1),
                    path,
                    message,
                    help,
                }
            }
            Source::Environment { .. } => Mistake {
                file: format!("environment FIELDGATE__{}", path.replace('.', "__").to_uppercase()),
                line: None,
                column: None,
                path,
                message,
                help,
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
    warnings: Vec<String>,
}

impl Report {
    pub fn error(&mut self, place: &Place, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.push(place.mistake(key, message, help));
    }

    /// A device model is read once per device that uses it: its mistakes are shown once.
    pub fn push(&mut self, mistake: Mistake) {
        if !self.mistakes.contains(&mistake) {
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

struct Found {
    offset: usize,
    /// The whole path was found, not only the table around it.
    exact: bool,
}

/// The offset of the key at `path`, or of the innermost table around it that exists.
fn find(text: &str, path: &str) -> Option<Found> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut found = Found { offset: 0, exact: path.is_empty() };
    let mut parts = path.split('.').filter(|p| !p.is_empty()).peekable();
    while let Some(part) = parts.next() {
        found.exact = false;
        let (name, index) = match part.strip_suffix(']').and_then(|p| p.split_once('[')) {
            Some((name, index)) => (name, index.parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((key, value)) = table.iter().find(|(k, _)| k.get_ref().as_ref() == name) else { break };
        found.offset = key.span().start;
        let mut value = value;
        if let Some(index) = index {
            let Some(item) = value.get_ref().as_array().and_then(|a| a.get(index)) else { break };
            value = item;
            found.offset = item.span().start;
        }
        if parts.peek().is_none() {
            found.exact = true;
            break;
        }
        let Some(inner) = value.get_ref().as_table() else { break };
        table = inner;
    }
    Some(found)
}
