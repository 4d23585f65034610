//! Keys and certificates, and the TLS configurations made of them.

pub mod issue;
pub mod tls;
