//! Runs a checked expression, within a budget.

use std::sync::Arc;

use super::functions::{self, Function, Outcome};
use super::value::{List, Map, Value};
use super::{EvalError, MAX_STEPS, no_such_overload, pattern};
use crate::pattern::Pattern;

/// What is left to do of an expression once its names and types are known.
#[derive(Debug)]
pub(super) enum Node {
    Constant(Value<'static>),
    /// A variable, by its place: those declared first, then those of macros from the outside in.
    Variable(usize),
    /// `a.b` and `a.?b`.
    Select {
        of: Box<Node>,
        field: Arc<str>,
        optional: bool,
    },
    /// `a[b]` and `a[?b]`.
    Index {
        of: Box<Node>,
        key: Box<Node>,
        optional: bool,
    },
    /// `has(a.b)`
    Has {
        of: Box<Node>,
        field: Arc<str>,
    },
    /// `&&` if false decides, `||` if true does.
    Logic {
        terms: Vec<Node>,
        decided_by: bool,
    },
    Choose(Box<[Node; 3]>),
    /// `or` and `orValue`.
    Else {
        name: &'static str,
        parts: Box<[Node; 2]>,
    },
    Call {
        function: &'static Function,
        arguments: Vec<Node>,
    },
    /// `matches` with an expression that is known.
    Matches {
        text: Box<Node>,
        pattern: Arc<Pattern>,
    },
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    /// A macro that goes through a list or the keys of a map: the range, and what is asked of each.
    Each {
        each: Each,
        range: Box<Node>,
        body: Box<Node>,
    },
    /// `optMap`, and `optFlatMap` whose body is optional itself.
    OptionalMap {
        of: Box<Node>,
        body: Box<Node>,
        flat: bool,
    },
}

#[derive(Debug)]
pub(super) enum Each {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    /// A map of those that a condition, the second node, holds for.
    MapIf(Box<Node>),
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What an expression may still cost.
#[derive(Debug)]
pub(super) struct Budget {
    steps: usize,
    /// It began with less than [`MAX_STEPS`].
    short: bool,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self::within(MAX_STEPS)
    }

    /// No more than `steps`, nor than [`MAX_STEPS`].
    pub(super) fn within(steps: usize) -> Self {
        Self { steps: steps.min(MAX_STEPS), short: steps < MAX_STEPS }
    }

    pub(super) fn spend(&mut self, steps: usize) -> Result<(), EvalError> {
        match self.steps.checked_sub(steps) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => {
                self.steps = 0;
                Err(self.out_of_steps())
            }
        }
    }

    /// Lets a search take what it needs of the steps.
    pub(super) fn search<T>(&mut self, search: impl FnOnce(&mut usize) -> T) -> T {
        search(&mut self.steps)
    }

    /// What is left.
    pub(super) fn left(&self) -> usize {
        self.steps
    }

    /// The error of a run that has no steps left.
    pub(super) fn out_of_steps(&self) -> EvalError {
        let message = format!("it takes more than {MAX_STEPS} steps; look at fewer elements or shorter texts");
        EvalError { message, is_short: self.short }
    }

    /// Pays for reading or making so many bytes of text.
    pub(super) fn text(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.spend(1 + bytes / 16)
    }
}

/// Runs `node`; `variables` are those that are declared, in their order.
pub(super) fn run<'a>(node: &Node, variables: Vec<Value<'a>>, steps: &mut usize) -> Outcome<'a> {
    let budget = Budget::within(*steps);
    let before = budget.left();
    let mut runner = Runner { variables, budget };
    let outcome = runner.run(node);
    *steps -= before - runner.budget.left();
    outcome
}

struct Runner<'a> {
    variables: Vec<Value<'a>>,
    budget: Budget,
}

impl<'a> Runner<'a> {
    fn run(&mut self, node: &Node) -> Outcome<'a> {
        self.budget.spend(1)?;
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Variable(place) => match self.variables.get(*place) {
                Some(value) => Ok(value.clone()),
                None => Err(EvalError::new("no such attribute")),
            },
            Node::Select { of, field, optional } => self.select(of, field, *optional),
            Node::Index { of, key, optional } => self.index(of, key, *optional),
            Node::Has { of, field } => self.has(of, field),
            Node::Logic { terms, decided_by } => self.logic(terms.iter(), *decided_by),
            Node::Choose(parts) => self.choose(parts),
            Node::Else { name, parts } => self.otherwise(name, parts),
            Node::Call { function, arguments } => self.call(function, arguments),
            Node::Matches { text, pattern } => self.matches(text, pattern),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Each { each, range, body } => self.each(each, range, body),
            Node::OptionalMap { of, body, flat } => self.optional_map(of, body, *flat),
        }
    }

    fn call(&mut self, function: &Function, arguments: &[Node]) -> Outcome<'a> {
        let values = arguments.iter().map(|argument| self.run(argument)).collect::<Result<Vec<_>, _>>()?;
        (function.run)(&mut self.budget, function.name, &values)
    }

    fn select(&mut self, of: &Node, field: &Arc<str>, optional: bool) -> Outcome<'a> {
        let value = self.run(of)?;
        self.take(value, optional, |_| Ok(Value::String(field.clone())))
    }

    fn index(&mut self, of: &Node, key: &Node, optional: bool) -> Outcome<'a> {
        let value = self.run(of)?;
        self.take(value, optional, |runner| runner.run(key))
    }

    /// What the value, or the one an optional holds, has under a key. The key of nothing is not
    /// asked for.
    fn take(&mut self, value: Value<'a>, optional: bool, key: impl FnOnce(&mut Self) -> Outcome<'a>) -> Outcome<'a> {
        let (value, optional) = match &value {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => (&**inner, true),
            value => (value, optional),
        };
        let key = key(self)?;
        match functions::inside(&mut self.budget, value, &key)? {
            Some(found) if optional => Ok(Value::some(found)),
            Some(found) => Ok(found),
            None if optional => Ok(Value::Optional(None)),
            None => Err(functions::missing(value, &key)),
        }
    }

    fn has(&mut self, of: &Node, field: &Arc<str>) -> Outcome<'a> {
        let value = match self.run(of)? {
            Value::Optional(None) => return Ok(Value::Bool(false)),
            Value::Optional(Some(value)) => (*value).clone(),
            value => value,
        };
        let found = functions::inside(&mut self.budget, &value, &Value::String(field.clone()))?;
        Ok(Value::Bool(found.is_some()))
    }

    /// Goes through the terms until one decides. An error, or a term that is no boolean, counts
    /// only if none does.
    fn logic<'n>(&mut self, terms: impl Iterator<Item = &'n Node>, decided_by: bool) -> Outcome<'a> {
        let mut trouble = None;
        for term in terms {
            match self.run(term) {
                Ok(Value::Bool(bool)) if bool == decided_by => return Ok(Value::Bool(bool)),
                Ok(Value::Bool(_)) => {}
                Ok(value) => {
                    let name = if decided_by { "_||_" } else { "_&&_" };
                    trouble = trouble.or_else(|| Some(no_such_overload(name, &[value])));
                }
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        trouble.map_or(Ok(Value::Bool(!decided_by)), Err)
    }

    fn is_true(&mut self, condition: &Node) -> Result<bool, EvalError> {
        match self.run(condition)? {
            Value::Bool(bool) => Ok(bool),
            value => Err(no_such_overload("_?_:_", &[value])),
        }
    }

    fn choose(&mut self, [condition, yes, no]: &[Node; 3]) -> Outcome<'a> {
        let chosen = if self.is_true(condition)? { yes } else { no };
        self.run(chosen)
    }

    fn otherwise(&mut self, name: &'static str, [first, second]: &[Node; 2]) -> Outcome<'a> {
        match self.run(first)? {
            Value::Optional(None) => self.run(second),
            Value::Optional(Some(value)) if name == "orValue" => Ok((*value).clone()),
            // cel-go lets anything pass that is not optional.
            value => Ok(value),
        }
    }

    fn matches(&mut self, text: &Node, pattern: &Pattern) -> Outcome<'a> {
        match self.run(text)? {
            Value::String(text) => pattern::is_match(&mut self.budget, pattern, &text).map(Value::Bool),
            value => Err(no_such_overload("matches", &[value, Value::from("")])),
        }
    }

    fn list(&mut self, elements: &[(Node, bool)]) -> Outcome<'a> {
        let mut list = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            let value = self.run(element)?;
            list.extend(if *optional { present(value)? } else { Some(value) });
        }
        Ok(list.into())
    }

    fn map(&mut self, entries: &[(Node, Node, bool)]) -> Outcome<'a> {
        let mut map = Vec::with_capacity(entries.len());
        for (key, value, optional) in entries {
            let (key, value) = (self.run(key)?, self.run(value)?);
            if let Some(value) = if *optional { present(value)? } else { Some(value) } {
                functions::insert(&mut self.budget, &mut map, key, value)?;
            }
        }
        Ok(Value::Map(Map::Built(Arc::new(map))))
    }

    /// Runs `body` with one more variable.
    fn with(&mut self, value: Value<'a>, body: &Node) -> Outcome<'a> {
        self.variables.push(value);
        let outcome = self.run(body);
        self.variables.pop();
        outcome
    }

    fn optional_map(&mut self, of: &Node, body: &Node, flat: bool) -> Outcome<'a> {
        match self.run(of)? {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(value)) => {
                let outcome = self.with((*value).clone(), body)?;
                Ok(if flat { outcome } else { Value::some(outcome) })
            }
            value => Err(no_such_overload("hasValue", &[value])),
        }
    }

    fn each(&mut self, each: &Each, range: &Node, body: &Node) -> Outcome<'a> {
        let list = match self.run(range)? {
            Value::List(list) => list,
            Value::Map(map) => {
                self.budget.spend(map.len())?;
                List::Built(Arc::new(map.keys()))
            }
            value => {
                let name = value.type_name();
                return Err(EvalError::new(format!("got '{name}', expected a list or map to go through")));
            }
        };
        let mut kept = Vec::new();
        let mut count = 0;
        let mut trouble = None;
        for element in list.iter() {
            self.budget.spend(1)?;
            match each {
                // As the logical operators: a later element can make up for an error.
                Each::All | Each::Exists => {
                    let decided_by = matches!(each, Each::Exists);
                    self.variables.push(element);
                    let outcome = self.logic(std::iter::once(body), decided_by);
                    self.variables.pop();
                    match outcome {
                        Ok(Value::Bool(bool)) if bool == decided_by => return Ok(Value::Bool(bool)),
                        Err(error) => trouble = trouble.or(Some(error)),
                        Ok(_) => {}
                    }
                }
                Each::ExistsOne => count += usize::from(self.holds_for(element, body)?),
                Each::Filter => {
                    if self.holds_for(element.clone(), body)? {
                        kept.push(element);
                    }
                }
                Each::Map => kept.push(self.with(element, body)?),
                Each::MapIf(condition) => {
                    if self.holds_for(element.clone(), condition)? {
                        kept.push(self.with(element, body)?);
                    }
                }
            }
        }
        match (each, trouble) {
            (_, Some(error)) => Err(error),
            (Each::All, _) => Ok(Value::Bool(true)),
            (Each::Exists, _) => Ok(Value::Bool(false)),
            (Each::ExistsOne, _) => Ok(Value::Bool(count == 1)),
            _ => Ok(kept.into()),
        }
    }

    fn holds_for(&mut self, element: Value<'a>, condition: &Node) -> Result<bool, EvalError> {
        self.variables.push(element);
        let outcome = self.is_true(condition);
        self.variables.pop();
        outcome
    }
}

/// What an optional element or entry adds.
fn present<'a>(value: Value<'a>) -> Result<Option<Value<'a>>, EvalError> {
    match value {
        Value::Optional(optional) => Ok(optional.as_deref().cloned()),
        value => Err(EvalError::new(format!("value of type {} is not optional", value.type_name()))),
    }
}
