//! Go's spelling of regular expressions, turned into Rust's.
//!
//! The expressions of an Alert were written for Flux, where Go's package `regexp` reads them. It
//! and the crate `regex` are of one family and differ in details that nobody would notice before
//! an event is missed: `\d` is ASCII in Go, `\<` a plain `<`, `[a&&b]` has no intersection.
//! Called by `matching::filter` when an Alert changes, and by `cel` for `matches`.
//!
//! The rules are those of Go's `regexp/syntax` with its Perl flags, as `regexp.Compile` applies
//! them; <https://pkg.go.dev/regexp/syntax> describes them. What is written for Rust is plainer
//! than what was read. Flags are resolved here, each piece carries those it needs, so the two
//! sides need not agree on how far a flag reaches. No group captures, and no repetition is lazy:
//! whether there is a match depends on neither, and that is all that is asked.
//!
//! What still differs: the tables are those of Unicode 16 (Go 1.26: 15), so characters of 2023 and
//! later can be letters here and nothing there; `(?i)\p{LC}` has U+0345 here; groups nest less deep
//! ([`HEIGHT_LIMIT`]), and an expression may be larger than `filter` lets it become.

use std::fmt::Write;

/// Most copies of one piece that repetitions inside repetitions may ask for; Go's number.
const COPIES_LIMIT: u32 = 1000;

/// Deepest nesting of groups and repetitions. Go allows 1000; this stays within what `regex`
/// parses by default, each level being a group, an alternation and a sequence there.
const HEIGHT_LIMIT: u32 = 80;

/// States that a Unicode class becomes, about; and what reading one costs, in members of a class, with regard to case
/// and without: `regex` folds it character by character.
const UNICODE_CLASS: Cost = Cost { states: 500, reading: 4 };
const FOLDED_READING: u32 = 40;

/// States that a class with members outside of ASCII becomes for each range.
const RANGE_STATES: u32 = 6;

/// Characters of a range that cost as much to fold as one member of a class to read.
const FOLDED_AT_ONCE: u32 = 2048;

/// Characters of an expression that an error quotes.
const QUOTE_LIMIT: usize = 60;

/// A class without members, and the class of everything.
const NOTHING: &str = r"[^\x00-\x{10FFFF}]";
const ANYTHING: &str = r"[\x00-\x{10FFFF}]";

/// Not between a word and what is none, in ASCII. Alone, `(?-u:\B)` also holds between the bytes
/// of one character, and a search for `é|\B` stumbles over that; the first half holds at every
/// character and nowhere else.
const NO_BOUNDARY: &str = r"(?:(?:\b|\B)(?-u:\B))";

/// The names of `[[:alpha:]]` and its like; all of them ASCII in Go and in Rust.
const POSIX: &str = "alnum alpha ascii blank cntrl digit graph lower print punct space upper word xdigit";

/// The categories of `\p{…}`, each with its other names, as Go compares them: see [`property`].
const CATEGORIES: [&str; 38] = [
    "c other",
    "cc control cntrl",
    "cf format",
    "cn unassigned",
    "co privateuse",
    "cs surrogate",
    "l letter",
    "lc casedletter",
    "ll lowercaseletter",
    "lm modifierletter",
    "lo otherletter",
    "lt titlecaseletter",
    "lu uppercaseletter",
    "m mark combiningmark",
    "mc spacingmark",
    "me enclosingmark",
    "mn nonspacingmark",
    "n number",
    "nd decimalnumber digit",
    "nl letternumber",
    "no othernumber",
    "p punctuation punct",
    "pc connectorpunctuation",
    "pd dashpunctuation",
    "pe closepunctuation",
    "pf finalpunctuation",
    "pi initialpunctuation",
    "po otherpunctuation",
    "ps openpunctuation",
    "s symbol",
    "sc currencysymbol",
    "sk modifiersymbol",
    "sm mathsymbol",
    "so othersymbol",
    "z separator",
    "zl lineseparator",
    "zp paragraphseparator",
    "zs spaceseparator",
];

/// The scripts of `\p{…}`. Go 1.26 finds none whose name has two words: it looks for
/// `Old_Italic` as `Olditalic`.
const SCRIPTS: &str = "adlam ahom arabic armenian avestan balinese bamum batak bengali bhaiksuki bopomofo brahmi \
    braille buginese buhid carian chakma cham cherokee chorasmian common coptic cuneiform cypriot cyrillic deseret \
    devanagari dogra duployan elbasan elymaic ethiopic georgian glagolitic gothic grantha greek gujarati gurmukhi han \
    hangul hanunoo hatran hebrew hiragana inherited javanese kaithi kannada katakana kawi kharoshthi khmer khojki \
    khudawadi lao latin lepcha limbu lisu lycian lydian mahajani makasar malayalam mandaic manichaean marchen \
    medefaidrin miao modi mongolian mro multani myanmar nabataean nandinagari newa nko nushu ogham oriya osage osmanya \
    palmyrene phoenician rejang runic samaritan saurashtra sharada shavian siddham sinhala sogdian soyombo sundanese \
    syriac tagalog tagbanwa takri tamil tangsa tangut telugu thaana thai tibetan tifinagh tirhuta toto ugaritic vai \
    vithkuqi wancho yezidi yi";

/// An expression of the crate `regex`, and what it will cost.
#[derive(Debug, PartialEq, Eq)]
pub struct Translated {
    /// As `regex` spells it.
    pub text: String,
    /// Known before anything is compiled.
    pub cost: Cost,
}

/// An estimate of what an expression takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// States of its automaton, repetitions written out.
    pub states: u32,
    /// Time to read its classes, in members of a class; some 10 us each with `(?i)`, less without.
    pub reading: u32,
}

/// The expression of the crate `regex` that matches the texts `go` matches in Go.
///
/// # Errors
/// Why Go refuses it: Go's words, and the piece they are about.
pub fn translate(go: &str) -> Result<Translated, String> {
    let mut parser = Parser::new(go);
    parser.expression()?;
    parser.settle();
    let cost = Cost { states: parser.here.states, reading: parser.reading };
    if parser.outer.is_empty() {
        Ok(Translated { text: parser.out, cost })
    } else {
        refuse("missing closing )", go, "")
    }
}

/// Refuses the piece of the expression that begins at `from` and ends before `rest`.
fn refuse<T>(cause: &str, from: &str, rest: &str) -> Result<T, String> {
    let piece = from.strip_suffix(rest).unwrap_or(from);
    if piece.is_empty() {
        return Err(cause.to_owned());
    }
    let mut quoted: String = piece.chars().take(QUOTE_LIMIT).collect();
    if quoted.len() < piece.len() {
        quoted.push('…');
    }
    Err(format!("{cause}: `{quoted}`"))
}

/// What `(?i)`, `(?m)` and `(?s)` set. `(?U)` only turns greedy into lazy, so nothing keeps it.
#[derive(Clone, Copy, Default)]
struct Flags {
    fold: bool,
    multi_line: bool,
    dot_all: bool,
}

/// Something a repetition can stand behind.
#[derive(Clone, Copy)]
struct Atom {
    /// Where it begins in what was written.
    start: usize,
    /// Whether it ends in a repetition already, so that another needs a group around it.
    repeated: bool,
    weight: Weight,
    /// See [`Cost::states`].
    states: u32,
}

/// What the limits look at.
#[derive(Clone, Copy)]
struct Weight {
    copies: u32,
    height: u32,
}

impl Weight {
    /// Of nothing yet, and of a single atom.
    const NONE: Self = Self { copies: 1, height: 0 };
    const ATOM: Self = Self { copies: 1, height: 1 };

    fn max(self, other: Self) -> Self {
        Self { copies: self.copies.max(other.copies), height: self.height.max(other.height) }
    }
}

/// A group that is still open, or the whole expression.
#[derive(Clone, Copy)]
struct Group {
    start: usize,
    /// In force again when it closes.
    flags_outside: Flags,
    /// What a repetition would repeat; none at the beginning and behind `|`.
    last: Option<Atom>,
    /// The heaviest piece before `last`.
    weight: Weight,
    /// States of everything before `last`.
    states: u32,
}

struct Parser<'a> {
    whole: &'a str,
    /// What was not read yet.
    rest: &'a str,
    out: String,
    flags: Flags,
    /// See [`Cost::reading`].
    reading: u32,
    /// Of the class that was read last.
    class_cost: Cost,
    here: Group,
    /// The groups around `here`, outermost first.
    outer: Vec<Group>,
}

impl<'a> Parser<'a> {
    fn new(whole: &'a str) -> Self {
        let flags = Flags::default();
        let here = Group { start: 0, flags_outside: flags, last: None, weight: Weight::NONE, states: 0 };
        Self {
            whole,
            rest: whole,
            out: String::with_capacity(whole.len()),
            flags,
            reading: 0,
            class_cost: Cost::default(),
            here,
            outer: Vec::new(),
        }
    }

    fn expression(&mut self) -> Result<(), String> {
        // The repetition read just now. Go takes `a**` for a mistake, but sees `a*(?i)*` as one
        // repetition of another: something stands between.
        let mut repetition = None;
        while !self.rest.is_empty() {
            let from = self.rest;
            repetition = match self.repetition()? {
                Some((least, most)) => {
                    self.repeat(from, repetition, least, most)?;
                    Some(from)
                }
                None => {
                    self.piece()?;
                    None
                }
            };
        }
        Ok(())
    }

    /// Anything but a repetition.
    fn piece(&mut self) -> Result<(), String> {
        let from = self.rest;
        if from.starts_with("(?") {
            return self.flags_or_group();
        }
        match self.next() {
            Some('(') => self.open(),
            Some(')') => return self.close(),
            Some('|') => {
                self.settle();
                self.out.push('|');
            }
            Some('[') => {
                let class = self.class(from)?;
                self.set(&class);
            }
            Some('.') => self.atom(if self.flags.dot_all { ANYTHING } else { r"[^\n]" }, 2 * RANGE_STATES),
            Some('^') => self.atom(if self.flags.multi_line { "(?m:^)" } else { r"\A" }, 1),
            Some('$') => self.atom(if self.flags.multi_line { "(?m:$)" } else { r"\z" }, 1),
            Some('\\') => return self.escaped(from),
            Some(other) => self.literal(other.into()),
            None => {}
        }
        Ok(())
    }

    /// Outside a class, behind a `\`.
    fn escaped(&mut self, from: &'a str) -> Result<(), String> {
        self.class_cost = Cost::default();
        if let Some(set) = self.escaped_class(from, false)? {
            self.set(&set);
            return Ok(());
        }
        let behind = self.rest;
        match self.next() {
            Some('A') => self.atom(r"\A", 1),
            Some('z') => self.atom(r"\z", 1),
            // ASCII, as `\w` is.
            Some('b') => self.atom(r"(?-u:\b)", 1),
            Some('B') => self.atom(NO_BOUNDARY, 4),
            Some('Q') => {
                let (text, rest) = self.rest.split_once(r"\E").unwrap_or((self.rest, ""));
                self.rest = rest;
                text.chars().for_each(|c| self.literal(c.into()));
            }
            _ => {
                self.rest = behind;
                let code = self.escaped_character(from)?;
                self.literal(code);
            }
        }
        Ok(())
    }

    /// `\d` and its like, and `\pL`, `\p{Greek}`: the same outside a class and in one, where `regex` folds them again
    /// after they were negated.
    fn escaped_class(&mut self, from: &'a str, within: bool) -> Result<Option<String>, String> {
        let behind = self.rest;
        let ascii = match self.next() {
            Some('d') => "[0-9]",
            Some('D') => "[^0-9]",
            Some('s') => r"[\t\n\x0C\r ]",
            Some('S') => r"[^\t\n\x0C\r ]",
            Some('w') => "[0-9A-Za-z_]",
            Some('W') => "[^0-9A-Za-z_]",
            Some(p @ ('p' | 'P')) => return self.unicode_class(from, p == 'P').map(Some),
            _ => {
                self.rest = behind;
                return Ok(None);
            }
        };
        let beyond_ascii = ascii.starts_with("[^");
        let span = if beyond_ascii && within { 0x0010_FFFF } else { 0 };
        self.charge(if beyond_ascii { 4 * RANGE_STATES } else { 1 }, span);
        Ok(Some(ascii.to_owned()))
    }

    fn unicode_class(&mut self, from: &'a str, capital: bool) -> Result<String, String> {
        let behind = self.rest;
        let name = if let Some(braced) = behind.strip_prefix('{') {
            let Some((name, rest)) = braced.split_once('}') else {
                return refuse("invalid character class range", from, "");
            };
            self.rest = rest;
            name
        } else {
            self.next();
            behind.strip_suffix(self.rest).unwrap_or_default()
        };
        let (name, negated) = match name.strip_prefix('^') {
            Some(name) => (name, !capital),
            None => (name, capital),
        };
        match property(name) {
            // Text in UTF-8 has no surrogates, and `regex` has no name for them.
            Some(property) if property == "gc=cs" => Ok(if negated { ANYTHING } else { NOTHING }.to_owned()),
            Some(property) => {
                self.class_cost.states += UNICODE_CLASS.states;
                self.class_cost.reading += if self.flags.fold { FOLDED_READING } else { UNICODE_CLASS.reading };
                Ok(format!(r"\{}{{{property}}}", if negated { 'P' } else { 'p' }))
            }
            None => refuse("invalid character class range", from, self.rest),
        }
    }

    /// One character behind a `\`, as a number: Go also takes surrogates.
    fn escaped_character(&mut self, from: &'a str) -> Result<u32, String> {
        let Some(c) = self.next() else { return refuse("trailing backslash at end of expression", "", "") };
        let code = match c {
            'a' => Some(0x07),
            'f' => Some(0x0C),
            't' => Some(0x09),
            'n' => Some(0x0A),
            'r' => Some(0x0D),
            'v' => Some(0x0B),
            'x' => self.hexadecimal(),
            // One digit alone would be a reference to a group, which neither side has.
            '1'..='7' if !self.rest.starts_with(|c| matches!(c, '0'..='7')) => None,
            '0'..='7' => {
                let mut code = c.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = self.rest.chars().next().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    self.next();
                }
                Some(code)
            }
            punctuation if punctuation.is_ascii() && !punctuation.is_ascii_alphanumeric() => Some(punctuation.into()),
            _ => None,
        };
        code.map_or_else(|| refuse("invalid escape sequence", from, self.rest), Ok)
    }

    /// Behind `\x`: two digits, or any number of them in braces.
    fn hexadecimal(&mut self) -> Option<u32> {
        let first = self.next()?;
        if first != '{' {
            let second = self.next()?;
            return Some(first.to_digit(16)? * 16 + second.to_digit(16)?);
        }
        let mut code = None;
        loop {
            match self.next()? {
                '}' => return code,
                digit => code = Some(code.unwrap_or(0) * 16 + digit.to_digit(16)?).filter(|&code| code <= 0x0010_FFFF),
            }
            code?;
        }
    }

    /// A class, behind its `[`. Its members are written as numbers, so nothing in it can mean
    /// more to Rust than to Go.
    fn class(&mut self, from: &'a str) -> Result<String, String> {
        let negated = self.take("^");
        let mut class = String::from(if negated { "[^" } else { "[" });
        self.class_cost = Cost { states: if negated { 2 * RANGE_STATES } else { 0 }, reading: 0 };
        // A `]` that stands first is a member.
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            first = false;
            let item = self.rest;
            if let Some(named) = self.posix_class()? {
                class.push_str(&named);
                continue;
            }
            if self.take("\\") {
                if let Some(set) = self.escaped_class(item, true)? {
                    class.push_str(&set);
                    continue;
                }
                self.rest = item;
            }
            let low = self.class_character(from)?;
            let mut high = low;
            // In `[a-]` the `-` is a member.
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
                self.next();
                high = self.class_character(from)?;
                if high < low {
                    return refuse("invalid character class range", item, self.rest);
                }
            }
            self.charge(if high < 0x80 { 1 } else { RANGE_STATES }, high - low);
            write_range(&mut class, low, high);
        }
        self.next();
        class.push(']');
        Ok(class)
    }

    /// `[:alpha:]` or `[:^alpha:]`, within a class. A `[:` that nothing closes is two members.
    fn posix_class(&mut self) -> Result<Option<String>, String> {
        let from = self.rest;
        let Some((name, rest)) = from.strip_prefix("[:").and_then(|from| from.split_once(":]")) else {
            return Ok(None);
        };
        if POSIX.split(' ').any(|known| known == name.strip_prefix('^').unwrap_or(name)) {
            self.rest = rest;
            let negated = name.starts_with('^');
            self.charge(if negated { 2 * RANGE_STATES } else { 1 }, if negated { 0x0010_FFFF } else { 0x7F });
            Ok(Some(format!("[:{name}:]")))
        } else {
            refuse("invalid character class range", from, rest)
        }
    }

    fn class_character(&mut self, class: &'a str) -> Result<u32, String> {
        let from = self.rest;
        match self.next() {
            None => refuse("missing closing ]", class, ""),
            Some('\\') => self.escaped_character(from),
            Some(c) => Ok(c.into()),
        }
    }

    /// From `(?` on: flags for the rest of the group, or a group with flags or with a name.
    fn flags_or_group(&mut self) -> Result<(), String> {
        let from = self.rest;
        if let Some(named) = from.strip_prefix("(?P<").or_else(|| from.strip_prefix("(?<")) {
            let Some((name, rest)) = named.split_once('>') else { return refuse("invalid named capture", from, "") };
            if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
                return refuse("invalid named capture", from, rest);
            }
            self.rest = rest;
            self.open();
            return Ok(());
        }
        self.take("(?");
        let mut flags = self.flags;
        let (mut value, mut any) = (true, false);
        while let Some(c) = self.next() {
            match c {
                'i' => flags.fold = value,
                'm' => flags.multi_line = value,
                's' => flags.dot_all = value,
                'U' => {}
                '-' if value => {
                    (value, any) = (false, false);
                    continue;
                }
                ':' | ')' if value || any => {
                    if c == ':' {
                        self.open();
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => break,
            }
            any = true;
        }
        refuse("invalid or unsupported Perl syntax", from, self.rest)
    }

    /// Reads a repetition: the least and the most copies. Braces that hold anything but what Go
    /// counts by (`{,2}`, `{02}`) are text.
    fn repetition(&mut self) -> Result<Option<(u32, Option<u32>)>, String> {
        let from = self.rest;
        let simple = match from.chars().next() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                let Some((least, most, rest)) = counted(from) else { return Ok(None) };
                self.rest = rest;
                if least.max(most.unwrap_or(0)) > COPIES_LIMIT || most.is_some_and(|most| most < least) {
                    return refuse("invalid repeat count", from, rest);
                }
                return Ok(Some((least, most)));
            }
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(simple))
    }

    /// Repeats what stands last; `from` is where the repetition was read, `previous` where the
    /// one directly before it was.
    fn repeat(
        &mut self,
        from: &'a str,
        previous: Option<&'a str>,
        least: u32,
        most: Option<u32>,
    ) -> Result<(), String> {
        let spelled = from.strip_suffix(self.rest).unwrap_or_default();
        self.take("?"); // lazy
        if let Some(previous) = previous {
            return refuse("invalid nested repetition operator", previous, self.rest);
        }
        let Some(mut atom) = self.here.last else {
            return refuse("missing argument to repetition operator", from, self.rest);
        };
        // As Go counts: only the numbers in braces, and what is repeated no times has no copies.
        atom.weight.copies = match most {
            Some(0) => 1,
            most => atom.weight.copies * most.unwrap_or(least).max(1),
        };
        atom.states = match most {
            Some(0) => 1,
            most => atom.states.saturating_add(1).saturating_mul(most.unwrap_or(least).max(1)),
        };
        if atom.weight.copies > COPIES_LIMIT {
            return refuse("invalid repeat count", from, self.rest);
        }
        atom.weight.height += 1;
        check_height(atom.weight)?;
        if atom.repeated {
            self.out.insert_str(atom.start, "(?:");
            self.out.push(')');
        }
        self.out.push_str(spelled);
        atom.repeated = true;
        self.here.last = Some(atom);
        Ok(())
    }

    fn open(&mut self) {
        self.settle();
        let inner =
            Group { start: self.out.len(), flags_outside: self.flags, last: None, weight: Weight::NONE, states: 1 };
        self.outer.push(std::mem::replace(&mut self.here, inner));
        self.out.push_str("(?:");
    }

    fn close(&mut self) -> Result<(), String> {
        self.settle();
        let Some(outer) = self.outer.pop() else { return refuse("unexpected )", self.whole, "") };
        let Group { start, flags_outside, mut weight, states, .. } = std::mem::replace(&mut self.here, outer);
        weight.height += 1;
        check_height(weight)?;
        self.flags = flags_outside;
        self.out.push(')');
        self.here.last = Some(Atom { start, repeated: false, weight, states });
        Ok(())
    }

    /// Nothing that comes now can repeat what stands last.
    fn settle(&mut self) {
        if let Some(atom) = self.here.last.take() {
            self.here.weight = self.here.weight.max(atom.weight);
            self.here.states = self.here.states.saturating_add(atom.states);
        }
    }

    /// Adds what a member of a class costs that spans so many characters.
    fn charge(&mut self, states: u32, span: u32) {
        self.class_cost.states += states;
        self.class_cost.reading += if self.flags.fold { 1 + span / FOLDED_AT_ONCE } else { 1 };
    }

    fn atom(&mut self, text: &str, states: u32) {
        self.settle();
        self.here.last = Some(Atom { start: self.out.len(), repeated: false, weight: Weight::ATOM, states });
        self.out.push_str(text);
    }

    /// A literal or a class, which is what `(?i)` applies to; its cost is in `class_cost`.
    fn set(&mut self, text: &str) {
        let Cost { states, reading } = self.class_cost;
        self.reading = self.reading.saturating_add(reading);
        if self.flags.fold { self.atom(&format!("(?i:{text})"), 2 * states) } else { self.atom(text, states) }
    }

    fn literal(&mut self, code: u32) {
        match char::from_u32(code) {
            Some(c) => {
                self.class_cost = Cost { states: c.len_utf8() as u32, reading: 0 };
                self.set(&regex::escape(c.encode_utf8(&mut [0; 4])));
            }
            None => self.atom(NOTHING, 1),
        }
    }

    fn next(&mut self) -> Option<char> {
        let mut rest = self.rest.chars();
        let c = rest.next();
        self.rest = rest.as_str();
        c
    }

    fn take(&mut self, prefix: &str) -> bool {
        let after = self.rest.strip_prefix(prefix);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }
}

fn check_height(weight: Weight) -> Result<(), String> {
    if weight.height > HEIGHT_LIMIT { refuse("expression nests too deeply", "", "") } else { Ok(()) }
}

/// Reads `{2}`, `{2,}` or `{2,3}`: the least, the most, and what stands behind.
fn counted(from: &str) -> Option<(u32, Option<u32>, &str)> {
    let (least, rest) = number(from.strip_prefix('{')?)?;
    let Some(behind_comma) = rest.strip_prefix(',') else {
        return Some((least, Some(least), rest.strip_prefix('}')?));
    };
    if let Some(rest) = behind_comma.strip_prefix('}') {
        return Some((least, None, rest));
    }
    let (most, rest) = number(behind_comma)?;
    Some((least, Some(most), rest.strip_prefix('}')?))
}

/// A decimal number without leading zeros, and what stands behind it.
fn number(from: &str) -> Option<(u32, &str)> {
    let rest = from.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = from.strip_suffix(rest)?;
    let good = digits == "0" || !digits.is_empty() && !digits.starts_with('0');
    // Past what a number can hold it is as wrong as the largest.
    good.then(|| (digits.parse().unwrap_or(u32::MAX), rest))
}

/// Adds the characters from `low` to `high` to a class. Text in UTF-8 has no surrogates, and
/// `regex` takes none as an end, so a range that ends among them ends beside them.
fn write_range(class: &mut String, low: u32, high: u32) {
    let surrogate = |code| matches!(code, 0xD800..=0xDFFF);
    let low = if surrogate(low) { 0xE000 } else { low };
    let high = if surrogate(high) { 0xD7FF } else { high };
    // Writing to a String cannot fail.
    let _ = if high < low { class.write_str(NOTHING) } else { write!(class, r"\x{{{low:X}}}-\x{{{high:X}}}") };
}

/// The property Go calls `name`, as `regex` spells it. Go compares without case, `_`, `-` and
/// spaces; it knows categories, scripts and three sets more, and no other property.
fn property(name: &str) -> Option<String> {
    let name: String = name.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).collect();
    let name = name.to_ascii_lowercase();
    if let "any" | "assigned" | "ascii" = name.as_str() {
        return Some(name);
    }
    if let Some(category) = CATEGORIES.iter().find(|names| names.split(' ').any(|known| known == name)) {
        return category.split(' ').next().map(|short| format!("gc={short}"));
    }
    SCRIPTS.split(' ').any(|known| known == name).then(|| format!("sc={name}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// What Go 1.26 answered: `regexp.MustCompile(go).MatchString` for each text, or the error.
    #[derive(Deserialize)]
    struct Measured {
        go: String,
        #[serde(default)]
        yes: Vec<String>,
        #[serde(default)]
        no: Vec<String>,
        error: Option<String>,
    }

    /// Measured with a Go program that compiled each expression with Go 1.26.8 `regexp` and asked
    /// it about each text.
    const MEASURED: &str = include_str!("../tests/fixtures/goregex.jsonl");

    fn compile(translated: &str) -> Result<regex::RegexSet, regex::Error> {
        regex::RegexSetBuilder::new([translated]).size_limit(4 << 20).build()
    }

    #[test]
    fn answers_as_go_does() {
        let mut wrong = Vec::new();
        for line in MEASURED.lines() {
            let Measured { go, yes, no, error } = serde_json::from_str(line).unwrap();
            match (translate(&go), error) {
                (Err(ours), Some(theirs)) if ours == theirs => {}
                (Ok(translated), None) => {
                    let set = compile(&translated.text).unwrap();
                    let answers = yes.iter().map(|text| (text, true)).chain(no.iter().map(|text| (text, false)));
                    wrong.extend(
                        answers
                            .filter(|&(text, expected)| set.is_match(text) != expected)
                            .map(|(text, expected)| format!("{go} on {text:?}: Go says {expected}")),
                    );
                }
                (ours, theirs) => wrong.push(format!("{go}: {ours:?}, Go says {theirs:?}")),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(MEASURED.lines().count() > 700);
    }

    #[test]
    fn plain_expressions_stay_readable() {
        assert_eq!(translate("^waiting|timed? out$").unwrap().text, r"\Awaiting|timed? out\z");
        assert_eq!(translate(r"(?i)a(b)\d{2,}?").unwrap().text, "(?i:a)(?:(?i:b))(?i:[0-9]){2,}");
    }

    #[test]
    fn errors_quote_only_the_beginning_of_a_long_piece() {
        assert_eq!(translate(&"é(".repeat(50)).unwrap_err(), format!("missing closing ): `{}…`", "é(".repeat(30)));
    }

    /// The deepest of each kind is the deepest `regex` is asked to read.
    #[test]
    fn nesting_ends_before_regex_gives_up() {
        let kinds = [
            ("(a|b", r"\B(?i)[^\d[:^alpha:]\PL]", "c|d)"),
            ("(?i:", "a", ")*"),
            ("", "a", "*(?i)"),
            ("(a|", r"[^\W]", "b)+(?i)*"),
        ];
        for (before, inside, behind) in kinds {
            let nested = |depth: usize| format!("{}{inside}{}", before.repeat(depth), behind.repeat(depth));
            let deepest = (1..100).take_while(|&depth| translate(&nested(depth)).is_ok()).count();
            assert!((20..100).contains(&deepest), "{before}{inside}{behind}: {deepest}");
            compile(&translate(&nested(deepest)).unwrap().text).unwrap();
            assert_eq!(translate(&nested(deepest + 1)).unwrap_err(), "expression nests too deeply");
        }
    }

    /// Pieces that mean something, in any order: far more of these are accepted than of any text.
    fn expression() -> impl Strategy<Value = String> {
        let pieces: Vec<String> = MEASURED
            .lines()
            .map(|line| serde_json::from_str::<Measured>(line).unwrap().go)
            .filter(|go| go.len() < 8)
            .chain(["(", ")", "|", "[", "]", "*", "{2}", "(?i)", r"\Q", r"\E"].map(str::to_owned))
            .collect();
        prop_oneof![
            prop::collection::vec(prop::sample::select(pieces), 0..8).prop_map(|pieces| pieces.concat()),
            any::<String>(),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_compiles(go in expression()) {
            if let Ok(translated) = translate(&go) {
                let compiled = compile(&translated.text);
                prop_assert!(matches!(compiled, Ok(_) | Err(regex::Error::CompiledTooBig(_))), "{go:?}: {translated:?}");
            }
        }
    }
}
