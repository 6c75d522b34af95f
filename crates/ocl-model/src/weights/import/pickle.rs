//! Python's pickles as inert data.
//!
//! A pickle is a program for a stack machine, and Python runs it: it may import and call anything.
//! This reader builds the values and calls nothing. A call that the file asks for becomes a
//! [`Node::Call`] that says what would have been called; what is no tensor stays as it is. Files
//! that ask for a program to be run are refused, since other readers would run it.

use super::node::{Id, Node, PickleError};
use super::pickle_machine::Machine;

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
        let (nodes, root, len) = Machine::run(bytes)?;
        Ok(Self { nodes, root, len })
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

    /// The attributes that an object was given.
    pub(super) fn attributes(&self, id: Id) -> Option<Id> {
        match self.nodes[id] {
            Node::Call { attributes, .. } => attributes,
            _ => None,
        }
    }

    /// Number of values.
    pub(super) fn values(&self) -> usize {
        self.nodes.len()
    }

    /// Name of the function and arguments of a call.
    pub(super) fn call(&self, id: Id) -> Option<(&str, &[Id])> {
        let Node::Call { function, arguments, .. } = &self.nodes[id] else { return None };
        Some((self.global(*function)?, self.items(*arguments)?))
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
    fn objects_of_unknown_classes_are_kept_and_not_made() {
        // A datetime, a version, a subclass of dict with an item, an object with attributes.
        let bytes =
            b"\x80\x02(cdatetime\ndatetime\nC\x02ab\x85Rctorch.torch_version\nTorchVersion\n\
            X\x01\x00\x00\x002\x85\x81ceasydict\nEasyDict\n)\x81}bX\x01\x00\x00\x00aK\x01s\
            cargparse\nNamespace\n)\x81}X\x02\x00\x00\x00lrK\x02sbt.";
        let pickle = Pickle::read(bytes).unwrap();
        let values = pickle.items(pickle.root()).unwrap();
        assert_eq!(values.len(), 4);
        assert_eq!(pickle.call(values[0]).unwrap().0, "datetime.datetime");
        assert_eq!(pickle.call(values[1]).unwrap().0, "torch.torch_version.TorchVersion");
        assert_eq!(pickle.text(pickle.entries(values[2]).unwrap()[0].0), Some("a"));
        let attributes = pickle.attributes(values[3]).unwrap();
        assert_eq!(pickle.text(pickle.entries(attributes).unwrap()[0].0), Some("lr"));
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
