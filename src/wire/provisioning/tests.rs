use super::*;

/// Any DER is a certificate to the reader of PEM.
const PEM: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
const FROM_CSR: &str = "$aws/certificates/create-from-csr/json";
const CREATE: &str = "$aws/certificates/create/json";
const REGISTER: &str = "$aws/provisioning-templates/plant_A-1/provision/json";
const NOW: Duration = Duration::from_secs(5);

fn request(csr: bool, allow_cloud_keys: bool) -> Request {
    Request {
        template: "plant_A-1".into(),
        csr_pem: csr.then(|| "the csr".into()),
        parameters: BTreeMap::from([("SerialNumber".into(), "0815".into())]),
        allow_cloud_keys,
    }
}

fn begin(csr: bool, allow_cloud_keys: bool) -> (Provisioning, Step) {
    Provisioning::begin(request(csr, allow_cloud_keys)).unwrap()
}

fn say(step: &Step) -> (String, Value) {
    assert_eq!(step.subscribe, [format!("{}/accepted", step.topic), format!("{}/rejected", step.topic)]);
    (step.topic.clone(), serde_json::from_slice(&step.payload).unwrap())
}

fn created(key: bool) -> Vec<u8> {
    let mut answer = json!({
        "certificateId": "c0ffee", "certificatePem": PEM, "certificateOwnershipToken": "the token",
    });
    if key {
        answer["privateKey"] = json!("the key");
    }
    answer.to_string().into_bytes()
}

fn step(next: Result<Next, ProvisionError>) -> Step {
    match next {
        Ok(Next::Step(step)) => step,
        other => panic!("{other:?} is no step"),
    }
}

fn answer(m: &mut Provisioning, of: &str, outcome: &str, payload: &[u8]) -> Result<Next, ProvisionError> {
    m.answer(&format!("{of}/{outcome}"), payload, NOW)
}

fn done(next: Result<Next, ProvisionError>) -> Provisioned {
    match next {
        Ok(Next::Done(done)) => *done,
        other => panic!("{other:?} is not the end"),
    }
}

/// With its certificate, asking for the registration.
fn registering() -> Provisioning {
    let (mut m, _) = begin(true, false);
    step(answer(&mut m, FROM_CSR, "accepted", &created(false)));
    m
}

#[test]
fn by_signing_request_the_key_never_leaves_the_gateway() {
    let (mut m, first) = begin(true, true);
    assert_eq!(say(&first), (FROM_CSR.into(), json!({ "certificateSigningRequest": "the csr" })));
    // A service that sends a key all the same: it is not ours.
    let second = step(answer(&mut m, FROM_CSR, "accepted", &created(true)));
    let expected = json!({
        "certificateOwnershipToken": "the token", "parameters": { "SerialNumber": "0815" },
    });
    assert_eq!(say(&second), (REGISTER.into(), expected));
    let answered = br#"{"thingName":"gw-7","deviceConfiguration":{"site":"north"}}"#;
    let got = done(answer(&mut m, REGISTER, "accepted", answered));
    assert_eq!(
        (got.thing_name.as_str(), got.certificate_pem.as_str(), got.certificate_id.as_str()),
        ("gw-7", PEM, "c0ffee")
    );
    assert_eq!(got.private_key_pem, None);
    assert_eq!(Value::Object(got.device_configuration), json!({ "site": "north" }));
    assert_eq!(m.step(), None);
}

#[test]
fn the_cloud_makes_the_key_only_when_that_is_allowed() {
    let (mut m, first) = begin(false, true);
    assert_eq!(say(&first), (CREATE.into(), json!({})));
    let second = step(answer(&mut m, CREATE, "accepted", &created(true)));
    assert_eq!(say(&second).0, REGISTER);
    let got = done(answer(&mut m, REGISTER, "accepted", br#"{"thingName":"gw-7"}"#));
    assert_eq!(got.private_key_pem.as_ref().map(|key| key.as_str()), Some("the key"));

    let error = Provisioning::begin(request(false, false)).err().unwrap();
    assert!(matches!(&error, ProvisionError::Fatal { why } if why.contains("not allowed")), "{error}");
}

#[test]
fn a_refused_signing_request_falls_back_only_when_that_is_allowed() {
    let refused = br#"{"statusCode":403,"errorCode":"AccessDenied","errorMessage":"no"}"#;
    let (mut m, _) = begin(true, true);
    assert_eq!(say(&step(answer(&mut m, FROM_CSR, "rejected", refused))).0, CREATE);
    // And not in a circle.
    assert!(matches!(answer(&mut m, CREATE, "rejected", refused), Err(ProvisionError::Fatal { .. })));

    let (mut m, _) = begin(true, false);
    assert!(matches!(answer(&mut m, FROM_CSR, "rejected", refused), Err(ProvisionError::Fatal { .. })));
    // Pressure is no reason to give the key away.
    let busy = br#"{"statusCode":429,"errorCode":"ThrottlingException","errorMessage":"slow"}"#;
    let (mut m, _) = begin(true, true);
    assert!(matches!(answer(&mut m, FROM_CSR, "rejected", busy), Err(ProvisionError::Retryable { .. })));
}

#[test]
fn a_refusal_says_whether_to_ask_again() {
    let check = |payload: &str, retryable: bool, words: &str| {
        let error = answer(&mut registering(), REGISTER, "rejected", payload.as_bytes()).unwrap_err();
        assert_eq!(matches!(error, ProvisionError::Retryable { .. }), retryable, "{payload}");
        assert!(error.to_string().contains(words), "{error}");
    };
    let refusal =
        |n: u16, c: &str| json!({"statusCode": n, "errorCode": c, "errorMessage": "because"}).to_string();
    check(&refusal(403, "AccessDenied"), false, "refused: 403 AccessDenied: because");
    check(&refusal(400, "InvalidParameters"), false, "400 InvalidParameters");
    check(&refusal(404, "ResourceNotFound"), false, "404");
    check(&refusal(400, "InvalidCertificateOwnershipToken"), true, "400");
    check(&refusal(400, "ThrottlingException"), true, "400");
    check(&refusal(429, ""), true, "429");
    check(&refusal(500, "InternalError"), true, "500");
    check(&refusal(503, "ServiceUnavailable"), true, "503");
    check("", false, "without a reason");
    check("<html>", false, "without a reason");
    // What others write goes to a log: no line breaks, no novel.
    check(&json!({"statusCode": 403, "errorMessage": "a\nb"}).to_string(), false, ": ab");
    let long = json!({"statusCode": 403, "errorMessage": "x".repeat(5000)}).to_string();
    let error = answer(&mut registering(), REGISTER, "rejected", long.as_bytes()).unwrap_err();
    assert!(error.to_string().len() < 400);
}

#[test]
fn a_registration_is_repeated_until_its_token_is_an_hour_old() {
    let busy = br#"{"statusCode":500,"errorCode":"InternalError","errorMessage":""}"#;
    let check = |late: Duration, repeatable: bool| {
        let mut m = registering();
        let now = NOW + late;
        assert!(m.answer(&format!("{REGISTER}/rejected"), busy, now).is_err());
        assert_eq!(m.is_registering(), repeatable, "{late:?}");
        assert_eq!(m.step().is_some(), repeatable, "{late:?}");
    };
    check(Duration::ZERO, true);
    check(TOKEN_LIVES - Duration::from_secs(1), true);
    check(TOKEN_LIVES, false);
    let denied = br#"{"statusCode":403}"#;
    let mut m = registering();
    assert!(answer(&mut m, REGISTER, "rejected", denied).is_err());
    assert!(!m.is_registering());
}

#[test]
fn what_answers_another_question_is_nothing() {
    let mut m = registering();
    for topic in [
        "$aws/certificates/create-from-csr/json/accepted",
        "$aws/certificates/create/json/rejected",
        "$aws/provisioning-templates/other/provision/json/accepted",
        "$aws/provisioning-templates/plant_A-1/provision/json",
        "$aws/provisioning-templates/plant_A-1/provision/json/accepted/more",
        "dt/x",
    ] {
        assert_eq!(m.answer(topic, b"{}", NOW), Ok(Next::Wait), "{topic}");
    }
    assert!(m.is_registering());
}

#[test]
fn a_wrong_answer_ends_the_attempt_and_shows_no_secret() {
    let check = |csr: bool, answered: Value, words: &str| {
        let (mut m, first) = begin(csr, true);
        let error = answer(&mut m, &first.topic, "accepted", answered.to_string().as_bytes()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ProvisionError::Fatal { .. }) && text.contains(words), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(m.step(), None);
    };
    let whole = |token: &str, pem: &str| json!({"certificateId": "c", "certificatePem": pem, "certificateOwnershipToken": token});
    check(true, json!("s3cret"), "cannot be read");
    check(true, json!({"privateKey": "s3cret"}), "cannot be read");
    check(true, json!({"privateKey": ["s3cret"], "certificateId": "s3cret"}), "cannot be read");
    check(true, whole("s3cret", "no certificate"), "not PEM");
    check(true, whole("", PEM), "ownership token");
    check(false, whole("s3cret", PEM), "private key");
    let check = |answered: &str, words: &str| {
        let error = answer(&mut registering(), REGISTER, "accepted", answered.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    check("{}", "thingName");
    check(r#"{"thingName":"a/b"}"#, "1 to 128 characters");
}

#[test]
fn secrets_do_not_show() {
    let (mut m, _) = begin(false, true);
    let second = step(answer(&mut m, CREATE, "accepted", &created(true)));
    let got = done(answer(&mut m, REGISTER, "accepted", br#"{"thingName":"gw-7"}"#));
    let text = format!("{second:?} {got:?}");
    assert!(text.contains("gw-7") && text.contains("<redacted>"), "{text}");
    assert!(!text.contains("the token") && !text.contains("the key"), "{text}");
}

#[test]
fn a_template_has_a_short_plain_name() {
    for (name, expected) in [("a", true), ("Plant_A-1", true), ("", false), ("a/b", false), ("ä", false)] {
        assert_eq!(is_template(name), expected, "{name}");
    }
    assert!(is_template(&"x".repeat(36)) && !is_template(&"x".repeat(37)));
    let request = Request { template: "a/+".into(), ..request(true, true) };
    assert!(Provisioning::begin(request).is_err());
}
