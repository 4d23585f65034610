//! The configuration: every mistake, every warning. PURE.

use super::count;
use crate::config::Config;
use crate::config::errors::Mistake;
use crate::doctor::finding::Finding;

pub const NAME: &str = "configuration";

/// More than a screen of mistakes is for `fieldgate check`.
const MISTAKES_SHOWN_MAX: usize = 20;

pub fn judge(file: &str, loaded: Result<&Config, &[Mistake]>) -> Vec<Finding> {
    match loaded {
        Ok(config) => {
            let points = config.devices.iter().map(|device| device.points.len() as u64).sum();
            let parts = [
                count(config.devices.len() as u64, "device"),
                count(points, "point"),
                if config.buses.len() == 1 {
                    "1 bus".into()
                } else {
                    format!("{} buses", config.buses.len())
                },
            ];
            let found = format!("it is valid: {}", parts.join(", "));
            let warnings = config.warnings.iter().map(|warning| {
                Finding::warning(NAME, file, warning.as_str(), "change it if it was not meant so")
            });
            std::iter::once(Finding::ok(NAME, file, found)).chain(warnings.take(MISTAKES_SHOWN_MAX)).collect()
        }
        Err(mistakes) => {
            mistakes.iter().take(MISTAKES_SHOWN_MAX).map(|m| mistake(m, mistakes.len())).collect()
        }
    }
}

fn mistake(m: &Mistake, all: usize) -> Finding {
    let subject = match m.line {
        Some(line) => format!("{}:{line}", m.file),
        None => m.file.clone(),
    };
    let found = if m.path.is_empty() { m.message.clone() } else { format!("{}: {}", m.path, m.message) };
    let help = match m.help.as_str() {
        "" => format!("mend it; `fieldgate check` names all {all}"),
        help => help.to_owned(),
    };
    Finding::failed(NAME, subject, found, help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;
    use crate::doctor::finding::Outcome;

    #[test]
    fn every_mistake_and_every_warning_has_its_line() {
        let mut config = fixture::config();
        config.warnings = vec!["uplink.url: not encrypted".into()];
        let found = judge("f.toml", Ok(&config));
        assert_eq!(found[0].found, "it is valid: 2 devices, 2 points, 2 buses");
        assert_eq!(found[1].result, Outcome::Warning);
        let mistake = Mistake {
            file: "f.toml".into(),
            line: Some(7),
            column: Some(1),
            path: "bus[0].baud".into(),
            message: "is not a number".into(),
            help: "for instance 19200".into(),
            may_mend: false,
        };
        let found =
            judge("f.toml", Err(&[mistake.clone(), Mistake { line: None, help: String::new(), ..mistake }]));
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].subject.as_str(), found[0].result), ("f.toml:7", Outcome::Failed));
        assert_eq!(found[0].found, "bus[0].baud: is not a number");
        assert_eq!(found[0].advice.as_deref(), Some("for instance 19200"));
        assert!(found[1].advice.as_deref().is_some_and(|a| a.contains("names all 2")));
    }
}
