//! The only place that knows how a cloud spells things. PURE.

pub mod authorizer;
pub mod payload;
pub mod provisioning;
pub mod role;
pub mod shadow_topics;
pub mod sigv4;
pub mod size;
pub mod topics;
