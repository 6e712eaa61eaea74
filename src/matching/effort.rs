//! How much the expressions of tenants may do for one event. An ordinary event stays far below [`INLINE`], and is
//! judged on the thread that took it. What needs more is judged by `compute`, within a share for each namespace.
//! Made by `pipeline`, spent by the lists of Alerts and by `commitStatusExpr`.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::api::Key;

/// Steps that one event may take on the thread that took it: about a millisecond. A step is some 50 ns.
const INLINE: usize = 20_000;

/// Steps that the Alerts of one namespace may take for one event elsewhere: about 30 ms.
const NAMESPACE: usize = 600_000;

/// What is left for one event.
#[derive(Debug)]
pub struct Effort {
    /// `None` elsewhere.
    inline: Option<usize>,
    namespaces: HashMap<Arc<str>, usize>,
    over: Vec<Key>,
}

/// The event needs more steps than the thread that took it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event needs more steps than the thread that took it has")]
pub struct NeedsMore;

impl Effort {
    /// For the thread that took the event.
    pub fn inline() -> Self {
        Self { inline: Some(INLINE), namespaces: HashMap::new(), over: Vec::new() }
    }

    /// For a thread of its own.
    pub fn elsewhere() -> Self {
        Self { inline: None, ..Self::inline() }
    }

    /// What is left for the Alerts of a namespace.
    pub fn of(&mut self, namespace: &Arc<str>) -> &mut usize {
        match &mut self.inline {
            Some(left) => left,
            None => self.namespaces.entry_ref(&**namespace).or_insert(NAMESPACE),
        }
    }

    /// Called where steps ran out.
    ///
    /// # Errors
    /// There are more elsewhere.
    pub fn exceeded(&self) -> Result<(), NeedsMore> {
        if self.inline.is_some() { Err(NeedsMore) } else { Ok(()) }
    }

    /// Notes an Alert whose condition has to say now that its expressions took too long.
    pub(super) fn note(&mut self, alert: &Key) {
        self.over.push(alert.clone());
    }

    /// The Alerts that were noted.
    pub fn over(&self) -> &[Key] {
        &self.over
    }
}
