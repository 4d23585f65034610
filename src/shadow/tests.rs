//! What must hold for every document and every request, and the parts that no golden case
//! of `tests/cases/shadow` shows.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::base::Base;
use super::pacer::{IN_FLIGHT_MAX, Pacer, SPACING_MS};
use super::sync::{Owner, Rules, agree, merge, overwritten, patch};
use super::*;
use crate::model::thing::ShadowName;

const NOW_S: i64 = 1_700_000_000;

fn tree(value: Value) -> Tree {
    value.as_object().cloned().unwrap()
}

fn sections(desired: Value, reported: Value) -> Sections {
    Sections::from_tree(tree(json!({"desired": desired, "reported": reported}))).unwrap()
}

fn ask(shadow: &Shadow, update: Update) -> Answer {
    answer(shadow, &ShadowName::classic(), &Request::Update(update), NOW_S, &Limits::default())
}

fn shadow(updates: &[Update]) -> Shadow {
    let next = |shadow: Shadow, update: &Update| ask(&shadow, update.clone()).next.unwrap_or(shadow);
    updates.iter().fold(Shadow::absent(), next)
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4_i64).prop_map(Value::from),
        (0..4_i32).prop_map(|n| Value::from(f64::from(n))),
        any::<u64>().prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec(("[a-d]", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Tree> {
    prop::collection::vec(("[a-d]", value()), 0..4).prop_map(|members| members.into_iter().collect())
}

fn one_patch() -> impl Strategy<Value = Patch> {
    prop_oneof![1 => Just(Patch::Keep), 1 => Just(Patch::Clear), 6 => object().prop_map(Patch::Merge)]
}

fn updates() -> impl Strategy<Value = Vec<Update>> {
    let update = (one_patch(), one_patch()).prop_map(|(desired, reported)| Update::new(desired, reported));
    prop::collection::vec(update, 1..5)
}

/// A document, as any sequence of updates makes it.
fn document() -> impl Strategy<Value = Shadow> {
    updates().prop_map(|updates| shadow(&updates))
}

/// Every leaf with its path; arrays are leaves, objects without any are none.
fn leaves(tree: &Tree, path: &str, found: &mut Vec<(String, Value)>) {
    for (name, value) in tree {
        let path = format!("{path}.{name}");
        match value {
            Value::Object(inner) => leaves(inner, &path, found),
            leaf => found.push((path, leaf.clone())),
        }
    }
}

fn all_leaves(tree: Option<&Tree>) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    leaves(tree.unwrap_or(&Tree::new()), "", &mut found);
    found
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for operation in Operation::ALL {
            if let Ok(request) = Request::parse(operation, &bytes) {
                answer(&Shadow::absent(), &ShadowName::classic(), &request, NOW_S, &Limits::default());
            }
        }
        let _ = Base::from_json(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn json_never_panics(state in value(), version in value(), token in value(), shadow in document()) {
        let payload = json!({"state": state, "version": version, "clientToken": token}).to_string();
        for payload in [payload, json!({"state": {"desired": state}}).to_string()] {
            if let Ok(update) = Request::parse_update(payload.as_bytes()) {
                ask(&shadow, update);
            }
        }
    }

    #[test]
    fn the_times_have_the_shape_of_the_state(shadow in document()) {
        for section in Section::ALL {
            match (shadow.state().get(section), shadow.times().get(section)) {
                (None, None) => {}
                (Some(state), Some(times)) => {
                    prop_assert!(!state.is_empty(), "an empty section is none");
                    prop_assert!(super::merge::mirrors_tree(state, times));
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_stored_is_what_was_kept(shadow in document()) {
        let (state, times) = (shadow.state_json(), shadow.metadata_json());
        let back = Shadow::restore(&state, &times, shadow.version(), shadow.is_deleted(), shadow.updated());
        prop_assert_eq!(back.unwrap(), shadow);
    }

    /// A float that changed by a hair on its way through text would make a difference between
    /// two sides that have none.
    #[test]
    fn a_float_survives_text(number in any::<f64>().prop_filter("JSON has no other", |f| f.is_finite())) {
        let kept = shadow(&[Update::reported(tree(json!({"f": number})))]);
        let back = Shadow::restore(&kept.state_json(), &kept.metadata_json(), 1, false, NOW_S).unwrap();
        prop_assert_eq!(back.get_path(Section::Reported, "f"), Some(&json!(number)));
    }

    #[test]
    fn an_update_says_what_it_was_parsed_from(update in updates()) {
        let request = Request::Update(update[0].clone().with_version(7).with_token("t"));
        prop_assert_eq!(Request::parse(Operation::Update, &request.to_payload()).unwrap(), request);
    }

    #[test]
    fn merging_twice_is_merging_once(shadow in document(), update in updates()) {
        let Some(once) = ask(&shadow, update[0].clone()).next else { return Ok(()) };
        let twice = ask(&once, update[0].clone()).next.unwrap();
        prop_assert_eq!(twice.state(), once.state());
        prop_assert_eq!(twice.version(), once.version() + 1);
    }

    #[test]
    fn the_delta_is_empty_when_every_desired_leaf_is_reported(shadow in document()) {
        let reported = all_leaves(shadow.reported());
        let met = |(path, value): &(String, Value)| {
            reported.iter().any(|(p, v)| p == path && super::tree::same(v, value))
        };
        prop_assert_eq!(shadow.delta().is_none(), all_leaves(shadow.desired()).iter().all(met));
    }

    #[test]
    fn reporting_the_delta_empties_it(shadow in document()) {
        let Some(delta) = shadow.delta() else { return Ok(()) };
        let wide = Limits { size: usize::MAX, ..Limits::default() };
        let report = Request::Update(Update::reported(delta));
        let after = answer(&shadow, &ShadowName::classic(), &report, NOW_S, &wide).next.unwrap();
        prop_assert_eq!(after.delta(), None);
    }

    #[test]
    fn a_new_member_never_makes_it_smaller(shadow in document(), value in value()) {
        let update = Update::reported(tree(json!({"new": value})));
        let Some(next) = ask(&shadow, update).next else { return Ok(()) };
        if shadow.exists() {
            prop_assert!(next.state_json().len() >= shadow.state_json().len());
        }
    }

    #[test]
    fn a_patch_makes_one_document_out_of_another(from in document(), to in document()) {
        let (mut state, to) = (from.state().clone(), to.state().clone());
        for section in Section::ALL {
            let patch = patch(&state.clone(), &to, section);
            state.apply(section, &patch);
        }
        prop_assert!(agree(&state, &to), "{} is not {}", state.to_json(), to.to_json());
    }

    #[test]
    fn a_state_without_times_merges_alike(shadow in document(), update in updates()) {
        let Some(next) = ask(&shadow, update[0].clone()).next else { return Ok(()) };
        let mut state = shadow.state().clone();
        Section::ALL.into_iter().for_each(|section| state.apply(section, update[0].patch(section)));
        prop_assert_eq!(&state, next.state());
    }

    #[test]
    fn where_one_side_changed_that_side_counts(base in document(), side in document()) {
        let (base, side) = (base.state(), side.state());
        for (local, cloud) in [(side, base), (base, side), (side, side)] {
            let merged = merge(local, cloud, base, Rules::default());
            prop_assert!(agree(&merged.state, side), "{} is not {}", merged.state.to_json(), side.to_json());
            prop_assert!(merged.conflicts.is_empty(), "{:?}", merged.conflicts);
        }
    }

    #[test]
    fn every_leaf_of_a_merge_has_an_origin_and_every_loss_a_name(
        base in document(), local in document(), cloud in document()
    ) {
        let (base, local, cloud) = (base.state(), local.state(), cloud.state());
        let merged = merge(local, cloud, base, Rules::default());
        for section in Section::ALL {
            let [base, local, cloud, merged_leaves] =
                [base, local, cloud, &merged.state].map(|state| all_leaves(state.get(section)));
            for leaf in &merged_leaves {
                prop_assert!(local.contains(leaf) || cloud.iter().any(|c| c.0 == leaf.0 && super::tree::same(&c.1, &leaf.1)));
            }
            let named = |path: &str| {
                merged.conflicts.iter().any(|c| {
                    let at = format!(".{}", c.path.join("."));
                    c.section == section && (path == at || path.starts_with(&format!("{at}.")) || at.starts_with(&format!("{path}.")))
                })
            };
            for (path, value) in local.iter().chain(&cloud) {
                let is = |leaves: &[(String, Value)]| leaves.iter().any(|(p, v)| p == path && super::tree::same(v, value));
                let new = !is(&base);
                prop_assert!(!new || is(&merged_leaves) || named(path), "{path} is lost in silence");
            }
        }
    }

    #[test]
    fn a_base_survives_the_store(shadow in document(), version in any::<u64>(), exists in any::<bool>()) {
        let base = Base {
            state: shadow.state().clone(),
            cloud_exists: exists,
            cloud_version: version,
            local_version: shadow.version(),
        };
        prop_assert_eq!(Base::from_json(&base.to_json()).unwrap(), base);
    }
}

#[test]
fn both_keep_their_members_where_the_base_has_no_object() {
    let base = Sections::default();
    let local = sections(json!({"o": {"x": 1}}), json!({"r": {"p": 1}}));
    let cloud = sections(json!({"o": {"y": 2}}), json!({"r": {"q": 2}}));
    let merged = merge(&local, &cloud, &base, Rules::default());
    assert!(agree(&merged.state, &sections(json!({"o": {"x": 1, "y": 2}}), json!({"r": {"p": 1, "q": 2}}))));
    assert_eq!(merged.conflicts, []);
}

#[test]
fn the_owner_of_a_section_decides_and_the_path_is_named() {
    let base = sections(json!({"o": {"x": 0}}), json!({"o": {"x": 0}}));
    let local = sections(json!({"o": {"x": 1}}), json!({"o": {"x": 1}}));
    let cloud = sections(json!({"o": {"x": 2}}), json!({"o": {"x": 2}}));
    let check = |rules: Rules, desired: i32, reported: i32| {
        let merged = merge(&local, &cloud, &base, rules);
        let expected = sections(json!({"o": {"x": desired}}), json!({"o": {"x": reported}}));
        assert!(agree(&merged.state, &expected), "{rules:?}: {}", merged.state.to_json());
        merged.conflicts.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let named = check(Rules::default(), 2, 1);
    assert_eq!(
        named,
        [
            "desired.o.x was changed on both sides; the value of the cloud was kept",
            "reported.o.x was changed on both sides; the value of the device was kept",
        ]
    );
    check(Rules { desired: Owner::Device, reported: Owner::Cloud }, 1, 2);
}

#[test]
fn a_removal_is_a_change_like_another() {
    let base = sections(json!({"a": 1, "b": 1}), json!({}));
    let local = sections(json!({"b": 2}), json!({}));
    let cloud = sections(json!({"a": 1}), json!({}));
    let merged = merge(&local, &cloud, &base, Rules::default());
    assert!(merged.state.is_empty(), "{}", merged.state.to_json());
    assert_eq!(merged.conflicts.len(), 1, "b was changed here and removed there");
    let lost = overwritten(&local, &cloud, &base, Owner::Cloud);
    assert_eq!(lost.iter().map(|c| c.path.join(".")).collect::<Vec<_>>(), ["b", "a"]);
}

#[test]
fn a_desired_value_has_the_time_its_source_gave() {
    let times = sections(json!({"o": {"list": [5, 9]}, "a": 3}), json!({}));
    let update = Update::desired(tree(json!({"o": {"list": [1, 2]}, "a": 1, "b": 1}))).with_times(&times);
    let shadow = shadow(&[update]);
    let check = |path: &str, expected: Option<i64>| assert_eq!(shadow.desired_time(path), expected, "{path}");
    check("a", Some(3));
    check("b", Some(NOW_S));
    check("o.list", Some(9));
    check("o.list[0]", Some(5));
    check("o", Some(9));
    check("o.list[2]", None);
    check("nowhere.at.all", None);
    assert_eq!(shadow.get_path(Section::Desired, "o.list[1]"), Some(&json!(2)));
}

#[test]
fn metadata_may_have_a_member_named_timestamp() {
    let shadow =
        shadow(&[Update::reported(tree(json!({"timestamp": 5, "o": {"timestamp": {"timestamp": 1}}})))]);
    let shown = super::merge::shown_tree(shadow.times().reported.as_ref().unwrap());
    let back = super::merge::read(&Value::Object(shown));
    assert_eq!(&back, &Value::Object(shadow.times().reported.clone().unwrap()));
}

#[test]
fn damaged_rows_are_refused_with_a_reason() {
    let check = |state: &str, times: &str, reason: &str| {
        let error = Shadow::restore(state, times, 1, false, 0).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    };
    check("{", "{}", "the stored state of a shadow is damaged");
    check(r#"{"desired":[]}"#, "{}", "desired is not an object");
    check(r#"{"desired":{"a":1}}"#, "{}", "does not fit the state in desired");
    check(r#"{"desired":{"a":1}}"#, r#"{"desired":{"a":"x"}}"#, "does not fit the state in desired");
    check(r#"{"reported":{"a":[1]}}"#, r#"{"reported":{"a":[1,2]}}"#, "does not fit the state in reported");
}

#[test]
fn the_list_of_shadows_goes_page_by_page() {
    let names: Vec<_> = ["c", "", "a", "$p", "b"].map(|n| ShadowName::parse(n).unwrap()).into();
    let page = |size, token: Option<&str>| {
        list_named(&names, size, token, 7).map(|payload| String::from_utf8(payload).unwrap())
    };
    assert_eq!(page(Some(2), None).unwrap(), r#"{"results":["$p","a"],"nextToken":"a","timestamp":7}"#);
    assert_eq!(page(Some(2), Some("a")).unwrap(), r#"{"results":["b","c"],"timestamp":7}"#);
    assert_eq!(page(None, None).unwrap(), r#"{"results":["$p","a","b","c"],"timestamp":7}"#);
    assert_eq!(list_named(&[], None, None, 7).unwrap(), br#"{"results":[],"timestamp":7}"#);
    assert_eq!(page(Some(0), None).unwrap_err().code, 400);
    assert_eq!(page(Some(101), None).unwrap_err().code, 400);
    assert_eq!(page(None, Some("a/b")).unwrap_err().code, 400);
}

#[test]
fn suffixes_read_back() {
    for kind in Kind::ALL {
        assert_eq!(Kind::parse(kind.suffix()), Some(kind));
    }
    for operation in Operation::ALL {
        assert_eq!(Operation::parse(operation.suffix()), Some(operation));
    }
    assert_eq!(Kind::parse("update"), None);
    assert_eq!(Operation::parse("update/accepted"), None);
}

#[test]
fn the_pacer_keeps_both_limits_and_is_fair() {
    let mut pacer = Pacer::new();
    for round in 0..3 {
        (0..25).for_each(|key| pacer.want(key));
        assert_eq!(pacer.waiting(), 25, "each stands once, round {round}");
    }
    let first: Vec<i32> = std::iter::from_fn(|| pacer.next(0)).collect();
    assert_eq!(first, (0..10).collect::<Vec<_>>());
    assert_eq!((pacer.in_flight(), pacer.wake_at()), (IN_FLIGHT_MAX, None));
    pacer.done(&3);
    pacer.want(3);
    assert_eq!(pacer.next(0), Some(10), "who was served goes to the end");
    assert_eq!(pacer.next(0), None);

    let mut one = Pacer::new();
    one.want("meter");
    assert_eq!(one.next(100), Some("meter"));
    one.done(&"meter");
    one.want("meter");
    assert_eq!((one.next(100 + SPACING_MS - 1), one.wake_at()), (None, Some(100 + SPACING_MS)));
    assert_eq!(one.next(100 + SPACING_MS), Some("meter"));
    one.clear();
    assert_eq!((one.in_flight(), one.waiting(), one.wake_at()), (0, 0, None));
}
