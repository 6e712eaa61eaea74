//! A Provider made ready: address, credentials, client and timeout, all parsed. Made by
//! `delivery::resolve` when a Provider or a Secret of it changes, used for every request.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use percent_encoding::percent_decode_str;
use url::Url;

use super::auth::{Credentials, Identity, Refused};
use super::client::Answer;
use super::{
    AGENT, AnswerRoom, Client, Gate, IGNORED_TIMEOUT, Leave, Left, MAX_ANSWER, MAX_ERROR_BODY, MAX_IGNORED,
    MAX_REDIRECTS, Masks, Open, PAGE, Request, SendError, Sent, asked_pause, classify,
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
    /// It is an API that answers JSON, also where it refuses: whatever is not, is not the vendor's.
    pub is_api: bool,
    /// One try may take this long.
    pub timeout: Duration,
    /// The pooled client.
    pub client: Arc<Client>,
    /// Namespace of the Provider: answers take of its share of `room`.
    pub tenant: Arc<str>,
    /// Memory for answers.
    pub room: AnswerRoom,
    /// Asked before each request, and told what came of it.
    pub gate: Arc<dyn Gate>,
    /// For `Retry-After` dates.
    pub clock: Arc<dyn Clock>,
}

impl Target {
    /// Nobody in particular.
    pub fn anonymous(client: Arc<Client>, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
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
            is_api: true,
            timeout,
            client,
            tenant: "".into(),
            room: AnswerRoom::default(),
            clock,
        }
    }

    /// The same way out, without anything that says who asks: for getting a token at the same host. It
    /// keeps the waits of this one's credential.
    pub fn without_credentials(&self) -> Self {
        let masks = self.masks.clone();
        let gate = Arc::new(Leave(self.gate.clone()));
        let (tenant, room) = (self.tenant.clone(), self.room.clone());
        let anonymous = Self::anonymous(self.client.clone(), self.clock.clone(), self.timeout);
        Self { masks, gate, tenant, room, ..anonymous }
    }

    /// Carries out one request, with a credential when the Target has to get one first. When that is
    /// refused, one more is got and tried: it may have been withdrawn before its time. One that was issued a
    /// moment ago is tried later, and so is what was issued in place of a refused one. A vendor that refuses a
    /// credential has done nothing, so that is safe for a write too.
    ///
    /// To get a credential takes seconds and requests of its own, so the gate is asked before that and
    /// again before each request that goes out with it: a wait may have begun meanwhile.
    pub async fn send(&self, request: Request) -> Result<Sent, SendError> {
        let Some(credentials) = &self.credentials else { return self.pass(request).await };
        let authorization = self.credential(&**credentials).await?;
        let sent = self.pass(request.clone().authorization(&authorization)).await;
        if !was_refused(&sent) {
            return sent;
        }
        match credentials.refused(&authorization) {
            Refused::New => Err(SendError::NewToken),
            Refused::Again => sent,
            Refused::First => {
                let authorization = self.credential(&**credentials).await?;
                let sent = self.pass(request.authorization(&authorization)).await;
                match was_refused(&sent).then(|| credentials.refused(&authorization)) {
                    Some(Refused::New) => Err(SendError::NewToken),
                    _ => sent,
                }
            }
        }
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
        let mut url = Cow::Borrowed(&request.url);
        // By a redirect that a browser would follow to read a page.
        let mut moved = false;
        for _ in 0..=MAX_REDIRECTS {
            self.gate.enter()?;
            let mut answer = self.client.send(outgoing(&request, &url, self.timeout)).await?;
            let status = answer.status();
            Left::read(answer.headers(), self.clock.wall()).inspect(|left| self.gate.left(*left));
            if status.is_success() {
                let sent = if request.status_only { ignored(answer).await } else { self.whole(answer).await? };
                if moved && sent.is_page() {
                    return Err(SendError::NotTheVendor { what: "a redirect led to a page, as one to sign in does" });
                }
                if self.is_api && status == StatusCode::OK && sent.is_page() {
                    // Told here, so that the host counts as failing.
                    return Err(SendError::NotTheVendor { what: PAGE });
                }
                return Ok(sent);
            }
            if status == StatusCode::SEE_OTHER {
                // It asks for a page to be read in place of an answer, as a sign-in does.
                return Err(SendError::Redirect);
            }
            if matches!(status.as_u16(), 301 | 302 | 307 | 308) {
                url = Cow::Owned(within_host(&url, answer.headers()).ok_or(SendError::Redirect)?);
                moved |= matches!(status.as_u16(), 301 | 302);
                continue;
            }
            if status == StatusCode::MISDIRECTED_REQUEST {
                answer.leave_connections();
            }
            return Err(self.refusal(&request.headers, &mut answer).await);
        }
        Err(SendError::Redirect)
    }

    /// Reads a good answer to its end.
    async fn whole(&self, mut answer: Answer) -> Result<Sent, SendError> {
        let mut room = self.room.share(&self.tenant);
        // A length is a promise: no memory is taken on its word beyond what needs no room.
        let mut body = Vec::with_capacity(answer.length().min(32 << 10) as usize);
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(SendError::TooLarge);
            }
            if !room.grow(chunk.len()) {
                return Err(SendError::NoRoom);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Sent { status: answer.status(), headers: answer.take_headers(), body, _room: Some(room) })
    }

    async fn refusal(&self, sent: &HeaderMap, answer: &mut Answer) -> SendError {
        let status = answer.status();
        // Twice of what is kept: a credential must not be cut before it is masked.
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = answer.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(2 * MAX_ERROR_BODY - body.len())]);
            if body.len() >= 2 * MAX_ERROR_BODY {
                break;
            }
        }
        let body = String::from_utf8_lossy(&body);
        let retry_after = asked_pause(status, answer.headers(), &body, self.clock.wall());
        let mut body = self.masked(&body, sent);
        body.truncate(body.floor_char_boundary(MAX_ERROR_BODY));
        let error = SendError::Status { status, retry_after, body };
        match classify::is_foreign(&error, answer.headers(), self.is_api) {
            true => SendError::Foreign { status, body: error.body().to_owned() },
            false => error,
        }
    }

    /// The start of `text` with every credential of this Target replaced, and what `sent` made of it: some
    /// servers answer with the request.
    fn masked(&self, text: &str, sent: &HeaderMap) -> String {
        let sensitive = sent.values().filter(|value| value.is_sensitive());
        let headers = self.headers.values().chain(sensitive).flat_map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            // Without the scheme too: `Basic` and its like.
            let bare = text.rsplit_once(' ').map(|(_, bare)| bare.to_owned());
            // Some take each byte for a character, as RFC 9110 5.5 had it once.
            let bytes = (!text.is_ascii()).then(|| value.as_bytes().iter().map(|byte| char::from(*byte)).collect());
            [Some(text), bare, bytes].into_iter().flatten()
        });
        self.masks.apply(text.trim(), MAX_ERROR_BODY, headers)
    }
}

/// Whether the credential was refused: by 401, or as Azure DevOps does it.
fn was_refused(sent: &Result<Sent, SendError>) -> bool {
    match sent {
        Ok(sent) => sent.status == StatusCode::NON_AUTHORITATIVE_INFORMATION,
        Err(error) => matches!(error, SendError::Status { status: StatusCode::UNAUTHORIZED, .. }),
    }
}

/// A header value that is left out of debug output and of HTTP/2's compression tables.
pub fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Basic authentication; `None` when the header cannot carry it.
pub fn basic(user: &[u8], password: &[u8]) -> Option<HeaderValue> {
    let pair = base64::engine::general_purpose::STANDARD.encode([user, b":", password].concat());
    sensitive(&format!("Basic {pair}"))
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

/// `request` as it goes to `url`, with what every request says.
fn outgoing(request: &Request, url: &Url, timeout: Duration) -> reqwest::Request {
    let mut url = url.clone();
    // A user in the address is sent as a header, and never to a proxy.
    let user = user(&url);
    if user.is_some() {
        let _ = (url.set_username(""), url.set_password(None));
    }
    let mut outgoing = reqwest::Request::new(request.method.clone(), url);
    *outgoing.timeout_mut() = Some(timeout);
    if request.method != Method::GET {
        *outgoing.body_mut() = Some(request.body.clone().into());
    }
    *outgoing.headers_mut() = request.headers.clone();
    let headers = outgoing.headers_mut();
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    // Without it a server may compress (RFC 9110 12.5.3); what does so all the same is understood.
    headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
    if let Some(user) = user {
        headers.entry(AUTHORIZATION).or_insert(user);
    }
    outgoing
}

/// A good answer whose body nobody needs.
async fn ignored(mut answer: Answer) -> Sent {
    let (status, headers) = (answer.status(), answer.take_headers());
    let mut left = MAX_IGNORED;
    let rest = async {
        while let Ok(Some(chunk)) = answer.chunk().await
            && chunk.len() <= left
        {
            left -= chunk.len();
        }
    };
    // The answer is good, whatever becomes of its body.
    let _ = tokio::time::timeout(IGNORED_TIMEOUT, rest).await;
    Sent { status, headers, body: Vec::new(), _room: None }
}

/// The user and the password of an address, for basic authentication.
fn user(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let plain = |text| percent_decode_str(text).collect::<Vec<_>>();
    basic(&plain(url.username()), &plain(url.password().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_request_says() {
        let url = |text: &str| Url::parse(text).expect("valid");
        let of = |request: Request| {
            let outgoing = outgoing(&request, &request.url, Duration::from_secs(1));
            let header = |name| outgoing.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let body = outgoing.body().and_then(|body| body.as_bytes()).map_or(0, <[u8]>::len);
            assert_eq!(header(ACCEPT_ENCODING).as_deref(), Some("identity"));
            (outgoing.url().to_string(), header(AUTHORIZATION), header(ACCEPT), header(USER_AGENT), body)
        };
        let any = || (Some("*/*".to_owned()), Some(AGENT.to_owned()));
        let (accept, agent) = any();
        let plain = Request::get(url("https://host/a?b=c#d"));
        assert_eq!(of(plain), ("https://host/a?b=c#d".into(), None, accept, agent, 0));

        // The base64 of "me@home:p:w".
        let (accept, agent) = any();
        let named = Request::post_json(url("http://me%40home:p%3Aw@host:81/a"), b"{}".to_vec());
        let basic = Some("Basic bWVAaG9tZTpwOnc=".to_owned());
        assert_eq!(of(named.clone()), ("http://host:81/a".into(), basic, accept, agent, 2));

        let ours = named.authorization(&HeaderValue::from_static("Bearer t")).header(ACCEPT, "text/x");
        let (_, authorization, accept, ..) = of(ours);
        assert_eq!((authorization, accept), (Some("Bearer t".into()), Some("text/x".into())));
    }

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
