//! A Provider made ready: address, credentials, client and timeout, all parsed. Made by
//! `delivery::resolve` when a Provider or a Secret of it changes, used for every request.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use super::auth::{Credentials, Identity};
use super::{
    Gate, Leave, Left, MAX_ANSWER, MAX_ERROR_BODY, MAX_REDIRECTS, Masks, Open, Request, SendError, Sent, asked_pause,
};
use crate::clock::Clock;
use crate::secret::Secret;

/// See the module.
#[derive(Clone)]
pub struct Target {
    /// The address as written, by spec or Secret; trimmed. It can be a credential.
    pub address: Secret,
    /// Where the API is, when that is not derived from the address.
    pub api_url: Option<Url>,
    /// From key `token`.
    pub token: Option<Secret>,
    /// From key `username`, else `spec.username`.
    pub username: Option<Secret>,
    /// From key `password`.
    pub password: Option<Secret>,
    /// Who the Provider is when there is no token; its vendor makes `credentials` of it.
    pub identity: Option<Identity>,
    /// Asked for the `Authorization` of every request; none when the vendor writes it itself.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// From key `headers`: sent with every request, over our own.
    pub headers: HeaderMap,
    /// What must not be read in an answer: every value of the Provider's Secrets, and what was made
    /// of them.
    pub masks: Masks,
    /// One try may take this long.
    pub timeout: Duration,
    /// The pooled client.
    pub client: Arc<reqwest::Client>,
    /// Asked before each request, and told what came of it.
    pub gate: Arc<dyn Gate>,
    /// For `Retry-After` dates.
    pub clock: Arc<dyn Clock>,
}

impl Target {
    /// Nobody in particular.
    pub fn anonymous(client: Arc<reqwest::Client>, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        Self {
            address: Secret::new(""),
            api_url: None,
            token: None,
            username: None,
            password: None,
            identity: None,
            credentials: None,
            headers: HeaderMap::new(),
            gate: Arc::new(Open),
            masks: Masks::default(),
            timeout,
            client,
            clock,
        }
    }

    /// The same way out, without anything that says who asks: for getting a token at the same host. It
    /// keeps the waits of this one's credential.
    pub fn without_credentials(&self) -> Self {
        let masks = self.masks.clone();
        let gate = Arc::new(Leave(self.gate.clone()));
        Self { masks, gate, ..Self::anonymous(self.client.clone(), self.clock.clone(), self.timeout) }
    }

    /// Carries out one request, with a credential when the Target has to get one first. When that is
    /// refused, one more is got and tried: it may have been withdrawn before its time. A vendor that
    /// refuses a credential has done nothing, so that is safe for a write too.
    ///
    /// To get a credential takes seconds and requests of its own, so the gate is asked before that and
    /// again before each request that goes out with it: a wait may have begun meanwhile.
    pub async fn send(&self, request: Request) -> Result<Sent, SendError> {
        let Some(credentials) = &self.credentials else { return self.pass(request).await };
        let authorization = self.credential(&**credentials).await?;
        let sent = self.pass(request.clone().authorization(&authorization)).await;
        let refused = match &sent {
            Ok(sent) => sent.status == StatusCode::NON_AUTHORITATIVE_INFORMATION,
            Err(error) => matches!(error, SendError::Status { status: StatusCode::UNAUTHORIZED, .. }),
        };
        if !refused {
            return sent;
        }
        credentials.refused(&authorization);
        let authorization = self.credential(&**credentials).await?;
        self.pass(request.authorization(&authorization)).await
    }

    /// Gets a credential, unless nothing may be sent with it.
    async fn credential(&self, credentials: &dyn Credentials) -> Result<HeaderValue, SendError> {
        self.gate.enter()?;
        credentials.authorization().await.inspect_err(|error| self.tell(Err(error)))
    }

    /// Carries out one request if the gate lets it pass, and tells the gate what came of it.
    async fn pass(&self, request: Request) -> Result<Sent, SendError> {
        let sent = self.carry_out(request).await;
        self.tell(sent.as_ref());
        sent
    }

    fn tell(&self, sent: Result<&Sent, &SendError>) {
        if matches!(sent, Err(SendError::Held { .. })) {
            // That is what the gate itself said.
            return;
        }
        let asked = |sent: &Sent| asked_pause(sent.status, &sent.headers, "", self.clock.wall());
        self.gate.answered(sent.err(), sent.ok().and_then(asked));
    }

    /// Carries out one request as it is. Redirects are followed within the host only, with method and
    /// body, so that a credential never reaches another host and a POST never becomes a GET.
    async fn carry_out(&self, request: Request) -> Result<Sent, SendError> {
        let mut url = request.url;
        // By a redirect that a browser would follow to read a page.
        let mut moved = false;
        for _ in 0..=MAX_REDIRECTS {
            self.gate.enter()?;
            let mut outgoing =
                self.client.request(request.method.clone(), url.clone()).timeout(self.timeout).build()?;
            if outgoing.headers().is_empty() {
                // Whole, where a builder would merge them one by one.
                *outgoing.headers_mut() = request.headers.clone();
            } else {
                // The address had a user in it, which is a header by now.
                outgoing.headers_mut().extend(request.headers.clone());
            }
            if request.method != Method::GET {
                *outgoing.body_mut() = Some(request.body.clone().into());
            }
            let mut response = self.client.execute(outgoing).await?;
            let status = response.status();
            Left::read(response.headers(), self.clock.wall()).inspect(|left| self.gate.left(*left));
            if status.is_success() {
                let body = read(&mut response, MAX_ANSWER).await?.ok_or(SendError::TooLarge)?;
                let sent = Sent { status, headers: std::mem::take(response.headers_mut()), body };
                if moved && sent.is_page() {
                    return Err(SendError::NotTheVendor { what: "a redirect led to a page, as one to sign in does" });
                }
                return Ok(sent);
            }
            if status == StatusCode::SEE_OTHER {
                // It asks for a page to be read in place of an answer, as a sign-in does.
                return Err(SendError::Redirect);
            }
            if matches!(status.as_u16(), 301 | 302 | 307 | 308) {
                url = within_host(&url, response.headers()).ok_or(SendError::Redirect)?;
                moved |= matches!(status.as_u16(), 301 | 302);
                continue;
            }
            return Err(self.refusal(status, &request.headers, &mut response).await);
        }
        Err(SendError::Redirect)
    }

    async fn refusal(&self, status: StatusCode, sent: &HeaderMap, response: &mut reqwest::Response) -> SendError {
        // Twice of what is kept: a credential must not be cut before it is masked.
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(2 * MAX_ERROR_BODY - body.len())]);
            if body.len() >= 2 * MAX_ERROR_BODY {
                break;
            }
        }
        let body = String::from_utf8_lossy(&body);
        let retry_after = asked_pause(status, response.headers(), &body, self.clock.wall());
        let mut body = self.masked(&body, sent);
        body.truncate(body.floor_char_boundary(MAX_ERROR_BODY));
        SendError::Status { status, retry_after, body }
    }

    /// `text` with every credential of this Target replaced, and what `sent` made of it: some servers
    /// answer with the request.
    fn masked(&self, text: &str, sent: &HeaderMap) -> String {
        let sensitive = sent.values().filter(|value| value.is_sensitive());
        let headers = self.headers.values().chain(sensitive).filter_map(|value| value.to_str().ok());
        // Without the scheme too: `Basic` and its like.
        let headers = headers.flat_map(|value| [value, value.rsplit(' ').next().unwrap_or(value)]);
        self.masks.apply(text.trim(), headers)
    }
}

/// A header value that is left out of debug output and of HTTP/2's compression tables.
pub fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Request {
    /// Adds an `Authorization` header.
    #[must_use]
    pub fn authorization(mut self, value: &HeaderValue) -> Self {
        self.headers.insert(AUTHORIZATION, value.clone());
        self
    }
}

/// Where a redirect leads, if that is the same host under the same or a safer scheme.
fn within_host(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let to = from.join(headers.get(LOCATION)?.to_str().ok()?).ok()?;
    let same = to.scheme() == from.scheme() && to.port_or_known_default() == from.port_or_known_default();
    let safer = from.scheme() == "http" && to.scheme() == "https" && from.port().is_none() && to.port().is_none();
    (to.host() == from.host() && (same || safer)).then_some(to)
}

async fn read(response: &mut reqwest::Response, limit: usize) -> Result<Option<Vec<u8>>, SendError> {
    let mut body = Vec::with_capacity(response.content_length().unwrap_or(0).min(limit as u64) as usize);
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_at_their_host() {
        let from = Url::parse("http://git.example.org/api/v3/repos/a/b").expect("valid");
        let to = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().expect("valid"));
            within_host(&from, &headers).map(String::from)
        };
        assert_eq!(to("/repositories/1"), Some("http://git.example.org/repositories/1".into()));
        assert_eq!(to("http://git.example.org/x"), Some("http://git.example.org/x".into()));
        assert_eq!(to("https://git.example.org/x"), Some("https://git.example.org/x".into()));
        assert_eq!(to("http://git.example.org:8080/x"), None);
        assert_eq!(to("https://evil.example.org/x"), None);
        assert_eq!(to("//evil.example.org/x"), None);
        assert_eq!(to("ftp://git.example.org/x"), None);
    }
}
