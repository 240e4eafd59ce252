//! The OpenAPI document describes what the service really answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::http::{change, get, get_with, send};
use crate::support::service::{Place, Service};

const TOKEN: &str = "a-token-of-an-admin";

/// The differences between a value and a schema, each with its place.
fn differences(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    let differ = |what: &str| vec![format!("{place}: {what}: {value}")];
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.strip_prefix('#').expect("a schema of this document");
        let schema = document.pointer(pointer).unwrap_or_else(|| panic!("there is no {name}"));
        return differences(document, schema, value, place);
    }
    for of in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[of].as_array() {
            let fits = |choice| differences(document, choice, value, place).is_empty();
            return if choices.iter().any(fits) { Vec::new() } else { differ("fits no choice") };
        }
    }
    let is = |kind: &str| match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is not a type"),
    };
    let fits = match &schema["type"] {
        Value::String(kind) => is(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).any(is),
        _ => panic!("{place} has no type: {schema}"),
    };
    if !fits {
        return differ("another type");
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return differ("not one of the allowed values");
    }
    if schema["format"] == "date-time"
        && let Some(time) = value.as_str()
        && !(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[19] == b'.')
    {
        return differ("not a time in UTC with milliseconds");
    }
    let mut found = Vec::new();
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(differences(document, &schema["items"], item, &format!("{place}[{n}]")));
    }
    if let (Some(value), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().expect("a name");
            if !value.contains_key(name) {
                found.push(format!("{place}: {name} is missing"));
            }
        }
        for (name, value) in value {
            match known.get(name) {
                Some(schema) => {
                    let place = format!("{place}.{name}");
                    found.extend(differences(document, schema, value, &place));
                }
                None => found.push(format!("{place}: {name} is not in the document")),
            }
        }
    }
    found
}

/// Each operation of the document, as method and path.
fn operations(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().expect("paths");
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().expect("methods").keys();
        methods.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

fn schema_of(document: &Value, method: &str, path: &str, status: u16) -> Value {
    let operation = &document["paths"][path][method.to_lowercase()];
    let response = &operation["responses"][status.to_string()];
    let (response, kind) = match response {
        Value::Null => (&operation["responses"]["default"], "application/problem+json"),
        response => (response, "application/json"),
    };
    response["content"][kind]["schema"].clone()
}

/// A service with an offline device, one that reports an error, and one that was never heard.
fn start() -> (Place, Service) {
    let place = Place::new().with("HTTP__TOKEN", TOKEN).with("HTTP__PUBLIC", "true");
    let service = place.start();
    service.await_listening();
    let publish = |id: &str, payload: &[u8]| {
        let client = publishers::RawClient::connect(service.broker_port(), id, None);
        client.expect("it is let in").publish(&format!("devices/{id}/heartbeat"), payload);
    };
    publish("pump", br#"{"uptime_seconds": 1, "free_memory": 2, "timestamp": 1}"#);
    change(&service, "PUT", "/api/v1/devices/new", TOKEN, r#"{"timeout_seconds": 7}"#).ok();
    place.await_statuses(&["new provisioning", "pump offline"]);
    publish("valve", br#"{"error": "stuck", "uptime_seconds": "x"}"#);
    place.await_statuses(&["new provisioning", "pump offline", "valve error"]);
    (place, service)
}

#[test]
fn every_operation_answers_as_the_document_says() {
    let (_place, service) = start();
    let document = get(&service, "/api/v1/openapi.json").ok();
    assert_eq!(document["openapi"], "3.1.0");
    let mut untried = operations(&document);
    let mut check = |method: &str, path: &str, pattern: &str, body: Option<&str>, expected: u16| {
        let full = format!("/api/v1{path}");
        let answer = match body {
            None if method == "GET" => get_with(&service, &full, TOKEN),
            body => change(&service, method, &full, TOKEN, body.unwrap_or_default()),
        };
        assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
        let schema = schema_of(&document, method, pattern, answer.status);
        let found = differences(&document, &schema, &answer.json(), "answer");
        assert!(found.is_empty(), "{method} {path}:\n{}", found.join("\n"));
        untried.remove(&(method.to_owned(), pattern.to_owned()));
    };
    check("GET", "/devices", "/devices", None, 200);
    check("GET", "/devices?limit=1", "/devices", None, 200);
    check("GET", "/devices?limit=0", "/devices", None, 400);
    for id in ["pump", "new", "valve"] {
        check("GET", &format!("/devices/{id}"), "/devices/{id}", None, 200);
    }
    check("GET", "/devices/nobody", "/devices/{id}", None, 404);
    let pump = get(&service, "/api/v1/devices/pump").ok();
    let found_at = pump["outage"]["found_at"].as_str().expect("it is offline");
    check("GET", &format!("/devices/pump?at={found_at}"), "/devices/{id}", None, 200);
    check("GET", "/devices/pump?at=2000-01-01T00:00:00Z", "/devices/{id}", None, 400);
    check("GET", "/devices?late=false", "/devices", None, 200);
    check("PUT", "/devices/x", "/devices/{id}", Some("{}"), 201);
    check("PUT", "/devices/x", "/devices/{id}", Some(r#"{"timeout_seconds": 9}"#), 200);
    check("PUT", "/devices/x", "/devices/{id}", Some("[]"), 400);
    check("PATCH", "/devices/x", "/devices/{id}", Some(r#"{"timeout_seconds": null}"#), 200);
    check("DELETE", "/devices/x", "/devices/{id}", None, 200);
    check("GET", "/transitions", "/transitions", None, 200);
    check("GET", "/summary", "/summary", None, 200);
    check("GET", "/fleet?buckets=3", "/fleet", None, 200);
    check("GET", "/devices?late=true&q=*p*", "/devices", None, 200);
    check("GET", "/events", "/events", None, 200);
    check("GET", "/events?after=0-0", "/events", None, 200);
    check("GET", "/events?after=999999-999999", "/events", None, 410);
    check("GET", "/listening", "/listening", None, 200);
    for id in ["pump", "new", "valve"] {
        let path = format!("/devices/{id}/timeline?buckets=7");
        check("GET", &path, "/devices/{id}/timeline", None, 200);
    }
    check("GET", "/outages", "/outages", None, 200);
    check("GET", "/outages?open=true", "/outages", None, 200);
    check("GET", "/whoami", "/whoami", None, 200);
    let login = json!({"token": TOKEN}).to_string();
    check("POST", "/login", "/login", Some(&login), 200);
    check("POST", "/logout", "/logout", None, 200);
    check("GET", "/openapi.json", "/openapi.json", None, 200);
    // tests/suite/stream.rs tries this one.
    untried.remove(&("GET".to_owned(), "/events/stream".to_owned()));
    assert_eq!(untried, BTreeSet::new(), "not tried");
}

#[test]
fn the_service_takes_the_methods_and_parameters_of_the_document_and_no_others() {
    let (_place, service) = start();
    let document = get(&service, "/api/v1/openapi.json").ok();
    let operations = operations(&document);
    let paths: BTreeSet<_> = operations.iter().map(|(_, path)| path).collect();
    for path in paths {
        let full = format!("/api/v1{}", path.replace("{id}", "pump"));
        for method in ["GET", "PUT", "PATCH", "POST", "DELETE"] {
            let documented = operations.contains(&(method.to_owned(), path.clone()));
            let answer = send(&service, method, &format!("{full}?no_such_parameter=1"), &[], None);
            if !documented {
                assert_eq!(answer.problem(), "wrong-method", "{method} {path}");
                continue;
            }
            let bearer = format!("Bearer {TOKEN}");
            let headers = [("Authorization", bearer.as_str())];
            let answer =
                send(&service, method, &format!("{full}?no_such_parameter=1"), &headers, None);
            assert_eq!(answer.problem(), "invalid-parameter", "{method} {path}");
            let known = &document["paths"][path][method.to_lowercase()]["parameters"];
            let known = known.as_array().into_iter().flatten().filter(|p| p["in"] == "query");
            for parameter in known {
                let name = parameter["name"].as_str().expect("a name");
                assert!(answer.body.contains(name), "{method} {path}: {name}: {answer:?}");
            }
        }
    }
}

#[test]
fn a_difference_is_found() {
    let document = json!({"components": {"schemas": {"A": {"type": "string"}}}});
    let schema = json!({
        "type": "object",
        "required": ["a", "t"],
        "properties": {
            "a": {"$ref": "#/components/schemas/A"},
            "t": {"type": ["string", "null"], "format": "date-time"},
            "l": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
        },
    });
    let differ = |value| differences(&document, &schema, &value, "").len();
    assert_eq!(differ(json!({"a": "x", "t": "2026-11-26T14:08:22.123Z", "l": [1, null]})), 0);
    assert_eq!(differ(json!({"a": 1, "t": "2026-11-26T14:08:22Z", "l": ["x"], "more": 1})), 4);
    assert_eq!(differ(json!({})), 2);
    assert_eq!(differ(json!([])), 1);
}
