//! The instructions of pickles.

use super::deny_list::runs_programs;
use super::node::{Id, Node, PickleError};

/// A stack machine for the instructions of protocols 2 to 5 that `torch.save` writes.
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

impl<'a> Machine<'a> {
    /// All values of the pickle that `bytes` begin with, the place of the whole, and the pickle's
    /// length.
    pub(super) fn run(bytes: &'a [u8]) -> Result<(Vec<Node>, Id, usize), PickleError> {
        let mut machine =
            Self { bytes, at: 0, nodes: vec![], stack: vec![], marks: vec![], memo: vec![] };
        let root = machine.root()?;
        Ok((machine.nodes, root, machine.at))
    }

    fn root(&mut self) -> Result<Id, PickleError> {
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
                b'b' => {
                    let attributes = self.pop()?;
                    self.build(attributes)?;
                }
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
        // An object of an unknown class that is given items is a dictionary to us.
        if matches!(self.nodes[onto], Node::Call { .. }) {
            self.nodes[onto] = Node::Dict(vec![]);
        }
        if let Node::Dict(entries) = &mut self.nodes[onto] {
            entries.extend(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
        Ok(())
    }

    /// Gives an object its attributes. Those of dictionaries (`_metadata`) say nothing of tensors.
    fn build(&mut self, given: Id) -> Result<(), PickleError> {
        let object = self.top()?;
        if let Node::Call { attributes, .. } = &mut self.nodes[object] {
            *attributes = Some(given);
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), PickleError> {
        let full = format!("{module}.{name}");
        if runs_programs(module, name) {
            return Err(PickleError::Refused(full));
        }
        self.push(Node::Global(full));
        Ok(())
    }

    fn call(&mut self, function: Id, arguments: Id) {
        let dict = matches!(&self.nodes[function], Node::Global(name)
            if matches!(name.as_str(), "collections.OrderedDict" | "collections.defaultdict"));
        // Their items follow, as those of a plain dictionary do.
        let call = Node::Call { function, arguments, attributes: None };
        self.push(if dict { Node::Dict(vec![]) } else { call });
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
