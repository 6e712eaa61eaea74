//! What a Provider's certificates make of a connection. Made by `client` with each new client.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

use super::ClientError;
use crate::secret::Secret;

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

impl TlsConfig {
    /// These settings as `rustls` has them, with no application protocol named yet.
    pub(super) fn build(&self) -> Result<ClientConfig, ClientError> {
        let builder = ClientConfig::builder();
        let roots = self.ca.as_ref().map(roots).transpose()?.unwrap_or_default();
        let builder = if self.ca.is_some() && !self.append_system_roots {
            let mut store = RootCertStore::empty();
            for root in roots {
                store.add(root).map_err(|_| ClientError::Ca)?;
            }
            builder.with_root_certificates(store)
        } else {
            builder.dangerous().with_custom_certificate_verifier(system(roots)?)
        };
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        // Either of the two may hold both.
        let pem = format!("{}\n{}", key.expose(), certificate.expose());
        let chain = certificates(&pem).map_err(|_| ClientError::Identity)?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| ClientError::Identity)?;
        builder.with_client_auth_cert(chain, key).map_err(|_| ClientError::Identity)
    }
}

/// Verifies against the system's roots and `more`.
fn system(more: Vec<CertificateDer<'static>>) -> Result<Arc<dyn ServerCertVerifier>, ClientError> {
    let provider = CryptoProvider::get_default().ok_or(ClientError::Library)?;
    let wrong = if more.is_empty() { ClientError::Library } else { ClientError::Ca };
    Ok(Arc::new(Verifier::new_with_extra_roots(more, provider.clone()).map_err(|_| wrong)?))
}

fn roots(ca: &Secret) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    certificates(ca.expose()).ok().filter(|roots| !roots.is_empty()).ok_or(ClientError::Ca)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect()
}
