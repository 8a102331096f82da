//! The JSON Schema of rule files, made of the types that read them.

use super::file::{RuleFile, RuleText};
use super::{Measurement, RuleId, Rules, SCHEMA};
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// Measurements that can be asked for.
pub fn required(_: &mut SchemaGenerator) -> Schema {
    let all: Vec<Measurement> = Measurement::that_can_be_required().collect();
    json_schema!({
        "type": "array",
        "items": {"description": "A measurement that can be asked for.", "type": "string", "enum": all},
    })
}

/// Rules by their ids.
pub fn rules(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "propertyNames": generator.subschema_for::<RuleId>(),
        "additionalProperties": generator.subschema_for::<RuleText>(),
    })
}

impl JsonSchema for RuleId {
    fn schema_name() -> Cow<'static, str> {
        "rule".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let rules = Rules::default_rules().unwrap();
        json_schema!({"enum": rules.all().iter().map(|rule| rule.id).collect::<Vec<_>>()})
    }
}

/// Leaves out what serde's types are called, and what is as if nothing were written.
fn plain(schema: &mut Schema) {
    if schema.get("format").is_some_and(|format| format == "double" || format == "uint32") {
        schema.remove("format");
    }
    if schema.get("default").is_some_and(|default| default.is_null() || default.as_array().is_some_and(Vec::is_empty)) {
        schema.remove("default");
    }
}

fn schema() -> String {
    let settings = SchemaSettings::draft07().with_transform(RecursiveTransform(plain));
    let mut schema = settings.into_generator().into_root_schema_for::<RuleFile>();
    schema.insert("$id".into(), "achilles-audit/rules/v1".into());
    serde_json::to_string_pretty(&schema).unwrap() + "\n"
}

#[test]
fn the_schema_is_that_of_the_types() {
    let schema = schema();
    if std::env::var_os("ACHILLES_WRITE_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/rules/schema.json"), &schema).unwrap();
    }
    assert_eq!(
        schema, SCHEMA,
        "rules/schema.json is not what the types of src/rules/ give; ACHILLES_WRITE_GOLDEN=1 cargo test --lib schema \
         writes it anew: that run still fails, the next one passes"
    );
}
