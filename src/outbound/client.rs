//! One pooled client for each combination of TLS settings and proxy, kept while a Target uses it.
//! An event dials nothing new.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::connect::{Connector, Proxies};
use super::{SendError, TlsConfig};
use crate::secret::Secret;

/// Idle connections kept for each host of a client: as many as `delivery` has requests under way
/// at most, lest many Providers at one host open for each request what the one before closed.
const IDLE_PER_HOST: usize = 256;

/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

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
    /// The rest.
    #[error("cannot be used by the TLS library")]
    Library,
}

/// The clients in use.
#[derive(Debug, Default)]
pub struct Clients {
    pooled: Mutex<HashMap<u64, Weak<Client>>>,
}

impl Clients {
    /// The client for these settings, built when no Target uses it yet. `proxy` of `None` means
    /// the proxy of the environment, if any.
    pub fn get(&self, tls: &TlsConfig, proxy: Option<&Secret>) -> Result<Arc<Client>, ClientError> {
        let mut hasher = DefaultHasher::new();
        tls.ca.as_ref().map(Secret::expose).hash(&mut hasher);
        tls.append_system_roots.hash(&mut hasher);
        tls.identity.as_ref().map(|(cert, key)| (cert.expose(), key.expose())).hash(&mut hasher);
        proxy.map(Secret::expose).hash(&mut hasher);
        let key = hasher.finish();

        let mut pooled = self.pooled.lock();
        if let Some(client) = pooled.get(&key).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let client = Arc::new(Client::new(tls, proxy)?);
        pooled.retain(|_, client| client.strong_count() > 0);
        pooled.insert(key, Arc::downgrade(&client));
        Ok(client)
    }
}

/// Sends requests on connections it keeps. It follows no redirect, and tries nothing twice that was written to a
/// connection: the one is [`Target::send`](super::Target::send)'s, the other `delivery`'s alone.
#[derive(Debug)]
pub struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    proxies: Arc<Proxies>,
}

impl Client {
    fn new(tls: &TlsConfig, proxy: Option<&Secret>) -> Result<Self, ClientError> {
        let proxies = Arc::new(proxy.map_or_else(|| Ok(Proxies::of_environment()), Proxies::one)?);
        let http = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .build(Connector::new(tls.build()?, proxies.clone()));
        Ok(Self { http, proxies })
    }

    /// Sends one request, whose answer is whole within `timeout` or none.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>, timeout: Duration) -> Result<Answer, SendError> {
        if let Some(authorization) = self.proxies.authorization(request.uri()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        let deadline = tokio::time::sleep(timeout).deadline();
        let answer = timeout_at(deadline, self.http.request(request)).await??;
        let (head, body) = answer.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body, deadline })
    }
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    /// The status.
    pub(super) status: StatusCode,
    /// The headers.
    pub(super) headers: HeaderMap,
    body: Incoming,
    deadline: Instant,
}

impl Answer {
    /// Bytes that the body is going to have at least.
    pub(super) fn length(&self) -> u64 {
        self.body.size_hint().lower()
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, SendError> {
        loop {
            match timeout_at(self.deadline, self.body.frame()).await? {
                None => return Ok(None),
                // Trailers say nothing that counts here.
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_share_a_client_while_someone_uses_it() {
        crate::install_tls_provider();
        let clients = Clients::default();
        let plain = clients.get(&TlsConfig::default(), None).expect("builds");
        assert!(Arc::ptr_eq(&plain, &clients.get(&TlsConfig::default(), None).expect("builds")));
        let proxied = clients.get(&TlsConfig::default(), Some(&Secret::new("http://127.0.0.1:1"))).expect("builds");
        assert!(!Arc::ptr_eq(&plain, &proxied));
        drop(proxied);
        clients.get(&TlsConfig::default(), Some(&Secret::new("http://127.0.0.1:2"))).expect("builds");
        assert_eq!(clients.pooled.lock().len(), 2, "what nobody uses is forgotten");
    }

    #[test]
    fn what_is_wrong_is_named() {
        crate::install_tls_provider();
        let clients = Clients::default();
        let ca = TlsConfig { ca: Some(Secret::new("not a certificate")), ..Default::default() };
        assert_eq!(clients.get(&ca, None).expect_err("refused"), ClientError::Ca);
        let identity = TlsConfig { identity: Some((Secret::new("a"), Secret::new("b"))), ..Default::default() };
        assert_eq!(clients.get(&identity, None).expect_err("refused"), ClientError::Identity);
        for proxy in ["::", "", "http://", "ftp://host", "socks4://host:1080", "a proxy"] {
            let error = clients.get(&TlsConfig::default(), Some(&Secret::new(proxy))).expect_err(proxy);
            assert_eq!(error, ClientError::Proxy, "{proxy}");
        }
        for proxy in ["host:3128", "http://host", "https://u:p@host", "socks5://host:1080", "socks5h://[::1]:1080"] {
            assert!(clients.get(&TlsConfig::default(), Some(&Secret::new(proxy))).is_ok(), "{proxy}");
        }
    }
}
