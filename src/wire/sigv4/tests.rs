use super::*;

const NOON: Timestamp = Timestamp(1_795_608_000_000);
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn keys<'a>(id: &'a str, secret: &'a str, token: Option<&'a str>) -> Keys<'a> {
    Keys { access_key_id: id, secret_access_key: secret, session_token: token }
}

fn check(target: (&str, u16, &str), keys: Keys<'_>, now: i64, expected: &str) {
    let (host, port, region) = target;
    let url = presigned(Target { host, port, region }, keys, Timestamp(now)).unwrap();
    assert_eq!(url.as_str(), expected);
}

/// Signatures by botocore 1.44.8, see `tests/e2e/fixtures/sigv4.py`.
#[test]
fn a_url_is_signed_as_botocore_signs_it() {
    check(
        ("abc-ats.iot.eu-central-1.amazonaws.com", 443, "eu-central-1"),
        keys("AKIDEXAMPLE", SECRET, None),
        NOON.0,
        "wss://abc-ats.iot.eu-central-1.amazonaws.com/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIDEXAMPLE%2F20261125%2Feu-central-1%2Fiotdevicegateway%2Faws4_request\
         &X-Amz-Date=20261125T120000Z&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=ac19bfc8a8390a98dcaf055b66edafa53ef5223601ac12fafe45de1d24b807de",
    );
    // The port is signed when it is not 443; the token changes nothing but the end.
    check(
        ("localhost", 8443, "us-east-1"),
        keys("AKIDEXAMPLE", SECRET, Some("a+b/c=")),
        1_795_651_199_999,
        "wss://localhost:8443/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIDEXAMPLE%2F20261125%2Fus-east-1%2Fiotdevicegateway%2Faws4_request\
         &X-Amz-Date=20261125T235959Z&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=65e704590dc1ef0411e23fa1663d71d1cda033ef8ffc840035d8baecea4eb333\
         &X-Amz-Security-Token=a%2Bb%2Fc%3D",
    );
    check(
        ("gw.example", 443, "cn-north-1"),
        keys("ASIA/+=EXAMPLE", "s", None),
        1_798_761_600_000,
        "wss://gw.example/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=ASIA%2F%2B%3DEXAMPLE%2F20270101%2Fcn-north-1%2Fiotdevicegateway%2Faws4_request\
         &X-Amz-Date=20270101T000000Z&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=260efe528d74a970b33ed61ab7a8494427178c98cbe1b62a51ec018292a32e4b",
    );
}

#[test]
fn nothing_is_signed_while_the_clock_is_not_set() {
    let target = Target { host: "h", port: 443, region: "r" };
    for now in [Timestamp(0), Timestamp(CLOCK_PLAUSIBLE_FROM.0 - 1), Timestamp(i64::MAX)] {
        let refused = presigned(target, keys("a", "b", None), now).unwrap_err();
        assert!(refused.to_string().contains("clock"), "{refused}");
    }
    assert!(presigned(target, keys("a", "b", None), CLOCK_PLAUSIBLE_FROM).is_ok());
}
