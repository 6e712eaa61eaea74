//! Alerts, Providers and the Secrets they name, as of now. Fed by `watch`, `secrets` or
//! `manifests`; answers the path as a [`View`].

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use hashbrown::HashMap;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{Changes, Labels, ObjectKind, ObjectRef, Observed};
use crate::api::{Alert, InvolvedObject, Key, Provider};
use crate::matching::{CompiledAlert, SharedIndex};
use crate::view::{self, Expression, LabelsView, ProviderView, SecretView, View};

/// See the module.
#[derive(Default)]
pub struct Stores {
    /// Where Alerts are found.
    pub index: SharedIndex,
    /// Name and UID of Providers that changed, or a Secret of theirs, or that are gone; read for
    /// `delivery`.
    pub for_delivery: Changes<(Key, Arc<str>)>,
    /// Objects whose conditions may have to change; read by `reconcile`.
    pub for_reconcile: Changes<ObjectRef>,
    /// Secrets that must be read; read by `secrets`.
    pub to_read: Changes<Key>,
    /// The labels that Alerts select by.
    pub labels: Labels,
    /// The kinds whose labels Alerts select by; read by `labels`.
    pub label_kinds: watch::Sender<BTreeSet<Arc<str>>>,
    /// `--no-cross-namespace-refs`; conditions say what it denies.
    pub no_cross_namespace: bool,
    state: RwLock<State>,
    alerts_listed: AtomicBool,
    providers_listed: AtomicBool,
    synced: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    providers: HashMap<Key, Arc<ProviderView>>,
    by_uid: HashMap<Arc<str>, Key>,
    /// Secrets that some Provider names, and nothing of any other.
    secrets: BTreeMap<Key, Named>,
    observed: HashMap<ObjectRef, Observed>,
    bad: HashMap<ObjectRef, String>,
    /// UIDs of Providers in `bad`.
    unreadable: HashMap<Key, Unreadable>,
    version: u64,
}

/// A Secret that somebody names.
struct Named {
    secret: SecretView,
    by: BTreeSet<Key>,
}

/// A Provider that is there and whose spec cannot be read.
struct Unreadable {
    uid: Arc<str>,
    /// See [`View::unreadable`].
    view: Option<Arc<ProviderView>>,
}

impl Stores {
    /// Empty; `no_cross_namespace` is `--no-cross-namespace-refs`.
    pub fn new(no_cross_namespace: bool) -> Self {
        Self { no_cross_namespace, ..Self::default() }
    }

    /// An Alert as it is now.
    pub fn apply_alert(&self, alert: &Alert, observed: Observed) {
        let object = ObjectRef { kind: ObjectKind::Alert, key: alert.meta.key.clone() };
        let standing = self.index.get(&object.key);
        let unchanged = standing.is_some_and(|old| old.uid == alert.meta.uid && old.object == alert.object);
        if !unchanged {
            self.index.apply(Arc::new(CompiledAlert::within(alert, self.index.share(&alert.meta.key))));
            self.want_labels();
        }
        self.observe(object, observed, None);
    }

    /// A Provider as it is now. Secrets it is the first to name are asked for.
    pub fn apply_provider(&self, provider: Provider, observed: Observed) {
        let object = ObjectRef { kind: ObjectKind::Provider, key: provider.meta.key.clone() };
        let standing = self.provider(&object.key);
        let unchanged = standing.is_some_and(|old| {
            let (old, new) = (&old.provider, &provider);
            old.meta.uid == new.meta.uid
                && old.meta.annotations == new.meta.annotations
                && old.spec == new.spec
                && old.object == new.object
        });
        if !unchanged {
            self.replace_provider(provider);
        }
        self.observe(object, observed, None);
        self.check_synced();
    }

    /// An object that is there and cannot be read: it is left out, and says so. What waits for a Provider goes
    /// on waiting, and so does what comes for it as far as `readable` tells what that is.
    pub fn apply_bad(
        &self,
        object: ObjectRef,
        uid: Arc<str>,
        readable: Option<Provider>,
        observed: Observed,
        why: String,
    ) {
        if object.kind == ObjectKind::Provider {
            let view = readable.map(|provider| {
                let expression = view::expression(&provider.spec);
                Arc::new(ProviderView { provider, expression, secrets: BTreeMap::new(), version: 0 })
            });
            let unreadable = Unreadable { uid: uid.clone(), view };
            let before = self.state.write().unreadable.insert(object.key.clone(), unreadable);
            before
                .filter(|before| before.uid != uid)
                .inspect(|before| self.for_delivery.add((object.key.clone(), before.uid.clone())));
        }
        self.take_out(&object);
        self.observe(object, observed, Some(why));
        self.check_synced();
    }

    /// An object that is gone.
    pub fn remove(&self, object: &ObjectRef) {
        self.take_out(object);
        let mut state = self.state.write();
        state.observed.remove(object);
        state.bad.remove(object);
        let unreadable = (object.kind == ObjectKind::Provider).then(|| state.unreadable.remove(&object.key)).flatten();
        drop(state);
        if let Some(Unreadable { uid, .. }) = unreadable {
            self.for_delivery.add((object.key.clone(), uid));
        }
        self.check_synced();
        self.for_reconcile.add(object.clone());
    }

    /// The first list of a kind, or a later one, is complete: what is not in it is gone.
    pub fn listed(&self, kind: ObjectKind, seen: &BTreeSet<Key>) {
        let known: Vec<Key> = {
            let state = self.state.read();
            let of_kind = state.observed.keys().filter(|object| object.kind == kind);
            of_kind.map(|object| object.key.clone()).filter(|key| !seen.contains(key)).collect()
        };
        for key in known {
            self.remove(&ObjectRef { kind, key });
        }
        match kind {
            ObjectKind::Alert => self.alerts_listed.store(true, Ordering::SeqCst),
            ObjectKind::Provider => self.providers_listed.store(true, Ordering::SeqCst),
        }
        self.check_synced();
    }

    /// What a Secret that somebody names holds now. The same as before is no news: a refused credential
    /// must not be sent again because something else about its Secret changed.
    pub fn set_secret(&self, key: &Key, secret: SecretView) {
        let mut state = self.state.write();
        let Some(named) = state.secrets.get_mut(key) else {
            // Nobody names it any more, and perhaps it was the last that was waited for.
            drop(state);
            self.check_synced();
            return;
        };
        if named.secret == secret {
            return;
        }
        named.secret = secret;
        let by: Vec<Key> = named.by.iter().cloned().collect();
        for provider in by {
            if let Some(view) = state.providers.get(&provider).cloned() {
                self.publish(&mut state, view.provider.clone(), view.expression.clone());
            }
        }
        drop(state);
        self.check_synced();
    }

    /// Whether some Provider names this Secret.
    pub fn is_named(&self, secret: &Key) -> bool {
        self.state.read().secrets.contains_key(secret)
    }

    /// Whether this Secret was read before.
    pub fn was_read(&self, secret: &Key) -> bool {
        let state = self.state.read();
        state.secrets.get(secret).is_some_and(|named| !matches!(named.secret, SecretView::Unread))
    }

    /// Every Secret that some Provider names.
    pub fn named_secrets(&self) -> Vec<Key> {
        self.state.read().secrets.keys().cloned().collect()
    }

    /// What stands in an object besides its spec; `None` when it is gone.
    pub fn observed(&self, object: &ObjectRef) -> Option<Observed> {
        self.state.read().observed.get(object).cloned()
    }

    /// Why an object that is there cannot be read.
    pub fn bad(&self, object: &ObjectRef) -> Option<String> {
        self.state.read().bad.get(object).cloned()
    }

    /// Every object's conditions are looked at anew.
    pub fn reconsider(&self) {
        let objects: Vec<ObjectRef> = self.state.read().observed.keys().cloned().collect();
        objects.into_iter().for_each(|object| self.for_reconcile.add(object));
    }

    /// What is said of the labels of a kind changed.
    pub fn labels_told(&self, kind: &str) {
        for key in self.index.selecting_by_label(kind) {
            self.for_reconcile.add(ObjectRef { kind: ObjectKind::Alert, key });
        }
    }

    fn want_labels(&self) {
        let now = self.index.label_kinds();
        self.label_kinds.send_if_modified(|wanted| {
            let changed = *wanted != now;
            *wanted = now;
            changed
        });
    }

    fn observe(&self, object: ObjectRef, observed: Observed, bad: Option<String>) {
        let mut state = self.state.write();
        match bad {
            Some(why) => state.bad.insert(object.clone(), why),
            None => state.bad.remove(&object),
        };
        state.observed.insert(object.clone(), observed);
        drop(state);
        self.for_reconcile.add(object);
    }

    fn take_out(&self, object: &ObjectRef) {
        match object.kind {
            ObjectKind::Alert => {
                self.index.remove(&object.key);
                self.want_labels();
            }
            ObjectKind::Provider => {
                let mut state = self.state.write();
                if let Some(view) = state.providers.remove(&object.key) {
                    state.by_uid.remove(&view.provider.meta.uid);
                    state.unname(&view.provider, &[]);
                    self.changed(&view.provider);
                }
            }
        }
    }

    fn replace_provider(&self, provider: Provider) {
        // Without the lock, which events wait for.
        let expression = view::expression(&provider.spec);
        let mut state = self.state.write();
        let unreadable = state.unreadable.remove(&provider.meta.key).filter(|of| of.uid != provider.meta.uid);
        unreadable.inspect(|of| self.for_delivery.add((provider.meta.key.clone(), of.uid.clone())));
        let old = state.providers.remove(&provider.meta.key);
        for name in provider.spec.secret_names() {
            let secret = Key::new(provider.meta.key.namespace.clone(), name);
            let entry = state.secrets.entry(secret.clone());
            if matches!(entry, Entry::Vacant(_)) {
                self.to_read.add(secret);
            }
            let named = entry.or_insert_with(|| Named { secret: SecretView::Unread, by: BTreeSet::new() });
            named.by.insert(provider.meta.key.clone());
        }
        if let Some(old) = old {
            state.by_uid.remove(&old.provider.meta.uid);
            state.unname(&old.provider, &provider.spec.secret_names());
            if old.provider.meta.uid != provider.meta.uid {
                self.changed(&old.provider);
            }
        }
        self.publish(&mut state, provider, expression);
    }

    /// Makes a new view of a Provider with its Secrets as they are now.
    fn publish(&self, state: &mut State, provider: Provider, expression: Expression) {
        self.changed(&provider);
        let key = provider.meta.key.clone();
        state.version += 1;
        let secrets = provider
            .spec
            .secret_names()
            .into_iter()
            .filter_map(|name| {
                let named = state.secrets.get(&Key::new(key.namespace.clone(), name))?;
                Some((name.to_owned(), named.secret.clone()))
            })
            .collect();
        let version = state.version;
        state.by_uid.insert(provider.meta.uid.clone(), key.clone());
        state.providers.insert(key, Arc::new(ProviderView { provider, expression, secrets, version }));
    }

    /// A Provider changed: what waits for it is tried, and it and its Alerts are judged anew.
    /// Who is told looks when the lock on the state is free again.
    fn changed(&self, provider: &Provider) {
        let key = &provider.meta.key;
        self.for_delivery.add((key.clone(), provider.meta.uid.clone()));
        self.for_reconcile.add(ObjectRef { kind: ObjectKind::Provider, key: key.clone() });
        for alert in self.index.of_provider(key) {
            self.for_reconcile.add(ObjectRef { kind: ObjectKind::Alert, key: alert.key.clone() });
        }
    }

    /// Waits until [`View::synced`].
    pub async fn when_synced(&self) {
        // The sender lives as long as this.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn check_synced(&self) {
        if self.synced() {
            return;
        }
        let listed = self.alerts_listed.load(Ordering::SeqCst) && self.providers_listed.load(Ordering::SeqCst);
        let read = || !self.state.read().secrets.values().any(|named| matches!(named.secret, SecretView::Unread));
        if listed && read() {
            tracing::info!(logger = "cluster", "all Alerts, Providers and their Secrets are known");
            self.synced.send_replace(true);
            // Until now nothing could be said of any of them.
            let observed: Vec<ObjectRef> = self.state.read().observed.keys().cloned().collect();
            observed.into_iter().for_each(|object| self.for_reconcile.add(object));
        }
    }
}

impl State {
    /// A Provider no longer names its Secrets, but for those in `keep`; what nobody names is
    /// forgotten.
    fn unname(&mut self, provider: &Provider, keep: &[&str]) {
        for name in provider.spec.secret_names().into_iter().filter(|name| !keep.contains(name)) {
            let secret = Key::new(provider.meta.key.namespace.clone(), name);
            if let Some(named) = self.secrets.get_mut(&secret) {
                named.by.remove(&provider.meta.key);
                if named.by.is_empty() {
                    self.secrets.remove(&secret);
                }
            }
        }
    }
}

impl View for Stores {
    fn synced(&self) -> bool {
        *self.synced.borrow()
    }

    fn provider(&self, key: &Key) -> Option<Arc<ProviderView>> {
        self.state.read().providers.get(key).cloned()
    }

    fn provider_by_uid(&self, uid: &str) -> Option<Arc<ProviderView>> {
        let state = self.state.read();
        state.providers.get(state.by_uid.get(uid)?).cloned()
    }

    fn is_unreadable(&self, uid: &str) -> bool {
        self.state.read().unreadable.values().any(|unreadable| *unreadable.uid == *uid)
    }

    fn unreadable(&self, key: &Key) -> Option<Arc<ProviderView>> {
        self.state.read().unreadable.get(key)?.view.clone()
    }

    fn labels(&self, object: &InvolvedObject) -> LabelsView {
        self.labels.of(object)
    }

    fn labels_changed(&self) -> BoxFuture<'_, ()> {
        self.labels.changed().boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::api::meta::ObjectMeta;
    use crate::view::SecretData;

    fn holding(token: &str) -> SecretView {
        SecretView::Present(Arc::new(SecretData::new([("token".to_owned(), token.as_bytes().to_vec())])))
    }

    fn provider(uid: &str) -> Provider {
        let meta = ObjectMeta {
            key: Key::new("flux-system", "git"),
            uid: uid.into(),
            generation: 1,
            annotations: BTreeMap::new(),
        };
        let spec = serde_json::from_value(serde_json::json!({"type": "github", "secretRef": {"name": "token"}}));
        Provider { meta, spec: spec.expect("a spec"), object: None }
    }

    fn reference() -> ObjectRef {
        ObjectRef { kind: ObjectKind::Provider, key: Key::new("flux-system", "git") }
    }

    /// Nobody comes back for a Secret that no Provider names any more.
    #[test]
    fn what_is_waited_for_no_more_keeps_nobody_waiting() {
        let bad =
            |stores: &Stores| stores.apply_bad(reference(), "uid".into(), None, Observed::default(), "bad".into());
        let without = |stores: &Stores| {
            let mut without = provider("uid");
            without.spec.secret_ref = None;
            stores.apply_provider(without, Observed::default());
        };
        let remove = |stores: &Stores| stores.remove(&reference());
        for change in [&bad as &dyn Fn(&Stores), &without, &remove] {
            let stores = Stores::default();
            stores.apply_provider(provider("uid"), Observed::default());
            stores.listed(ObjectKind::Provider, &BTreeSet::from([reference().key]));
            stores.listed(ObjectKind::Alert, &BTreeSet::new());
            assert!(!stores.synced(), "its Secret was not read yet");
            change(&stores);
            assert!(stores.synced());
        }
    }

    /// Those who wait for it ask for it by its UID.
    #[test]
    fn a_provider_that_cannot_be_read_is_there_and_its_uid_is_told_of() {
        let stores = Stores::default();
        let told = || stores.for_delivery.take().now_or_never().unwrap_or_default();
        let told_of = |uid: &str| told().iter().any(|(_, told)| **told == *uid);
        let bad = |uid: &str| stores.apply_bad(reference(), uid.into(), None, Observed::default(), "bad".into());
        stores.apply_provider(provider("one"), Observed::default());
        bad("one");
        assert!(told_of("one") && stores.is_unreadable("one") && stores.provider_by_uid("one").is_none());
        bad("two");
        assert!(told_of("one") && stores.is_unreadable("two") && !stores.is_unreadable("one"));
        stores.apply_provider(provider("three"), Observed::default());
        assert!(told_of("two") && !stores.is_unreadable("two") && stores.provider_by_uid("three").is_some());
        bad("three");
        told();
        stores.remove(&reference());
        assert!(told_of("three") && !stores.is_unreadable("three"));
    }

    /// Each is told over and over: by a list after a gap, by a change of a label, by a read that is not
    /// permitted and comes again every five seconds.
    #[test]
    fn a_secret_that_holds_what_it_held_is_no_change() {
        let stores = Stores::default();
        let (key, secret) = (Key::new("flux-system", "git"), Key::new("flux-system", "token"));
        stores.apply_provider(provider("uid"), Observed::default());
        let mut version = stores.provider(&key).expect("it is there").version;
        for now in [
            SecretView::Missing,
            SecretView::Unreadable("no permission".into()),
            holding("old"),
            holding("new"),
            SecretView::Missing,
            holding("new"),
        ] {
            for news in [true, false, false] {
                let _ = (stores.for_delivery.take().now_or_never(), stores.for_reconcile.take().now_or_never());
                stores.set_secret(&secret, now.clone());
                let is = stores.provider(&key).expect("it is there").version;
                assert_eq!(is != version, news, "{now:?}");
                assert_eq!(stores.for_delivery.take().now_or_never().is_some(), news, "{now:?}");
                assert_eq!(stores.for_reconcile.take().now_or_never().is_some(), news, "{now:?}");
                version = is;
            }
        }
    }
}
