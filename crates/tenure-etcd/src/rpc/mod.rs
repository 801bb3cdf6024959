//! etcd's messages and services, generated from `proto/etcd.proto`; nobody who builds this crate needs `protoc`.
//!
//! To make it anew after a change of the `.proto`, in a throw-away package that depends on `protox` 0.10 and
//! `tonic-prost-build` 0.14 without default features, run:
//!
//! ```text
//! let files = protox::compile(["etcd.proto"], ["proto"])?;
//! tonic_prost_build::configure()
//!     .build_server(false)
//!     .build_transport(false)
//!     .out_dir("src/rpc")
//!     .compile_fds(files)?;
//! ```

#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::exhaustive_enums, reason = "generated")]
mod etcdserverpb;

pub(crate) use etcdserverpb::{
    AuthenticateRequest, StatusRequest, auth_client::AuthClient, event::EventType,
    maintenance_client::MaintenanceClient, watch_create_request::FilterType, watch_request::RequestUnion,
};
pub use etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, Event, KeyValue, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, WatchCancelRequest, WatchCreateRequest,
    WatchRequest, WatchResponse, compare, event, kv_client::KvClient, lease_client::LeaseClient,
    range_request, request_op, response_op, watch_client::WatchClient, watch_create_request, watch_request,
};

impl Compare {
    /// The condition that a key is the one that was created at this revision; at 0, that it does not exist.
    #[must_use]
    pub fn created_at(key: &[u8], revision: i64) -> Self {
        Self {
            result: compare::CompareResult::Equal as i32,
            target: compare::CompareTarget::Create as i32,
            key: key.to_vec(),
            target_union: Some(compare::TargetUnion::CreateRevision(revision)),
            range_end: Vec::new(),
        }
    }
}
