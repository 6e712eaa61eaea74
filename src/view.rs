//! What the path may ask about Providers, Secrets and labels. `cluster` answers from its caches, and
//! from files without a cluster; nothing downstream can tell the difference.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::api::{InvolvedObject, Key, Provider, ProviderSpec};
use crate::cel::{CompileError, Expr, ResultType};
use crate::secret::Secret;

/// Answers from memory; never calls out.
pub trait View: Send + Sync + 'static {
    /// Whether the first listing of Alerts, Providers and named Secrets is complete. Before
    /// that an event cannot be judged, and the sender is asked to come again.
    fn synced(&self) -> bool;
    /// The Provider of that name as it is now.
    fn provider(&self, key: &Key) -> Option<Arc<ProviderView>>;
    /// The Provider with that UID as it is now.
    fn provider_by_uid(&self, uid: &str) -> Option<Arc<ProviderView>>;
    /// Whether a Provider with that UID is there whose spec cannot be read.
    fn is_unreadable(&self, uid: &str) -> bool;
    /// What can be read of the Provider of that name while its spec as a whole cannot: enough to tell what it is to be
    /// told. Nothing is sent by it.
    fn unreadable(&self, key: &Key) -> Option<Arc<ProviderView>>;
    /// The labels of an event's object. Asked only for kinds that some Alert selects by label.
    fn labels(&self, object: &InvolvedObject) -> LabelsView;
    /// Resolves when [`View::labels`] may answer otherwise than before this call.
    fn labels_changed(&self) -> BoxFuture<'_, ()>;
}

/// What is known of an object's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelsView {
    /// As of the event or later; `None` when there is no such object.
    Known(Option<Arc<ObjectLabels>>),
    /// The event tells of a newer object than is known here; what is known may be told in a moment.
    Behind(Option<Arc<ObjectLabels>>),
    /// The first list of the kind is under way.
    Syncing,
    /// They cannot be had: no cluster, no permission, no such kind. The Alert's condition says it.
    Unavailable,
}

/// The labels of one object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ObjectLabels(Box<[(Box<str>, Box<str>)]>);

impl ObjectLabels {
    /// From key and value of each.
    pub fn new(labels: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| **name == *key).map(|(_, value)| &**value)
    }
}

/// A Provider with the Secrets it names, as of one moment. A change of any of them makes a new
/// value with a higher `version`, so whatever is prepared from one can be kept by version.
#[derive(Debug)]
pub struct ProviderView {
    /// The object.
    pub provider: Provider,
    /// Its `commitStatusExpr`, compiled or refused; `None` when it has none.
    pub expression: Expression,
    /// Its Secrets by name, each as it was last seen.
    pub secrets: BTreeMap<String, SecretView>,
    /// Rises with every change of the Provider or of a Secret it names.
    pub version: u64,
}

/// A `commitStatusExpr`, compiled or refused; `None` where there is none.
pub type Expression = Option<Result<Arc<Expr>, CompileError>>;

/// Compiles the `commitStatusExpr` of a Provider, once per change of the object.
pub fn expression(spec: &ProviderSpec) -> Expression {
    let text = spec.commit_status_expr.as_deref()?;
    Some(Expr::compile(text, &["event", "provider", "alert"], ResultType::String).map(Arc::new))
}

/// What is known of a Secret that a Provider names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretView {
    /// Its contents.
    Present(Arc<SecretData>),
    /// There is no such Secret.
    Missing,
    /// The API server did not let us read it; the text says why.
    Unreadable(Arc<str>),
    /// It was named a moment ago and is being read.
    Unread,
}

/// The contents of a Secret, decoded. Values that are not UTF-8 are kept out of `text`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SecretData(BTreeMap<String, Secret>);

impl SecretData {
    /// From the decoded values; bytes that are not UTF-8 become U+FFFD, as no credential of ours
    /// may hold such bytes.
    pub fn new(values: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self(
            values
                .into_iter()
                .map(|(key, value)| (key, Secret::new(String::from_utf8_lossy(&value).into_owned())))
                .collect(),
        )
    }

    /// The value of `key` without surrounding white space; `None` when absent or empty.
    pub fn trimmed(&self, key: &str) -> Option<Secret> {
        let text = self.0.get(key)?.expose().trim();
        (!text.is_empty()).then(|| Secret::new(text))
    }

    /// The value of `key` as it is, even when empty.
    pub fn raw(&self, key: &str) -> Option<&Secret> {
        self.0.get(key)
    }

    /// The keys there are; never the values.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
