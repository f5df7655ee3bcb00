//! The OpenAPI document: what the routes take and answer.

use duet_case::case_schema;
use duet_stage::{CaseState, Show, web::ProblemKind};
use serde_json::{Map, Value, json};

use crate::Config;

/// The whole document.
pub(crate) fn document(config: &Config) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Duet gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "Images in, annotated findings out. Research use only. Not for diagnosis."
        },
        // With or without: which of them is the configuration's, and may change under a client.
        "security": [{ "bearer": [] }, {}],
        "paths": {
            "/v1/images": { "post": send_images(config) },
            "/v1/cases": { "get": list_cases() },
            "/v1/cases/{id}": { "get": show_case() },
            "/v1/cases/{id}/annotated.png": {
                "get": picture("getAnnotated", "The rendition with findings, labels and the notice drawn in", &[])
            },
            "/v1/cases/{id}/rendition.png": {
                "get": picture("getRendition", "The de-identified working picture, 8-bit grey", &[])
            },
            "/v1/cases/{id}/heat/{n}": {
                "get": picture("getHeat", "Where a finding's evidence lies, as an 8-bit grey picture of the rendition's size", &[heat_parameter()])
            },
            "/v1/openapi.json": { "get": {
                "operationId": "getOpenApi",
                "summary": "This document",
                "responses": with_problems(&[], json!({ "200": { "description": "OpenAPI 3.1", "content": { "application/json": { "schema": { "type": "object" } } } } }))
            } }
        },
        "components": { "schemas": schemas(), "securitySchemes": { "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of http.tokens, wherever any is configured. Sending images needs the permission send, everything else of cases needs read."
        } } }
    })
}

fn send_images(config: &Config) -> Value {
    let binary = json!({ "schema": { "type": "string", "format": "binary" } });
    let description = format!(
        "One file as the body, or several as a form. Answers once the broker has them for good. At most {} bytes a file and {} files a form. File names are not kept. Sending a file again is harmless: it has the same id.",
        config.max_body_bytes, config.max_files
    );
    json!({
        "operationId": "sendImages",
        "summary": "Send DICOM, PNG or JPEG files",
        "description": description,
        "requestBody": { "required": true, "content": {
            "application/octet-stream": binary,
            "application/dicom": binary,
            "image/png": binary,
            "image/jpeg": binary,
            "multipart/form-data": { "schema": {
                "type": "object",
                "additionalProperties": { "type": "array", "items": { "type": "string", "format": "binary" } }
            } }
        } },
        "responses": with_problems(&["400", "408", "413", "415", "503"], json!({
            "202": {
                "description": "Accepted: one object for one file, a list for several",
                "headers": { "Location": {
                    "description": "The case's path, for one file",
                    "schema": { "type": "string" }
                } },
                "content": { "application/json": { "schema": { "oneOf": [
                    reference("Accepted"),
                    { "type": "array", "items": reference("Accepted") }
                ] } } }
            }
        }))
    })
}

fn list_cases() -> Value {
    let query = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema });
    json!({
        "operationId": "listCases",
        "summary": "The newest cases, newest first",
        "parameters": [
            query("limit", "How many at most", json!({ "type": "integer", "minimum": 0, "maximum": 2000, "default": 100 })),
            query("state", "Only those that stand here", reference("State")),
            query("show", "Only those that belong here, however far they have come", json!({ "enum": Show::ALL })),
        ],
        "responses": with_problems(&["400"], json!({ "200": ok("The list and the counts of all that is held", json!({
            "type": "object",
            "required": ["cases", "counts"],
            "properties": {
                "cases": { "type": "array", "items": reference("Summary") },
                "counts": { "type": "object" }
            }
        })) }))
    })
}

fn show_case() -> Value {
    json!({
        "operationId": "getCase",
        "summary": "A case: the finished Case, or how far it has come",
        "parameters": [id_parameter()],
        "responses": with_problems(&["404"], json!({ "200": ok(
            "The Case exactly as in the topic duet.reports, once it is there; else its state, and the reason where it could not be processed",
            json!({ "oneOf": [reference("Case"), reference("Unfinished")] })
        ) }))
    })
}

fn picture(operation: &str, summary: &str, more: &[Value]) -> Value {
    let parameters: Vec<Value> =
        std::iter::once(id_parameter()).chain(more.iter().cloned()).collect();
    json!({
        "operationId": operation,
        "summary": summary,
        "parameters": parameters,
        "responses": with_problems(&["404", "503"], json!({
            "200": { "description": "The picture", "content": { "image/png": { "schema": { "type": "string", "format": "binary" } } } },
            "304": { "description": "Still the one that If-None-Match names" }
        }))
    })
}

fn id_parameter() -> Value {
    json!({ "name": "id", "in": "path", "required": true, "description": "The case's id",
            "schema": { "type": "string", "pattern": "^c-[0-9a-f]{32}$" } })
}

fn heat_parameter() -> Value {
    json!({ "name": "n", "in": "path", "required": true, "description": "The finding's number from 0, and `.png`",
            "schema": { "type": "string", "pattern": "^[0-9]+\\.png$" } })
}

fn ok(description: &str, schema: Value) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// What is answered before a route is asked: no token, not permitted or another site, another host, too many.
const AT_THE_GATE: [&str; 4] = ["401", "403", "421", "429"];

fn with_problems(statuses: &[&str], mut responses: Value) -> Value {
    for status in statuses.iter().chain(&AT_THE_GATE) {
        let kinds = ProblemKind::ALL.into_iter().filter(|kind| kind.status().as_str() == *status);
        let names: Vec<_> = kinds.map(ProblemKind::title).collect();
        responses[status] = json!({
            "description": names.join(", or: "),
            "content": { "application/problem+json": { "schema": reference("Problem") } }
        });
    }
    let header =
        |description: &str| json!({ "description": description, "schema": { "type": "string" } });
    responses["401"]["headers"] =
        json!({ "WWW-Authenticate": header("Bearer, and what was wrong with the token") });
    responses["429"]["headers"] = json!({ "Retry-After": header("Seconds to wait") });
    responses
}

fn schemas() -> Value {
    let time = json!({ "type": "string", "format": "date-time" });
    let mut schemas = Map::new();
    let mut case = case_schema();
    if let Some(case) = case.as_object_mut() {
        case.remove("$schema");
        // OpenAPI's references start at the document's root, so the Case's own definitions move there.
        if let Some(Value::Object(definitions)) = case.remove("$defs") {
            schemas.extend(definitions);
        }
    }
    schemas.insert("Case".into(), case);
    schemas.values_mut().for_each(move_references);
    schemas.insert("State".into(), json!({ "type": "string", "enum": CaseState::ALL }));
    schemas.insert(
        "Accepted".into(),
        json!({
            "type": "object",
            "required": ["id", "case"],
            "properties": { "id": reference("CaseId"), "case": { "type": "string" } }
        }),
    );
    schemas.insert("Summary".into(), json!({
        "type": "object",
        "required": ["id", "state", "received_at", "updated_at", "reports", "dead_letters"],
        "properties": {
            "id": reference("CaseId"), "state": reference("State"), "received_at": time, "updated_at": time,
            "reports": { "type": "integer", "description": "More than one where the same file was fed again" },
            "dead_letters": { "type": "integer", "description": "Without those that were sent again" },
            "redriven": { "type": "integer", "description": "Dead letters that were sent again" }
        }
    }));
    schemas.insert("Unfinished".into(), json!({
        "type": "object",
        "required": ["id", "state", "received_at", "updated_at"],
        "properties": {
            "id": reference("CaseId"), "state": reference("State"), "received_at": time, "updated_at": time,
            "dead_letter": { "type": "object", "description": "Why it could not be processed, and where" },
            "case": reference("Case")
        }
    }));
    schemas.insert("Problem".into(), json!({
        "type": "object",
        "description": "RFC 9457 problem details",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string", "format": "uri" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string", "description": "What was wrong and what to do" },
            "accepted": { "type": "array", "items": reference("CaseId"), "description": "Files of the same form that were accepted before" }
        }
    }));
    Value::Object(schemas)
}

fn move_references(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::String(target)) = members.get_mut("$ref") {
                *target = target.replace("#/$defs/", "#/components/schemas/");
            }
            members.values_mut().for_each(move_references);
        }
        Value::Array(items) => items.iter_mut().for_each(move_references),
        _ => {}
    }
}
