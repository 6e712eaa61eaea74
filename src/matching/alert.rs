//! An Alert made ready for matching, once per change of the object. Made by `cluster`, kept in
//! the `AlertIndex`, read by `pipeline` and `reconcile`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::effort::{Effort, NeedsMore};
use super::filter::{Bad, Filter, Over};
use super::selector::Selector;
use super::sources::{self, Source, Sources};
use crate::api::{Alert, Event, Key};
use crate::pattern::Exhausted;

/// Bytes of a message that expressions look at.
const LOOKED_AT: usize = 16 << 10;

/// An Alert with everything compiled that an event will ask of it.
#[derive(Debug)]
pub struct CompiledAlert {
    /// Namespace and name.
    pub key: Key,
    /// The object's UID.
    pub uid: Arc<str>,
    /// The generation this was made from.
    pub generation: i64,
    /// The Provider that is told: always one of the Alert's own namespace.
    pub provider: Key,
    /// The objects it listens to.
    pub sources: Vec<Source>,
    /// The objects it listens to while they carry certain labels.
    pub labelled: Vec<(Source, Selector)>,
    /// Added to the metadata of each event.
    pub event_metadata: BTreeMap<String, String>,
    /// Sent as metadata `summary`.
    pub summary: Option<String>,
    /// Suspended Alerts match nothing.
    pub suspended: bool,
    /// What is wrong with the spec.
    pub problems: Vec<Problem>,
    /// Our own annotations (`herald.sh/…`).
    pub annotations: BTreeMap<String, String>,
    /// Metadata keys that more than one layer of an event gives, each with the layers, from the first
    /// event that showed any: users are told once of each generation.
    pub conflicts: OnceLock<BTreeMap<String, Vec<&'static str>>>,
    /// What its condition says of expressions that took too long, from the first event that showed any.
    pub over: OnceLock<String>,
    /// The object as JSON text, for the expression of its Provider.
    pub object: Arc<str>,
    severity: Severity,
    filter: Filter,
}

/// Something a user must mend in the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The condition's reason.
    pub reason: &'static str,
    /// The field, what is wrong, and what to do.
    pub message: String,
    /// Whether the Alert can never work as it is written.
    pub terminal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// Everything, also severities Flux does not know.
    Info,
    /// Only `error`.
    Error,
}

impl CompiledAlert {
    /// Compiles; never fails. What is wrong is in `problems`, and the rest works.
    pub fn new(alert: &Alert) -> Self {
        Self::within(alert, u32::MAX)
    }

    /// The same with what is left of the states that expressions of the Alert's namespace may have.
    pub fn within(alert: &Alert, share: u32) -> Self {
        let spec = &alert.spec;
        let key = alert.meta.key.clone();
        let mut problems = Vec::new();
        let mut problem = |reason, terminal, message| problems.push(Problem { reason, message, terminal });

        let (filter, bad) = Filter::compile(&spec.inclusion_list, &spec.exclusion_list, share);
        for Bad { excludes, position, error } in bad {
            let (field, consequence) = consequence(excludes);
            problem(
                "InvalidExpression",
                true,
                format!(
                    "spec.{field}[{position}] is not a regular expression: {error}; {consequence} until it is mended"
                ),
            );
        }

        if spec.provider_ref.name.is_empty() {
            problem("InvalidSpec", true, "spec.providerRef.name is empty; name a Provider of this namespace".into());
        }
        let severity = match spec.event_severity.as_str() {
            "error" => Severity::Error,
            "info" => Severity::Info,
            other => {
                problem("InvalidSpec", true, format!("spec.eventSeverity is {other:?}; it can be info or error"));
                Severity::Error
            }
        };
        let Sources { plain: sources, labelled } = sources::read(&spec.event_sources, &key, &mut problems);
        Self {
            uid: alert.meta.uid.clone(),
            generation: alert.meta.generation,
            provider: Key { namespace: key.namespace.clone(), name: spec.provider_ref.name.as_str().into() },
            key,
            sources,
            labelled,
            event_metadata: spec.event_metadata.clone(),
            summary: spec.summary.clone().filter(|summary| !summary.is_empty()),
            suspended: spec.suspend,
            problems,
            annotations: alert.meta.annotations.clone(),
            conflicts: OnceLock::new(),
            over: OnceLock::new(),
            object: alert.object.clone(),
            severity,
            filter,
        }
    }

    /// States of its expressions.
    pub fn states(&self) -> u32 {
        self.filter.states()
    }

    /// Whether this Alert listens to events of this severity at all.
    pub fn listens(&self, event: &Event) -> bool {
        !self.suspended && (self.severity == Severity::Info || event.severity == "error")
    }

    /// Whether this Alert, whose source names the event's object, wants the event.
    ///
    /// # Errors
    /// Its lists need more steps than are left here, and there are more elsewhere. There, an expression without
    /// steps counts as a bad one.
    pub fn wants(&self, event: &Event, effort: &mut Effort) -> Result<bool, NeedsMore> {
        if !self.listens(event) {
            return Ok(false);
        }
        let verdict = self.filter.admits(beginning(&event.message), effort.of(&self.key.namespace));
        if let Some(over) = verdict.over {
            effort.exceeded()?;
            if self.over.set(self.explain(over)).is_ok() {
                effort.note(&self.key);
            }
        }
        Ok(verdict.admits)
    }

    fn explain(&self, Over { excludes, position, why }: Over) -> String {
        let (field, consequence) = consequence(excludes);
        match why {
            Exhausted::Alone => format!(
                "spec.{field}[{position}] takes too long for a message ({why}); {consequence} until the Alert is \
                 changed: write it with fewer repetitions"
            ),
            Exhausted::Together => format!(
                "the expressions of namespace {} take too long for one event, and for some events spec.{field}[{position}] \
                 is left out: use fewer Alerts with lists, or simpler expressions",
                self.key.namespace
            ),
        }
    }

    /// The objects whose labels have to be known for this Alert; none while it is suspended.
    pub fn selected_by_label(&self) -> impl Iterator<Item = &Source> {
        self.labelled.iter().filter(|_| !self.suspended).map(|(source, _)| source)
    }
}

/// The field of a list, and what becomes of an expression there that cannot be used.
fn consequence(excludes: bool) -> (&'static str, &'static str) {
    if excludes { ("exclusionList", "it excludes nothing") } else { ("inclusionList", "it matches nothing") }
}

/// What expressions look at.
fn beginning(message: &str) -> &str {
    let end = (0..=LOOKED_AT.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    &message[..end.unwrap_or_default()]
}
