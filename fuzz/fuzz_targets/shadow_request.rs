//! Any bytes as the payloads of requests to one shadow, a line each: nothing panics, and a
//! shadow that came of it is read back from its own texts.

#![no_main]

use fieldgate::model::thing::ShadowName;
use fieldgate::shadow::{Limits, Operation, Request, Shadow, answer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut shadow = Shadow::absent();
    for (now_s, line) in (0..).zip(bytes.split(|byte| *byte == b'\n')) {
        for operation in Operation::ALL {
            let Ok(request) = Request::parse(operation, line) else { continue };
            // Once without taking it, so that a delete is tried and the document goes on.
            let answer = answer(&shadow, &ShadowName::classic(), &request, now_s, &Limits::default());
            if let Some(next) = answer.next.filter(|_| operation == Operation::Update) {
                shadow = next;
            }
        }
    }
    let (state, times) = (shadow.state_json(), shadow.metadata_json());
    let back = Shadow::restore(&state, &times, shadow.version(), shadow.is_deleted(), shadow.updated());
    assert_eq!(back.as_ref(), Ok(&shadow));
});
