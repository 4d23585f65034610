//! (to come)

pub mod inspect;
