//! The test bed: a real control plane on this machine, and what tests need around it.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use k8s_openapi::api::apps::v1::Deployment;
//! use quell_tests::fixtures::{PodCarrier, Scaled, deployment};
//! use quell_tests::{ControlPlane, TestNamespace, wait};
//!
//! let cluster = ControlPlane::shared().await?;
//! let namespace = TestNamespace::create(cluster, "shop").await?;
//! namespace.create_object(&deployment("shop").image("registry.example/shop:1.0").replicas(2)).await?;
//! wait::rolled_out(&namespace.api::<Deployment>(), "shop", wait::DEADLINE).await?;
//! # Ok(())
//! # }
//! ```

pub mod bad_input;
pub mod binaries;
pub mod control_plane;
pub mod crash;
pub mod crds;
pub mod demo;
pub mod faults;
pub mod fixtures;
pub mod floor;
pub mod gate;
pub mod guards;
pub mod lifeline;
pub mod missing;
pub mod namespace;
pub mod node;
pub mod operator;
pub mod packets;
pub mod policy_kinds;
pub mod probe_jobs;
pub mod proxy;
pub mod requests;
pub mod storm;
pub mod trivy_operator;
pub mod wait;
pub mod watched;

pub use binaries::{Binaries, Tool};
pub use control_plane::{ControlPlane, Options};
pub use gate::{Gate, Way};
pub use guards::Guards;
pub use missing::Missing;
pub use namespace::TestNamespace;
pub use node::Node;
pub use operator::Operator;
pub use proxy::Proxy;
pub use requests::{Recorder, recorded_client};
