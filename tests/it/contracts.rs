//! Every write is one that the vendor's own description of its API allows, with the limits that the
//! descriptions leave out and the servers keep.

use std::path::Path;

use herald::matching::gate::Carries;
use herald::vendors::{Row, TABLE};
use jsonschema::Draft;
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::scene::Scene;
use crate::support::flux::{kustomization_event, sha};

/// A vendor's description, and what it does not say.
struct Contract {
    /// Its file.
    file: &'static str,
    /// The operation that writes a status, and what stands before its path.
    operation: &'static str,
    prefix: &'static str,
    /// The schema of the body, seen from the operation or, with `#`, from the whole.
    schema: &'static str,
    /// What must be there.
    required: &'static [&'static str],
    /// Characters that a field may have.
    limits: &'static [(&'static str, usize)],
}

impl Contract {
    /// The operation's address, with one segment for each part in braces.
    fn path(&self) -> Regex {
        let parts = self.operation.split('/').map(|part| match part.starts_with('{') {
            true => "[^/?]+".to_owned(),
            false => regex::escape(part),
        });
        let path = parts.collect::<Vec<_>>().join("/");
        Regex::new(&format!("^{}{path}$", regex::escape(self.prefix))).expect("valid")
    }
}

fn contract(row: &Row) -> Contract {
    const JSON: &str = "/requestBody/content/application~1json/schema";
    match row.name {
        "github" => Contract {
            file: "github",
            operation: "/repos/{owner}/{repo}/statuses/{sha}",
            prefix: "/api/v3",
            schema: JSON,
            required: &["state"],
            limits: &[("description", 140)],
        },
        "gitea" => Contract {
            file: "gitea",
            operation: "/repos/{owner}/{repo}/statuses/{sha}",
            prefix: "/api/v1",
            schema: "#/definitions/CreateStatusOption",
            required: &["state"],
            limits: &[],
        },
        "gitlab" => Contract {
            file: "gitlab",
            operation: "/api/v4/projects/{id}/statuses/{sha}",
            prefix: "",
            schema: JSON,
            required: &["state"],
            limits: &[("description", 255), ("target_url", 255)],
        },
        "bitbucket" => Contract {
            file: "bbcloud",
            operation: "/repositories/{workspace}/{repo_slug}/commit/{commit}/statuses/build",
            prefix: "/2.0",
            // Without the part that asks for a `type`, which is for answers.
            schema: "#/components/schemas/commitstatus/allOf/1",
            required: &["key", "state", "url"],
            limits: &[("key", 40), ("name", 254), ("url", 449)],
        },
        "bitbucketserver" => Contract {
            file: "bbdc",
            operation: "/api/latest/projects/{projectKey}/repos/{repositorySlug}/commits/{commitId}/builds",
            prefix: "/rest",
            schema: "#/components/schemas/RestBuildStatusSetRequest",
            required: &["key", "state", "url"],
            limits: &[("key", 255), ("name", 255), ("url", 450)],
        },
        "azuredevops" => Contract {
            file: "azdo",
            operation: "/{organization}/{project}/_apis/git/repositories/{repositoryId}/commits/{commitId}/statuses",
            prefix: "",
            schema: "#/definitions/GitStatus",
            required: &["state", "context"],
            limits: &[],
        },
        other => panic!("no contract of {other} is written down here"),
    }
}

/// OpenAPI's `nullable` in the words of JSON Schema.
fn plain(schema: &mut Value) {
    if let Value::Object(fields) = schema
        && fields.get("nullable") == Some(&true.into())
        && let Some(kind) = fields.get("type").filter(|kind| kind.is_string()).cloned()
    {
        fields.insert("type".to_owned(), json!([kind, "null"]));
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(plain),
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

/// What a body must be.
fn validator(contract: &Contract, description: &Value) -> jsonschema::Validator {
    let operation = &description["paths"][contract.operation]["post"];
    assert!(operation.is_object(), "{} has no {}", contract.file, contract.operation);
    let body = match contract.schema.strip_prefix('#') {
        Some(pointer) => description.pointer(pointer),
        None => operation.pointer(contract.schema),
    };
    let body = body.expect("the description has a schema of the body");
    let fields = body["properties"].as_object().expect("the body has fields");
    let limits: Map<String, Value> =
        contract.limits.iter().map(|(field, most)| ((*field).to_owned(), json!({"maxLength": most}))).collect();
    let mut schema = json!({
        "allOf": [
            body,
            // No field that the vendor does not know.
            {"properties": fields.keys().map(|name| (name.clone(), json!({}))).collect::<Map<_, _>>(), "additionalProperties": false},
            {"properties": limits, "required": contract.required},
        ],
    });
    for shared in ["components", "definitions"] {
        if let Some(shared_schemas) = description.get(shared) {
            schema[shared] = shared_schemas.clone();
        }
    }
    plain(&mut schema);
    jsonschema::options().with_draft(Draft::Draft4).build(&schema).expect("a schema")
}

#[tokio::test]
async fn every_write_is_as_the_vendors_description_allows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/contracts");
    if !folder.is_dir() {
        println!("skipped: there is no ../shared/contracts to check against");
        return;
    }
    for row in TABLE.iter().filter(|row| row.carries == Carries::CommitStatus) {
        let contract = contract(row);
        let text = std::fs::read_to_string(folder.join(format!("{}.cut.json", contract.file))).expect("a description");
        let validator = validator(&contract, &serde_json::from_str(&text).expect("JSON"));
        // It must be able to say no.
        assert!(!validator.is_valid(&json!({"state": "perhaps"})), "{}", row.name);

        let scene = Scene::of(row.name).await;
        scene
            .tell([
                kustomization_event("web", &sha(1)),
                kustomization_event("web", &sha(2)).failed("HealthCheckFailed"),
                // The longest name that an object may have, and a reason longer than any status.
                kustomization_event(&"n".repeat(253), &sha(3)).failed(&"Failed".repeat(60)),
                kustomization_event("web", &sha(4)).annotated("commit", &sha(4)).progressing(),
                kustomization_event("web", &sha(5)).annotated("summary", "Größe: 1 < 2"),
            ])
            .await;
        let path = contract.path();
        let writes: Vec<_> = scene.forge.requests().into_iter().filter(|request| request.method == "POST").collect();
        for write in &writes {
            assert!(path.is_match(&write.uri), "{}: {} is not {path}", row.name, write.uri);
            let body: Value = serde_json::from_slice(&write.body).expect("JSON");
            let wrong: Vec<_> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
            assert!(wrong.is_empty(), "{}: {body}\n{}", row.name, wrong.join("\n"));
        }
        // Gitea alone is told of progress.
        let told = if row.name == "gitea" { 5 } else { 4 };
        assert_eq!(writes.len(), told, "{}", row.name);
        let reads = scene.forge.reads();
        scene.end(reads, told).await;
    }
}
