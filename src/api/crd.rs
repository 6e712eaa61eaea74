//! The CustomResourceDefinitions, printed from the types. Called by `herald crds` and by tests.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::alert::AlertResource;
use super::provider::{COMMIT_STATUS_TYPES, ProviderResource};
use super::{DEPRECATED_VERSIONS, GROUP, STORED_VERSION};

/// A definition and the file it is kept in under `crds/`.
pub struct Definition {
    /// File name, as controller-gen names it.
    pub file: String,
    /// The definition.
    pub crd: CustomResourceDefinition,
}

/// All definitions, in the order of their file names.
pub fn all() -> Vec<Definition> {
    [AlertResource::crd(), ProviderResource::crd()].into_iter().map(finish).collect()
}

/// The documents of [`all`] as one YAML stream.
pub fn to_yaml(definition: &Definition) -> String {
    let yaml = serde_saphyr::to_string(&definition.crd).expect("a definition always encodes");
    format!("---\n{yaml}")
}

/// `herald crds`: to standard output, or each into its file in `dir`.
///
/// # Errors
/// When that cannot be written.
pub fn print(dir: Option<&Path>) -> anyhow::Result<()> {
    for definition in all() {
        match dir {
            Some(dir) => {
                let path = dir.join(&definition.file);
                std::fs::write(&path, to_yaml(&definition))
                    .with_context(|| format!("--dir: cannot write {}", path.display()))?;
            }
            None => std::io::stdout().write_all(to_yaml(&definition).as_bytes())?,
        }
    }
    Ok(())
}

/// What the derive cannot say: the spec is optional, nothing is nullable, old versions are
/// served with the same schema, and `commitStatusExpr` is only for commit-status types.
fn finish(derived: CustomResourceDefinition) -> Definition {
    let mut crd = serde_json::to_value(derived).expect("a definition always encodes");
    let plural = crd["spec"]["names"]["plural"].as_str().expect("the derive names it").to_owned();

    let newest = &mut crd["spec"]["versions"][0];
    let schema = &mut newest["schema"]["openAPIV3Schema"];
    as_the_peer_writes_it(schema);
    if let Some(root) = schema.as_object_mut() {
        root.remove("required");
        root.remove("title");
    }
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
    schema["properties"]["metadata"] = json!({"type": "object"});
    if plural == "providers" {
        let types = COMMIT_STATUS_TYPES.map(|name| format!("'{name}'")).join(", ");
        schema["properties"]["spec"]["x-kubernetes-validations"] = json!([{
            "rule": format!("!has(self.commitStatusExpr) || self.type in [{types}]"),
            "message": format!("spec.commitStatusExpr is only supported for the types {types}"),
        }]);
    }

    let newest = newest.clone();
    let older = DEPRECATED_VERSIONS.iter().map(|version| {
        let mut older = newest.clone();
        older["name"] = json!(version);
        older["storage"] = json!(false);
        older["deprecated"] = json!(true);
        older["deprecationWarning"] = json!(format!("{GROUP}/{version} is deprecated, use {GROUP}/{STORED_VERSION}"));
        older
    });
    crd["spec"]["versions"] = older.chain([newest.clone()]).collect();
    crd["spec"]["conversion"] = json!({"strategy": "None"});

    Definition {
        file: format!("{GROUP}_{plural}.yaml"),
        crd: serde_json::from_value(crd).expect("only known fields were set"),
    }
}

/// The derive marks optional fields nullable and writes out empty defaults. The peer's schema has
/// neither, and what it refuses Herald refuses.
fn as_the_peer_writes_it(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("nullable");
            if map.get("default").is_some_and(|value| [json!(false), json!([]), json!({})].contains(value)) {
                map.remove("default");
            }
            map.values_mut().for_each(as_the_peer_writes_it);
        }
        Value::Array(items) => items.iter_mut().for_each(as_the_peer_writes_it),
        _ => {}
    }
}
