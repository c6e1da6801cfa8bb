//! Money for people.

use persist::Nanos;
use std::fmt;

/// Shows nano-dollars as dollars with as many decimals as they need, at least two.
#[derive(Debug, Clone, Copy)]
pub struct Dollars(pub Nanos);

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ONE: u64 = 1_000_000_000;
        let nanos = self.0.0.unsigned_abs();
        let sign = if self.0.0 < 0 { "-" } else { "" };
        let (whole, fraction) = (nanos / ONE, nanos % ONE);
        let digits = format!("{fraction:09}");
        let kept = digits.trim_end_matches('0').len().max(2);
        write!(f, "{sign}${whole}.{}", digits.get(..kept).unwrap_or("00"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_show_what_is_there() {
        assert_eq!(Dollars(Nanos::from_cents(500)).to_string(), "$5.00");
        assert_eq!(Dollars(Nanos(47_000)).to_string(), "$0.000047");
        assert_eq!(Dollars(Nanos(-1_500_000_000)).to_string(), "-$1.50");
        assert_eq!(Dollars(Nanos(1)).to_string(), "$0.000000001");
    }
}
