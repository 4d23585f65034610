//! PURE: one request, one shadow, one time → the next shadow and the messages about it.
//!
//! The order of the checks is that of the cloud: (names and rights, by the caller) → the
//! request itself ([`super::request`]) → depth → nodes → version → merge → size. Nothing
//! changes on a refusal. The messages of an update stand in the order delta, documents,
//! accepted; no receiver may rely on it.

use serde_json::Value;

use super::document::{Section, Sections, Shadow};
use super::error::Rejected;
use super::merge;
use super::message::{Kind, Message, Operation, Payload};
use super::request::{Limits, Patch, Request, Update};
use super::tree::{self, Tree};
use crate::model::thing::ShadowName;

/// The most names in one page of the list of shadows.
pub const PAGE_MAX: usize = 100;
pub const PAGE_DEFAULT: usize = 25;

/// What comes of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The shadow to commit, before any message leaves; `None` when nothing changed.
    pub next: Option<Shadow>,
    /// The reply to the request stands last.
    pub messages: Vec<Message>,
    /// Why nothing was done; the same as the rejected message says.
    pub rejected: Option<Rejected>,
}

impl Answer {
    /// For a caller who asked over HTTP or the command line: the accepted payload, or why not.
    pub fn outcome(&self) -> Result<&[u8], &Rejected> {
        match &self.rejected {
            Some(rejected) => Err(rejected),
            None => Ok(self.messages.last().map_or(&[], |message| message.payload.as_slice())),
        }
    }
}

/// Answers a request. `now_s` is the epoch second that touched leaves get.
pub fn answer(shadow: &Shadow, name: &ShadowName, request: &Request, now_s: i64, limits: &Limits) -> Answer {
    let done = match request {
        Request::Update(update) => self::update(shadow, update, now_s, limits),
        _ if shadow.is_deleted() => Err(Rejected::no_shadow(name)),
        Request::Get { token } => {
            let message = document(shadow, now_s, token.as_deref());
            Ok(Answer { next: None, messages: vec![message], rejected: None })
        }
        Request::Delete { token } => {
            let payload = Payload::default().put("version", shadow.version());
            let message = payload.close(Kind::DeleteAccepted, now_s, token.as_deref());
            Ok(Answer { next: Some(shadow.deleted_at(now_s)), messages: vec![message], rejected: None })
        }
    };
    done.unwrap_or_else(|rejected| {
        let rejected = rejected.with_token(request.token());
        let message = refuse(request.operation(), &rejected, now_s);
        Answer { next: None, messages: vec![message], rejected: Some(rejected) }
    })
}

/// The message that says a refusal, also of what never became a request.
pub fn refuse(operation: Operation, rejected: &Rejected, now_s: i64) -> Message {
    Payload::default().put("code", rejected.code).put("message", rejected.message.as_str()).close(
        operation.rejected(),
        now_s,
        rejected.token.as_deref(),
    )
}

fn update(shadow: &Shadow, update: &Update, now_s: i64, limits: &Limits) -> Result<Answer, Rejected> {
    let patches = || Section::ALL.into_iter().filter_map(|s| merged(update, s));
    if patches().any(|patch| tree::depth(patch) > limits.depth) {
        return Err(Rejected::too_deep(limits.depth));
    }
    if patches().any(tree::has_null_in_array) {
        return Err(Rejected::invalid_node());
    }
    match update.version() {
        Some(version) if shadow.exists() && version != shadow.version() => return Err(Rejected::conflict()),
        // Who names a version of a document that is not there can only mean the first one.
        Some(version) if shadow.is_deleted() && version != 1 => return Err(Rejected::invalid_version()),
        _ => {}
    }
    let next = shadow.updated_by(update, now_s);
    if next.state_json().len() > limits.size {
        return Err(Rejected::too_large());
    }
    let token = update.token();
    let mut messages = Vec::with_capacity(3);
    messages.extend(delta(&next, now_s, token));
    messages.push(documents(shadow, &next, now_s, token));
    messages.push(accepted(update, &next, now_s));
    Ok(Answer { next: Some(next), messages, rejected: None })
}

fn merged(update: &Update, section: Section) -> Option<&Tree> {
    match update.patch(section) {
        Patch::Merge(tree) => Some(tree),
        Patch::Keep | Patch::Clear => None,
    }
}

fn shown(times: &Sections) -> Tree {
    let shown = |tree: &Option<Tree>| tree.as_ref().map(merge::shown_tree);
    Sections { desired: shown(&times.desired), reported: shown(&times.reported) }.to_tree()
}

/// The answer to a get: the document with its delta under `state`, whose times are those of
/// desired and therefore not said twice.
fn document(shadow: &Shadow, now_s: i64, token: Option<&str>) -> Message {
    let mut state = shadow.state().to_tree();
    if let Some(delta) = shadow.delta() {
        state.insert("delta".to_owned(), Value::Object(delta));
    }
    Payload::default()
        .put("state", state)
        .put("metadata", shown(shadow.times()))
        .put("version", shadow.version())
        .close(Kind::GetAccepted, now_s, token)
}

/// All that is desired and not reported, whatever this update touched.
fn delta(shadow: &Shadow, now_s: i64, token: Option<&str>) -> Option<Message> {
    let delta = shadow.delta()?;
    let times = shadow.times().desired.as_ref().map(|times| tree::pick(times, &delta)).unwrap_or_default();
    let payload = Payload::default()
        .put("state", delta)
        .put("metadata", merge::shown_tree(&times))
        .put("version", shadow.version());
    Some(payload.close(Kind::Delta, now_s, token))
}

fn documents(before: &Shadow, after: &Shadow, now_s: i64, token: Option<&str>) -> Message {
    let document = |shadow: &Shadow| {
        let mut tree = Tree::new();
        tree.insert("state".to_owned(), Value::Object(shadow.state().to_tree()));
        tree.insert("metadata".to_owned(), Value::Object(shown(shadow.times())));
        tree.insert("version".to_owned(), shadow.version().into());
        Value::Object(tree)
    };
    Payload::default()
        .put("previous", if before.exists() { document(before) } else { Value::Null })
        .put("current", document(after))
        .close(Kind::Documents, now_s, token)
}

/// Echoes what was asked for, nulls included, with the times of what is there now.
fn accepted(update: &Update, next: &Shadow, now_s: i64) -> Message {
    let mut metadata = Tree::new();
    for section in Section::ALL {
        let (Some(patch), Some(times)) = (merged(update, section), next.times().get(section)) else {
            continue;
        };
        let touched = tree::pick(times, patch);
        if !touched.is_empty() {
            metadata.insert(section.name().to_owned(), Value::Object(merge::shown_tree(&touched)));
        }
    }
    Payload::default()
        .put("state", update.echo())
        .put("metadata", metadata)
        .put("version", next.version())
        .close(Kind::UpdateAccepted, now_s, update.token())
}

/// One page of the named shadows of a thing, as HTTP and the command line answer it. The
/// classic shadow has no name and is not among them; a thing without shadows has an empty
/// list. The token of the next page is the last name of this one, so a page goes on rightly
/// whatever is made or deleted between two calls.
pub fn list_named<'a>(
    names: impl IntoIterator<Item = &'a ShadowName>,
    page_size: Option<usize>,
    next_token: Option<&str>,
    now_s: i64,
) -> Result<Vec<u8>, Rejected> {
    let page_size = page_size.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&page_size) {
        return Err(Rejected::new(400, format!("Invalid pageSize; it takes 1 to {PAGE_MAX}")));
    }
    let after = next_token.unwrap_or_default();
    if ShadowName::parse(after).is_err() {
        return Err(Rejected::new(400, "Invalid nextToken"));
    }
    let mut names: Vec<&str> =
        names.into_iter().map(ShadowName::as_str).filter(|name| *name > after).collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len() > page_size;
    names.truncate(page_size);
    let mut tree = Tree::new();
    tree.insert("results".to_owned(), names.clone().into());
    if let Some(last) = names.last().filter(|_| more) {
        tree.insert("nextToken".to_owned(), (*last).into());
    }
    tree.insert("timestamp".to_owned(), now_s.into());
    Ok(Value::Object(tree).to_string().into_bytes())
}
