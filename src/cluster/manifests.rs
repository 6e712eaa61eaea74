//! A directory of YAML in place of a cluster: Providers, Alerts and Secrets, watched for changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use kube::api::DynamicObject;
use notify::{RecursiveMode, Watcher};
use serde_json::Value;
use tokio::sync::Notify;

use super::{ObjectKind, Stores, watch};
use crate::api::{GROUP, Key};
use crate::ops::metrics::Metrics;
use crate::view::{SecretData, SecretView};

/// Bytes of one file; more is no manifest.
const MAX_FILE: u64 = 8 << 20;

/// Documents of one file.
const MAX_DOCUMENTS: usize = 50_000;

/// Values in one file, a document having some twenty.
const MAX_NODES: usize = 1_500_000;

/// Files of one directory; more is the wrong directory.
const MAX_FILES: usize = 4096;

/// Editors write a file in several steps; their end is awaited this long.
const SETTLE: Duration = Duration::from_millis(100);

/// A file beside them that is written without pause holds up the rest no longer than this.
const LONGEST_SETTLE: Duration = Duration::from_secs(1);

/// The directory, and what each file last held.
pub struct Manifests {
    dir: PathBuf,
    files: BTreeMap<PathBuf, File>,
    stores: Arc<Stores>,
    metrics: Arc<Metrics>,
    changed: Arc<Notify>,
    /// That labels cannot be read was told.
    labels_said: bool,
    /// Watches as long as it lives.
    _watcher: notify::RecommendedWatcher,
}

#[derive(Default)]
struct File {
    text: String,
    documents: Vec<Document>,
}

/// One document that Herald reads.
enum Document {
    /// As compact JSON, read again when it is published: parsed, it takes ten times the memory.
    Object(ObjectKind, Box<str>),
    Secret(Key, Arc<SecretData>),
}

impl Manifests {
    /// Reads the directory, and begins to watch it.
    ///
    /// # Errors
    /// When the directory itself cannot be read or watched; a file that cannot be read is logged
    /// and left out.
    pub fn open(dir: &Path, stores: Arc<Stores>, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let changed = Arc::new(Notify::new());
        let tell = changed.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                tell.notify_one();
            }
        })?;
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        let dir = dir.to_owned();
        let mut manifests =
            Self { dir, files: BTreeMap::new(), stores, metrics, changed, labels_said: false, _watcher: watcher };
        manifests.read()?;
        Ok(manifests)
    }

    /// Follows the directory, for ever.
    pub async fn follow(mut self) {
        loop {
            self.changed.notified().await;
            let still = async { while tokio::time::timeout(SETTLE, self.changed.notified()).await.is_ok() {} };
            let _ = tokio::time::timeout(LONGEST_SETTLE, still).await;
            if let Err(error) = self.read() {
                tracing::error!(logger = "manifests", dir = %self.dir.display(), %error, "cannot read the directory");
            }
        }
    }

    /// Reads what changed and brings the stores up to date.
    fn read(&mut self) -> std::io::Result<()> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&self.dir)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|want| ext == *want)))
            .collect();
        paths.sort();
        if paths.len() > MAX_FILES {
            return Err(std::io::Error::other(format!("it holds more than {MAX_FILES} manifests; name a smaller one")));
        }
        self.files.retain(|path, _| paths.contains(path));
        for path in paths {
            let file = self.files.entry(path.clone()).or_default();
            let read = text(&path).and_then(|text| {
                if text == file.text {
                    return Ok(());
                }
                // Remembered even when it is wrong, so that it is told once.
                file.text = text;
                file.documents = parse(&path, &file.text)?;
                Ok(())
            });
            if let Err(error) = read {
                tracing::error!(
                    logger = "manifests",
                    file = %path.display(),
                    %error,
                    "the file cannot be read; what it last held stays in use"
                );
            }
        }
        self.publish();
        Ok(())
    }

    fn publish(&mut self) {
        let documents = || self.files.values().flat_map(|file| &file.documents);
        for kind in [ObjectKind::Provider, ObjectKind::Alert] {
            let mut seen = BTreeSet::new();
            for document in documents() {
                if let Document::Object(of, object) = document
                    && *of == kind
                {
                    let object: DynamicObject = serde_json::from_str(object).expect("written by `parse`");
                    seen.insert(watch::apply(kind, &object, &self.stores, &self.metrics));
                }
            }
            self.stores.listed(kind, &seen);
        }
        let by_label = !self.stores.label_kinds.borrow().is_empty();
        if by_label && !std::mem::replace(&mut self.labels_said, true) {
            tracing::warn!(
                logger = "manifests",
                "some Alert has matchLabels; without a cluster there are no labels to read, so such a source matches nothing"
            );
        }
        for named in self.stores.named_secrets() {
            let secret = documents().find_map(|document| match document {
                Document::Secret(key, data) if *key == named => Some(SecretView::Present(data.clone())),
                _ => None,
            });
            self.stores.set_secret(&named, secret.unwrap_or(SecretView::Missing));
        }
    }
}

fn text(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MAX_FILE {
        return Err(format!("it has {size} bytes, and a manifest has {MAX_FILE} at most"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// The documents of a file. Kinds that are not ours are skipped with a line.
fn parse(path: &Path, text: &str) -> Result<Vec<Document>, String> {
    let bounds = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: MAX_DOCUMENTS, max_nodes: MAX_NODES },
    };
    // An error without the lines around it, which may be a credential's.
    let values: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, bounds).map_err(|error| error.without_snippet().to_string())?;
    let mut documents = Vec::new();
    for (position, value) in values.into_iter().enumerate().filter(|(_, value)| !value.is_null()) {
        let at = |why: String| format!("document {}: {why}", position + 1);
        let kind = value["kind"].as_str().unwrap_or_default().to_owned();
        let api_version = value["apiVersion"].as_str().unwrap_or_default().to_owned();
        let ours = api_version.starts_with(&format!("{GROUP}/"));
        let object = || -> Result<DynamicObject, String> {
            let object: DynamicObject = serde_json::from_value(value.clone()).map_err(|error| at(error.to_string()))?;
            match &object.metadata.name {
                Some(name) if !name.is_empty() => Ok(object),
                _ => Err(at(format!("a {kind} without metadata.name; give it one"))),
            }
        };
        match kind.as_str() {
            "Alert" if ours => documents.push(compact(ObjectKind::Alert, &object()?)),
            "Provider" if ours => documents.push(compact(ObjectKind::Provider, &object()?)),
            "Secret" if api_version == "v1" => {
                let object = object()?;
                let data = secret_data(&object.data).map_err(at)?;
                documents.push(Document::Secret(super::object::meta(&object).key, Arc::new(data)));
            }
            _ => tracing::info!(
                logger = "manifests",
                file = %path.display(),
                document = position + 1,
                "skipped: {kind:?} of {api_version:?} is no Provider, Alert or Secret"
            ),
        }
    }
    Ok(documents)
}

fn compact(kind: ObjectKind, object: &DynamicObject) -> Document {
    Document::Object(kind, serde_json::to_string(object).expect("objects always encode").into())
}

/// `data` decoded, `stringData` over it, as the API server merges them.
fn secret_data(object: &Value) -> Result<SecretData, String> {
    let texts = |field: &str| -> Result<Vec<(String, String)>, String> {
        let Some(map) = object.get(field).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
        let map = map.as_object().ok_or_else(|| format!("{field} is not a map"))?;
        map.iter()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key.clone(), text.clone())),
                Value::Null => Ok((key.clone(), String::new())),
                _ => Err(format!("{field}.{key} is not text; put it in quotes")),
            })
            .collect()
    };
    let mut values = BTreeMap::new();
    for (key, text) in texts("data")? {
        let engine = base64::engine::general_purpose::STANDARD;
        let bytes = engine
            .decode(text.trim())
            .map_err(|_| format!("data.{key} is not base64; use stringData for plain text"))?;
        values.insert(key, bytes);
    }
    values.extend(texts("stringData")?.into_iter().map(|(key, text)| (key, text.into_bytes())));
    Ok(SecretData::new(values))
}
