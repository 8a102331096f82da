//! Whether bytes are a pickle of any protocol: whether they are opcodes that leave a stack in order (Python's
//! `pickletools`), not how they begin.

/// Opcodes of protocols 0 and 1 after which text is a pickle by more than chance.
const FEWEST: usize = 4;

/// Whether a file that begins with these bytes is a pickle; `whole` says that they are all there are.
///
/// One of protocol 2 or above says so itself. Older ones can be text too (`cat\nsat\n.`): they have to hold to the end,
/// or to call something.
pub(super) fn is_pickle(bytes: &[u8], whole: bool) -> bool {
    let announced = matches!(bytes, [0x80, 2..=5, _, ..]);
    let mut machine = Machine::default();
    let mut rest = bytes;
    let mut count = 0;
    while let Some((opcode, after)) = rest.split_first() {
        let Some((argument, after)) = argument(*opcode, after) else {
            // The argument goes on past the window, or is none.
            let goes_on = !whole && (is_long(*opcode) || after.len() < 256);
            return count >= FEWEST && goes_on || announced && count > 2;
        };
        if machine.run(*opcode, argument).is_none() {
            return announced && count > 2;
        }
        count += 1;
        if *opcode == b'.' {
            let to_the_end = whole && after.iter().all(u8::is_ascii_whitespace);
            return announced || count >= FEWEST && (to_the_end || machine.calls);
        }
        rest = after;
    }
    // No STOP: cut off, or longer than the window.
    count >= 2 && announced || count >= FEWEST && !whole
}

/// Opcodes with arguments of any length.
fn is_long(opcode: u8) -> bool {
    b"STVXB\x8d\x8e\x96\x8b".contains(&opcode)
}

/// The argument of an opcode, and what follows it.
fn argument(opcode: u8, after: &[u8]) -> Option<(&[u8], &[u8])> {
    let fixed = |bytes: usize| after.split_at_checked(bytes);
    // A length in so many bytes, then as many.
    let counted = |bytes: usize| {
        let (length, rest) = after.split_at_checked(bytes)?;
        let length = length.iter().rev().try_fold(0usize, |n, b| n.checked_mul(256)?.checked_add((*b).into()))?;
        rest.split_at_checked(length)
    };
    let lines = |count: usize| {
        let end = after.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(count - 1)?.0;
        Some((&after[..end], &after[end + 1..]))
    };
    match opcode {
        b'F' | b'I' | b'L' | b'S' | b'V' | b'P' | b'p' | b'g' => lines(1),
        b'c' | b'i' => lines(2),
        b'K' | b'h' | b'q' | 0x80 | 0x82 => fixed(1),
        b'M' | 0x83 => fixed(2),
        b'J' | b'j' | b'r' | 0x84 => fixed(4),
        b'G' | 0x95 => fixed(8),
        b'U' | b'C' | 0x8c | 0x8a => counted(1),
        b'T' | b'X' | b'B' | 0x8b => counted(4),
        0x8d | 0x8e | 0x96 => counted(8),
        _ => fixed(0),
    }
}

/// The stack, of which only the heights count.
#[derive(Default)]
struct Machine {
    height: usize,
    marks: Vec<usize>,
    /// Something was imported or called.
    calls: bool,
}

impl Machine {
    /// None where the opcode is none, or does not fit the stack or its argument.
    fn run(&mut self, opcode: u8, argument: &[u8]) -> Option<()> {
        let digits = |text: &[u8]| !text.is_empty() && text.iter().all(|b| b.is_ascii_digit());
        match opcode {
            0x80 => (argument.first()? <= &5).then_some(()),
            0x95 => Some(()),
            b'(' => {
                self.marks.push(self.height);
                Some(())
            }
            b'p' => digits(argument).then(|| self.change(1, 1))?,
            b'g' => digits(argument).then(|| self.change(0, 1))?,
            b'F' | b'I' | b'L' => {
                let number = |b: &u8| b.is_ascii_digit() || b"+-.eEL_naif".contains(b);
                (!argument.is_empty() && argument.iter().all(number)).then(|| self.change(0, 1))?
            }
            b'S' => {
                let quoted = matches!(argument, [q @ (b'\'' | b'"'), .., last] if q == last);
                quoted.then(|| self.change(0, 1))?
            }
            b'c' => is_global(argument).then(|| self.change(0, 1))?,
            b'i' => {
                self.calls = true;
                is_global(argument).then(|| self.pop_mark(0, 1))?
            }
            b'N'
            | b'J'
            | b'K'
            | b'M'
            | b'G'
            | b'T'
            | b'U'
            | b'V'
            | b'X'
            | b'B'
            | b'C'
            | b'P'
            | b'h'
            | b'j'
            | b']'
            | b')'
            | b'}'
            | 0x82..=0x84
            | 0x88..=0x8f
            | 0x96
            | 0x97 => self.change(0, 1),
            b'.' | b'q' | b'r' | 0x94 | 0x98 => self.change(1, 1),
            b'2' => self.change(1, 2),
            b'0' => self.change(1, 0),
            b'1' => self.pop_mark(0, 0),
            b't' | b'l' | b'd' | 0x91 => self.pop_mark(0, 1),
            b'e' | b'u' | 0x90 => self.pop_mark(1, 1),
            b'o' => {
                self.calls = true;
                self.pop_mark(0, 1)
            }
            b'a' => self.change(2, 1),
            b's' => self.change(3, 1),
            b'b' => {
                self.calls = true;
                self.change(2, 1)
            }
            0x85 | b'Q' => self.change(1, 1),
            0x86 => self.change(2, 1),
            0x87 => self.change(3, 1),
            b'R' | 0x81 | 0x93 => {
                self.calls = true;
                self.change(2, 1)
            }
            0x92 => {
                self.calls = true;
                self.change(3, 1)
            }
            _ => None,
        }
    }

    /// Takes some values above the last mark and puts others there.
    fn change(&mut self, taken: usize, put: usize) -> Option<()> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.height = self.height.checked_sub(taken).filter(|height| *height >= floor)? + put;
        Some(())
    }

    /// Takes everything above the last mark and some values below it.
    fn pop_mark(&mut self, taken: usize, put: usize) -> Option<()> {
        self.height = self.marks.pop()?;
        self.change(taken, put)
    }
}

/// A module and a name in it, each on its line.
fn is_global(lines: &[u8]) -> bool {
    let plain = |part: &[u8]| !part.is_empty() && part.iter().all(|b| b.is_ascii_alphanumeric() || b"_.<>".contains(b));
    let mut parts = lines.split(|b| *b == b'\n');
    parts.next().is_some_and(plain) && parts.next().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::is_pickle;

    #[test]
    fn pickles_of_every_protocol_are_known() {
        for pickle in [
            // pickle.dumps([1], protocol).
            &b"(lp0\nI1\na."[..],
            b"]q\x00K\x01a.",
            b"\x80\x02]q\x00K\x01a.",
            b"\x80\x04\x95\x06\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a.",
            // torch.save before 1.6, os.system in protocol 0, print in a dictionary in protocols 0 and 1.
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
            b"cos\nsystem\n(S'echo'\ntR.",
            b"(dp0\nVstate\np1\nc__builtin__\nprint\np2\n(Vran\np3\ntp4\nRp5\ns.",
            b"}q\x00X\x05\x00\x00\x00stateq\x01c__builtin__\nprint\nq\x02(X\x03\x00\x00\x00ranq\x03tq\x04Rq\x05s.",
            // What follows STOP is not read.
            b"(S'echo'\nios\nsystem\n.and more",
            b"\x80\x03]q\x00.",
            b"\x80\x02}q\x00.",
            // Cut off.
            b"\x80\x04\x95\x00\x10\x00\x00\x00\x00\x00\x00}\x8c",
        ] {
            assert!(is_pickle(pickle, true), "{pickle:?}");
        }
        let long = [&b"(lp0\n"[..], &b"I1\na".repeat(100)].concat();
        assert!(is_pickle(&long, false));
        assert!(is_pickle(&long[..long.len() - 2], false));
        let long_string = [&b"(dp0\nVa\np1\nV"[..], &[b'x'; 1000]].concat();
        assert!(is_pickle(&long_string, false));
    }

    #[test]
    fn text_and_weights_are_none() {
        for other in [
            &b"{}"[..],
            b"",
            b".",
            b"\x80",
            b"\x80\x02",
            b"cat\nsat\nmat.",
            b"cat\nsat\n.",
            b"]\n",
            b"(c) 2024 Somebody. All rights reserved.\n",
            b"NaN, None and I.\n",
            b"\x80\x02\x00\x00\x00\x00\x00\x00{}",
            b"\x80\x04\x00\x00\x00\x00\x00\x00{\"a\":{}}",
            b"I am a model card.\nYou may use me.\n",
        ] {
            assert!(!is_pickle(other, true), "{other:?}");
            assert!(!is_pickle(other, false), "{other:?}");
        }
    }
}
