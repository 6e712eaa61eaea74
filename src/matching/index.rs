//! The AlertIndex: all Alerts, arranged so that an event touches only those that name its object
//! or everything of its kind in its namespace. An event costs the same with ten Alerts as with
//! ten thousand.
//!
//! Fed by `cluster`, asked by `pipeline`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

use super::{CompiledAlert, Selector, Source};
use crate::api::{Event, Key};

/// States that all expressions of one namespace may have: some 20 MiB, and about a tenth of a second to compile.
const NAMESPACE_STATES: u32 = 400_000;

/// Alerts that share one source, in the order they came.
#[derive(Clone, Debug, Default)]
struct Bucket {
    alerts: Vec<Arc<CompiledAlert>>,
    /// Those that want only objects with certain labels.
    labelled: Vec<(Selector, Arc<CompiledAlert>)>,
}

/// All Alerts by name, and by what they listen to.
#[derive(Debug, Default)]
pub struct AlertIndex {
    alerts: HashMap<Key, Arc<CompiledAlert>>,
    by_source: HashMap<Source, Arc<Bucket>>,
    /// How many sources select objects of a kind by label.
    label_kinds: BTreeMap<Arc<str>, usize>,
    /// States of the expressions of each namespace.
    states: HashMap<Arc<str>, u32>,
}

/// The Alerts an event has to look at: those that name the object, and those on `*`.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    named: Option<Arc<Bucket>>,
    wildcard: Option<Arc<Bucket>>,
}

impl Candidates {
    /// Each Alert; one that both names the object and listens to `*` comes twice.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledAlert>> {
        self.named.iter().chain(&self.wildcard).flat_map(|bucket| bucket.alerts.iter())
    }

    /// Each Alert that wants the object only if it carries certain labels.
    pub fn labelled(&self) -> impl Iterator<Item = &(Selector, Arc<CompiledAlert>)> {
        self.named.iter().chain(&self.wildcard).flat_map(|bucket| bucket.labelled.iter())
    }

    /// Whether the labels of the object may decide if an Alert wants this event.
    pub fn ask_for_labels(&self, event: &Event) -> bool {
        self.labelled().any(|(_, alert)| alert.listens(event))
    }
}

impl AlertIndex {
    /// Adds an Alert, or replaces the one of the same name.
    pub fn apply(&mut self, alert: Arc<CompiledAlert>) {
        self.remove(&alert.key);
        for source in &alert.sources {
            let bucket = self.by_source.entry(source.clone()).or_default();
            // Copies the bucket only while an event holds it.
            Arc::make_mut(bucket).alerts.push(alert.clone());
        }
        for (source, selector) in &alert.labelled {
            let bucket = self.by_source.entry(source.clone()).or_default();
            Arc::make_mut(bucket).labelled.push((selector.clone(), alert.clone()));
        }
        for source in alert.selected_by_label() {
            *self.label_kinds.entry(source.kind.clone()).or_default() += 1;
        }
        *self.states.entry(alert.key.namespace.clone()).or_default() += alert.states();
        self.alerts.insert(alert.key.clone(), alert);
    }

    /// Takes an Alert out; `None` when it was not there.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<CompiledAlert>> {
        let alert = self.alerts.remove(key)?;
        for source in alert.sources.iter().chain(alert.labelled.iter().map(|(source, _)| source)) {
            if let Some(bucket) = self.by_source.get_mut(source) {
                let bucket = Arc::make_mut(bucket);
                bucket.alerts.retain(|other| other.key != *key);
                bucket.labelled.retain(|(_, other)| other.key != *key);
                if bucket.alerts.is_empty() && bucket.labelled.is_empty() {
                    self.by_source.remove(source);
                }
            }
        }
        if let Some(states) = self.states.get_mut(&alert.key.namespace) {
            *states -= alert.states();
            if *states == 0 {
                self.states.remove(&alert.key.namespace);
            }
        }
        for source in alert.selected_by_label() {
            if let Some(count) = self.label_kinds.get_mut(&source.kind) {
                *count -= 1;
                if *count == 0 {
                    self.label_kinds.remove(&source.kind);
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

    /// States that the expressions of this Alert may have, as those of its namespace share them.
    pub fn share(&self, key: &Key) -> u32 {
        let all = self.states.get(&key.namespace).copied().unwrap_or_default();
        let own = self.alerts.get(key).map_or(0, |alert| alert.states());
        NAMESPACE_STATES.saturating_sub(all - own)
    }

    /// The Alert of that name.
    pub fn get(&self, key: &Key) -> Option<&Arc<CompiledAlert>> {
        self.alerts.get(key)
    }

    /// The kinds that some Alert selects by label.
    pub fn label_kinds(&self) -> BTreeSet<Arc<str>> {
        self.label_kinds.keys().cloned().collect()
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

    /// See [`AlertIndex::share`].
    pub fn share(&self, key: &Key) -> u32 {
        self.0.read().share(key)
    }

    /// See [`AlertIndex::get`].
    pub fn get(&self, key: &Key) -> Option<Arc<CompiledAlert>> {
        self.0.read().get(key).cloned()
    }

    /// Every Alert that tells `provider`.
    pub fn of_provider(&self, provider: &Key) -> Vec<Arc<CompiledAlert>> {
        self.0.read().iter().filter(|alert| alert.provider == *provider).cloned().collect()
    }

    /// Every Alert that selects objects of a kind by label.
    pub fn selecting_by_label(&self, kind: &str) -> Vec<Key> {
        let index = self.0.read();
        let selects = |alert: &&Arc<CompiledAlert>| alert.selected_by_label().any(|source| *source.kind == *kind);
        index.iter().filter(selects).map(|alert| alert.key.clone()).collect()
    }

    /// See [`AlertIndex::label_kinds`].
    pub fn label_kinds(&self) -> BTreeSet<Arc<str>> {
        self.0.read().label_kinds()
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
    fn a_source_with_labels_is_no_candidate_without_them_and_is_counted_while_it_is_there() {
        let mut index = AlertIndex::default();
        index.apply(alert("all", &[("Kustomization", "*", None)]));
        let mut labelled = Arc::into_inner(alert("a", &[])).expect("nobody else has it");
        let source = |kind: &str| Source { kind: kind.into(), namespace: "apps".into(), name: "*".into() };
        let selector = Selector::new(&BTreeMap::from([("team".into(), "a".into())])).expect("valid");
        labelled.labelled = ["Kustomization", "Bucket", "Bucket"].map(|kind| (source(kind), selector.clone())).into();
        let labelled = Arc::new(labelled);
        index.apply(labelled.clone());
        index.apply(labelled);
        assert_eq!(names(&index, "Kustomization", "apps", "web"), ["all"]);
        assert!(index.candidates("Kustomization", "apps", "web").ask_for_labels(&Event::default()));
        assert!(!index.candidates("HelmRelease", "apps", "web").ask_for_labels(&Event::default()));
        assert_eq!(index.label_kinds(), BTreeSet::from(["Kustomization".into(), "Bucket".into()]));

        index.remove(&Key::new("apps", "a"));
        assert!(!index.candidates("Kustomization", "apps", "web").ask_for_labels(&Event::default()));
        assert_eq!((index.label_kinds().len(), index.by_source.len()), (0, 1));
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
