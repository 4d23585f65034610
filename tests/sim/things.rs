//! What must hold of things in every world once it is at rest.
//!
//! | check | what it says |
//! |---|---|
//! | `chain` | the audit log verifies |
//! | `audited` | each write that reached a unit has an entry of its own, from before |
//! | `wanted` | no write reached a unit that a request or command does not want |
//! | `stale` | none reached it after its expiry, or long after something else was wanted |
//! | `twice` | a command reached its unit at most once, and has one answer for ever |
//! | `told` | what the gateway acknowledged it answered |
//! | `settled` | in the calm desired = unit = reported, or the member's state says why not |
//! | `idle` | in the calm nobody writes what is true already |
//! | `converge` | the cloud's shadows equal those here (dialect aws) |
//! | `kept` | what was accepted last, or set by the cloud, is what is desired in the end |
//! | `version` | no version ever goes back |

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Value, json};

use fieldgate::shadow::sync::agree;
use fieldgate::shadow::{Section, Shadow};

use crate::plant::DEVICES;
use crate::service::{Asked, Dialect, Said, What};
use crate::setup::EXPIRY;
use crate::units::{LIM, LIMIT, PULSE, SET, WRITABLE, Written};
use crate::world::{BASE, Things};

/// From the decision to write to the frame: a commit while the disk stands still, a port
/// that does not open, other writes of the line.
const SLACK: Duration = Duration::from_secs(10);
/// Before the lines are closed everything has been at rest for this long.
const REST: Duration = Duration::from_secs(8);

pub fn judge(t: &Things) -> Vec<String> {
    let mut complaints: Vec<String> = t.broken.iter().map(|why| format!("chain: {why}")).collect();
    complaints.extend(audited(t));
    complaints.extend(wanted(t));
    complaints.extend(twice(t));
    complaints.extend(told(t));
    complaints.extend(settled(t));
    complaints.extend(kept(t));
    complaints.extend(version(t));
    if t.dialect == Dialect::Aws {
        complaints.extend(converge(t));
    }
    complaints
}

/// The time on the wall of the simulated world, in seconds since 1970.
fn since(seconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(seconds * 1000 - BASE.0).unwrap_or_default())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn audited(t: &Things) -> Vec<String> {
    let mut sent: HashMap<(&str, &str, u64), usize> = HashMap::new();
    for entry in t.audit.iter().filter(|e| e["outcome"] == "sent") {
        let new = entry["new"].as_u64().unwrap_or_default();
        *sent.entry((text(entry, "thing"), text(entry, "point"), new)).or_default() += 1;
    }
    let mut complaints = Vec::new();
    for w in t.written.iter().filter(|w| !w.busy) {
        let left = sent.entry((DEVICES[w.device].0, WRITABLE[w.point].0, u64::from(w.value))).or_default();
        match left.checked_sub(1) {
            Some(less) => *left = less,
            None => complaints.push(format!("audited: no entry for {w:?}")),
        }
    }
    complaints
}

/// What was accepted of one member, by the versions of the shadow.
struct Wish {
    version: u64,
    /// Seconds since 1970, by the gateway.
    at_s: i64,
    value: Option<u16>,
}

/// By device and point, in the order of versions; dialect plain.
fn wishes(t: &Things) -> BTreeMap<(usize, usize), Vec<Wish>> {
    let by_token: HashMap<&str, &Asked> = t.asked.iter().map(|a| (a.token.as_str(), a)).collect();
    let mut wishes: BTreeMap<(usize, usize), Vec<Wish>> = BTreeMap::new();
    for said in t.said.iter().filter(|s| s.topic.ends_with("/update/accepted")) {
        let Some(asked) = by_token.get(text(&said.payload, "clientToken")) else { continue };
        let What::Desired(points) = &asked.what else { continue };
        for (point, value) in points {
            wishes.entry((asked.device, *point)).or_default().push(Wish {
                version: said.payload["version"].as_u64().unwrap_or_default(),
                at_s: said.payload["timestamp"].as_i64().unwrap_or_default(),
                value: *value,
            });
        }
    }
    wishes.values_mut().for_each(|all| all.sort_by_key(|w| w.version));
    wishes
}

fn wanted(t: &Things) -> Vec<String> {
    let wishes = wishes(t);
    t.written.iter().filter_map(|w| why_not(t, &wishes, w)).collect()
}

fn why_not(t: &Things, wishes: &BTreeMap<(usize, usize), Vec<Wish>>, w: &Written) -> Option<String> {
    let wants = |a: &&Asked| match &a.what {
        _ if a.device != w.device || a.at > w.at => false,
        What::Desired(points) => points.contains(&(w.point, Some(w.value))),
        What::Command { value, .. } => w.point == PULSE && *value == w.value,
        What::Nonsense | What::Get => false,
    };
    let Some(asked) = t.asked.iter().find(wants) else {
        return Some(format!("wanted: nobody wants {w:?}"));
    };
    if let What::Command { expires, .. } = asked.what {
        let late = expires.is_some_and(|s| w.at > since(s) + SLACK);
        return late.then(|| format!("stale: {w:?} is late for {asked:?}"));
    }
    let ages = t.ages && w.point == SET;
    let second = Duration::from_secs(1);
    if t.dialect == Dialect::Aws {
        let late = ages && w.at > asked.at + second + EXPIRY + SLACK;
        return late.then(|| format!("stale: {w:?} is late for {asked:?}"));
    }
    let none = Vec::new();
    let all = wishes.get(&(w.device, w.point)).unwrap_or(&none);
    let fits = |(n, wish): (usize, &Wish)| {
        let next = all.get(n + 1);
        wish.value == Some(w.value)
            && since(wish.at_s) <= w.at
            && next.is_none_or(|next| w.at <= since(next.at_s) + second + SLACK)
            && (!ages || w.at <= since(wish.at_s) + second + EXPIRY + SLACK)
    };
    let fits = all.iter().enumerate().any(fits);
    (!fits).then(|| format!("stale: {w:?} is not what is desired then, {asked:?}"))
}

fn answers<'a>(t: &'a Things, id: &'a str) -> impl Iterator<Item = &'a Said> {
    t.said.iter().filter(move |s| s.topic.ends_with("/answer") && text(&s.payload, "id") == id)
}

fn twice(t: &Things) -> Vec<String> {
    let mut complaints = Vec::new();
    for asked in &t.asked {
        let What::Command { value, .. } = asked.what else { continue };
        let writes: Vec<&Written> = t
            .written
            .iter()
            .filter(|w| !w.busy && (w.device, w.point, w.value) == (asked.device, PULSE, value))
            .collect();
        if writes.len() > 1 {
            complaints.push(format!("twice: {asked:?}: {writes:?}"));
        }
        let mut states: Vec<&str> = answers(t, &asked.token).map(|s| text(&s.payload, "state")).collect();
        states.dedup();
        if states.len() > 1 {
            complaints.push(format!("twice: {asked:?} was answered {states:?}"));
        }
        let code = answers(t, &asked.token).any(|s| s.payload["code"].is_u64());
        let taken = writes.iter().filter(|w| w.taken).count();
        let fits = match states.first() {
            Some(&"accepted") => taken == 1,
            Some(&"rejected") if code => taken == 0,
            Some(&("rejected" | "expired")) => writes.is_empty(),
            _ => true,
        };
        if !fits {
            complaints.push(format!("twice: {asked:?} was answered {states:?}, done: {writes:?}"));
        }
    }
    complaints
}

fn told(t: &Things) -> Vec<String> {
    let mut complaints = Vec::new();
    for asked in t.asked.iter().filter(|a| a.acked.is_some()) {
        let said = |end: &str| {
            let fits = |s: &&Said| text(&s.payload, "clientToken") == asked.token;
            t.said.iter().filter(|s| s.topic.ends_with(end)).any(|s| fits(&s))
        };
        let is_told = match asked.what {
            What::Desired(_) => said("/update/accepted"),
            What::Nonsense => said("/update/rejected") && !said("/update/accepted"),
            What::Get => said("/get/accepted") || said("/get/rejected"),
            What::Command { .. } => answers(t, &asked.token).next().is_some(),
        };
        if !is_told {
            complaints.push(format!("told: {asked:?}"));
        }
    }
    complaints
}

fn settled(t: &Things) -> Vec<String> {
    let mut complaints = Vec::new();
    let absent = Shadow::absent();
    for (device, (thing, ..)) in DEVICES.iter().enumerate() {
        let shadow = t.settled.shadows.get(&((*thing).into(), String::new())).unwrap_or(&absent);
        for (point, (name, _)) in WRITABLE.iter().enumerate().take(PULSE) {
            let member = t.settled.members.get(&((*thing).into(), (*name).into()));
            let desired = shadow.get_path(Section::Desired, name);
            let reported = shadow.get_path(Section::Reported, name);
            let holds = u64::from(t.registers[device][point]);
            let fits = match (desired, member) {
                (None, None) => true,
                (Some(desired), Some(member)) if member["wanted"] == *desired => {
                    let state = &member["state"];
                    let over = point == LIM && desired.as_u64() > Some(u64::from(LIMIT));
                    match state
                        .as_str()
                        .or(state.as_object().and_then(|o| o.keys().next().map(|k| k.as_str())))
                    {
                        Some("verified") => desired.as_u64() == Some(holds) && reported == Some(desired),
                        Some("expired") => point == SET && t.ages,
                        Some("accepted") => over,
                        Some("rejected") => point == crate::units::REF,
                        // What is refused or clamped is tried again now and then.
                        Some("sent") => over || point == crate::units::REF,
                        _ => false,
                    }
                }
                _ => false,
            };
            if !fits || reported != Some(&json!(holds)) {
                complaints.push(format!(
                    "settled: {thing} {name}: {desired:?} is desired, {reported:?} reported, the unit has {holds}, {member:?}"
                ));
            }
        }
    }
    let busy = |w: &&Written| w.point == SET && w.at <= t.settled.at && w.at + REST > t.settled.at;
    complaints.extend(t.written.iter().filter(busy).map(|w| format!("idle: {w:?}")));
    complaints
}

fn kept(t: &Things) -> Vec<String> {
    let last = t.shelves.last().map(|shelf| &shelf.shadows);
    let desired = |shadows: Option<&BTreeMap<(String, String), Shadow>>, device: usize, point: usize| {
        let shadow = shadows?.get(&(DEVICES[device].0.to_owned(), String::new()))?;
        shadow.get_path(Section::Desired, WRITABLE[point].0)?.as_u64()
    };
    let mut complaints = Vec::new();
    let mut check = |device: usize, point: usize, is: Option<u64>, should: Option<u16>| {
        if is != should.map(u64::from) {
            let (thing, point) = (DEVICES[device].0, WRITABLE[point].0);
            complaints.push(format!("kept: {thing} {point} is desired as {is:?}, wanted was {should:?}"));
        }
    };
    match t.dialect {
        Dialect::Plain => {
            for ((device, point), all) in wishes(t) {
                let should = all.last().and_then(|wish| wish.value);
                check(device, point, desired(last, device, point), should);
            }
        }
        Dialect::Aws => {
            for (device, wanted) in t.wanted.iter().enumerate() {
                for point in 0..PULSE {
                    check(device, point, desired(Some(&t.cloud), device, point), wanted.get(&point).copied());
                }
            }
        }
    }
    complaints
}

fn converge(t: &Things) -> Vec<String> {
    let none = BTreeMap::new();
    let here = t.shelves.last().map_or(&none, |shelf| &shelf.shadows);
    let absent = Shadow::absent();
    let mut keys: Vec<_> = here.keys().chain(t.cloud.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut complaints = Vec::new();
    for key in keys {
        let (here, cloud) = (here.get(key).unwrap_or(&absent), t.cloud.get(key).unwrap_or(&absent));
        // The order of members and empty objects are no difference.
        if here.exists() != cloud.exists() || !agree(here.state(), cloud.state()) {
            let (here, cloud) = (here.state_json(), cloud.state_json());
            complaints.push(format!("converge: {key:?}: here {here}, in the cloud {cloud}"));
        }
    }
    if t.cloud.is_empty() {
        complaints.push("converge: the cloud has no shadow".to_owned());
    }
    complaints
}

fn version(t: &Things) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut known: BTreeMap<&(String, String), u64> = BTreeMap::new();
    for shelf in &t.shelves {
        for (key, shadow) in &shelf.shadows {
            let before = known.insert(key, shadow.version()).unwrap_or_default();
            if before > shadow.version() {
                complaints.push(format!("version: {key:?} had {before} and has {}", shadow.version()));
            }
        }
        for key in known.keys().filter(|key| !shelf.shadows.contains_key(**key)) {
            complaints.push(format!("version: {key:?} is gone"));
        }
    }
    complaints
}
