//! The AlertIndex: all Alerts, arranged so that an event touches only those that name its object
//! or everything of its kind in its namespace. An event costs the same with ten Alerts as with
//! ten thousand.
//!
//! Fed by `cluster`, asked by `pipeline`.

use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

use super::CompiledAlert;
use super::alert::Source;
use crate::api::Key;

/// Alerts that share one source, in the order they came.
type Bucket = Arc<Vec<Arc<CompiledAlert>>>;

/// All Alerts by name, and by what they listen to.
#[derive(Debug, Default)]
pub struct AlertIndex {
    alerts: HashMap<Key, Arc<CompiledAlert>>,
    by_source: HashMap<Source, Bucket>,
}

/// The Alerts an event has to look at: those that name the object, and those on `*`.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    named: Option<Bucket>,
    wildcard: Option<Bucket>,
}

impl Candidates {
    /// Each Alert; one that both names the object and listens to `*` comes twice.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledAlert>> {
        self.named.iter().chain(&self.wildcard).flat_map(|bucket| bucket.iter())
    }
}

impl AlertIndex {
    /// Adds an Alert, or replaces the one of the same name.
    pub fn apply(&mut self, alert: Arc<CompiledAlert>) {
        self.remove(&alert.key);
        for source in &alert.sources {
            let bucket = self.by_source.entry(source.clone()).or_default();
            // Copies the bucket only while an event holds it.
            Arc::make_mut(bucket).push(alert.clone());
        }
        self.alerts.insert(alert.key.clone(), alert);
    }

    /// Takes an Alert out; `None` when it was not there.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<CompiledAlert>> {
        let alert = self.alerts.remove(key)?;
        for source in &alert.sources {
            if let Some(bucket) = self.by_source.get_mut(source) {
                Arc::make_mut(bucket).retain(|other| other.key != *key);
                if bucket.is_empty() {
                    self.by_source.remove(source);
                }
            }
        }
        Some(alert)
    }

    /// The Alerts that listen to this object.
    pub fn candidates(&self, kind: &str, namespace: &str, name: &str) -> Candidates {
        let bucket = |name| self.by_source.get(&SourceRef { kind, namespace, name }).cloned();
        Candidates { named: if name == "*" { None } else { bucket(name) }, wildcard: bucket("*") }
    }

    /// The Alert of that name.
    pub fn get(&self, key: &Key) -> Option<&Arc<CompiledAlert>> {
        self.alerts.get(key)
    }

    /// Every Alert, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledAlert>> {
        self.alerts.values()
    }

    /// How many Alerts there are.
    pub fn len(&self) -> usize {
        self.alerts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.alerts.is_empty()
    }
}

/// The index as `cluster` feeds it and `pipeline` asks it. A reader holds the lock for two
/// look-ups; filters run outside it.
#[derive(Clone, Debug, Default)]
pub struct SharedIndex(Arc<RwLock<AlertIndex>>);

impl SharedIndex {
    /// See [`AlertIndex::candidates`].
    pub fn candidates(&self, kind: &str, namespace: &str, name: &str) -> Candidates {
        self.0.read().candidates(kind, namespace, name)
    }

    /// See [`AlertIndex::get`].
    pub fn get(&self, key: &Key) -> Option<Arc<CompiledAlert>> {
        self.0.read().get(key).cloned()
    }

    /// Every Alert that tells `provider`.
    pub fn of_provider(&self, provider: &Key) -> Vec<Arc<CompiledAlert>> {
        self.0.read().iter().filter(|alert| alert.provider == *provider).cloned().collect()
    }

    /// See [`AlertIndex::apply`].
    pub fn apply(&self, alert: Arc<CompiledAlert>) {
        self.0.write().apply(alert);
    }

    /// See [`AlertIndex::remove`].
    pub fn remove(&self, key: &Key) -> Option<Arc<CompiledAlert>> {
        self.0.write().remove(key)
    }

    /// The names of all Alerts.
    pub fn keys(&self) -> Vec<Key> {
        self.0.read().iter().map(|alert| alert.key.clone()).collect()
    }
}

/// A [`Source`] that borrows, so that a look-up allocates nothing. It must hash as `Source` does:
/// the same fields in the same order (`Arc<str>` and `&str` hash alike).
#[derive(Hash)]
struct SourceRef<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl Equivalent<Source> for SourceRef<'_> {
    fn equivalent(&self, source: &Source) -> bool {
        *self.name == *source.name && *self.namespace == *source.namespace && *self.kind == *source.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Alert, AlertSpec, EventSource, ObjectMeta};

    fn alert(name: &str, sources: &[(&str, &str, Option<&str>)]) -> Arc<CompiledAlert> {
        let meta = ObjectMeta {
            key: Key::new("apps", name),
            uid: name.into(),
            generation: 1,
            annotations: Default::default(),
        };
        let event_sources = sources
            .iter()
            .map(|&(kind, name, namespace)| EventSource {
                kind: kind.into(),
                name: name.into(),
                namespace: namespace.map(str::to_owned),
                ..Default::default()
            })
            .collect();
        let mut spec = AlertSpec { event_sources, ..Default::default() };
        spec.provider_ref.name = "p".into();
        Arc::new(CompiledAlert::new(&Alert { meta, spec, object: "{}".into() }))
    }

    fn names(index: &AlertIndex, kind: &str, namespace: &str, name: &str) -> Vec<String> {
        index.candidates(kind, namespace, name).iter().map(|alert| alert.key.name.to_string()).collect()
    }

    #[test]
    fn finds_by_name_and_by_wildcard_only_in_the_right_namespace_and_kind() {
        let mut index = AlertIndex::default();
        index.apply(alert("named", &[("Kustomization", "web", None)]));
        index.apply(alert("all", &[("Kustomization", "*", None)]));
        index.apply(alert("elsewhere", &[("Kustomization", "*", Some("prod"))]));
        index.apply(alert("helm", &[("HelmRelease", "web", None)]));
        assert_eq!(names(&index, "Kustomization", "apps", "web"), ["named", "all"]);
        assert_eq!(names(&index, "Kustomization", "apps", "other"), ["all"]);
        assert_eq!(names(&index, "Kustomization", "prod", "web"), ["elsewhere"]);
        assert_eq!(names(&index, "kustomization", "apps", "web"), Vec::<String>::new());
        assert_eq!(names(&index, "Kustomization", "apps", "*"), ["all"], "an object called * is named by nothing");
    }

    #[test]
    fn a_replaced_or_removed_alert_leaves_nothing_behind() {
        let mut index = AlertIndex::default();
        index.apply(alert("a", &[("Kustomization", "web", None), ("Kustomization", "*", None)]));
        index.apply(alert("a", &[("Bucket", "b", None)]));
        assert!(names(&index, "Kustomization", "apps", "web").is_empty());
        assert_eq!(names(&index, "Bucket", "apps", "b"), ["a"]);
        assert!(index.remove(&Key::new("apps", "a")).is_some());
        assert!(index.is_empty() && index.by_source.is_empty());
    }

    #[test]
    fn what_an_event_holds_does_not_change_under_it() {
        let mut index = AlertIndex::default();
        index.apply(alert("a", &[("Kustomization", "*", None)]));
        let held = index.candidates("Kustomization", "apps", "web");
        index.apply(alert("b", &[("Kustomization", "*", None)]));
        assert_eq!(held.iter().count(), 1);
        assert_eq!(names(&index, "Kustomization", "apps", "web"), ["a", "b"]);
    }
}
