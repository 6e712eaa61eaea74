//! The way to the API server: a client and where it leads. Made by `main`; `app` has every request
//! that goes over it counted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, StreamBody};
use hyper::body::{Body as HttpBody, Frame};
use kube::Client;
use kube::client::Body;
use tower::BoxError;

use crate::ops::metrics::Metrics;

/// An answer must begin within this time, that of a watch too, and once begun may pause no longer, but
/// for a watch; the API server gives up a request after 60 s (kube-apiserver, `--request-timeout`). The
/// client itself waits for ever, and ends only watches that pause.
const ANSWERED_WITHIN: Duration = Duration::from_secs(65);

/// See the module.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Host and port, for the metrics; empty when they are not known.
    pub host: Arc<str>,
    /// How long an answer may take to begin, and how long it may pause then unless it is a watch's.
    pub patience: Duration,
}

impl Connection {
    /// To the cluster Herald runs in, or that KUBECONFIG names.
    ///
    /// # Errors
    /// When there is neither; the text says what to do.
    pub async fn open() -> anyhow::Result<Self> {
        const NONE: &str = "no cluster to talk to: run in a cluster, set KUBECONFIG, or use --manifests DIR to read a directory instead";
        crate::install_tls_provider();
        let config = kube::Config::infer().await.context(NONE)?;
        let host = config.cluster_url.authority().map_or("", |authority| authority.as_str()).into();
        Ok(Self { client: Client::try_from(config).context(NONE)?, host, patience: ANSWERED_WITHIN })
    }

    /// A client that counts its requests as `rest_client_requests_total`, and waits for no answer that
    /// does not come, nor for the rest of one that stays away.
    pub fn counted(self, metrics: Arc<Metrics>) -> Client {
        let Self { client, host, patience } = self;
        let namespace = client.default_namespace().to_owned();
        let counting = tower::service_fn(move |request: http::Request<Body>| {
            let (client, host, metrics) = (client.clone(), host.clone(), metrics.clone());
            async move {
                let (method, watch) = (request.method().clone(), is_watch(request.uri()));
                let answer = tokio::time::timeout(patience, client.send(request)).await;
                let answer = answer.unwrap_or_else(|late| Err(kube::Error::Service(late.into())));
                metrics.api_request(answer.as_ref().ok().map(http::Response::status), &host, &method);
                let patient = |body| if watch { Either::Left(body) } else { Either::Right(impatient(body, patience)) };
                answer.map(|answer| answer.map(patient))
            }
        });
        Client::new(counting, namespace)
    }
}

impl From<Client> for Connection {
    fn from(client: Client) -> Self {
        Self { client, host: "".into(), patience: ANSWERED_WITHIN }
    }
}

/// Whether the answer goes on for as long as anything changes.
fn is_watch(uri: &http::Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|field| field == "watch=true"))
}

/// The body, which fails when it pauses for longer. However long a list is, it may take its time.
fn impatient(body: Body, patience: Duration) -> impl HttpBody<Data = Bytes, Error = BoxError> + Send + 'static {
    StreamBody::new(futures::stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        let frame: Result<Frame<Bytes>, BoxError> = match tokio::time::timeout(patience, body.frame()).await {
            Ok(frame) => frame?.map_err(Into::into),
            Err(late) => return Some((Err(late.into()), None)),
        };
        Some((frame, Some(body)))
    }))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures::{AsyncBufReadExt, StreamExt};
    use k8s_openapi::api::core::v1::Secret;
    use kube::api::{Api, ListParams, WatchParams};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    /// A client of a server that answers with these parts of a body, each after a pause, and then with
    /// nothing more, for ever. An empty part is the end of the body.
    async fn client(parts: &'static [&'static str], pause: Duration) -> Client {
        crate::install_tls_provider();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("somebody comes");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("the client waits");
            for part in parts {
                tokio::time::sleep(pause).await;
                let chunk = format!("{:x}\r\n{part}\r\n", part.len());
                stream.write_all(chunk.as_bytes()).await.expect("the client waits");
            }
            // Until the client goes.
            let _ = stream.read_u8().await;
        });
        let config = kube::Config::new(url.parse().expect("a URL"));
        let client = Client::try_from(config).expect("a client");
        let connection = Connection { patience: PATIENCE, ..client.into() };
        connection.counted(Arc::new(Metrics::new(false)))
    }

    async fn list(client: Client) -> kube::Result<kube::core::ObjectList<Secret>> {
        let secrets = Api::namespaced(client, "apps");
        let listed = tokio::time::timeout(20 * PATIENCE, secrets.list(&ListParams::default())).await;
        listed.expect("an end")
    }

    #[tokio::test]
    async fn a_list_that_stops_in_the_middle_fails() {
        let error = list(client(&[r#"{"metadata": {}, "#], Duration::ZERO).await).await.expect_err("half a list");
        assert!(matches!(error, kube::Error::Service(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_list_that_goes_on_slowly_is_read_to_its_end() {
        const PARTS: &[&str] = &["{", r#""metadata""#, ": {}, ", r#""items""#, ": []}", ""];
        let listed = list(client(PARTS, PATIENCE / 4).await).await;
        assert!(listed.expect("a list").items.is_empty());
    }

    #[tokio::test]
    async fn a_watch_may_pause() {
        let client = client(&["{}\n", "{}\n"], 2 * PATIENCE).await;
        let watch = kube::core::Request::new("/api/v1/secrets").watch(&WatchParams::default(), "1").expect("a request");
        let mut lines = client.request_stream(watch).await.expect("an answer").lines();
        for _ in 0..2 {
            assert_eq!(lines.next().await.expect("it goes on").expect("a line"), "{}");
        }
    }
}
