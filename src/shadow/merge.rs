//! PURE: how an accepted patch changes a section and its times.
//!
//! State and times are two trees of the same shape: where the state has a leaf, the times
//! have the epoch second of the last patch that named it. Both are walked together, so they
//! cannot come apart. Objects merge, everything else is replaced whole, `null` removes. An
//! object that lost its last member stays as `{}`, as in the cloud; one that a patch would
//! create out of nothing but nulls is not created; a section without members is none.

use serde_json::Value;

use super::tree::Tree;

/// The time a touched leaf gets: the one its source gave, where it gave one, or else now.
#[derive(Clone, Copy, Debug)]
pub struct When<'a> {
    pub now_s: i64,
    /// Times in the shape of the patch; a mirror hands on what the cloud stamped.
    pub given: Option<&'a Value>,
}

impl<'a> When<'a> {
    pub fn now(now_s: i64) -> Self {
        Self { now_s, given: None }
    }

    fn member(self, name: &str) -> Self {
        Self { given: self.given.and_then(|tree| tree.get(name)), ..self }
    }

    fn element(self, index: usize) -> Self {
        Self { given: self.given.and_then(|tree| tree.get(index)), ..self }
    }

    fn leaf(self) -> i64 {
        self.given.and_then(Value::as_i64).unwrap_or(self.now_s)
    }
}

/// Merges `patch` into a section.
pub fn section(state: &mut Option<Tree>, times: &mut Option<Tree>, patch: &Tree, when: When<'_>) {
    let (mut new_state, mut new_times) = (state.take().unwrap_or_default(), times.take().unwrap_or_default());
    members(&mut new_state, &mut new_times, patch, when);
    if !new_state.is_empty() {
        *state = Some(new_state);
        *times = Some(new_times);
    }
}

fn members(state: &mut Tree, times: &mut Tree, patch: &Tree, when: When<'_>) {
    for (name, value) in patch {
        let when = when.member(name);
        if let (Value::Object(patch), Some(Value::Object(state)), Some(Value::Object(times))) =
            (value, state.get_mut(name), times.get_mut(name))
        {
            members(state, times, patch, when);
            continue;
        }
        match created(value) {
            Some(value) => {
                times.insert(name.clone(), stamped(&value, when));
                state.insert(name.clone(), value);
            }
            None => {
                state.shift_remove(name);
                times.shift_remove(name);
            }
        }
    }
}

/// The same for a state whose times nobody keeps.
pub fn state_only(state: &mut Option<Tree>, patch: &Tree) {
    fn members(state: &mut Tree, patch: &Tree) {
        for (name, value) in patch {
            match (value, state.get_mut(name)) {
                (Value::Object(patch), Some(Value::Object(state))) => members(state, patch),
                _ => match created(value) {
                    Some(value) => drop(state.insert(name.clone(), value)),
                    None => drop(state.shift_remove(name)),
                },
            }
        }
    }
    let mut next = state.take().unwrap_or_default();
    members(&mut next, patch);
    *state = (!next.is_empty()).then_some(next);
}

/// What a value makes where there is no object to merge into: its nulls make nothing.
fn created(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(patch) if patch.is_empty() => Some(value.clone()),
        Value::Object(patch) => {
            let made: Tree =
                patch.iter().filter_map(|(name, value)| Some((name.clone(), created(value)?))).collect();
            (!made.is_empty()).then_some(Value::Object(made))
        }
        _ => Some(value.clone()),
    }
}

fn stamped(value: &Value, when: When<'_>) -> Value {
    match value {
        Value::Object(tree) => {
            let times = tree.iter().map(|(name, value)| (name.clone(), stamped(value, when.member(name))));
            Value::Object(times.collect())
        }
        Value::Array(elements) => {
            let times = elements.iter().enumerate().map(|(i, value)| stamped(value, when.element(i)));
            Value::Array(times.collect())
        }
        _ => Value::from(when.leaf()),
    }
}

/// Times as they are shown: each leaf as `{"timestamp": seconds}`.
pub fn shown(times: &Value) -> Value {
    match times {
        Value::Object(tree) => Value::Object(shown_tree(tree)),
        Value::Array(elements) => Value::Array(elements.iter().map(shown).collect()),
        leaf => {
            let mut tree = Tree::new();
            tree.insert("timestamp".to_owned(), leaf.clone());
            Value::Object(tree)
        }
    }
}

pub fn shown_tree(times: &Tree) -> Tree {
    times.iter().map(|(name, times)| (name.clone(), shown(times))).collect()
}

/// The other way. A member may be called `timestamp` too, but then it is never a number.
pub fn read(metadata: &Value) -> Value {
    match metadata {
        Value::Object(tree) => match tree.get("timestamp") {
            Some(seconds @ Value::Number(_)) => seconds.clone(),
            _ => Value::Object(tree.iter().map(|(name, inner)| (name.clone(), read(inner))).collect()),
        },
        Value::Array(elements) => Value::Array(elements.iter().map(read).collect()),
        other => other.clone(),
    }
}

/// Whether `times` has the shape of `state`, with a whole second at each leaf.
pub fn mirrors(state: &Value, times: &Value) -> bool {
    match (state, times) {
        (Value::Object(state), Value::Object(times)) => mirrors_tree(state, times),
        (Value::Array(state), Value::Array(times)) => {
            state.len() == times.len() && state.iter().zip(times).all(|(state, times)| mirrors(state, times))
        }
        (Value::Object(_) | Value::Array(_) | Value::Null, _) => false,
        (_, times) => times.is_i64(),
    }
}

pub fn mirrors_tree(state: &Tree, times: &Tree) -> bool {
    state.len() == times.len()
        && state.iter().all(|(name, state)| times.get(name).is_some_and(|times| mirrors(state, times)))
}

/// The latest second in a tree of times; `None` where there is no leaf.
pub fn latest(times: &Value) -> Option<i64> {
    match times {
        Value::Object(tree) => tree.values().filter_map(latest).max(),
        Value::Array(elements) => elements.iter().filter_map(latest).max(),
        leaf => leaf.as_i64(),
    }
}
