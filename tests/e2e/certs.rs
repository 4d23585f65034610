//! A certificate authority per run, and the leaves a case asks for: right, or wrong in one way.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};

/// Certificate and key as PEM files.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

pub struct Authority {
    dir: PathBuf,
    pub certificate: PathBuf,
    /// For a foreign signer.
    pub key: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// What may be wrong with a server's certificate.
#[derive(Clone, Copy, PartialEq)]
pub enum Server {
    Right,
    Expired,
    WrongName,
}

impl Authority {
    pub fn new(dir: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let certificate = dir.join(format!("{name}-ca.pem"));
        std::fs::write(&certificate, pem).unwrap();
        let file = dir.join(format!("{name}-ca.key"));
        std::fs::write(&file, key.serialize_pem()).unwrap();
        Authority { dir: dir.to_owned(), certificate, key: file, issuer: Issuer::new(params, key) }
    }

    pub fn server(&self, kind: Server) -> Pair {
        let name = if kind == Server::WrongName { "elsewhere.example" } else { "localhost" };
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = match kind {
            Server::Expired => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            _ => (date_time_ymd(2020, 1, 1), date_time_ymd(2070, 1, 1)),
        };
        self.issue("server", params)
    }

    pub fn client(&self, name: &str) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2070, 1, 1));
        self.issue("client", params)
    }

    /// An empty list of revoked certificates, PEM.
    pub fn crl(&self) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2070, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn issue(&self, what: &str, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let stem = self.certificate.file_stem().unwrap().to_string_lossy().into_owned();
        let pair = Pair {
            certificate: self.dir.join(format!("{stem}-{what}.pem")),
            key: self.dir.join(format!("{stem}-{what}.key")),
        };
        std::fs::write(&pair.certificate, pem).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}
