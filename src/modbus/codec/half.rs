//! IEEE 754 half precision (binary16), which Rust has no stable type for: one sign bit, five
//! of exponent with bias 15, ten of fraction; exponent 0 is subnormal, 31 infinite or NaN.

pub fn to_f64(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((bits >> 10) & 0x1f);
    let fraction = f64::from(bits & 0x3ff);
    let size = match exponent {
        0 => fraction * power_of_two(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * power_of_two(exponent - 25),
    };
    sign * size
}

/// The nearest half, ties to even; `None` when it would be infinite.
pub fn from_f64(x: f64) -> Option<u16> {
    let size = x.abs();
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    if size < power_of_two(-14) {
        // 1024 steps would be the smallest normal number, and its pattern is 1024 as well.
        return Some(sign | (size * power_of_two(24)).round_ties_even() as u16);
    }
    let exponent = ((size.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    if !size.is_finite() || exponent > 15 {
        return None;
    }
    let steps = (size * power_of_two(10 - exponent)).round_ties_even() as u16;
    // 2048 steps carry into the exponent, where they belong.
    let bits = ((exponent + 15) as u16) * 1024 + (steps - 1024);
    (bits < 0x7c00).then_some(sign | bits)
}

/// Exact for the small exponents used here.
fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((1023 + n) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_halves() {
        for (bits, expected) in [
            (0x0000, 0.0),
            (0x0001, 5.960464477539063e-8),
            (0x03ff, 6.097555160522461e-5),
            (0x0400, 6.103515625e-5),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333251953125),
            (0x7bff, 65504.0),
        ] {
            assert_eq!(to_f64(bits), expected, "{bits:#06x}");
            assert_eq!(from_f64(expected), Some(bits), "{expected}");
        }
        assert!(to_f64(0x7e00).is_nan());
        assert_eq!(to_f64(0xfc00), f64::NEG_INFINITY);
        assert_eq!(from_f64(65519.9), Some(0x7bff));
        assert_eq!(from_f64(65520.0), None);
        assert_eq!(from_f64(1e300), None);
    }

    #[test]
    fn every_finite_half_comes_back() {
        for bits in 0..=u16::MAX {
            let x = to_f64(bits);
            if x.is_finite() {
                assert_eq!(from_f64(x), Some(bits), "{bits:#06x}");
            }
        }
    }
}
