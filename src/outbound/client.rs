//! One pooled client for each combination of TLS settings and proxy, kept while a Target uses it.
//! An event dials nothing new.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::secret::Secret;

/// Idle connections kept for each host of a client: as many as `delivery` has requests under way
/// at most, lest many Providers at one host open for each request what the one before closed.
const IDLE_PER_HOST: usize = 256;

/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS settings of one Provider, as PEM text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Replaces the system's roots.
    pub ca: Option<Secret>,
    /// With `ca`: the system's roots count too (`herald.sh/system-roots: append`).
    pub append_system_roots: bool,
    /// Client certificate and key.
    pub identity: Option<(Secret, Secret)>,
}

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
    pooled: Mutex<HashMap<u64, Weak<reqwest::Client>>>,
}

impl Clients {
    /// The client for these settings, built when no Target uses it yet. `proxy` of `None` means
    /// the proxy of the environment, if any.
    pub fn get(&self, tls: &TlsConfig, proxy: Option<&Secret>) -> Result<Arc<reqwest::Client>, ClientError> {
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
        let client = Arc::new(build(tls, proxy)?);
        pooled.retain(|_, client| client.strong_count() > 0);
        pooled.insert(key, Arc::downgrade(&client));
        Ok(client)
    }
}

fn build(tls: &TlsConfig, proxy: Option<&Secret>) -> Result<reqwest::Client, ClientError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("herald/", env!("CARGO_PKG_VERSION")))
        // Redirects are followed by `Target::send`, which keeps the credential at its host.
        .redirect(reqwest::redirect::Policy::none())
        // Retries are `delivery`'s alone.
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST);
    if let Some(ca) = &tls.ca {
        let certificates =
            reqwest::Certificate::from_pem_bundle(ca.expose().as_bytes()).map_err(|_| ClientError::Ca)?;
        if certificates.is_empty() {
            return Err(ClientError::Ca);
        }
        builder = match tls.append_system_roots {
            true => builder.tls_certs_merge(certificates),
            false => builder.tls_certs_only(certificates),
        };
    }
    if let Some((certificate, key)) = &tls.identity {
        let pem = format!("{}\n{}", key.expose(), certificate.expose());
        let identity = reqwest::Identity::from_pem(pem.as_bytes()).map_err(|_| ClientError::Identity)?;
        builder = builder.identity(identity);
    }
    if let Some(proxy) = proxy {
        // As in Go, the proxy finds the hosts: their names may be known nowhere else.
        let url = proxy.expose().replacen("socks5://", "socks5h://", 1);
        builder = builder.proxy(reqwest::Proxy::all(url).map_err(|_| ClientError::Proxy)?);
    }
    builder.build().map_err(|_| ClientError::Library)
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
        assert_eq!(
            clients.get(&TlsConfig::default(), Some(&Secret::new("::"))).expect_err("refused"),
            ClientError::Proxy
        );
    }
}
