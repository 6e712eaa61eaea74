//! Text that must never print, and the masking of such text in errors.
//!
//! Every credential is a [`Secret`] from the watch that brought it to the header that carries
//! it. Used by `view`, `delivery::resolve`, `outbound` and `vendors`.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

/// A credential. `Debug` and `Display` print `*****`; memory is zeroed on drop.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps `text` as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself. Call it only where it goes onto the wire.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("*****")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("*****")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

/// What a person may see of an address: scheme, host and port. User info, path and query can be
/// credentials (webhook addresses are), so they stay out of logs, errors and conditions.
pub fn printable_origin(url: &url::Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{}://{host}:{port}", url.scheme()),
        (Some(host), None) => format!("{}://{host}", url.scheme()),
        (None, _) => format!("{}:", url.scheme()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new("t0k-very-secret");
        assert_eq!(format!("{secret} {secret:?}"), "***** *****");
        assert_eq!(secret.expose(), "t0k-very-secret");
    }

    #[test]
    fn an_origin_keeps_nothing_that_could_be_a_credential() {
        let url = url::Url::parse("https://user:pass@example.org:8443/hook/T0K?key=1").expect("valid");
        assert_eq!(printable_origin(&url), "https://example.org:8443");
    }
}
