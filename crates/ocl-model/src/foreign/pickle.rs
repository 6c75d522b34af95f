//! Python's pickles as inert data.
//!
//! A pickle is a program for a stack machine, and Python runs it: it may import and call anything. This
//! reader builds the values and calls nothing. A call that the file asks for becomes a [`Node::Call`] that
//! says what would have been called, and names that no file of weights needs are refused.

use thiserror::Error;

/// Place of a value in [`Pickle::nodes`]. Values refer to one another by place, so that a value that is
/// used a million times is stored once.
pub(super) type Id = usize;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// `None`, booleans, floats, bytes, sets: what no tensor is made of.
    Other,
    Int(i64),
    Text(String),
    /// Tuples and lists.
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function, `module.name`; never looked up.
    Global(String),
    /// What `function` would have made of `arguments`; never called.
    Call {
        function: Id,
        arguments: Id,
    },
    /// What the pickle says lies outside of it: PyTorch's storages.
    Outside(Id),
}

/// Why a pickle is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PickleError {
    /// The bytes end inside the program.
    #[error("the pickle is truncated")]
    Truncated,
    /// The program does what no well-formed one does.
    #[error("the pickle is malformed at byte {0}")]
    Malformed(usize),
    /// An instruction that PyTorch's files do not have.
    #[error("the pickle has instruction {0:#04x}, which torch.save does not write")]
    Instruction(u8),
    /// A class or function that weights do not need.
    #[error(
        "the pickle wants Python to use `{0}`, which no weights need; refused, and not executed"
    )]
    Refused(String),
}

/// All values of a pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    root: Id,
    /// Bytes that the pickle took.
    pub(super) len: usize,
}

impl Pickle {
    /// Reads the pickle that `bytes` begin with (protocols 2 to 5).
    pub(super) fn read(bytes: &[u8]) -> Result<Self, PickleError> {
        let mut machine =
            Machine { bytes, at: 0, nodes: vec![], stack: vec![], marks: vec![], memo: vec![] };
        let root = machine.run()?;
        Ok(Self { nodes: machine.nodes, root, len: machine.at })
    }

    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match &self.nodes[id] {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn count(&self, id: Id) -> Option<usize> {
        match &self.nodes[id] {
            Node::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match &self.nodes[id] {
            Node::Sequence(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match &self.nodes[id] {
            Node::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// Full name of a class or function.
    pub(super) fn global(&self, id: Id) -> Option<&str> {
        match &self.nodes[id] {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }

    /// What describes the outside value `id`.
    pub(super) fn outside_of(&self, id: Id) -> Option<Id> {
        match self.nodes[id] {
            Node::Outside(description) => Some(description),
            _ => None,
        }
    }

    /// The descriptions of all outside values.
    pub(super) fn outside(&self) -> impl Iterator<Item = Id> {
        (0..self.nodes.len()).filter_map(|id| self.outside_of(id))
    }

    /// Name of the function and arguments of a call.
    pub(super) fn call(&self, id: Id) -> Option<(&str, &[Id])> {
        let Node::Call { function, arguments } = &self.nodes[id] else { return None };
        Some((self.global(*function)?, self.items(*arguments)?))
    }
}

/// Whether files of weights have use for a class or function of this name.
fn harmless(module: &str, name: &str) -> bool {
    let known = |names: &[&str]| names.contains(&name);
    match module {
        "torch" => {
            name.ends_with("Storage")
                || known(&["Size", "device", "dtype", "float16", "float32", "float64", "bfloat16"])
                || known(&["uint8", "int8", "int16", "int32", "int64", "bool"])
        }
        "torch.storage" => name.ends_with("Storage"),
        "torch._utils" => known(&["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"]),
        "torch.nn.parameter" => known(&["Parameter"]),
        "torch.serialization" => known(&["_get_layout"]),
        "collections" => known(&["OrderedDict", "defaultdict", "Counter"]),
        "argparse" => known(&["Namespace"]),
        "pathlib" | "pathlib._local" => name.ends_with("Path"),
        "_codecs" => known(&["encode"]),
        "builtins" | "__builtin__" => known(&[
            "set",
            "frozenset",
            "slice",
            "complex",
            "bytearray",
            "list",
            "dict",
            "tuple",
            "int",
            "float",
            "str",
            "bool",
            "bytes",
        ]),
        "numpy" => known(&["dtype", "ndarray"]),
        "numpy.core.multiarray" | "numpy._core.multiarray" => known(&["scalar", "_reconstruct"]),
        _ => false,
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, PickleError> {
        loop {
            let instruction = self.take(1)?[0];
            match instruction {
                b'.' => return self.pop(),
                0x80 => drop(self.take(1)?), // PROTO
                0x95 => drop(self.take(8)?), // FRAME
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.since_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'N' | 0x88 | 0x89 => self.push(Node::Other),
                b'G' => {
                    self.take(8)?;
                    self.push(Node::Other);
                }
                b'K' | b'M' | b'J' | 0x8a | 0x8b => self.integer(instruction)?,
                b'X' | 0x8c | 0x8d | b'T' | b'U' => self.string(instruction)?,
                b'B' | b'C' | 0x8e | 0x96 => self.raw(instruction)?,
                b')' | b']' => self.push(Node::Sequence(vec![])),
                b't' | b'l' => {
                    let items = self.since_mark()?;
                    self.push(Node::Sequence(items));
                }
                0x85..=0x87 => {
                    let items = self.pop_last(usize::from(instruction - 0x84))?;
                    self.push(Node::Sequence(items));
                }
                b'}' => self.push(Node::Dict(vec![])),
                0x8f => self.push(Node::Other), // EMPTY_SET
                0x91 => {
                    self.since_mark()?;
                    self.push(Node::Other); // FROZENSET
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' | 0x90 => {
                    let items = self.since_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let pair = self.pop_last(2)?;
                    self.insert(&pair)?;
                }
                b'u' => {
                    let pairs = self.since_mark()?;
                    self.insert(&pairs)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let pair = self.pop_last(2)?;
                    let [Node::Text(module), Node::Text(name)] =
                        [&self.nodes[pair[0]], &self.nodes[pair[1]]]
                    else {
                        return Err(self.malformed());
                    };
                    let (module, name) = (module.clone(), name.clone());
                    self.global(&module, &name)?;
                }
                b'R' | 0x81 => {
                    let pair = self.pop_last(2)?;
                    self.call(pair[0], pair[1]);
                }
                0x92 => {
                    let parts = self.pop_last(3)?; // NEWOBJ_EX: class, arguments, named arguments
                    self.call(parts[0], parts[1]);
                }
                // BUILD: an object's attributes, of which tensors have none.
                b'b' => drop(self.pop()?),
                b'Q' => {
                    let what = self.pop()?;
                    self.push(Node::Outside(what));
                }
                b'q' | b'r' | 0x94 => self.put(instruction)?,
                b'h' | b'j' => {
                    let place = self.number(if instruction == b'h' { 1 } else { 4 })?;
                    let id = self.memo.get(place).copied().flatten();
                    self.stack.push(id.ok_or_else(|| self.malformed())?);
                }
                other => return Err(PickleError::Instruction(other)),
            }
        }
    }

    fn malformed(&self) -> PickleError {
        PickleError::Malformed(self.at)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PickleError> {
        let end = self.at.checked_add(len).ok_or(PickleError::Truncated)?;
        let taken = self.bytes.get(self.at..end).ok_or(PickleError::Truncated)?;
        self.at = end;
        Ok(taken)
    }

    /// A little-endian number of `len` bytes, at most 8.
    fn number(&mut self, len: usize) -> Result<usize, PickleError> {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(self.take(len)?);
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| self.malformed())
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or(PickleError::Truncated)?;
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    fn push(&mut self, node: Node) {
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
    }

    /// Height below which the stack belongs to an open mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        Ok(self.pop_last(1)?[0])
    }

    fn pop_last(&mut self, len: usize) -> Result<Vec<Id>, PickleError> {
        let start = self.stack.len().checked_sub(len).filter(|&start| start >= self.floor());
        let start = start.ok_or_else(|| self.malformed())?;
        Ok(self.stack.split_off(start))
    }

    fn top(&self) -> Result<Id, PickleError> {
        let above = self.stack.len() > self.floor();
        self.stack.last().copied().filter(|_| above).ok_or_else(|| self.malformed())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.malformed())?;
        Ok(self.stack.split_off(mark))
    }

    fn integer(&mut self, instruction: u8) -> Result<(), PickleError> {
        let value = match instruction {
            b'K' => self.number(1)? as i64,
            b'M' => self.number(2)? as i64,
            b'J' => i64::from(self.number(4)? as u32 as i32),
            _ => {
                let len = self.number(if instruction == 0x8a { 1 } else { 4 })?;
                let bytes = self.take(len)?;
                if len > 8 {
                    // Larger than any length or place.
                    self.push(Node::Other);
                    return Ok(());
                }
                let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..len].copy_from_slice(bytes);
                i64::from_le_bytes(wide)
            }
        };
        self.push(Node::Int(value));
        Ok(())
    }

    fn string(&mut self, instruction: u8) -> Result<(), PickleError> {
        let len = self.number(match instruction {
            0x8c | b'U' => 1,
            0x8d => 8,
            _ => 4,
        })?;
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.push(Node::Text(text));
        Ok(())
    }

    fn raw(&mut self, instruction: u8) -> Result<(), PickleError> {
        let len = self.number(match instruction {
            b'C' => 1,
            b'B' => 4,
            _ => 8,
        })?;
        self.take(len)?;
        self.push(Node::Other);
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Result<(), PickleError> {
        let onto = self.top()?;
        if let Node::Sequence(list) = &mut self.nodes[onto] {
            list.extend_from_slice(items);
        }
        Ok(())
    }

    fn insert(&mut self, pairs: &[Id]) -> Result<(), PickleError> {
        let onto = self.top()?;
        if !pairs.len().is_multiple_of(2) {
            return Err(self.malformed());
        }
        if let Node::Dict(entries) = &mut self.nodes[onto] {
            entries.extend(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), PickleError> {
        let full = format!("{module}.{name}");
        if !harmless(module, name) {
            return Err(PickleError::Refused(full));
        }
        self.push(Node::Global(full));
        Ok(())
    }

    fn call(&mut self, function: Id, arguments: Id) {
        let dict = matches!(&self.nodes[function], Node::Global(name)
            if matches!(name.as_str(), "collections.OrderedDict" | "collections.defaultdict"));
        // Their items follow, as those of a plain dictionary do.
        self.push(if dict { Node::Dict(vec![]) } else { Node::Call { function, arguments } });
    }

    fn put(&mut self, instruction: u8) -> Result<(), PickleError> {
        let place = match instruction {
            b'q' => self.number(1)?,
            b'r' => self.number(4)?,
            _ => self.memo.len(),
        };
        // Python numbers the places in order, so there are never more than instructions.
        if place > self.bytes.len() {
            return Err(self.malformed());
        }
        let top = self.top()?;
        if self.memo.len() <= place {
            self.memo.resize(place + 1, None);
        }
        self.memo[place] = Some(top);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_are_read() {
        // pickle.dumps({"a": (1, -2, 70000), "b": [True, 1.5]}, protocol=2)
        let bytes =
            b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01J\xfe\xff\xff\xffJp\x11\x01\x00\x87q\x02\
            X\x01\x00\x00\x00bq\x03]q\x04(\x88G?\xf8\x00\x00\x00\x00\x00\x00eu.";
        let pickle = Pickle::read(bytes).unwrap();
        assert_eq!(pickle.len, bytes.len());
        let entries = pickle.entries(pickle.root()).unwrap();
        assert_eq!(pickle.text(entries[0].0), Some("a"));
        let numbers = pickle.items(entries[0].1).unwrap();
        assert_eq!(pickle.count(numbers[2]), Some(70000));
        assert_eq!(pickle.count(numbers[1]), None, "negative");
        assert_eq!(pickle.items(entries[1].1).unwrap().len(), 2);
    }

    #[test]
    fn what_would_run_a_program_is_refused_by_name() {
        let bytes = b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.";
        assert_eq!(Pickle::read(bytes).unwrap_err(), PickleError::Refused("posix.system".into()));
        let bytes = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.";
        assert_eq!(Pickle::read(bytes).unwrap_err(), PickleError::Refused("builtins.eval".into()));
    }

    #[test]
    fn bad_programs_are_errors() {
        let cases: [(&[u8], PickleError); 7] = [
            (b"", PickleError::Truncated),
            (b"\x80\x02X\xff\xff\xff\xffabc", PickleError::Truncated),
            (b"\x80\x02.", PickleError::Malformed(3)),
            (b"h\x07.", PickleError::Malformed(2)),
            (b"(K\x01(0.", PickleError::Malformed(5)),
            (b"}(K\x01u.", PickleError::Malformed(5)),
            (b"I12\n.", PickleError::Instruction(b'I')),
        ];
        for (bytes, error) in cases {
            assert_eq!(Pickle::read(bytes).unwrap_err(), error, "{bytes:?}");
        }
        // A memo of 4 thousand million places.
        assert!(Pickle::read(b"Nr\xff\xff\xff\xff.").is_err());
    }
}
