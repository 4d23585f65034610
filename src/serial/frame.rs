//! Bytes into lines. PURE.
//!
//! Constraints: a line never grows beyond its bound, whatever arrives; what stands before
//! the first delimiter after opening is half a line and is dropped; a line that is too long
//! is dropped up to the next delimiter and counted once.

use crate::model::line::Framing;

#[derive(Clone, Debug)]
pub struct Framer {
    framing: Framing,
    /// Bytes since the last delimiter.
    line: Vec<u8>,
    /// Everything up to the next delimiter is thrown away.
    skipping: bool,
}

impl Framer {
    pub fn new(framing: Framing) -> Framer {
        Framer { framing, line: Vec::new(), skipping: true }
    }

    /// The port was opened anew: what comes first is half a line.
    pub fn reset(&mut self) {
        self.line.clear();
        self.skipping = true;
    }

    /// Gives each complete line, without its delimiter, to `take`; empty lines are none.
    /// Returns how many lines were too long.
    pub fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) -> u64 {
        let mut too_long = 0;
        for byte in bytes {
            self.line.push(*byte);
            if self.line.ends_with(&self.framing.delimiter) {
                let end = self.line.len() - self.framing.delimiter.len();
                if !self.skipping && end > 0 {
                    take(&self.line[..end]);
                }
                self.line.clear();
                self.skipping = false;
            } else if self.line.len() >= self.framing.line_max + self.framing.delimiter.len() {
                too_long += u64::from(!self.skipping);
                self.skipping = true;
                // What may be the beginning of a delimiter is kept.
                let keep = self.framing.delimiter.len() - 1;
                self.line.drain(..self.line.len() - keep);
            }
        }
        too_long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fed in one piece and byte by byte, the lines are the same.
    fn check(delimiter: &str, input: &str, expected: &[&str], expected_too_long: u64) {
        for step in [1, 2, 3, input.len().max(1)] {
            let framing = Framing { delimiter: delimiter.as_bytes().to_vec(), line_max: 8 };
            let mut framer = Framer::new(framing);
            let (mut lines, mut too_long) = (Vec::new(), 0);
            for piece in input.as_bytes().chunks(step) {
                too_long += framer.push(piece, |line| lines.push(String::from_utf8_lossy(line).into_owned()));
            }
            assert_eq!(
                (lines, too_long),
                (expected.iter().map(|s| s.to_string()).collect(), expected_too_long)
            );
        }
    }

    #[test]
    fn the_first_half_line_is_dropped() {
        check("\n", "alf\none\ntwo\nthr", &["one", "two"], 0);
        check("\n", "", &[], 0);
    }

    #[test]
    fn any_delimiter_cuts() {
        check("\r\n", "x\r\na\rb\r\nc\n\r\nd\r\n", &["a\rb", "c\n", "d"], 0);
        check("END", "xENDaENENDbEND", &["aEN", "b"], 0);
        check("aab", "aabxaaabyaab", &["xa", "y"], 0);
    }

    #[test]
    fn a_long_line_costs_one_line() {
        check("\n", "x\n12345678\n123456789\nok\n", &["12345678", "ok"], 1);
        check("\r\n", "x\r\n0123456789012345678901234567\r\nok\r\n", &["ok"], 1);
        // The dropped first half-line is no noise, however long.
        check("\n", "012345678901234567890\nok\n", &["ok"], 0);
    }

    #[test]
    fn empty_lines_are_none() {
        check("\n", "\n\n\na\n\n", &["a"], 0);
    }
}
