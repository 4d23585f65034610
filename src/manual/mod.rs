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
