//! (to come)

use crate::model::reading::Measured;
use crate::model::register::RegisterPoint;

/// What `words` mean for `point`. `scale_factor` is the content of the point's scale-factor
/// register, where it has one.
pub fn decode(point: &RegisterPoint, words: &[u16], scale_factor: Option<u16>) -> Measured {
    let _ = (point, words, scale_factor);
    Measured::Bad(crate::model::value::Cause::Invalid)
}

/// What a coil or discrete input means for `point`.
pub fn decode_bit(point: &RegisterPoint, bit: bool) -> Measured {
    let _ = (point, bit);
    Measured::Bad(crate::model::value::Cause::Invalid)
}
