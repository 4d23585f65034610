//! Keys and certificates, and the TLS configurations made of them.
//!
//! Constraints: a device that cannot speak TLS gets an identity of its own, so its key lives
//! here; nothing secret leaves this room but through TLS. Whatever happens between two calls,
//! a working identity is left (`files`). What is new is only used for good after a broker has
//! accepted it (`wallet`), and nothing is done by a clock that is not set (`renewal`).
//!
//! The way of an identity: configuration → [`subject::Subject`] → the keeper finds that it is
//! missing or due → a key and a request (`key`) → the enroller (`enroll`; for the gateway's
//! own CA: `authority`) → a candidate on the disk → the [`wallet::Wallet`] shows it to the
//! connection → CONNACK → promoted.

pub mod authority;
pub mod files;
pub mod issue;
pub mod key;
pub mod signer;
pub mod subject;
pub mod tls;
pub mod wallet;
