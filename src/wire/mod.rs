//! The only place that knows how a cloud spells things. PURE.

pub mod payload;
pub mod shadow_topics;
pub mod size;
pub mod topics;
