//! A directory of YAML in place of a cluster: Providers, Alerts and Secrets, watched for changes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use kube::api::DynamicObject;
use notify::{RecursiveMode, Watcher};
use serde_json::Value;
use tokio::sync::Notify;

use super::{ObjectKind, Stores, watch};
use crate::api::{GROUP, Key};
use crate::clock::{Clock, SystemClock};
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

/// A file that was written in place and lost something is not believed before it stood still for this long: its
/// writer may have emptied it first.
const DOUBT: Duration = Duration::from_secs(5);

/// The directory, and what each file last held.
pub struct Manifests {
    dir: PathBuf,
    files: BTreeMap<PathBuf, File>,
    stores: Arc<Stores>,
    metrics: Arc<Metrics>,
    changed: Arc<Notify>,
    /// That labels cannot be read was told.
    labels_said: bool,
    /// UIDs of several objects that were told of.
    shared_uids: BTreeSet<Box<str>>,
    /// Watches as long as it lives.
    _watcher: notify::RecommendedWatcher,
}

#[derive(Default)]
struct File {
    /// Tells whether the file was replaced or written in place.
    inode: u64,
    /// As it was read last, well-formed or not.
    text: String,
    documents: Vec<Document>,
    /// Bytes of the text that these are of.
    length: usize,
    doubted: Option<Doubted>,
}

/// What a file holds now that was written in place and lost something.
struct Doubted {
    text: String,
    documents: Vec<Document>,
    since: Instant,
}

/// One document that Herald reads.
enum Document {
    Object(Object),
    Secret(Key, Arc<SecretData>),
}

struct Object {
    kind: ObjectKind,
    key: Key,
    /// `metadata.uid`.
    uid: Option<Box<str>>,
    /// As compact JSON, read again when it is published: parsed, it takes ten times the memory.
    json: Box<str>,
}

impl Document {
    /// Kind, namespace and name.
    fn id(&self) -> (&'static str, &Key) {
        match self {
            Self::Object(Object { kind: ObjectKind::Provider, key, .. }) => ("Provider", key),
            Self::Object(Object { kind: ObjectKind::Alert, key, .. }) => ("Alert", key),
            Self::Secret(key, _) => ("Secret", key),
        }
    }
}

impl File {
    /// Takes what the file holds now.
    ///
    /// # Errors
    /// It cannot be read, in words for the log: what it last held stays.
    fn update(&mut self, path: &Path) -> Result<(), String> {
        let (inode, text) = read(path)?;
        let in_place = std::mem::replace(&mut self.inode, inode) == inode;
        if text == self.text {
            self.doubted = None;
            return Ok(());
        }
        if let Some(doubted) = self.doubted.take_if(|doubted| doubted.text == text) {
            if SystemClock.now() < doubted.since + DOUBT {
                self.doubted = Some(doubted);
            } else {
                self.believe(doubted.text, doubted.documents);
            }
            return Ok(());
        }
        self.doubted = None;
        match parse(path, &text) {
            Ok(documents) if in_place && self.has_lost(&text, &documents) => {
                tracing::info!(
                    logger = "manifests",
                    file = %path.display(),
                    "the file was written in place and holds less than before; what it held stays in use for {} s",
                    DOUBT.as_secs()
                );
                self.doubted = Some(Doubted { text, documents, since: SystemClock.now() });
                Ok(())
            }
            Ok(documents) => {
                self.believe(text, documents);
                Ok(())
            }
            Err(error) => {
                // Remembered, so that it is told once.
                self.text = text;
                Err(error)
            }
        }
    }

    fn believe(&mut self, text: String, documents: Vec<Document>) {
        self.length = text.len();
        (self.text, self.documents) = (text, documents);
    }

    /// Whether the file could be half-written: it is shorter, or a document of it is missing.
    fn has_lost(&self, text: &str, documents: &[Document]) -> bool {
        let now: BTreeSet<_> = documents.iter().map(Document::id).collect();
        !self.documents.is_empty()
            && (text.len() < self.length || self.documents.iter().any(|document| !now.contains(&document.id())))
    }
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
        let mut manifests = Self {
            dir,
            files: BTreeMap::new(),
            stores,
            metrics,
            changed,
            labels_said: false,
            shared_uids: BTreeSet::new(),
            _watcher: watcher,
        };
        manifests.read()?;
        Ok(manifests)
    }

    /// Follows the directory, for ever.
    pub async fn follow(mut self) {
        loop {
            let doubted = self.files.values().filter_map(|file| Some(file.doubted.as_ref()?.since + DOUBT)).min();
            match doubted {
                Some(until) => drop(tokio::time::timeout_at(until.into(), self.changed.notified()).await),
                None => self.changed.notified().await,
            }
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
            if let Err(error) = self.files.entry(path.clone()).or_default().update(&path) {
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
        let shared = self.shared_uids();
        let documents = || self.files.values().flat_map(|file| &file.documents);
        for kind in [ObjectKind::Provider, ObjectKind::Alert] {
            let mut seen = BTreeSet::new();
            for document in documents() {
                if let Document::Object(of) = document
                    && of.kind == kind
                {
                    let mut object: DynamicObject = serde_json::from_str(&of.json).expect("written by `parse`");
                    if of.uid.as_ref().is_some_and(|uid| shared.contains(uid)) {
                        object.metadata.uid = None;
                    }
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

impl Manifests {
    /// UIDs that several objects of a kind have, as copies of what `kubectl get -o yaml` prints do. They tell nothing
    /// apart, and what one of them is to send would go out through the other.
    fn shared_uids(&mut self) -> BTreeSet<Box<str>> {
        let mut first: BTreeMap<(ObjectKind, &str), &Key> = BTreeMap::new();
        let mut shared = BTreeSet::new();
        for document in self.files.values().flat_map(|file| &file.documents) {
            let Document::Object(Object { kind, key, uid: Some(uid), .. }) = document else { continue };
            let other = first.entry((*kind, uid)).or_insert(key);
            if *other != key {
                if !self.shared_uids.contains(uid) && !shared.contains(uid) {
                    tracing::error!(
                        logger = "manifests",
                        "{kind}s {other} and {key} have one metadata.uid, which is ignored for both; remove the field"
                    );
                }
                shared.insert(uid.clone());
            }
        }
        self.shared_uids.clone_from(&shared);
        shared
    }
}

/// Number and text of a file.
fn read(path: &Path) -> Result<(u64, String), String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    let size = metadata.len();
    if size > MAX_FILE {
        return Err(format!("it has {size} bytes, and a manifest has {MAX_FILE} at most"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok((metadata.ino(), text))
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
    let json = serde_json::to_string(object).expect("objects always encode").into();
    let uid = object.metadata.uid.as_deref().map(Into::into);
    Document::Object(Object { kind, key: super::object::meta(object).key, uid, json })
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
