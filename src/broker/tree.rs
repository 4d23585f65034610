//! Who wants which topic.
//!
//! Constraints: a publish costs as much as its topic has levels, however many filters there
//! are; a filter that nobody holds any more leaves no node behind. Depth is bounded by
//! [`LEVELS_MAX`], for the walk is recursive and the client chooses the filter. Filters and
//! topics come in valid (`topic`), shared ones without their `$share/<group>/`.

use std::collections::{BTreeMap, HashMap};

/// The most levels a filter may have.
pub const LEVELS_MAX: usize = 64;

/// Subscriptions by filter and session.
#[derive(Debug)]
pub struct Tree<V> {
    root: Node<V>,
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        Tree { root: Node::default() }
    }
}

impl<V> Tree<V> {
    /// Enters or replaces; what was there before comes back.
    pub fn insert(&mut self, filter: &str, session: u32, value: V) -> Option<V> {
        debug_assert!(filter.split('/').count() <= LEVELS_MAX, "the caller has looked at the depth");
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = node.below.entry(Box::from(level)).or_default();
        }
        node.here.insert(session, value)
    }

    pub fn remove(&mut self, filter: &str, session: u32) -> Option<V> {
        self.root.remove(filter.split('/'), session)
    }

    /// Calls `found` for each subscription that selects `topic`; a session with overlapping
    /// filters is found once for each.
    pub fn find<'a>(&'a self, topic: &str, found: &mut impl FnMut(u32, &'a V)) {
        // A wildcard in the first level never selects a topic that begins with `$`.
        self.root.find(topic.split('/'), topic.starts_with('$'), found);
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

#[derive(Debug)]
struct Node<V> {
    below: HashMap<Box<str>, Node<V>>,
    /// In the order of the sessions, so that a run can be repeated.
    here: BTreeMap<u32, V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Node { below: HashMap::new(), here: BTreeMap::new() }
    }
}

impl<V> Node<V> {
    fn is_empty(&self) -> bool {
        self.below.is_empty() && self.here.is_empty()
    }

    fn remove<'f>(&mut self, levels: impl Iterator<Item = &'f str>, session: u32) -> Option<V> {
        let mut path = vec![];
        let mut node = &mut *self;
        for level in levels {
            path.push(level);
            node = node.below.get_mut(level)?;
        }
        let removed = node.here.remove(&session)?;
        self.prune(&path);
        Some(removed)
    }

    fn prune(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let Some(child) = self.below.get_mut(*first) else { return };
        child.prune(rest);
        if child.is_empty() {
            self.below.remove(*first);
        }
    }

    fn find<'a, 't, I>(&'a self, mut levels: I, hidden: bool, found: &mut impl FnMut(u32, &'a V))
    where
        I: Iterator<Item = &'t str> + Clone,
    {
        if let Some(rest) = self.below.get("#").filter(|_| !hidden) {
            rest.each(found);
        }
        let Some(level) = levels.next() else { return self.each(found) };
        if let Some(any) = self.below.get("+").filter(|_| !hidden) {
            any.find(levels.clone(), false, found);
        }
        if let Some(exact) = self.below.get(level) {
            exact.find(levels, false, found);
        }
    }

    fn each<'a>(&'a self, found: &mut impl FnMut(u32, &'a V)) {
        for (session, value) in &self.here {
            found(*session, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::topic::{matches, valid_filter};
    use super::*;

    fn filter() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "", "+", "#", "$x"]), 1..5)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("a valid filter", |f| valid_filter(f))
    }

    fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "", "$x"]), 1..5)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("not empty", |t| !t.is_empty())
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_a_plain_search_finds(
            changes in prop::collection::vec((filter(), 0u32..4, any::<bool>()), 0..40),
            topics in prop::collection::vec(topic(), 1..10),
        ) {
            let mut tree = Tree::default();
            let mut list: BTreeMap<(String, u32), usize> = BTreeMap::new();
            for (i, (filter, session, add)) in changes.into_iter().enumerate() {
                if add {
                    prop_assert_eq!(tree.insert(&filter, session, i), list.insert((filter, session), i));
                } else {
                    prop_assert_eq!(tree.remove(&filter, session), list.remove(&(filter, session)));
                }
            }
            for topic in topics {
                let mut found = vec![];
                tree.find(&topic, &mut |session, value| found.push((session, *value)));
                let mut expected: Vec<_> =
                    list.iter().filter(|((f, _), _)| matches(f, &topic)).map(|((_, s), v)| (*s, *v)).collect();
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, expected, "{}", topic);
            }
            for (filter, session) in list.into_keys() {
                tree.remove(&filter, session);
            }
            prop_assert!(tree.is_empty(), "nodes are left: {:?}", tree);
        }
    }
}
