//! What the API server itself keeps from everybody but Quell, on a real API server, with cluster admins as strangers.

mod approvals;
mod bed;
mod block;
mod images;
mod pods;
mod policies;
