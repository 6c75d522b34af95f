//! What a pickle holds: values as they are, calls as a record of what would have been called.

use thiserror::Error;

/// Place of a value in [`Pickle::nodes`](super::pickle::Pickle::nodes). Values refer to one another
/// by place, so that a value that is used a million times is stored once.
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
    /// What `function` would have made of `arguments`; never called. Objects of classes that no
    /// weights need are kept so too, and nobody looks at them.
    Call {
        function: Id,
        arguments: Id,
        /// What the object is then filled with.
        attributes: Option<Id>,
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
    /// A function that runs programs.
    #[error(
        "the pickle wants Python to use `{0}`, which runs programs and no weights need: do not trust \
         this file; refused, and not executed"
    )]
    Refused(String),
}
