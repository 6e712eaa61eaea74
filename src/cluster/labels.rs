//! The labels of objects that Alerts select by `matchLabels`: one watch of metadata for each kind
//! that some Alert selects so, begun when the first asks for it and ended with the last. Of each
//! object nothing but its labels is kept. An event reads memory only. Each watch takes a connection
//! to the API server besides those that `secrets` counts.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use parking_lot::RwLock;
use tokio::sync::Notify;

use super::Stores;
use crate::api::InvolvedObject;
use crate::view::{LabelsView, ObjectLabels};

/// A kind whose labels an Alert may select by, and where the API server has it; the version is discovered.
#[derive(Debug, PartialEq, Eq)]
pub struct LabelKind {
    /// As Alerts name it.
    pub kind: &'static str,
    /// Its API group.
    pub group: &'static str,
    /// Its name in URLs and in RBAC.
    pub plural: &'static str,
}

/// Every kind whose labels an Alert may select by. `config/rbac` permits to list and watch them.
const KINDS: [LabelKind; 12] = [
    LabelKind { kind: "ArtifactGenerator", group: "source.extensions.fluxcd.io", plural: "artifactgenerators" },
    LabelKind { kind: "Bucket", group: "source.toolkit.fluxcd.io", plural: "buckets" },
    LabelKind { kind: "ExternalArtifact", group: "source.toolkit.fluxcd.io", plural: "externalartifacts" },
    LabelKind { kind: "GitRepository", group: "source.toolkit.fluxcd.io", plural: "gitrepositories" },
    LabelKind { kind: "HelmChart", group: "source.toolkit.fluxcd.io", plural: "helmcharts" },
    LabelKind { kind: "HelmRelease", group: "helm.toolkit.fluxcd.io", plural: "helmreleases" },
    LabelKind { kind: "HelmRepository", group: "source.toolkit.fluxcd.io", plural: "helmrepositories" },
    LabelKind { kind: "ImagePolicy", group: "image.toolkit.fluxcd.io", plural: "imagepolicies" },
    LabelKind { kind: "ImageRepository", group: "image.toolkit.fluxcd.io", plural: "imagerepositories" },
    LabelKind { kind: "ImageUpdateAutomation", group: "image.toolkit.fluxcd.io", plural: "imageupdateautomations" },
    LabelKind { kind: "Kustomization", group: "kustomize.toolkit.fluxcd.io", plural: "kustomizations" },
    LabelKind { kind: "OCIRepository", group: "source.toolkit.fluxcd.io", plural: "ocirepositories" },
];

impl LabelKind {
    /// The kind of that name.
    pub fn of(kind: &str) -> Option<&'static Self> {
        KINDS.iter().find(|known| known.kind == kind)
    }
}

/// How long the first list of a kind may take until events are no longer asked to come again.
/// Shorter than a sender's five tries.
const PATIENCE: Duration = Duration::from_secs(15);

/// Pause after the first failure of a watch, doubling up to [`LONGEST_PAUSE`]: so long may a new
/// permission or a new kind go unnoticed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether the labels of a kind can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// They can.
    Known,
    /// The first list is under way.
    Syncing,
    /// The first list takes longer than events can wait.
    Late,
    /// Herald's ServiceAccount may not list or watch the kind.
    Forbidden,
    /// The API server knows no such kind.
    NotInstalled,
    /// `--watch-all-namespaces=false`, and another namespace.
    OtherNamespace,
    /// There is no cluster.
    NoCluster,
}

/// Objects of one namespace by name.
type ByName = HashMap<Box<str>, Arc<ObjectLabels>>;

/// See the module.
#[derive(Default)]
pub struct Labels {
    /// Set when there is a cluster: the one namespace that is watched, or all.
    scope: OnceLock<Option<String>>,
    kinds: RwLock<HashMap<&'static str, KindLabels>>,
    changed: Notify,
}

struct KindLabels {
    reach: Reach,
    objects: Objects,
}

/// The objects of a kind by namespace, and how far the watch has come.
#[derive(Default)]
struct Objects {
    by_namespace: HashMap<Box<str>, ByName>,
    /// The highest resourceVersion seen. A watch tells of changes in the order of these, so every
    /// change up to here is known; an object that is missing then is not there.
    version: u64,
}

impl Labels {
    /// The labels of an event's object.
    pub fn of(&self, object: &InvolvedObject) -> LabelsView {
        let kinds = self.kinds.read();
        match self.reach_in(&kinds, &object.kind, &object.namespace) {
            Reach::Known => {}
            Reach::Syncing => return LabelsView::Syncing,
            _ => return LabelsView::Unavailable,
        }
        let Some(KindLabels { objects, .. }) = kinds.get(object.kind.as_str()) else { return LabelsView::Syncing };
        let of_namespace = objects.by_namespace.get(object.namespace.as_str());
        let labels = of_namespace.and_then(|objects| objects.get(object.name.as_str())).cloned();
        let behind = match object.resource_version.parse::<u64>() {
            Ok(version) => version > objects.version,
            // It cannot be told from an object that was just made.
            Err(_) => labels.is_none(),
        };
        if behind { LabelsView::Behind(labels) } else { LabelsView::Known(labels) }
    }

    /// Whether labels of objects of a kind in a namespace can be told.
    pub fn reach(&self, kind: &str, namespace: &str) -> Reach {
        self.reach_in(&self.kinds.read(), kind, namespace)
    }

    /// Resolves when [`Labels::of`] may answer otherwise than before this call.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    fn reach_in(&self, kinds: &HashMap<&'static str, KindLabels>, kind: &str, namespace: &str) -> Reach {
        match self.scope.get() {
            None => Reach::NoCluster,
            Some(Some(watched)) if watched != namespace => Reach::OtherNamespace,
            // Its watch is about to begin.
            Some(_) => kinds.get(kind).map_or(Reach::Syncing, |kind| kind.reach),
        }
    }

    /// Changes what is known of a kind.
    fn change<T>(&self, kind: &'static str, change: impl FnOnce(&mut KindLabels) -> T) -> T {
        let mut kinds = self.kinds.write();
        let empty = || KindLabels { reach: Reach::Syncing, objects: Objects::default() };
        let changed = change(kinds.entry(kind).or_insert_with(empty));
        drop(kinds);
        self.changed.notify_waiters();
        changed
    }

    fn forget(&self, kind: &str) {
        self.kinds.write().remove(kind);
        self.changed.notify_waiters();
    }
}

impl Objects {
    fn apply(&mut self, object: &PartialObjectMeta<DynamicObject>) {
        self.came_to(object);
        let labels = object.labels().iter().map(|(key, value)| (key.clone(), value.clone()));
        let labels = Arc::new(ObjectLabels::new(labels));
        let namespace = object.namespace().unwrap_or_default();
        self.by_namespace.entry(namespace.into()).or_default().insert(object.name_any().into(), labels);
    }

    fn delete(&mut self, object: &PartialObjectMeta<DynamicObject>) {
        self.came_to(object);
        let namespace = object.namespace().unwrap_or_default();
        if let Some(objects) = self.by_namespace.get_mut(namespace.as_str()) {
            objects.remove(object.name_any().as_str());
            if objects.is_empty() {
                self.by_namespace.remove(namespace.as_str());
            }
        }
    }

    fn came_to(&mut self, object: &PartialObjectMeta<DynamicObject>) {
        let version = object.resource_version().and_then(|version| version.parse().ok());
        self.version = self.version.max(version.unwrap_or_default());
    }
}

/// Watches the kinds that Alerts select by label, and no others, for ever.
pub async fn watch_wanted(client: Client, namespace: Option<String>, stores: Arc<Stores>) {
    // Started anew, it has the same scope.
    let _ = stores.labels.scope.set(namespace.clone());
    let mut wanted = stores.label_kinds.subscribe();
    let mut watched = BTreeSet::new();
    let mut watches = FuturesUnordered::new();
    loop {
        for kind in wanted.borrow_and_update().iter().filter_map(|kind| LabelKind::of(kind)) {
            if watched.insert(kind.kind) {
                watches.push(watch_while_wanted(&client, namespace.as_deref(), kind, &stores));
            }
        }
        tokio::select! {
            _ = wanted.changed() => {}
            Some(kind) = watches.next(), if !watches.is_empty() => {
                watched.remove(kind);
            }
        }
    }
}

/// Watches one kind until no Alert selects by its labels; gives its name back.
async fn watch_while_wanted(
    client: &Client,
    namespace: Option<&str>,
    kind: &'static LabelKind,
    stores: &Stores,
) -> &'static str {
    let mut wanted = stores.label_kinds.subscribe();
    let late = async {
        tokio::time::sleep(PATIENCE).await;
        if stores.labels.change(kind.kind, |known| known.reach == Reach::Syncing) {
            set(stores, kind, Reach::Late);
        }
        std::future::pending::<()>().await;
    };
    let watch = async {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut lived = false;
            let reach = watch(client, namespace, kind, stores, &mut lived).await;
            if let Some(reach) = reach {
                set(stores, kind, reach);
            }
            if lived {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    tokio::select! {
        () = late => {}
        () = watch => {}
        _ = wanted.wait_for(|wanted| !wanted.contains(kind.kind)) => {}
    }
    stores.labels.forget(kind.kind);
    kind.kind
}

/// One watch, until it must begin anew; why, if that is more than a broken connection. `lived`
/// turns true when something came after the list: one who may list and not watch lists at growing
/// pauses.
async fn watch(
    client: &Client,
    namespace: Option<&str>,
    kind: &'static LabelKind,
    stores: &Stores,
    lived: &mut bool,
) -> Option<Reach> {
    let resource = match discover(client, kind).await {
        Ok(Some(resource)) => resource,
        Ok(None) => return Some(Reach::NotInstalled),
        Err(error) => {
            tracing::warn!(logger = "cluster", kind = kind.kind, %error, "cannot find out the version of a kind, will try again");
            return None;
        }
    };
    let api: Api<PartialObjectMeta<DynamicObject>> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let mut stream = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut listed = Objects::default();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed = Objects::default(),
            Ok(Event::InitApply(object)) => listed.apply(&object),
            Ok(Event::InitDone) => {
                let objects = std::mem::take(&mut listed);
                stores.labels.change(kind.kind, |known| known.objects = objects);
                set(stores, kind, Reach::Known);
            }
            Ok(Event::Apply(object)) => {
                *lived = true;
                stores.labels.change(kind.kind, |known| known.objects.apply(&object));
            }
            Ok(Event::Delete(object)) => {
                *lived = true;
                stores.labels.change(kind.kind, |known| known.objects.delete(&object));
            }
            Err(error) => match status_code(&error) {
                Some(403) => return Some(Reach::Forbidden),
                Some(404) => return Some(Reach::NotInstalled),
                _ => {
                    tracing::warn!(logger = "cluster", kind = kind.kind, %error, "the watch of labels broke, it will be opened again");
                }
            },
        }
    }
    None
}

/// Says whether labels of a kind can be told, where that changed.
fn set(stores: &Stores, kind: &'static LabelKind, reach: Reach) {
    let before = stores.labels.change(kind.kind, |known| {
        if matches!(reach, Reach::Forbidden | Reach::NotInstalled) {
            // What was known will be wrong soon.
            known.objects = Objects::default();
        }
        std::mem::replace(&mut known.reach, reach)
    });
    if before == reach {
        return;
    }
    match reach {
        Reach::Known => {
            tracing::info!(logger = "cluster", kind = kind.kind, "labels are known, Alerts can select by them");
        }
        _ => tracing::warn!(
            logger = "cluster",
            kind = kind.kind,
            resource = %format_args!("{}.{}", kind.plural, kind.group),
            reason = ?reach,
            "labels cannot be told, so matchLabels select nothing of this kind; will try again"
        ),
    }
    stores.labels_told(kind.kind);
}

/// The kind in the version the API server prefers, or else in any it serves.
async fn discover(client: &Client, kind: &LabelKind) -> kube::Result<Option<ApiResource>> {
    let groups = client.list_api_groups().await?.groups;
    let Some(group) = groups.into_iter().find(|group| group.name == kind.group) else { return Ok(None) };
    for version in group.preferred_version.into_iter().chain(group.versions) {
        let resources = client.list_api_group_resources(&version.group_version).await?.resources;
        if resources.iter().any(|resource| resource.name == kind.plural) {
            let gvk = GroupVersionKind::gvk(kind.group, &version.version, kind.kind);
            return Ok(Some(ApiResource::from_gvk_with_plural(&gvk, kind.plural)));
        }
    }
    Ok(None)
}

/// The HTTP status a watch failed with, if the API server answered at all.
fn status_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::api::alert::EVENT_SOURCE_KINDS;

    #[test]
    fn every_kind_an_alert_may_select_by_label_has_its_place() {
        let mut kinds = EVENT_SOURCE_KINDS;
        kinds.sort_unstable();
        assert_eq!(KINDS.map(|kind| kind.kind), kinds);
    }

    fn object(name: &str, version: &str, label: Option<&str>) -> PartialObjectMeta<DynamicObject> {
        let labels: BTreeMap<_, _> = label.map(|label| ("team", label)).into_iter().collect();
        let metadata = json!({"namespace": "apps", "name": name, "resourceVersion": version, "labels": labels});
        serde_json::from_value(json!({"metadata": metadata})).expect("metadata")
    }

    fn seen(labels: &Labels, name: &str, version: &str) -> LabelsView {
        labels.of(&InvolvedObject {
            kind: "Kustomization".into(),
            namespace: "apps".into(),
            name: name.into(),
            resource_version: version.into(),
            ..Default::default()
        })
    }

    #[test]
    fn an_event_waits_only_for_what_the_watch_has_not_come_to() {
        let labels = Labels::default();
        assert_eq!(seen(&labels, "web", "5"), LabelsView::Unavailable, "there is no cluster");
        labels.scope.set(Some("apps".to_owned())).expect("not set yet");
        assert_eq!(seen(&labels, "web", "5"), LabelsView::Syncing);
        labels.change("Kustomization", |known| known.objects.apply(&object("web", "10", Some("a"))));
        assert_eq!(seen(&labels, "web", "5"), LabelsView::Syncing, "as long as the list is not complete");
        labels.change("Kustomization", |known| known.reach = Reach::Known);

        let a = || Some(Arc::new(ObjectLabels::new([("team".to_owned(), "a".to_owned())])));
        for (name, version, expected) in [
            ("web", "10", LabelsView::Known(a())),
            ("web", "9", LabelsView::Known(a())),
            ("web", "11", LabelsView::Behind(a())),
            ("web", "", LabelsView::Known(a())),
            ("other", "10", LabelsView::Known(None)),
            ("other", "11", LabelsView::Behind(None)),
            ("other", "", LabelsView::Behind(None)),
        ] {
            assert_eq!(seen(&labels, name, version), expected, "{name} {version}");
        }
        labels.change("Kustomization", |known| known.objects.apply(&object("web", "12", None)));
        assert_eq!(seen(&labels, "web", "11"), LabelsView::Known(Some(Arc::default())));
        labels.change("Kustomization", |known| known.objects.delete(&object("web", "15", None)));
        assert_eq!(seen(&labels, "web", "12"), LabelsView::Known(None), "it is gone");
        assert!(labels.kinds.read()["Kustomization"].objects.by_namespace.is_empty());

        assert_eq!(labels.reach("Kustomization", "prod"), Reach::OtherNamespace);
        labels.forget("Kustomization");
        assert_eq!(seen(&labels, "web", "12"), LabelsView::Syncing);
    }
}
