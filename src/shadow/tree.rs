//! PURE: trees of JSON values: equal by value, depth, difference, paths.
//!
//! Numbers compare by value, so 1 equals 1.0 and integers beyond 2^53 are told apart; no
//! number equals `true` or a text. Every walk is as deep as its tree, and no tree is deeper
//! than the parser allows (128 levels).

use serde_json::{Map, Number, Value};

/// The members of one object.
pub type Tree = Map<String, Value>;

/// Equal by value: numbers as numbers, objects without order, arrays element by element.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => same_number(a, b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn same_number(a: &Number, b: &Number) -> bool {
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a.as_f64() == b.as_f64(),
        (Some(i), None) => b.as_f64().is_some_and(|f| is_integer(f, i)),
        (None, Some(i)) => a.as_f64().is_some_and(|f| is_integer(f, i)),
    }
}

fn integer(n: &Number) -> Option<i128> {
    n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from))
}

/// The cast saturates far outside of what a 64-bit integer can be, so it cannot lie here.
fn is_integer(f: f64, i: i128) -> bool {
    f.fract() == 0.0 && f as i128 == i
}

/// Levels of containers: the section's own object is the first, a scalar adds none.
pub fn depth(tree: &Tree) -> usize {
    1 + tree.values().map(depth_of).max().unwrap_or(0)
}

fn depth_of(value: &Value) -> usize {
    match value {
        Value::Object(tree) => depth(tree),
        Value::Array(elements) => 1 + elements.iter().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

/// An array is a value, and a value has no holes: `null` anywhere inside one is refused.
pub fn has_null_in_array(tree: &Tree) -> bool {
    fn within(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(elements) => elements.iter().any(within),
            Value::Object(tree) => tree.values().any(within),
            _ => false,
        }
    }
    tree.values().any(|value| match value {
        Value::Array(elements) => elements.iter().any(within),
        Value::Object(tree) => has_null_in_array(tree),
        _ => false,
    })
}

/// What of `desired` is missing in `reported` or differs; `None` when nothing does. Only
/// leaves make a difference: an object without any is nothing that a device could report.
pub fn difference(desired: &Tree, reported: Option<&Tree>) -> Option<Tree> {
    let mut found = Tree::new();
    for (name, wanted) in desired {
        let seen = reported.and_then(|tree| tree.get(name));
        let part = match wanted {
            Value::Object(inner) => difference(inner, seen.and_then(Value::as_object)).map(Value::Object),
            _ if seen.is_some_and(|seen| same(wanted, seen)) => None,
            _ => Some(wanted.clone()),
        };
        if let Some(part) = part {
            found.insert(name.clone(), part);
        }
    }
    (!found.is_empty()).then_some(found)
}

/// The members of `tree` that stand in `of`, leaf by leaf; `null` in `of` picks nothing.
pub fn pick(tree: &Tree, of: &Tree) -> Tree {
    let mut picked = Tree::new();
    for (name, wanted) in of {
        let part = match (wanted, tree.get(name)) {
            (Value::Null, _) | (_, None) => continue,
            (Value::Object(of), Some(Value::Object(inner))) => match pick(inner, of) {
                inner if inner.is_empty() => continue,
                inner => Value::Object(inner),
            },
            (_, Some(value)) => value.clone(),
        };
        picked.insert(name.clone(), part);
    }
    picked
}

/// The value at a path: member names with dots between them, elements of arrays as numbers
/// in brackets, such as `climate.zones[2].setpoint`. A member whose name holds a dot or a
/// bracket has no path.
pub fn at<'a>(tree: &'a Tree, path: &str) -> Option<&'a Value> {
    let mut here: Option<&Value> = None;
    for level in path.split('.') {
        let (name, indices) = level.split_once('[').map_or((level, ""), |(name, _)| {
            let rest = &level[name.len()..];
            (name, rest)
        });
        let members = here.map_or(Some(tree), Value::as_object)?;
        let mut value = members.get(name)?;
        if !indices.is_empty() {
            for index in indices.strip_prefix('[')?.strip_suffix(']')?.split("][") {
                value = value.as_array()?.get(index.parse::<usize>().ok()?)?;
            }
        }
        here = Some(value);
    }
    here
}

/// A tree that holds one value at a path of member names.
pub fn with(path: &str, value: Value) -> Tree {
    let mut levels = path.rsplit('.');
    let mut tree = Tree::new();
    tree.insert(levels.next().unwrap_or_default().to_owned(), value);
    for level in levels {
        let mut outer = Tree::new();
        outer.insert(level.to_owned(), Value::Object(tree));
        tree = outer;
    }
    tree
}
