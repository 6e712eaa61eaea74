//! What a Provider's certificates make of a connection. Made by `client` with each new client.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
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
    /// These settings as `rustls` has them: HTTP/2 is offered before HTTP/1.1.
    pub(super) fn build(&self) -> Result<ClientConfig, ClientError> {
        let roots = self.ca.as_ref().map(roots).transpose()?.unwrap_or_default();
        let chains =
            if self.ca.is_some() && !self.append_system_roots { given(&roots)? } else { system(roots.clone())? };
        let verifier: Arc<dyn ServerCertVerifier> =
            if roots.is_empty() { chains } else { Arc::new(OrItself { chains, roots }) };
        let builder = ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                // Either of the two may hold both.
                let pem = format!("{}\n{}", key.expose(), certificate.expose());
                let chain = certificates(&pem).map_err(|_| ClientError::Identity)?;
                let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| ClientError::Identity)?;
                builder.with_client_auth_cert(chain, key).map_err(|_| ClientError::Identity)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Adds everything that tells these settings from others.
    pub(super) fn hash_into(&self, hasher: &mut impl Hasher) {
        self.ca.as_ref().map(Secret::expose).hash(hasher);
        self.append_system_roots.hash(hasher);
        self.identity.as_ref().map(|(cert, key)| (cert.expose(), key.expose())).hash(hasher);
    }
}

/// Trusts also a certificate that is itself among the given roots, as Go and OpenSSL do. webpki refuses such a
/// certificate where it may sign others, which `openssl req -x509` says of each (rustls/webpki#205).
#[derive(Debug)]
struct OrItself {
    chains: Arc<dyn ServerCertVerifier>,
    roots: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OrItself {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(error) if is_ca_as_end_entity(&error) && self.roots.contains(end_entity) => {
                // webpki looks at the validity before it looks at what the certificate is for.
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

fn is_ca_as_end_entity(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Verifies against the given roots alone.
fn given(roots: &[CertificateDer<'static>]) -> Result<Arc<dyn ServerCertVerifier>, ClientError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|_| ClientError::Ca)?;
    }
    let provider = CryptoProvider::get_default().ok_or(ClientError::Library)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(store.into(), provider.clone()).build();
    Ok(verifier.map_err(|_| ClientError::Ca)?)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    /// As `openssl req -x509` makes it: one certificate for the server, which may sign others as well.
    fn self_signed() -> rcgen::Certificate {
        let mut params = CertificateParams::new(["git.invalid".to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate")
    }

    #[test]
    fn a_certificate_that_is_itself_given_as_ca_is_trusted() {
        crate::install_tls_provider();
        let (ours, another) = (self_signed(), self_signed());
        let at = |year: u64| UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952));
        let name = |text: &'static str| ServerName::try_from(text).expect("a name");
        let roots = roots(&Secret::new(ours.pem())).expect("a certificate");
        for chains in [given(&roots).expect("roots"), system(roots.clone()).expect("roots")] {
            let verifier = OrItself { chains, roots: roots.clone() };
            let verify = |certificate: &rcgen::Certificate, host, year| {
                verifier.verify_server_cert(certificate.der(), &[], &name(host), &[], at(year)).is_ok()
            };
            assert!(verify(&ours, "git.invalid", 2025));
            assert!(!verify(&ours, "other.invalid", 2025), "for another host");
            assert!(!verify(&ours, "git.invalid", 2035), "after its time");
            assert!(!verify(&ours, "git.invalid", 2015), "before its time");
            assert!(!verify(&another, "git.invalid", 2025), "not given");
        }
    }
}
