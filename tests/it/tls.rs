//! A TLS front for a plain host, with certificates made for the one test that asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::support::forge::Forge;

/// Whose hosts no name server knows.
pub const DOMAIN: &str = "git.invalid";

/// Where github.com has its API; a proxy leads there in tests.
const GITHUB: &str = "api.github.com";

/// Makes the connections of a front fall silent.
#[derive(Clone)]
pub struct Valve(Arc<watch::Sender<usize>>, Arc<AtomicUsize>);

impl Default for Valve {
    fn default() -> Self {
        Self(Arc::new(watch::channel(0).0), Arc::default())
    }
}

impl Valve {
    /// All connections that are open now stay open, and bring nothing any more.
    pub fn silence(&self) {
        self.0.send_modify(|silenced| *silenced += 1);
    }

    /// Connections that were opened so far.
    pub fn opened(&self) -> usize {
        self.1.load(Ordering::SeqCst)
    }

    /// A connection opens; what is given back ends when the connection falls silent.
    fn open(&self) -> impl Future<Output = ()> + use<> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let mut silenced = self.0.subscribe();
        let before = *silenced.borrow();
        let sender = self.0.clone();
        async move {
            let _ = silenced.wait_for(|times| *times > before).await;
            drop(sender);
        }
    }
}

/// Someone who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// The certificate that clients trust, as PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate and its key for a client, or for 127.0.0.1, the hosts of [`DOMAIN`] and
    /// GitHub's API.
    pub fn sign(&self, purpose: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params =
            CertificateParams::new(["127.0.0.1".to_owned(), format!("*.{DOMAIN}"), GITHUB.to_owned()]).expect("a name");
        params.extended_key_usages = vec![purpose];
        (params.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }

    /// Serves the forge over TLS; gives the base URL. Clients need a certificate of `clients` where that is given.
    pub async fn front(&self, forge: &Forge, clients: Option<&Authority>) -> String {
        self.front_of(forge.url(), clients, &[]).await
    }

    /// Serves what is at `plain` over TLS, offering `protocols` in the handshake; gives the base URL.
    pub async fn front_of(&self, plain: &str, clients: Option<&Authority>, protocols: &[&str]) -> String {
        self.front_with(plain, clients, protocols, Valve::default()).await
    }

    /// The same, whose connections fall silent when the valve says so.
    pub async fn front_with(
        &self,
        plain: &str,
        clients: Option<&Authority>,
        protocols: &[&str],
        valve: Valve,
    ) -> String {
        let (certificate, key) = self.sign(ExtendedKeyUsagePurpose::ServerAuth);
        let builder = match clients {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.certificate.der().clone()).expect("a root");
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
                ServerConfig::builder().with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).expect("a server's settings");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("https://{}", listener.local_addr().expect("it has an address"));
        let behind = plain.strip_prefix("http://").expect("what is behind is plain").to_owned();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, behind, silent) = (acceptor.clone(), behind.clone(), valve.open());
                tokio::spawn(async move {
                    // A handshake that fails is what some tests are about.
                    let Ok(mut outer) = acceptor.accept(stream).await else { return };
                    let Ok(mut inner) = TcpStream::connect(behind).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut outer, &mut inner) => {}
                        () = silent => {
                            // The kernel goes on to acknowledge what the client sends.
                            std::future::pending::<()>().await;
                        }
                    }
                });
            }
        });
        url
    }
}
