//! How a connection is opened: directly, or by way of a proxy. `client` gives a [`Connector`] to each of its
//! clients; the protocols are hyper-util's and hyper-rustls'.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::USER_AGENT;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower::{BoxError, Service, ServiceExt};

use super::{AGENT, ClientError};
use crate::secret::Secret;

/// How long a connection may take to open, handshakes with proxies and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An idle connection is tried after this long, and given up after three tries.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What was sent and not acknowledged for this long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Which proxy is taken to which host.
#[derive(Debug)]
pub(super) struct Proxies(Matcher);

impl Proxies {
    /// What the environment names (`HTTPS_PROXY` and its like), but for hosts in `NO_PROXY`.
    pub(super) fn of_environment() -> Self {
        Self(Matcher::from_env())
    }

    /// One proxy for every host: `http`, `https`, `socks5` or `socks5h`; `http` when nothing is said. As in Go,
    /// a SOCKS proxy finds the hosts in both cases: their names may be known nowhere else.
    pub(super) fn one(address: &Secret) -> Result<Self, ClientError> {
        let address = address.expose();
        let proxies = Self(Matcher::builder().all(address).build());
        let proxy = proxies.0.intercept(&Uri::from_static("https://any.example")).ok_or(ClientError::Proxy)?;
        let spoken = matches!(proxy.uri().scheme_str(), Some("http" | "https" | "socks5" | "socks5h"));
        // With nothing but a word, the word would be the host.
        if !spoken || proxy.uri().host().is_none_or(str::is_empty) { Err(ClientError::Proxy) } else { Ok(proxies) }
    }

    /// What a request without TLS tells the proxy that forwards it. One with TLS is passed through a tunnel,
    /// whose proxy was told when it was opened.
    pub(super) fn authorization(&self, to: &Uri) -> Option<HeaderValue> {
        if to.scheme() != Some(&Scheme::HTTP) {
            return None;
        }
        self.0.intercept(to)?.basic_auth().cloned()
    }
}

/// Opens connections to vendors, ready to be spoken HTTP on.
#[derive(Clone)]
pub(super) struct Connector(HttpsConnector<FirstHop>);

impl Connector {
    pub(super) fn new(tls: ClientConfig, proxies: Arc<Proxies>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        tcp.set_keepalive_retries(Some(3));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));

        let mut to_vendor = tls.clone();
        to_vendor.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let to_proxy = HttpsConnector::from((tcp.clone(), tls));
        Self(HttpsConnector::from((FirstHop(Arc::new(Ways { tcp, to_proxy, proxies })), to_vendor)))
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Hop>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, self.0.call(to));
        async move { opened.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) }.boxed()
    }
}

/// Opens the connection that TLS, if any, is spoken on: to the vendor, or through a proxy.
#[derive(Clone)]
struct FirstHop(Arc<Ways>);

struct Ways {
    tcp: HttpConnector,
    to_proxy: HttpsConnector<HttpConnector>,
    proxies: Arc<Proxies>,
}

impl Service<Uri> for FirstHop {
    type Response = Hop;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Hop, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let ways = self.0.clone();
        async move {
            match ways.proxies.0.intercept(&to) {
                None => Ok(Hop::direct(ways.tcp.clone().oneshot(to).await?)),
                Some(proxy) => ways.by(&proxy, to).await,
            }
        }
        .boxed()
    }
}

impl Ways {
    async fn by(&self, proxy: &Intercept, to: Uri) -> Result<Hop, BoxError> {
        let address = proxy.uri().clone();
        if address.scheme_str().is_some_and(|scheme| scheme.starts_with("socks5")) {
            let mut socks = SocksV5::new(address, self.tcp.clone());
            if let Some((user, password)) = proxy.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            return Ok(Hop::direct(socks.oneshot(with_port(to)?).await?));
        }
        if to.scheme() != Some(&Scheme::HTTPS) {
            return Ok(Hop { stream: self.to_proxy.clone().oneshot(address).await?, forwards: true });
        }
        let agent = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(AGENT))]);
        let mut tunnel = Tunnel::new(address, self.to_proxy.clone()).with_headers(agent);
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        Ok(Hop { stream: tunnel.oneshot(to).await?, forwards: false })
    }
}

/// The address with its port said: hyper-util asks a SOCKS proxy for 443 where none is.
fn with_port(to: Uri) -> Result<Uri, http::Error> {
    let (None, Some(host), Some("http")) = (to.port(), to.host(), to.scheme_str()) else { return Ok(to) };
    Uri::builder().scheme(Scheme::HTTP).authority(format!("{host}:80")).path_and_query("/").build()
}

/// A connection, and whether a proxy reads the requests on it to forward them: it is told whole addresses.
pub(super) struct Hop {
    stream: MaybeHttpsStream<TokioIo<TcpStream>>,
    forwards: bool,
}

impl Hop {
    fn direct(stream: TokioIo<TcpStream>) -> Self {
        Self { stream: MaybeHttpsStream::Http(stream), forwards: false }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut MaybeHttpsStream<TokioIo<TcpStream>>> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connection for Hop {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.forwards)
    }
}

impl Read for Hop {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, to: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, to)
    }
}

impl Write for Hop {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}
