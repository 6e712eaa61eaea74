//! One guarded watch: a bad object is skipped, counted and told so; the watch and the others go on.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};

use super::object::{json, meta, observed, spec};
use super::{ObjectKind, ObjectRef, Stores};
use crate::api::{Alert, AlertSpec, Key, Provider, ProviderSpec};
use crate::compute::Compute;
use crate::matching::{self, Prepared};
use crate::ops::metrics::Metrics;

/// Watches one kind into the stores, for ever.
pub async fn objects(
    client: Client,
    resource: ApiResource,
    kind: ObjectKind,
    namespace: Option<String>,
    stores: Arc<Stores>,
    metrics: Arc<Metrics>,
    compute: Arc<Compute>,
) {
    let api: Api<DynamicObject> = match &namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let mut stream = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut seen = BTreeSet::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => seen.clear(),
            Ok(Event::InitApply(object)) => {
                let _prepared = prepare(kind, &object, &compute).await;
                seen.insert(apply(kind, &object, &stores, &metrics));
            }
            Ok(Event::Apply(object)) => {
                let _prepared = prepare(kind, &object, &compute).await;
                apply(kind, &object, &stores, &metrics);
            }
            Ok(Event::Delete(object)) => stores.remove(&ObjectRef { kind, key: meta(&object).key }),
            Ok(Event::InitDone) => stores.listed(kind, &std::mem::take(&mut seen)),
            Err(error) => {
                tracing::warn!(logger = "cluster", %kind, %error, "the watch broke, it will be opened again");
            }
        }
    }
}

/// Compiles expressions that take long on a thread of its own, in the turn of the object's namespace, so that neither
/// this thread nor the Alerts of others wait. What cannot be compiled there now is compiled here.
async fn prepare(kind: ObjectKind, object: &DynamicObject, compute: &Compute) -> Prepared {
    let spec = (kind == ObjectKind::Alert).then(|| spec::<AlertSpec>(object).ok()).flatten();
    let heavy = spec.map(|spec| matching::heavy(&spec)).unwrap_or_default();
    if heavy.is_empty() {
        return Prepared::default();
    }
    compute.run(&meta(object).key.namespace, move || matching::prepare(&heavy)).await.unwrap_or_default()
}

/// The part of a Provider that says what its notifications are, if that can be read.
fn readable(object: &DynamicObject) -> Option<Provider> {
    let mut spec = object.data.get("spec")?.as_object()?.clone();
    spec.retain(|field, _| ["type", "commitStatusExpr", "suspend"].contains(&field.as_str()));
    let spec: ProviderSpec = serde_json::from_value(spec.into()).ok()?;
    let json = spec.commit_status_expr.is_some().then(|| Arc::new(json(ObjectKind::Provider, object)));
    Some(Provider { meta: meta(object), spec, object: json })
}

/// Puts an object into the stores. Also used for files.
pub fn apply(kind: ObjectKind, object: &DynamicObject, stores: &Stores, metrics: &Metrics) -> Key {
    let meta = meta(object);
    let (key, uid) = (meta.key.clone(), meta.uid.clone());
    let observed = observed(object);
    let good = match kind {
        ObjectKind::Alert => {
            let text = json(kind, object).to_string().into();
            spec::<AlertSpec>(object)
                .map(|spec| stores.apply_alert(&Alert { meta, spec, object: text }, observed.clone()))
        }
        ObjectKind::Provider => spec::<ProviderSpec>(object).map(|spec| {
            let json = spec.commit_status_expr.is_some().then(|| Arc::new(json(kind, object)));
            stores.apply_provider(Provider { meta, spec, object: json }, observed.clone());
        }),
    };
    if let Err(why) = good {
        let bad = ObjectRef { kind, key: key.clone() };
        // Every later look at the object, one at our own condition among them, is no news.
        if stores.bad(&bad).is_none_or(|before| before != why) {
            metrics.bad_object();
            tracing::error!(
                logger = "cluster",
                controllerKind = %kind,
                name = %key.name,
                namespace = %key.namespace,
                error = %why,
                "the object is left out until it is mended"
            );
        }
        let readable = (kind == ObjectKind::Provider).then(|| readable(object)).flatten();
        stores.apply_bad(bad, uid, readable, observed, why);
    }
    key
}
