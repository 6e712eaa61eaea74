//! Type `generic`: the event itself, POSTed as JSON to an address.

use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderValue;
use http::header::HeaderName;
use url::Url;

use super::{BuildError, Events, Service};
use crate::api::Event;
use crate::outbound::{Request, SendError, Target};

/// Names the controller that sent the event.
const GOTK_COMPONENT: HeaderName = HeaderName::from_static("gotk-component");

struct Generic {
    target: Target,
    url: Url,
}

pub(super) fn build(target: Target) -> Result<Service, BuildError> {
    let url = Url::parse(target.address.expose())
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            BuildError::address("spec.address is not an address to POST to, such as https://example.org/hook")
        })?;
    Ok(Service::Events(Box::new(Generic { target, url })))
}

impl Events for Generic {
    fn send<'a>(&'a self, event: &Event) -> BoxFuture<'a, Result<(), SendError>> {
        let mut request = Request::post_json(self.url.clone(), event.encode()).status_only();
        // A name that no header can carry is left out rather than losing the event.
        if let Ok(component) = HeaderValue::from_str(&event.reporting_controller) {
            request.headers.insert(GOTK_COMPONENT, component);
        }
        // The user's own headers win over ours.
        for (name, value) in &self.target.headers {
            request.headers.insert(name, value.clone());
        }
        async move { self.target.send(request).await.map(drop) }.boxed()
    }
}
