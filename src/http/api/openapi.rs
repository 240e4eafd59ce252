//! `/openapi.json`: the document that describes the API, in OpenAPI 3.1.
//!
//! Paths and parameters come from the table that the router reads, so they cannot differ from
//! it. The schemas are written by hand beside the views, in `views/api/schemas.json`; a test
//! compares them with what the service answers.

use serde_json::{Map, Value, json};

use super::access::{Access, Need};
use super::routes::{Operation, ROUTES, Route};
use crate::views::api::SCHEMAS;

/// The document for a service with this access.
pub(super) fn document(access: &Access) -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method.to_lowercase()] = operation(route, access);
    }
    let mut schemas: Value = serde_json::from_str(SCHEMAS).expect("the schemas are JSON");
    schemas["OpenApi"] = json!({"type": "object"});
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "heartbeatd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Watches a fleet of devices, and counts their silence only while it \
                            was provably listening. Times are RFC 3339 in UTC with milliseconds, \
                            durations are seconds; only the parts of a timeline are sums in \
                            milliseconds.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": super::ROOT}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "login": {"type": "apiKey", "in": "cookie", "name": access.cookie_name()},
            },
        },
    })
}

fn operation(route: &Route, access: &Access) -> Value {
    let name = format!("{:?}", route.operation);
    let (first, rest) = name.split_at(1);
    let mut operation = json!({
        "operationId": format!("{}{rest}", first.to_lowercase()),
        "summary": route.about,
        "responses": responses(route),
        "security": security(route.needs, access),
    });
    let mut parameters: Vec<Value> = route
        .parameters
        .iter()
        .map(|parameter| {
            json!({
                "name": parameter.name,
                "in": "query",
                "description": parameter.about,
                "schema": parameter.takes.schema(),
            })
        })
        .collect();
    if route.path.contains("{id}") {
        parameters.insert(
            0,
            json!({
                "name": "id",
                "in": "path",
                "required": true,
                "description": "The device's id",
                "schema": {"$ref": "#/components/schemas/DeviceId"},
            }),
        );
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(schema) = route.body {
        let content = json!({"application/json": {"schema": reference(schema)}});
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn responses(route: &Route) -> Value {
    let problem = json!({"application/problem+json": {"schema": reference("Problem")}});
    let mut responses = json!({
        "default": {"description": "A problem: /problems/NAME explains each", "content": problem},
    });
    let content = match route.answer {
        Some(schema) => json!({"application/json": {"schema": reference(schema)}}),
        None => json!({"text/event-stream": {"schema": {"type": "string"}}}),
    };
    let success = json!({"description": route.about, "content": content});
    if route.operation == Operation::Register {
        responses["201"] = success.clone();
    }
    responses["200"] = success;
    responses
}

fn security(need: Need, access: &Access) -> Value {
    match need {
        Need::Nothing => json!([]),
        Need::Read if !access.login_required() => json!([{}, {"token": []}, {"login": []}]),
        Need::Read | Need::Operate => json!([{"token": []}, {"login": []}]),
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}
