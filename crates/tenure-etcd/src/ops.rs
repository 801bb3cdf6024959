//! The parts of transactions.

use tenure_core::engine::Trouble;

use crate::names::Span;
use crate::rpc::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest, RangeRequest, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op::Request,
    response_op::Response,
};

/// The key does not exist.
pub(crate) fn is_absent(key: &[u8]) -> Compare {
    created_at(key, 0)
}

/// The key exists.
pub(crate) fn exists(key: &[u8]) -> Compare {
    Compare { result: CompareResult::Greater as i32, ..created_at(key, 0) }
}

/// The key is the one that was created at this revision.
pub(crate) fn created_at(key: &[u8], revision: i64) -> Compare {
    Compare::created_at(key, revision)
}

/// Nothing exists in the span.
pub(crate) fn is_empty(span: &Span) -> Compare {
    Compare { range_end: span.end.clone(), ..created_at(&span.first, 0) }
}

/// Nothing that exists in the span was written after the revision.
pub(crate) fn unchanged_since(span: &Span, revision: i64) -> Compare {
    let compare = changed(&span.first, CompareResult::Less, revision.saturating_add(1));
    Compare { range_end: span.end.clone(), ..compare }
}

/// The key was last written at this revision; zero: it does not exist.
pub(crate) fn changed_at(key: &[u8], revision: i64) -> Compare {
    changed(key, CompareResult::Equal, revision)
}

fn changed(key: &[u8], result: CompareResult, revision: i64) -> Compare {
    Compare {
        result: result as i32,
        target: CompareTarget::Mod as i32,
        key: key.to_vec(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        range_end: Vec::new(),
    }
}

pub(crate) fn put(key: &[u8], value: Vec<u8>, lease: i64) -> RequestOp {
    op(Request::RequestPut(PutRequest { key: key.to_vec(), value, lease, ..Default::default() }))
}

/// Writes a value, and leaves the key on its lease.
pub(crate) fn rewrite(key: &[u8], value: Vec<u8>) -> RequestOp {
    op(Request::RequestPut(PutRequest { key: key.to_vec(), value, ignore_lease: true, ..Default::default() }))
}

/// Writes the value that is there again.
pub(crate) fn touch(key: &[u8]) -> RequestOp {
    op(Request::RequestPut(PutRequest { key: key.to_vec(), ignore_value: true, ..Default::default() }))
}

pub(crate) fn delete(key: &[u8]) -> RequestOp {
    op(Request::RequestDeleteRange(DeleteRangeRequest { key: key.to_vec(), ..Default::default() }))
}

pub(crate) fn get(key: &[u8]) -> RequestOp {
    op(Request::RequestRange(RangeRequest { key: key.to_vec(), ..Default::default() }))
}

pub(crate) fn list(span: &Span) -> RequestOp {
    let (key, range_end) = (span.first.clone(), span.end.clone());
    op(Request::RequestRange(RangeRequest { key, range_end, ..Default::default() }))
}

/// The places of a span that were created last, the youngest first; it is told how many there are.
pub(crate) fn youngest(span: &Span, limit: i64) -> RequestOp {
    by_creation(span, limit, SortOrder::Descend)
}

/// The places of a span that were created first, the oldest first.
pub(crate) fn oldest(span: &Span, limit: i64) -> RequestOp {
    by_creation(span, limit, SortOrder::Ascend)
}

fn by_creation(span: &Span, limit: i64, order: SortOrder) -> RequestOp {
    let (key, range_end) = (span.first.clone(), span.end.clone());
    let (sort_order, sort_target) = (order as i32, SortTarget::Create as i32);
    op(Request::RequestRange(RangeRequest {
        key,
        range_end,
        limit,
        sort_order,
        sort_target,
        ..Default::default()
    }))
}

/// What was created up to a revision.
pub(crate) fn list_until(span: &Span, created: i64) -> RequestOp {
    let (key, range_end) = (span.first.clone(), span.end.clone());
    op(Request::RequestRange(RangeRequest {
        key,
        range_end,
        max_create_revision: created,
        ..Default::default()
    }))
}

/// So many keys of the span in their order, without their values unless those are wanted.
pub(crate) fn page(span: &Span, limit: i64, keys_only: bool) -> RequestOp {
    let (key, range_end) = (span.first.clone(), span.end.clone());
    op(Request::RequestRange(RangeRequest { key, range_end, limit, keys_only, ..Default::default() }))
}

/// A transaction inside a transaction.
pub(crate) fn when(compare: Vec<Compare>, then: Vec<RequestOp>, or: Vec<RequestOp>) -> RequestOp {
    inside(txn(compare, then, or))
}

/// A transaction that is an operation of another.
pub(crate) fn inside(txn: TxnRequest) -> RequestOp {
    op(Request::RequestTxn(txn))
}

pub(crate) fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare, success, failure }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// The deletion in a transaction that is nothing else; or the transaction itself.
pub(crate) fn bare_deletion(mut txn: TxnRequest) -> Result<DeleteRangeRequest, TxnRequest> {
    if !txn.compare.is_empty() || txn.success.len() != 1 {
        return Err(txn);
    }
    match txn.success.pop() {
        Some(RequestOp { request: Some(Request::RequestDeleteRange(deletion)) }) => Ok(deletion),
        other => {
            txn.success.extend(other);
            Err(txn)
        }
    }
}

/// What a transaction with nothing but this deletion would have answered.
pub(crate) fn answer_of_deletion(mut deleted: DeleteRangeResponse) -> TxnResponse {
    let header = deleted.header.take();
    let response = Some(Response::ResponseDeleteRange(deleted));
    TxnResponse { header, succeeded: true, responses: vec![ResponseOp { response }] }
}

/// The answers of a transaction, taken one after the other.
pub(crate) struct Answers {
    pub(crate) revision: i64,
    pub(crate) succeeded: bool,
    rest: std::vec::IntoIter<ResponseOp>,
}

impl From<TxnResponse> for Answers {
    fn from(response: TxnResponse) -> Self {
        let revision = response.header.map_or(0, |header| header.revision);
        Self { revision, succeeded: response.succeeded, rest: response.responses.into_iter() }
    }
}

impl Answers {
    /// What a read has found.
    pub(crate) fn found(&mut self) -> Result<Vec<KeyValue>, Trouble> {
        match self.next() {
            Some(Response::ResponseRange(range)) => Ok(range.kvs),
            _ => Err(nonsense()),
        }
    }

    /// The same, and how many are not shown.
    pub(crate) fn counted(&mut self) -> Result<(Vec<KeyValue>, usize), Trouble> {
        match self.next() {
            Some(Response::ResponseRange(range)) => {
                let count = usize::try_from(range.count).unwrap_or(0);
                let hidden = count.saturating_sub(range.kvs.len());
                Ok((range.kvs, hidden))
            }
            _ => Err(nonsense()),
        }
    }

    /// Passes over the answer to a write.
    pub(crate) fn written(&mut self) -> Result<(), Trouble> {
        match self.next() {
            Some(Response::ResponsePut(_)) => Ok(()),
            _ => Err(nonsense()),
        }
    }

    /// Whether a deletion has found something.
    pub(crate) fn deleted(&mut self) -> Result<bool, Trouble> {
        match self.next() {
            Some(Response::ResponseDeleteRange(deleted)) => Ok(deleted.deleted > 0),
            _ => Err(nonsense()),
        }
    }

    /// The answers of a transaction inside.
    pub(crate) fn inside(&mut self) -> Result<Answers, Trouble> {
        match self.next() {
            // Only the outer transaction has a header that is filled in.
            Some(Response::ResponseTxn(inside)) => {
                Ok(Answers { revision: self.revision, ..Answers::from(inside) })
            }
            _ => Err(nonsense()),
        }
    }

    /// The transaction inside as a whole, with the revision at which it was made.
    pub(crate) fn response(&mut self) -> Result<TxnResponse, Trouble> {
        match self.next() {
            Some(Response::ResponseTxn(inside)) => {
                let revision = self.revision;
                Ok(TxnResponse { header: Some(ResponseHeader { revision, ..Default::default() }), ..inside })
            }
            _ => Err(nonsense()),
        }
    }

    fn next(&mut self) -> Option<Response> {
        self.rest.next().and_then(|op| op.response)
    }
}

fn nonsense() -> Trouble {
    Trouble::nonsense("the server answered a transaction with something else than was asked for")
}
