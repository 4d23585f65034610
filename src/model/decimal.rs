//! Decimal numbers, so that 2314 × 0.1 is 231.4 and not 231.40000000000003.
//!
//! A scale or an offset is written by a person as a short decimal. It is taken back from its
//! float as `digits × 10^-places`; the arithmetic is done in integers; and one division by a
//! power of ten that a float holds exactly (10^22 is the last) gives the float nearest to the
//! decimal result, which prints as that decimal.

/// `digits × 10^-places`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    pub digits: i128,
    pub places: u8,
}

/// More places than this are no short decimal: 1/3 is calculated as a float.
const PLACES_TAKEN: u8 = 12;
/// The last power of ten that is exact as a float.
const PLACES_MAX: u8 = 22;
/// Below this every integer is exact as a float.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

const POWERS: [f64; PLACES_MAX as usize + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

impl Decimal {
    pub const ZERO: Decimal = Decimal { digits: 0, places: 0 };
    pub const ONE: Decimal = Decimal { digits: 1, places: 0 };

    pub fn integer(n: i128) -> Decimal {
        Decimal { digits: n, places: 0 }
    }

    /// The shortest decimal that is the float `x`, if it is a short one. The quotient of two
    /// exact floats is correctly rounded, so equality proves that `x` is that decimal's float.
    pub fn of(x: f64) -> Option<Decimal> {
        for places in 0..=PLACES_TAKEN {
            let power = POWERS[usize::from(places)];
            let scaled = x * power;
            if scaled.is_nan() || scaled.abs() >= EXACT_MAX {
                return None;
            }
            let digits = (scaled + 0.5f64.copysign(scaled)) as i64;
            if digits as f64 / power == x {
                return Some(Decimal { digits: i128::from(digits), places });
            }
        }
        None
    }

    pub fn times(self, other: Decimal) -> Option<Decimal> {
        let places = self.places + other.places;
        (places <= PLACES_MAX).then_some(())?;
        Some(Decimal { digits: multiply(self.digits, other.digits)?, places })
    }

    /// Times ten to the `power`.
    pub fn shifted(self, power: i8) -> Option<Decimal> {
        if power <= 0 {
            let places = self.places + power.unsigned_abs();
            return (places <= PLACES_MAX).then_some(Decimal { digits: self.digits, places });
        }
        Some(Decimal { digits: multiply(self.digits, power_of_ten(power as u8))?, places: self.places })
    }

    pub fn plus(self, other: Decimal) -> Option<Decimal> {
        let places = self.places.max(other.places);
        let a = self.at(places)?;
        let b = other.at(places)?;
        Some(Decimal { digits: a.checked_add(b)?, places })
    }

    pub fn minus(self, other: Decimal) -> Option<Decimal> {
        self.plus(Decimal { digits: -other.digits, places: other.places })
    }

    /// The nearest integer to the quotient, halves away from zero.
    pub fn over(self, other: Decimal) -> Option<i128> {
        let above = multiply(self.digits, power_of_ten(other.places))?;
        let below = multiply(other.digits, power_of_ten(self.places))?;
        (below != 0).then(|| divide(above, below))
    }

    /// Rounded to at most `places`, halves away from zero.
    pub fn rounded(self, places: u8) -> Decimal {
        if places >= self.places {
            return self;
        }
        let digits = divide(self.digits, power_of_ten(self.places - places));
        Decimal { digits, places }
    }

    pub fn to_f64(self) -> f64 {
        // The conversion from 128 bits is a library call; most readings do not need it.
        let digits = match i64::try_from(self.digits) {
            Ok(small) => small as f64,
            Err(_) => self.digits as f64,
        };
        digits / POWERS[usize::from(self.places)]
    }

    fn at(self, places: u8) -> Option<i128> {
        multiply(self.digits, power_of_ten(places - self.places))
    }
}

/// A float rounded to `places`, halves away from zero; unchanged where a float has no such
/// place left.
pub fn round(x: f64, places: u8) -> f64 {
    let Some(power) = POWERS.get(usize::from(places)) else { return x };
    let scaled = x * power;
    if scaled.abs() >= EXACT_MAX { x } else { scaled.round() / power }
}

/// At most [`PLACES_MAX`] is ever asked for.
fn power_of_ten(places: u8) -> i128 {
    const TABLE: [i128; PLACES_MAX as usize + 1] = {
        let mut table = [1; PLACES_MAX as usize + 1];
        let mut at = 1;
        while at < table.len() {
            table[at] = table[at - 1] * 10;
            at += 1;
        }
        table
    };
    TABLE[usize::from(places.min(PLACES_MAX))]
}

/// Checked multiplication and division of 128 bits are library calls; the numbers of nearly
/// all readings fit into 64.
fn multiply(a: i128, b: i128) -> Option<i128> {
    match (i64::try_from(a), i64::try_from(b)) {
        (Ok(a), Ok(b)) => Some(i128::from(a) * i128::from(b)),
        _ => a.checked_mul(b),
    }
}

/// The nearest integer to the quotient, halves away from zero.
fn divide(above: i128, below: i128) -> i128 {
    let (quotient, rest) = match (i64::try_from(above), i64::try_from(below)) {
        (Ok(above), Ok(below)) if above != i64::MIN => (i128::from(above / below), i128::from(above % below)),
        _ => (above / below, above % below),
    };
    if rest.unsigned_abs() >= below.unsigned_abs().div_ceil(2) {
        quotient + if (above < 0) == (below < 0) { 1 } else { -1 }
    } else {
        quotient
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_float_is_taken_back_as_the_decimal_a_person_wrote() {
        for (x, digits, places) in [
            (0.1, 1, 1),
            (-0.001, -1, 3),
            (2.5, 25, 1),
            (1000.0, 1000, 0),
            (0.0, 0, 0),
            (273.15, 27315, 2),
            (1e-12, 1, 12),
        ] {
            assert_eq!(Decimal::of(x), Some(Decimal { digits, places }), "{x}");
        }
        for x in [1.0 / 3.0, 1e-13, 1e300, f64::NAN, f64::INFINITY] {
            assert_eq!(Decimal::of(x), None, "{x}");
        }
    }

    #[test]
    fn halves_round_away_from_zero() {
        for (above, below, expected) in
            [(5, 2, 3), (-5, 2, -3), (5, -2, -3), (4, 3, 1), (-4, 3, -1), (7, 3, 2), (1, 3, 0), (2, 3, 1)]
        {
            assert_eq!(divide(above, below), expected, "{above}/{below}");
        }
        assert_eq!(round(2.345678, 2), 2.35);
        assert_eq!(round(-2.5, 0), -3.0);
        assert_eq!(round(1e20, 2), 1e20);
    }
}
