//! Credentials that are not in a Secret but made from what is there: an installation's token from a
//! GitHub App's key, an Entra token from a Kubernetes one.
//!
//! `delivery::resolve` finds out which [`Identity`] a Provider has, its vendor says for which host
//! and purpose, and [`Target::send`](super::Target::send) asks the [`Credentials`] that come of it
//! for each request. Nothing is asked of anybody before the first request: resolving dials nothing.

mod azure;
mod cache;
mod github_app;

use futures::future::BoxFuture;
use http::HeaderValue;

pub use self::azure::{Azure, AzureEnvironment, Exchange, ServiceAccount, ServiceAccounts};
pub use self::cache::{Tokens, User, Uses};
pub use self::github_app::{App, GitHubApp};
use super::SendError;

/// Makes a request authorised, and knows when it must renew what it does that with.
pub trait Credentials: Send + Sync {
    /// The `Authorization` of a request made now.
    ///
    /// # Errors
    /// [`SendError::Token`] when there is none to be had.
    fn authorization(&self) -> BoxFuture<'_, Result<HeaderValue, SendError>>;
    /// The vendor refused this one. Unless it is new, it is not given out again.
    fn refused(&self, authorization: &HeaderValue) -> Refused;
}

/// What a refused token was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was issued a moment ago: the same may be accepted soon.
    New,
    /// The one before it was good, as far as is known: another one may be accepted.
    First,
    /// It was issued in place of a refused one.
    Again,
}

/// Who a Provider is at its vendor when its Secret holds no token.
#[derive(Clone)]
pub enum Identity {
    /// A GitHub App.
    GitHubApp(GitHubApp),
    /// An application in Entra, by a token of Kubernetes'.
    Azure(Azure),
}

/// An error of whoever gives out tokens, as what it is to a delivery. When nobody was asked because of a
/// wait, it is the wait's.
fn no_token(from: &'static str, error: SendError) -> SendError {
    match error {
        held @ SendError::Held { .. } => held,
        error => SendError::Token { from, error: Box::new(error) },
    }
}
