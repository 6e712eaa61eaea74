//! Which version of our kinds the API server serves, and whether they have a status. Herald runs
//! on its own CRDs and on Flux's.

use std::time::Duration;

use kube::Client;
use kube::api::ApiResource;
use kube::core::GroupVersion;

use super::ObjectKind;
use crate::api::{DEPRECATED_VERSIONS, GROUP, STORED_VERSION};

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    version: String,
    /// `status` is a subresource, so conditions can be written.
    pub has_status: bool,
}

impl Api {
    /// The resource of a kind.
    pub fn resource(&self, kind: ObjectKind) -> ApiResource {
        let (name, plural) = match kind {
            ObjectKind::Alert => ("Alert", "alerts"),
            ObjectKind::Provider => ("Provider", "providers"),
        };
        let group_version = GroupVersion::gv(GROUP, &self.version);
        ApiResource::from_gvk_with_plural(&group_version.with_kind(name), plural)
    }
}

/// How often the API server is asked whether the CRDs are still the same.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Waits until the API server serves Alerts and Providers, and says what it waits for.
pub async fn discover(client: &Client) -> Api {
    let mut said = String::new();
    loop {
        let why = match try_discover(client).await {
            Ok(Some(api)) => {
                tracing::info!(logger = "cluster", version = %api.version, status = api.has_status, "found Alerts and Providers");
                return api;
            }
            Ok(None) => format!("the API server serves no Alerts and Providers of {GROUP}; apply the files in crds/"),
            Err(error) => format!("the API server does not answer: {error}"),
        };
        if why != said {
            tracing::warn!(logger = "cluster", error = %why, "waiting");
            said = why;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Resolves when the API server has come to serve something else than `api`: the CRDs were
/// replaced under a running Herald.
pub async fn changed(client: &Client, api: &Api) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if try_discover(client).await.is_ok_and(|now| now.is_some_and(|now| now != *api)) {
            tracing::info!(logger = "cluster", "the installed CRDs were replaced, starting anew with them");
            return;
        }
    }
}

async fn try_discover(client: &Client) -> kube::Result<Option<Api>> {
    // v1 is to come; an older version is better than none.
    let versions = ["v1", STORED_VERSION].into_iter().chain(DEPRECATED_VERSIONS.into_iter().rev());
    for version in versions {
        let resources = match client.list_api_group_resources(&format!("{GROUP}/{version}")).await {
            Ok(list) => list.resources,
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            Err(error) => return Err(error),
        };
        let serves = |name: &str| resources.iter().any(|resource| resource.name == name);
        if serves("alerts") && serves("providers") {
            let has_status = serves("alerts/status") && serves("providers/status");
            return Ok(Some(Api { version: version.to_owned(), has_status }));
        }
    }
    Ok(None)
}
