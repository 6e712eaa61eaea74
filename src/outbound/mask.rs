//! The texts of a Provider that must not be read, to be blotted out of what a server answers: some
//! answer with the request. Collected by `delivery::resolve` when the Provider or a Secret of it
//! changes, applied by [`Target`](super::Target) to the little of an error's body that is logged.

use base64::Engine;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::secret::Secret;

/// Shorter ones would blot out ordinary words, and are no secrets.
pub const SHORTEST: usize = 4;

/// Of a Secret's key that is no credential by its name, shorter values are taken for settings.
pub const SHORTEST_OTHER: usize = 8;

/// A part of an address' path this long is a key, not a name.
const PATH_KEY: usize = 16;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Masks(Vec<Secret>);

impl Masks {
    /// A text of at least `shortest` bytes.
    pub fn text(&mut self, text: &str, shortest: usize) {
        let text = text.trim();
        if text.len() >= shortest && !self.0.iter().any(|known| known.expose() == text) {
            self.0.push(Secret::new(text));
        }
    }

    /// User and password, as they are and as a Basic header has them.
    pub fn pair(&mut self, user: &str, password: &str) {
        self.text(user, SHORTEST);
        self.text(password, SHORTEST);
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.text(&basic, SHORTEST_OTHER);
    }

    /// An address, and of its parts those that can be credentials: user, password, what stands in the
    /// query, and long parts of the path.
    pub fn address(&mut self, address: &str) {
        self.text(address, SHORTEST_OTHER);
        for part in address.split(['/', '?', '&', '=', '#', '@', ':']) {
            self.text(part, PATH_KEY);
        }
        let Ok(url) = Url::parse(address.trim()) else { return };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = (url.username(), url.password().unwrap_or_default());
        if !user.is_empty() || !password.is_empty() {
            self.pair(user, password);
            self.pair(&decoded(user), &decoded(password));
        }
        for (_, value) in url.query_pairs() {
            self.text(&value, SHORTEST);
        }
        for part in url.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')) {
            self.text(part.1, SHORTEST);
        }
    }

    /// The same text with all of them blotted out, and `more` besides.
    pub fn apply<'a>(&'a self, text: &str, more: impl Iterator<Item = &'a str>) -> String {
        let more = more.filter(|secret| secret.len() >= SHORTEST);
        let mut secrets: Vec<&str> = self.0.iter().map(Secret::expose).chain(more).collect();
        // One may be a part of another.
        secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret, "*****"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_of_an_address_can_be_a_credential() {
        let mut masks = Masks::default();
        masks.address("https://us%20er:pa%2Fss@example.org/hook/T0123456789ABCDEF?key=k3y1&x=1");
        let text = |text: &str| masks.apply(text, std::iter::empty());
        assert_eq!(
            text("example.org hook us%20er us er pa%2Fss pa/ss T0123456789ABCDEF key=k3y1 x=1"),
            "example.org hook ***** ***** ***** ***** ***** key=***** x=1"
        );
        // The base64 of `us er:pa/ss`.
        assert_eq!(text("Basic dXMgZXI6cGEvc3M="), "Basic *****");
        assert!(!format!("{masks:?}").contains("k3y1"));
    }

    #[test]
    fn longer_ones_go_first() {
        let mut masks = Masks::default();
        masks.text("abcd", SHORTEST);
        masks.text("abcd-efgh", SHORTEST);
        masks.text("xyz", SHORTEST);
        assert_eq!(masks.apply("abcd-efgh abcd xyz more", ["more"].into_iter()), "***** ***** xyz *****");
    }
}
