//! The Huffman code of header fields (RFC 7541, appendix B).
//!
//! It is canonical: codes of one length follow each other in the order of their symbols, and
//! shorter codes come before longer ones. So the lengths say all.

/// Bits of each symbol's code; the last symbol ends a string and must not occur in one.
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const SYMBOLS: usize = 257;
const END: u16 = 256;
const LONGEST: usize = 30;

/// Codes of one length.
#[derive(Clone, Copy)]
struct Codes {
    bits: u32,
    /// The first code that is longer, moved to the left of 32 bits.
    limit: u64,
    /// The first of these, to the right.
    first: u32,
    /// Where their symbols are.
    index: usize,
}

struct Code {
    codes: [Codes; LONGEST + 1],
    symbols: [u16; SYMBOLS],
}

static CODE: Code = Code::new();

impl Code {
    const fn new() -> Self {
        let none = Codes {
            bits: 0,
            limit: 0,
            first: 0,
            index: 0,
        };
        let mut code = Self {
            codes: [none; LONGEST + 1],
            symbols: [0; SYMBOLS],
        };
        let (mut next, mut index, mut bits) = (0_u32, 0, 1);
        while bits <= LONGEST {
            next <<= 1;
            code.codes[bits].bits = bits as u32;
            code.codes[bits].first = next;
            code.codes[bits].index = index;
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if LENGTHS[symbol] as usize == bits {
                    code.symbols[index] = symbol as u16;
                    index += 1;
                    next += 1;
                }
                symbol += 1;
            }
            code.codes[bits].limit = (next as u64) << (32 - bits);
            bits += 1;
        }
        code
    }

    /// The symbol whose code `window` begins with, and the code's length.
    fn symbol(&self, window: u32) -> (u16, u32) {
        let fits = |codes: &&Codes| u64::from(window) < codes.limit;
        // The longest codes end with all ones, so that there always is one; END is that one.
        let Some(codes) = self.codes[SHORTEST..].iter().find(fits) else {
            return (END, LONGEST as u32);
        };
        let code = window >> (32 - codes.bits);
        let symbol = self.symbols[codes.index + (code - codes.first) as usize];
        (symbol, codes.bits)
    }
}

const SHORTEST: usize = 5;

/// Gives each byte of a string to `byte`; `None` if it is none.
pub(super) fn decode(coded: &[u8], mut byte: impl FnMut(u8)) -> Option<()> {
    let (mut window, mut bits) = (0_u64, 0_u32);
    let mut rest = coded.iter();
    loop {
        while bits <= 32 {
            let Some(next) = rest.next() else { break };
            window |= u64::from(*next) << (56 - bits);
            bits += 8;
        }
        // What is not there reads as zeroes.
        let (symbol, length) = CODE.symbol((window >> 32) as u32);
        if length > bits {
            return is_padding(window, bits).then_some(());
        }
        byte(u8::try_from(symbol).ok()?);
        window <<= length;
        bits -= length;
    }
}

/// Whether the last `bits` are less than a byte, and the beginning of END.
fn is_padding(window: u64, bits: u32) -> bool {
    let ones = u64::MAX.checked_shl(64 - bits).unwrap_or(0);
    bits < 8 && window == ones
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(coded: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        decode(coded, |byte| text.push(byte))?;
        Some(text)
    }

    /// The code of a symbol, and its length.
    fn code(symbol: u16) -> (u32, u32) {
        let at = CODE.symbols.iter().position(|s| *s == symbol).unwrap();
        let codes = CODE.codes.iter().rfind(|codes| codes.index <= at).unwrap();
        (codes.first + (at - codes.index) as u32, codes.bits)
    }

    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let (code, length) = code((*byte).into());
            bits += &format!("{code:0width$b}", width = length as usize);
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |eight: &[u8]| u8::from_str_radix(std::str::from_utf8(eight).unwrap(), 2);
        bits.as_bytes()
            .chunks(8)
            .map(|eight| byte(eight).unwrap())
            .collect()
    }

    /// RFC 7541, appendix C.4 and C.6.
    #[test]
    fn the_standards_strings() {
        let strings: [(&[u8], &str); 6] = [
            (
                b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
                "www.example.com",
            ),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", "custom-key"),
            (b"\x64\x02", "302"),
            (b"\xae\xc3\x77\x1a\x4b", "private"),
            (b"\x9b\xd9\xab", "gzip"),
        ];
        for (coded, expected) in strings {
            assert_eq!(text(coded).as_deref(), Some(expected.as_bytes()));
        }
    }

    /// RFC 7541, appendix B, at the ends of each length.
    #[test]
    fn the_standards_codes() {
        for (symbol, expected) in [
            (b'0'.into(), (0x0, 5)),
            (b't'.into(), (0x9, 5)),
            (b' '.into(), (0x14, 6)),
            (b'u'.into(), (0x2d, 6)),
            (b':'.into(), (0x5c, 7)),
            (b'&'.into(), (0xf8, 8)),
            (b'?'.into(), (0x3fc, 10)),
            (b'{'.into(), (0x7ffe, 15)),
            (b'\\'.into(), (0x7fff0, 19)),
            (10, (0x3fff_fffc, 30)),
            (END, (0x3fff_ffff, 30)),
        ] {
            assert_eq!(code(symbol), expected, "{symbol}");
        }
    }

    #[test]
    fn every_byte_comes_back() {
        for first in 0..=255 {
            for second in [0, b'a', b'&', 10, 255] {
                let original = [first, second, first];
                assert_eq!(text(&encode(&original)), Some(original.to_vec()));
            }
        }
    }

    #[test]
    fn what_is_no_string() {
        let wrong: [&[u8]; 5] = [
            // Padding of a whole byte, or of zeroes.
            b"\xff",
            b"\x64\x02\xff",
            b"\x00",
            // END.
            b"\xff\xff\xff\xfc",
            b"\xff\xff\xff\xff\xff",
        ];
        for coded in wrong {
            assert_eq!(text(coded), None, "{coded:?}");
        }
        assert_eq!(text(b""), Some(Vec::new()));
    }
}
