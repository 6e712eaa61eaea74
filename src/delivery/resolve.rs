//! A Provider and its Secrets become a service ready to be told, or words for its condition.
//! Done once per change and kept by version: an event parses nothing.
//!
//! Asked by `delivery` before each request and by `reconcile` for the conditions.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use http::header::HeaderMap;
use parking_lot::Mutex;
use url::{Position, Url};

use super::budget::{Budget, Caller, Pass};
use super::headers;
use crate::api::provider::{LocalObjectReference, PROVIDER_TYPES};
use crate::api::{Key, ProviderSpec};
use crate::clock::Clock;
use crate::outbound::auth::{
    App, Azure, AzureEnvironment, Exchange, GitHubApp, Identity, ServiceAccount, ServiceAccounts, Tokens,
};
use crate::outbound::{
    Addresses, AnswerRoom, ClientError, Clients, Masks, SHORTEST, SHORTEST_OTHER, Target, TlsConfig, Way,
};
use crate::secret::Secret;
use crate::vendors::forge::Repository;
use crate::vendors::{self, BuildError, Service};
use crate::view::{ProviderView, SecretData, SecretView};

/// Annotation on a Provider: `append` makes a given CA count besides the system's roots.
const SYSTEM_ROOTS_ANNOTATION: &str = "herald.sh/system-roots";

/// Annotation on a Provider: where the API is, for a server under a sub-path. At the address' host:
/// the token was given for no other.
const API_URL_ANNOTATION: &str = "herald.sh/api-url";

/// Bytes an address may have, in the spec and in a Secret.
const MAX_ADDRESS: usize = 2048;

/// Time one try may take when the Provider does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Time one try takes at most, whatever the Provider says: a slot of delivery is occupied for as long.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What vendors call the Secret; whoever knows its name puts that there.
const THE_SECRET: &str = "the Secret of spec.secretRef";

/// The reason while a Secret is being read: it will soon be another, or none.
pub const SECRET_NOT_READ: &str = "SecretNotRead";

/// Why a Provider cannot be used as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ResolveError {
    /// The condition's reason.
    pub reason: &'static str,
    /// The field or key, what is wrong, and what to do; never a value.
    pub message: String,
    /// The spec itself can never work, whatever happens around it: `Ready=False`.
    pub terminal: bool,
}

/// What there is to make credentials of besides Secrets.
pub struct Identities {
    /// Where tokens are kept.
    pub tokens: Arc<Tokens>,
    /// What the environment says of Azure.
    pub azure: AzureEnvironment,
    /// Tokens of ServiceAccounts; none without a cluster.
    pub accounts: Option<Arc<dyn ServiceAccounts>>,
    /// Feature gate ObjectLevelWorkloadIdentity: whether a Provider may name a ServiceAccount.
    pub object_level: bool,
    /// `--default-service-account`: for Providers that name none.
    pub default_account: Option<String>,
}

/// Services by Provider, each for the version it was made from.
pub struct Resolver {
    clients: Clients,
    room: AnswerRoom,
    clock: Arc<dyn Clock>,
    bitbucket_api: Option<Url>,
    budget: Arc<Budget>,
    identities: Identities,
    resolved: Mutex<HashMap<Key, Kept>>,
    masks: Mutex<SharedMasks>,
}

/// The masks of Secrets, for as long as some Provider has them.
#[derive(Default)]
struct SharedMasks {
    /// By where the contents are, which is nobody else's place while they are referred to.
    by_secret: HashMap<usize, (Weak<SecretData>, Weak<Masks>)>,
    prune_at: usize,
}

/// What became of a version of a Provider, and its part in the budgets.
struct Kept {
    version: u64,
    ready: Result<(Arc<Service>, Arc<Pass>), ResolveError>,
}

/// What became of a Provider.
pub type Resolved = Result<Arc<Service>, ResolveError>;

impl Resolver {
    /// Nothing resolved yet. `bitbucket_api` is where Bitbucket Cloud's API is, when not at its own
    /// host.
    pub fn new(
        clock: Arc<dyn Clock>,
        addresses: Addresses,
        bitbucket_api: Option<Url>,
        identities: Identities,
    ) -> Self {
        let bitbucket_api = bitbucket_api.map(with_slash);
        let budget = Budget::new(clock.clone());
        let (clients, room, resolved) = (Clients::new(addresses), AnswerRoom::default(), Mutex::default());
        Self { clients, room, clock, bitbucket_api, budget, identities, resolved, masks: Mutex::default() }
    }

    /// The service of a Provider as it is now. Nothing of it is kept when `is_there` says that it is gone:
    /// the view may be older than [`Resolver::forget`].
    pub fn resolve(&self, view: &ProviderView, is_there: impl FnOnce() -> bool) -> Resolved {
        self.ready(view, is_there).map(|(service, _)| service)
    }

    /// The same, with its part in the budgets.
    pub(super) fn ready(
        &self,
        view: &ProviderView,
        is_there: impl FnOnce() -> bool,
    ) -> Result<(Arc<Service>, Arc<Pass>), ResolveError> {
        let key = &view.provider.meta.key;
        if let Some(kept) = self.resolved.lock().get(key)
            && kept.version == view.version
        {
            return kept.ready.clone();
        }
        let ready = self.build(view).map(|(service, pass)| (Arc::new(service), pass));
        self.resolved.lock().insert(key.clone(), Kept { version: view.version, ready: ready.clone() });
        // Asked afterwards, so that whoever removes it comes either before this or after the above.
        if !is_there() {
            self.forget(key);
        }
        ready
    }

    /// The part of a Provider in the budgets, without making anything: `None` when it was not resolved
    /// as it is now, `Some(None)` when it cannot be used.
    pub(super) fn pass(&self, view: &ProviderView) -> Option<Option<Arc<Pass>>> {
        let resolved = self.resolved.lock();
        let kept = resolved.get(&view.provider.meta.key).filter(|kept| kept.version == view.version)?;
        Some(kept.ready.as_ref().ok().map(|(_, pass)| pass.clone()))
    }

    /// The budgets of all Providers.
    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Forgets a Provider that is gone.
    pub fn forget(&self, provider: &Key) {
        self.resolved.lock().remove(provider);
    }

    fn build(&self, view: &ProviderView) -> Result<(Service, Arc<Pass>), ResolveError> {
        let spec = &view.provider.spec;
        let Some(row) = vendors::row(&spec.kind) else {
            let built = vendors::TABLE.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
            let known = if PROVIDER_TYPES.contains(&spec.kind.as_str()) { "is not built yet" } else { "is unknown" };
            let message = format!("spec.type {:?} {known}; the types this version can tell are {built}", spec.kind);
            return Err(ResolveError { reason: "UnsupportedType", message, terminal: true });
        };
        if spec.service_account_name.is_some() && !self.identities.object_level {
            return Err(wrong(
                "FeatureGateDisabled",
                "spec.serviceAccountName is not allowed while the feature gate ObjectLevelWorkloadIdentity is off; start \
                 Herald with --feature-gates=ObjectLevelWorkloadIdentity=true, or remove the field"
                    .to_owned(),
            ));
        }
        let secret = referent(view, "secretRef", spec.secret_ref.as_ref())?;
        let certs = referent(view, "certSecretRef", spec.cert_secret_ref.as_ref())?;
        let proxies = referent(view, "proxySecretRef", spec.proxy_secret_ref.as_ref())?;

        let in_secret = secret.as_ref().and_then(|secret| secret.data.raw("address"));
        if in_secret.is_some_and(|address| address.expose().len() > MAX_ADDRESS) {
            return Err(wrong(
                "InvalidAddress",
                format!("key address of {} is longer than {MAX_ADDRESS} bytes", secret_name(&secret)),
            ));
        }
        let address = match in_secret {
            Some(address) => Secret::new(address.expose().trim()),
            None => Secret::new(spec.address.as_deref().unwrap_or_default().trim()),
        };
        let tls = self.tls(view, &secret, &certs, row.carries == crate::matching::gate::Carries::CommitStatus)?;
        let (proxy, proxy_from) = proxy(spec.proxy.as_deref(), &secret, &proxies)?;
        let api_url = self.api_url(view, &address)?;
        let value = |key| secret.as_ref().and_then(|secret| secret.data.trimmed(key));
        let is_public = in_secret.is_none();
        self.permitted(&address, api_url.as_ref(), is_public)?;
        let headers = headers_of(&secret)?;
        let timeout = time_of_a_try(spec.timeout.as_deref())?;
        let is_status = row.carries == crate::matching::gate::Carries::CommitStatus;
        let token = value("token");
        let identity = match (&*spec.kind, &token) {
            ("github", None) if value("password").is_none() => {
                self.github_app(view, &secret, fingerprint(&tls, proxy.as_ref()))?
            }
            ("azuredevops", None) => {
                let certs = secret_name(if certs.is_some() { &certs } else { &secret });
                self.azure(view, &tls, &certs, proxy.as_ref().map(|_| &*proxy_from))?
            }
            _ => None,
        };
        let caller = Known { secrets: [&secret, &certs], identity: identity.as_ref(), address: &address, is_public };
        let route = Route { tls: &tls, proxy: proxy.as_ref(), timeout };
        let pass = self.pass_of(view, is_status, &caller, api_url.as_ref(), &route);
        let way = Way { tls: &tls, proxy: proxy.as_ref(), owner: pass.credential() };
        let client = self.clients.get(way).map_err(|error| {
            let (reason, what) = match error {
                ClientError::Ca => (
                    "InvalidCertificate",
                    format!("key ca.crt of {}", secret_name(if certs.is_some() { &certs } else { &secret })),
                ),
                ClientError::Identity => (
                    "InvalidCertificate",
                    format!(
                        "keys tls.crt and tls.key of {}",
                        secret_name(if certs.is_some() { &certs } else { &secret })
                    ),
                ),
                ClientError::Proxy | ClientError::ProxyRefused => ("InvalidProxy", proxy_from.clone()),
                ClientError::Library => ("InvalidCertificate", "what the Provider gives for TLS".to_owned()),
            };
            wrong(reason, format!("{what} {error}"))
        })?;
        let target = Target {
            address,
            api_url,
            token,
            username: value("username").or_else(|| spec.username.as_deref().map(Secret::new)),
            password: value("password"),
            identity,
            credentials: None,
            headers,
            is_api: is_status,
            timeout,
            gate: pass.clone(),
            masks: self.masks(spec, [&secret, &certs, &proxies], proxy.as_ref()),
            client,
            tenant: view.provider.meta.key.namespace.clone(),
            room: self.room.clone(),
            clock: self.clock.clone(),
        };
        let service = (row.build)(target).map_err(|BuildError { reason, message }| {
            let about_address = reason == "InvalidAddress";
            let message = match (about_address && !is_public, about_address, &spec.secret_ref) {
                (true, ..) => message.replace("spec.address", &format!("key address of {}", secret_name(&secret))),
                (_, false, None) if message.starts_with(THE_SECRET) => {
                    format!("spec.secretRef is missing: {message}")
                }
                (_, false, Some(_)) => message.replace(THE_SECRET, &secret_name(&secret)),
                _ => message,
            };
            // A Secret can be mended without touching the spec; an address in the spec cannot.
            ResolveError { reason, message, terminal: about_address && is_public }
        })?;
        Ok((service, pass))
    }

    /// The Provider's part in the budgets. What it is known by is what its Secrets hold: two Providers
    /// that name the same Secret are one caller, and so are two Secrets of one token, by the same proxy.
    /// Who is known by no Secret shares with nobody in another namespace, lest the answers to one team,
    /// or what a proxy of its choice answers, hold back what another says.
    fn pass_of(
        &self,
        view: &ProviderView,
        is_status: bool,
        caller: &Known<'_>,
        api_url: Option<&Url>,
        route: &Route<'_>,
    ) -> Arc<Pass> {
        let address = caller.address;
        let repository = Repository::parse(address.expose()).ok();
        let origin = api_url.or(repository.as_ref().map(|repository| &repository.origin));
        // The host and its port, whatever the scheme.
        let host = origin.map_or("", |url| &url[Position::BeforeHost..Position::BeforePath]);
        let values: Vec<Secret> = CALLER
            .into_iter()
            .flat_map(|key| caller.secrets.map(|secret| secret.as_ref()?.data.trimmed(key)))
            .flatten()
            .collect();
        let whose = match caller.identity {
            Some(Identity::Azure(azure)) => azure.whose(),
            // An App is known by what its Secret holds.
            Some(Identity::GitHubApp(_)) | None => String::new(),
        };
        let hook = if is_status { "" } else { address.expose() };
        let hidden_hook = !is_status && !caller.is_public;
        let by_secret = whose.is_empty() && (!values.is_empty() || hidden_hook);
        let namespace = if by_secret { "" } else { &*view.provider.meta.key.namespace };
        let user = view.provider.spec.username.as_deref().unwrap_or_default();
        let proxy = route.proxy.map_or("", Secret::expose);
        let mut credential: Vec<&[u8]> =
            [namespace, &whose, proxy, user, hook].into_iter().map(str::as_bytes).collect();
        credential.extend(values.iter().map(|value| value.expose().as_bytes()));
        let text = |secret: Option<&Secret>| secret.map_or("", |secret| secret.expose()).to_owned();
        let (ca, proxy) = (text(route.tls.ca.as_ref()), text(route.proxy));
        let certificate = text(route.tls.identity.as_ref().map(|(certificate, _)| certificate));
        let append = if route.tls.append_system_roots { "append" } else { "" };
        let timeout = route.timeout;
        let route = [&ca, &proxy, &certificate, append].map(str::as_bytes);
        // Statuses of a server are one service, whoever writes them; each hook is one of its own.
        let service = match origin {
            Some(base) if is_status => format!("statuses of {base}"),
            _ => format!("hook {}", address.expose()),
        };
        let path = repository.as_ref().filter(|_| is_status).map(|repository| repository.path.as_str());
        self.budget.pass(&Caller {
            provider: view.provider.meta.uid.clone(),
            namespace: view.provider.meta.key.namespace.clone(),
            version: view.version,
            host,
            is_public: caller.is_public,
            credential: &credential,
            route: &route,
            service: service.as_bytes(),
            repository: path.unwrap_or_default().into(),
            timeout,
        })
    }

    /// Refuses an address of the pod, its node or the cloud's metadata. A name is looked at when it is resolved.
    fn permitted(&self, address: &Secret, api_url: Option<&Url>, is_public: bool) -> Result<(), ResolveError> {
        let repository = Repository::parse(address.expose()).ok().map(|repository| repository.origin);
        let plain = Url::parse(address.expose()).ok();
        let refused = |url: &Url| self.clients.addresses().refuse(url);
        if ![api_url, repository.as_ref(), plain.as_ref()].into_iter().flatten().any(refused) {
            return Ok(());
        }
        let message = "spec.address leads to a loopback, link-local or metadata address, which Herald does not connect \
                       to; the operator can allow it with --allow-address";
        Err(ResolveError { reason: "AddressRefused", message: message.to_owned(), terminal: is_public })
    }

    /// Where the API is, when the address alone does not tell: annotation `herald.sh/api-url`, else
    /// for Bitbucket Cloud what `BITBUCKET_API_BASE_URL` says.
    fn api_url(&self, view: &ProviderView, address: &Secret) -> Result<Option<Url>, ResolveError> {
        let Some(text) = view.provider.meta.annotations.get(API_URL_ANNOTATION) else {
            return Ok(self.bitbucket_api.clone().filter(|_| view.provider.spec.kind == "bitbucket"));
        };
        let terminal = |message: String| ResolveError { reason: "InvalidAddress", message, terminal: true };
        let url =
            Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()).ok_or_else(
                || terminal(format!("annotation {API_URL_ANNOTATION} is not the http or https address of an API")),
            )?;
        // A token goes only to the host it was given for.
        let host = Repository::parse(address.expose()).map(|repository| repository.host().to_owned());
        if host.is_ok_and(|host| Some(host.as_str()) != url.host_str()) {
            return Err(terminal(format!("annotation {API_URL_ANNOTATION} names another host than spec.address")));
        }
        Ok(Some(with_slash(url)))
    }

    /// The GitHub App of a Secret without a token.
    fn github_app(
        &self,
        view: &ProviderView,
        secret: &Option<Referent>,
        route: [u8; 32],
    ) -> Result<Option<Identity>, ResolveError> {
        let Some(Referent { name, data }) = secret else { return Ok(None) };
        let app = App::parse(|key| data.trimmed(key))
            .map_err(|why| wrong("InvalidCredentials", format!("{name} cannot be used: {why}")))?;
        let Identities { tokens, .. } = &self.identities;
        let (tokens, key) = (tokens.clone(), &view.provider.meta.key);
        Ok(app.map(|app| {
            let user = tokens.user(&key.namespace, &key.name);
            Identity::GitHubApp(GitHubApp { app: Arc::new(app), route, tokens, user })
        }))
    }

    /// The workload identity of a Provider without a token: that of its ServiceAccount, else
    /// Herald's own, else none. `certs` names the Secret that `tls` comes from, `proxy` where the Provider's
    /// proxy is given.
    fn azure(
        &self,
        view: &ProviderView,
        tls: &TlsConfig,
        certs: &str,
        proxy: Option<&str>,
    ) -> Result<Option<Identity>, ResolveError> {
        let Identities { tokens, azure, accounts, default_account, .. } = &self.identities;
        let named = view.provider.spec.service_account_name.as_ref();
        let exchange = match (named.or(default_account.as_ref()), accounts) {
            (Some(name), Some(accounts)) => {
                let namespace = view.provider.meta.key.namespace.to_string();
                let by_default = named.is_none();
                Exchange::Of(ServiceAccount { namespace, name: name.clone(), by_default }, accounts.clone())
            }
            (Some(name), None) => {
                let message = format!("ServiceAccount {name} needs a cluster, and Herald reads a directory instead");
                return Err(wrong("InvalidCredentials", message));
            }
            (None, _) => match azure.own() {
                Ok(exchange) => exchange,
                Err(_) => return Ok(None),
            },
        };
        // Any tenant chooses these, and the token is not the tenant's.
        let keys = format!("keys tls.crt and tls.key of {certs}");
        let chosen = [
            (tls.ca.is_some(), format!("key ca.crt of {certs}"), "add the CA to the system roots of Herald's image"),
            (tls.identity.is_some(), keys, "no server of Azure DevOps asks for a client certificate"),
            (proxy.is_some(), proxy.unwrap_or_default().to_owned(), "set HTTPS_PROXY in Herald's environment"),
        ];
        if let Some((_, field, instead)) = chosen.into_iter().find(|(given, ..)| *given) {
            let message = format!("{field} is not used with a workload identity: remove it; {instead}");
            return Err(wrong("InvalidCredentials", message));
        }
        let client = self
            .clients
            .get(Way { tls: &TlsConfig::default(), proxy: None, owner: 0 })
            .map_err(|error| wrong("InvalidCertificate", format!("the system's certificates {error}")))?;
        Ok(Some(Identity::Azure(Azure {
            exchange,
            authority: azure.authority.clone(),
            client,
            clock: self.clock.clone(),
            tokens: tokens.clone(),
            user: tokens.user(&view.provider.meta.key.namespace, &view.provider.meta.key.name),
        })))
    }

    /// Everything of the Provider and its Secrets that no log may have. What comes of a Secret is made once for all
    /// Providers that name it.
    fn masks(&self, spec: &ProviderSpec, secrets: [&Option<Referent>; 3], proxy: Option<&Secret>) -> Masks {
        let mut masks = Masks::default();
        for data in secrets.into_iter().flatten().map(|secret| &secret.data) {
            masks.share(self.shared_masks(data));
            // With a user in the Secret it is among those.
            let user = spec.username.as_deref().filter(|_| data.trimmed("username").is_none());
            if let (Some(user), Some(password)) = (user, data.trimmed("password")) {
                masks.pair(user, password.expose());
            }
        }
        let of_spec = spec.address.as_deref().into_iter().chain(spec.proxy.as_deref());
        for address in of_spec.chain(proxy.map(Secret::expose)) {
            masks.address(address);
        }
        masks
    }

    fn shared_masks(&self, data: &Arc<SecretData>) -> Arc<Masks> {
        let mut known = self.masks.lock();
        let key = Arc::as_ptr(data) as usize;
        if let Some(masks) = known.by_secret.get(&key).and_then(|(_, masks)| masks.upgrade()) {
            return masks;
        }
        if known.by_secret.len() >= known.prune_at {
            known.by_secret.retain(|_, (_, masks)| masks.strong_count() > 0);
            known.prune_at = 2 * known.by_secret.len() + 16;
        }
        let masks = Arc::new(masks_of(data));
        known.by_secret.insert(key, (Arc::downgrade(data), Arc::downgrade(&masks)));
        masks
    }

    fn tls(
        &self,
        view: &ProviderView,
        secret: &Option<Referent>,
        certs: &Option<Referent>,
        is_status: bool,
    ) -> Result<TlsConfig, ResolveError> {
        let append = view.provider.meta.annotations.get(SYSTEM_ROOTS_ANNOTATION).is_some_and(|value| value == "append");
        // Certificates beside the token are a habit of the Git types alone.
        let (source, strict) = match (certs, secret) {
            (Some(certs), _) => (certs, true),
            (None, Some(secret)) if is_status => (secret, false),
            _ => return Ok(TlsConfig::default()),
        };
        let value = |key, legacy| source.data.trimmed(key).or_else(|| source.data.trimmed(legacy));
        let ca = value("ca.crt", "caFile");
        let identity = match (value("tls.crt", "certFile"), value("tls.key", "keyFile")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ if !strict => None,
            (found, _) => {
                let (has, lacks) = if found.is_some() { ("tls.crt", "tls.key") } else { ("tls.key", "tls.crt") };
                return Err(wrong(
                    "InvalidCertificate",
                    format!("{} has key {has} but no key {lacks}; give both", source.name),
                ));
            }
        };
        if strict && ca.is_none() && identity.is_none() {
            let message = format!("{} has neither key ca.crt nor keys tls.crt and tls.key", source.name);
            return Err(wrong("InvalidCertificate", message));
        }
        Ok(TlsConfig { ca, append_system_roots: append, identity })
    }
}

/// What a Provider gives and Herald, as the peer, makes nothing of, because of something else it gives
/// or because of its type (spec/auth.md 1, 3 and 4.2): each as words on what it is, and why. For the
/// condition of a Provider that can be used.
pub fn without_effect(view: &ProviderView) -> Vec<String> {
    let spec = &view.provider.spec;
    let Some(row) = vendors::row(&spec.kind) else { return Vec::new() };
    let named = |field, reference| referent(view, field, reference).ok().flatten();
    let secret = named("secretRef", spec.secret_ref.as_ref());
    let has = |key| secret.as_ref().is_some_and(|secret| secret.data.trimmed(key).is_some());
    let name = secret_name(&secret);
    let mut found = Vec::new();
    if spec.timeout.as_deref().is_some_and(|text| timeout(text).is_ok_and(|timeout| timeout > LONGEST_TIMEOUT)) {
        found.push(format!("spec.timeout counts as {} s, the longest there is", LONGEST_TIMEOUT.as_secs()));
    }
    let mut tell = |what: &str, why: &str| found.push(format!("{what} is without effect: {why}"));

    if spec.service_account_name.is_some() {
        if row.name != "azuredevops" {
            tell("spec.serviceAccountName", &format!("type {} has no workload identity", row.name));
        } else if has("token") {
            tell("spec.serviceAccountName", &format!("{name} has a key token"));
        }
    }
    let instead = ["token", "password"].into_iter().find(|key| has(key));
    if let Some(key) = instead.filter(|_| row.name == "github" && has("githubAppID")) {
        tell(&format!("key githubAppID of {name}"), &format!("it has a key {key}"));
    }
    if spec.address.is_some() && secret.as_ref().is_some_and(|secret| secret.data.raw("address").is_some()) {
        tell("spec.address", &format!("{name} has a key address"));
    }
    if spec.proxy_secret_ref.is_some() && has("proxy") {
        tell(&format!("key proxy of {name}"), "there is a spec.proxySecretRef");
    }
    if spec.proxy.is_some() {
        if spec.proxy_secret_ref.is_some() {
            tell("spec.proxy", "there is a spec.proxySecretRef");
        } else if has("proxy") {
            tell("spec.proxy", &format!("{name} has a key proxy"));
        }
    }
    // A Secret may be named in both places.
    if spec.secret_ref == spec.cert_secret_ref {
        return found;
    }
    let is_status = row.carries == crate::matching::gate::Carries::CommitStatus;
    let pair = [["tls.crt", "certFile"], ["tls.key", "keyFile"]].map(|keys| keys.into_iter().find(|key| has(key)));
    let authority = ["ca.crt", "caFile"].into_iter().find(|key| has(key));
    for key in authority.into_iter().chain(pair.into_iter().flatten()) {
        let what = format!("key {key} of {name}");
        match pair {
            _ if spec.cert_secret_ref.is_some() => tell(&what, "there is a spec.certSecretRef"),
            _ if !is_status => tell(&what, &format!("type {} looks for it in spec.certSecretRef", row.name)),
            [Some(one), None] | [None, Some(one)] if key == one => tell(&what, "its other half is missing"),
            _ => {}
        }
    }
    found
}

/// Keys of Secrets that a vendor knows a caller by.
const CALLER: [&str; 14] = [
    "token",
    "username",
    "password",
    "headers",
    "tls.crt",
    "certFile",
    "githubAppID",
    "githubAppInstallationID",
    "githubAppInstallationOwner",
    "githubAppBaseURL",
    "githubAppPrivateKey",
    "tenantID",
    "clientID",
    "clientSecret",
];

/// What a caller may be known by.
struct Known<'a> {
    /// Those of `spec.secretRef` and `spec.certSecretRef`.
    secrets: [&'a Option<Referent>; 2],
    identity: Option<&'a Identity>,
    address: &'a Secret,
    /// Whether the address stands in the spec, and not in a Secret.
    is_public: bool,
}

/// The way to a host.
struct Route<'a> {
    tls: &'a TlsConfig,
    proxy: Option<&'a Secret>,
    timeout: Duration,
}

/// Fingerprint of the Provider's certificates and proxy.
fn fingerprint(tls: &TlsConfig, proxy: Option<&Secret>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let (certificate, key) = tls.identity.as_ref().map(|(certificate, key)| (certificate, key)).unzip();
    for part in [tls.ca.as_ref(), certificate, key, proxy] {
        let part = part.map_or("", Secret::expose);
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.update(&[u8::from(tls.append_system_roots)]);
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Paths are joined to it, so it ends in a slash.
fn with_slash(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// A Secret that is there, and what it is called in messages.
struct Referent {
    name: String,
    data: Arc<SecretData>,
}

fn secret_name(secret: &Option<Referent>) -> String {
    secret.as_ref().map_or_else(|| "spec".to_owned(), |secret| secret.name.clone())
}

fn wrong(reason: &'static str, message: String) -> ResolveError {
    ResolveError { reason, message, terminal: false }
}

fn referent(
    view: &ProviderView,
    field: &str,
    reference: Option<&LocalObjectReference>,
) -> Result<Option<Referent>, ResolveError> {
    let Some(reference) = reference else { return Ok(None) };
    let name = &reference.name;
    let namespace = &view.provider.meta.key.namespace;
    match view.secrets.get(name) {
        Some(SecretView::Present(data)) => {
            Ok(Some(Referent { name: format!("Secret {namespace}/{name}"), data: data.clone() }))
        }
        Some(SecretView::Missing) => Err(wrong(
            "SecretNotFound",
            format!("spec.{field} names Secret {namespace}/{name}, which does not exist; create it"),
        )),
        Some(SecretView::Unreadable(why)) => Err(wrong(
            "SecretUnreadable",
            format!("spec.{field} names Secret {namespace}/{name}, which cannot be read: {why}"),
        )),
        Some(SecretView::Unread) | None => {
            Err(wrong(SECRET_NOT_READ, format!("spec.{field} names Secret {namespace}/{name}, which is being read")))
        }
    }
}

/// The proxy: of proxySecretRef, else of key `proxy`, else of the spec; and what to call it.
fn proxy(
    in_spec: Option<&str>,
    secret: &Option<Referent>,
    proxies: &Option<Referent>,
) -> Result<(Option<Secret>, String), ResolveError> {
    let Some(proxies) = proxies else {
        let in_secret = secret.as_ref().and_then(|secret| secret.data.trimmed("proxy"));
        return Ok(match in_secret {
            Some(proxy) => (Some(proxy), format!("key proxy of {}", secret_name(secret))),
            None => (in_spec.map(Secret::new), "spec.proxy".to_owned()),
        });
    };
    let what = format!("key address of {}", proxies.name);
    let address = proxies
        .data
        .trimmed("address")
        .ok_or_else(|| wrong("InvalidProxy", format!("{} has no key address; put the proxy's there", proxies.name)))?;
    let mut url = Url::parse(address.expose())
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https" | "socks5") && address.expose().len() <= MAX_ADDRESS)
        .ok_or_else(|| wrong("InvalidProxy", format!("{what} is not the http, https or socks5 address of a proxy")))?;
    if let Some(username) = proxies.data.trimmed("username") {
        let password = proxies.data.trimmed("password");
        let set =
            url.set_username(username.expose()).and_then(|()| url.set_password(password.as_ref().map(Secret::expose)));
        set.map_err(|()| wrong("InvalidProxy", format!("{what} cannot carry a user and password")))?;
    }
    Ok((Some(Secret::new(url.as_str())), what))
}

/// What key `headers` adds to each request.
fn headers_of(secret: &Option<Referent>) -> Result<HeaderMap, ResolveError> {
    let Some(secret) = secret else { return Ok(HeaderMap::new()) };
    // As it is: white space before the first line is part of the YAML.
    let Some(text) = secret.data.raw("headers") else { return Ok(HeaderMap::new()) };
    headers::parse(text.expose())
        .map_err(|why| wrong("InvalidHeaders", format!("key headers of {} {why}", secret.name)))
}

/// Everything of a Secret that no log may have. Certificates are public, and longer than all the rest.
fn masks_of(data: &SecretData) -> Masks {
    let mut masks = Masks::default();
    let value = |key| data.trimmed(key);
    for (key, value) in data.keys().filter_map(|key| Some((key, value(key)?))) {
        match key {
            "token" | "username" | "password" => masks.text(value.expose(), SHORTEST),
            "address" | "proxy" => masks.address(value.expose()),
            _ if is_public(value.expose()) => {}
            _ => masks.text(value.expose(), SHORTEST_OTHER),
        }
    }
    if let (Some(user), Some(password)) = (value("username"), value("password")) {
        masks.pair(user.expose(), password.expose());
    }
    // Bitbucket's tokens can be `user:password`.
    if let Some((_, password)) = value("token").as_ref().and_then(|token| token.expose().split_once(':')) {
        masks.text(password, SHORTEST);
    }
    masks
}

/// Whether a value is nothing but certificates.
fn is_public(value: &str) -> bool {
    value.contains("-----BEGIN CERTIFICATE-----") && !value.contains("PRIVATE KEY")
}

/// Time that one try may take, by `spec.timeout`.
fn time_of_a_try(text: Option<&str>) -> Result<Duration, ResolveError> {
    Ok(text.map_or(Ok(DEFAULT_TIMEOUT), timeout)?.min(LONGEST_TIMEOUT))
}

/// A Go duration of ms, s and m, as the schema admits it.
fn timeout(text: &str) -> Result<Duration, ResolveError> {
    let wrong = || ResolveError {
        reason: "InvalidSpec",
        message: "spec.timeout is not a duration above zero such as 30s, 1m30s or 500ms".to_owned(),
        terminal: true,
    };
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest[digits..].starts_with(unit)).ok_or_else(wrong)?;
        total += number * seconds;
        rest = &rest[digits + unit.len()..];
    }
    Duration::try_from_secs_f64(total).ok().filter(|timeout| !timeout.is_zero()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::future::BoxFuture;
    use http::StatusCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::meta::uid_without_cluster;
    use crate::api::{ObjectMeta, Provider};
    use crate::clock::TurnedClock;
    use crate::outbound::SendError;

    /// A Provider of the namespace `apps` whose Secrets have these keys.
    fn view(kind: &str, spec: Value, secrets: &[(&str, &[&str])]) -> ProviderView {
        let key = Key::new("apps", "git");
        let meta = ObjectMeta { key, uid: "".into(), generation: 1, annotations: Default::default() };
        let mut spec: ProviderSpec = serde_json::from_value(spec).expect("a spec");
        spec.kind = kind.to_owned();
        let secrets = secrets.iter().map(|(name, keys)| {
            let data = SecretData::new(keys.iter().map(|key| ((*key).to_owned(), b"value".to_vec())));
            ((*name).to_owned(), SecretView::Present(Arc::new(data)))
        });
        ProviderView {
            provider: Provider { meta, spec, object: None },
            expression: None,
            secrets: secrets.collect(),
            version: 1,
        }
    }

    #[test]
    fn nothing_is_kept_of_a_provider_that_went_meanwhile() {
        let resolver = resolver(None);
        let hook = of_team("a", json!({"type": "generic", "address": "https://hooks.example.org"}), None);
        resolver.resolve(&hook, || true).expect("it resolves");
        assert!(resolver.pass(&hook).is_some());
        resolver.forget(&hook.provider.meta.key);
        resolver.resolve(&hook, || false).expect("whoever has the view may use it");
        assert!(resolver.pass(&hook).is_none());
    }

    /// spec/auth.md 1 and 3: what wins over what.
    #[test]
    fn what_nothing_is_made_of_is_told() {
        let app: &[&str] = &["githubAppID", "githubAppInstallationID", "githubAppPrivateKey"];
        let named = |name: &str| json!({"name": name});
        let account = || json!({"type": "", "secretRef": {"name": "s"}, "serviceAccountName": "team"});
        let secret = |field: &str, value| {
            let mut spec = json!({"type": "", "secretRef": {"name": "s"}});
            spec[field] = value;
            spec
        };
        let plain = || secret("channel", json!(""));
        let all_proxies = || {
            let mut spec = secret("proxySecretRef", named("other"));
            spec["proxy"] = json!("http://proxy.test");
            spec
        };
        let cases: [(&str, Value, &[&str], &[&str]); 16] = [
            ("github", secret("timeout", json!("2m")), &["token"], &["spec.timeout counts as 60 s"]),
            ("github", secret("timeout", json!("60s")), &["token"], &[]),
            ("azuredevops", account(), &["token"], &["spec.serviceAccountName", "Secret apps/s has a key token"]),
            ("azuredevops", account(), &["password"], &[]),
            ("gitea", account(), &["token"], &["spec.serviceAccountName", "type gitea has no workload identity"]),
            ("github", plain(), &[app, &["token"]].concat(), &["key githubAppID", "has a key token"]),
            ("github", plain(), &[app, &["password"]].concat(), &["key githubAppID", "has a key password"]),
            ("github", plain(), app, &[]),
            ("generic", secret("address", json!("http://a.test")), &["address"], &["spec.address", "a key address"]),
            ("github", secret("proxy", json!("http://p.test")), &["proxy"], &["spec.proxy", "a key proxy"]),
            ("github", all_proxies(), &["proxy"], &["spec.proxy", "key proxy of", "spec.proxySecretRef"]),
            ("github", secret("proxy", json!("http://p.test")), &["token"], &[]),
            ("generic", plain(), &["ca.crt"], &["key ca.crt", "type generic looks for it in spec.certSecretRef"]),
            ("github", plain(), &["ca.crt", "tls.key"], &["key tls.key", "its other half is missing"]),
            ("github", secret("certSecretRef", named("other")), &["caFile"], &["caFile", "a spec.certSecretRef"]),
            ("generic", secret("certSecretRef", named("s")), &["ca.crt", "tls.crt", "tls.key"], &[]),
        ];
        for (kind, spec, keys, expected) in cases {
            let shown = format!("{kind} {spec} {keys:?}");
            let found = without_effect(&view(kind, spec, &[("s", keys), ("other", &["address", "ca.crt"])]));
            assert!(found.len() <= expected.len().min(2), "{shown}: {found:?}");
            assert_eq!(found.is_empty(), expected.is_empty(), "{shown}: {found:?}");
            for words in expected {
                assert!(found.join("; ").contains(words), "{shown}: {found:?}");
            }
        }
        let all = without_effect(&view("github", plain(), &[("s", &["token", "ca.crt", "tls.crt", "tls.key"])]));
        assert_eq!(all, [""; 0], "all of it is used");
    }

    #[test]
    fn durations_as_the_schema_admits_them() {
        for (text, milliseconds) in
            [("15s", 15_000), ("1m30s", 90_000), ("500ms", 500), ("1.5s", 1_500), ("2m", 120_000)]
        {
            assert_eq!(timeout(text).expect(text), Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "15", "0s", "1h", "s", "1.2.3s", "-1s"] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_comes_of_a_secret_is_kept_once_and_no_certificates_are_blotted_out() {
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmg\n-----END CERTIFICATE-----";
        let both = format!("{certificate}\n-----BEGIN PRIVATE KEY-----\nMIGHAgEA\n-----END PRIVATE KEY-----");
        let data = |value: &str| {
            let values = [("ca.crt", certificate), ("tls.crt", value), ("token", "t0k-of-a-team")];
            Arc::new(SecretData::new(values.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()))))
        };
        let resolver = resolver(None);
        let secret = data(&both);
        let masks = resolver.shared_masks(&secret);
        assert!(Arc::ptr_eq(&masks, &resolver.shared_masks(&secret)));
        let blotted = |text: &str| masks.apply(text, usize::MAX, std::iter::empty());
        assert_eq!(blotted(&format!("{certificate} t0k-of-a-team")), format!("{certificate} *****"));
        assert_eq!(blotted(&format!("so: {both}")), "so: *****");
        assert!(!Arc::ptr_eq(&masks, &resolver.shared_masks(&data(certificate))), "another Secret");
        drop(masks);
        for _ in 0..100 {
            resolver.shared_masks(&data(certificate));
        }
        assert!(resolver.masks.lock().by_secret.len() <= 32, "what nobody has is forgotten");
    }

    #[test]
    fn no_try_takes_longer_than_a_minute() {
        for (text, seconds) in
            [(None, 15), (Some("30s"), 30), (Some("60s"), 60), (Some("1m1s"), 60), (Some("9999999m"), 60)]
        {
            assert_eq!(time_of_a_try(text).expect("valid"), Duration::from_secs(seconds), "{text:?}");
        }
    }

    /// The API server of a test that asks it nothing.
    struct NotAsked;

    impl ServiceAccounts for NotAsked {
        fn annotations<'a>(
            &'a self,
            _: &'a ServiceAccount,
        ) -> BoxFuture<'a, Result<BTreeMap<String, String>, SendError>> {
            unreachable!("resolving dials nothing")
        }

        fn token<'a>(&'a self, _: &'a ServiceAccount, _: &'static str) -> BoxFuture<'a, Result<Secret, SendError>> {
            unreachable!("resolving dials nothing")
        }
    }

    fn resolver(default_account: Option<&str>) -> Resolver {
        crate::install_tls_provider();
        let clock = TurnedClock::new();
        let azure = AzureEnvironment {
            tenant: Some("tenant".to_owned()),
            client: Some("client".to_owned()),
            token_file: Some("token".into()),
            ..AzureEnvironment::default()
        };
        let identities = Identities {
            tokens: Arc::new(Tokens::new(clock.clone(), 1, Duration::from_secs(1))),
            azure,
            accounts: Some(Arc::new(NotAsked)),
            object_level: true,
            default_account: default_account.map(str::to_owned),
        };
        let loopback = Addresses::allowing(&["127.0.0.0/8".parse().expect("a range")]);
        Resolver::new(clock, loopback, None, identities)
    }

    /// A Provider in a namespace, with the Secret `secret` where it has one.
    fn of_team(namespace: &str, spec: Value, secret: Option<&[(&str, &str)]>) -> ProviderView {
        let key = Key::new(namespace, "git");
        let meta = ObjectMeta { uid: uid_without_cluster(&key), key, generation: 1, annotations: BTreeMap::new() };
        let mut spec: ProviderSpec = serde_json::from_value(spec).expect("a spec");
        let secrets = secret.map(|keys| {
            spec.secret_ref = Some(LocalObjectReference { name: "secret".to_owned() });
            let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
            ("secret".to_owned(), SecretView::Present(Arc::new(SecretData::new(keys))))
        });
        let provider = Provider { meta, spec, object: None };
        ProviderView { provider, expression: None, secrets: secrets.into_iter().collect(), version: 1 }
    }

    /// Whether a refusal of the credential of the first Provider holds back what the second says.
    fn share(resolver: &Resolver, one: &ProviderView, other: &ProviderView) -> bool {
        let pass = |view| resolver.ready(view, || true).map(|(_, pass)| pass).expect("it resolves");
        let (one, other) = (pass(one), pass(other));
        let refusal = SendError::Status { status: StatusCode::UNAUTHORIZED, retry_after: None, body: String::new() };
        one.note(&refusal, true, None).expect("it is parked");
        assert!(one.check(None).is_err(), "its own is held");
        other.check(None).is_err()
    }

    #[test]
    fn who_is_known_by_no_secret_shares_no_account_with_another_namespace() {
        let azure = json!({"type": "azuredevops", "address": "https://dev.azure.com/org/project/_git/fleet"});
        let named = json!({"type": "azuredevops", "address": "https://dev.azure.com/org/project/_git/fleet",
            "serviceAccountName": "cloud"});
        let hook = json!({"type": "generic", "address": "https://hooks.example.org/hook"});
        let by_proxy = json!({"type": "generic", "address": "https://hooks.example.org/hook",
            "proxy": "http://127.0.0.1:1"});
        let git = json!({"type": "github", "address": "https://github.com/acme/fleet"});
        let token = Some(&[("token", "t0k")][..]);
        let user = Some(&[("username", "git")][..]);
        let hidden = Some(&[("address", "https://hooks.example.org/secret")][..]);
        for (what, account, [one, other], expected) in [
            ("own", None, [("a", &azure, None), ("b", &azure, None)], false),
            ("by default", Some("cloud"), [("a", &azure, None), ("b", &azure, None)], false),
            ("named", None, [("a", &named, None), ("b", &named, None)], false),
            ("named, and a user", None, [("a", &named, user), ("b", &named, user)], false),
            ("one namespace, two accounts", Some("other"), [("a", &azure, None), ("a", &named, None)], false),
            ("by default is as named", Some("cloud"), [("a", &azure, None), ("a", &named, None)], true),
            ("a hook", None, [("a", &hook, None), ("b", &hook, None)], false),
            ("a hook, one by a proxy", None, [("a", &hook, None), ("a", &by_proxy, None)], false),
            ("a hook of one namespace", None, [("a", &hook, None), ("a", &hook, None)], true),
            ("a hidden hook", None, [("a", &hook, hidden), ("b", &hook, hidden)], true),
            ("a token", None, [("a", &git, token), ("b", &git, token)], true),
            ("a token, whatever the account", None, [("a", &azure, token), ("b", &named, token)], true),
        ] {
            let [mut one, mut other] =
                [one, other].map(|(namespace, spec, secret)| of_team(namespace, spec.clone(), secret));
            // Two objects of one namespace.
            one.provider.meta.key.name = "one".into();
            other.provider.meta.key.name = "other".into();
            assert_eq!(share(&resolver(account), &one, &other), expected, "{what}");
        }
    }
}
