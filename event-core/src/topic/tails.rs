//! The tails of a key: its last words, for all numbers of words.

use super::MAX_BYTES;

/// A key of 255 dots has 256 words.
const MAX_WORDS: usize = MAX_BYTES + 1;

/// A key, cut at its dots once.
pub(super) struct Key<'a> {
    text: &'a str,
    words: usize,
    /// Where in the text the last `n` words begin. For none of them, as if a dot ended the text.
    begins: [u16; MAX_WORDS + 1],
}

impl<'a> Key<'a> {
    /// Cuts a key, unless the text is too long to be one.
    pub(super) fn new(text: &'a str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let mut begins = [0; MAX_WORDS + 1];
        let mut words = 0;
        let mut place = text.len() as u16 + 1;
        begins[0] = place;
        for byte in text.bytes().rev() {
            place -= 1;
            if byte == b'.' {
                words += 1;
                begins[words] = place;
            }
        }
        // The first word begins the text, where the array has its zero already.
        words += usize::from(!text.is_empty());
        Some(Self {
            text,
            words,
            begins,
        })
    }

    /// Whether one integer has a bit for each tail of this key.
    pub(super) fn is_short(&self) -> bool {
        self.words < 64
    }

    /// The first of the last `n` words, for an `n` above zero.
    pub(super) fn head(&self, n: usize) -> &'a str {
        let begin = usize::from(self.begins[n]);
        let next = usize::from(self.begins[n - 1]);
        &self.text[begin..next - 1]
    }
}

/// A set of tails of one key: bit `n` stands for its last `n` words.
///
/// In a trie with `#`, one node is reached with many tails. Carrying them together visits each
/// node once, so nothing is reported twice and nothing has to be remembered about where one was.
///
/// There are as many integers as the key needs, because with one the compiler keeps the set in a
/// register, and that halves the time of a lookup.
#[derive(Clone, Copy)]
pub(super) struct Tails<const INTEGERS: usize>([u64; INTEGERS]);

/// The tails of a key that [`is_short`](Key::is_short).
pub(super) type ShortTails = Tails<1>;

/// The tails of any key.
pub(super) type AnyTails = Tails<{ MAX_WORDS / 64 + 1 }>;

impl<const INTEGERS: usize> Tails<INTEGERS> {
    const NONE: Self = Self([0; INTEGERS]);

    /// The set that holds the whole key and no shorter tail.
    pub(super) fn whole(key: &Key<'_>) -> Self {
        let mut tails = Self::NONE;
        tails.insert(key.words);
        tails
    }

    pub(super) fn insert(&mut self, n: usize) {
        self.0[n / 64] |= 1 << (n % 64);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|&bits| bits == 0)
    }

    /// Whether nothing is left of the key.
    pub(super) fn has_end(&self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Every tail without its first word. What has no words drops out.
    pub(super) fn after_one(self) -> Self {
        let mut tails = self;
        let mut carry = 0;
        for bits in tails.0.iter_mut().rev() {
            (*bits, carry) = (*bits >> 1 | carry << 63, *bits & 1);
        }
        tails
    }

    /// Every tail without any number of its words.
    pub(super) fn after_any(self) -> Self {
        let mut tails = self;
        let mut longer = false;
        for bits in tails.0.iter_mut().rev() {
            *bits = match (longer, *bits) {
                (true, _) => u64::MAX,
                (false, 0) => 0,
                (false, found) => u64::MAX >> found.leading_zeros(),
            };
            longer |= *bits != 0;
        }
        tails
    }

    /// Takes the shortest tail that has words out of the set.
    pub(super) fn pop(&mut self) -> Option<usize> {
        self.0[0] &= !1;
        let (at, bits) = self
            .0
            .iter_mut()
            .enumerate()
            .find(|(_, bits)| **bits != 0)?;
        let n = at * 64 + bits.trailing_zeros() as usize;
        *bits &= *bits - 1;
        Some(n)
    }

    /// Takes out the tails that `chosen` says, and returns them.
    pub(super) fn extract(&mut self, chosen: impl Fn(usize) -> bool) -> Self {
        let mut extracted = Self::NONE;
        let mut open = *self;
        while let Some(n) = open.pop() {
            if chosen(n) {
                extracted.insert(n);
                self.0[n / 64] ^= 1 << (n % 64);
            }
        }
        extracted
    }
}
