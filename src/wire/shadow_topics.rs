//! PURE: the reserved topics of shadows and the topics of commands, read and written.
//!
//! `PREFIX/things/THING/shadow[/name/SHADOW]/OPERATION[/OUTCOME]` (AWS IoT developer guide,
//! Reserved topics), `cmd/THING/NAME` and its answer on `cmd/THING/NAME/answer`.
//!
//! A connection may have at most 50 filters at AWS IoT, and 8 in one SUBSCRIBE. So few things
//! are subscribed to by name, many by `+`.

/// What arrived, or where something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    Shadow {
        thing: &'a str,
        /// Empty: the classic one.
        shadow: &'a str,
        /// What follows: `update`, `get/accepted`, ...
        rest: &'a str,
    },
    Command {
        thing: &'a str,
        name: &'a str,
    },
}

#[derive(Clone, Debug)]
pub struct Topics {
    prefix: String,
    /// The levels of the command topic.
    command: Vec<String>,
}

impl Topics {
    /// `command` has the levels `{thing}` and `{name}`, each once.
    pub fn new(prefix: &str, command: &str) -> Topics {
        Topics { prefix: prefix.to_owned(), command: command.split('/').map(str::to_owned).collect() }
    }

    /// `None`: no topic of ours.
    pub fn parse<'a>(&self, topic: &'a str) -> Option<Topic<'a>> {
        self.shadow(topic).or_else(|| self.command(topic))
    }

    fn shadow<'a>(&self, topic: &'a str) -> Option<Topic<'a>> {
        let rest = topic.strip_prefix(self.prefix.as_str())?.strip_prefix("/things/")?;
        let (thing, rest) = rest.split_once('/')?;
        let rest = rest.strip_prefix("shadow/")?;
        let (shadow, rest) = match rest.strip_prefix("name/") {
            Some(named) => named.split_once('/')?,
            None => ("", rest),
        };
        let named = topic.contains("/shadow/name/");
        (!thing.is_empty() && named != shadow.is_empty()).then_some(Topic::Shadow { thing, shadow, rest })
    }

    fn command<'a>(&self, topic: &'a str) -> Option<Topic<'a>> {
        let (mut thing, mut name) = ("", "");
        let mut levels = topic.split('/');
        for expected in &self.command {
            let level = levels.next()?;
            match expected.as_str() {
                "{thing}" => thing = level,
                "{name}" => name = level,
                text if text != level => return None,
                _ => {}
            }
        }
        let fits = levels.next().is_none() && !thing.is_empty() && !name.is_empty();
        fits.then_some(Topic::Command { thing, name })
    }

    pub fn of_shadow(&self, thing: &str, shadow: &str, rest: &str) -> String {
        match shadow {
            "" => format!("{}/things/{thing}/shadow/{rest}", self.prefix),
            name => format!("{}/things/{thing}/shadow/name/{name}/{rest}", self.prefix),
        }
    }

    pub fn of_command(&self, thing: &str, name: &str) -> String {
        let level = |level: &String| match level.as_str() {
            "{thing}" => thing.to_owned(),
            "{name}" => name.to_owned(),
            text => text.to_owned(),
        };
        self.command.iter().map(level).collect::<Vec<_>>().join("/")
    }

    pub fn of_answer(&self, thing: &str, name: &str) -> String {
        format!("{}/answer", self.of_command(thing, name))
    }

    /// What one connection subscribes to. `ends` are the last levels of the shadow topics that
    /// count: `+` for requests, `+/accepted` for answers. `commands` are the things that take
    /// commands.
    pub fn filters(&self, things: &[&str], ends: &[&str], commands: &[&str]) -> Vec<String> {
        let of = |things: &[&str], commands: &[&str]| {
            let mut filters = Vec::new();
            for thing in things {
                filters.extend(ends.iter().map(|end| self.of_shadow(thing, "", end)));
                filters.extend(ends.iter().map(|end| self.of_shadow(thing, "+", end)));
            }
            filters.extend(commands.iter().map(|thing| self.of_command(thing, "+")));
            filters
        };
        let exact = of(things, commands);
        if exact.len() <= FILTERS_MAX {
            return exact;
        }
        let some = |all: &[&str]| if all.is_empty() { &[][..] } else { &["+"][..] };
        of(some(things), some(commands))
    }
}

/// Filters that are spelled out by thing; with more `+` stands for all of them. AWS IoT
/// allows 50 per connection.
pub const FILTERS_MAX: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        Topics::new("$aws", "cmd/{thing}/{name}")
    }

    #[test]
    fn topics_are_read_as_they_are_written() {
        let check =
            |text: &str, expected: Option<Topic>| assert_eq!(topics().parse(text), expected, "{text}");
        let shadow = |thing, shadow, rest| Some(Topic::Shadow { thing, shadow, rest });
        check("$aws/things/m-1/shadow/update", shadow("m-1", "", "update"));
        check("$aws/things/m-1/shadow/get/accepted", shadow("m-1", "", "get/accepted"));
        check("$aws/things/m-1/shadow/name/a/update", shadow("m-1", "a", "update"));
        check("$aws/things/m-1/shadow/name/name/get", shadow("m-1", "name", "get"));
        check("$aws/things/m-1/shadow/name//get", None);
        check("$aws/things//shadow/get", None);
        check("$aws/things/m-1/jobs/get", None);
        check("aws/things/m-1/shadow/get", None);
        check("cmd/m-1/reset", Some(Topic::Command { thing: "m-1", name: "reset" }));
        check("cmd/m-1/reset/answer", None);
        check("cmd/m-1/", None);
        for (thing, name, rest) in [("m", "", "update"), ("m", "x", "delete/rejected")] {
            let text = topics().of_shadow(thing, name, rest);
            assert_eq!(topics().parse(&text), shadow(thing, name, rest));
        }
        assert_eq!(topics().of_answer("m", "reset"), "cmd/m/reset/answer");
        let other = Topics::new("shadows", "{name}/of/{thing}");
        assert_eq!(other.parse("reset/of/m"), Some(Topic::Command { thing: "m", name: "reset" }));
        assert_eq!(other.of_command("m", "reset"), "reset/of/m");
    }

    #[test]
    fn few_things_are_subscribed_to_by_name_and_many_by_wildcard() {
        assert_eq!(
            topics().filters(&["m"], &["+"], &["m"]),
            ["$aws/things/m/shadow/+", "$aws/things/m/shadow/name/+/+", "cmd/m/+"]
        );
        let names: Vec<String> = (0..500).map(|i| format!("m-{i}")).collect();
        let things: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(
            topics().filters(&things, &["+/accepted", "+/rejected"], &[]),
            [
                "$aws/things/+/shadow/+/accepted",
                "$aws/things/+/shadow/+/rejected",
                "$aws/things/+/shadow/name/+/+/accepted",
                "$aws/things/+/shadow/name/+/+/rejected"
            ]
        );
        assert_eq!(topics().filters(&[], &["+"], &[]), [""; 0]);
    }
}
