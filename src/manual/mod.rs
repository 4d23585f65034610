//! The manual: how the house is built, why it is built so, and what its words mean.
//!
//! Pages without code, so that `cargo doc` shows them beside what they describe.

pub mod architecture;
pub mod decisions;
pub mod glossary;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use crate::model::ids::PointIndex;
    use crate::model::reading::{Measured, Reading};
    use crate::model::time::Timestamp;
    use crate::model::value::{self as model, Cause};
    use crate::wire::payload::{self, Head, Telemetry};

    fn file(name: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
    }

    /// The code blocks of the README in this language.
    fn blocks(language: &str) -> Vec<String> {
        let fence = format!("```{language}\n");
        let readme = file("README.md");
        readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_string()).collect()
    }

    fn schema() -> jsonschema::Validator {
        let schema: Value = serde_json::from_str(&file("config/payload.schema.json")).unwrap();
        jsonschema::validator_for(&schema).unwrap()
    }

    #[test]
    fn the_payloads_of_the_readme_obey_the_schema() {
        let (schema, examples) = (schema(), blocks("json"));
        assert_eq!(examples.len(), 4, "telemetry, fault, gap, status");
        for text in examples {
            let payload: Value = serde_json::from_str(&text).unwrap();
            let errors: Vec<String> = schema.iter_errors(&payload).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{text}: {errors:?}");
        }
    }

    #[test]
    fn what_is_written_obeys_the_schema() {
        let schema = schema();
        let check = |payload: Vec<u8>| {
            let payload: Value = serde_json::from_slice(&payload).unwrap();
            let errors: Vec<String> = schema.iter_errors(&payload).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{payload}: {errors:?}");
        };
        let (gateway, device, boot) = ("gw-1".into(), "meter-1".into(), "0badcafe-3");
        let points = [("a".into(), Some("V".into())), ("b".into(), None), ("c".into(), None)];
        let mut telemetry =
            Telemetry::new(Head { gateway: &gateway, device: &device, boot, seq: (7, 9) }, &points, 0);
        let measured = [
            Measured::Good(model::Value::Uint(u64::MAX)),
            Measured::Uncertain(model::Value::Flags(vec!["alarm".into()]), Cause::OutOfRange),
            Measured::Bad(Cause::Exception(2)),
        ];
        let readings = measured.into_iter().zip(0..);
        telemetry
            .group(Timestamp(5), readings.map(|(measured, i)| Reading { point: PointIndex(i), measured }));
        check(telemetry.finish());
        check(payload::fault(&gateway, &device, boot, Timestamp(5), Some(&Cause::Timeout)));
        check(payload::fault(&gateway, &device, boot, Timestamp(5), None));
        check(payload::gap(&gateway, &device, boot, "store-full", 3, (Timestamp(5), Timestamp(6))));
        for (online, oldest) in [(true, Some(Timestamp(5))), (true, None), (false, None)] {
            check(payload::status(&gateway, payload::Status { online, boot, readings_waiting: 3, oldest }));
        }
        for cause in Cause::PLAIN {
            check(payload::fault(&gateway, &device, boot, Timestamp(5), Some(&cause)));
        }
    }

    #[test]
    fn the_schema_refuses_what_a_consumer_could_misread() {
        let schema = schema();
        let check = |change: fn(&mut Value)| {
            let mut payload: Value = serde_json::from_str(&blocks("json")[0]).unwrap();
            assert!(schema.is_valid(&payload));
            change(&mut payload);
            assert!(!schema.is_valid(&payload), "{payload}");
        };
        check(|p| p["v"] = 2.into());
        check(|p| p["seq"] = serde_json::json!([1]));
        check(|p| p["readings"] = serde_json::json!([]));
        check(|p| p["readings"][0] = serde_json::json!({ "t": 1 }));
        check(|p| p["readings"][0]["values"]["voltage"] = Value::Null);
        check(|p| p["readings"][0]["bad"] = serde_json::json!({ "voltage": "tired" }));
        check(|p| p["surprise"] = true.into());
    }

    #[test]
    fn the_readme_names_every_exit_code() {
        use crate::cli::exit;
        let readme = file("README.md");
        for code in [0, exit::FAILED, 2, exit::CONFIG, exit::UNREACHABLE, exit::IO, exit::REFUSED] {
            assert!(readme.contains(&format!("\n| {code} |")), "{code}");
        }
    }

    #[test]
    fn the_configuration_of_the_readme_is_toml() {
        let examples = blocks("toml");
        assert!(!examples.is_empty());
        for text in examples {
            text.parse::<toml::Table>().unwrap();
        }
    }
}
