//! The checks cel-go makes before an expression runs: every name and function is known, types fit,
//! the result is of the type asked for. Turns the tree of `syntax` into what `run` runs. The rules
//! are those of cel-go's checker and of the two validators that Flux turns on (lists and maps hold
//! one type each; clauses of `format` fit their values).

use std::collections::HashMap;
use std::sync::Arc;

use super::functions::{self, Function};
use super::run::{Budget, Each, Node};
use super::strings::{self, Piece};
use super::syntax::{Expr, Kind, qualified_name};
use super::types::{Bindings, Type, less_specific, shifted};
use super::value::Value;
use super::{Problem, ResultType, pattern};

/// Types that have a name in an expression: how it is written there, and what a value of the type
/// says it is.
const NAMED_TYPES: &[(&str, &str, &str)] = &[
    ("bool", "bool", "bool"),
    ("bytes", "bytes", "bytes"),
    ("double", "double", "double"),
    ("google.protobuf.Duration", "duration", "google.protobuf.Duration"),
    ("google.protobuf.Timestamp", "timestamp", "google.protobuf.Timestamp"),
    ("int", "int", "int"),
    ("list", "list(dyn)", "list"),
    ("map", "map(dyn,dyn)", "map"),
    ("null_type", "null", "null_type"),
    ("optional_type", "optional_type(dyn)", "optional_type"),
    ("string", "string", "string"),
    ("type", "type", "type"),
    ("uint", "uint", "uint"),
];

/// cel-go runs these before anything else when their argument is known, and refuses what fails.
const CONVERSIONS: &[&str] =
    &["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];

/// Checks an expression over `variables`, each a map from string to anything.
pub(super) fn check(expr: &Expr, variables: &[&str], result: ResultType) -> Result<Node, Problem> {
    let (node, found) = infer(expr, variables)?;
    let wanted = match result {
        ResultType::String => Type::String,
        ResultType::Bool => Type::Bool,
    };
    if found == wanted {
        return Ok(node);
    }
    let message = format!("CEL expression output type mismatch: expected {wanted}, got {}", output_name(&found));
    Err(Problem::whole(message))
}

/// As [`check`], whatever the result.
pub(super) fn infer(expr: &Expr, variables: &[&str]) -> Result<(Node, Type), Problem> {
    let declared = |name: &&str| ((*name).to_owned(), Type::map(Type::String, Type::Dyn));
    let mut checker = Checker {
        variables: variables.iter().map(declared).collect(),
        declared: variables.len(),
        bindings: Bindings::new(),
        problems: Vec::new(),
        failures: Vec::new(),
        aggregates: Vec::new(),
        formats: Vec::new(),
        patterns: 0,
        states: 0,
        in_format: 0,
        held: HashMap::new(),
    };
    let (node, found) = checker.check(expr);
    let found = checker.bindings.settle(&found);
    if checker.bindings.is_exhausted() {
        return Err(Problem::whole("its types are too large"));
    }
    if checker.problems.is_empty() {
        checker.validate();
    }
    let first = |problems: Vec<Problem>| problems.into_iter().min_by_key(|problem| problem.at);
    match first(checker.problems).or(first(checker.failures)) {
        Some(problem) => Err(problem),
        None => Ok((node, found)),
    }
}

/// A type as cel-go names it when it is not the one that was asked for.
pub(super) fn output_name(of: &Type) -> String {
    match of {
        Type::Null => "null_type".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        Type::List(of) => format!("list({})", output_name(of)),
        Type::Map(key, value) => format!("map({}, {})", output_name(key), output_name(value)),
        Type::Optional(of) => format!("optional_type({})", output_name(of)),
        Type::Meta(Some(of)) => format!("type({})", output_name(of)),
        other => other.to_string(),
    }
}

struct Checker {
    /// In scope, the outermost first; the first ones are declared, the others belong to macros.
    variables: Vec<(String, Type)>,
    declared: usize,
    bindings: Bindings,
    problems: Vec<Problem>,
    /// What fails with the values that are written out; said last.
    failures: Vec<Problem>,
    /// What must be of one type: where each stands, its type, whether it is optional.
    aggregates: Vec<Vec<(usize, Type, bool)>>,
    /// Calls of `format` with all of it written out: where they stand, the text, where the list is.
    formats: Vec<(usize, Arc<str>, usize)>,
    /// Regular expressions so far.
    patterns: usize,
    /// States of all of them.
    states: u32,
    /// Within so many calls of `format`, whose lists and maps may hold anything.
    in_format: usize,
    /// What each list and map in there holds, by where it stands.
    held: HashMap<usize, Vec<(usize, Type)>>,
}

/// Stands where something is wrong; never run.
fn nothing() -> (Node, Type) {
    (Node::List(Vec::new()), Type::Error)
}

impl Checker {
    fn problem(&mut self, at: usize, message: impl Into<String>) {
        self.problems.push(Problem::new(at, message));
    }

    fn check(&mut self, expr: &Expr) -> (Node, Type) {
        match &expr.kind {
            Kind::Literal(value) => {
                let found = match value {
                    Value::Bool(_) => Type::Bool,
                    Value::Int(_) => Type::Int,
                    Value::Uint(_) => Type::Uint,
                    Value::Double(_) => Type::Double,
                    Value::String(_) => Type::String,
                    Value::Bytes(_) => Type::Bytes,
                    _ => Type::Null,
                };
                (Node::Constant(value.clone()), found)
            }
            Kind::Name(name) => self.name(expr.at, name),
            Kind::Select { of, field, optional } => {
                if let Some(found) = qualified_name(expr).and_then(|name| named_type(&name)) {
                    return found;
                }
                let (node, found) = self.select(expr.at, of, *optional);
                (Node::Select { of: Box::new(node), field: field.as_str().into(), optional: *optional }, found)
            }
            Kind::And(terms) => self.logic(terms, false),
            Kind::Or(terms) => self.logic(terms, true),
            Kind::List(elements) => self.list(expr.at, elements),
            Kind::Map(entries) => self.map(expr.at, entries),
            Kind::Call { name, target, arguments } => self.call(expr.at, name, target.as_deref(), arguments),
        }
    }

    fn name(&mut self, at: usize, name: &str) -> (Node, Type) {
        let (in_scope, plain) = match name.strip_prefix('.') {
            Some(plain) => (&self.variables[..self.declared], plain),
            None => (&self.variables[..], name),
        };
        if let Some(place) = in_scope.iter().rposition(|(known, _)| known == plain) {
            return (Node::Variable(place), in_scope[place].1.clone());
        }
        if let Some(found) = named_type(plain) {
            return found;
        }
        self.problem(at, format!("undeclared reference to '{name}' (in container '')"));
        nothing()
    }

    /// What is selected from, and the type of what that gives.
    fn select(&mut self, at: usize, of: &Expr, optional: bool) -> (Node, Type) {
        let (node, found) = self.check(of);
        let found = self.bindings.resolve(&found);
        let (target, optional) = match &found {
            Type::Optional(inner) => (&**inner, true),
            other => (other, optional),
        };
        let selected = match target {
            Type::Map(_, value) => (**value).clone(),
            Type::Parameter(_) => {
                self.bindings.fits(&Type::Dyn, target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.problem(at, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        let selected = if optional { Type::optional(selected) } else { selected };
        (node, self.bindings.resolve(&selected))
    }

    fn logic(&mut self, terms: &[Expr], decided_by: bool) -> (Node, Type) {
        let mut nodes = Vec::with_capacity(terms.len());
        for term in terms {
            let (node, found) = self.check(term);
            self.is_bool(term.at, &found);
            nodes.push(node);
        }
        (Node::Logic { terms: nodes, decided_by }, Type::Bool)
    }

    fn is_bool(&mut self, at: usize, found: &Type) {
        if !self.bindings.fits(found, &Type::Bool) {
            self.problem(at, format!("expected type 'bool' but found '{found}'"));
        }
    }

    /// The type of what holds both.
    fn join(&mut self, before: Option<Type>, found: &Type) -> Type {
        match before {
            None => found.clone(),
            Some(before) if !self.bindings.fits(&before, found) => Type::Dyn,
            Some(before) if less_specific(&before, found) => before,
            Some(_) => found.clone(),
        }
    }

    /// The type of an element or a value; of one that is optional, what it holds.
    fn element(&mut self, expr: &Expr, found: &Type, optional: bool) -> Type {
        match found {
            Type::Optional(inner) if optional => (**inner).clone(),
            other => {
                if optional && !matches!(other, Type::Dyn | Type::Error) {
                    self.problem(expr.at, format!("expected type 'optional_type({other})' but found '{other}'"));
                }
                other.clone()
            }
        }
    }

    fn list(&mut self, at: usize, elements: &[(Expr, bool)]) -> (Node, Type) {
        let mut nodes = Vec::with_capacity(elements.len());
        let mut types = Vec::with_capacity(elements.len());
        let mut joined = None;
        for (element, optional) in elements {
            let (node, found) = self.check(element);
            let inner = self.element(element, &found, *optional);
            joined = Some(self.join(joined, &inner));
            nodes.push((node, *optional));
            types.push((element.at, found, *optional));
        }
        let joined = joined.unwrap_or_else(|| self.bindings.fresh());
        self.aggregate(at, types);
        (known_list(nodes), Type::list(joined))
    }

    fn map(&mut self, at: usize, entries: &[(Expr, Expr, bool)]) -> (Node, Type) {
        let mut nodes = Vec::with_capacity(entries.len());
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let (mut key_type, mut value_type) = (None, None);
        for (key, value, optional) in entries {
            let (key_node, found) = self.check(key);
            key_type = Some(self.join(key_type, &found));
            keys.push((key.at, found, false));
            let (value_node, found) = self.check(value);
            let inner = self.element(value, &found, *optional);
            value_type = Some(self.join(value_type, &inner));
            values.push((value.at, found, *optional));
            nodes.push((key_node, value_node, *optional));
        }
        let key_type = key_type.unwrap_or_else(|| self.bindings.fresh());
        let value_type = value_type.unwrap_or_else(|| self.bindings.fresh());
        self.aggregate(at, keys);
        self.aggregate(at, values);
        (Node::Map(nodes), Type::map(key_type, value_type))
    }

    /// Remembers what a list or map holds, to be looked at once all types are known.
    fn aggregate(&mut self, at: usize, types: Vec<(usize, Type, bool)>) {
        if self.in_format == 0 {
            self.aggregates.push(types);
        } else {
            self.held.entry(at).or_default().extend(types.into_iter().map(|(at, found, _)| (at, found)));
        }
    }

    /// The type that a call gives, by the signatures that fit. Where they disagree it is dyn.
    fn overload(&mut self, at: usize, function: &Function, method: bool, arguments: &[Type]) -> Type {
        let mut result = None;
        for signature in function.signatures.iter().filter(|signature| signature.method == method) {
            let first = self.bindings.fresh_row(signature.parameters);
            let wanted: Vec<_> = signature.arguments.iter().map(|wanted| shifted(wanted, first)).collect();
            if self.bindings.all_fit(arguments, &wanted) {
                let found = self.bindings.resolve(&shifted(&signature.result, first));
                result = Some(match result {
                    None => found,
                    Some(before) if before == found => before,
                    Some(_) => Type::Dyn,
                });
            }
        }
        if let Some(result) = result {
            return result;
        }
        let mut types: Vec<_> = arguments.iter().map(|found| self.bindings.settle(found).to_string()).collect();
        let target = if method { format!("{}.", types.remove(0)) } else { String::new() };
        let types = types.join(", ");
        self.problem(at, format!("found no matching overload for '{}' applied to '{target}({types})'", function.name));
        Type::Error
    }

    /// As [`Self::overload`], of a function that is known to be there.
    fn known(&mut self, at: usize, name: &str, method: bool, arguments: &[Type]) -> Type {
        functions::find(name).map_or(Type::Error, |function| self.overload(at, function, method, arguments))
    }

    fn call(&mut self, at: usize, name: &str, target: Option<&Expr>, arguments: &[Expr]) -> (Node, Type) {
        match (target, name, arguments) {
            (None, "has", [argument]) => return self.has(at, argument),
            (Some(range), "all" | "exists" | "exists_one" | "filter" | "map", [variable, body]) => {
                return self.each(at, name, range, variable, None, body);
            }
            (Some(range), "map", [variable, condition, body]) => {
                return self.each(at, name, range, variable, Some(condition), body);
            }
            (Some(of), "optMap" | "optFlatMap", [variable, body]) => {
                return self.optional_map(at, name, of, variable, body);
            }
            _ => {}
        }
        self.in_format += usize::from(name == "format");
        let found = self.plain_call(at, name, target, arguments);
        self.in_format -= usize::from(name == "format");
        found
    }

    fn plain_call(&mut self, at: usize, name: &str, target: Option<&Expr>, arguments: &[Expr]) -> (Node, Type) {
        let (mut nodes, mut types): (Vec<_>, Vec<_>) = arguments.iter().map(|argument| self.check(argument)).unzip();
        let Some(target) = target else {
            let name = name.trim_start_matches('.');
            return self.resolved(at, name, functions::find(name), false, nodes, &types);
        };
        // `sets.contains` is a function of that name, not a method of `sets`.
        let qualified = qualified_name(target).map(|prefix| format!("{prefix}.{name}"));
        let qualified = qualified.as_deref().map(|name| name.trim_start_matches('.'));
        if let Some(function) = qualified.and_then(functions::find) {
            return self.resolved(at, name, Some(function), false, nodes, &types);
        }
        let (node, found) = self.check(target);
        if let ("format", Kind::Literal(Value::String(text)), [Expr { at: list, kind: Kind::List(_), .. }]) =
            (name, &target.kind, arguments)
        {
            self.formats.push((at, text.clone(), *list));
        }
        nodes.insert(0, node);
        types.insert(0, found);
        self.resolved(at, name, functions::find(name), true, nodes, &types)
    }

    fn resolved(
        &mut self,
        at: usize,
        name: &str,
        function: Option<&'static Function>,
        method: bool,
        nodes: Vec<Node>,
        types: &[Type],
    ) -> (Node, Type) {
        let Some(function) = function else {
            self.problem(at, format!("undeclared reference to '{name}' (in container '')"));
            return nothing();
        };
        let found = self.overload(at, function, method, types);
        if found == Type::Error {
            return nothing();
        }
        (self.node(at, function, nodes), found)
    }

    fn node(&mut self, at: usize, function: &'static Function, arguments: Vec<Node>) -> Node {
        let arguments = match (function.name, <[Node; 3]>::try_from(arguments)) {
            ("_?_:_", Ok(parts)) => return Node::Choose(Box::new(parts)),
            (_, Ok(parts)) => Vec::from(parts),
            (_, Err(arguments)) => arguments,
        };
        let arguments = match (function.name, <[Node; 2]>::try_from(arguments)) {
            (name @ ("or" | "orValue"), Ok(parts)) => return Node::Else { name, parts: Box::new(parts) },
            (name @ ("_[_]" | "_[?_]"), Ok([of, key])) => {
                if let Some(error) = known(&key).and_then(|key| functions::not_a_key(key)) {
                    return self.failure(at, error.to_string());
                }
                return Node::Index { of: Box::new(of), key: Box::new(key), optional: name == "_[?_]" };
            }
            ("matches", Ok([text, Node::Constant(Value::String(expression))])) => {
                self.patterns += 1;
                if self.patterns > pattern::MOST {
                    return self.failure(at, format!("more than {} regular expressions", pattern::MOST));
                }
                self.states += crate::pattern::Pattern::estimate(&expression);
                if self.states > pattern::MOST_STATES {
                    return self
                        .failure(at, format!("regular expressions of more than {} states", pattern::MOST_STATES));
                }
                return match pattern::compile(&expression) {
                    Ok(pattern) => Node::Matches { text: Box::new(text), pattern },
                    Err(message) => self.failure(at, message),
                };
            }
            (_, Ok(parts)) => Vec::from(parts),
            (_, Err(arguments)) => arguments,
        };
        if let ([Node::Constant(value)], true) = (arguments.as_slice(), CONVERSIONS.contains(&function.name)) {
            return match (function.run)(&mut Budget::new(), function.name, std::slice::from_ref(value)) {
                Ok(value) => Node::Constant(value),
                Err(error) => self.failure(at, error.to_string()),
            };
        }
        Node::Call { function, arguments }
    }

    fn failure(&mut self, at: usize, message: String) -> Node {
        self.failures.push(Problem::new(at, message));
        nothing().0
    }

    fn has(&mut self, at: usize, argument: &Expr) -> (Node, Type) {
        let Kind::Select { of, field, optional: false } = &argument.kind else {
            self.problem(argument.at, "invalid argument to has() macro");
            return nothing();
        };
        let (node, _) = self.select(at, of, false);
        (Node::Has { of: Box::new(node), field: field.as_str().into() }, Type::Bool)
    }

    /// A macro over a list or the keys of a map. Types are found as if it were written out as the
    /// loop that cel-go makes of it.
    fn each(
        &mut self,
        at: usize,
        name: &str,
        range: &Expr,
        variable: &Expr,
        condition: Option<&Expr>,
        body: &Expr,
    ) -> (Node, Type) {
        let Kind::Name(variable_name) = &variable.kind else {
            self.problem(variable.at, "argument is not an identifier");
            return nothing();
        };
        if matches!(variable_name.as_str(), "__result__" | "@result") {
            self.problem(variable.at, "iteration variable overwrites accumulator variable");
            return nothing();
        }
        let (range_node, found) = self.check(range);
        let results = Type::list(self.bindings.fresh());
        let found = self.bindings.resolve(&found);
        let element = match &found {
            Type::List(element) => (**element).clone(),
            Type::Map(key, _) => (**key).clone(),
            Type::Dyn | Type::Error | Type::Parameter(_) => {
                self.bindings.fits(&Type::Dyn, &found);
                Type::Dyn
            }
            other => {
                let words = "cannot be range of a comprehension (must be list, map, or dynamic)";
                self.problem(range.at, format!("expression of type '{other}' {words}"));
                Type::Error
            }
        };
        self.variables.push((variable_name.clone(), element.clone()));
        let condition = condition.map(|condition| self.check(condition));
        let (body_node, body_type) = self.check(body);
        self.variables.pop();

        let kept = |checker: &mut Self, element: &Type| {
            let appended = checker.known(at, "_+_", false, &[results.clone(), Type::list(element.clone())]);
            (results.clone(), appended)
        };
        let (each, found) = match (name, condition) {
            ("all" | "exists", _) => {
                self.is_bool(body.at, &body_type);
                (if name == "all" { Each::All } else { Each::Exists }, Type::Bool)
            }
            ("exists_one", _) => {
                self.known(at, "_?_:_", false, &[body_type, Type::Int, Type::Int]);
                (Each::ExistsOne, Type::Bool)
            }
            ("filter", _) => {
                let (results, appended) = kept(self, &element);
                self.known(at, "_?_:_", false, &[body_type, appended, results.clone()]);
                (Each::Filter, results)
            }
            (_, Some((condition_node, condition_type))) => {
                let (results, appended) = kept(self, &body_type);
                self.known(at, "_?_:_", false, &[condition_type, appended, results.clone()]);
                (Each::MapIf(Box::new(condition_node)), results)
            }
            (_, None) => {
                let (results, _) = kept(self, &body_type);
                (Each::Map, results)
            }
        };
        let found = self.bindings.resolve(&found);
        (Node::Each { each, range: Box::new(range_node), body: Box::new(body_node) }, found)
    }

    fn optional_map(&mut self, at: usize, name: &str, of: &Expr, variable: &Expr, body: &Expr) -> (Node, Type) {
        let Kind::Name(variable_name) = &variable.kind else {
            self.problem(variable.at, format!("{name}() variable name must be a simple identifier"));
            return nothing();
        };
        let flat = name == "optFlatMap";
        let (node, found) = self.check(of);
        self.known(at, "hasValue", true, std::slice::from_ref(&found));
        let value = self.known(at, "value", true, &[found]);
        self.variables.push((variable_name.clone(), value));
        let (body_node, body_type) = self.check(body);
        self.variables.pop();
        let full = if flat { body_type } else { self.known(at, "optional.of", false, &[body_type]) };
        let empty = self.known(at, "optional.none", false, &[]);
        let found = self.known(at, "_?_:_", false, &[Type::Bool, full, empty]);
        (Node::OptionalMap { of: Box::new(node), body: Box::new(body_node), flat }, found)
    }

    /// What cel-go looks at once the types are all known.
    fn validate(&mut self) {
        for aggregate in std::mem::take(&mut self.aggregates) {
            let mut first = None;
            for (at, found, optional) in aggregate {
                let found = match self.bindings.settle(&found) {
                    Type::Optional(inner) if optional => (*inner).clone(),
                    other if optional => {
                        // cel-go panics at this.
                        self.problem(at, format!("expected type 'optional_type({other})' but found '{other}'"));
                        break;
                    }
                    other => other,
                };
                let first = first.get_or_insert_with(|| found.clone());
                if *first != found {
                    self.problem(at, format!("expected type '{first}' but found '{found}'"));
                    break;
                }
            }
        }
        for (at, text, list) in std::mem::take(&mut self.formats) {
            self.validate_format(at, &text, list);
        }
    }

    fn validate_format(&mut self, at: usize, text: &str, list: usize) {
        let values = self.held.get(&list).cloned().unwrap_or_default();
        let mut next = 0;
        for piece in strings::pieces(text) {
            let (verb, broken) = match piece {
                Piece::Text(_) => continue,
                Piece::Clause { verb, .. } => (verb, None),
                Piece::Broken(what) => (' ', Some(what)),
            };
            let Some((value_at, found)) = values.get(next) else {
                return self.problem(at, format!("index {next} out of range"));
            };
            next += 1;
            if let Some(what) = broken {
                return self.problem(at, what);
            }
            if !self.clause_takes(verb, *value_at, found) {
                return;
            }
        }
        let given = values.len();
        if given > next {
            self.problem(at, format!("too many arguments supplied to string.format (expected {next}, got {given})"));
        }
    }

    /// Whether a clause can print a value of the type, with all that is written out within it.
    fn clause_takes(&mut self, verb: char, at: usize, found: &Type) -> bool {
        let found = self.bindings.settle(found);
        if let Some(refusal) = strings::refusal(verb, running_name(&found)).filter(|_| found != Type::Dyn) {
            self.problem(at, refusal);
            return false;
        }
        let held = self.held.get(&at).cloned().unwrap_or_default();
        verb != 's' || held.iter().all(|(at, found)| self.clause_takes(verb, *at, found))
    }
}

/// The value of a node that has one before anything runs.
fn known(node: &Node) -> Option<&Value<'static>> {
    match node {
        Node::Constant(value) => Some(value),
        _ => None,
    }
}

/// A list; made at once if all of it is known.
fn known_list(elements: Vec<(Node, bool)>) -> Node {
    let values = elements.iter().map(|(node, optional)| known(node).filter(|_| !optional).cloned());
    match values.collect::<Option<Vec<_>>>() {
        Some(values) => Node::Constant(values.into()),
        None => Node::List(elements),
    }
}

fn named_type(name: &str) -> Option<(Node, Type)> {
    let (_, text, running) = NAMED_TYPES.iter().find(|(known, ..)| *known == name)?;
    Some((Node::Constant(Value::Type(running)), Type::of(Type::parse(text))))
}

/// The name a value of the type gives when it runs.
fn running_name(of: &Type) -> &'static str {
    match of {
        Type::Error | Type::Dyn | Type::Parameter(_) => "dyn",
        Type::Null => "null_type",
        Type::Bool => "bool",
        Type::Int => "int",
        Type::Uint => "uint",
        Type::Double => "double",
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Timestamp => "google.protobuf.Timestamp",
        Type::Duration => "google.protobuf.Duration",
        Type::Meta(_) => "type",
        Type::List(_) => "list",
        Type::Map(..) => "map",
        Type::Optional(_) => "optional_type",
    }
}
