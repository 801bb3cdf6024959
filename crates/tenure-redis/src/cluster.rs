//! The nodes of a cluster, and which of them serves a slot.
//!
//! Each node has connections of its own, made when they are first needed. Which node serves which slot is asked when a
//! client begins, and again when it has turned out to be wrong; between the two, what `MOVED` says of single slots is
//! noted on the old map.
//!
//! # Invariants
//! 1. A map is a hint: a node that does not serve a slot refuses the verb, and nothing was applied.
//! 2. A map is asked for at most once at a time for each runtime, and not more often than each [`FRESH`].

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{PushInfo, Value};
use tenure_core::engine::links::{Dial, Links};
use tenure_core::engine::{EngineErrorKind, Trouble};
use tenure_core::lease::{Clock, Moment, SystemClock};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::dial::{self, Part};
use crate::inbox::Inbox;
use crate::link::Dialer;
use crate::options::{Node, RedisOptions};
use crate::reply::Reply;
use crate::survey::{self, Survey};

/// A map that is younger is not asked for anew: the cluster itself needs that long to agree.
const FRESH: Duration = Duration::from_millis(250);

/// How many nodes are asked for the map at the same time.
const ASKED_MAX: usize = 8;

/// The connections to all nodes of a cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    maps: Links<Surveyor>,
    known: Arc<Known>,
}

/// The nodes that were heard of.
struct Known {
    options: RedisOptions,
    inbox: Arc<Inbox>,
    links: Mutex<HashMap<Node, Arc<Links<Dialer>>>>,
    /// Whom to ask for the map.
    nodes: Mutex<Vec<Node>>,
}

/// Which node serves which slot.
pub(crate) struct Map {
    survey: Survey,
    /// What was learnt of single slots since.
    moved: Mutex<HashMap<u16, Node>>,
    made: Moment,
    wrong: AtomicBool,
}

impl Map {
    pub(crate) fn primary_of(&self, slot: u16) -> Result<Node, Trouble> {
        let moved = lock(&self.moved).get(&slot).cloned();
        let primary = moved.or_else(|| self.survey.primary_of(slot).cloned());
        primary.ok_or_else(|| {
            self.doubt();
            Trouble::away(format!("no node of the cluster serves slot {slot}"))
        })
    }

    pub(crate) fn survey(&self) -> &Survey {
        &self.survey
    }

    /// A node has said who serves a slot.
    pub(crate) fn note(&self, slot: u16, node: Node) {
        lock(&self.moved).insert(slot, node);
        self.doubt();
    }

    /// Something does not fit: the next who needs a map asks for it anew, unless this one was made just now. Says
    /// whether that is so.
    pub(crate) fn doubt(&self) -> bool {
        if SystemClock.now().since(self.made) > FRESH {
            self.wrong.store(true, Ordering::Release);
        }
        self.wrong.load(Ordering::Acquire)
    }
}

impl Cluster {
    pub(crate) fn new(options: RedisOptions, seeds: Vec<Node>, inbox: Arc<Inbox>) -> Self {
        let (links, nodes) = (Mutex::default(), Mutex::new(seeds.clone()));
        let known = Arc::new(Known { options, inbox, links, nodes });
        let surveyor = Surveyor { seeds, known: Arc::clone(&known) };
        Self { maps: Links::new(surveyor), known }
    }

    pub(crate) async fn map(&self) -> Result<Arc<Map>, Trouble> {
        self.maps.link().await
    }

    pub(crate) fn links_of(&self, node: &Node) -> Arc<Links<Dialer>> {
        let mut links = lock(&self.known.links);
        if let Some(links) = links.get(node) {
            return Arc::clone(links);
        }
        let (options, inbox) = (self.known.options.of_node(node), Arc::clone(&self.known.inbox));
        let made = Arc::new(Links::new(Dialer::new(options, Part::OfCluster, inbox)));
        links.insert(node.clone(), Arc::clone(&made));
        made
    }
}

impl Known {
    /// Forgets the nodes that have left, and with them their connections, once nobody uses these any more.
    fn keep(&self, survey: &Survey) {
        let nodes = survey.nodes();
        lock(&self.links).retain(|node, _| nodes.contains(node));
        *lock(&self.nodes) = nodes;
    }
}

/// Asks for maps. To [`Links`] a map is what is made once for each runtime, and made anew when it can serve no more.
struct Surveyor {
    /// The nodes that the user named.
    seeds: Vec<Node>,
    known: Arc<Known>,
}

impl Dial for Surveyor {
    type Link = Map;

    async fn dial(&self) -> Result<Map, Trouble> {
        let survey = self.ask_all().await?;
        self.known.keep(&survey);
        let (moved, wrong) = (Mutex::default(), AtomicBool::new(false));
        Ok(Map { survey, moved, made: SystemClock.now(), wrong })
    }

    fn has_ended(map: &Map) -> bool {
        map.wrong.load(Ordering::Acquire)
    }
}

impl Surveyor {
    /// The first answer of a node that thinks its cluster whole; if there is none, the last of one that does not.
    async fn ask_all(&self) -> Result<Survey, Trouble> {
        let mut nodes = lock(&self.known.nodes).clone();
        // Not always the same ones first.
        let from = rand::random::<u16>();
        let middle = usize::from(from) % nodes.len().max(1);
        nodes.rotate_left(middle);
        nodes.extend(self.seeds.iter().filter(|seed| !nodes.contains(seed)).cloned().collect::<Vec<_>>());
        let mut rest = nodes.into_iter();
        let mut asked = JoinSet::new();
        let ask = |asked: &mut JoinSet<_>, node: Node| {
            let options = self.known.options.of_node(&node);
            asked.spawn(async move { ask(&options, &node).await })
        };
        for node in rest.by_ref().take(ASKED_MAX) {
            ask(&mut asked, node);
        }
        let (mut partial, mut trouble) = (None, None::<Trouble>);
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok(Ok((survey, true))) => return Ok(survey),
                Ok(Ok((survey, false))) => partial = Some(survey),
                // What a node refuses tells more than that another one is away.
                Ok(Err(refused)) => {
                    let away = |trouble: &Trouble| trouble.kind == EngineErrorKind::Unreachable;
                    if trouble.as_ref().is_none_or(away) {
                        trouble = Some(refused);
                    }
                }
                Err(_) => {}
            }
            if let Some(node) = rest.next() {
                ask(&mut asked, node);
            }
        }
        partial.ok_or_else(|| trouble.unwrap_or_else(|| Trouble::away("no node of the cluster can be asked")))
    }
}

/// What a node says of its cluster, and whether it thinks it whole.
async fn ask(options: &RedisOptions, node: &Node) -> Result<(Survey, bool), Trouble> {
    let questions: [&[&str]; 2] = [&["CLUSTER", "INFO"], &["CLUSTER", "SLOTS"]];
    let deaf = None::<mpsc::UnboundedSender<PushInfo>>;
    let (_connection, mut answers) = dial::ask(options, &questions, deaf).await?;
    let slots = answers.pop().unwrap_or(Value::Nil);
    let whole =
        answers.pop().is_some_and(|info| info.text().is_some_and(|info| info.contains("cluster_state:ok")));
    let survey = Survey::read(slots, &node.host);
    Ok((survey.map_err(|answer| survey::no_cluster(&node.to_string(), answer))?, whole))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Surveyor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surveyor").field("seeds", &self.seeds).finish_non_exhaustive()
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}
