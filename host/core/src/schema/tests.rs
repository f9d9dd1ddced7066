//! Tests of the schema module: what schemas accept, what they refuse, and the messages of their
//! violations.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const MAX: usize = 256 * 1024;

fn schema(source: &Value) -> Schema {
    Schema::compile(&source.to_string(), MAX).unwrap()
}

fn refused(source: &Value) -> SchemaError {
    Schema::compile(&source.to_string(), MAX).unwrap_err()
}

/// Path, rule and message of each violation.
fn violations(source: &Value, value: &Value) -> Vec<(String, String, String)> {
    let details = schema(source).check(value).unwrap_err();
    details.into_iter().map(|detail| (detail.path, detail.rule, detail.message)).collect()
}

fn one(source: &Value, value: &Value) -> (String, String, String) {
    let mut all = violations(source, value);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn triple(path: &str, rule: &str, message: &str) -> (String, String, String) {
    (path.to_owned(), rule.to_owned(), message.to_owned())
}

#[test]
fn a_record_with_several_faults_is_told_each_with_its_place() {
    let record = json!({
        "type": "object",
        "properties": {"user_id": {"type": ["integer", "string"]}, "content": {"type": "string", "minLength": 1, "maxLength": 10000},
                       "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}},
        "required": ["user_id", "content"], "additionalProperties": false
    });
    assert_eq!(schema(&record).check(&json!({"user_id": 1, "content": "x"})), Ok(()));
    assert_eq!(one(&record, &json!({"user_id": 1})), triple("/content", "required", "is required"));
    assert_eq!(
        one(&record, &json!({"user_id": 1, "content": ""})),
        triple("/content", "minLength", "must be at least 1 character long")
    );
    let long = json!({"user_id": 1, "content": "x".repeat(10_001)});
    assert_eq!(
        one(&record, &long),
        triple("/content", "maxLength", "must be at most 10000 characters long")
    );
    assert_eq!(
        one(&record, &json!({"user_id": 1.5, "content": "x"})),
        triple("/user_id", "type", "must be an integer or a string")
    );
    assert_eq!(
        one(&record, &json!({"user_id": 1, "content": "x", "a/b~": 1})),
        triple("/a~1b~0", "additionalProperties", "is not allowed")
    );
    assert_eq!(one(&record, &json!(null)), triple("", "type", "must be an object"));
    let mut all = violations(&record, &json!({"content": 1, "tags": ["secret"]}));
    all.sort();
    assert_eq!(
        all,
        [
            triple("/content", "type", "must be a string"),
            triple("/tags/0", "enum", "must be one of \"a\", \"b\""),
            triple("/user_id", "required", "is required"),
        ]
    );
}

#[test]
fn violations_never_repeat_the_document() {
    let secret = "s3cr3t";
    for (source, value) in [
        (json!({"propertyNames": {"maxLength": 3}}), json!({(secret): 1})),
        (json!({"propertyNames": {"pattern": "^a$"}}), json!({(secret): 1})),
        (json!({"not": {"type": "string"}}), json!(secret)),
        (json!({"const": 1}), json!(secret)),
        (json!({"enum": [1, 2]}), json!(secret)),
        (json!({"format": "date-time"}), json!(secret)),
        (json!({"pattern": "^a+$"}), json!(secret)),
        (json!({"contains": {"type": "integer"}}), json!([secret])),
        (json!({"uniqueItems": true}), json!([secret, secret])),
        (json!({"prefixItems": [true], "items": false}), json!([1, secret])),
        (json!({"prefixItems": [true], "unevaluatedItems": false}), json!([1, secret])),
        (
            json!({"anyOf": [{"type": "integer"}, {"maxLength": 2}, {"minLength": 20}]}),
            json!(secret),
        ),
        (json!({"oneOf": [true, true]}), json!(secret)),
        (
            json!({"anyOf": [{"additionalProperties": {"const": 1}}, {"additionalProperties": {"enum": [2]}}]}),
            json!({(secret): secret}),
        ),
        (
            json!({"anyOf": [{"additionalProperties": {"type": "null"}}, {"required": ["a"]}]}),
            json!({(secret): secret}),
        ),
        (json!({"dependentRequired": {"a": ["b"]}}), json!({"a": secret})),
        (json!({"contentEncoding": "base64", "type": "integer"}), json!(secret)),
        (json!(false), json!(secret)),
    ] {
        for (path, _, message) in violations(&source, &value) {
            assert!(
                !message.contains(secret) && !path.contains(secret),
                "{source}: {path} {message}"
            );
            assert_eq!(message.chars().next().map(char::is_lowercase), Some(true), "{message}");
        }
    }
}

#[test]
fn a_format_is_checked_and_an_unknown_one_is_not() {
    let time = json!({"format": "date-time"});
    assert_eq!(schema(&time).check(&json!("2024-01-01T00:00:00Z")), Ok(()));
    assert_eq!(
        one(&time, &json!("yesterday")),
        triple("", "format", "must match the format `date-time`")
    );
    assert_eq!(schema(&json!({"type": "integer", "format": "int64"})).check(&json!(5)), Ok(()));
}

#[test]
fn an_optional_record_is_told_what_is_wrong_in_the_record() {
    let optional = json!({"properties": {"note": {"anyOf": [{"$ref": "#/$defs/Note"}, {"type": "null"}]}},
                          "$defs": {"Note": {"type": "object", "required": ["content"]}}});
    assert_eq!(
        one(&optional, &json!({"note": {}})),
        triple("/note/content", "required", "is required")
    );
    assert_eq!(
        one(&optional, &json!({"note": 5})),
        triple("/note", "anyOf", "fits none of the allowed forms: an object or null")
    );
}

#[test]
fn a_value_that_fits_no_alternative_is_told_which_there_are() {
    let forms = "fits none of the allowed forms: ";
    let unlike =
        json!({"anyOf": [{"type": ["string", "integer"]}, {"type": "array"}, {"type": "null"}]});
    assert_eq!(
        one(&unlike, &json!(true)),
        triple("", "anyOf", &format!("{forms}an integer or a string, an array or null"))
    );
    // What schemars generates for an enum whose variants have documentation.
    let words =
        json!({"oneOf": [{"const": "red", "type": "string"}, {"const": "blue", "type": "string"}]});
    assert_eq!(
        one(&words, &json!("green")),
        triple("", "const", "must be one of \"red\", \"blue\"")
    );
    assert_eq!(one(&words, &json!(7)), triple("", "oneOf", &format!("{forms}a string")));
    // An enum with data: each variant is an object with one property.
    let variant = |name: &str| {
        let properties = json!({(name): {"type": "integer"}});
        json!({"type": "object", "properties": properties, "required": [name], "additionalProperties": false})
    };
    let variants = json!({"oneOf": [variant("Circle"), variant("Square")]});
    assert_eq!(
        one(&variants, &json!({"Line": 1})),
        triple("", "oneOf", &format!("{forms}an object with `Circle` or an object with `Square`"))
    );
    let nested = json!({"anyOf": [variants, {"type": "null"}]});
    assert_eq!(
        one(&nested, &json!({"Line": 1})).2,
        format!("{forms}an object with `Circle` or an object with `Square`")
    );
    let bounds = json!({"anyOf": [{"type": "string", "maxLength": 3}, {"format": "email"}]});
    let message =
        "one that must be at most 3 characters long or one that must match the format `email`";
    assert_eq!(one(&bounds, &json!("abcde")).2, format!("{forms}{message}"));
}

#[test]
fn a_value_with_a_tag_is_told_what_is_wrong_with_its_variant_or_its_tag() {
    let variant = |tag: &str, rest: &str| {
        let properties = json!({"kind": {"const": tag}, "size": {"type": "integer"}});
        json!({"type": "object", "properties": properties, "required": ["kind", rest]})
    };
    let tagged = json!({"oneOf": [variant("circle", "size"), variant("square", "size"), variant("text", "content")]});
    assert_eq!(
        one(&tagged, &json!({"kind": "circle"})),
        triple("/size", "required", "is required")
    );
    assert_eq!(
        one(&tagged, &json!({"kind": "text", "size": 1})),
        triple("/content", "required", "is required")
    );
    assert_eq!(
        one(&tagged, &json!({"kind": "line", "size": 1})),
        triple("/kind", "const", "must be one of \"circle\", \"square\", \"text\"")
    );
    assert_eq!(one(&tagged, &json!({"size": 1})), triple("/kind", "required", "is required"));
}

#[test]
fn a_long_list_of_forms_or_constants_is_cut_and_says_so() {
    let constants: Vec<_> = (0..100).map(|number| format!("constant-{number}")).collect();
    let (_, _, message) = one(&json!({"enum": constants}), &json!("another"));
    assert!(
        message.starts_with("must be one of \"constant-0\", \"constant-1\"")
            && message.ends_with(" more"),
        "{message}"
    );
    assert!(message.len() < 256, "{message}");
    let variant = |number| json!({"type": "object", "required": [format!("variant-{number}")]});
    let (_, _, message) =
        one(&json!({"oneOf": (0..100).map(variant).collect::<Vec<_>>()}), &json!({}));
    assert!(
        message.contains("an object with `variant-1`") && message.ends_with(" and others"),
        "{message}"
    );
    assert!(message.len() < 256, "{message}");
}

#[test]
fn violations_are_few_however_many_faults_there_are() {
    let numbers = json!({"items": {"type": "integer"}});
    assert_eq!(violations(&numbers, &json!(vec!["x"; 1000])).len(), MAX_DETAILS);
    assert_eq!(
        violations(&numbers, &json!(vec!["x"; 50_000])),
        [triple("/0", "type", "must be an integer")]
    );
    let none = json!({"properties": {"a": true}, "additionalProperties": false});
    let many: serde_json::Map<String, Value> =
        (0..100).map(|i| (format!("k{i}"), json!(1))).collect();
    assert_eq!(violations(&none, &Value::Object(many)).len(), MAX_DETAILS);
    assert_eq!(one(&none, &json!({"k".repeat(10_000): 1})).0, "");
}

#[test]
fn what_is_no_schema_is_refused_with_its_place() {
    assert_eq!(Schema::compile("{}", 1), Err(SchemaError::TooLarge { bytes: 2, max: 1 }));
    assert!(matches!(Schema::compile("{", MAX), Err(SchemaError::NotJson { .. })));
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert!(matches!(Schema::compile(&deep, MAX), Err(SchemaError::NotJson { .. })));
    let SchemaError::Invalid { path, .. } =
        refused(&json!({"properties": {"a": {"minLength": -1}}}))
    else {
        panic!()
    };
    assert_eq!(path, "/properties/a/minLength");
    let SchemaError::Invalid { path, .. } =
        refused(&json!({"properties": {"a": {"type": "text"}}}))
    else {
        panic!()
    };
    assert_eq!(path, "/properties/a/type");
    assert!(matches!(refused(&json!([])), SchemaError::Invalid { .. }));
}

#[test]
fn a_dialect_other_than_2020_12_is_refused() {
    let old = json!({"$schema": "http://json-schema.org/draft-07/schema#"});
    assert_eq!(
        refused(&old),
        SchemaError::UnsupportedDialect {
            found: "\"http://json-schema.org/draft-07/schema#\"".to_owned()
        }
    );
    assert!(matches!(
        refused(&json!({"properties": {"a": {"$schema": "x:y"}}})),
        SchemaError::UnsupportedDialect { .. }
    ));
    schema(&json!({"$schema": DIALECT}));
    schema(&json!({"$schema": format!("{DIALECT}#")}));
}

#[test]
fn a_reference_out_of_the_document_is_refused_by_name() {
    for reference in [
        "https://example.com/a.json",
        "http://127.0.0.1:1/x",
        "file:///etc/passwd",
        "other.json",
        "other.json#/a",
        DIALECT,
    ] {
        let error = SchemaError::ExternalReference { reference: reference.to_owned() };
        assert_eq!(refused(&json!({"$ref": reference})), error);
        assert_eq!(refused(&json!({"items": {"not": {"$dynamicRef": reference}}})), error);
        // Also not through a subschema that only a reference reaches.
        assert_eq!(refused(&json!({"$ref": "#/hidden/0", "hidden": [{"$ref": reference}]})), error);
    }
    assert!(matches!(
        refused(&json!({"$defs": {"a": {"$id": "file:///etc/passwd"}}})),
        SchemaError::Invalid { .. }
    ));
}

#[test]
fn a_reference_within_the_document_is_followed() {
    let forms = json!({
        "$id": "https://example.com/forms",
        "properties": {"a": {"$ref": "#/$defs/a%20b~1c"}, "b": {"$ref": "#word"}, "c": {"$ref": "https://example.com/forms#word"}},
        "$defs": {"a b/c": {"type": "integer"}, "w": {"$anchor": "word", "type": "string"}}
    });
    assert_eq!(schema(&forms).check(&json!({"a": 1, "b": "x", "c": "y"})), Ok(()));
    assert_eq!(violations(&forms, &json!({"a": "x", "b": 1, "c": 2})).len(), 3);
    for dangling in ["#/$defs/nothing", "#nothing"] {
        assert_eq!(
            refused(&json!({"$ref": dangling})),
            SchemaError::DanglingReference { reference: dangling.to_owned() }
        );
    }
    for keyword in ["$ref", "$dynamicRef"] {
        assert!(matches!(refused(&json!({keyword: 1})), SchemaError::Invalid { .. }), "no text");
    }
    // A property may be called `$ref`, and a constant may look like a reference.
    schema(
        &json!({"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "https://example.com"}}),
    );
}

#[test]
fn a_pattern_that_needs_backtracking_or_much_memory_is_refused() {
    let error = SchemaError::Pattern { path: "/properties/a/pattern".to_owned() };
    for pattern in ["(?=a)b", r"(a)\1", "([a-z]{1000}){1000}"] {
        assert_eq!(
            refused(&json!({"properties": {"a": {"pattern": pattern}}})),
            error,
            "{pattern}"
        );
        assert!(
            matches!(
                refused(&json!({"patternProperties": {pattern: true}})),
                SchemaError::Pattern { .. }
            ),
            "{pattern}"
        );
    }
    let many: Vec<Value> =
        (0..=MAX_PATTERNS).map(|i| json!({"pattern": format!("^{i}+$")})).collect();
    assert_eq!(refused(&json!({"anyOf": many})), SchemaError::TooManyPatterns);
    let evil = json!({"pattern": "^(a+)+$"});
    assert_eq!(one(&evil, &json!(format!("{}!", "a".repeat(100_000)))).1, "pattern");
}

#[test]
fn a_circle_of_references_is_refused_and_a_recursive_record_is_not() {
    for circle in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}}}),
    ] {
        assert_eq!(refused(&circle), SchemaError::TooNested);
    }
    let tree = json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}});
    assert_eq!(schema(&tree).check(&json!({"children": [{"children": []}]})), Ok(()));
    assert_eq!(one(&tree, &json!({"children": [{"children": 1}]})).0, "/children/0/children");
    // Two paths to the same schema are no cycle.
    schema(&json!({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}, {"$ref": "#/$defs/a"}],
                   "$defs": {"a": {"$ref": "#/$defs/b"}, "b": true}}));
}

/// The longest allowed chain at every level of the deepest document, on a stack of the size of
/// tokio's worker threads.
#[test]
fn the_deepest_document_under_the_longest_chains_fits_a_workers_stack() {
    for (link, under) in [
        ("$ref", "items"),
        ("allOf", "items"),
        ("anyOf", "items"),
        ("not", "items"),
        ("anyOf", "unevaluatedItems"),
    ] {
        let to = |place: String| match link {
            "$ref" => json!({"$ref": place}),
            "not" => json!({"not": {"not": {"$ref": place}}}),
            _ => json!({link: [{"$ref": place}]}),
        };
        let per_link = match link {
            "$ref" => 1,
            "not" => 3,
            _ => 2,
        };
        let links = (MAX_CHAIN - 2) / per_link;
        let mut defs: serde_json::Map<String, Value> =
            (0..links).map(|i| (format!("d{i}"), to(format!("#/$defs/d{}", i + 1)))).collect();
        defs.insert(format!("d{links}"), json!({"type": "array", under: {"$ref": "#/$defs/d0"}}));
        let source = json!({"items": {"$ref": "#/$defs/d0"}, "$defs": defs}).to_string();
        let run = move || {
            let Ok(schema) = Schema::compile(&source, MAX) else { return Err(source) };
            let mut deep = json!(1);
            for _ in 0..127 {
                deep = json!([deep]);
            }
            let _ = schema.check(&deep);
            Ok(())
        };
        std::thread::Builder::new()
            .stack_size(2 * 1024 * 1024)
            .spawn(run)
            .unwrap()
            .join()
            .unwrap()
            .unwrap();
    }
}

#[test]
fn a_chain_of_thousands_of_references_is_refused() {
    let mut defs: serde_json::Map<String, Value> = (0..5000)
        .map(|i| (format!("{i}"), json!({"$ref": format!("#/$defs/{}", i + 1)})))
        .collect();
    defs.insert("5000".to_owned(), json!(true));
    assert_eq!(refused(&json!({"$ref": "#/$defs/0", "$defs": defs})), SchemaError::TooNested);
}

#[test]
fn a_choice_that_multiplies_at_every_level_is_refused_before_it_is_followed() {
    let source = json!({"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [
        {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1},
        {"type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 1},
        {"type": "boolean"}
    ]}}});
    let mut deep = json!(1);
    for _ in 0..60 {
        deep = json!([deep]);
    }
    assert_eq!(
        one(&source, &deep),
        triple("", "schema", "is too expensive to check against its schema")
    );
    assert_eq!(schema(&source).check(&json!([[[true, true]]])), Ok(()));
    // The same multiplication without recursion.
    let mut defs: serde_json::Map<String, Value> = (0..10)
        .map(|i| {
            (
                format!("d{i}"),
                json!({"allOf": vec![json!({"$ref": format!("#/$defs/d{}", i + 1)}); 9]}),
            )
        })
        .collect();
    defs.insert("d10".to_owned(), json!({"type": "integer"}));
    let source = json!({"$ref": "#/$defs/d0", "$defs": defs});
    assert_eq!(one(&source, &json!(1)).1, "schema");
}

#[test]
fn many_patterns_and_long_lists_of_constants_cost_what_they_cost() {
    let patterns = json!({"allOf": (0..90).map(|i| json!({"pattern": format!("^[a-z{i}]*$")})).collect::<Vec<_>>()});
    assert_eq!(schema(&patterns).check(&json!("a".repeat(1_000))), Ok(()));
    assert_eq!(one(&patterns, &json!("a".repeat(100_000))).1, "schema");
    let constants = json!({"items": {"enum": (0..20_000).map(|i| json!([i])).collect::<Vec<_>>()}});
    assert_eq!(schema(&constants).check(&json!([[1], [2]])), Ok(()));
    assert_eq!(one(&constants, &json!(vec![json!([1]); 10_000])).1, "schema");
}

#[test]
fn patterns_on_names_cost_what_they_cost() {
    let patterns = || (0..90).map(|i| format!("^[a-z{i}]*$"));
    let names = patterns().map(|pattern| json!({"pattern": pattern})).collect::<Vec<_>>();
    let properties: serde_json::Map<String, Value> =
        patterns().map(|pattern| (pattern, json!(true))).collect();
    let names = json!({"propertyNames": {"allOf": names}});
    let properties = json!({"patternProperties": properties});
    for source in [names, properties] {
        assert_eq!(schema(&source).check(&json!({"a".repeat(1_000): 1})), Ok(()));
        assert_eq!(one(&source, &json!({"a".repeat(100_000): 1})).1, "schema");
    }
    let many = vec![json!({"$ref": "#/$defs/p"}); 10_000];
    let many = json!({"propertyNames": {"allOf": many}, "$defs": {"p": {"pattern": "^[a-z]*$"}}});
    assert_eq!(schema(&many).check(&json!({"a": 1})), Ok(()));
    assert_eq!(one(&many, &json!({"a".repeat(1_000): 1})).1, "schema");
}

#[test]
fn a_tree_of_many_values_is_no_choice_that_multiplies() {
    let tree = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}}});
    let mut grown = json!({"name": "leaf"});
    for _ in 0..12 {
        grown = json!({"name": "branch", "children": [grown.clone(), grown]});
    }
    assert_eq!(schema(&tree).check(&grown), Ok(()));
    let expression = json!({"$defs": {"e": {"oneOf": [
        {"type": "object", "required": ["all"], "properties": {"all": {"type": "array", "items": {"$ref": "#/$defs/e"}}}},
        {"type": "object", "required": ["any"], "properties": {"any": {"type": "array", "items": {"$ref": "#/$defs/e"}}}},
        {"type": "string"}
    ]}}, "$ref": "#/$defs/e"});
    let mut deep = json!("x");
    for _ in 0..50 {
        deep = json!({"any": [deep]});
    }
    assert_eq!(schema(&expression).check(&deep), Ok(()));
}

#[test]
fn a_property_of_the_document_is_found_wherever_it_is_named() {
    for source in [
        json!({"properties": {"error": true}}),
        json!({"required": ["error"]}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"error": true}}}}),
        json!({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"allOf": [{"properties": {"error": true}}]}}}),
        json!({"oneOf": [{"properties": {"error": true}}]}),
        json!({"if": true, "then": {"properties": {"error": true}}}),
    ] {
        assert!(schema(&source).allows_top_level_property(Arguments::One, "error"), "{source}");
        assert!(!schema(&source).allows_top_level_property(Arguments::One, "other"), "{source}");
    }
    for source in [
        json!(true),
        json!({"properties": {"a": {"properties": {"error": true}}}}),
        json!({"$defs": {"a": {"properties": {"error": true}}}}),
    ] {
        assert!(!schema(&source).allows_top_level_property(Arguments::One, "error"), "{source}");
    }
}

#[test]
fn a_property_may_be_there_where_it_is_listed_or_nothing_is() {
    let listed = json!({"type": "object", "properties": {"a": true}});
    let with_defs = |source: Value| json!({"$ref": "#/$defs/d", "$defs": {"d": source}});
    for (source, may) in [
        (json!({"type": "object", "properties": {"name": true}}), true),
        (listed.clone(), false),
        (with_defs(listed.clone()), false),
        (json!({"anyOf": [listed, {"type": "null"}]}), false),
        (json!({"properties": {"a": true}, "additionalProperties": {"type": "string"}}), true),
        (json!({"properties": {"a": true}, "additionalProperties": false}), false),
        (json!({"properties": {"a": true}, "patternProperties": {"^n": true}}), true),
        (json!(true), true),
        (json!({"type": "object"}), true),
        (with_defs(json!({"type": ["object", "null"]})), true),
        (json!({"type": "integer"}), false),
        (with_defs(json!({"type": "string"})), false),
        (json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), false),
        (json!({"enum": ["a", "b"]}), false),
        (json!({"const": null}), false),
        (json!(false), false),
    ] {
        assert_eq!(schema(&source).may_have_property(Arguments::One, "name"), may, "{source}");
    }
}

#[test]
fn two_schemas_are_equal_when_their_documents_are() {
    let compile = |text| Schema::compile(text, MAX).unwrap();
    assert_eq!(
        compile(r#"{"type": "object", "required": []}"#),
        compile(r#"{ "required":[],"type":"object" }"#)
    );
    assert_ne!(compile("true"), compile("{}"));
    assert_eq!(compile("true").source, json!(true));
}

proptest! {
    #[test]
    fn a_check_agrees_with_the_rule_that_its_schema_writes_down(
        id in prop_oneof![any::<i64>().prop_map(Value::from), "[a-z]{0,5}".prop_map(Value::from), Just(Value::Null)],
        content in prop_oneof!["\\PC{0,8}".prop_map(Value::from), any::<bool>().prop_map(Value::from)],
        has_content in any::<bool>(),
    ) {
        let record = schema(&json!({"type": "object", "required": ["id", "content"], "properties": {
            "id": {"type": "integer", "minimum": 1}, "content": {"type": "string", "minLength": 2, "maxLength": 5}}}));
        let mut value = json!({"id": id});
        if has_content {
            value["content"] = content.clone();
        }
        let id_fits = id.as_i64().is_some_and(|id| id >= 1);
        let content_fits = has_content && content.as_str().is_some_and(|text| (2..=5).contains(&text.chars().count()));
        match record.check(&value) {
            Ok(()) => prop_assert!(id_fits && content_fits),
            Err(details) => {
                let mut places: Vec<_> = details.iter().map(|detail| detail.path.as_str()).collect();
                places.sort_unstable();
                let expected: Vec<_> = [("/content", content_fits), ("/id", id_fits)].iter().filter(|(_, fits)| !fits).map(|(at, _)| *at).collect();
                prop_assert_eq!(places, expected);
            }
        }
    }

    #[test]
    fn any_json_either_compiles_or_is_refused(text in "[\\[\\]{}\",:a-z0-9$#/]{0,40}") {
        let _ = Schema::compile(&text, MAX);
    }
}
