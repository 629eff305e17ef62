//! Header blocks of HTTP/2 (RFC 7541), of which three fields matter.
//!
//! A decoder for all fields keeps their text. This one keeps of each field of the dynamic table its
//! size and what it means here: 12 bytes, at most one for every 32 that the peers agree on. That is
//! why it is not one of the crates that are there.

mod field;
mod huffman;
mod reader;
mod table;
#[cfg(test)]
mod tests;

pub use self::field::Field;
use self::field::Name;
use self::reader::Reader;
use self::table::Table;

/// A header block that cannot be read: nothing behind it on the connection can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HpackError {
    /// It is not what RFC 7541 says.
    Malformed,
    /// The dynamic table is to be larger than [`MOST_TABLE`].
    TableSize,
}

/// The largest dynamic table, bytes as the peers count them.
pub const MOST_TABLE: u32 = 64 << 10;

/// Decodes the header blocks of one direction of a connection, in their order.
#[derive(Debug, Default)]
pub struct Decoder {
    table: Table,
}

impl Decoder {
    /// Gives every field of a block that matters to `field`.
    ///
    /// # Errors
    ///
    /// See [`HpackError`].
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(Field)) -> Result<(), HpackError> {
        let mut reader = Reader::new(block);
        while let Some(first) = reader.peek() {
            let found = match first {
                0x80.. => self.get(reader.integer(7)?)?,
                0x40..0x80 => {
                    let literal = Literal::read(&mut reader, 6, &self.table)?;
                    self.table.push(literal.field, literal.name, literal.size());
                    literal.field
                }
                0x20..0x40 => {
                    self.table.resize(reader.integer(5)?)?;
                    Field::Other
                }
                _ => Literal::read(&mut reader, 4, &self.table)?.field,
            };
            if found != Field::Other {
                field(found);
            }
        }
        Ok(())
    }

    /// Memory that the dynamic table takes, bytes.
    pub fn held(&self) -> usize {
        self.table.held()
    }

    /// The field of an index.
    fn get(&self, index: u32) -> Result<Field, HpackError> {
        match index {
            0 => Err(HpackError::Malformed),
            1..=STATIC => Ok(field::of_static_table(index)),
            _ => self.table.get(index - STATIC - 1),
        }
    }
}

/// A field whose value is spelled out.
struct Literal {
    field: Field,
    /// Length of the name, bytes.
    name: u32,
    /// Length of the value, bytes.
    value: u32,
}

impl Literal {
    fn read(reader: &mut Reader<'_>, prefix: u32, table: &Table) -> Result<Self, HpackError> {
        let (name, length) = match reader.integer(prefix)? {
            0 => {
                let text = reader.string()?;
                (Name::new(text.as_bytes()), text.length())
            }
            index @ 1..=STATIC => field::name_of_static_table(index),
            index => table.name(index - STATIC - 1)?,
        };
        let value = reader.string()?;
        Ok(Self {
            field: Field::new(name, value.as_bytes())?,
            name: length,
            value: value.length(),
        })
    }

    /// What it counts in a table, bytes.
    fn size(&self) -> u32 {
        OVERHEAD + self.name + self.value
    }
}

/// Fields of the static table.
const STATIC: u32 = 61;
/// What a field counts in a table besides its text, bytes.
const OVERHEAD: u32 = 32;
