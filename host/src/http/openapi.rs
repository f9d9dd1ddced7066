//! `GET /api/openapi.json`: the HTTP routes that are served now, as an OpenAPI 3.1 document.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Map, Value, json};
use sockhop_core::route::{Method, Route};

use crate::contract::{Contract, InboundContract, PluginContract};

use super::Api;
use super::problem::Problem;

/// Returns the description of the routes.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    if let Some(scope) = api.contract_scope() {
        api.keys.allow(&headers, scope)?;
    }
    let needs_tokens = api.auth.needs_tokens() && !api.config.get().auth.anonymous;
    Ok(Json(document(&api.registry.snapshot().contract(), needs_tokens)))
}

/// Renders the document. `needs_tokens`: a request without a token or a key is refused.
fn document(contract: &Contract, needs_tokens: bool) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut schemas = Map::new();
    // The first event of the host is `error`.
    if let Some(error) = contract.host_outbound.first() {
        schemas.insert("Problem".to_owned(), problem_schema(&error.data));
    }
    for plugin in &contract.plugins {
        for route in &plugin.routes {
            let Some(event) = plugin.inbound.iter().find(|event| event.event == route.event) else {
                continue;
            };
            let mut routes = contract.plugins.iter().flat_map(|plugin| &plugin.routes);
            let has_item_route = routes
                .any(|other| other.method == Method::Get && other.path.is_item_of(&route.path));
            add_schemas(&mut schemas, event);
            let operation = operation(plugin, route, event, has_item_route);
            let path = paths.entry(route.path.as_str()).or_insert_with(|| json!({}));
            if let Some(methods) = path.as_object_mut() {
                methods.insert(route.method.name().to_ascii_lowercase(), operation);
            }
        }
    }
    let security = if needs_tokens { json!([{"bearer": []}]) } else { json!([{}, {"bearer": []}]) };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sockhop",
            "version": format!("generation {}", contract.generation),
            "description": "The HTTP routes of the plugins that are served now.",
        },
        "servers": [{"url": "/"}],
        "security": security,
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of a user, or a key with the scope `route`.",
                },
            },
            "schemas": schemas,
        },
    })
}

/// The schema of a problem document: the members of an `error` event, and those of RFC 9457.
fn problem_schema(error: &Value) -> Value {
    let mut schema = error.clone();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, kind) in [
            // Not only the codes of the event: a request has others too.
            ("code", "string"),
            ("type", "string"),
            ("title", "string"),
            ("status", "integer"),
            ("detail", "string"),
        ] {
            properties.insert(name.to_owned(), json!({"type": kind}));
        }
    }
    schema
}

/// The name of the schema of an event's payload or reply.
fn schema_name(event: &str, part: &str) -> String {
    // The names of components have letters, digits and `._-` only. Other characters are written as
    // their code points.
    let safe = |character: char| match character {
        // So that no other event has the same name.
        '.' => "..".to_owned(),
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => character.to_string(),
        _ => format!(".{:x}.", u32::from(character)),
    };
    format!("{}.{part}", event.chars().map(safe).collect::<String>())
}

/// The id of an operation: its method and its path, which together are unique.
fn operation_id(route: &Route) -> String {
    format!("{}{}", route.method.name().to_ascii_lowercase(), route.path.as_str())
}

fn reference(event: &str, part: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{}", schema_name(event, part))})
}

fn add_schemas(schemas: &mut Map<String, Value>, event: &InboundContract) {
    let parts = [("payload", Some(&event.data)), ("reply", event.reply.as_ref())];
    for (part, schema) in parts {
        let Some(schema) = schema else { continue };
        let name = schema_name(&event.event, part);
        let mut schema = schema.clone();
        relocate(&mut schema, &format!("#/components/schemas/{name}"));
        schemas.insert(name, schema);
    }
}

/// The members of a schema that contain schemas by name.
const NAMED_SCHEMAS: [&str; 5] =
    ["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"];

/// Makes the references of a schema to its own parts point to its new place. References to anchors
/// (`#name`) stay: they hold in the whole document.
fn relocate(schema: &mut Value, place: &str) {
    let id = schema.get("$id").and_then(Value::as_str).unwrap_or_default().to_owned();
    relocate_part(schema, id.trim_end_matches('#'), place);
}

/// Does the same with a part of a schema whose `$id` is `id`, or empty.
fn relocate_part(schema: &mut Value, id: &str, place: &str) {
    match schema {
        Value::Object(members) => {
            // The base of references and the dialect are those of the document.
            for name in ["$schema", "$id"] {
                if members.get(name).is_some_and(Value::is_string) {
                    members.remove(name);
                }
            }
            for (name, value) in members.iter_mut() {
                match value {
                    Value::String(target) if ["$ref", "$dynamicRef"].contains(&name.as_str()) => {
                        let own = target.strip_prefix(id).unwrap_or(target);
                        let part = own.strip_prefix('#').unwrap_or(own);
                        if part.is_empty() || (own.starts_with('#') && part.starts_with('/')) {
                            *target = format!("{place}{part}");
                        } else if own.starts_with('#') {
                            *target = own.to_owned();
                        }
                    }
                    // Values, not schemas.
                    _ if ["const", "default", "enum", "examples"].contains(&name.as_str()) => {}
                    // The members have any names, also those above.
                    Value::Object(schemas) if NAMED_SCHEMAS.contains(&name.as_str()) => {
                        schemas.values_mut().for_each(|schema| relocate_part(schema, id, place));
                    }
                    other => relocate_part(other, id, place),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| relocate_part(item, id, place)),
        _ => {}
    }
}

/// The description of one route.
fn operation(
    plugin: &PluginContract,
    route: &Route,
    event: &InboundContract,
    has_item_route: bool,
) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": format!("{} ({} {})", route.event, plugin.name, plugin.version),
        "description": format!("Access: {}.", event.access),
        "tags": [plugin.name],
        "parameters": parameters(route, event),
        "responses": responses(route, event, has_item_route),
    });
    if route.method.has_body()
        && let Some(members) = operation.as_object_mut()
    {
        let content = json!({"application/json": {"schema": body(route, event)}});
        members.insert("requestBody".to_owned(), json!({"content": content}));
    }
    operation
}

/// The variables of the path, and for a request without a body the other properties of the payload
/// in the query.
fn parameters(route: &Route, event: &InboundContract) -> Vec<Value> {
    let place = format!("#/components/schemas/{}", schema_name(&event.event, "payload"));
    let properties = event.data.get("properties").and_then(Value::as_object);
    let required = event.data.get("required").and_then(Value::as_array);
    let schema = |name: &str| {
        let mut schema =
            properties.and_then(|all| all.get(name)).cloned().unwrap_or_else(|| json!({}));
        relocate(&mut schema, &place);
        schema
    };
    let in_path = route
        .path
        .variables()
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": schema(name)}));
    let in_query = properties.into_iter().flatten().filter_map(|(name, _)| {
        let is_in_path = route.path.variables().any(|variable| variable == name);
        let is_required = required.is_some_and(|all| all.iter().any(|other| other == name));
        (!route.method.has_body() && !is_in_path).then(|| {
            json!({"name": name, "in": "query", "required": is_required, "schema": schema(name)})
        })
    });
    in_path.chain(in_query).collect()
}

/// The schema of the body: that of the payload without the variables of the path.
fn body(route: &Route, event: &InboundContract) -> Value {
    let mut variables = route.path.variables().peekable();
    if variables.peek().is_none() {
        return reference(&event.event, "payload");
    }
    let variables: Vec<_> = variables.collect();
    let mut schema = event.data.clone();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|name, _| !variables.contains(&name.as_str()));
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !name.as_str().is_some_and(|name| variables.contains(&name)));
    }
    relocate(
        &mut schema,
        &format!("#/components/schemas/{}", schema_name(&event.event, "payload")),
    );
    schema
}

fn responses(route: &Route, event: &InboundContract, has_item_route: bool) -> Value {
    let problem = json!({
        "description": "The event was rejected.",
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
        },
    });
    let Some(reply) = &event.reply else {
        return json!({"204": {"description": "Handled."}, "default": problem});
    };
    let content = json!({"application/json": {"schema": reference(&event.event, "reply")}});
    let has_id = reply.pointer("/properties/id").is_some();
    if route.method == Method::Post && has_item_route && has_id {
        let location =
            json!({"description": "The path of the item.", "schema": {"type": "string"}});
        let created = json!({
            "description": "Created.", "headers": {"Location": location}, "content": content,
        });
        return json!({"201": created, "default": problem});
    }
    json!({"200": {"description": "The reply.", "content": content}, "default": problem})
}

#[cfg(test)]
mod tests {
    use sockhop_core::arguments::Arguments;

    use crate::rule::Access;

    use super::*;

    fn contract() -> Contract {
        let data = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"id": {"$ref": "#/$defs/Id"}, "text": {"type": "string"}},
            "required": ["id", "text"],
            "$defs": {"Id": {"type": "integer"}},
        });
        let event = |event: &str, reply| InboundContract {
            event: event.to_owned(),
            data: data.clone(),
            arguments: Arguments::One,
            reply_arguments: Arguments::One,
            reply,
            access: Access::Authenticated,
        };
        let route =
            |method: &str, path: &str, event: &str| Route::new(method, path, event).unwrap();
        let reply = json!({"type": "object", "properties": {"id": {"type": "integer"}}});
        let notes = PluginContract {
            name: "notes".to_owned(),
            version: "1.0.0".to_owned(),
            inbound: vec![event("a note", Some(reply)), event("drop", None)],
            outbound: Vec::new(),
            rooms: Vec::new(),
            listens: Vec::new(),
            acks: Vec::new(),
            timers: Vec::new(),
            schedules: Vec::new(),
            routes: vec![
                route("POST", "/notes", "a note"),
                route("PATCH", "/notes/{id}", "a note"),
                route("GET", "/notes/{id}", "a note"),
                route("DELETE", "/notes/{id}", "drop"),
            ],
        };
        Contract { plugins: vec![notes], ..Contract::new(7, [], &[]) }
    }

    #[test]
    fn a_route_is_described_by_the_schemas_of_its_event() {
        let document = document(&contract(), true);
        let at = |pointer: &str| document.pointer(pointer).unwrap_or(&Value::Null);
        let id = json!({"$ref": "#/components/schemas/a.20.note.payload/$defs/Id"});
        assert_eq!(
            *at("/paths/~1notes/post/requestBody/content/application~1json/schema"),
            json!({"$ref": "#/components/schemas/a.20.note.payload"})
        );
        let patch = "/paths/~1notes~1{id}/patch";
        assert_eq!(
            *at(&format!("{patch}/parameters")),
            json!([{"name": "id", "in": "path", "required": true, "schema": id}])
        );
        let body = at(&format!("{patch}/requestBody/content/application~1json/schema"));
        assert_eq!(body["required"], json!(["text"]));
        assert_eq!(body["properties"], json!({"text": {"type": "string"}}));
        let query = at("/paths/~1notes~1{id}/get/parameters/1");
        assert_eq!((&query["in"], &query["name"]), (&json!("query"), &json!("text")));
        assert_eq!(*at("/components/schemas/a.20.note.payload/properties/id"), id);
        assert!(at("/components/schemas/a.20.note.payload/$schema").is_null());
        assert!(at("/paths/~1notes/post/responses/201/headers/Location").is_object());
        assert!(at("/paths/~1notes~1{id}/delete/responses/204").is_object());
    }

    #[test]
    fn two_events_have_two_schemas_and_two_routes_two_ids() {
        let names = ["a b", "a.20.b", "a..20..b", "a.b"].map(|event| schema_name(event, "reply"));
        assert_eq!(names, ["a.20.b.reply", "a..20..b.reply", "a....20....b.reply", "a..b.reply"]);
        let id = |path: &str| operation_id(&Route::new("GET", path, "list").unwrap());
        assert_ne!(id("/a/b"), id("/a_b"));
        assert_ne!(id("/a/{b}"), id("/a/b"));
    }

    #[test]
    fn references_are_relocated_in_schemas_and_not_in_values() {
        let reference = json!({"$ref": "#/$defs/Id"});
        let mut schema = json!({
            "properties": {"default": reference, "enum": {"items": reference}},
            "default": reference,
            "items": {"$ref": "#anchor"},
        });
        relocate(&mut schema, "#/place");
        let relocated = json!({"$ref": "#/place/$defs/Id"});
        let expected = json!({
            "properties": {"default": relocated, "enum": {"items": relocated}},
            "default": reference,
            "items": {"$ref": "#anchor"},
        });
        assert_eq!(schema, expected);
    }

    #[test]
    fn references_by_the_id_of_a_schema_are_relocated() {
        let of = |target: &str, id: &str| {
            let mut schema = json!({"$id": id, "items": {"$ref": target}});
            relocate(&mut schema, "#/place");
            assert!(schema.get("$id").is_none());
            schema["items"]["$ref"].clone()
        };
        let id = "https://example.com/forms";
        for (target, relocated) in [
            ("https://example.com/forms#word", "#word"),
            ("https://example.com/forms#/$defs/Id", "#/place/$defs/Id"),
            ("https://example.com/forms", "#/place"),
            ("#/$defs/Id", "#/place/$defs/Id"),
            ("#", "#/place"),
            ("", "#/place"),
            ("#word", "#word"),
        ] {
            assert_eq!(of(target, id), json!(relocated), "{target}");
            assert_eq!(of(target, "https://example.com/forms#"), json!(relocated), "{target}");
        }
    }

    #[test]
    fn callers_need_a_token_only_if_the_host_checks_tokens() {
        assert_eq!(document(&contract(), true)["security"], json!([{"bearer": []}]));
        assert_eq!(document(&contract(), false)["security"], json!([{}, {"bearer": []}]));
    }
}
