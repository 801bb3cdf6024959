//! Small models of the protocols of `tenure`, each searched state by state.
//!
//! A test shows that one schedule is harmless; a model shows it of every schedule up to its bounds. So each
//! protocol that rests on an argument about *order* has one here, one file per story:
//!
//! | model | story |
//! |---|---|
//! | [`mod@line`] | places, hand-offs, the claim window, dead and late waiters |
//! | [`ambiguity`] | lost, late and repeated requests against withdrawal |
//! | [`fence`] | fencing tokens, failover, and a resource that refuses the stale |
//! | [`lease`] | arithmetic of validity under delay, drift and suspension |
//! | [`quorum`] | a majority of nodes: its tokens, nodes that forget, renewals |
//!
//! A model that cannot fail proves nothing. Each therefore takes an optional *mutant*, one planted error of a
//! kind that real lock libraries had, and the tests demand that the search finds it. Each also names states
//! that must be *reachable*, so that a model in which nothing can happen does not pass for a safe one.
//!
//! The search is [`stateright`]'s, breadth first. Two of its habits (0.31) shape this crate: a later find of a
//! block of 1,500 states replaces an earlier and shorter one, so [`shortest`] searches again below each find;
//! and its `eventually` overlooks cycles, so *never stuck* is stated as an invariant about fair continuations.
//!
//! `cargo run --release -p tenure-models -- --large` searches wider bounds than the tests do.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;

use stateright::report::Reporter;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

pub mod ambiguity;
pub mod fence;
pub mod lease;
pub mod line;
pub mod quorum;

/// A model whose whole state space can be searched: everything that the checker asks of one, in one name.
pub trait Story:
    Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<M> Story for M where
    M: Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What a search of a whole state space found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How many different states are reachable.
    pub states: usize,
    /// The actions that lead to a state in which the named invariant is broken.
    pub broken: BTreeMap<&'static str, Vec<String>>,
    /// What must be reachable, and is not.
    pub unreached: Vec<&'static str>,
}

impl Outcome {
    /// Whether every invariant holds in every state, and everything is reachable that must be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty() && self.unreached.is_empty()
    }
}

/// Searches all states of a model, on one thread, so that a run is the same each time.
pub fn search<M: Story>(model: &M) -> Outcome {
    outcome(&model.clone().checker().finish_when(never()).spawn_bfs().join())
}

/// Searches all states of a model on so many threads, and reports on the way.
pub fn search_and_report<M: Story>(
    model: &M,
    threads: usize,
    reporter: &mut (impl Reporter<M> + Send),
) -> Outcome {
    let search = model.clone().checker().finish_when(never()).threads(threads);
    outcome(&search.spawn_bfs().join_and_report(reporter))
}

/// Finds the shortest run that breaks one invariant, as the list of its actions; `None` if there is none.
pub fn shortest<M: Story>(model: &M, invariant: &'static str) -> Option<Vec<String>> {
    let mut found: Option<Vec<String>> = None;
    loop {
        let mut search = model.clone().checker().finish_when(HasDiscoveries::AnyOf([invariant].into()));
        if let Some(run) = &found {
            // The checker counts states, and skips those at its target: this allows for one action less.
            search = search.target_max_depth(run.len() + 1);
        }
        match search.spawn_bfs().join().discovery(invariant) {
            Some(run) => found = Some(actions(&run)),
            None => return found,
        }
    }
}

/// A condition to finish early that is never met: all states are wanted, broken or not.
fn never() -> HasDiscoveries {
    HasDiscoveries::AllOf(["no property has this name"].into())
}

fn outcome<M: Story>(checker: &impl Checker<M>) -> Outcome {
    let discoveries = checker.discoveries();
    let properties = checker.model().properties();
    let (reachability, invariants): (Vec<_>, Vec<_>) =
        properties.iter().partition(|property| property.expectation == Expectation::Sometimes);
    Outcome {
        states: checker.unique_state_count(),
        broken: invariants
            .iter()
            .filter_map(|property| Some((property.name, actions(discoveries.get(property.name)?))))
            .collect(),
        unreached: reachability
            .iter()
            .map(|property| property.name)
            .filter(|name| !discoveries.contains_key(name))
            .collect(),
    }
}

fn actions<S: Clone + PartialEq, A: Clone + Debug + PartialEq>(path: &Path<S, A>) -> Vec<String> {
    path.clone().into_actions().iter().map(|action| format!("{action:?}")).collect()
}
