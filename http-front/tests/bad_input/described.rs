//! Fields that the description of the API has and the table does not: what they take is read there.

use super::probes::Kind;
use super::support::routes::holes;
use super::table::{Field, Row};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Adds every field of a documented body that no row of its route has, to the first such row. What a
/// schema says of it is tried; where more is to be tried than a schema can say, the table has it.
pub fn complete(rows: &mut [Row]) {
    let document: Value = serde_json::from_str(include_str!("../../openapi.json")).unwrap();
    let mut known: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for row in &*rows {
        let fields = row.fields.iter().map(|field| field.path);
        let route = (row.method.clone(), row.path);
        known.entry(route).or_default().extend(fields);
    }
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            if schema.is_null() {
                continue;
            }
            let (method, path) = (method.to_uppercase().parse().unwrap(), holes(path));
            let of_route = |row: &&mut Row| row.method == method && row.path == path;
            let row = rows.iter_mut().find(of_route);
            let row =
                row.unwrap_or_else(|| panic!("{method} {path} has no row in bad_input/table.rs"));
            let known = &known[&(method, row.path)];
            let schema = resolved(&document, schema);
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                if known.contains(name.as_str()) {
                    continue;
                }
                let required = schema["required"].as_array();
                let needed = required.is_some_and(|names| names.contains(&Value::from(&**name)));
                let kind = kind(&document, field);
                let kind =
                    kind.unwrap_or_else(|| panic!("{path}: describe {name} in bad_input/table.rs"));
                row.fields.push(Field {
                    path: name.clone().leak(),
                    kind,
                    needed,
                    not_null: !may_be_null(field),
                });
            }
        }
    }
}

/// What a schema refers to; of a schema or null, the schema.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#").unwrap();
        return resolved(document, document.pointer(name).unwrap());
    }
    let mut choices = schema["oneOf"].as_array().into_iter().flatten();
    match choices.find(|choice| choice["type"] != "null") {
        Some(choice) if may_be_null(schema) => resolved(document, choice),
        _ => schema,
    }
}

fn may_be_null(schema: &Value) -> bool {
    let types = schema["type"].as_array();
    let mut choices = schema["oneOf"].as_array().into_iter().flatten();
    types.is_some_and(|types| types.contains(&"null".into()))
        || choices.any(|choice| choice["type"] == "null")
}

fn kind(document: &Value, schema: &Value) -> Option<Kind> {
    let schema = resolved(document, schema);
    let is = |name: &str| {
        let listed = schema["type"].as_array();
        schema["type"] == name || listed.is_some_and(|types| types.contains(&name.into()))
    };
    let bound = |name: &str| schema[name].as_i64();
    if let Some(word) = schema["enum"][0].as_str() {
        return Some(Kind::Word(word.to_owned().leak()));
    }
    if is("string") {
        let most = bound("maxLength").and_then(|most| usize::try_from(most).ok());
        return Some(match (most, bound("minLength")) {
            (Some(most), Some(1)) => Kind::Text(most),
            (Some(most), None) => Kind::Note(most),
            _ => Kind::Tried,
        });
    }
    if is("integer") {
        return Some(Kind::Whole(bound("minimum")?, bound("maximum")?));
    }
    is("boolean").then_some(Kind::Flag)
}
