//! The types an expression can have before it runs, and when one fits another: the rules of
//! cel-go's checker, with type parameters that are bound as they are met.

use std::fmt;
use std::sync::Arc;

/// Steps of comparing types one expression may take. Types can double with each level of a map
/// literal, and so could the time.
const WORK: usize = 1 << 18;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Something is wrong here and was already said; fits everything.
    Error,
    /// Known only when the expression runs.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    /// The type of a type.
    Meta(Option<Arc<Type>>),
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    /// To be found out.
    Parameter(usize),
}

impl Type {
    pub(super) fn list(of: Type) -> Type {
        Type::List(Arc::new(of))
    }

    pub(super) fn optional(of: Type) -> Type {
        Type::Optional(Arc::new(of))
    }

    pub(super) fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    pub(super) fn of(of: Type) -> Type {
        Type::Meta(Some(Arc::new(of)))
    }

    fn fits_anything(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// What null may stand for.
    fn is_nullable(&self) -> bool {
        matches!(self, Type::Null | Type::Optional(_) | Type::Timestamp | Type::Duration)
    }

    /// The type a signature writes as `text`; capital letters are parameters.
    pub(super) fn parse(text: &str) -> Type {
        if let Some((name, inner)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
            return match (name, inner.split_once(',')) {
                ("map", Some((key, value))) => Type::map(Type::parse(key), Type::parse(value)),
                ("list", _) => Type::list(Type::parse(inner)),
                ("optional_type", _) => Type::optional(Type::parse(inner)),
                ("type", _) => Type::of(Type::parse(inner)),
                _ => Type::Error,
            };
        }
        match text {
            "dyn" => Type::Dyn,
            "null" => Type::Null,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "timestamp" => Type::Timestamp,
            "duration" => Type::Duration,
            "type" => Type::Meta(None),
            _ => match text.as_bytes() {
                [letter @ b'A'..=b'Z'] => Type::Parameter(usize::from(letter - b'A')),
                _ => Type::Error,
            },
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Error => "!error!",
            Type::Dyn => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "timestamp",
            Type::Duration => "duration",
            Type::Meta(None) => "type",
            Type::Meta(Some(of)) => return write!(f, "type({of})"),
            Type::List(of) => return write!(f, "list({of})"),
            Type::Map(key, value) => return write!(f, "map({key}, {value})"),
            Type::Optional(of) => return write!(f, "optional_type({of})"),
            Type::Parameter(number) => return write!(f, "_var{number}"),
        })
    }
}

/// What each type parameter stands for, as far as it is known.
pub(super) struct Bindings {
    bound: Vec<Option<Type>>,
    /// What to put back when types turn out not to fit.
    undo: Vec<(usize, Option<Type>)>,
    work: usize,
}

impl Bindings {
    pub(super) fn new() -> Self {
        Self { bound: Vec::new(), undo: Vec::new(), work: 0 }
    }

    /// Whether the types became too large to go on.
    pub(super) fn is_exhausted(&self) -> bool {
        self.work >= WORK
    }

    pub(super) fn fresh(&mut self) -> Type {
        self.bound.push(None);
        Type::Parameter(self.bound.len() - 1)
    }

    /// `count` fresh parameters in a row; the first of them.
    pub(super) fn fresh_row(&mut self, count: usize) -> usize {
        let first = self.bound.len();
        self.bound.resize(first + count, None);
        first
    }

    /// Whether each of `found` can be given where the one of `wanted` is asked for. Binds what it
    /// must, or nothing.
    pub(super) fn all_fit(&mut self, found: &[Type], wanted: &[Type]) -> bool {
        self.undo.clear();
        let fit =
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| self.fit(found, wanted));
        if !fit {
            while let Some((parameter, before)) = self.undo.pop() {
                self.bound[parameter] = before;
            }
        }
        fit
    }

    /// As [`Self::all_fit`], for one.
    pub(super) fn fits(&mut self, found: &Type, wanted: &Type) -> bool {
        self.all_fit(std::slice::from_ref(found), std::slice::from_ref(wanted))
    }

    /// Counts a step; no more are taken once they are used up.
    fn step(&mut self) -> bool {
        self.work += 1;
        self.work < WORK
    }

    fn bind(&mut self, parameter: usize, to: Type) {
        let before = self.bound[parameter].replace(to);
        self.undo.push((parameter, before));
    }

    fn fit(&mut self, found: &Type, wanted: &Type) -> bool {
        if !self.step() {
            return false;
        }
        if let Type::Parameter(parameter) = wanted {
            let known = self.bound[*parameter].is_some();
            if self.stands_for(*parameter, found) {
                return true;
            }
            if known {
                return false;
            }
        }
        if let Type::Parameter(parameter) = found {
            return self.stands_for(*parameter, wanted);
        }
        if found.fits_anything() || wanted.fits_anything() {
            return true;
        }
        match (found, wanted) {
            (Type::Null, other) | (other, Type::Null) => other.is_nullable(),
            (Type::Meta(_), Type::Meta(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.fit(a, b),
            (Type::Map(a, c), Type::Map(b, d)) => self.fit(a, b) && self.fit(c, d),
            (found, wanted) => found == wanted,
        }
    }

    /// Whether the parameter is, or can be taken for, `meant`.
    fn stands_for(&mut self, parameter: usize, meant: &Type) -> bool {
        if *meant == Type::Parameter(parameter) {
            return true;
        }
        match self.bound[parameter].clone() {
            Some(known) if self.same(meant, &known) => true,
            Some(known) => {
                if !self.fit(meant, &known) {
                    return false;
                }
                let general = if less_specific(meant, &known) { meant.clone() } else { known };
                if self.is_free_of(parameter, &general) {
                    self.bind(parameter, general);
                }
                true
            }
            None if self.is_free_of(parameter, meant) => {
                self.bind(parameter, meant.clone());
                true
            }
            None => false,
        }
    }

    /// Whether two types are equal as they are written.
    fn same(&mut self, a: &Type, b: &Type) -> bool {
        if !self.step() {
            return false;
        }
        match (a, b) {
            (Type::List(a), Type::List(b))
            | (Type::Optional(a), Type::Optional(b))
            | (Type::Meta(Some(a)), Type::Meta(Some(b))) => self.same(a, b),
            (Type::Map(a, c), Type::Map(b, d)) => self.same(a, b) && self.same(c, d),
            (a, b) => a == b,
        }
    }

    /// Whether the parameter does not occur within the type, which would have no end then.
    fn is_free_of(&mut self, parameter: usize, within: &Type) -> bool {
        if !self.step() {
            return false;
        }
        match within {
            Type::Parameter(other) if *other == parameter => false,
            Type::Parameter(other) => match self.bound[*other].clone() {
                Some(known) => self.is_free_of(parameter, &known),
                None => true,
            },
            Type::List(of) | Type::Optional(of) | Type::Meta(Some(of)) => self.is_free_of(parameter, of),
            Type::Map(key, value) => self.is_free_of(parameter, key) && self.is_free_of(parameter, value),
            _ => true,
        }
    }

    /// The type with each bound parameter replaced by what it stands for.
    pub(super) fn resolve(&mut self, of: &Type) -> Type {
        if !self.step() {
            return Type::Dyn;
        }
        match of {
            Type::Parameter(parameter) => match self.bound[*parameter].clone() {
                Some(known) => self.resolve(&known),
                None => of.clone(),
            },
            Type::List(of) => Type::list(self.resolve(of)),
            Type::Optional(of) => Type::optional(self.resolve(of)),
            Type::Meta(Some(of)) => Type::of(self.resolve(of)),
            Type::Map(key, value) => Type::map(self.resolve(key), self.resolve(value)),
            other => other.clone(),
        }
    }

    /// As [`Self::resolve`]; what stays unknown is dyn.
    pub(super) fn settle(&mut self, of: &Type) -> Type {
        open_to_dyn(&self.resolve(of))
    }
}

fn open_to_dyn(of: &Type) -> Type {
    match of {
        Type::Parameter(_) => Type::Dyn,
        Type::List(of) => Type::list(open_to_dyn(of)),
        Type::Optional(of) => Type::optional(open_to_dyn(of)),
        Type::Meta(Some(of)) => Type::of(open_to_dyn(of)),
        Type::Map(key, value) => Type::map(open_to_dyn(key), open_to_dyn(value)),
        other => other.clone(),
    }
}

/// The type of a signature with its own parameters moved to the fresh row that starts at `first`.
pub(super) fn shifted(of: &Type, first: usize) -> Type {
    match of {
        Type::Parameter(number) => Type::Parameter(first + number),
        Type::List(of) => Type::list(shifted(of, first)),
        Type::Optional(of) => Type::optional(shifted(of, first)),
        Type::Meta(Some(of)) => Type::of(shifted(of, first)),
        Type::Map(key, value) => Type::map(shifted(key, first), shifted(value, first)),
        other => other.clone(),
    }
}

/// Of two types that fit: whether the first says no more than the second.
pub(super) fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Parameter(_), _) => true,
        (_, Type::Dyn | Type::Parameter(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => less_specific(a, b),
        (Type::Map(a, c), Type::Map(b, d)) => less_specific(a, b) && less_specific(c, d),
        (Type::Meta(_), Type::Meta(_)) => true,
        (a, b) => a == b,
    }
}
