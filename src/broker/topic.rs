//! Topic names and topic filters.
//!
//! Constraints: the one place that knows what a wildcard is; the codec, the tree and later
//! the policy evaluator all ask here, so that nobody can be let in by one reading of a
//! filter and served by another. A name is what is published to, a filter is what is
//! subscribed to.

/// May be published to: not empty, no wildcard, no U+0000.
pub fn valid_topic(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= usize::from(u16::MAX) && !topic.contains(['+', '#', '\0'])
}

/// May be subscribed to: `+` and `#` stand alone in their level and `#` is the last one. A
/// shared filter must have a group without wildcards and a valid filter behind it.
pub fn valid_filter(filter: &str) -> bool {
    if filter.len() > usize::from(u16::MAX) {
        return false;
    }
    if let Some(rest) = filter.strip_prefix("$share/") {
        return rest.split_once('/').is_some_and(|(group, plain)| {
            !group.is_empty() && !group.contains(['+', '#', '\0']) && valid_plain(plain)
        });
    }
    valid_plain(filter)
}

/// The plain filter of a shared one, with its group; `None` if it is not shared.
pub fn share(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix("$share/")?.split_once('/')
}

/// Whether a plain, valid filter selects a valid topic. A wildcard in the first level never
/// selects a topic that begins with `$`.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut wanted = filter.split('/');
    let mut given = topic.split('/');
    loop {
        match (wanted.next(), given.next()) {
            // `a/#` selects `a` too, so the rest may be empty.
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(w), Some(g)) if w == g => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

fn valid_plain(filter: &str) -> bool {
    if filter.is_empty() || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let good = match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            other => !other.contains(['+', '#']),
        };
        if !good {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_filters_are_told_apart() {
        for (text, as_topic, as_filter) in [
            ("a", true, true),
            ("a/b", true, true),
            ("/", true, true),
            ("a//b", true, true),
            ("/a/", true, true),
            ("$SYS/x", true, true),
            ("a b", true, true),
            ("", false, false),
            ("a\0b", false, false),
            ("#", false, true),
            ("+", false, true),
            ("a/#", false, true),
            ("+/a/+", false, true),
            ("/+/#", false, true),
            ("a#", false, false),
            ("a/#/b", false, false),
            ("#/", false, false),
            ("a+", false, false),
            ("+a/b", false, false),
            ("a/b#", false, false),
            ("##", false, false),
            ("$share/g/a/#", false, true),
            ("$share/g/", true, false),
            ("$share//a", true, false),
            ("$share/g", true, false),
            ("$share/+/a", false, false),
            ("$share/g/a#", false, false),
        ] {
            assert_eq!((valid_topic(text), valid_filter(text)), (as_topic, as_filter), "{text:?}");
        }
        assert!(!valid_topic(&"a".repeat(65_536)));
        assert!(!valid_filter(&"a".repeat(65_536)));
    }

    #[test]
    fn filters_select_topics() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/", false),
            ("a/b", "a", false),
            ("a/+", "a/b", true),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "a/b", true),
            ("#", "/", true),
            ("+", "a", true),
            ("+", "/a", false),
            ("+/+", "/a", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/+", "$SYS/x", true),
            ("a/+/c/#", "a/b/c", true),
            ("A", "a", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter:?} on {topic:?}");
        }
    }
}
