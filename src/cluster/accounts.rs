//! Tokens of ServiceAccounts, by the API server. Handed by `app` to whoever makes credentials of
//! them (`outbound::auth`); asked when a token is needed, never for an event.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount as Object;
use kube::api::{Api, PartialObjectMeta, PostParams};
use kube::{Client, Error};
use tokio::sync::Semaphore;

use super::secrets::is_name;
use crate::outbound::SendError;
use crate::outbound::auth::{ServiceAccount, ServiceAccounts};
use crate::secret::Secret;

/// Requests under way at once; see the reads of `secrets`, whose connections they share.
const AT_ONCE: usize = 2;

/// An answer may take this long, the turn included: a renewal is waited for by every job of the
/// identity, and each of these is under way.
const WITHIN: Duration = Duration::from_secs(10);

/// How long a token is good, in seconds: the least the API server gives. It is exchanged at once.
const GOOD_FOR: i64 = 600;

/// The API server as one who makes tokens.
pub struct Accounts {
    client: Client,
    turns: Semaphore,
}

impl Accounts {
    /// At this API server.
    pub fn new(client: Client) -> Self {
        Self { client, turns: Semaphore::new(AT_ONCE) }
    }

    /// Does this in turn.
    ///
    /// # Errors
    /// [`SendError::Timeout`] when the API server does not answer in time: the client itself waits for
    /// ever.
    async fn in_time<T>(&self, ask: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
        let in_turn = async {
            let _turn = self.turns.acquire().await;
            ask.await
        };
        tokio::time::timeout(WITHIN, in_turn).await.unwrap_or(Err(SendError::Timeout))
    }
}

impl ServiceAccounts for Accounts {
    fn annotations<'a>(
        &'a self,
        account: &'a ServiceAccount,
    ) -> BoxFuture<'a, Result<BTreeMap<String, String>, SendError>> {
        self.in_time(async move {
            check_name(account)?;
            let api: Api<Object> = Api::namespaced(self.client.clone(), &account.namespace);
            let read: Result<PartialObjectMeta<Object>, _> = api.get_metadata(&account.name).await;
            let read = read.map_err(|error| refusal(account, "get serviceaccounts", &error))?;
            Ok(read.metadata.annotations.unwrap_or_default())
        })
        .boxed()
    }

    fn token<'a>(
        &'a self,
        account: &'a ServiceAccount,
        audience: &'static str,
    ) -> BoxFuture<'a, Result<Secret, SendError>> {
        self.in_time(async move {
            check_name(account)?;
            let api: Api<Object> = Api::namespaced(self.client.clone(), &account.namespace);
            let spec = TokenRequestSpec {
                audiences: Some(vec![audience.to_owned()]),
                expiration_seconds: Some(GOOD_FOR),
                ..Default::default()
            };
            let request = TokenRequest { spec: Some(spec), ..Default::default() };
            let made = api.create_token_request(&account.name, &PostParams::default(), &request).await;
            let made = made.map_err(|error| refusal(account, "create serviceaccounts/token", &error))?;
            let token = made.status.and_then(|status| status.token);
            token.map(Secret::new).ok_or(SendError::NotTheVendor { what: "answered without a token" })
        })
        .boxed()
    }
}

/// The client joins the name to a path as it is: what is no name could lead to another object.
fn check_name(account: &ServiceAccount) -> Result<(), SendError> {
    if is_name(&account.name) { Ok(()) } else { Err(missing(account)) }
}

fn missing(ServiceAccount { namespace, name, by_default }: &ServiceAccount) -> SendError {
    let whose = if *by_default { ", which --default-service-account names," } else { "" };
    SendError::NoCredential(format!("ServiceAccount {namespace}/{name}{whose} does not exist; create it"))
}

/// What the API server's refusal is to a delivery.
fn refusal(account: &ServiceAccount, wanted: &str, error: &Error) -> SendError {
    let ServiceAccount { namespace, .. } = account;
    match error {
        Error::Api(status) if status.code == 404 => missing(account),
        Error::Api(status) if matches!(status.code, 401 | 403) => {
            SendError::NoCredential(format!("Herald may not {wanted} in namespace {namespace}; see config/rbac"))
        }
        Error::Api(status) => match http::StatusCode::from_u16(status.code) {
            Ok(code) => SendError::Status { status: code, retry_after: None, body: String::new() },
            Err(_) => SendError::Broken,
        },
        _ => SendError::Connect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_service_account_can_be_called_is_asked_for_nowhere() {
        for (name, good) in
            [("flux", true), ("a.b-c", true), ("../../other/serviceaccounts/a", false), ("a/token", false)]
        {
            let account = ServiceAccount { namespace: "apps".into(), name: name.into(), by_default: false };
            assert_eq!(check_name(&account).is_ok(), good, "{name}");
        }
    }
}
