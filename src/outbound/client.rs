//! Connections to vendors: reqwest's, kept while a Target uses them, and apart for each way out and credential. An
//! event opens no new connection while one is idle. `delivery::resolve` asks for a [`Client`] when a Provider
//! changes; `target` sends by it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};
use parking_lot::Mutex;
use reqwest::redirect::Policy;
use rustls::ClientConfig;
use url::Url;

use super::addresses::Resolver;
use super::proxy::{self, Environment};
use super::{Addresses, SendError, TlsConfig};
use crate::secret::Secret;

/// Idle connections kept for each host of a client: as many as `delivery` has requests under way at most, so
/// that no request has to open what the one before closed.
const IDLE_PER_HOST: usize = 256;

/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a connection may take to open, handshakes with proxies and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An idle connection is tried after this long, and given up after three tries.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What was sent and not acknowledged for this long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// An HTTP/2 connection with requests under way is pinged this often, and left when the answer takes as long
/// again. Something on the way may acknowledge TCP for a vendor that is gone (hyperium/hyper#4186).
const PING: Duration = Duration::from_secs(10);

/// Why a client cannot be built; in words for a condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The CA is no PEM certificate.
    #[error("is not a certificate in PEM form")]
    Ca,
    /// The client certificate and key do not work.
    #[error("is not a certificate and its key in PEM form")]
    Identity,
    /// The proxy's address.
    #[error("is not an address a proxy can have")]
    Proxy,
    /// The proxy's address is loopback, link-local or the like.
    #[error("is an address that is refused; the operator can allow it with --allow-address")]
    ProxyRefused,
    /// The rest.
    #[error("cannot be used by the TLS library")]
    Library,
}

/// What tells the connections of one Provider from those of another.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// Certificates.
    pub tls: &'a TlsConfig,
    /// The Provider's proxy; `None` for that of the environment, if any.
    pub proxy: Option<&'a Secret>,
    /// Fingerprint of the credential and the kind of requests: connections are not shared beyond it, because the
    /// streams of one HTTP/2 connection are few.
    pub owner: u64,
}

/// The clients in use.
pub struct Clients {
    addresses: Addresses,
    environment: Arc<Environment>,
    /// Keyed at random: a tenant who chose settings of the same hash would share a client.
    hashes: RandomState,
    pooled: Mutex<HashMap<u64, Weak<Client>>>,
    /// Roots take 300 KiB, so settings are shared among clients.
    tls: Mutex<HashMap<u64, Weak<ClientConfig>>>,
}

impl Default for Clients {
    fn default() -> Self {
        Self::new(Addresses::default())
    }
}

impl Clients {
    /// None yet; they connect to these addresses only.
    pub fn new(addresses: Addresses) -> Self {
        let environment = Arc::new(Environment::read());
        Self { addresses, environment, hashes: RandomState::new(), pooled: Mutex::default(), tls: Mutex::default() }
    }

    /// The addresses that clients connect to.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The client for this way out, made when no Target uses it yet.
    ///
    /// # Errors
    /// [`ClientError`] says which of the settings is no good.
    pub fn get(&self, way: Way<'_>) -> Result<Arc<Client>, ClientError> {
        let mut hasher = self.hashes.build_hasher();
        way.tls.hash_into(&mut hasher);
        let of_tls = hasher.finish();
        (way.proxy.map(Secret::expose), way.owner).hash(&mut hasher);
        let key = hasher.finish();

        let mut pooled = self.pooled.lock();
        if let Some(client) = pooled.get(&key).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let proxy = way.proxy.map(|proxy| proxy::of_provider(proxy, &self.addresses)).transpose()?;
        let client = Arc::new(Client {
            tls: self.tls(of_tls, way.tls)?,
            by_environment: proxy.is_none(),
            proxy: proxy.or_else(|| self.environment.proxy()),
            addresses: self.addresses.clone(),
            environment: self.environment.clone(),
            connections: Mutex::default(),
        });
        pooled.retain(|_, client| client.strong_count() > 0);
        pooled.insert(key, Arc::downgrade(&client));
        Ok(client)
    }

    fn tls(&self, key: u64, settings: &TlsConfig) -> Result<Arc<ClientConfig>, ClientError> {
        let mut all = self.tls.lock();
        if let Some(config) = all.get(&key).and_then(Weak::upgrade) {
            return Ok(config);
        }
        let config = Arc::new(settings.build()?);
        all.retain(|_, config| config.strong_count() > 0);
        all.insert(key, Arc::downgrade(&config));
        Ok(config)
    }
}

/// Sends requests on connections it keeps. It follows no redirect: that is [`Target::send`](super::Target::send)'s.
/// Nothing is tried again that a vendor may have done: reqwest repeats only what an HTTP/2 server says it did not
/// begin.
pub struct Client {
    tls: Arc<ClientConfig>,
    proxy: Option<reqwest::Proxy>,
    by_environment: bool,
    addresses: Addresses,
    environment: Arc<Environment>,
    /// For `http` and for `https`. Opened for the first request: a Provider that has nothing to send has none.
    connections: Mutex<[Option<Arc<Connections>>; 2]>,
}

/// Connections that are used for new requests until one of them falls silent.
struct Connections {
    http: reqwest::Client,
    /// All answers came by HTTP/1.1, where a request that times out ends its connection by itself.
    only_http1: AtomicBool,
    silent: AtomicBool,
}

impl Connections {
    /// A request timed out. The HTTP/2 connection it was on may be broken without anybody having noticed.
    fn timed_out(&self) {
        if !self.only_http1.load(Ordering::Relaxed) {
            self.silent.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Client {
    /// Without the proxy, whose address may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Sends one request. Its time-out, which the request carries, counts until the body is read.
    ///
    /// # Errors
    /// [`SendError::Connect`] also for an address that is refused: what is there is nobody's business.
    pub(super) async fn send(&self, request: reqwest::Request) -> Result<Answer, SendError> {
        if self.addresses.refuse(request.url()) {
            return Err(SendError::Connect);
        }
        let connections = self.connections(request.url().scheme() == "https")?;
        match connections.http.execute(request).await {
            Ok(answer) => {
                connections.only_http1.store(answer.version() < Version::HTTP_2, Ordering::Relaxed);
                Ok(Answer { answer, connections })
            }
            Err(error) => {
                let error = SendError::from(error);
                if error == SendError::Timeout {
                    connections.timed_out();
                }
                Err(error)
            }
        }
    }

    /// Whether a URL's host is an address that is refused.
    pub fn refuses(&self, url: &Url) -> bool {
        self.addresses.refuse(url)
    }

    /// What new requests go out on.
    fn connections(&self, secure: bool) -> Result<Arc<Connections>, SendError> {
        let kept = &mut self.connections.lock()[usize::from(secure)];
        if let Some(connections) = kept.as_ref().filter(|kept| !kept.silent.load(Ordering::Relaxed)) {
            return Ok(connections.clone());
        }
        let connections = Connections {
            http: self.open(secure)?,
            only_http1: AtomicBool::new(false),
            silent: AtomicBool::new(false),
        };
        Ok(kept.insert(Arc::new(connections)).clone())
    }

    fn open(&self, secure: bool) -> Result<reqwest::Client, SendError> {
        let mut tls = (*self.tls).clone();
        if !secure {
            // The only TLS is that of a proxy which forwards the requests. Where HTTP/2 is offered to the proxy,
            // reqwest speaks HTTP/2 to the proxy, which few proxies understand.
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        let trusted = if self.by_environment { self.environment.hosts() } else { Vec::new() };
        let resolver = Resolver { addresses: self.addresses.clone(), trusted: trusted.into() };
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .dns_resolver(resolver)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .tcp_nodelay(true)
            .tcp_keepalive(KEEP_ALIVE)
            .tcp_keepalive_interval(KEEP_ALIVE)
            .tcp_keepalive_retries(3)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING);
        #[cfg(target_os = "linux")]
        let builder = builder.tcp_user_timeout(UNACKNOWLEDGED);
        let builder = match &self.proxy {
            Some(proxy) => builder.proxy(proxy.clone()),
            None => builder,
        };
        Ok(builder.build()?)
    }
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    answer: reqwest::Response,
    connections: Arc<Connections>,
}

impl Answer {
    /// New requests go out on new connections: this one leads to another server (421, RFC 9110 15.5.20).
    pub fn leave_connections(&self) {
        self.connections.silent.store(true, Ordering::Relaxed);
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.answer.status()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.answer.headers()
    }

    /// Takes the headers out.
    pub fn take_headers(&mut self) -> HeaderMap {
        std::mem::take(self.answer.headers_mut())
    }

    /// Bytes that the body says it has.
    pub fn length(&self) -> u64 {
        self.answer.content_length().unwrap_or_default()
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`SendError::Timeout`] and [`SendError::Broken`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, SendError> {
        self.answer.chunk().await.map_err(|error| {
            let error = SendError::from(error);
            if error == SendError::Timeout {
                self.connections.timed_out();
            }
            error
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(clients: &Clients, tls: &TlsConfig, proxy: Option<&str>, owner: u64) -> Result<Arc<Client>, ClientError> {
        clients.get(Way { tls, proxy: proxy.map(Secret::new).as_ref(), owner })
    }

    #[test]
    fn settings_share_a_client_while_someone_uses_it() {
        crate::install_tls_provider();
        let clients = Clients::default();
        let tls = TlsConfig::default();
        let plain = get(&clients, &tls, None, 1).expect("builds");
        assert!(Arc::ptr_eq(&plain, &get(&clients, &tls, None, 1).expect("builds")));
        let other = get(&clients, &tls, None, 2).expect("builds");
        assert!(!Arc::ptr_eq(&plain, &other), "another credential has connections of its own");
        assert!(Arc::ptr_eq(&plain.tls, &other.tls), "and the same certificates");
        drop(other);
        let proxied = get(&clients, &tls, Some("http://10.0.0.1:1"), 1).expect("builds");
        assert!(!Arc::ptr_eq(&plain, &proxied));
        drop(proxied);
        get(&clients, &tls, Some("http://10.0.0.1:2"), 1).expect("builds");
        assert_eq!(clients.pooled.lock().len(), 2, "what nobody uses is forgotten");
    }

    #[test]
    fn connections_are_left_when_one_may_be_silent() {
        crate::install_tls_provider();
        let client = get(&Clients::default(), &TlsConfig::default(), None, 1).expect("builds");
        let first = client.connections(true).expect("opens");
        assert!(Arc::ptr_eq(&first, &client.connections(true).expect("opens")));
        first.only_http1.store(true, Ordering::Relaxed);
        first.timed_out();
        assert!(Arc::ptr_eq(&first, &client.connections(true).expect("opens")), "HTTP/1.1 closes one connection only");
        first.only_http1.store(false, Ordering::Relaxed);
        first.timed_out();
        assert!(!Arc::ptr_eq(&first, &client.connections(true).expect("opens")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        crate::install_tls_provider();
        let clients = Clients::default();
        let ca = TlsConfig { ca: Some(Secret::new("not a certificate")), ..Default::default() };
        assert_eq!(get(&clients, &ca, None, 0).expect_err("refused"), ClientError::Ca);
        let identity = TlsConfig { identity: Some((Secret::new("a"), Secret::new("b"))), ..Default::default() };
        assert_eq!(get(&clients, &identity, None, 0).expect_err("refused"), ClientError::Identity);
        let tls = TlsConfig::default();
        for proxy in ["::", "", "http://", "ftp://host", "socks4://host:1080", "a proxy"] {
            let error = get(&clients, &tls, Some(proxy), 0).expect_err(proxy);
            assert_eq!(error, ClientError::Proxy, "{proxy}");
        }
        for proxy in ["127.0.0.1:3128", "http://169.254.169.254", "socks5h://[::1]:1080"] {
            let error = get(&clients, &tls, Some(proxy), 0).expect_err(proxy);
            assert_eq!(error, ClientError::ProxyRefused, "{proxy}");
        }
        for proxy in ["host:3128", "http://host", "https://u:p@host", "socks5://host:1080", "socks5h://[fd00::1]:1080"]
        {
            assert!(get(&clients, &tls, Some(proxy), 0).is_ok(), "{proxy}");
        }
    }
}
