//! Workload identity at Azure: a token of a Kubernetes ServiceAccount becomes one of Entra's.
//!
//! Microsoft's documentation, "Microsoft identity platform and the OAuth 2.0 client credentials
//! flow", third case: access token request with a federated credential. Form fields as captured
//! from Flux (spec/auth.md 6.2), without those of its library's that ask for an id token.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use url::{Host, Url, form_urlencoded};

use super::cache::{Issued, Slot, Tokens, User};
use super::{Credentials, Refused, no_token};
use crate::clock::Clock;
use crate::outbound::{Client, Request, SHORTEST_OTHER, SendError, Target};
use crate::secret::Secret;

/// Whom a Kubernetes token is made for.
const AUDIENCE: &str = "api://AzureADTokenExchange";

/// Annotations of a ServiceAccount: who it is in Entra.
const TENANT_ANNOTATION: &str = "azure.workload.identity/tenant-id";
const CLIENT_ANNOTATION: &str = "azure.workload.identity/client-id";

/// One request for a token may take this long (spec/auth.md 4.4).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a file that holds a token; a real one has some 1,500.
const MAX_FILE: u64 = 64 << 10;

/// The API server, as far as it makes tokens for ServiceAccounts. `cluster` answers.
pub trait ServiceAccounts: Send + Sync {
    /// The annotations of a ServiceAccount.
    fn annotations<'a>(
        &'a self,
        account: &'a ServiceAccount,
    ) -> BoxFuture<'a, Result<BTreeMap<String, String>, SendError>>;
    /// A token of it for an audience, to be used at once.
    fn token<'a>(
        &'a self,
        account: &'a ServiceAccount,
        audience: &'static str,
    ) -> BoxFuture<'a, Result<Secret, SendError>>;
}

/// A ServiceAccount by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Of the Provider that names it.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Provider names none; this is the one for such.
    pub by_default: bool,
}

/// What the environment says of Azure, under the names that Azure's own webhook sets.
#[derive(Clone, Debug, Default)]
pub struct AzureEnvironment {
    /// `AZURE_AUTHORITY_HOST`; Entra's public one when not given.
    pub authority: Option<Url>,
    /// `AZURE_TENANT_ID`.
    pub tenant: Option<String>,
    /// `AZURE_CLIENT_ID`.
    pub client: Option<String>,
    /// `AZURE_FEDERATED_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
}

/// Whose Kubernetes token is exchanged.
#[derive(Clone)]
pub enum Exchange {
    /// That of a ServiceAccount in the Provider's namespace.
    Of(ServiceAccount, Arc<dyn ServiceAccounts>),
    /// Herald's own.
    Own {
        /// Entra's name for the organisation.
        tenant: String,
        /// Entra's name for the application.
        client: String,
        /// Where the kubelet keeps the token new.
        file: PathBuf,
    },
}

impl AzureEnvironment {
    /// Herald's own identity.
    ///
    /// # Errors
    /// The name of a variable that is missing.
    pub fn own(&self) -> Result<Exchange, &'static str> {
        Ok(Exchange::Own {
            tenant: self.tenant.clone().ok_or("AZURE_TENANT_ID")?,
            client: self.client.clone().ok_or("AZURE_CLIENT_ID")?,
            file: self.token_file.clone().ok_or("AZURE_FEDERATED_TOKEN_FILE")?,
        })
    }
}

/// An identity in Entra, and what it takes to have a token of it.
#[derive(Clone)]
pub struct Azure {
    /// Whose token is exchanged.
    pub exchange: Exchange,
    /// Where Entra is.
    pub authority: Option<Url>,
    /// The client for Entra: no proxy and no certificates of the Provider's.
    pub client: Arc<Client>,
    /// For a token's life.
    pub clock: Arc<dyn Clock>,
    /// The tokens of all.
    pub tokens: Arc<Tokens>,
    /// The Provider, as who asks for them.
    pub user: Arc<User>,
}

impl Azure {
    /// What tells the identity from others: the ServiceAccount, or Herald's own tenant and application.
    pub fn whose(&self) -> String {
        match &self.exchange {
            Exchange::Of(ServiceAccount { namespace, name, .. }, _) => format!("{namespace}/{name}"),
            Exchange::Own { tenant, client, .. } => format!("{tenant}\n{client}"),
        }
    }

    /// Whether this address belongs to a simulator: the operator's Entra is on loopback, and this is its server.
    pub fn simulates(&self, base: &Url) -> bool {
        let is_loopback = match base.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            _ => false,
        };
        is_loopback && self.authority.as_ref().is_some_and(|authority| authority.origin() == base.origin())
    }

    /// The identity as who calls a service that this scope is for.
    pub fn credentials(&self, scope: &'static str) -> Arc<dyn Credentials> {
        let authority = self
            .authority
            .clone()
            .unwrap_or_else(|| Url::parse("https://login.microsoftonline.com/").expect("a constant"));
        let mut identifier = [0; 32];
        let identity = format!("azure\n{authority}\n{scope}\n{}", self.whose());
        identifier.copy_from_slice(digest(&SHA256, identity.as_bytes()).as_ref());
        let slot = self.tokens.slot(identifier);
        Arc::new(Exchanged { azure: self.clone(), authority, scope, slot })
    }
}

struct Exchanged {
    azure: Azure,
    authority: Url,
    scope: &'static str,
    slot: Arc<Slot>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: u64,
}

impl Credentials for Exchanged {
    fn authorization(&self) -> BoxFuture<'_, Result<HeaderValue, SendError>> {
        self.azure.tokens.get(&self.slot, &self.azure.user, self.issue()).boxed()
    }

    fn refused(&self, authorization: &HeaderValue) -> Refused {
        self.azure.tokens.refused(&self.slot, authorization)
    }
}

impl Exchanged {
    async fn issue(&self) -> Result<Issued, SendError> {
        let (tenant, client, assertion) = match &self.azure.exchange {
            Exchange::Of(account, accounts) => {
                let from = |error| no_token("Kubernetes", error);
                let mut annotations = accounts.annotations(account).await.map_err(from)?;
                let mut annotation = |name: &str| {
                    let value = annotations.remove(name).filter(|value| !value.trim().is_empty());
                    let ServiceAccount { namespace, name: account, .. } = account;
                    value.ok_or_else(|| {
                        let what = format!("ServiceAccount {namespace}/{account} has no annotation {name}; add it");
                        from(SendError::NoCredential(what))
                    })
                };
                let (tenant, client) = (annotation(TENANT_ANNOTATION)?, annotation(CLIENT_ANNOTATION)?);
                (tenant, client, accounts.token(account, AUDIENCE).await.map_err(from)?)
            }
            Exchange::Own { tenant, client, file } => (tenant.clone(), client.clone(), read(file).await?),
        };
        self.exchange(tenant.trim(), client.trim(), assertion).await.map_err(|error| no_token("Entra", error))
    }

    async fn exchange(&self, tenant: &str, client: &str, assertion: Secret) -> Result<Issued, SendError> {
        let mut url = self.authority.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend([tenant, "oauth2", "v2.0", "token"]);
        }
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("client_assertion", assertion.expose())
            .append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
            .append_pair("client_id", client)
            .append_pair("grant_type", "client_credentials")
            .append_pair("scope", self.scope)
            .finish();
        let request = Request {
            method: Method::POST,
            url,
            headers: HeaderMap::new(),
            body: Bytes::from(form),
            status_only: false,
        }
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json");
        let Azure { client, clock, .. } = &self.azure;
        let mut target = Target::anonymous(client.clone(), clock.clone(), TIMEOUT);
        // What is sent is masked in what comes back.
        target.masks.text(assertion.expose(), SHORTEST_OTHER);
        let Answer { access_token, expires_in } = target.send(request).await?.json()?;
        Ok(Issued { token: Secret::new(access_token), lifetime: Duration::from_secs(expires_in) })
    }
}

/// The token that the kubelet put there.
async fn read(file: &Path) -> Result<Secret, SendError> {
    let wrong = |what: String| no_token("the file of AZURE_FEDERATED_TOKEN_FILE", SendError::NoCredential(what));
    let mut text = String::new();
    let read = async { tokio::fs::File::open(file).await?.take(MAX_FILE).read_to_string(&mut text).await };
    read.await.map_err(|error| wrong(format!("it cannot be read: {}", error.kind())))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    Ok(Secret::new(token))
}
