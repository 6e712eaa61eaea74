//! The way to the API server: a client and where it leads. Made by `main`; `app` has every request
//! that goes over it counted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use kube::client::Body;

use crate::ops::metrics::Metrics;

/// An answer must begin within this time, that of a watch too; the API server gives up a request after
/// 60 s (kube-apiserver, `--request-timeout`). The client itself waits for ever.
const ANSWERED_WITHIN: Duration = Duration::from_secs(65);

/// See the module.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Host and port, for the metrics; empty when they are not known.
    pub host: Arc<str>,
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
        Ok(Self { client: Client::try_from(config).context(NONE)?, host })
    }

    /// A client that counts its requests as `rest_client_requests_total`, and waits for no answer that
    /// does not come.
    pub fn counted(self, metrics: Arc<Metrics>) -> Client {
        let Self { client, host } = self;
        let namespace = client.default_namespace().to_owned();
        let counting = tower::service_fn(move |request: http::Request<Body>| {
            let (client, host, metrics) = (client.clone(), host.clone(), metrics.clone());
            async move {
                let method = request.method().clone();
                let answer = tokio::time::timeout(ANSWERED_WITHIN, client.send(request)).await;
                let answer = answer.unwrap_or_else(|late| Err(kube::Error::Service(late.into())));
                metrics.api_request(answer.as_ref().ok().map(http::Response::status), &host, &method);
                answer
            }
        });
        Client::new(counting, namespace)
    }
}

impl From<Client> for Connection {
    fn from(client: Client) -> Self {
        Self { client, host: "".into() }
    }
}
