use std::collections::{BTreeMap, VecDeque};

use super::*;

const PEM: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
const FROM_CSR: &str = "$aws/certificates/create-from-csr/json";
const CREATE: &str = "$aws/certificates/create/json";
const REGISTER: &str = "$aws/provisioning-templates/plant/provision/json";

/// How the far end meets one publish.
enum Far {
    Accepted(String),
    Rejected(u16),
    /// Something else arrives, then the answer.
    After(&'static str, Box<Far>),
    /// The broker refuses the publish.
    Forbidden(&'static str),
    Silent,
    End(LinkError),
}

#[derive(Default)]
struct Script {
    far: VecDeque<Far>,
    refuse_subscription: Option<&'static str>,
    refuse_login: Option<LinkError>,
    deaf: bool,
    trace: Vec<String>,
    subscribed: Vec<String>,
    arrivals: VecDeque<Result<Heard, LinkError>>,
}

impl Script {
    fn meet(&mut self, topic: &str, far: Far) {
        let answer = |outcome: &str, text: String| {
            assert!(self.subscribed.contains(&format!("{topic}/{outcome}")), "nobody would hear {outcome}");
            Ok(message(&format!("{topic}/{outcome}"), &text))
        };
        match far {
            Far::Accepted(text) => self.arrivals.push_back(answer("accepted", text)),
            Far::Rejected(code) => {
                let text = format!(r#"{{"statusCode":{code},"errorCode":"E","errorMessage":"m"}}"#);
                self.arrivals.push_back(answer("rejected", text));
            }
            Far::After(other, then) => {
                self.arrivals.push_back(Ok(message(other, "{}")));
                self.meet(topic, *then);
            }
            Far::Forbidden(why) => self.arrivals.push_back(Ok(Heard::Refused(why.into()))),
            Far::Silent => {}
            Far::End(e) => self.arrivals.push_back(Err(e)),
        }
    }
}

impl Talk for Script {
    async fn subscribe(&mut self, filters: &[String]) -> Result<Vec<(String, String)>, LinkError> {
        if self.deaf {
            std::future::pending::<()>().await;
        }
        assert!(self.subscribed.is_empty(), "a connection subscribes once");
        let (refused, granted): (Vec<_>, Vec<_>) =
            filters.iter().cloned().partition(|f| Some(f.as_str()) == self.refuse_subscription);
        self.subscribed.extend(granted);
        let why = |filter| (filter, "NotAuthorized".to_owned());
        self.refuse_login.clone().map_or(Ok(refused.into_iter().map(why).collect()), Err)
    }

    async fn publish(&mut self, topic: &str, _payload: &[u8]) -> Result<(), LinkError> {
        self.trace.push(topic.to_owned());
        let far = self.far.pop_front().expect("the script is over");
        self.meet(topic, far);
        Ok(())
    }

    async fn next(&mut self) -> Result<Heard, LinkError> {
        match self.arrivals.pop_front() {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }
}

fn message(topic: &str, text: &str) -> Heard {
    Heard::Message { topic: topic.into(), payload: Zeroizing::new(text.as_bytes().to_vec()) }
}

fn created() -> Far {
    let pem = PEM.replace('\n', "\\n");
    Far::Accepted(format!(
        r#"{{"certificateId":"c","certificatePem":"{pem}","certificateOwnershipToken":"t","privateKey":"k"}}"#
    ))
}

fn registered() -> Far {
    Far::Accepted(r#"{"thingName":"gw-7"}"#.into())
}

fn request(csr: bool, allow_cloud_keys: bool) -> Request {
    let csr_pem = csr.then(|| "csr".to_owned());
    Request { template: "plant".into(), csr_pem, parameters: BTreeMap::new(), allow_cloud_keys }
}

fn run(mut script: Script, request: Request) -> (Result<Provisioned, ProvisionError>, Vec<String>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let result = runtime.block_on(provision(&mut script, request, 7));
    (result, script.trace)
}

fn script(far: impl IntoIterator<Item = Far>) -> Script {
    Script { far: far.into_iter().collect(), ..Script::default() }
}

/// The topics that were published to, and `Ok`, or whether it may be tried again and why.
#[track_caller]
fn check(script: Script, request: Request, topics: &[&str], expected: Result<(), (bool, &str)>) {
    let (result, trace) = run(script, request);
    assert_eq!(trace, topics);
    match (result, expected) {
        (Ok(done), Ok(())) => assert_eq!(done.thing_name.as_str(), "gw-7"),
        (Err(e), Err((retryable, words))) => {
            assert_eq!(matches!(e, ProvisionError::Retryable { .. }), retryable, "{e:?}");
            assert!(e.to_string().contains(words), "{e}");
        }
        (result, expected) => panic!("{result:?}, expected {expected:?}"),
    }
}

#[test]
fn a_claim_becomes_a_thing() {
    check(script([created(), registered()]), request(true, false), &[FROM_CSR, REGISTER], Ok(()));
    check(script([created(), registered()]), request(false, true), &[CREATE, REGISTER], Ok(()));
    let fallback = script([Far::Rejected(403), created(), registered()]);
    check(fallback, request(true, true), &[FROM_CSR, CREATE, REGISTER], Ok(()));
    // A repeated answer of the first step arrives in the second.
    let twice = Far::After("$aws/certificates/create-from-csr/json/accepted", Box::new(registered()));
    check(script([created(), twice]), request(true, false), &[FROM_CSR, REGISTER], Ok(()));
}

#[test]
fn what_passes_is_asked_again_and_what_stays_is_told() {
    let fatal = |words| Err((false, words));
    let retry = |words| Err((true, words));
    check(script([Far::Rejected(403)]), request(true, false), &[FROM_CSR], fatal("403"));
    check(script([Far::Rejected(503)]), request(true, false), &[FROM_CSR], retry("503"));
    check(script([]), request(false, false), &[], fatal("not allowed"));
    check(
        script([created(), Far::Rejected(403)]),
        request(true, false),
        &[FROM_CSR, REGISTER],
        fatal("the registration by the template was refused: 403"),
    );
    // With the certificate in hand only the registration is repeated.
    check(
        script([created(), Far::Rejected(429), Far::Silent, registered()]),
        request(true, false),
        &[FROM_CSR, REGISTER, REGISTER, REGISTER],
        Ok(()),
    );
    let busy = (0..9).map(|_| Far::Rejected(500));
    check(
        script([created()].into_iter().chain(busy)),
        request(true, false),
        &[FROM_CSR, REGISTER, REGISTER, REGISTER, REGISTER],
        retry("500"),
    );
}

#[test]
fn a_service_that_is_away_or_hangs_up_is_tried_later() {
    let retry = |words| Err((true, words));
    let request = || request(true, false);
    check(script([Far::Silent]), request(), &[FROM_CSR], retry("does not answer within 30s"));
    let hung = LinkError::HungUp("gone".into());
    check(script([Far::End(hung)]), request(), &[FROM_CSR], retry("policy"));
    check(script([created(), Far::End(LinkError::Stuck)]), request(), &[FROM_CSR, REGISTER], retry("stand"));
    check(Script { deaf: true, ..script([]) }, request(), &[], retry("acknowledges no subscription"));
    let refusing = Script { refuse_login: Some(LinkError::AuthRefused("bad".into())), ..script([]) };
    check(refusing, request(), &[], Err((false, "bad")));
}

#[test]
fn a_refused_subscription_is_told_or_gone_around() {
    let refusing = |topic, far: Vec<Far>| Script { refuse_subscription: Some(topic), ..script(far) };
    let csr = "$aws/certificates/create-from-csr/json/rejected";
    check(refusing(csr, vec![]), request(true, false), &[], Err((false, csr)));
    let around = refusing(csr, vec![created(), registered()]);
    check(around, request(true, true), &[CREATE, REGISTER], Ok(()));
    // The second choice is not needed.
    let create = "$aws/certificates/create/json/accepted";
    let spare = refusing(create, vec![created(), registered()]);
    check(spare, request(true, true), &[FROM_CSR, REGISTER], Ok(()));
}

#[test]
fn a_refused_publish_is_told_or_gone_around_and_a_full_broker_waited_for() {
    let no = || Far::Forbidden("NotAuthorized");
    check(script([no()]), request(true, false), &[FROM_CSR], Err((false, "NotAuthorized")));
    let around = script([no(), created(), registered()]);
    check(around, request(true, true), &[FROM_CSR, CREATE, REGISTER], Ok(()));
    let full = script([Far::Forbidden("QuotaExceeded")]);
    check(full, request(true, true), &[FROM_CSR], Err((true, "no more for now")));
}
