//! Golden cases of the device shadow, one folder of `tests/cases/shadow` for each rule of the
//! service. `script.json` says what clients publish to `$aws/things/T/shadow/<topic>` and at
//! which epoch second; `expected.json` what the service publishes in answer.
//! `UPDATE=1 cargo test --test shadow` rewrites the expectations.
//!
//! A step's `payload` is JSON; `text` is sent as it is, `hex` as bytes; `fill` pads the
//! member `pad` until the payload's state has so many bytes.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};

use fieldgate::model::thing::ShadowName;
use fieldgate::shadow::{Limits, Message, Operation, Request, Shadow, answer, refuse};
use serde_json::{Value, json};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/shadow")
}

fn payload(step: &Value) -> Vec<u8> {
    if let Some(hex) = step["hex"].as_str() {
        let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        return digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    }
    if let Some(text) = step["text"].as_str() {
        return text.as_bytes().to_vec();
    }
    let Some(fill) = step["fill"].as_u64() else {
        return step.get("payload").map(|payload| payload.to_string().into_bytes()).unwrap_or_default();
    };
    let state = |pad: usize| json!({"reported": {"pad": "x".repeat(pad)}});
    let pad = fill as usize - state(0).to_string().len();
    json!({"state": state(pad)}).to_string().into_bytes()
}

fn ask(shadow: &mut Shadow, name: &ShadowName, limits: &Limits, step: &Value) -> Vec<Message> {
    let now_s = step["at"].as_i64().unwrap();
    let operation = Operation::parse(step["topic"].as_str().unwrap()).unwrap();
    match Request::parse(operation, &payload(step)) {
        Err(rejected) => vec![refuse(operation, &rejected, now_s)],
        Ok(request) => {
            let answer = answer(shadow, name, &request, now_s, limits);
            if let Some(next) = answer.next {
                *shadow = next;
            }
            answer.messages
        }
    }
}

/// One message a line, so that a difference is one line.
fn shown(message: &Message) -> String {
    let payload = String::from_utf8(message.payload.clone()).unwrap();
    let padding = "x".repeat(100);
    let payload = match payload.find(&padding) {
        Some(at) => {
            let rest = payload[at..].trim_start_matches('x');
            format!("{}…{} times x…{rest}", &payload[..at], payload[at..].len() - rest.len())
        }
        None => payload,
    };
    let payload = if payload.contains('…') { Value::from(payload).to_string() } else { payload };
    format!("    {{\"topic\": \"{}\", \"payload\": {payload}}}", message.kind.suffix())
}

fn outcome(case: &Path) -> String {
    let script: Value = serde_json::from_slice(&fs::read(case.join("script.json")).unwrap()).unwrap();
    let name = ShadowName::parse(script["shadow"].as_str().unwrap_or_default()).unwrap();
    let mut shadow = Shadow::absent();
    let steps: Vec<String> = script["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            let messages = ask(&mut shadow, &name, &Limits::default(), step);
            messages.iter().map(shown).collect::<Vec<_>>().join(",\n")
        })
        .collect();
    format!("[\n  [\n{}\n  ]\n]\n", steps.join("\n  ],\n  [\n"))
}

#[test]
fn every_case_is_answered_as_expected() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    let mut folders: Vec<PathBuf> = fs::read_dir(cases()).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 20, "the cases have gone: {folders:?}");
    for case in folders {
        let found = outcome(&case);
        serde_json::from_str::<Value>(&found).unwrap();
        let file = case.join("expected.json");
        if update {
            fs::write(&file, &found).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{}\n--- expected\n{expected}--- found\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
