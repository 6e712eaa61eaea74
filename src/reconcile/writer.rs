//! Writes conditions: into the cluster by server-side apply, or into the log where there is none.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use super::events::{Events, Happening};
use crate::api::conditions::Condition;
use crate::cluster::discovery;
use crate::cluster::lease::Claim;
use crate::cluster::{ObjectKind, ObjectRef, Observed};

/// The field manager of server-side apply.
const MANAGER: &str = "herald";

/// A write that takes longer is given up and tried again.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A line of the log about an object, with the fields that `flux logs` finds it by.
macro_rules! line {
    ($level:ident, $object:expr, $($rest:tt)+) => {
        tracing::$level!(
            logger = "reconcile",
            controllerKind = %$object.kind,
            "reconciler kind" = cli_kind($object.kind),
            name = %$object.key.name,
            namespace = %$object.key.namespace,
            Alert = form($object, ObjectKind::Alert),
            Provider = form($object, ObjectKind::Provider),
            $($rest)+
        )
    };
}

/// Why a write did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is nothing to write to.
    #[error("the object is gone")]
    Gone,
    /// It may work later.
    #[error("the write did not work; it is tried again")]
    Retry,
}

/// Takes the conditions that ought to stand.
pub trait StatusWriter: Send + Sync + 'static {
    /// Writes `conditions`, if any, and takes an old finalizer off, if it must go.
    fn write<'a>(
        &'a self,
        object: &'a ObjectRef,
        observed: &'a Observed,
        conditions: &'a Option<Vec<Condition>>,
    ) -> BoxFuture<'a, Result<(), WriteError>>;
}

/// Into the cluster.
pub struct ClusterWriter {
    client: Client,
    api: discovery::Api,
    claim: Claim,
    events: Events,
    /// It was said that the CRDs have no status subresource; Flux's have none.
    said: AtomicBool,
}

impl ClusterWriter {
    /// A writer to what `api` found.
    pub fn new(client: Client, api: discovery::Api, claim: Claim, events: Events) -> Self {
        let writer = Self { client, said: AtomicBool::new(false), api, claim, events };
        if !writer.api.has_status {
            writer.say_no_status();
        }
        writer
    }

    fn say_no_status(&self) {
        if !self.said.swap(true, Ordering::SeqCst) {
            tracing::info!(
                logger = "reconcile",
                "the installed CRDs have no status, so conditions are not written; apply the files in crds/ to get them"
            );
        }
    }

    fn object_api(&self, object: &ObjectRef) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &object.key.namespace, &self.api.resource(object.kind))
    }

    async fn write_status(&self, object: &ObjectRef, conditions: &[Condition]) -> Result<(), WriteError> {
        if !self.api.has_status {
            return Ok(());
        }
        let resource = self.api.resource(object.kind);
        let patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": &*object.key.name, "namespace": &*object.key.namespace},
            "status": {"conditions": conditions},
        });
        let params = PatchParams::apply(MANAGER).force();
        let api = self.object_api(object);
        let patch = Patch::Apply(patch);
        let written = api.patch_status(&object.key.name, &params, &patch);
        match tokio::time::timeout(TIMEOUT, written).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                // The object is gone, or the CRD lost its status; a look tells which. For as long as it lacks
                // one: `discovery::changed` starts all of this anew, unless it comes back before that.
                match api.get_opt(&object.key.name).await {
                    Ok(Some(_)) => {
                        self.say_no_status();
                        Err(WriteError::Retry)
                    }
                    _ => Err(WriteError::Gone),
                }
            }
            Ok(Err(error)) => Err(self.failed(object, &error.to_string())),
            Err(_) => Err(self.failed(object, "no answer in time")),
        }
    }

    async fn strip(&self, object: &ObjectRef, observed: &Observed, keep: &[String]) -> Result<(), WriteError> {
        let patch = json!({"metadata": {"finalizers": keep, "resourceVersion": observed.resource_version}});
        match self
            .object_api(object)
            .patch_metadata(&object.key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => {
                line!(info, object, "took an old finalizer off the object, which is being deleted");
                let kind = object.kind;
                // As Flux's controller says it.
                let message = format!("removed finalizer from {kind} to migrate to static {kind}");
                self.events.tell(object, observed, Happening::normal("Migration", message));
                Ok(())
            }
            // Changed meanwhile: the change brings the object here again.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Err(WriteError::Gone),
            Err(error) => Err(self.failed(object, &error.to_string())),
        }
    }

    fn failed(&self, object: &ObjectRef, error: &str) -> WriteError {
        line!(warn, object, error, "cannot write the object's conditions, will try again");
        WriteError::Retry
    }
}

impl StatusWriter for ClusterWriter {
    fn write<'a>(
        &'a self,
        object: &'a ObjectRef,
        observed: &'a Observed,
        conditions: &'a Option<Vec<Condition>>,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        async move {
            if !self.claim.leads() {
                // Whoever is elected looks at every object anew.
                return Err(WriteError::Gone);
            }
            if let Some(keep) = &observed.finalizers_to_strip {
                return self.strip(object, observed, keep).await;
            }
            match conditions {
                Some(conditions) => self.write_status(object, conditions).await,
                None => Ok(()),
            }
        }
        .boxed()
    }
}

/// The object as `{name, namespace}` if it is of this kind, as the peer's lines have it.
fn form(object: &ObjectRef, kind: ObjectKind) -> String {
    let of_kind = || json!({"name": &*object.key.name, "namespace": &*object.key.namespace}).to_string();
    if object.kind == kind { of_kind() } else { String::new() }
}

/// What the `flux` program calls the kind, where that is another word.
fn cli_kind(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Alert => "",
        ObjectKind::Provider => "AlertProvider",
    }
}

/// Into the log, where there is no cluster to keep them.
#[derive(Default)]
pub struct LogWriter {
    said: Mutex<HashMap<ObjectRef, Vec<Condition>>>,
}

impl StatusWriter for LogWriter {
    fn write<'a>(
        &'a self,
        object: &'a ObjectRef,
        _observed: &'a Observed,
        conditions: &'a Option<Vec<Condition>>,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        let conditions = conditions.clone().unwrap_or_default();
        let before = self.said.lock().insert(object.clone(), conditions.clone()).unwrap_or_default();
        // Without a cluster nothing stands, so every condition comes as new; only changes are said.
        let same = |is: &&Condition| {
            before.iter().any(|was| {
                (&was.kind, &was.status, &was.reason, &was.message) == (&is.kind, &is.status, &is.reason, &is.message)
            })
        };
        for is in conditions.iter().filter(|is| !same(is)) {
            let ok = is.status == "True";
            let (condition, status, reason) = (&is.kind, &is.status, &is.reason);
            if ok {
                line!(info, object, %condition, %status, %reason, text = %is.message, "condition");
            } else {
                line!(error, object, %condition, %status, %reason, error = %is.message, "condition");
            }
        }
        futures::future::ready(Ok(())).boxed()
    }
}
