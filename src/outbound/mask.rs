//! The texts of a Provider that must not be read, to be blotted out of what a server answers: some
//! answer with the request. Collected by `delivery::resolve` when the Provider or a Secret of it
//! changes, applied by [`Target`](super::Target) to the little of an error's body that is logged.
//!
//! Whoever answers with the request quotes it in the way of the format he answers in, or of several, one
//! in the other. So text and masks are compared in a plain form, in which each of these ways gives the same:
//! backslashes are left out, `\uXXXX`, `&#34;` and `%22` are what they mean, and all white space is one space.

use std::ops::Range;
use std::sync::Arc;

use base64::Engine;
use percent_encoding::percent_decode_str;
use url::Url;

use super::MAX_ERROR_BODY;
use crate::secret::Secret;

/// Shorter ones would blot out ordinary words, and are no secrets.
pub const SHORTEST: usize = 4;

/// Of a Secret's key that is no credential by its name, shorter values are taken for settings.
pub const SHORTEST_OTHER: usize = 8;

/// A part of an address' path this long is a key, not a name.
const PATH_KEY: usize = 16;

/// How often one way of quoting is undone that stands in another: JSON in JSON in a page is three.
const MAX_NESTING: usize = 8;

/// Bytes of a text that are kept: no more of an answer is looked at.
const LONGEST: usize = 2 * MAX_ERROR_BODY;

/// Bytes that one way of quoting may take for one sign, at which an answer may have been cut.
const LONGEST_QUOTED: usize = 12;

/// See the module. What comes of a Secret is shared by the Providers that name it.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    own: Vec<Mask>,
    shared: Vec<Arc<Masks>>,
}

#[derive(Clone)]
struct Mask {
    written: Secret,
    /// The bytes of the plain form.
    plain: Arc<[u8]>,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("*****")
    }
}

impl Mask {
    fn new(text: &str) -> Self {
        Self { written: Secret::new(text), plain: Plain::of(text).0.iter().map(|(byte, _)| *byte).collect() }
    }
}

impl Masks {
    /// A text of at least `shortest` bytes. Of a long one the first 8 KiB count.
    pub fn text(&mut self, text: &str, shortest: usize) {
        let text = text.trim();
        let text = &text[..text.floor_char_boundary(LONGEST)];
        if text.len() >= shortest && !self.own.iter().any(|known| known.written.expose() == text) {
            self.own.push(Mask::new(text));
        }
    }

    /// All of another's.
    pub fn share(&mut self, other: Arc<Masks>) {
        self.shared.push(other);
    }

    fn all(&self) -> impl Iterator<Item = &Mask> {
        self.own.iter().chain(self.shared.iter().flat_map(|shared| &shared.own))
    }

    /// Bytes that these take in memory, without those that are shared.
    #[cfg(test)]
    fn size(&self) -> usize {
        self.own.iter().map(|mask| mask.written.expose().len() + mask.plain.len() + size_of::<Mask>()).sum()
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

    /// What comes of the first `limit` bytes of a text with all of them blotted out, and `more` besides. The
    /// text behind them is looked at too: a credential is blotted out whole or not at all.
    pub fn apply(&self, text: &str, limit: usize, more: impl Iterator<Item = String>) -> String {
        let more: Vec<Mask> = more.filter(|secret| secret.len() >= SHORTEST).map(|secret| Mask::new(&secret)).collect();
        let plain = Plain::of(text);
        let mut spans: Vec<Range<usize>> = Vec::new();
        for Mask { written, plain: mask } in self.all().chain(&more) {
            spans.extend(text.match_indices(written.expose()).map(|(at, found)| at..at + found.len()));
            // What is left of a few signs could stand in any word.
            if mask.len() >= SHORTEST {
                spans.extend(plain.spans_of(mask));
            }
            // The answer may have been cut within it.
            if text.len() > limit {
                spans.extend(plain.beginning_at_end(mask).map(|start| start..text.len()));
            }
        }
        spans.sort_unstable_by_key(|span| span.start);
        let limit = text.floor_char_boundary(limit);
        let (mut masked, mut told) = (String::with_capacity(limit), 0);
        for span in spans.into_iter().filter(|span| span.start < limit) {
            // One may be a part of another, or begin in it.
            if span.start >= told {
                masked.push_str(&text[told..span.start]);
                masked.push_str("*****");
            }
            told = told.max(span.end);
        }
        masked.push_str(text.get(told..limit).unwrap_or_default());
        masked
    }
}

/// A text in its plain form: each byte with where in the text it comes from.
struct Plain(Vec<(u8, Range<usize>)>);

impl Plain {
    fn of(text: &str) -> Self {
        // Each byte of a character comes from the whole of it: a span never ends within one.
        let bytes = text.char_indices().flat_map(|(at, sign)| {
            let whole = at..at + sign.len_utf8();
            text.as_bytes()[whole.clone()].iter().map(move |byte| (*byte, whole.clone()))
        });
        let mut plain = Self(bytes.collect());
        for _ in 0..MAX_NESTING {
            let before = plain.0.len();
            plain = plain.unquoted();
            if plain.0.len() == before {
                break;
            }
        }
        plain
    }

    /// The same with one way of quoting undone.
    fn unquoted(&self) -> Self {
        let bytes: Vec<u8> = self.0.iter().map(|(byte, _)| *byte).collect();
        let mut plain: Vec<(u8, Range<usize>)> = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let (length, means) = meaning(&bytes[at..]);
            let span = self.0[at].1.start..self.0[at + length - 1].1.end;
            match means {
                Meaning::Nothing => {}
                // Any number of these is one.
                Meaning::Space => match plain.last_mut() {
                    Some((b' ', before)) => before.end = span.end,
                    _ => plain.push((b' ', span)),
                },
                Meaning::Byte(byte) => plain.push((byte, span)),
                Meaning::Sign(sign) => {
                    let mut room = [0; 4];
                    plain.extend(sign.encode_utf8(&mut room).bytes().map(|byte| (byte, span.clone())));
                }
            }
            at += length;
        }
        Self(plain)
    }

    /// Where in its text this one has those bytes.
    fn spans_of<'a>(&'a self, other: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
        let same = move |window: &&[(u8, Range<usize>)]| window.iter().zip(other).all(|(one, other)| one.0 == *other);
        let span = |window: &[(u8, Range<usize>)]| Some(window.first()?.1.start..window.last()?.1.end);
        self.0.windows(other.len().max(1)).filter(same).filter_map(span)
    }

    /// Where in its text those bytes begin, when the text ends before they do.
    fn beginning_at_end(&self, other: &[u8]) -> Option<usize> {
        let earliest = self.0.len().saturating_sub(other.len() + LONGEST_QUOTED);
        let is_beginning = |start: &usize| {
            let left = &self.0[*start..];
            let same = left.iter().zip(other).take_while(|(one, other)| one.0 == **other).count();
            same >= SHORTEST_OTHER && same + LONGEST_QUOTED >= left.len()
        };
        (earliest..self.0.len()).find(is_beginning).map(|start| self.0[start].1.start)
    }
}

/// What a quoted sign stands for.
enum Meaning {
    Nothing,
    Space,
    Byte(u8),
    Sign(char),
}

/// How many bytes at the beginning of these are one sign, and what it means.
fn meaning(bytes: &[u8]) -> (usize, Meaning) {
    match bytes[0] {
        b'\\' => {
            // As many as there are: quoted again, each is two.
            let run = bytes.iter().take_while(|byte| **byte == b'\\').count();
            match bytes.get(run) {
                Some(b'n' | b'r' | b't' | b'f' | b'b') => (run + 1, Meaning::Space),
                Some(b'u') => match hex(bytes, run + 1, 4) {
                    Some(high @ 0xD800..0xDC00) => {
                        let rest = bytes.get(run + 5..).unwrap_or_default();
                        let again = rest.iter().take_while(|byte| **byte == b'\\').count();
                        let low = if rest.get(again) == Some(&b'u') { hex(rest, again + 1, 4) } else { None };
                        match low.filter(|low| (0xDC00..0xE000).contains(low)) {
                            Some(low) => {
                                let sign = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                                (run + 5 + again + 5, Meaning::Sign(char::from_u32(sign).unwrap_or_default()))
                            }
                            None => (run, Meaning::Nothing),
                        }
                    }
                    Some(code) => sign(run + 5, code),
                    None => (run, Meaning::Nothing),
                },
                Some(b'x') => hex(bytes, run + 1, 2).map_or((run, Meaning::Nothing), |code| sign(run + 3, code)),
                _ => (run, Meaning::Nothing),
            }
        }
        b'%' => match hex(bytes, 1, 2) {
            Some(code) => (3, Meaning::Byte(code as u8)),
            None => (1, Meaning::Byte(b'%')),
        },
        b'&' => entity(bytes).unwrap_or((1, Meaning::Byte(b'&'))),
        b'+' | b' ' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => (1, Meaning::Space),
        other => (1, Meaning::Byte(other)),
    }
}

fn sign(length: usize, code: u32) -> (usize, Meaning) {
    (length, char::from_u32(code).map_or(Meaning::Nothing, Meaning::Sign))
}

/// The number that `digits` hexadecimal digits are.
fn hex(bytes: &[u8], at: usize, digits: usize) -> Option<u32> {
    let text = std::str::from_utf8(bytes.get(at..at + digits)?).ok()?;
    text.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u32::from_str_radix(text, 16).ok())?
}

/// A character reference of HTML.
fn entity(bytes: &[u8]) -> Option<(usize, Meaning)> {
    /// `&#x10FFFF;`, with zeros before it.
    const LONGEST: usize = 12;
    let end = bytes.iter().take(LONGEST).position(|byte| *byte == b';')?;
    let name = std::str::from_utf8(&bytes[1..end]).ok()?;
    let code = match name {
        "amp" => u32::from(b'&'),
        "lt" => u32::from(b'<'),
        "gt" => u32::from(b'>'),
        "quot" => u32::from(b'"'),
        "apos" => u32::from(b'\''),
        _ => match name.strip_prefix('#')?.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => name[1..].parse().ok()?,
        },
    };
    Some(sign(end + 1, code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_of_an_address_can_be_a_credential() {
        let mut masks = Masks::default();
        masks.address("https://us%20er:pa%2Fss@example.org/hook/T0123456789ABCDEF?key=k3y1&x=1");
        let text = |text: &str| masks.apply(text, usize::MAX, std::iter::empty());
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
        let masked = masks.apply("abcd-efgh abcd xyz more", usize::MAX, ["more".to_owned()].into_iter());
        assert_eq!(masked, "***** ***** xyz *****");
    }

    const NASTY: &str = "h1\"d\\d/e&n<p>a+s's é\u{1F600} %41\\nw\\";

    fn json(text: &str) -> String {
        serde_json::to_string(text).expect("text always encodes")
    }

    /// As Go's encoding/json.
    fn go(text: &str) -> String {
        json(text).replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
    }

    /// As Go's html/template and most others.
    fn html(text: &str) -> String {
        let quoted = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        quoted.replace('"', "&#34;").replace('\'', "&#x27;").replace('+', "&#43;")
    }

    /// As Python's json.dumps, by default.
    fn ascii(text: &str) -> String {
        let units = |sign: char| sign.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect();
        json(text).chars().map(|sign| if sign.is_ascii() { sign.to_string() } else { units(sign) }).collect()
    }

    fn slashes(text: &str) -> String {
        json(text).replace('/', "\\/")
    }

    fn percent(text: &str) -> String {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    }

    fn form(text: &str) -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().to_lowercase()
    }

    #[test]
    fn whatever_way_it_is_quoted() {
        let ways: [fn(&str) -> String; 8] = [str::to_owned, json, go, html, ascii, slashes, percent, form];
        let mut masks = Masks::default();
        masks.text(NASTY, SHORTEST);
        for (number, way) in ways.iter().enumerate() {
            for (inner, other) in ways.iter().enumerate() {
                let answer = format!("<b>you sent {} again", way(&other(NASTY)));
                let masked = masks.apply(&answer, usize::MAX, std::iter::empty());
                assert!(masked.starts_with("<b>you sent ") && masked.contains("*****"), "{number} {inner}: {masked}");
                let left = ["h1", "é", "nw"].into_iter().find(|part| masked.contains(part));
                assert_eq!(left, None, "{number} {inner}: {masked} of {answer}");
            }
        }
        assert_eq!(
            masks.apply("h1 dden &amp; 100% \\ of é", usize::MAX, std::iter::empty()),
            "h1 dden &amp; 100% \\ of é"
        );
    }

    #[test]
    fn a_credential_longer_than_the_answer_that_is_read_is_blotted_out() {
        let signs = |seed: usize| (0..20_000).map(move |at| char::from(b'a' + (at * at / 7 + at * seed) as u8 % 26));
        let long: String = signs(3).collect();
        let mut masks = Masks::default();
        masks.text(&long, SHORTEST);
        for (before, way) in [(0, percent as fn(&str) -> String), (3_000, json), (4_000, str::to_owned), (4_090, ascii)]
        {
            let answer = "-".repeat(before) + &way(&long);
            // Where it is cut, in a way of quoting or not.
            for length in LONGEST - 7..=LONGEST {
                let masked = masks.apply(&answer[..length], MAX_ERROR_BODY, std::iter::empty());
                assert!(masked.ends_with("*****") && masked.len() <= before + 6, "{before} {length}: {masked}");
            }
        }
        let other: String = signs(4).take(5_000).collect();
        assert_eq!(masks.apply(&other, 4_000, std::iter::empty()), other[..4_000]);
    }

    #[test]
    fn a_value_takes_no_more_memory_than_what_is_ever_blotted_out() {
        let mut masks = Masks::default();
        masks.text(&"x".repeat(900_000), SHORTEST_OTHER);
        assert!(masks.size() <= 2 * LONGEST + 100, "{}", masks.size());
        let shared = Arc::new(masks);
        let mut one = Masks::default();
        one.share(shared.clone());
        assert_eq!(one.size(), 0);
        assert_eq!(one.apply("so: xxxxxxxxx", 100, std::iter::empty()), "so: xxxxxxxxx");
        let mut short = Masks::default();
        short.text("planted", SHORTEST);
        one.share(Arc::new(short));
        assert_eq!(one.apply("so: planted", 100, std::iter::empty()), "so: *****");
    }

    #[test]
    fn what_is_cut_is_no_part_of_a_credential() {
        let mut masks = Masks::default();
        masks.text("planted/credential", SHORTEST);
        let answer = format!("é {0} planted\\/credential", "planted%2Fcredential".repeat(3));
        for limit in 0..=answer.len() {
            let masked = masks.apply(&answer, limit, std::iter::empty());
            assert!(!masked.contains('p') && masked.len() <= answer.len(), "{limit}: {masked}");
        }
    }
}
