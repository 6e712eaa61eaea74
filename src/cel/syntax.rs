//! From the text of an expression to a tree. The grammar is that of CEL's language definition with
//! the optional syntax (`a.?b`, `a[?b]`, `[?a]`, `{?a: b}`). Macros stay the calls they are written
//! as; `check` knows them.
//!
//! Depth is bounded here, once, for every walk over the tree that follows.

use super::value::Value;
use super::{MAX_DEPTH, MAX_NESTING, Problem};

/// A node and the byte that an error about it points at.
#[derive(Debug)]
pub(super) struct Expr {
    pub at: usize,
    pub kind: Kind,
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    Literal(Value<'static>),
    /// A name; one with a leading dot is the outermost of that name.
    Name(String),
    Select {
        of: Box<Expr>,
        field: String,
        optional: bool,
    },
    /// Functions, methods and macros; operators under the names cel-go has for them.
    Call {
        name: String,
        target: Option<Box<Expr>>,
        arguments: Vec<Expr>,
    },
    And(Vec<Expr>),
    Or(Vec<Expr>),
    /// Elements, and whether each is optional.
    List(Vec<(Expr, bool)>),
    /// Keys, values, and whether each entry is optional.
    Map(Vec<(Expr, Expr, bool)>),
}

/// Words that cannot name a variable or function.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Longer ones first: the first that fits is taken.
const PUNCTUATION: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}", ".", ",", "?", ":", "+", "-", "*", "/", "%", "!",
    "<", ">",
];

pub(super) fn parse(text: &str) -> Result<Expr, Problem> {
    let tokens = Lexer { text, at: 0 }.tokens()?;
    let mut parser = Parser { tokens, next: 0, nesting: 0 };
    let expr = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("the end")),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token<'t> {
    /// Names and keywords.
    Word(&'t str),
    Int(&'t str),
    Uint(&'t str),
    Double(&'t str),
    String(String),
    Bytes(Vec<u8>),
    Mark(&'static str),
    End,
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn tokens(mut self) -> Result<Vec<(usize, Token<'t>)>, Problem> {
        let mut tokens = Vec::new();
        loop {
            self.skip_blanks();
            let at = self.at;
            let token = self.token()?;
            let end = token == Token::End;
            tokens.push((at, token));
            if end {
                return Ok(tokens);
            }
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest().trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']);
            self.at = self.text.len() - rest.len();
            if !rest.starts_with("//") {
                return;
            }
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn token(&mut self) -> Result<Token<'t>, Problem> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        let second = rest[first.len_utf8()..].chars().next();
        if let Some(token) = self.quoted()? {
            return Ok(token);
        }
        if first.is_ascii_digit() || (first == '.' && second.is_some_and(|c| c.is_ascii_digit())) {
            return Ok(self.number());
        }
        if first.is_ascii_alphabetic() || first == '_' {
            return Ok(Token::Word(self.take(|c| c.is_ascii_alphanumeric() || c == '_')));
        }
        if first == '`' {
            return Err(Problem::new(self.at, "unsupported syntax: '`'"));
        }
        match PUNCTUATION.iter().find(|mark| rest.starts_with(**mark)) {
            Some(mark) => {
                self.at += mark.len();
                Ok(Token::Mark(mark))
            }
            None => Err(Problem::new(self.at, format!("Syntax error: token recognition error at: '{first}'"))),
        }
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn number(&mut self) -> Token<'t> {
        let start = self.at;
        let digit = |c: char| c.is_ascii_digit();
        let hex = self.rest().strip_prefix("0x").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_hexdigit()));
        if hex {
            self.at += 2;
            self.take(|c| c.is_ascii_hexdigit());
        } else {
            let mut double = false;
            self.take(digit);
            if self.rest().strip_prefix('.').is_some_and(|rest| rest.starts_with(digit)) {
                double = true;
                self.at += 1;
                self.take(digit);
            }
            if let Some(exponent) = self.rest().strip_prefix(['e', 'E'])
                && exponent.strip_prefix(['+', '-']).unwrap_or(exponent).starts_with(digit)
            {
                double = true;
                self.at += 1 + usize::from(!exponent.starts_with(digit));
                self.take(digit);
            }
            if double {
                return Token::Double(&self.text[start..self.at]);
            }
        }
        let digits = &self.text[start..self.at];
        if self.rest().starts_with(['u', 'U']) {
            self.at += 1;
            return Token::Uint(digits);
        }
        Token::Int(digits)
    }

    /// A string or bytes, if one starts here.
    fn quoted(&mut self) -> Result<Option<Token<'t>>, Problem> {
        let start = self.at;
        let mut rest = self.rest();
        let mut prefix = |letters: [char; 2]| match rest.strip_prefix(letters) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        };
        let bytes = prefix(['b', 'B']);
        let raw = prefix(['r', 'R']);
        let Some(quote) = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| rest.starts_with(quote)) else {
            return Ok(None);
        };
        let body = &rest[quote.len()..];
        let mut text = Vec::new();
        let mut chars = body.char_indices().peekable();
        let end = loop {
            let Some((at, c)) = chars.next() else {
                return Err(Problem::new(start, "Syntax error: a string that does not end"));
            };
            if body[at..].starts_with(quote) {
                break at;
            }
            match c {
                '\n' | '\r' if quote.len() == 1 => {
                    return Err(Problem::new(start, "Syntax error: a string that does not end on its line"));
                }
                // Line ends of any kind are one.
                '\r' => {
                    chars.next_if(|(_, c)| *c == '\n');
                    text.push(b'\n');
                }
                '\\' if !raw => {
                    let length =
                        escape(&body[at..], bytes, &mut text).map_err(|message| Problem::new(start, message))?;
                    while chars.next_if(|(inside, _)| *inside < at + length).is_some() {}
                }
                c => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        };
        self.at = self.text.len() - body.len() + end + quote.len();
        if bytes {
            return Ok(Some(Token::Bytes(text)));
        }
        let text = String::from_utf8(text).map_err(|_| Problem::new(start, "invalid UTF-8"))?;
        Ok(Some(Token::String(text)))
    }
}

/// Decodes the escape that `text` starts with and says how long it is.
fn escape(text: &str, bytes: bool, into: &mut Vec<u8>) -> Result<usize, String> {
    let invalid = || format!("Syntax error: invalid escape '{}' in a string", text.chars().take(2).collect::<String>());
    let kind = text.chars().nth(1).ok_or_else(invalid)?;
    let (from, digits, radix) = match kind {
        '0'..='3' => (1, 3, 8),
        'x' | 'X' => (2, 2, 16),
        'u' => (2, 4, 16),
        'U' => (2, 8, 16),
        _ => {
            into.push(match kind {
                'a' => 7,
                'b' => 8,
                'f' => 12,
                'n' => b'\n',
                'r' => b'\r',
                't' => b'\t',
                'v' => 11,
                '"' | '\'' | '\\' | '?' | '`' => kind as u8,
                _ => return Err(invalid()),
            });
            return Ok(2);
        }
    };
    let code = text.get(from..from + digits).filter(|code| code.chars().all(|c| c.is_digit(radix)));
    let code = code.and_then(|code| u32::from_str_radix(code, radix).ok()).ok_or_else(invalid)?;
    if bytes {
        if matches!(kind, 'u' | 'U') {
            return Err("unable to unescape string".to_owned());
        }
        into.push(code as u8);
    } else {
        let c = char::from_u32(code).ok_or("invalid unicode code point")?;
        into.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(from + digits)
}

struct Parser<'t> {
    tokens: Vec<(usize, Token<'t>)>,
    next: usize,
    nesting: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> &Token<'t> {
        // The last token is the end, and the end is never passed.
        self.tokens.get(self.next).map_or(&Token::End, |(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(0, |(at, _)| *at)
    }

    fn is(&self, mark: &str) -> bool {
        matches!(self.peek(), Token::Mark(found) if *found == mark)
    }

    fn eat(&mut self, mark: &str) -> bool {
        let found = self.is(mark);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, mark: &str) -> Result<(), Problem> {
        if self.eat(mark) { Ok(()) } else { Err(self.unexpected(&format!("'{mark}'"))) }
    }

    fn unexpected(&self, wanted: &str) -> Problem {
        let found = match self.peek() {
            Token::End => "the end".to_owned(),
            Token::Word(text) | Token::Int(text) | Token::Uint(text) | Token::Double(text) => format!("'{text}'"),
            Token::Mark(mark) => format!("'{mark}'"),
            Token::String(_) | Token::Bytes(_) => "a string".to_owned(),
        };
        Problem::new(self.at(), format!("Syntax error: found {found}, expected {wanted}"))
    }

    /// A node, unless it is too deep.
    fn node(&self, at: usize, kind: Kind) -> Result<Expr, Problem> {
        let deepest = |list: &[Expr]| list.iter().map(|expr| expr.depth).max().unwrap_or(0);
        let below = match &kind {
            Kind::Literal(_) | Kind::Name(_) => 0,
            Kind::Select { of, .. } => of.depth,
            Kind::Call { target, arguments, .. } => {
                deepest(arguments).max(target.as_ref().map_or(0, |target| target.depth))
            }
            Kind::And(terms) | Kind::Or(terms) => deepest(terms),
            Kind::List(elements) => elements.iter().map(|(expr, _)| expr.depth).max().unwrap_or(0),
            Kind::Map(entries) => entries.iter().map(|(key, value, _)| key.depth.max(value.depth)).max().unwrap_or(0),
        };
        if below >= MAX_DEPTH {
            return Err(too_deep(at, MAX_DEPTH));
        }
        Ok(Expr { at, kind, depth: below + 1 })
    }

    fn operator(&self, at: usize, name: &str, arguments: Vec<Expr>) -> Result<Expr, Problem> {
        self.node(at, Kind::Call { name: name.to_owned(), target: None, arguments })
    }

    fn expression(&mut self) -> Result<Expr, Problem> {
        if self.nesting >= MAX_NESTING {
            return Err(too_deep(self.at(), MAX_NESTING));
        }
        self.nesting += 1;
        let mut expr = self.binary(0)?;
        let at = self.at();
        if self.eat("?") {
            let yes = self.binary(0)?;
            self.expect(":")?;
            let no = self.expression()?;
            expr = self.operator(at, "_?_:_", vec![expr, yes, no])?;
        }
        self.nesting -= 1;
        Ok(expr)
    }

    /// What binds at least as tightly as `least`.
    fn binary(&mut self, least: u8) -> Result<Expr, Problem> {
        let mut left = self.unary()?;
        loop {
            let (level, name) = match self.peek() {
                Token::Mark("||") => (0, "||"),
                Token::Mark("&&") => (1, "&&"),
                Token::Mark("<") => (2, "_<_"),
                Token::Mark("<=") => (2, "_<=_"),
                Token::Mark(">") => (2, "_>_"),
                Token::Mark(">=") => (2, "_>=_"),
                Token::Mark("==") => (2, "_==_"),
                Token::Mark("!=") => (2, "_!=_"),
                Token::Word("in") => (2, "@in"),
                Token::Mark("+") => (3, "_+_"),
                Token::Mark("-") => (3, "_-_"),
                Token::Mark("*") => (4, "_*_"),
                Token::Mark("/") => (4, "_/_"),
                Token::Mark("%") => (4, "_%_"),
                _ => return Ok(left),
            };
            if level < least {
                return Ok(left);
            }
            let at = self.at();
            self.next += 1;
            let right = self.binary(level + 1)?;
            // Long chains of these are wide, not deep.
            let kind = match (name, left.kind) {
                ("||", Kind::Or(mut terms)) => {
                    terms.push(right);
                    Kind::Or(terms)
                }
                ("&&", Kind::And(mut terms)) => {
                    terms.push(right);
                    Kind::And(terms)
                }
                (name, kind) => {
                    let left = Expr { kind, ..left };
                    match name {
                        "||" => Kind::Or(vec![left, right]),
                        "&&" => Kind::And(vec![left, right]),
                        _ => Kind::Call { name: name.to_owned(), target: None, arguments: vec![left, right] },
                    }
                }
            };
            left = self.node(at, kind)?;
        }
    }

    fn unary(&mut self) -> Result<Expr, Problem> {
        let at = self.at();
        let (mark, name) = if self.is("!") { ("!", "!_") } else { ("-", "-_") };
        let mut count = 0;
        while self.is(mark) && !(count == 0 && self.is_negative_number()) {
            self.next += 1;
            count += 1;
        }
        let member = self.member()?;
        if count % 2 == 1 { self.operator(at, name, vec![member]) } else { Ok(member) }
    }

    fn is_negative_number(&self) -> bool {
        self.is("-") && matches!(self.tokens.get(self.next + 1), Some((_, Token::Int(_) | Token::Double(_))))
    }

    fn member(&mut self) -> Result<Expr, Problem> {
        let mut expr = self.primary()?;
        loop {
            let at = self.at();
            if self.eat(".") {
                let optional = self.eat("?");
                let Token::Word(word) = *self.peek() else { return Err(self.unexpected("a name")) };
                if matches!(word, "true" | "false" | "null" | "in") {
                    return Err(self.unexpected("a name"));
                }
                let word = word.to_owned();
                self.next += 1;
                let call = self.at();
                expr = if !optional && self.eat("(") {
                    let arguments = self.arguments()?;
                    self.node(call, Kind::Call { name: word, target: Some(Box::new(expr)), arguments })?
                } else {
                    self.node(at, Kind::Select { of: Box::new(expr), field: word, optional })?
                };
            } else if self.eat("[") {
                let name = if self.eat("?") { "_[?_]" } else { "_[_]" };
                let index = self.expression()?;
                self.expect("]")?;
                expr = self.operator(at, name, vec![expr, index])?;
            } else if self.is("{")
                && let Some(name) = qualified_name(&expr)
            {
                // Messages of protocol buffers: no type of them is known here.
                return Err(Problem::new(at, format!("undeclared reference to '{name}' (in container '')")));
            } else {
                return Ok(expr);
            }
        }
    }

    /// Arguments up to the closing parenthesis.
    fn arguments(&mut self) -> Result<Vec<Expr>, Problem> {
        let mut arguments = Vec::new();
        if self.eat(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression()?);
            if self.eat(")") {
                return Ok(arguments);
            }
            self.expect(",")?;
        }
    }

    fn primary(&mut self) -> Result<Expr, Problem> {
        let at = self.at();
        let negative = self.is_negative_number();
        self.next += usize::from(negative);
        let sign = if negative { "-" } else { "" };
        let literal = match self.peek() {
            Token::Int(text) => integer(sign, text).map(Value::Int),
            Token::Uint(text) => unsigned(text).map(Value::Uint),
            Token::Double(text) => {
                let double = format!("{sign}{text}").parse().ok().filter(|double: &f64| double.is_finite());
                double.map(Value::Double).ok_or("invalid double literal")
            }
            Token::String(text) => Ok(Value::from(text.as_str())),
            Token::Bytes(bytes) => Ok(Value::Bytes(bytes.as_slice().into())),
            Token::Word("true") => Ok(Value::Bool(true)),
            Token::Word("false") => Ok(Value::Bool(false)),
            Token::Word("null") => Ok(Value::Null),
            _ => return self.group(at),
        };
        let literal = literal.map_err(|message| Problem::new(at, message))?;
        self.next += 1;
        self.node(at, Kind::Literal(literal))
    }

    /// What is not a literal: names, calls, and what stands in brackets.
    fn group(&mut self, at: usize) -> Result<Expr, Problem> {
        if self.eat("(") {
            let expr = self.expression()?;
            self.expect(")")?;
            return Ok(expr);
        }
        if self.eat("[") {
            let elements = self.items("]", |parser| {
                let optional = parser.eat("?");
                Ok((parser.expression()?, optional))
            })?;
            return self.node(at, Kind::List(elements));
        }
        if self.eat("{") {
            let entries = self.items("}", |parser| {
                let optional = parser.eat("?");
                let key = parser.expression()?;
                parser.expect(":")?;
                Ok((key, parser.expression()?, optional))
            })?;
            return self.node(at, Kind::Map(entries));
        }
        let dot = if self.eat(".") { "." } else { "" };
        let Token::Word(word) = *self.peek() else { return Err(self.unexpected("an expression")) };
        if word == "in" {
            return Err(self.unexpected("an expression"));
        }
        if RESERVED.contains(&word) {
            return Err(Problem::new(at, format!("reserved identifier: {word}")));
        }
        let name = format!("{dot}{word}");
        self.next += 1;
        let call = self.at();
        if self.eat("(") {
            let arguments = self.arguments()?;
            return self.node(call, Kind::Call { name, target: None, arguments });
        }
        self.node(at + dot.len(), Kind::Name(name))
    }

    /// Items up to `end`; a comma may stand after the last, or alone.
    fn items<T>(&mut self, end: &str, item: impl Fn(&mut Self) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
        let mut items = Vec::new();
        loop {
            let lone_comma = items.is_empty() && self.is(",");
            if !lone_comma && !self.is(end) {
                items.push(item(self)?);
            }
            if self.eat(end) {
                return Ok(items);
            }
            self.expect(",")?;
            if items.is_empty() {
                self.expect(end)?;
                return Ok(items);
            }
        }
    }
}

fn too_deep(at: usize, most: usize) -> Problem {
    Problem::new(at, format!("nested deeper than {most}"))
}

fn integer(sign: &str, text: &str) -> Result<i64, &'static str> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|_| "invalid int literal")
}

fn unsigned(text: &str) -> Result<u64, &'static str> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    u64::from_str_radix(digits, radix).map_err(|_| "invalid uint literal")
}

/// `a.b.c` where the expression is nothing but that.
pub(super) fn qualified_name(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Name(name) => Some(name.clone()),
        Kind::Select { of, field, optional: false } => Some(format!("{}.{field}", qualified_name(of)?)),
        _ => None,
    }
}
