use super::*;

const NOW: Timestamp = Timestamp(1_795_600_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn subject() -> Subject {
    Subject {
        thing: "meter-1".into(),
        gateway: "gw-1".into(),
        bus: "line-1".into(),
        unit_id: Some(7),
        serial: Some("SN42".into()),
    }
}

fn authority(directory: &Path) -> Authority {
    let path = directory.join("identity");
    Folder::open(&path).unwrap();
    Authority::open(&path, "gw-1", DAY * 365, None).unwrap()
}

#[test]
fn a_certificate_speaks_of_the_subject_and_not_of_the_request() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path());
    assert!(authority.ensure(NOW).unwrap());
    assert!(!authority.ensure(NOW).unwrap(), "a second CA was made");
    let key = Key::generate(KeyType::EcP256).unwrap();
    let other = Subject { thing: "somebody-else".into(), ..subject() };
    let chain = authority.issue(&subject(), &key.request(&other).unwrap(), NOW).unwrap();
    let pair = Pair::new(key, &chain).unwrap();
    assert_eq!(pair.certificates().unwrap().len(), 2, "leaf and CA");
    let facts = pair.facts().unwrap();
    assert_eq!(facts.common_name, "meter-1");
    assert_eq!(facts.device_serial.as_deref(), Some("SN42"));
    assert_eq!(facts.uris, ["urn:fieldgate:gw-1:line-1:7:SN42"]);
    assert_eq!(facts.not_before, Timestamp(NOW.0 - 3_600_000));
    assert_eq!(facts.not_after, Timestamp(NOW.0 + 365 * 86_400_000));
    assert_eq!(facts.serial.len(), 32);
}

#[test]
fn without_a_clock_without_a_ca_and_without_a_proof_there_is_no_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path());
    let request = Key::generate(KeyType::EcP256).unwrap().request(&subject()).unwrap();
    assert!(matches!(authority.issue(&subject(), &request, NOW), Err(Error::NoCa(_))));
    assert!(matches!(authority.ensure(Timestamp(1000)), Err(Error::Clock(_))));
    authority.ensure(NOW).unwrap();
    assert!(matches!(authority.issue(&subject(), &request, Timestamp(1000)), Err(Error::Clock(_))));
    // One changed bit: the request is not signed by its key any more.
    let mut der = pem_of(&request);
    let last = der.len() - 1;
    der[last] ^= 1;
    let forged = to_pem(&der);
    assert!(matches!(authority.issue(&subject(), &forged, NOW), Err(Error::Request(_))));
    let late = Timestamp(NOW.0 + 11 * 365 * 86_400_000);
    assert!(authority.issue(&subject(), &request, late).unwrap_err().to_string().contains("has ended"));
}

fn pem_of(request: &str) -> Vec<u8> {
    use rustls_pki_types::CertificateSigningRequestDer;
    use rustls_pki_types::pem::PemObject;
    CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).unwrap().as_ref().to_vec()
}

fn to_pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE REQUEST-----\n");
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for three in der.chunks(3) {
        let word = three.iter().fold(0_u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let sign = ALPHABET[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place > three.len() { '=' } else { char::from(sign) });
        }
    }
    text + "\n-----END CERTIFICATE REQUEST-----\n"
}

#[test]
fn two_generations_overlap_and_the_old_one_signs_until_the_switch() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path());
    authority.ensure(NOW).unwrap();
    let signed_by = |authority: &Authority| {
        let key = Key::generate(KeyType::EcP256).unwrap();
        let chain = authority.issue(&subject(), &key.request(&subject()).unwrap(), NOW).unwrap();
        chain.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap().to_owned()
    };
    let first = authority.export().unwrap();
    authority.prepare(NOW).unwrap();
    let both = authority.export().unwrap();
    assert_eq!(both[0], first[0]);
    assert_eq!(both.iter().map(|b| b.0).collect::<Vec<_>>(), [Slot::Current, Slot::Next]);
    assert_eq!(signed_by(&authority), both[0].1);
    authority.switch().unwrap();
    assert_eq!(signed_by(&authority), both[1].1);
    let after: Vec<_> = authority.export().unwrap();
    assert_eq!(after, [(Slot::Current, both[1].1.clone()), (Slot::Previous, both[0].1.clone())]);
}

#[test]
fn what_was_revoked_stands_on_the_list_until_it_has_ended() {
    use x509_parser::prelude::FromDer;
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path());
    authority.ensure(NOW).unwrap();
    let key = Key::generate(KeyType::EcP256).unwrap();
    let chain = authority.issue(&subject(), &key.request(&subject()).unwrap(), NOW).unwrap();
    let facts = Pair::new(key, &chain).unwrap().facts().unwrap();
    let listed = |now: Timestamp| {
        let text = authority.revocations(now).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
        let (_, list) =
            x509_parser::revocation_list::CertificateRevocationList::from_der(&pem.contents).unwrap();
        list.iter_revoked_certificates()
            .map(|r| super::super::subject::hex(r.raw_serial()))
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(NOW), Vec::<String>::new());
    authority.revoke("meter-1", std::slice::from_ref(&facts), NOW).unwrap();
    authority.revoke("meter-1", std::slice::from_ref(&facts), NOW).unwrap();
    assert_eq!(listed(NOW), [facts.serial.as_str()]);
    let later = Timestamp(facts.not_after.0 + 1);
    authority.revoke("meter-2", &[], later).unwrap();
    assert_eq!(listed(later), Vec::<String>::new());
}

#[test]
fn a_registration_code_is_checked_before_it_is_signed() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority(directory.path());
    authority.ensure(NOW).unwrap();
    let proof = authority.proof(Slot::Current, "0a1b2c", NOW).unwrap();
    assert_eq!(Facts::of(&certificate(&proof).unwrap()).unwrap().common_name, "0a1b2c");
    for wrong in ["", "a b", "CN=x", "a,b"] {
        assert!(matches!(authority.proof(Slot::Current, wrong, NOW), Err(Error::Request(_))), "{wrong}");
    }
}
