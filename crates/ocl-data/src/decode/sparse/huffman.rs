//! Huffman tables made for speed: one look-up gives a symbol, its value and their length together;
//! where a block is only passed over, one look-up gives several symbols.

use std::ops::Range;

use super::bits::Bits;

/// Bits looked at in one look-up. 4,096 entries keep all tables of a file in the first-level cache.
const LOOK: u32 = 12;
/// Set in the length of a single symbol whose value reaches beyond `LOOK` bits; the length is then
/// the code's alone, and 0 where not even that is known.
const SPLIT: u32 = 0x80;
/// Added to the advance by an end-of-block.
pub(super) const END: u32 = 64;
/// An advance that ends every loop: the look-up could not say.
const UNKNOWN: u16 = 128 << 8;
/// Tables kept from one file to the next. Most encoders write the standard's four.
const CACHED: usize = 8;

/// One symbol: how far it advances in the block, and the coefficient at the end of that.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    pub(super) advance: u32,
    pub(super) value: i16,
}

/// A table of one class, DC or AC.
pub(super) struct Table {
    /// Value, advance and length: 16, 8 and 8 bits; with `SPLIT`, the value's size in its place.
    single: Box<[u32; 1 << LOOK]>,
    /// Advance and length of as many symbols as `LOOK` bits hold the codes of: 8 and 8 bits. The
    /// last one's value may reach beyond these bits, since nobody wants to know it.
    many: Box<[u16; 1 << LOOK]>,
    /// Symbol and length of a code: 8 and 8 bits; 0 where it is longer than `LOOK`.
    codes: Box<[u16; 1 << LOOK]>,
    /// For each length, the first code beyond those of the length (left-aligned in 16 bits), and
    /// what added to a code gives the place of its symbol.
    beyond: [u32; 17],
    offset: [i32; 17],
    symbols: [u8; 256],
    is_dc: bool,
}

impl Table {
    fn empty() -> Table {
        Table {
            single: Box::new([SPLIT; 1 << LOOK]),
            many: Box::new([UNKNOWN; 1 << LOOK]),
            codes: Box::new([0; 1 << LOOK]),
            beyond: [0; 17],
            offset: [0; 17],
            symbols: [0; 256],
            is_dc: false,
        }
    }

    /// From the content of a table's definition: 16 counts, then the symbols. `None` if it is no
    /// code.
    fn fill(&mut self, definition: &[u8], is_dc: bool) -> Option<()> {
        let (counts, listed) = definition.split_at_checked(16)?;
        self.single.fill(SPLIT);
        self.many.fill(UNKNOWN);
        self.codes.fill(0);
        self.is_dc = is_dc;
        self.symbols.get_mut(..listed.len())?.copy_from_slice(listed);
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = usize::from(counts[length as usize - 1]);
            self.offset[length as usize] = place as i32 - code as i32;
            for &symbol in listed.get(place..place + count)? {
                if code >= 1 << length {
                    return None;
                }
                self.enter(code, length, symbol);
                code += 1;
            }
            place += count;
            self.beyond[length as usize] = code << (16 - length);
            code <<= 1;
        }
        if !is_dc {
            self.combine();
        }
        Some(())
    }

    /// Fills in all that one code leads to.
    fn enter(&mut self, code: u32, length: u32, symbol: u8) {
        if length > LOOK {
            return;
        }
        let spare = LOOK - length;
        let from = (code << spare) as usize;
        self.codes[from..from + (1 << spare)].fill(u16::from(symbol) << 8 | length as u16);
        let (size, advance) = (self.size(symbol), self.advance(symbol));
        if length + size > LOOK {
            let entry = size << 16 | advance << 8 | SPLIT | length;
            self.single[from..from + (1 << spare)].fill(entry);
            return;
        }
        let spare = LOOK - length - size;
        for bits in 0..1u32 << size {
            let value = extend(bits, size) as u16;
            let from = (((code << size) | bits) << spare) as usize;
            let entry = u32::from(value) << 16 | advance << 8 | (length + size);
            self.single[from..from + (1 << spare)].fill(entry);
        }
    }

    /// Joins codes as far as the bits reach.
    fn combine(&mut self) {
        for bits in 0..1usize << LOOK {
            let (mut used, mut advance) = (0, 0);
            while used < LOOK {
                let entry = self.codes[bits << used & ((1 << LOOK) - 1)];
                let (symbol, length) = ((entry >> 8) as u8, u32::from(entry & 0xFF));
                // An end-of-block is the last, and the sum must stay below what means unknown.
                if length == 0 || used + length > LOOK || advance + 16 >= END {
                    break;
                }
                used += length + self.size(symbol);
                advance += self.advance(symbol);
            }
            if used > 0 {
                self.many[bits] = (advance << 8 | used) as u16;
            }
        }
    }

    /// Bits of value that follow the symbol's code.
    fn size(&self, symbol: u8) -> u32 {
        u32::from(if self.is_dc { symbol.min(16) } else { symbol & 15 })
    }

    fn advance(&self, symbol: u8) -> u32 {
        match symbol {
            _ if self.is_dc => 1,
            0xF0 => 16,
            _ if symbol & 15 == 0 => END,
            _ => u32::from(symbol >> 4) + 1,
        }
    }

    /// The next symbol and its value. `None` where the bits are no code.
    #[inline(always)]
    pub(super) fn next(&self, bits: &mut Bits) -> Option<Symbol> {
        bits.refill();
        let entry = self.single[bits.peek(LOOK)];
        let advance = entry >> 8 & 0xFF;
        if entry & SPLIT == 0 {
            bits.consume(entry & 0xFF);
            return Some(Symbol { advance, value: (entry >> 16) as i16 });
        }
        let (length, size) = (entry & 0x7F, entry >> 16);
        if length == 0 || size == 16 {
            return self.next_long(bits);
        }
        bits.consume(length);
        let value = extend(bits.peek(size) as u32, size);
        bits.consume(size);
        Some(Symbol { advance, value })
    }

    /// Of a code that is longer than what is looked at, or is none.
    #[inline(never)]
    fn next_long(&self, bits: &mut Bits) -> Option<Symbol> {
        let sixteen = bits.peek(16) as u32;
        let length = (1..=16).find(|&l| sixteen < self.beyond[l as usize])?;
        bits.consume(length);
        let place = (sixteen >> (16 - length)) as i32 + self.offset[length as usize];
        let symbol = *self.symbols.get(usize::try_from(place).ok()?)?;
        let size = self.size(symbol);
        if size == 16 {
            return None;
        }
        let value = if size == 0 { 0 } else { extend(bits.peek(size) as u32, size) };
        bits.consume(size);
        Some(Symbol { advance: self.advance(symbol), value })
    }

    /// Passes over the AC coefficients of a block.
    #[inline(always)]
    pub(super) fn skip_block(&self, bits: &mut Bits) -> Option<()> {
        let mut place = 1;
        loop {
            bits.refill();
            // Two look-ups take at most 54 of the 56 bits there are: a value has up to 15.
            for _ in 0..2 {
                let entry = self.many[bits.peek(LOOK)];
                let (advance, length) = (u32::from(entry >> 8), u32::from(entry & 0xFF));
                let next = place + advance;
                if next < 64 {
                    bits.consume(length);
                    place = next;
                    continue;
                }
                // An end-of-block that the block has not ended before, or the end exactly: both are
                // sure. All else is looked at symbol by symbol.
                if next == 64 && advance < END
                    || (next >= END && next - END < 64 && length > 0 && advance >= END)
                {
                    bits.consume(length);
                    return Some(());
                }
                let symbol = self.next(bits)?;
                place += symbol.advance;
                if place >= 64 {
                    return (place == 64 || symbol.advance == END).then_some(());
                }
                break;
            }
        }
    }
}

/// A value from its bits (ITU T.81, F.2.2.1): those that begin with 0 are negative.
fn extend(bits: u32, size: u32) -> i16 {
    if size > 0 && bits < 1 << (size - 1) {
        (bits as i32 - (1 << size) + 1) as i16
    } else {
        bits as i16
    }
}

/// Tables of the files seen last.
#[derive(Default)]
pub(super) struct Tables {
    known: Vec<Known>,
    files: u64,
}

struct Known {
    definition: Vec<u8>,
    table: Table,
    /// Number of the last file that used it.
    used: u64,
}

impl Tables {
    /// Begins another file: its tables stay until the next one begins.
    pub(super) fn begin(&mut self) {
        self.files += 1;
    }

    /// Where the table of this definition stands. `None` if it is no code.
    pub(super) fn find(&mut self, bytes: &[u8], at: &Range<usize>, is_dc: bool) -> Option<usize> {
        let definition = bytes.get(at.clone())?;
        let same = |known: &Known| known.table.is_dc == is_dc && known.definition == definition;
        let place = match self.known.iter().position(same) {
            Some(place) => place,
            None => {
                let place = self.room();
                let known = &mut self.known[place];
                known.definition.clear();
                known.table.fill(definition, is_dc)?;
                known.definition.extend_from_slice(definition);
                place
            }
        };
        self.known[place].used = self.files;
        Some(place)
    }

    /// A new place, or the one that was not used for the longest time. A file needs at most six.
    fn room(&mut self) -> usize {
        if self.known.len() < CACHED {
            let definition = Vec::with_capacity(16 + 256);
            self.known.push(Known { definition, table: Table::empty(), used: 0 });
            return self.known.len() - 1;
        }
        let by_use = |place: &usize| self.known[*place].used;
        (0..CACHED).min_by_key(by_use).unwrap_or(0)
    }

    pub(super) fn get(&self, place: usize) -> &Table {
        &self.known[place].table
    }
}
