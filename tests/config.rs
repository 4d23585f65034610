//! Golden cases of the configuration: each folder of `tests/cases/config` holds a
//! `fieldgate.toml` (with `conf.d`, `models` and an `environment` file of `NAME=value` lines
//! if the case needs them) and an `expected` file with what a person would read.
//! `UPDATE=1 cargo test --test config` rewrites the expectations.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};

use fieldgate::config::load::load_with;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/config")
}

/// The variables of a case, if it has any.
fn environment(case: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(case.join("environment")).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What a person sees: every mistake, or the configuration with its warnings.
fn outcome(case: &Path) -> String {
    let text = match load_with(&case.join("fieldgate.toml"), environment(case).into_iter()) {
        Ok(config) => fieldgate::cli::check::summary(&config),
        Err(errors) => format!("{errors}\n"),
    };
    text.replace(&format!("{}/", case.display()), "")
}

#[test]
fn every_case_reads_as_expected() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    let mut folders: Vec<PathBuf> = fs::read_dir(cases()).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 5, "the cases have gone: {folders:?}");
    for case in folders {
        let found = outcome(&case);
        let file = case.join("expected");
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

/// A configuration in a folder of its own, with one more file beside it.
fn read_beside(text: &str, beside: &str, content: &str, mode: u32) -> fieldgate::config::Config {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (file, beside) = (folder.path().join("fieldgate.toml"), folder.path().join(beside));
    fs::write(&file, text).unwrap();
    fs::write(&beside, content).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode)).unwrap();
    load_with(&file, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_password_file_is_read_without_its_newline_and_others_must_not_read_it() {
    let text = "[gateway]\nname = \"g\"\n[uplink]\nurl = \"mqtts://b\"\nusername = \"Bob\"\n\
                password_file = \"password\"\n";
    for (content, mode, password, warnings) in [
        ("s3cret\n", 0o600, "s3cret", 0),
        ("s3cret\r\n", 0o400, "s3cret", 0),
        (" two words ", 0o640, " two words ", 1),
        ("s3cret", 0o604, "s3cret", 1),
    ] {
        let config = read_beside(text, "password", content, mode);
        let login = config.uplink.login.unwrap();
        assert_eq!((login.username.as_str(), login.password.as_str()), ("Bob", password));
        assert_eq!(config.warnings.len(), warnings, "{mode:o}: {:?}", config.warnings);
        assert!(config.warnings.iter().all(|w| w.contains("chmod 0600") && !w.contains("s3cret")));
    }
}

#[test]
fn a_password_can_be_a_credential_of_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fieldgate.toml");
    let text = "[gateway]\nname = \"g\"\n[uplink]\nurl = \"mqtts://b\"\nusername = \"Bob\"\n\
                password_file = \"credential:pw\"\n";
    fs::write(&file, text).unwrap();
    let check = |credentials: bool| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fieldgate"));
        command.args(["check", "--config"]).arg(&file).env_remove("CREDENTIALS_DIRECTORY");
        if credentials {
            command.env("CREDENTIALS_DIRECTORY", folder.path());
        }
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    // By hand it cannot be seen, which is no mistake.
    let (code, said) = check(false);
    assert!(code == Some(0) && said.contains("LoadCredentialEncrypted=pw"), "{said}");
    let (code, said) = check(true);
    assert!(code == Some(64) && said.contains("/pw cannot be read"), "{said}");
    fs::write(folder.path().join("pw"), "s3cret").unwrap();
    let (code, said) = check(true);
    assert!(code == Some(0) && !said.contains("s3cret"), "{said}");
}

#[test]
fn what_is_only_not_there_yet_may_mend_itself() {
    let check = |more: &str, expected: bool| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fieldgate.toml");
        let text =
            format!("[gateway]\nname = \"g\"\n[uplink]\nurl = \"mqtts://b\"\nca = \"late.pem\"\n{more}");
        fs::write(&file, text).unwrap();
        let errors = load_with(&file, std::iter::empty()).unwrap_err();
        assert_eq!(errors.may_mend(), expected, "{errors}");
    };
    check("", true);
    check("certificate = \"late.crt\"\nkey = \"late.key\"\n", true);
    check("windoww = 3\n", false);
    let nowhere = load_with(Path::new("/nowhere/fieldgate.toml"), std::iter::empty()).unwrap_err();
    assert!(nowhere.may_mend());
}

#[test]
fn the_printed_configuration_holds_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fieldgate.toml");
    fs::write(&file, "[gateway]\nname = \"g\"\n[uplink]\nurl = \"mqtts://b\"\nusername = \"Bob\"\n").unwrap();
    let secret = ("FIELDGATE__UPLINK__PASSWORD".to_owned(), "s3cret".to_owned());
    let mut report = fieldgate::config::errors::Report::default();
    let layered = fieldgate::config::load::layers(&file, [secret].into_iter(), &mut report).unwrap();
    assert!(report.is_clean());
    assert_eq!(layered.uplink.raw.password.as_deref(), Some("s3cret"));
    let printed = fieldgate::config::merged::merged(&layered).to_string();
    assert!(printed.contains("Bob") && !printed.contains("s3cret"), "{printed}");
}

#[test]
fn a_websocket_needs_a_build_that_has_it() {
    let text = "[gateway]\nname = \"g\"\n[uplink]\nurl = \"wss://abc-ats.iot.eu-west-1.amazonaws.com\"\n\
                sigv4 = { source = \"environment\" }\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fieldgate.toml");
    fs::write(&file, text).unwrap();
    match (load_with(&file, std::iter::empty()), cfg!(feature = "websocket")) {
        (Ok(config), true) => {
            assert_eq!(config.uplink.port, 443);
            assert_eq!(config.uplink.websocket.unwrap().sigv4.unwrap().region, "eu-west-1");
        }
        (Err(errors), false) => assert!(errors.to_string().contains("--features websocket"), "{errors}"),
        (found, _) => panic!("{found:?}"),
    }
}

/// The sample with its examples and defaults, read from a folder of its own.
mod sample {
    use std::collections::BTreeSet;

    use fieldgate::cli::show_config::{self, SAMPLE};
    use fieldgate::config::Config;
    use fieldgate::config::errors::Errors;
    use fieldgate::config::load::load_with;
    use fieldgate::config::raw::{self, Table};

    fn read(text: &str) -> Result<Config, Errors> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fieldgate.toml");
        std::fs::write(&file, text).unwrap();
        load_with(&file, std::iter::empty())
    }

    /// What the agent would do; warnings aside, which may differ for a default spelled out.
    fn meaning(text: &str) -> Result<String, Errors> {
        read(text).map(|mut config| {
            config.warnings.clear();
            format!("{config:#?}")
        })
    }

    /// `# key = value   # comment` → key, line without the mark, whether it is an example.
    fn commented(line: &str) -> Option<(&str, &str, bool)> {
        let bare = line.strip_prefix("# ")?;
        let (key, _) = bare.split_once(" = ")?;
        let is_key = key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        is_key.then(|| (key, bare, bare.contains("# example:")))
    }

    #[test]
    fn the_sample_is_right_and_warns_of_nothing() {
        let config = read(SAMPLE).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.warnings, Vec::<String>::new());
        assert_eq!(config.devices.len(), 5);
    }

    #[test]
    fn every_default_in_the_sample_is_the_real_default() {
        let expected = meaning(SAMPLE).unwrap_or_else(|e| panic!("{e}"));
        let mut tried = 0;
        for (at, line) in SAMPLE.lines().enumerate() {
            let Some((key, bare, is_example)) = commented(line) else { continue };
            let with: Vec<&str> =
                SAMPLE.lines().enumerate().map(|(i, l)| if i == at { bare } else { l }).collect();
            let found = meaning(&with.join("\n"));
            match found {
                Ok(found) if is_example => {
                    assert!(found != expected, "{key} (line {}) is an example without effect", at + 1)
                }
                Ok(found) => assert_eq!(found, expected, "line {}: {bare}", at + 1),
                Err(errors) => {
                    // Examples name files that are not there, or need a second key.
                    let only_files = [
                        "ca",
                        "certificate",
                        "key",
                        "password",
                        "password_file",
                        "ca_key",
                        "claim",
                        "authorizer",
                        "sigv4",
                    ];
                    assert!(is_example && only_files.contains(&key), "line {}: {bare}: {errors}", at + 1);
                }
            }
            tried += 1;
        }
        assert!(tried > 80, "only {tried} commented options were found");
    }

    #[test]
    fn the_printed_configuration_reads_back_as_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fieldgate.toml");
        std::fs::write(&file, SAMPLE).unwrap();
        let mut report = fieldgate::config::errors::Report::default();
        let layered = fieldgate::config::load::layers(&file, std::iter::empty(), &mut report).unwrap();
        let printed = show_config::as_toml(&fieldgate::config::merged::merged(&layered)).unwrap();
        assert!(printed.contains("total_active_energy"), "the model's points are missing: {printed}");
        let same = meaning(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(same, meaning(SAMPLE).unwrap());
    }

    #[test]
    fn every_option_is_in_the_sample() {
        let mut section = "";
        let mut written: BTreeSet<(String, String)> = BTreeSet::new();
        for line in SAMPLE.lines() {
            if line.starts_with('[') {
                section = line.split(['#', ' ']).next().unwrap_or_default();
            } else if let Some((key, ..)) = commented(line) {
                written.insert((section.into(), key.into()));
            } else if let Some((key, _)) = line.split_once(" = ") {
                written.insert((section.into(), key.into()));
            }
            for (inline, section) in [
                (" rs485 = {", "rs485"),
                (" forbidden = [{", "forbidden"),
                (" mirror = [{", "mirror"),
                (" claim = {", "claim"),
                (" authorizer = {", "authorizer"),
                (" sigv4 = {", "sigv4"),
            ] {
                if let Some((_, table)) = line.split_once(inline) {
                    let keys = table.split(" = ").filter_map(|part| part.rsplit([' ', '{']).next());
                    written.extend(keys.map(|key| (section.to_owned(), key.to_owned())));
                }
            }
        }
        let mut missing = Vec::new();
        let mut check = |section: &str, keys: Vec<&str>| {
            assert!(!keys.is_empty());
            for key in keys {
                if !written.contains(&(section.to_owned(), key.to_owned())) {
                    missing.push(format!("{section} {key}"));
                }
            }
        };
        check("[gateway]", raw::Gateway::keys().collect());
        check("[uplink]", raw::Uplink::keys().collect());
        check("authorizer", raw::Authorizer::keys().collect());
        check("sigv4", raw::SigV4::keys().collect());
        check("[thing]", raw::Thing::keys().collect());
        check("[store]", raw::Store::keys().collect());
        check("[shadow]", raw::Shadow::keys().collect());
        check("mirror", raw::Mirror::keys().collect());
        check("[identity]", raw::Identity::keys().collect());
        check("claim", raw::Claim::keys().collect());
        check("[log]", raw::Log::keys().collect());
        check("[[bus]]", raw::Bus::keys().collect());
        check("rs485", raw::Rs485::keys().collect());
        check("[[device]]", raw::Device::keys().collect());
        check("forbidden", raw::Forbidden::keys().collect());
        check("[[device.point]]", raw::Point::keys().collect());
        check("[[device.command]]", raw::Command::keys().collect());
        assert!(missing.is_empty(), "not in config/fieldgate.toml: {missing:#?}");
    }
}

/// The shipped register maps, read as a device would use them.
mod models {
    use fieldgate::config::Config;
    use fieldgate::config::load::load_with;
    use fieldgate::config::models::BUILT_IN;
    use fieldgate::modbus::codec::decode;
    use fieldgate::model::device::Source;

    fn plant(device: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fieldgate.toml");
        let text = format!(
            "[gateway]\nname = \"g\"\n[uplink]\nurl = \"mqtts://b\"\n\
             [[bus]]\nname = \"b\"\ntransport = \"tcp\"\nhost = \"h\"\n\
             [[device]]\nname = \"d\"\nbus = \"b\"\nunit_id = 1\n{device}"
        );
        std::fs::write(&file, text).unwrap();
        load_with(&file, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn every_model_decodes_a_register_as_its_manual_says() {
        // Model, point, address, words, scale factor, value as a person reads it.
        #[allow(clippy::type_complexity, reason = "a table, read column by column")]
        let vectors: [(&str, &str, u16, &[u16], Option<u16>, &str); 9] = [
            ("eastron-sdm120", "voltage", 0, &[0x4366, 0x3333], None, "230.2"),
            ("eastron-sdm120", "frequency", 70, &[0x4248, 0x0000], None, "50"),
            ("eastron-sdm630", "voltage_l1", 0, &[0x4366, 0x3333], None, "230.2"),
            ("eastron-sdm630", "total_active_energy", 342, &[0x42C8, 0x0000], None, "100"),
            ("sunspec-common", "marker", 40000, &[0x5375, 0x6E53], None, "SunS"),
            ("sunspec-inverter-103", "voltage_a", 40080, &[2301], Some(0xFFFF), "230.1"),
            ("sunspec-inverter-103", "state", 40108, &[4], None, "mppt"),
            ("xy-md02", "temperature", 1, &[0xFFF6], None, "-1"),
            ("xy-md02", "humidity", 2, &[0x0221], None, "54.5"),
        ];
        for (model, _) in BUILT_IN {
            assert!(vectors.iter().any(|v| v.0 == *model), "no vector for {model}");
        }
        for (model, name, address, words, factor, expected) in vectors {
            let config = plant(&format!("model = \"{model}\""));
            let point = config.devices[0].points.iter().find(|p| p.name.as_str() == name).unwrap();
            let Source::Register(register) = &point.source else { panic!("{model}: {name} is no register") };
            assert_eq!(register.address, address, "{model}: {name}");
            let value = decode(register, words, factor).value().map(|v| v.to_string());
            let near =
                value.as_deref().and_then(|v| Some((v.parse::<f64>().ok()?, expected.parse::<f64>().ok()?)));
            let same = near.map_or(value.as_deref() == Some(expected), |(a, b)| (a - b).abs() < 1e-4);
            assert!(same, "{model}: {name} reads {value:?}, expected {expected}");
        }
    }

    #[test]
    fn a_device_overrides_drops_and_adds_points() {
        let config = plant(
            "model = \"xy-md02\"\ninterval = \"7s\"\n\
             [[device.point]]\nname = \"humidity\"\ndisabled = true\n\
             [[device.point]]\nname = \"temperature\"\ninterval = \"2s\"\n\
             [[device.point]]\nname = \"extra\"\ntable = \"coil\"\naddress = 9\n",
        );
        let points: Vec<String> =
            config.devices[0].points.iter().map(|p| format!("{} {:?}", p.name, p.interval)).collect();
        assert_eq!(points, ["temperature 2s", "device_address 3600s", "baud_rate 3600s", "extra 7s"]);
    }
}

/// Files that the steps of an example make before its configuration is read.
const MADE: [&str; 3] = ["ca", "certificate", "key"];

#[test]
fn the_examples_are_valid_as_they_stand() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut checked = 0;
    for example in fs::read_dir(folder).unwrap() {
        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(example.unwrap().path()).unwrap().map(|e| e.unwrap().path()) {
            if file.extension().is_none_or(|e| e != "toml") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let raw: toml::Table = toml::from_str(&text).unwrap();
            for made in MADE.iter().filter_map(|key| raw["uplink"].get(key)?.as_str()) {
                let made = copy.path().join(made);
                fs::create_dir_all(made.parent().unwrap()).unwrap();
                fs::write(&made, "").unwrap();
                fs::set_permissions(&made, fs::Permissions::from_mode(0o600)).unwrap();
            }
            let copied = copy.path().join(file.file_name().unwrap());
            fs::write(&copied, text).unwrap();
            let config = load_with(&copied, std::iter::empty()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(config.warnings, Vec::<String>::new(), "{}", file.display());
            checked += 1;
        }
    }
    assert!(checked >= 5, "only {checked} examples");
}
