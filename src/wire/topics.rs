//! PURE: topics from templates with the placeholders `{gateway}`, `{device}` and `{thing}`.

use crate::model::ids::{DeviceName, GatewayName};
use crate::model::thing::ThingName;

/// A template cut at its placeholders, so that rendering is copying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Device,
}

/// Why a template is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("unknown placeholder {{{0}}}; known are {{gateway}}, {{device}} and, of things, {{thing}}")]
    Unknown(String),
    #[error("a '{{' without its '}}'")]
    Open,
    #[error("a topic to publish on must not hold '+', '#' or NUL")]
    Wildcard,
    #[error("a topic must not be empty")]
    Empty,
}

impl Template {
    /// Of the gateway's connection. Parses and fills in what is known at once.
    pub fn parse(text: &str, gateway: &GatewayName) -> Result<Template, TemplateError> {
        Template::filled(text, gateway, None)
    }

    /// Of a thing's own connection, where `{thing}` is its name.
    pub fn of_thing(text: &str, gateway: &GatewayName, thing: &ThingName) -> Result<Template, TemplateError> {
        Template::filled(text, gateway, Some(thing))
    }

    fn filled(
        text: &str,
        gateway: &GatewayName,
        thing: Option<&ThingName>,
    ) -> Result<Template, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        if text.contains(['+', '#', '\0']) {
            return Err(TemplateError::Wildcard);
        }
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            literal.push_str(before);
            let (name, after) = after.split_once('}').ok_or(TemplateError::Open)?;
            match (name, thing) {
                ("gateway", _) => literal.push_str(gateway.as_str()),
                ("thing", Some(thing)) => literal.push_str(thing.as_str()),
                ("device", _) => {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                    parts.push(Part::Device);
                }
                (other, _) => return Err(TemplateError::Unknown(other.to_owned())),
            }
            rest = after;
        }
        literal.push_str(rest);
        parts.push(Part::Text(literal));
        Ok(Template { parts })
    }

    pub fn render(&self, device: &DeviceName) -> String {
        let mut topic = String::with_capacity(64);
        for part in &self.parts {
            topic.push_str(match part {
                Part::Text(text) => text,
                Part::Device => device.as_str(),
            });
        }
        topic
    }

    /// The same topic with another last level: faults and gaps lie beside the telemetry.
    pub fn sibling(&self, last: &str) -> Template {
        let mut parts = self.parts.clone();
        if let Some(Part::Text(text)) = parts.last_mut() {
            let keep = text.rfind('/').map_or(0, |at| at + 1);
            text.truncate(keep);
            text.push_str(last);
        }
        Template { parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, expected: Result<&str, TemplateError>) {
        let topic = Template::parse(template, &"gw-1".into()).map(|t| t.render(&"meter".into()));
        assert_eq!(topic, expected.map(str::to_owned), "{template}");
    }

    #[test]
    fn templates_render_or_say_what_is_wrong() {
        check("dt/{gateway}/{device}/telemetry", Ok("dt/gw-1/meter/telemetry"));
        check("{device}", Ok("meter"));
        check("plain", Ok("plain"));
        check("a/{unit}/b", Err(TemplateError::Unknown("unit".into())));
        check("a/{device", Err(TemplateError::Open));
        check("a/+/b", Err(TemplateError::Wildcard));
        check("", Err(TemplateError::Empty));
    }

    #[test]
    fn only_a_things_own_topic_knows_the_thing() {
        let thing = ThingName::parse("meter:7").unwrap();
        let topic = Template::of_thing("dt/{gateway}/{thing}/{device}", &"gw".into(), &thing).unwrap();
        assert_eq!(topic.render(&"m".into()), "dt/gw/meter:7/m");
        check("dt/{thing}/telemetry", Err(TemplateError::Unknown("thing".into())));
    }

    #[test]
    fn siblings_share_all_but_the_last_level() {
        let t = Template::parse("dt/{gateway}/{device}/telemetry", &"g".into()).unwrap();
        assert_eq!(t.sibling("fault").render(&"m".into()), "dt/g/m/fault");
    }
}
